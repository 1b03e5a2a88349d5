/* tensor.h: the words in which kernels, plans and backends talk about memory: dtype, device, tensor view, operation.
 *
 * A view does not own its memory and carries no shape: the kernels here are elementwise over dense storage, so a tensor is a
 * pointer and a count. Whoever makes a view has checked that the elements lie without holes and that all tensors
 * of one parameter (value, gradient, moments) have the same order in memory.
 * Compiles as C and as CUDA. Adding a dtype, device or operation is one line in its list.
 */
#ifndef PFO_KERNELS_TENSOR_H
#define PFO_KERNELS_TENSOR_H

#include <stddef.h>
#include <stdint.h>

/* X(enumerator, name as torch spells it, bytes of one element). All arithmetic is in float32; the others are ways to store it
 * (kernels/convert.h). BLOCK8 and UBLOCK8 (no sign) are the two halves of 8-bit optimizer state: one byte an element and,
 * beside it, one float32 scale for each PFO_SCALE_BLOCK elements, the last block being as short as it must. */
#define PFO_DTYPE_LIST(X)                                                                                              \
    X(FLOAT32, "float32", 4)                                                                                           \
    X(BFLOAT16, "bfloat16", 2)                                                                                         \
    X(FLOAT16, "float16", 2)                                                                                           \
    X(FLOAT8_E4M3, "float8_e4m3fn", 1)                                                                                 \
    X(FLOAT8_E5M2, "float8_e5m2", 1)                                                                                   \
    X(BLOCK8, "block8", 1)                                                                                             \
    X(UBLOCK8, "ublock8", 1)

typedef enum pfo_dtype {
#define PFO_DTYPE_ENUM(id, name, bytes) PFO_DTYPE_##id,
    PFO_DTYPE_LIST(PFO_DTYPE_ENUM)
#undef PFO_DTYPE_ENUM
        PFO_DTYPE_COUNT
} pfo_dtype;

/* Bytes of one element. */
static inline size_t
pfo_dtype_bytes(pfo_dtype dtype)
{
    switch (dtype) {
#define PFO_DTYPE_BYTES(id, name, bytes)                                                                               \
    case PFO_DTYPE_##id:                                                                                               \
        return bytes;
        PFO_DTYPE_LIST(PFO_DTYPE_BYTES)
#undef PFO_DTYPE_BYTES
    case PFO_DTYPE_COUNT:
        break;
    }
    return 1;
}

/* Its name as torch spells it. */
static inline const char *
pfo_dtype_name(pfo_dtype dtype)
{
    switch (dtype) {
#define PFO_DTYPE_NAME(id, name, bytes)                                                                                \
    case PFO_DTYPE_##id:                                                                                               \
        return name;
        PFO_DTYPE_LIST(PFO_DTYPE_NAME)
#undef PFO_DTYPE_NAME
    case PFO_DTYPE_COUNT:
        break;
    }
    return "?";
}

/* X(enumerator, name as torch spells it) */
#define PFO_DEVICE_LIST(X)                                                                                             \
    X(CPU, "cpu")                                                                                                      \
    X(CUDA, "cuda")

typedef enum pfo_device {
#define PFO_DEVICE_ENUM(id, name) PFO_DEVICE_##id,
    PFO_DEVICE_LIST(PFO_DEVICE_ENUM)
#undef PFO_DEVICE_ENUM
        PFO_DEVICE_COUNT
} pfo_device;

/* X(enumerator, name). Order is the order of the op tables; NORM is pass 1 of every step, the others are a pass 2 each.
 */
#define PFO_OP_LIST(X)                                                                                                 \
    X(NORM, "norm")                                                                                                    \
    X(ADAMW, "adamw")                                                                                                  \
    X(SGD, "sgd")                                                                                                      \
    X(LION, "lion")                                                                                                    \
    X(ADAGRAD, "adagrad")                                                                                              \
    X(RMSPROP, "rmsprop")

typedef enum pfo_op {
#define PFO_OP_ENUM(id, name) PFO_OP_##id,
    PFO_OP_LIST(PFO_OP_ENUM)
#undef PFO_OP_ENUM
        PFO_OP_COUNT
} pfo_op;

/* Elements of one chunk: the unit of work and of partial sums, on every device and for every dtype. */
enum { PFO_CHUNK_ELEMENTS = 65536 };

/* Elements that share a scale in BLOCK8 and UBLOCK8. Divides PFO_CHUNK_ELEMENTS, so a block never spans two chunks. */
enum { PFO_SCALE_BLOCK = 256 };

typedef struct pfo_tensor {
    void *data;    /* first element; NULL only when count == 0 */
    int64_t count; /* elements, >= 0 */
    pfo_dtype dtype;
    pfo_device device;
    int32_t device_index; /* 0 on the CPU */
} pfo_tensor;

#endif
