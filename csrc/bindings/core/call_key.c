/* call_key.c: see call_key.h. */
#include "bindings/core/call_key.h"

PyObject *
pfo_signature_name(const pfo_signature *self)
{
    PyObject *name = PyObject_GetAttrString(self->function, "__qualname__");
    if (name == NULL || !PyUnicode_Check(name)) { /* a callable may answer with anything */
        PyErr_Clear();
        Py_XDECREF(name);
        name = PyObject_Str((PyObject *)Py_TYPE(self->function));
    }
    return name;
}

/* The class of a weak reference, borrowed and only good for comparing; NULL when it is gone. */
static PyTypeObject *
living_owner(PyObject *reference)
{
#if PY_VERSION_HEX >= 0x030D0000
    PyObject *owner;
    if (PyWeakref_GetRef(reference, &owner) <= 0) {
        return NULL;
    }
    Py_DECREF(owner);
#else
    PyObject *owner = PyWeakref_GetObject(reference);
#endif
    return PyType_Check(owner) ? (PyTypeObject *)owner : NULL;
}

/* Whether this first argument is the one that a method is called on. A function that is also an attribute of some class goes on
 * taking other first arguments, and those count as any argument does. */
static int
is_receiver(const pfo_signature *self, PyObject *first)
{
    if (!self->is_method || self->owners == NULL) {
        return self->is_method;
    }
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(self->owners); i++) {
        PyTypeObject *owner = living_owner(PyList_GET_ITEM(self->owners, i));
        if (owner != NULL && PyType_IsSubtype(Py_TYPE(first), owner)) {
            return 1;
        }
    }
    return 0;
}

/* Whether this first argument counts by identity. */
static int
is_instance(const pfo_signature *self, PyObject *first)
{
    return !self->by_content && is_receiver(self, first);
}

/* TypeError for an argument that cannot be keyed. parameter: its name, or NULL and its position. */
static void
raise_cannot_key(const pfo_signature *self, const pfo_key_builder *builder, PyObject *parameter, Py_ssize_t position,
                 int instance)
{
    PyObject *name = pfo_signature_name(self);
    PyObject *which =
        parameter != NULL ? PyUnicode_FromFormat("%R", parameter) : PyUnicode_FromFormat("%zd", position + 1);
    if (name != NULL && which != NULL) {
        const char *type = builder->culprit->tp_name;
        if (instance) {
            PyErr_Format(PyExc_TypeError,
                         "%U(): the instance of type %.200s cannot be weakly referenced; add '__weakref__' to its "
                         "__slots__",
                         name, type);
        } else {
            PyErr_Format(PyExc_TypeError,
                         "%U(): argument %U cannot be part of a cache key: a %.200s object is neither hashable nor of "
                         "a type whose "
                         "content can be read; pass key= (a function of the arguments) or ignore= (parameter names) to "
                         "cache_result",
                         name, which, type);
        }
    }
    Py_XDECREF(name);
    Py_XDECREF(which);
}

/* Index of a parameter name from first on; -1 if there is none, -2 on error. */
static Py_ssize_t
index_of_name(PyObject *names, PyObject *name, Py_ssize_t first)
{
    const Py_ssize_t count = PyTuple_GET_SIZE(names);
    for (Py_ssize_t i = first; i < count; i++) {
        if (PyTuple_GET_ITEM(names, i) == name) {
            return i;
        }
    }
    for (Py_ssize_t i = first; i < count; i++) { /* a name that was not interned */
        const int same = PyUnicode_Compare(PyTuple_GET_ITEM(names, i), name);
        if (same == 0 || PyErr_Occurred()) {
            return same == 0 ? i : -2;
        }
    }
    return -1;
}

/* Arguments by parameter. 1 if they do not fit the parameters: then the function itself raises the TypeError. */
static int
bind_by_name(const pfo_signature *self, const pfo_call *call, PyObject **slots, Py_ssize_t *used)
{
    const Py_ssize_t nargs = PyVectorcall_NARGS(call->nargsf);
    const Py_ssize_t nkeywords = call->kwnames == NULL ? 0 : PyTuple_GET_SIZE(call->kwnames);
    if (nargs > self->positional) {
        return 1;
    }
    *used = nargs;
    for (Py_ssize_t i = 0; i < nargs; i++) {
        slots[i] = call->args[i];
    }
    if (nkeywords == 0) {
        return 0;
    }
    const Py_ssize_t count = PyTuple_GET_SIZE(self->names);
    for (Py_ssize_t i = nargs; i < count; i++) {
        slots[i] = NULL;
    }
    for (Py_ssize_t i = 0; i < nkeywords; i++) {
        const Py_ssize_t at = index_of_name(self->names, PyTuple_GET_ITEM(call->kwnames, i), self->positional_only);
        if (at < 0 || (at < nargs) || slots[at] != NULL) {
            return at == -2 ? -1 : 1;
        }
        slots[at] = call->args[nargs + i];
        *used = at >= *used ? at + 1 : *used;
    }
    return 0;
}

static int
add_argument(const pfo_signature *self, pfo_key_builder *builder, PyObject *object, PyObject *name, Py_ssize_t position)
{
    const int instance = position == 0 && is_instance(self, object);
    const int answer = instance ? pfo_key_add_instance(builder, object) : pfo_key_add(builder, object);
    if (answer > 0) {
        raise_cannot_key(self, builder, name, position, instance);
        return -1;
    }
    return answer;
}

static int
key_by_name(const pfo_signature *self, pfo_key_builder *builder, const pfo_call *call)
{
    PyObject *slots[PFO_MAX_BOUND_NAMES];
    Py_ssize_t used = 0;
    const int bound = bind_by_name(self, call, slots, &used);
    if (bound != 0) {
        return bound;
    }
    uint64_t gap = 0; /* parameters left out since the last one that counts; those at the end leave no trace */
    for (Py_ssize_t i = 0; i < used; i++) {
        if (slots[i] == NULL || (self->ignored_slots >> i & 1) != 0) {
            gap++;
            continue;
        }
        if ((gap > 0 && pfo_key_add_mark(builder, '-', gap) < 0) ||
            add_argument(self, builder, slots[i], PyTuple_GET_ITEM(self->names, i), i) < 0) {
            return -1;
        }
        gap = 0;
    }
    return 0;
}

/* Keywords in the order of their names, so that the order they are written in does not matter. */
static int
add_keywords(const pfo_signature *self, pfo_key_builder *builder, const pfo_call *call, Py_ssize_t nargs)
{
    PyObject *sorted = PySequence_List(call->kwnames);
    if (sorted == NULL || PyList_Sort(sorted) < 0) {
        Py_XDECREF(sorted);
        return -1;
    }
    int answer = 0;
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(sorted) && answer == 0; i++) {
        PyObject *name = PyList_GET_ITEM(sorted, i);
        const int skipped = self->ignored == NULL ? 0 : PySet_Contains(self->ignored, name);
        if (skipped != 0) {
            answer = skipped < 0 ? -1 : 0;
            continue;
        }
        const Py_ssize_t at = index_of_name(call->kwnames, name, 0);
        answer = pfo_key_add_mark(builder, '=', 0);
        answer = answer == 0 ? pfo_key_add(builder, name) : answer;
        answer = answer == 0 ? add_argument(self, builder, call->args[nargs + at], name, nargs + at) : answer;
    }
    Py_DECREF(sorted);
    return answer;
}

static int
key_by_position(const pfo_signature *self, pfo_key_builder *builder, const pfo_call *call)
{
    const Py_ssize_t nargs = PyVectorcall_NARGS(call->nargsf);
    for (Py_ssize_t i = 0; i < nargs; i++) {
        if (add_argument(self, builder, call->args[i], NULL, i) < 0) {
            return -1;
        }
    }
    if (call->kwnames == NULL || PyTuple_GET_SIZE(call->kwnames) == 0) {
        return 0;
    }
    return add_keywords(self, builder, call, nargs);
}

static int
key_by_function(const pfo_signature *self, pfo_key_builder *builder, const pfo_call *call)
{
    pfo_call rest = *call;
    if (PyVectorcall_NARGS(call->nargsf) > 0 &&
        is_receiver(self, call->args[0])) { /* the function gets what the user wrote; the instance counts by itself */
        if (add_argument(self, builder, call->args[0], NULL, 0) < 0) {
            return -1;
        }
        rest.args = call->args + 1;
        rest.nargsf = (size_t)PyVectorcall_NARGS(call->nargsf) - 1;
    }
    PyObject *key =
        PyObject_Vectorcall(self->key_function, rest.args, rest.nargsf & ~PY_VECTORCALL_ARGUMENTS_OFFSET, rest.kwnames);
    if (key == NULL) {
        return -1;
    }
    const int answer = pfo_key_add(builder, key);
    if (answer > 0) {
        PyErr_Format(PyExc_TypeError, "key= returned a %.200s object, which cannot be part of a cache key",
                     builder->culprit->tp_name);
    }
    Py_DECREF(key);
    return answer == 0 ? 0 : -1;
}

int
pfo_call_key_build(const pfo_signature *self, pfo_key_builder *builder, const pfo_call *call)
{
    if (self->is_method && self->owners == NULL && PyVectorcall_NARGS(call->nargsf) == 0) {
        return 1;
    }
    int answer;
    if (self->key_function != NULL) {
        answer = key_by_function(self, builder, call);
    } else if (self->names != NULL) {
        answer = key_by_name(self, builder, call);
    } else {
        answer = key_by_position(self, builder, call);
    }
    if (answer == 0) {
        pfo_key_finish(builder);
    }
    return answer;
}

int
pfo_signature_set_names(pfo_signature *self, PyObject *names, PyObject *ignored)
{
    if (names != Py_None && PyTuple_GET_SIZE(names) <= PFO_MAX_BOUND_NAMES) {
        self->names = Py_NewRef(names);
    }
    if (ignored == Py_None) {
        return 0;
    }
    self->ignored = PyFrozenSet_New(ignored);
    if (self->ignored == NULL) {
        return -1;
    }
    for (Py_ssize_t i = 0; self->names != NULL && i < PyTuple_GET_SIZE(self->names); i++) {
        const int found = PySet_Contains(self->ignored, PyTuple_GET_ITEM(self->names, i));
        if (found < 0) {
            return -1;
        }
        self->ignored_slots |= (uint64_t)found << i;
    }
    return 0;
}

int
pfo_signature_add_owner(pfo_signature *self, PyObject *owner)
{
    PyObject *reference = PyWeakref_NewRef(owner, NULL);
    PyObject *owners = reference == NULL ? NULL : PyList_New(0);
    int failed = owners == NULL || PyList_Append(owners, reference) < 0;
    for (Py_ssize_t i = 0; !failed && self->owners != NULL && i < PyList_GET_SIZE(self->owners); i++) {
        PyObject *other = PyList_GET_ITEM(self->owners, i);
        if (other != reference && living_owner(other) != NULL) {
            failed = PyList_Append(owners, other) < 0;
        }
    }
    Py_XDECREF(reference);
    if (failed) {
        Py_XDECREF(owners);
        return -1;
    }
    Py_XSETREF(self->owners, owners);
    return 0;
}

/* The type in this object that has no content, a new reference; NULL when it has content, or with an exception. */
static PyTypeObject *
contentless(pfo_core_state *state, PyObject *object)
{
    pfo_key_builder builder;
    pfo_digest unused;
    PyTypeObject *culprit = NULL;
    pfo_key_start(&builder, state, 1);
    if (pfo_key_add(&builder, object) == 0) {
        pfo_key_finish(&builder);
        if (pfo_key_persistent(&builder, NULL, &unused) > 0) {
            culprit = (PyTypeObject *)Py_NewRef(builder.culprit);
        }
    }
    pfo_key_drop(&builder);
    return culprit;
}

void
pfo_call_raise_not_persistent(const pfo_signature *self, pfo_core_state *state, const pfo_call *call)
{
    const Py_ssize_t nargs = PyVectorcall_NARGS(call->nargsf);
    const Py_ssize_t nkeywords = call->kwnames == NULL ? 0 : PyTuple_GET_SIZE(call->kwnames);
    PyTypeObject *culprit = NULL;
    PyObject *name = pfo_signature_name(self);
    PyObject *which = NULL;
    for (Py_ssize_t i = 0; self->key_function == NULL && culprit == NULL && i < nargs + nkeywords; i++) {
        culprit = contentless(state, call->args[i]);
        if (culprit == NULL) {
            continue;
        }
        if (i >= nargs) {
            which = PyUnicode_FromFormat("argument %R", PyTuple_GET_ITEM(call->kwnames, i - nargs));
        } else if (self->names != NULL && i < PyTuple_GET_SIZE(self->names)) {
            which = PyUnicode_FromFormat("argument %R", PyTuple_GET_ITEM(self->names, i));
        } else {
            which = PyUnicode_FromFormat("argument %zd", i + 1);
        }
    }
    if (culprit == NULL && !PyErr_Occurred()) {
        which = PyUnicode_FromString("what key= returned");
    }
    if (which != NULL && name != NULL) {
        PyErr_Format(
            PyExc_TypeError,
            "%U(): %U cannot be part of a persistent key: %s%.200s has no content that another process could "
            "find again; pass key= (a function of the arguments) or ignore= (parameter names) to cache_result, "
            "or persist=False",
            name, which, culprit == NULL ? "it" : "an object of type ", culprit == NULL ? "" : culprit->tp_name);
    }
    Py_XDECREF(which);
    Py_XDECREF(name);
    Py_XDECREF(culprit);
}

int
pfo_signature_visit(const pfo_signature *self, visitproc visit, void *arg)
{
    Py_VISIT(self->key_function);
    Py_VISIT(self->names);
    Py_VISIT(self->ignored);
    Py_VISIT(self->owners);
    return 0;
}

void
pfo_signature_clear(pfo_signature *self)
{
    Py_CLEAR(self->key_function);
    Py_CLEAR(self->names);
    Py_CLEAR(self->ignored);
    Py_CLEAR(self->owners);
}
