/* content.c: see content.h. Containers, and for every other object whom to ask: in the order of frequency. */
#include "bindings/core/content.h"

#include "bindings/common/errors.h"
#include "bindings/core/content_parts.h"
#include "bindings/core/device_array.h"

#include <stdlib.h>
#include <string.h>

enum { SIGNAL_CHECK_ITEMS = 1 << 16 };

void
pfo_content_clear(pfo_content *content)
{
    Py_CLEAR(content->types);
    Py_CLEAR(content->culprit);
    Py_CLEAR(content->reason);
}

int
pfo_content_none(pfo_content *content, PyObject *object, PyObject *reason)
{
    if (content->culprit == NULL) {
        content->culprit = (PyTypeObject *)Py_NewRef(Py_TYPE(object));
        content->reason = Py_XNewRef(reason);
    }
    return 1;
}

int
pfo_content_check_depth(int depth)
{
    if (depth > PFO_CONTENT_MAX_DEPTH) {
        PyErr_Format(PyExc_RecursionError,
                     "cannot fingerprint an object nested deeper than %d levels (does it contain itself?)",
                     PFO_CONTENT_MAX_DEPTH);
        return -1;
    }
    return PyErr_CheckSignals(); /* a few levels that share their members can be a walk without end */
}

/* ---- containers ------------------------------------------------------------------------------ */

/* items: a tuple nobody else changes. */
static int
encode_sequence(pfo_content *content, pfo_encoder *encoder, char tag, PyObject *items, int depth)
{
    const Py_ssize_t size = PyTuple_GET_SIZE(items);
    pfo_encode_count(encoder, tag, (uint64_t)size);
    for (Py_ssize_t i = 0; i < size; i++) {
        if ((i + 1) % SIGNAL_CHECK_ITEMS == 0 && PyErr_CheckSignals() < 0) {
            return -1;
        }
        const int answer = pfo_content_encode(content, encoder, PyTuple_GET_ITEM(items, i), depth + 1);
        if (answer != 0) {
            return answer;
        }
    }
    return 0;
}

static int
finish_digest(pfo_encoder *encoder, int answer, pfo_digest *digest)
{
    if (answer != 0) {
        pfo_encoder_drop(encoder);
        return answer;
    }
    const pfo_status status = pfo_encoder_finish(encoder, digest);
    if (status != PFO_OK) {
        (void)pfo_raise(status, NULL);
        return -1;
    }
    return 0;
}

/* The stream of one dict item (a pair) or one set element, on its own. */
static int
digest_member(pfo_content *content, PyObject *member, int is_pair, int depth, pfo_digest *digest)
{
    pfo_encoder encoder;
    pfo_encoder_start(&encoder, NULL);
    int answer = 0;
    if (is_pair) {
        answer = pfo_content_encode(content, &encoder, PyTuple_GET_ITEM(member, 0), depth + 1);
        member = PyTuple_GET_ITEM(member, 1);
    }
    if (answer == 0) {
        answer = pfo_content_encode(content, &encoder, member, depth + 1);
    }
    return finish_digest(&encoder, answer, digest);
}

/* The classes that one member brought, as a piece of content->types; to be put in the order of the members' digests. */
typedef struct member_types {
    pfo_digest digest;
    PyObject **types;
    Py_ssize_t count;
} member_types;

static int
compare_member_types(const void *left, const void *right)
{
    const member_types *a = left, *b = right;
    const int order = memcmp(&a->digest, &b->digest, sizeof a->digest);
    if (order != 0 || a->count != b->count) {
        return order != 0 ? order : a->count < b->count ? -1 : 1;
    }
    return a->count == 0 ? 0 : memcmp(a->types, b->types, (size_t)a->count * sizeof *a->types);
}

/* The order of the members is no content, so it must not show in the order of the classes either. marks[i] is the length of the list
 * before member i. */
static int
sort_types(PyObject *types, const pfo_digest *digests, const Py_ssize_t *marks, Py_ssize_t size)
{
    PyObject *added = PyList_GetSlice(types, marks[0], marks[size]);
    member_types *members = added == NULL ? NULL : PyMem_Malloc((size_t)size * sizeof *members);
    if (members == NULL) {
        Py_XDECREF(added);
        PyErr_NoMemory();
        return -1;
    }
    for (Py_ssize_t i = 0; i < size; i++) {
        PyObject **first = &PyList_GET_ITEM(added, marks[i] - marks[0]);
        members[i] = (member_types){ digests[i], first, marks[i + 1] - marks[i] };
    }
    qsort(members, (size_t)size, sizeof *members, compare_member_types);
    Py_ssize_t next = marks[0]; /* the same references in another order */
    for (Py_ssize_t i = 0; i < size; i++) {
        for (Py_ssize_t k = 0; k < members[i].count; k++) {
            PyList_SET_ITEM(types, next++, members[i].types[k]);
        }
    }
    PyMem_Free(members);
    Py_DECREF(added);
    return 0;
}

/* members: a list of our own. */
static int
encode_unordered(pfo_content *content, pfo_encoder *encoder, char tag, PyObject *members, int is_pair, int depth)
{
    const Py_ssize_t size = PyList_GET_SIZE(members);
    pfo_digest *digests = PyMem_Malloc((size_t)(size + 1) * sizeof *digests);
    Py_ssize_t *marks = content->types == NULL ? NULL : PyMem_Malloc((size_t)(size + 1) * sizeof *marks);
    int answer = 0;
    if (digests == NULL || (marks == NULL && content->types != NULL)) {
        PyErr_NoMemory();
        answer = -1;
    }
    for (Py_ssize_t i = 0; i < size && answer == 0; i++) {
        if (marks != NULL) {
            marks[i] = PyList_GET_SIZE(content->types);
        }
        if ((i + 1) % SIGNAL_CHECK_ITEMS == 0 && PyErr_CheckSignals() < 0) {
            answer = -1;
        } else {
            answer = digest_member(content, PyList_GET_ITEM(members, i), is_pair, depth, &digests[i]);
        }
    }
    if (answer == 0 && marks != NULL) {
        marks[size] = PyList_GET_SIZE(content->types);
        answer = size == 0 || marks[size] == marks[0] ? 0 : sort_types(content->types, digests, marks, size);
    }
    if (answer == 0) {
        pfo_encode_count(encoder, tag, (uint64_t)size);
        pfo_encode_unordered(encoder, digests, (size_t)size);
    }
    PyMem_Free(digests);
    PyMem_Free(marks);
    return answer;
}

/* The snapshots are taken because reading a part may run user code or let other threads in. */
static int
encode_container(pfo_content *content, pfo_encoder *encoder, PyObject *object, int depth)
{
    PyObject *snapshot;
    int answer;
    if (PyTuple_CheckExact(object)) {
        return encode_sequence(content, encoder, '(', object, depth);
    }
    if (PyList_CheckExact(object)) {
        snapshot = PyList_AsTuple(object);
        answer = snapshot == NULL ? -1 : encode_sequence(content, encoder, '[', snapshot, depth);
    } else if (PyDict_CheckExact(object)) {
        snapshot = PyDict_Items(object);
        answer = snapshot == NULL ? -1 : encode_unordered(content, encoder, '{', snapshot, 1, depth);
    } else {
        snapshot = PySequence_List(object);
        const char tag = PyFrozenSet_CheckExact(object) ? '>' : '<';
        answer = snapshot == NULL ? -1 : encode_unordered(content, encoder, tag, snapshot, 0, depth);
    }
    Py_XDECREF(snapshot);
    return answer;
}

/* ---- everything else ------------------------------------------------------------------------- */

int
pfo_content_reduce(pfo_content *content, PyObject *object, PyObject **reduction)
{
    pfo_core_state *state = content->state;
    *reduction = NULL;
    if (state->keys_reduce == NULL) {
        PyObject *module = PyImport_ImportModule("perfopt._keys");
        PyObject *function = module == NULL ? NULL : PyObject_GetAttrString(module, "reduce");
        Py_XDECREF(module);
        if (function == NULL) {
            return -1;
        }
        Py_XSETREF(state->keys_reduce, function);
    }
    PyObject *found = PyObject_CallOneArg(state->keys_reduce, object);
    if (found == NULL) {
        return -1;
    }
    if (found == Py_NotImplemented || PyUnicode_CheckExact(found)) {
        const int answer = pfo_content_none(content, object, found == Py_NotImplemented ? NULL : found);
        Py_DECREF(found);
        return answer;
    }
    if (!PyTuple_CheckExact(found) || PyTuple_GET_SIZE(found) < 2) {
        Py_DECREF(found);
        PyErr_SetString(PyExc_SystemError,
                        "perfopt._keys.reduce() must return NotImplemented, str or (class, text, ...)");
        return -1;
    }
    PyObject *type = PyTuple_GET_ITEM(found, 0);
    if (content->types != NULL && type != Py_None && PyList_Append(content->types, type) < 0) {
        Py_DECREF(found);
        return -1;
    }
    *reduction = found;
    return 0;
}

/* A description may hold capsules; anywhere else a capsule is an object like others, without content. */
static int
encode_reduction(pfo_content *content, pfo_encoder *encoder, PyObject *object, PyObject *reduction, int depth)
{
    const Py_ssize_t size = PyTuple_GET_SIZE(reduction);
    int answer = 0;
    pfo_encode_count(encoder, 'R', (uint64_t)(size - 1));
    for (Py_ssize_t i = 1; i < size && answer == 0; i++) {
        PyObject *part = PyTuple_GET_ITEM(reduction, i);
        answer = PyCapsule_CheckExact(part) ? pfo_content_arrow(content, encoder, object, part)
                                            : pfo_content_encode(content, encoder, part, depth + 1);
    }
    return answer;
}

static int
encode_reduced(pfo_content *content, pfo_encoder *encoder, PyObject *object, int depth)
{
    PyObject *reduction;
    int answer = pfo_content_reduce(content, object, &reduction);
    if (answer == 0) {
        answer = encode_reduction(content, encoder, object, reduction, depth);
        Py_DECREF(reduction);
    }
    return answer;
}

/* An exporter of memory. Of a class made in Python its attributes count too: reduce() tells whether it has any. */
static int
encode_buffer(pfo_content *content, pfo_encoder *encoder, PyObject *object, int depth)
{
    int answer = pfo_content_exporter(content, encoder, object, 0);
    if (answer != 1) {
        return answer;
    }
    PyObject *reduction;
    answer = pfo_content_reduce(content, object, &reduction);
    if (answer == 1) {
        Py_CLEAR(content->culprit);
        Py_CLEAR(content->reason);
        answer = pfo_content_exporter(content, encoder, object, 1);
        if (answer == 0 && content->types != NULL) {
            return PyList_Append(content->types, (PyObject *)Py_TYPE(object));
        }
        return answer == 1 ? pfo_content_none(content, object, NULL) : answer;
    }
    if (answer == 0) {
        answer = encode_reduction(content, encoder, object, reduction, depth);
        Py_DECREF(reduction);
    }
    return answer;
}

int
pfo_content_encode(pfo_content *content, pfo_encoder *encoder, PyObject *object, int depth)
{
    const int answer = pfo_content_scalar(encoder, object);
    if (answer != 1) {
        return answer;
    }
    if (pfo_content_check_depth(depth) < 0) {
        return -1;
    }
    if (Py_IS_TYPE(object, content->state->device_array)) {
        pfo_device_array_encode(encoder, object);
        return 0;
    }
    if (PyTuple_CheckExact(object) || PyList_CheckExact(object) || PyDict_CheckExact(object) ||
        PyAnySet_CheckExact(object)) {
        return encode_container(content, encoder, object, depth);
    }
    return PyObject_CheckBuffer(object) ? encode_buffer(content, encoder, object, depth)
                                        : encode_reduced(content, encoder, object, depth);
}

int
pfo_content_digest(pfo_content *content, PyObject *object, int depth, pfo_digest *digest)
{
    pfo_encoder encoder;
    pfo_encoder_start(&encoder, NULL);
    return finish_digest(&encoder, pfo_content_encode(content, &encoder, object, depth), digest);
}
