/* elements.cuh: four neighbouring elements of any dtype, to and from float32, by one access where alignment allows. */
#ifndef PFO_CUDA_ELEMENTS_CUH
#define PFO_CUDA_ELEMENTS_CUH

#include "common.cuh"
#include "roles.h"

struct pfo_codes {
    uint32_t at[PFO_QUAD];
};

/* The codes of elements index .. index + 3. */
template <int kDtype, bool kAligned>
static __device__ __forceinline__ pfo_codes
pfo_load_codes(const void *data, int64_t index)
{
    pfo_codes codes;
    if constexpr (!kAligned) {
#pragma unroll
        for (int j = 0; j < PFO_QUAD; j++) {
            codes.at[j] = pfo_role_code_at(kDtype, data, index + j);
        }
    } else if constexpr (kDtype == PFO_DTYPE_FLOAT32) {
        const uint4 all = *reinterpret_cast<const uint4 *>(static_cast<const uint32_t *>(data) + index);
        codes = { { all.x, all.y, all.z, all.w } };
    } else if constexpr (kDtype == PFO_DTYPE_BFLOAT16 || kDtype == PFO_DTYPE_FLOAT16) {
        const uint2 all = *reinterpret_cast<const uint2 *>(static_cast<const uint16_t *>(data) + index);
        codes = { { all.x & 0xffffu, all.x >> 16, all.y & 0xffffu, all.y >> 16 } };
    } else {
        const uint32_t all = *reinterpret_cast<const uint32_t *>(static_cast<const uint8_t *>(data) + index);
        codes = { { all & 0xffu, all >> 8 & 0xffu, all >> 16 & 0xffu, all >> 24 } };
    }
    return codes;
}

template <int kDtype, bool kAligned>
static __device__ __forceinline__ void
pfo_store_codes(void *data, int64_t index, const pfo_codes &codes)
{
    const uint32_t *at = codes.at;
    if constexpr (!kAligned) {
#pragma unroll
        for (int j = 0; j < PFO_QUAD; j++) {
            pfo_role_put_code(kDtype, data, index + j, at[j]);
        }
    } else if constexpr (kDtype == PFO_DTYPE_FLOAT32) {
        *reinterpret_cast<uint4 *>(static_cast<uint32_t *>(data) + index) = make_uint4(at[0], at[1], at[2], at[3]);
    } else if constexpr (kDtype == PFO_DTYPE_BFLOAT16 || kDtype == PFO_DTYPE_FLOAT16) {
        *reinterpret_cast<uint2 *>(static_cast<uint16_t *>(data) + index) =
            make_uint2(at[0] | at[1] << 16, at[2] | at[3] << 16);
    } else {
        *reinterpret_cast<uint32_t *>(static_cast<uint8_t *>(data) + index) =
            at[0] | at[1] << 8 | at[2] << 16 | at[3] << 24;
    }
}

template <int kDtype> struct pfo_dtype_tag {
    static constexpr int value = kDtype;
};

/* body(tag) with the dtype as a constant. All threads of a warp have the same dtype here. */
template <typename Body>
static __device__ __forceinline__ void
pfo_with_dtype(int dtype, const Body &body)
{
    switch (dtype) {
    case PFO_DTYPE_FLOAT32:
        return body(pfo_dtype_tag<PFO_DTYPE_FLOAT32>());
    case PFO_DTYPE_BFLOAT16:
        return body(pfo_dtype_tag<PFO_DTYPE_BFLOAT16>());
    case PFO_DTYPE_FLOAT16:
        return body(pfo_dtype_tag<PFO_DTYPE_FLOAT16>());
    case PFO_DTYPE_FLOAT8_E4M3:
        return body(pfo_dtype_tag<PFO_DTYPE_FLOAT8_E4M3>());
    case PFO_DTYPE_FLOAT8_E5M2:
        return body(pfo_dtype_tag<PFO_DTYPE_FLOAT8_E5M2>());
    case PFO_DTYPE_BLOCK8:
        return body(pfo_dtype_tag<PFO_DTYPE_BLOCK8>());
    default:
        return body(pfo_dtype_tag<PFO_DTYPE_UBLOCK8>());
    }
}

/* The same for what a gradient can be. */
template <typename Body>
static __device__ __forceinline__ void
pfo_with_grad_dtype(int dtype, const Body &body)
{
    switch (dtype) {
    case PFO_DTYPE_FLOAT32:
        return body(pfo_dtype_tag<PFO_DTYPE_FLOAT32>());
    case PFO_DTYPE_BFLOAT16:
        return body(pfo_dtype_tag<PFO_DTYPE_BFLOAT16>());
    default:
        return body(pfo_dtype_tag<PFO_DTYPE_FLOAT16>());
    }
}

#endif
