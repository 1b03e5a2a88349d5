/* roles.h: how the kernels read and write the memory of a role, whatever its dtype, and which thread has which element; compiles as C
 * and as CUDA.
 *
 * Arithmetic is float32; storage is a conversion (kernels/convert_math.h, quantize_math.h). The unit of work is a block of
 * PFO_SCALE_BLOCK elements, which share a scale where they are stored in 8 bits: a warp takes it, each lane two quads of neighbouring
 * elements, half a block apart, so that a warp reads and writes whole sectors.
 * Random bits: one Philox call a lane makes those of the whole block, dealt out by pfo_block_random_place(); they are the bits that
 * pfo_random16() gives each element on the CPU.
 * Threads: pure functions.
 */
#ifndef PFO_CUDA_ROLES_H
#define PFO_CUDA_ROLES_H

#include "kernels/convert_math.h"
#include "kernels/philox_math.h"
#include "kernels/quantize_math.h"
#include "kernels/rounding_math.h"
#include "kernels/update_math.h"

#include "backend/backend.h"
#include "table.h"

enum { PFO_BLOCK_LANES = 32, PFO_OCTET = PFO_SCALE_BLOCK / PFO_BLOCK_LANES, PFO_QUAD = 4 };

/* A lane's elements of a block. */
typedef struct pfo_octet {
    float at[PFO_OCTET];
} pfo_octet;

/* Where in its block element j of a lane lies. */
PFO_MATH_INLINE int
pfo_octet_place(int lane, int j)
{
    return j / PFO_QUAD * (PFO_BLOCK_LANES * PFO_QUAD) + lane * PFO_QUAD + j % PFO_QUAD;
}

/* How the stores of one role in one step are rounded. */
typedef struct pfo_role_rounding {
    int stochastic;
    int exchanged; /* the bytes of each 16 bits: rounding_math.h */
    uint64_t seed;
    uint64_t stream;
} pfo_role_rounding;

PFO_MATH_INLINE pfo_role_rounding
pfo_role_rounding_of(int role, int dtype, int asked, uint64_t seed, uint64_t rounding_step, int32_t tensor_stream)
{
    pfo_role_rounding rounding;
    rounding.stochastic =
        dtype != PFO_DTYPE_FLOAT32 && pfo_rounds_at_random((pfo_dtype)dtype, role == PFO_BACKEND_COPY, asked);
    rounding.seed = seed;
    rounding.exchanged = pfo_rounding_exchanged((pfo_dtype)dtype, role);
    rounding.stream = pfo_rounding_stream(rounding_step, tensor_stream, pfo_rounding_draw_role((pfo_dtype)dtype, role));
    return rounding;
}

/* The words of one lane's counter, for the block that begins at element `first` of its tensor (a multiple of PFO_SCALE_BLOCK). */
PFO_MATH_INLINE pfo_philox_words
pfo_block_random(const pfo_role_rounding *rounding, int64_t first, int lane)
{
    const uint64_t group = (uint64_t)first / PFO_PHILOX_ELEMENTS * PFO_PHILOX_LANES + (uint64_t)lane;
    const pfo_philox_words counter = { { (uint32_t)group, (uint32_t)(group >> 32), (uint32_t)rounding->stream,
                                         (uint32_t)(rounding->stream >> 32) } };
    return pfo_philox(counter, (uint32_t)rounding->seed, (uint32_t)(rounding->seed >> 32));
}

/* Whose words, as 16-bit halves in order, hold the bits of the element at this place: lane * 8 + half. */
PFO_MATH_INLINE int
pfo_block_random_place(int place)
{
    const int lane = place / PFO_PHILOX_ELEMENTS * PFO_PHILOX_LANES + place % PFO_PHILOX_LANES;
    return lane * 8 + place / PFO_PHILOX_LANES % 8;
}

/* The bits of a store from those drawn. */
PFO_MATH_INLINE uint32_t
pfo_role_random(const pfo_role_rounding *rounding, uint32_t drawn)
{
    return rounding->exchanged ? pfo_random_exchanged(drawn) : drawn;
}

PFO_MATH_INLINE int
pfo_is_block_dtype(int dtype)
{
    return pfo_is_8bit_state((pfo_dtype)dtype);
}

PFO_MATH_INLINE uint32_t
pfo_magnitude_bits(float value)
{
    return pfo_float_bits(value) & ~PFO_FLOAT_SIGN;
}

/* A block's width depends on all of its elements: each is tallied beside the largest magnitude, tallies are joined in any order.
 * BLOCK8: counts of nonzero, small and tiny elements, ten bits each. UBLOCK8: the smallest positive value. */
PFO_MATH_INLINE uint32_t
pfo_role_tally(int dtype, float value, uint32_t largest)
{
    if (dtype == PFO_DTYPE_UBLOCK8) {
        const uint32_t bits = pfo_float_bits(value); /* with a sign it is larger than any without */
        return bits != 0 ? bits : UINT32_MAX;
    }
    const uint32_t bits = pfo_magnitude_bits(value);
    return (uint32_t)(bits != 0) | (uint32_t)(bits != 0 && bits + PFO_BLOCK8_SMALL < largest) << 10 |
           (uint32_t)(bits != 0 && bits + PFO_BLOCK8_TINY < largest) << 20;
}

/* The tally of no elements. */
PFO_MATH_INLINE uint32_t
pfo_role_no_tally(int dtype)
{
    return dtype == PFO_DTYPE_UBLOCK8 ? UINT32_MAX : 0u;
}

PFO_MATH_INLINE uint32_t
pfo_role_join_tallies(int dtype, uint32_t a, uint32_t b)
{
    return dtype == PFO_DTYPE_UBLOCK8 ? (a < b ? a : b) : a + b;
}

/* The scale of a block whose largest magnitude has these bits. */
PFO_MATH_INLINE float
pfo_role_scale(int dtype, uint32_t largest, uint32_t tally)
{
    if (dtype == PFO_DTYPE_UBLOCK8) {
        return pfo_block_scale(PFO_UBLOCK8_MAX_CODE, pfo_ublock8_width(largest, tally), largest);
    }
    const uint32_t width = pfo_block8_width(tally & 0x3ffu, tally >> 10 & 0x3ffu, tally >> 20);
    return pfo_block_scale(PFO_BLOCK8_MAX_CODE, width, largest);
}

/* An element from its code; scale is of its block. */
PFO_MATH_INLINE float
pfo_role_decode(int dtype, uint32_t code, float scale)
{
    switch ((pfo_dtype)dtype) {
    case PFO_DTYPE_BFLOAT16:
        return pfo_bfloat16_decode((uint16_t)code);
    case PFO_DTYPE_FLOAT16:
        return pfo_small_float_decode(pfo_float16_format(), code);
    case PFO_DTYPE_FLOAT8_E4M3:
        return pfo_small_float_decode(pfo_float8_e4m3_format(), code);
    case PFO_DTYPE_FLOAT8_E5M2:
        return pfo_small_float_decode(pfo_float8_e5m2_format(), code);
    case PFO_DTYPE_BLOCK8:
        return pfo_block8_decode((uint8_t)code, scale);
    case PFO_DTYPE_UBLOCK8:
        return pfo_ublock8_decode((uint8_t)code, scale);
    case PFO_DTYPE_FLOAT32:
    case PFO_DTYPE_COUNT:
        break;
    }
    return pfo_float_from_bits(code);
}

/* The other way. scale and its inverse (pfo_block_inverse()) are of the element's block; random: 16 bits. */
PFO_MATH_INLINE uint32_t
pfo_role_encode(int dtype, float value, float scale, float inverse, int stochastic, uint32_t random)
{
    switch ((pfo_dtype)dtype) {
    case PFO_DTYPE_BFLOAT16:
        return pfo_bfloat16_encode(value, stochastic, random);
    case PFO_DTYPE_FLOAT16:
        return pfo_small_float_encode(pfo_float16_format(), value, stochastic, random, 0);
    case PFO_DTYPE_FLOAT8_E4M3:
        return pfo_small_float_encode(pfo_float8_e4m3_format(), value, stochastic, random, 1);
    case PFO_DTYPE_FLOAT8_E5M2:
        return pfo_small_float_encode(pfo_float8_e5m2_format(), value, stochastic, random, 1);
    case PFO_DTYPE_BLOCK8:
        return scale > 0.0f ? pfo_block8_encode(pfo_block_code_of(PFO_BLOCK8_MAX_CODE, pfo_block_width(scale)), value,
                                                inverse, stochastic, random)
                            : 0u; /* 0 or NaN: codes are 0 */
    case PFO_DTYPE_UBLOCK8:
        return scale > 0.0f ? pfo_ublock8_encode(pfo_block_code_of(PFO_UBLOCK8_MAX_CODE, pfo_block_width(scale)), value,
                                                 inverse, stochastic, random)
                            : 0u;
    case PFO_DTYPE_FLOAT32:
    case PFO_DTYPE_COUNT:
        break;
    }
    return pfo_float_bits(value);
}

PFO_MATH_INLINE uint32_t
pfo_role_code_at(int dtype, const void *data, int64_t index)
{
    const int bytes = pfo_table_dtype_bytes(dtype);
    return bytes == 4   ? ((const uint32_t *)data)[index]
           : bytes == 2 ? ((const uint16_t *)data)[index]
                        : ((const uint8_t *)data)[index];
}

PFO_MATH_INLINE void
pfo_role_put_code(int dtype, void *data, int64_t index, uint32_t code)
{
    const int bytes = pfo_table_dtype_bytes(dtype);
    if (bytes == 4) {
        ((uint32_t *)data)[index] = code;
    } else if (bytes == 2) {
        ((uint16_t *)data)[index] = (uint16_t)code;
    } else {
        ((uint8_t *)data)[index] = (uint8_t)code;
    }
}

/* One element of an operation's update. A state that is not kept is NULL. */
PFO_MATH_INLINE void
pfo_update_element(int op, const pfo_scalars *s, float grad, float *weight, float *state_1, float *state_2,
                   float *state_3)
{
    switch ((pfo_op)op) {
    case PFO_OP_ADAMW:
        pfo_adamw_element(&s->adamw, grad, weight, state_1, state_2, state_3);
        break;
    case PFO_OP_SGD:
        pfo_sgd_element(&s->sgd, grad, weight, state_1);
        break;
    case PFO_OP_LION:
        pfo_lion_element(&s->lion, grad, weight, state_1);
        break;
    case PFO_OP_ADAGRAD:
        pfo_adagrad_element(&s->adagrad, grad, weight, state_1);
        break;
    case PFO_OP_RMSPROP:
        pfo_rmsprop_element(&s->rmsprop, grad, weight, state_1, state_2, state_3);
        break;
    case PFO_OP_NORM:
    case PFO_OP_COUNT:
        break;
    }
}

#endif
