/* kernels.cpp: one file of cuda/ (EMULATED_norm, EMULATED_update ...) and how its kernels are called by the emulated runtime. */
#if defined(EMULATED_backend)
#include "../../cuda/backend.cu"
#elif defined(EMULATED_plan)
#include "../../cuda/plan.cu"
static const int known = emulator_add(&upload_kernel<small_packet>) + emulator_add(&upload_kernel<large_packet>);
#elif defined(EMULATED_norm)
#include "../../cuda/norm.cu"
static const int known = emulator_add(&norm_kernel);
#elif defined(EMULATED_update)
#include "../../cuda/update.cu"
template <int kOp>
static int
add_update()
{
    return emulator_add(&update_kernel<kOp, true>) + emulator_add(&update_kernel<kOp, false>);
}
static const int known = add_update<PFO_OP_ADAMW>() + add_update<PFO_OP_SGD>() + add_update<PFO_OP_LION>() +
                         add_update<PFO_OP_ADAGRAD>() + add_update<PFO_OP_RMSPROP>();
#elif defined(EMULATED_fingerprint)
#include "../../cuda/fingerprint.cu"
static const int known =
    emulator_add(&digest_kernel<1>) + emulator_add(&digest_kernel<4>) + emulator_add(&digest_kernel<16>);
#elif defined(EMULATED_matmul)
#include "../../cuda/matmul.cu"
#endif
