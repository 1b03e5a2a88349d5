/* cache_options.c: see cache_options.h. No state. */
#include "bindings/core/cache_options.h"

#include <math.h>
#include <string.h>
#include <sys/stat.h>

enum { PICKLE_KEY_BYTES = 16 };

/* 1 with the number; 0 when it is too large for the type; -1 with an exception. */
static int
parse_natural(PyObject *object, const char *name, const char *none_text, uint64_t *number)
{
    if (!PyLong_Check(object) || PyBool_Check(object)) {
        PyErr_Format(PyExc_TypeError, "%s must be an int or None, not %.200s", name, Py_TYPE(object)->tp_name);
        return -1;
    }
    int overflow = 0;
    const long long value = PyLong_AsLongLongAndOverflow(object, &overflow);
    if (overflow < 0 || (overflow == 0 && value < 0)) {
        PyErr_Format(PyExc_ValueError, "%s must be at least 0 (or None %s), not %S", name, none_text, object);
        return -1;
    }
    *number = (uint64_t)value;
    return overflow == 0;
}

int
pfo_parse_bound(PyObject *object, const char *name, uint64_t *bound)
{
    *bound = PFO_STORE_UNBOUNDED;
    if (object == NULL || object == Py_None) {
        return 0;
    }
    const int answer = parse_natural(object, name, "for no bound", bound);
    if (answer == 0) {
        *bound = PFO_STORE_UNBOUNDED;
    }
    return answer < 0 ? -1 : 0;
}

int
pfo_parse_size(PyObject *object, uint64_t otherwise, uint64_t *size)
{
    *size = otherwise;
    if (object == NULL || object == Py_None) {
        return 0;
    }
    const int answer = parse_natural(object, "size", "to have it measured", size);
    if (answer == 0) {
        PyErr_Format(PyExc_OverflowError, "size must be below 2**63 bytes, not %S", object);
    }
    return answer == 1 ? 0 : -1;
}

/* Seconds of a number or a timedelta; -1 with an exception is told by PyErr_Occurred(). */
static double
seconds_of(PyObject *object)
{
    if (PyFloat_Check(object) || (PyLong_Check(object) && !PyBool_Check(object))) {
        const double seconds = PyFloat_AsDouble(object);
        if (seconds == -1.0 && PyErr_Occurred() &&
            PyErr_ExceptionMatches(PyExc_OverflowError)) { /* an int beyond every float */
            PyErr_Clear();
            return (double)INFINITY;
        }
        return seconds;
    }
    PyObject *seconds =
        PyBool_Check(object) ? NULL : PyObject_CallMethod(object, "total_seconds", NULL); /* timedelta and the like */
    if (seconds == NULL || !PyFloat_Check(seconds)) {
        if (!PyErr_Occurred() || PyErr_ExceptionMatches(PyExc_AttributeError)) {
            PyErr_Format(PyExc_TypeError, "ttl must be seconds, a datetime.timedelta or None, not %.200s",
                         Py_TYPE(object)->tp_name);
        }
        Py_XDECREF(seconds);
        return -1.0;
    }
    const double number = PyFloat_AS_DOUBLE(seconds);
    Py_DECREF(seconds);
    return number;
}

int
pfo_parse_ttl(PyObject *object, uint64_t otherwise, uint64_t *ttl_ns)
{
    *ttl_ns = otherwise;
    if (object == NULL || object == Py_None) {
        return 0;
    }
    const double seconds = seconds_of(object);
    if (seconds == -1.0 && PyErr_Occurred()) {
        return -1;
    }
    if (!(seconds > 0.0) || !isfinite(seconds)) {
        PyErr_Format(PyExc_ValueError, "ttl must be a finite number of seconds above 0 (or None), not %R", object);
        return -1;
    }
    const double nanoseconds = seconds * 1e9;
    const double longest = 9e18; /* 285 years, below every sentinel */
    *ttl_ns = nanoseconds >= longest ? (uint64_t)longest : nanoseconds < 1.0 ? 1 : (uint64_t)nanoseconds;
    return 0;
}

int
pfo_parse_choice(PyObject *object, const char *name, const char *const *accepted, const char **chosen)
{
    *chosen = accepted[0];
    if (object == NULL) {
        return 0;
    }
    if (!PyUnicode_Check(object)) {
        PyErr_Format(PyExc_TypeError, "%s must be a str, not %.200s", name, Py_TYPE(object)->tp_name);
        return -1;
    }
    for (const char *const *at = accepted; *at != NULL; at++) {
        if (PyUnicode_CompareWithASCIIString(object, *at) == 0) {
            *chosen = *at;
            return 0;
        }
    }
    PyObject *list = PyUnicode_FromString(accepted[0]);
    for (const char *const *at = accepted + 1; *at != NULL && list != NULL; at++) {
        Py_SETREF(list, PyUnicode_FromFormat("%U, %s", list, *at));
    }
    if (list != NULL) {
        PyErr_Format(PyExc_ValueError, "%s must be one of %U, not %R", name, list, object);
        Py_DECREF(list);
    }
    return -1;
}

int
pfo_parse_policy(PyObject *object, const pfo_policy_ops **policy)
{
    const char *name;
    if (pfo_parse_choice(object, "policy", pfo_policy_names, &name) < 0) {
        return -1;
    }
    *policy = pfo_policy_by_name(object == NULL ? "lru" : name);
    return 0;
}

PyObject *
pfo_parse_cache_dir(PyObject *object)
{
    PyObject *path = PyOS_FSPath(object);
    if (path == NULL || !PyUnicode_Check(path)) {
        if (path != NULL || PyErr_ExceptionMatches(PyExc_TypeError)) {
            PyErr_Format(PyExc_TypeError, "cache_dir must be a str, a path or None, not %.200s",
                         Py_TYPE(object)->tp_name);
        }
        Py_XDECREF(path);
        return NULL;
    }
    PyObject *encoded = NULL;
    if (!PyUnicode_FSConverter(path, &encoded)) { /* a zero byte, or what the file system's encoding does not have */
        if (PyErr_ExceptionMatches(PyExc_ValueError)) {
            PyErr_Format(PyExc_ValueError, "cache_dir must be a name that a directory can have, not %R", path);
        }
        Py_DECREF(path);
        return NULL;
    }
    struct stat found;
    const char *text = PyBytes_AS_STRING(encoded);
    const int is_file = text[0] != '\0' && stat(text, &found) == 0 && !S_ISDIR(found.st_mode);
    if (text[0] == '\0') {
        PyErr_SetString(PyExc_ValueError, "cache_dir must not be empty");
        Py_CLEAR(path);
    } else if (is_file) {
        PyErr_Format(PyExc_ValueError, "cache_dir %R exists and is not a directory", path);
        Py_CLEAR(path);
    }
    Py_DECREF(encoded);
    return path;
}

int
pfo_parse_allow_pickle(PyObject *object, PyObject **key)
{
    *key = NULL;
    if (object == NULL || object == Py_None || object == Py_False) {
        return 0;
    }
    if (object == Py_True) {
        PyErr_SetString(
            PyExc_ValueError,
            "allow_pickle=True is not enough: whoever can write to the directory could run code here; give a "
            "secret key instead (bytes, at least 16), with which every pickle is authenticated");
        return -1;
    }
    if (!PyBytes_Check(object)) {
        PyErr_Format(PyExc_TypeError, "allow_pickle must be a secret key (bytes), False or None, not %.200s",
                     Py_TYPE(object)->tp_name);
        return -1;
    }
    if (PyBytes_GET_SIZE(object) < PICKLE_KEY_BYTES) {
        PyErr_Format(PyExc_ValueError, "allow_pickle must be a key of at least %d bytes, not %zd", PICKLE_KEY_BYTES,
                     PyBytes_GET_SIZE(object));
        return -1;
    }
    *key = object;
    return 0;
}

int
pfo_parse_arguments(const char *function, const char *const *names, Py_ssize_t count, Py_ssize_t positional,
                    Py_ssize_t required, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames, PyObject **found)
{
    if (nargs > positional) {
        PyErr_Format(PyExc_TypeError, "%s() takes at most %zd positional arguments (%zd given)", function, positional,
                     nargs);
        return -1;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        found[i] = i < nargs ? args[i] : NULL;
    }
    for (Py_ssize_t k = 0; kwnames != NULL && k < PyTuple_GET_SIZE(kwnames); k++) {
        PyObject *name = PyTuple_GET_ITEM(kwnames, k);
        Py_ssize_t at = 0;
        while (at < count && PyUnicode_CompareWithASCIIString(name, names[at]) != 0) {
            at++;
        }
        if (at == count || found[at] != NULL) {
            PyErr_Format(PyExc_TypeError,
                         at == count ? "%s() got an unexpected keyword argument %R"
                                     : "%s() got multiple values for argument %R",
                         function, name);
            return -1;
        }
        found[at] = args[nargs + k];
    }
    for (Py_ssize_t i = 0; i < required; i++) {
        if (found[i] == NULL) {
            PyErr_Format(PyExc_TypeError, "%s() missing required argument '%s'", function, names[i]);
            return -1;
        }
    }
    return 0;
}
