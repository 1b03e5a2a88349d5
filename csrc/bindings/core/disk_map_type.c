/* disk_map_type.c: see disk_map.h.
 *
 * Invariant: value is what pfo_disk_get() gave and is released once, in dealloc. Every buffer holds a reference to the map, so that cannot
 * be before the last one is gone; an array that looks into a map keeps it, whatever happens to the cache or to the file meanwhile.
 * Threads: immutable after it was made. Memory: the mapping or heap block belongs to the object; a forked child has its own.
 */
#include "bindings/core/disk_map.h"

typedef struct disk_map {
    PyObject_HEAD
    pfo_disk_value value;
    int writable;
} disk_map;

PyObject *
pfo_disk_map_new(pfo_core_state *state, const pfo_disk_value *value, int writable)
{
    disk_map *map = PyObject_New(disk_map, state->disk_map);
    if (map == NULL) {
        pfo_disk_value abandoned = *value;
        pfo_disk_release(&abandoned);
        return NULL;
    }
    map->value = *value;
    map->writable = writable;
    return (PyObject *)map;
}

static int
disk_map_get_buffer(PyObject *op, Py_buffer *view, int flags)
{
    disk_map *map = (disk_map *)op;
    void *data = (void *)(uintptr_t)map->value.data; /* written to only when writable says so */
    return PyBuffer_FillInfo(view, op, data, (Py_ssize_t)map->value.length, !map->writable, flags);
}

static void
disk_map_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    pfo_disk_release(&((disk_map *)op)->value);
    PyObject_Free(op);
    Py_DECREF(type);
}

static PyType_Slot disk_map_slots[] = {
    { Py_tp_doc, (void *)"The bytes of one value in a cache directory (internal)." },
    { Py_bf_getbuffer, (void *)disk_map_get_buffer },
    { Py_tp_dealloc, (void *)disk_map_dealloc },
    { 0, NULL },
};

PyType_Spec pfo_disk_map_spec = {
    .name = "perfopt._core.disk_map",
    .basicsize = sizeof(disk_map),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = disk_map_slots,
};
