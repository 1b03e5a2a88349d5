/* disk_tier.c: see disk_tier.h. Opening and closing, values in and out; disk_tier_entries.c has the rest.
 *
 * Scalars go the short way (disk_scalars.h): reading one is a call of the engine and one allocation. Everything else goes through
 * perfopt._codec, which is imported when it is first needed.
 * Invariants: users counts the calls that are inside with the GIL released; the handle is closed when closed is set and users is 0.
 * Counters of what only this file sees (payloads that do not decode, second looks for a writable map) correct the engine's in get_stats.
 */
#define PY_SSIZE_T_CLEAN
#include "bindings/core/disk_tier_parts.h"

#include "base/alloc.h"
#include "bindings/common/errors.h"
#include "bindings/core/disk_map.h"
#include "bindings/core/disk_scalars.h"

#include <string.h>

/* ---- open and close -------------------------------------------------------------------------- */

PyObject *
pfo_disk_tier_raise(pfo_status status, const pfo_error *err)
{
    if (status == PFO_UNAVAILABLE) {
        PyErr_SetString(PyExc_OSError, err->text[0] != '\0' ? err->text : pfo_status_text(status));
        return NULL;
    }
    return pfo_raise(status, err);
}

static int
parse_durability(const char *name, pfo_durability *durability)
{
    if (strcmp(name, "process") == 0) {
        *durability = PFO_DURABLE_PROCESS;
    } else if (strcmp(name, "power") == 0) {
        *durability = PFO_DURABLE_POWER;
    } else {
        PyErr_Format(PyExc_ValueError, "durability must be 'process' or 'power', not '%.100s'", name);
        return -1;
    }
    return 0;
}

static int
parse_compression(const char *name, pfo_compression *compression)
{
    if (strcmp(name, "auto") == 0) {
        *compression = PFO_COMPRESS_AUTO;
    } else if (strcmp(name, "zstd") == 0) {
        *compression = PFO_COMPRESS_ALWAYS;
    } else if (strcmp(name, "none") == 0) {
        *compression = PFO_COMPRESS_NEVER;
    } else {
        PyErr_Format(PyExc_ValueError, "compression must be 'auto', 'zstd' or 'none', not '%.100s'", name);
        return -1;
    }
    return 0;
}

static int
check_pickle_key(PyObject *key)
{
    if (key == NULL || key == Py_None) {
        return 0;
    }
    if (!PyBytes_Check(key)) {
        PyErr_Format(PyExc_TypeError, "the key that allows pickles must be bytes, not %.200s", Py_TYPE(key)->tp_name);
        return -1;
    }
    if (PyBytes_GET_SIZE(key) < PFO_PICKLE_KEY_BYTES) {
        PyErr_Format(PyExc_ValueError, "the key that allows pickles must have at least %d bytes, not %zd",
                     PFO_PICKLE_KEY_BYTES, PyBytes_GET_SIZE(key));
        return -1;
    }
    return 0;
}

static void
destroy(pfo_disk_tier *tier)
{
    for (int i = 0; i < PFO_TIER_ARRAYS; i++) {
        Py_CLEAR(tier->arrays[i].array);
    }
    Py_BEGIN_ALLOW_THREADS
    pfo_disk_close(tier->disk);
    Py_END_ALLOW_THREADS
    Py_XDECREF(tier->cache_dir);
    Py_XDECREF(tier->pickle_key);
    pfo_free(tier);
}

int
pfo_disk_tier_open(pfo_core_state *state, const pfo_disk_tier_options *options, pfo_disk_tier **out)
{
    pfo_disk_options settings = {
        .max_bytes = options->max_disk_bytes,
        .policy = options->policy,
        .must_exist = options->must_exist,
    };
    PyObject *directory;
    if (parse_durability(options->durability, &settings.durability) < 0 ||
        parse_compression(options->compression, &settings.compression) < 0 ||
        check_pickle_key(options->pickle_key) < 0 || !PyUnicode_FSConverter(options->cache_dir, &directory)) {
        return -1;
    }
    settings.directory = PyBytes_AS_STRING(directory);
    pfo_disk_tier *tier = pfo_alloc_array(1, sizeof *tier);
    if (tier == NULL) {
        Py_DECREF(directory);
        PyErr_NoMemory();
        return -1;
    }
    tier->state = state;
    tier->cache_dir = Py_NewRef(options->cache_dir);
    tier->pickle_key = Py_NewRef(options->pickle_key == NULL ? Py_None : options->pickle_key);
    pfo_error err = PFO_ERROR_INIT;
    pfo_status status;
    Py_BEGIN_ALLOW_THREADS
    status = pfo_disk_open(&tier->disk, &settings, &err);
    Py_END_ALLOW_THREADS
    Py_DECREF(directory);
    if (status != PFO_OK) {
        tier->disk = NULL;
        destroy(tier);
        (void)pfo_disk_tier_raise(status, &err);
        return -1;
    }
    *out = tier;
    return 0;
}

void
pfo_disk_tier_leave(pfo_disk_tier *tier)
{
    if (--tier->users == 0 && tier->closed) {
        destroy(tier);
    }
}

void
pfo_disk_tier_close(pfo_disk_tier *tier)
{
    if (tier != NULL) {
        tier->closed = 1;
        tier->users++;
        pfo_disk_tier_leave(tier);
    }
}

/* ---- get ------------------------------------------------------------------------------------- */

/* state->codec_decode and the others, imported once. 0, or -1 with an exception. */
static int
find_codec(pfo_core_state *state)
{
    if (state->codec_decode != NULL) {
        return 0;
    }
    PyObject *codec = PyImport_ImportModule("perfopt._codec");
    if (codec == NULL) {
        return -1;
    }
    PyObject *encode = PyObject_GetAttrString(codec, "encode");
    PyObject *decode = PyObject_GetAttrString(codec, "decode");
    PyObject *unstorable = PyObject_GetAttrString(codec, "Unstorable");
    Py_DECREF(codec);
    if (encode == NULL || decode == NULL || unstorable == NULL) {
        Py_XDECREF(encode);
        Py_XDECREF(decode);
        Py_XDECREF(unstorable);
        return -1;
    }
    Py_XSETREF(state->codec_encode, encode);
    Py_XSETREF(state->codec_unstorable, unstorable);
    Py_XSETREF(state->codec_decode, decode);
    return 0;
}

static pfo_status
engine_get(pfo_disk_tier *tier, const pfo_digest *key, int writable, void *scratch, pfo_disk_value *found,
           pfo_error *err)
{
    pfo_status status;
    Py_BEGIN_ALLOW_THREADS
    status = pfo_disk_get_into(tier->disk, key, writable, scratch, found, err);
    Py_END_ALLOW_THREADS
    return status;
}

/* What the codec makes looks into its bytes, so they move from the scratch to the heap. -1 with MemoryError. */
static int
own_bytes(pfo_disk_value *found)
{
    if (found->owned != NULL || found->map != NULL) {
        return 0;
    }
    found->owned = pfo_alloc(found->length);
    if (found->owned == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    memcpy(found->owned, found->data, found->length);
    found->data = found->owned;
    return 0;
}

/* Takes found over. */
static PyObject *
decode_by_codec(pfo_disk_tier *tier, const pfo_digest *key, const pfo_disk_value *found, int writable)
{
    PyObject *map = pfo_disk_map_new(tier->state, found, writable);
    if (map == NULL) {
        return NULL;
    }
    PyObject *value = PyObject_CallFunction(tier->state->codec_decode, "s#OOy#", found->kind,
                                            (Py_ssize_t)strnlen(found->kind, PFO_DISK_KIND), map, tier->pickle_key,
                                            (const char *)key->bytes, (Py_ssize_t)PFO_DIGEST_BYTES);
    Py_DECREF(map);
    return value;
}

/* Takes found over. A new reference, or NULL, perhaps with an exception, for bytes that are no value. */
static PyObject *
decode(pfo_disk_tier *tier, const pfo_digest *key, pfo_disk_value *found, int writable)
{
    const pfo_scalar_decode decode_scalar = pfo_scalar_decoder(found->kind);
    if (decode_scalar == NULL) {
        return decode_by_codec(tier, key, found, writable);
    }
    PyObject *value = decode_scalar(found->data, found->length);
    pfo_disk_release(found);
    return value;
}

/* Arrays whose map the engine has let go of: an unlinked file must not keep its room on the disk. */
static void
drop_forgotten_arrays(pfo_disk_tier *tier)
{
    for (int i = 0; i < PFO_TIER_ARRAYS; i++) {
        if (tier->arrays[i].array != NULL && !pfo_disk_map_is_shared(tier->arrays[i].map)) {
            Py_CLEAR(tier->arrays[i].array);
        }
    }
}

/* Borrowed, or NULL. */
static PyObject *
known_array(const pfo_disk_tier *tier, const void *map)
{
    for (int i = 0; i < PFO_TIER_ARRAYS; i++) {
        if (tier->arrays[i].array != NULL && tier->arrays[i].map == map) {
            return tier->arrays[i].array;
        }
    }
    return NULL;
}

/* Takes the reference over. */
static void
remember_array(pfo_disk_tier *tier, const void *map, PyObject *array)
{
    pfo_known_array *place = &tier->arrays[tier->next_array++ % PFO_TIER_ARRAYS];
    PyObject *before = place->array;
    *place = (pfo_known_array){ map, array };
    Py_XDECREF(before);
}

/* Whether views of the array share nothing that can be changed: names of fields can be set in the dtype, which views have in common. 1, 0, or
 * -1 with an exception. */
static int
may_be_shared(PyObject *array)
{
    PyObject *dtype = PyObject_GetAttrString(array, "dtype");
    PyObject *names = dtype == NULL ? NULL : PyObject_GetAttrString(dtype, "names");
    const int answer = names == NULL ? -1 : names == Py_None;
    Py_XDECREF(names);
    Py_XDECREF(dtype);
    return answer;
}

/* An array over a payload file: always a view, whose shape and dtype are its owner's, of one that is made when the file is first met. That
 * one is a view, too: NumPy gives as `base` what is behind all views, so that nobody outside can reach and reshape it. Takes found over. As
 * decode(). */
static PyObject *
view_array(pfo_disk_tier *tier, const pfo_digest *key, pfo_disk_value *found)
{
    const void *map = found->map;
    PyObject *array = Py_XNewRef(known_array(tier, map));
    if (array != NULL) {
        pfo_disk_release(found);
    } else {
        PyObject *decoded = decode_by_codec(tier, key, found, 0);
        if (decoded == NULL) {
            return NULL;
        }
        array = PyObject_GetItem(decoded, Py_Ellipsis);
        Py_DECREF(decoded);
        const int is_shared = array == NULL ? -1 : may_be_shared(array);
        if (is_shared < 0) {
            Py_XDECREF(array);
            return NULL;
        }
        if (is_shared && known_array(tier, map) == NULL) { /* by another thread meanwhile */
            remember_array(tier, map, Py_NewRef(array));
        }
    }
    PyObject *view = PyObject_GetItem(array, Py_Ellipsis);
    Py_DECREF(array);
    return view;
}

/* 0 when the failure to decode was one of the bytes: the exception is gone. -1 when it has to come out. */
static int
forgive(pfo_disk_tier *tier)
{
    if (PyErr_Occurred() && (!PyErr_ExceptionMatches(PyExc_Exception) || PyErr_ExceptionMatches(PyExc_MemoryError))) {
        return -1;
    }
    PyErr_Clear();
    tier->undecodable++;
    return 0;
}

static int
get(pfo_disk_tier *tier, const pfo_digest *key, PyObject **value, pfo_disk_times *times)
{
    static const char tensors[PFO_DISK_KIND] = "tensors/1";
    static const char npy[PFO_DISK_KIND] = "npy/1";
    _Alignas(8) unsigned char scratch[PFO_DISK_SCRATCH];
    pfo_disk_value found;
    pfo_error err;
    err.code = PFO_OK; /* the whole of it would cost a hit too much */
    err.text[0] = '\0';
    pfo_status status = engine_get(tier, key, 0, scratch, &found, &err);
    int writable = 0;
    if (status == PFO_OK && found.map != NULL && memcmp(found.kind, tensors, sizeof tensors) == 0) {
        pfo_disk_release(&found);
        tier->looked_twice++;
        status = engine_get(tier, key, 1, scratch, &found, &err);
        writable = 1;
    }
    if (status != PFO_OK) {
        (void)pfo_disk_tier_raise(status, &err);
        return -1;
    }
    if (!found.found) {
        return 0;
    }
    if (pfo_scalar_decoder(found.kind) == NULL && (own_bytes(&found) < 0 || find_codec(tier->state) < 0)) {
        pfo_disk_release(&found);
        return -1;
    }
    const int is_mapped_array = found.map != NULL && memcmp(found.kind, npy, sizeof npy) == 0;
    *times = (pfo_disk_times){ found.stored_ns, found.expires_ns, is_mapped_array };
    if (found.map != NULL) {
        drop_forgotten_arrays(tier);
    }
    *value =
        is_mapped_array ? view_array(tier, key, &found) : decode(tier, key, &found, writable || found.owned != NULL);
    return *value == NULL ? forgive(tier) : 0;
}

int
pfo_disk_tier_get(pfo_disk_tier *tier, const pfo_digest *key, PyObject **value, pfo_disk_times *times)
{
    *value = NULL;
    *times = (pfo_disk_times){ 0 };
    tier->users++;
    const int result = get(tier, key, value, times);
    pfo_disk_tier_leave(tier);
    return result;
}

/* ---- put ------------------------------------------------------------------------------------- */

/* A failing disk: counted by the engine, said once. */
static int
warn_once(pfo_disk_tier *tier, const pfo_error *err)
{
    if (tier->warned) {
        return 0;
    }
    tier->warned = 1;
    return PyErr_WarnFormat(PyExc_RuntimeWarning, 1,
                            "values are not being stored in the cache directory %R: %s (this is said once; get_stats() "
                            "counts such failures)",
                            tier->cache_dir, err->text);
}

static int
engine_put(pfo_disk_tier *tier, const pfo_digest *key, const pfo_disk_record *record, int *stored)
{
    pfo_error err = PFO_ERROR_INIT;
    pfo_status status;
    Py_BEGIN_ALLOW_THREADS
    status = pfo_disk_put(tier->disk, key, record, stored, &err);
    Py_END_ALLOW_THREADS
    if (status == PFO_OK) {
        return 0;
    }
    *stored = 0;
    if (status == PFO_NO_MEMORY || status == PFO_BAD_ARGUMENT) {
        (void)pfo_raise(status, &err);
        return -1;
    }
    return warn_once(tier, &err);
}

static int
copy_name(char out[PFO_DISK_KIND], const char *name)
{
    const size_t length = strlen(name);
    if (length > PFO_DISK_KIND) {
        PyErr_Format(PyExc_SystemError, "the name '%s' is longer than the disk tier's %d bytes", name, PFO_DISK_KIND);
        return -1;
    }
    memcpy(out, name, length);
    return 0;
}

static int
put_scalar(pfo_disk_tier *tier, const pfo_digest *key, pfo_disk_record *record, const pfo_scalar *value, int *stored)
{
    const pfo_bytes part = { value->data, value->length };
    if (copy_name(record->kind, value->kind) < 0 || copy_name(record->suffix, value->suffix) < 0) {
        return -1;
    }
    record->parts = &part;
    record->part_count = 1;
    record->item_bytes = 1;
    return engine_put(tier, key, record, stored);
}

/* The buffers that the codec gave, held while the engine reads them. */
typedef struct held_buffers {
    Py_buffer *views;
    pfo_bytes *parts;
    size_t count;
} held_buffers;

static void
release_buffers(held_buffers *held)
{
    for (size_t i = 0; i < held->count; i++) {
        PyBuffer_Release(&held->views[i]);
    }
    pfo_free(held->views);
    pfo_free(held->parts);
}

static int
hold_buffers(PyObject *buffers, held_buffers *held)
{
    const size_t count = (size_t)PyTuple_GET_SIZE(buffers);
    *held =
        (held_buffers){ pfo_alloc_array(count, sizeof *held->views), pfo_alloc_array(count, sizeof *held->parts), 0 };
    if (held->views == NULL || held->parts == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    while (held->count < count) {
        Py_buffer *view = &held->views[held->count];
        if (PyObject_GetBuffer(PyTuple_GET_ITEM(buffers, (Py_ssize_t)held->count), view, PyBUF_SIMPLE) < 0) {
            return -1;
        }
        held->parts[held->count++] = (pfo_bytes){ view->buf, (size_t)view->len };
    }
    return 0;
}

static int
put_encoded(pfo_disk_tier *tier, const pfo_digest *key, pfo_disk_record *record, PyObject *encoded, int *stored)
{
    const char *kind, *suffix;
    Py_ssize_t item_bytes;
    PyObject *buffers;
    if (!PyArg_ParseTuple(encoded, "ssnO!", &kind, &suffix, &item_bytes, &PyTuple_Type, &buffers) ||
        copy_name(record->kind, kind) < 0 || copy_name(record->suffix, suffix) < 0) {
        return -1;
    }
    held_buffers held;
    int result = hold_buffers(buffers, &held);
    if (result == 0) {
        record->parts = held.parts;
        record->part_count = held.count;
        record->item_bytes = (size_t)item_bytes;
        result = engine_put(tier, key, record, stored);
    }
    release_buffers(&held);
    return result;
}

/* Turns the codec's Unstorable into 1 and its culprit; any other exception stays: -1. */
static int
take_culprit(const pfo_core_state *state, PyTypeObject **culprit)
{
    if (!PyErr_ExceptionMatches(state->codec_unstorable)) {
        return -1;
    }
    PyObject *type, *error, *traceback;
    PyErr_Fetch(&type, &error, &traceback);
    PyErr_NormalizeException(&type, &error, &traceback);
    PyObject *found = PyObject_GetAttrString(error, "culprit");
    Py_XDECREF(type);
    Py_XDECREF(error);
    Py_XDECREF(traceback);
    *culprit = (PyTypeObject *)found;
    return found == NULL ? -1 : 1;
}

static int
put_by_codec(pfo_disk_tier *tier, const pfo_digest *key, pfo_disk_record *record, PyObject *value, int *stored,
             PyTypeObject **culprit)
{
    if (find_codec(tier->state) < 0) {
        return -1;
    }
    PyObject *encoded = PyObject_CallFunction(tier->state->codec_encode, "OOy#", value, tier->pickle_key,
                                              (const char *)key->bytes, (Py_ssize_t)PFO_DIGEST_BYTES);
    if (encoded == NULL) {
        return take_culprit(tier->state, culprit);
    }
    const int result = put_encoded(tier, key, record, encoded, stored);
    Py_DECREF(encoded);
    return result;
}

/* *text is the label as UTF-8 in *owner (a new reference); both NULL without a label. 0, or -1 with an exception. */
static int
encode_label(PyObject *label, PyObject **owner, const char **text)
{
    *owner = NULL;
    *text = NULL;
    if (label == NULL) {
        return 0;
    }
    *owner = PyUnicode_AsEncodedString(label, "utf-8", "backslashreplace");
    if (*owner == NULL) {
        return -1;
    }
    *text = PyBytes_AS_STRING(*owner);
    return 0;
}

int
pfo_disk_tier_put(pfo_disk_tier *tier, const pfo_digest *key, PyObject *label, PyObject *value, uint64_t expires_ns,
                  const atomic_int *cancelled, int *stored, PyTypeObject **culprit)
{
    *stored = 0;
    *culprit = NULL;
    pfo_disk_record record = { .expires_ns = expires_ns, .cancelled = cancelled };
    PyObject *label_owner;
    if (encode_label(label, &label_owner, &record.label) < 0) {
        return -1;
    }
    tier->users++;
    Py_INCREF(value);
    pfo_scalar plain;
    int result = pfo_scalar_encode(value, &plain);
    if (result == 1) {
        result = put_scalar(tier, key, &record, &plain, stored);
    } else if (result == 0) {
        result = put_by_codec(tier, key, &record, value, stored, culprit);
    }
    Py_XDECREF(plain.owner);
    Py_XDECREF(label_owner);
    Py_DECREF(value);
    pfo_disk_tier_leave(tier);
    return result;
}
