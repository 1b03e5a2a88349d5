/* dlpack.h: the parts of DLPack's memory layout that tensors are read by; laid out as in its specification.
 *
 * A capsule "dltensor" points at a managed tensor, which begins with the dl_tensor; a capsule "dltensor_versioned" at a
 * dl_managed_versioned. Whoever reads one borrows it. Threads: none.
 */
#ifndef PFO_BINDINGS_DLPACK_H
#define PFO_BINDINGS_DLPACK_H

#include <stdint.h>

typedef struct dl_tensor {
    void *data;
    struct {
        int32_t type, id;
    } device;
    int32_t ndim;
    struct {
        uint8_t code, bits;
        uint16_t lanes;
    } dtype;
    int64_t *shape;
    int64_t *strides; /* elements; NULL means C order before version 1.2 */
    uint64_t byte_offset;
} dl_tensor;

typedef struct dl_managed_versioned {
    struct {
        uint32_t major, minor;
    } version; /* of another major one than DL_VERSION, nothing behind `deleter` is known */
    void *manager;
    void (*deleter)(struct dl_managed_versioned *self);
    uint64_t flags;
    dl_tensor tensor;
} dl_managed_versioned;

enum { DL_VERSION = 1 };
enum { DL_FLAG_READ_ONLY = 1, DL_FLAG_IS_COPIED = 2 };
enum { DL_CPU = 1, DL_CUDA = 2, DL_UINT = 1, DL_FLOAT = 2, DL_BFLOAT = 4 };

#endif
