/* key.c: keys while they are built from objects, part by part, and the same key outside this process. See key.h; key_kept.c has those that
 * are kept.
 */
#include "bindings/core/key_parts.h"

#include "base/clock.h"

#include "bindings/common/errors.h"

#include <string.h>

void
pfo_key_drop(pfo_key_builder *builder)
{
    const Py_ssize_t count = builder->count;
    builder->count = 0;
    for (Py_ssize_t i = 0; i < count; i++) {
        Py_XDECREF(builder->parts[i].object);
    }
    if (builder->parts != builder->inline_parts) {
        PyMem_Free(builder->parts);
        builder->parts = builder->inline_parts;
        builder->capacity = PFO_KEY_INLINE_PARTS;
    }
    Py_CLEAR(builder->culprit);
}

static int
grow(pfo_key_builder *builder)
{
    const Py_ssize_t capacity = builder->capacity * 2;
    const int was_inline = builder->parts == builder->inline_parts;
    pfo_key_part *parts = PyMem_Realloc(was_inline ? NULL : builder->parts, (size_t)capacity * sizeof *parts);
    if (parts == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    if (was_inline) {
        memcpy(parts, builder->inline_parts, sizeof builder->inline_parts);
    }
    builder->parts = parts;
    builder->capacity = capacity;
    return 0;
}

static inline int
add_part(pfo_key_builder *builder, pfo_part_kind kind, uint32_t detail, uint64_t low, uint64_t high, PyObject *object)
{
    if (builder->count == builder->capacity && grow(builder) < 0) {
        return -1;
    }
    builder->parts[builder->count++] = (pfo_key_part){
        .kind = (uint32_t)kind, .detail = detail, .low = low, .high = high, .object = Py_XNewRef(object)
    };
    return 0;
}

int
pfo_key_add_part(pfo_key_builder *builder, pfo_part_kind kind, uint32_t detail, uint64_t low, uint64_t high,
                 PyObject *object)
{
    return add_part(builder, kind, detail, low, high, object);
}

int
pfo_key_add_mark(pfo_key_builder *builder, char detail, uint64_t count)
{
    return add_part(builder, PFO_PART_MARK, (uint32_t)(unsigned char)detail, 0, count, NULL);
}

int
pfo_key_add_owner(pfo_key_builder *builder, PyObject *owner)
{
    return add_part(builder, PFO_PART_SAME, PFO_SAME_OWNER, (uint64_t)(uintptr_t)owner >> 4, 0, owner);
}

static int
cannot_key(pfo_key_builder *builder, PyTypeObject *type)
{
    Py_XSETREF(builder->culprit, (PyTypeObject *)Py_NewRef(type));
    return 1;
}

static int
add_identity(pfo_key_builder *builder, PyObject *object)
{
    return add_part(builder, PFO_PART_INSTANCE, 0, (uint64_t)(uintptr_t)object >> 4, 0, object);
}

int
pfo_key_add_instance(pfo_key_builder *builder, PyObject *object)
{
    return PyType_SUPPORTS_WEAKREFS(Py_TYPE(object)) ? add_identity(builder, object)
                                                     : cannot_key(builder, Py_TYPE(object));
}

static int
add_bits(pfo_key_builder *builder, char detail, double first, double second)
{
    uint64_t bits[2];
    memcpy(&bits[0], &first, sizeof first);
    memcpy(&bits[1], &second, sizeof second);
    return add_part(builder, PFO_PART_BITS, (uint32_t)detail, bits[0], bits[1], NULL);
}

static int add(pfo_key_builder *builder, PyObject *object, int depth);

static int
add_all(pfo_key_builder *builder, char mark, PyObject *items, Py_ssize_t first, int depth)
{
    const Py_ssize_t size = PyTuple_GET_SIZE(items);
    int answer = pfo_key_add_mark(builder, mark, (uint64_t)(size - first));
    for (Py_ssize_t i = first; i < size && answer == 0; i++) {
        answer = add(builder, PyTuple_GET_ITEM(items, i), depth + 1);
    }
    return answer;
}

/* A container with a member that has no content of its own, only an equality: its members become parts one by one. Sets and dict
 * keys have no order to put such members in, so they are refused; dict values are put in the order of their keys' digests. */
typedef struct sorted_item {
    pfo_digest digest;
    PyObject *value; /* borrowed from the snapshot */
} sorted_item;

static int
compare_items(const void *left, const void *right)
{
    return memcmp(left, right, sizeof(pfo_digest));
}

static int
add_digest(pfo_key_builder *builder, const pfo_digest *digest)
{
    uint64_t halves[2];
    memcpy(halves, digest->bytes, sizeof halves);
    return add_part(builder, PFO_PART_DIGEST, 0, halves[0], halves[1], NULL);
}

static int
add_sorted_dict(pfo_key_builder *builder, pfo_content *content, PyObject *items, int depth)
{
    const Py_ssize_t size = PyList_GET_SIZE(items);
    sorted_item *sorted = PyMem_Malloc((size_t)(size > 0 ? size : 1) * sizeof *sorted);
    if (sorted == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    int answer = 0;
    for (Py_ssize_t i = 0; i < size && answer == 0; i++) {
        PyObject *pair = PyList_GET_ITEM(items, i);
        sorted[i].value = PyTuple_GET_ITEM(pair, 1);
        answer = pfo_content_digest(content, PyTuple_GET_ITEM(pair, 0), depth + 1, &sorted[i].digest);
    }
    if (answer == 0) {
        qsort(sorted, (size_t)size, sizeof *sorted, compare_items);
        answer = pfo_key_add_mark(builder, '{', (uint64_t)size);
    }
    for (Py_ssize_t i = 0; i < size && answer == 0; i++) {
        answer = add_digest(builder, &sorted[i].digest);
        answer = answer == 0 ? add(builder, sorted[i].value, depth + 1) : answer;
    }
    PyMem_Free(sorted);
    return answer;
}

static int
add_members(pfo_key_builder *builder, pfo_content *content, PyObject *object, int depth)
{
    if (pfo_content_check_depth(depth) < 0) {
        return -1;
    }
    if (PyTuple_CheckExact(object)) {
        return add_all(builder, '(', object, 0, depth);
    }
    if (PyList_CheckExact(object)) {
        PyObject *snapshot = PyList_AsTuple(object);
        const int answer = snapshot == NULL ? -1 : add_all(builder, '[', snapshot, 0, depth);
        Py_XDECREF(snapshot);
        return answer;
    }
    if (PyDict_CheckExact(object)) {
        PyObject *items = PyDict_Items(object);
        const int answer = items == NULL ? -1 : add_sorted_dict(builder, content, items, depth);
        Py_XDECREF(items);
        return answer;
    }
    if (PyAnySet_CheckExact(object)) {
        return 1;
    }
    PyObject *reduction;
    int answer = pfo_content_reduce(content, object, &reduction);
    if (answer == 0) {
        answer = add_all(builder, 'R', reduction, 1, depth);
        Py_DECREF(reduction);
    }
    return answer;
}

/* Classes that gave the content its meaning belong to an in-process key: two classes of one name are not one class. */
static int
add_types(pfo_key_builder *builder, PyObject *types)
{
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(types); i++) {
        if (add_part(builder, PFO_PART_SAME, PFO_SAME_CLASS, 0, 0, PyList_GET_ITEM(types, i)) < 0) {
            return -1;
        }
    }
    return 0;
}

static int
add_content(pfo_key_builder *builder, PyObject *object, int depth)
{
    pfo_content content = { .state = builder->state, .types = PyList_New(0) };
    pfo_digest digest;
    const int64_t begun = pfo_ticks();
    int answer = content.types == NULL ? -1 : pfo_content_digest(&content, object, depth, &digest);
    builder->content_ticks += pfo_ticks() - begun;
    if (answer == 0) {
        answer = add_digest(builder, &digest);
    } else if (answer > 0) {
        Py_SETREF(content.types, PyList_New(0));
        answer = content.types == NULL ? -1 : add_members(builder, &content, object, depth);
        if (answer > 0 && builder->culprit == NULL) {
            (void)cannot_key(builder, content.culprit);
        }
    }
    if (answer == 0) {
        answer = add_types(builder, content.types);
    }
    pfo_content_clear(&content);
    return answer;
}

static int
add_hashable(pfo_key_builder *builder, PyObject *object, int depth)
{
    PyTypeObject *type = Py_TYPE(object);
    if (builder->holds_weakly && type->tp_hash == PyBaseObject_Type.tp_hash &&
        type->tp_richcompare == PyBaseObject_Type.tp_richcompare && PyType_SUPPORTS_WEAKREFS(type)) {
        return add_identity(builder, object); /* [instances] */
    }
    const Py_hash_t hash = PyObject_Hash(object);
    if (hash == -1) {
        if (!PyErr_ExceptionMatches(PyExc_TypeError)) {
            return -1;
        }
        PyErr_Clear(); /* unhashable, or hashable in name only */
        return add_content(builder, object, depth);
    }
    return add_part(builder, PFO_PART_OBJECT, 0, (uint64_t)hash, 0, object);
}

static int
add(pfo_key_builder *builder, PyObject *object, int depth)
{
    if (PyLong_CheckExact(object)) {
        return add_part(builder, PFO_PART_INT, 0, (uint64_t)PyLong_Type.tp_hash(object), 0, object);
    }
    if (PyUnicode_CheckExact(object)) {
        return add_part(builder, PFO_PART_STR, 0, (uint64_t)PyUnicode_Type.tp_hash(object), 0, object);
    }
    if (object == Py_None || PyBool_Check(object) || object == Py_Ellipsis || object == Py_NotImplemented) {
        return add_part(builder, PFO_PART_SAME, PFO_SAME_SINGLETON, (uint64_t)(uintptr_t)object >> 4, 0, object);
    }
    if (PyFloat_CheckExact(object)) {
        return add_bits(builder, 'f', PyFloat_AS_DOUBLE(object), 0.0);
    }
    if (PyBytes_CheckExact(object)) {
        return add_part(builder, PFO_PART_BYTES, 0, (uint64_t)PyBytes_Type.tp_hash(object), 0, object);
    }
    if (PyComplex_CheckExact(object)) {
        return add_bits(builder, 'c', PyComplex_RealAsDouble(object), PyComplex_ImagAsDouble(object));
    }
    const int by_content = pfo_content_goes_before_hash(builder->state, object);
    if (by_content != 0) {
        return by_content < 0 ? -1 : add_content(builder, object, depth);
    }
    return add_hashable(builder, object, depth);
}

int
pfo_key_add(pfo_key_builder *builder, PyObject *object)
{
    return add(builder, object, 0);
}

void
pfo_key_finish(pfo_key_builder *builder)
{
    if (pfo_key_is_simple(builder)) {
        builder->hash = builder->parts[0].low; /* the object's own hash, as the fast path has it */
        return;
    }
    uint64_t hash = UINT64_C(0x2545F4914F6CDD1D) ^ (uint64_t)builder->count;
    for (Py_ssize_t i = 0; i < builder->count; i++) {
        const pfo_key_part *part = &builder->parts[i];
        hash ^= part->low ^ (part->high << 1) ^ ((uint64_t)part->kind << 56) ^ ((uint64_t)part->detail << 48);
        hash *= UINT64_C(0xD6E8FEB86659FD93);
        hash ^= hash >> 32;
    }
    builder->hash = hash;
}

int
pfo_key_copy(pfo_key_builder *copy, const pfo_key_builder *builder)
{
    pfo_key_start(copy, builder->state, builder->holds_weakly);
    while (copy->capacity < builder->count) {
        if (grow(copy) < 0) {
            pfo_key_drop(copy);
            return -1;
        }
    }
    for (Py_ssize_t i = 0; i < builder->count; i++) {
        copy->parts[i] = builder->parts[i];
        Py_XINCREF(copy->parts[i].object);
    }
    copy->count = builder->count;
    copy->hash = builder->hash;
    return 0;
}

int
pfo_key_keeps_original(pfo_core_state *state, PyObject *object, int depth)
{
    if (depth > PFO_CONTENT_MAX_DEPTH) {
        return 0;
    }
    if (Py_TYPE(object)->tp_hash == PyObject_HashNotImplemented) {
        return 0;
    }
    if (PyTuple_Check(object)) {
        int keeps = 1;
        for (Py_ssize_t i = 0; keeps == 1 && i < PyTuple_GET_SIZE(object); i++) {
            keeps = pfo_key_keeps_original(state, PyTuple_GET_ITEM(object, i), depth + 1);
        }
        return keeps;
    }
    if (PyFrozenSet_Check(object)) {
        PyObject *members = PySequence_Tuple(object);
        const int keeps = members == NULL ? -1 : pfo_key_keeps_original(state, members, depth + 1);
        Py_XDECREF(members);
        return keeps;
    }
    const int by_content = pfo_content_goes_before_hash(state, object);
    return by_content < 0 ? -1 : !by_content;
}

/* ---- the key outside this process ------------------------------------------------------------ */

/* Marks and digests are written under the tag of a bytearray, which no part is: bytearrays come as digests. */
static int
encode_part(pfo_content *content, pfo_encoder *encoder, const pfo_key_part *part)
{
    unsigned char mark[1 + sizeof part->high];
    double numbers[2];
    switch ((pfo_part_kind)part->kind) {
    case PFO_PART_SAME:
        return part->detail == PFO_SAME_SINGLETON ? pfo_content_encode(content, encoder, part->object, 0) : 0;
    case PFO_PART_BITS:
        memcpy(&numbers[0], &part->low, sizeof numbers[0]);
        memcpy(&numbers[1], &part->high, sizeof numbers[1]);
        if (part->detail == 'f') {
            pfo_encode_double(encoder, numbers[0]);
        } else {
            pfo_encode_complex(encoder, numbers[0], numbers[1]);
        }
        return 0;
    case PFO_PART_DIGEST: {
        const uint64_t halves[2] = { part->low, part->high };
        pfo_encode_payload(encoder, 'y', halves, sizeof halves);
        return 0;
    }
    case PFO_PART_MARK:
        mark[0] = (unsigned char)part->detail;
        for (size_t i = 0; i < sizeof part->high; i++) {
            mark[1 + i] = (unsigned char)(part->high >> (8 * i));
        }
        pfo_encode_payload(encoder, 'y', mark, sizeof mark);
        return 0;
    case PFO_PART_INT:
    case PFO_PART_STR:
    case PFO_PART_BYTES:
    case PFO_PART_OBJECT:
    case PFO_PART_INSTANCE:
        break;
    }
    return pfo_content_encode(content, encoder, part->object, 0);
}

int
pfo_key_persistent(pfo_key_builder *builder, const pfo_digest *prefix, pfo_digest *digest)
{
    pfo_content content = { .state = builder->state };
    pfo_encoder encoder;
    pfo_encoder_start(&encoder, NULL);
    if (prefix != NULL) {
        pfo_encode_payload(&encoder, 'b', prefix->bytes, sizeof prefix->bytes);
    }
    int answer = 0;
    for (Py_ssize_t i = 0; i < builder->count && answer == 0; i++) {
        answer = encode_part(&content, &encoder, &builder->parts[i]);
    }
    if (answer != 0) {
        pfo_encoder_drop(&encoder);
        if (answer > 0) {
            (void)cannot_key(builder, content.culprit);
        }
    } else {
        pfo_error err;
        err.code = PFO_OK; /* the whole of it would cost a hit on disk too much */
        err.text[0] = '\0';
        const pfo_status status = pfo_encoder_finish(&encoder, digest);
        if (status != PFO_OK) {
            (void)pfo_raise(status, &err);
            answer = -1;
        }
    }
    pfo_content_clear(&content);
    return answer;
}
