/* dlpack.h: the parts of DLPack's memory layout that tensors are read by; laid out as in its specification.
 *
 * A capsule "dltensor" points at a managed tensor, which begins with the dl_tensor. Whoever reads one borrows it. Threads: none.
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

enum { DL_CPU = 1, DL_CUDA = 2, DL_UINT = 1, DL_FLOAT = 2, DL_BFLOAT = 4 };

#endif
