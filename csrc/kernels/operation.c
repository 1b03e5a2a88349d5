/* operation.c: see operation.h. */
#include "kernels/operation.h"

#define KEY_OR_NULL(key) (sizeof(key) > 1 ? (key) : NULL)

const pfo_operation *
pfo_operation_of(pfo_op op)
{
    static const pfo_operation table[PFO_OP_COUNT] = {
#define PFO_OP_ROW(id, text) [PFO_OP_##id].name = text,
        PFO_OP_LIST(PFO_OP_ROW)
#undef PFO_OP_ROW
#define PFO_UPDATE_ROW(id, counts, key1, dtype1, key2, dtype2, key3, dtype3)                                           \
    [PFO_OP_##id].counts_steps = counts,                                                                               \
    [PFO_OP_##id].state = {                                                                                            \
        { KEY_OR_NULL(key1), key1 "s", PFO_DTYPE_##dtype1 },                                                           \
        { KEY_OR_NULL(key2), key2 "s", PFO_DTYPE_##dtype2 },                                                           \
        { KEY_OR_NULL(key3), key3 "s", PFO_DTYPE_##dtype3 },                                                           \
    },
            PFO_UPDATE_LIST(PFO_UPDATE_ROW)
#undef PFO_UPDATE_ROW
    };
    return &table[op];
}

int
pfo_operation_keeps(pfo_op op, const pfo_options *options, int k)
{
    if (pfo_operation_of(op)->state[k].key == NULL) {
        return 0;
    }
    switch (op) {
    case PFO_OP_ADAMW:
        return k < 2 || options->adamw.amsgrad;
    case PFO_OP_SGD:
        return options->sgd.momentum != 0.0;
    case PFO_OP_RMSPROP:
        return k == 0 || (k == 1 ? options->rmsprop.momentum > 0.0 : options->rmsprop.centered);
    case PFO_OP_NORM:
    case PFO_OP_LION:
    case PFO_OP_ADAGRAD:
    case PFO_OP_COUNT:
        break;
    }
    return 1;
}

pfo_scalars
pfo_operation_prepare(pfo_op op, const pfo_options *options, double step, int first, double unscale, double clip_factor)
{
    pfo_scalars scalars = { .adamw = { 0.0f } };
    switch (op) {
    case PFO_OP_ADAMW:
        scalars.adamw = pfo_adamw_prepare(&options->adamw, step, unscale, clip_factor);
        break;
    case PFO_OP_SGD:
        scalars.sgd = pfo_sgd_prepare(&options->sgd, first, unscale, clip_factor);
        break;
    case PFO_OP_LION:
        scalars.lion = pfo_lion_prepare(&options->lion, unscale, clip_factor);
        break;
    case PFO_OP_ADAGRAD:
        scalars.adagrad = pfo_adagrad_prepare(&options->adagrad, step, unscale, clip_factor);
        break;
    case PFO_OP_RMSPROP:
        scalars.rmsprop = pfo_rmsprop_prepare(&options->rmsprop, unscale, clip_factor);
        break;
    case PFO_OP_NORM:
    case PFO_OP_COUNT:
        break;
    }
    return scalars;
}
