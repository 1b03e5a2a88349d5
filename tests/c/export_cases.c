/* export_cases.c: kernel_cases.h as JSON on the standard output, so that the tests of perfopt.optim walk the same table on the CPU and on a
 * GPU: for each case its optimizer and options by their Python names, the step's number, and SAMPLES values of each role before the step
 * and after it, by case_double(). Read by tests/python/kernel_cases.py. */
#include "kernel_cases.h"

#include <stdio.h>

enum { SAMPLES = 61 }; /* prime: no vector, block or chunk is a multiple of it */

static const char *
name_of(int flag)
{
    return flag ? "true" : "false";
}

static void
print_options(const kernel_case *c)
{
    switch (c->op) {
    case PFO_OP_ADAMW: {
        const pfo_adamw_options *o = &c->options.adamw;
        printf("\"optimizer\": \"%s\", \"options\": {\"lr\": %.17g, \"betas\": [%.17g, %.17g], \"eps\": %.17g, "
               "\"weight_decay\": %.17g, \"maximize\": %s, \"amsgrad\": %s}",
               o->coupled ? "Adam" : "AdamW", o->lr, o->beta1, o->beta2, o->eps, o->weight_decay, name_of(o->maximize),
               name_of(o->amsgrad));
        break;
    }
    case PFO_OP_SGD: {
        const pfo_sgd_options *o = &c->options.sgd;
        printf("\"optimizer\": \"SGD\", \"options\": {\"lr\": %.17g, \"momentum\": %.17g, \"dampening\": %.17g, "
               "\"weight_decay\": %.17g, \"nesterov\": %s, \"maximize\": %s}",
               o->lr, o->momentum, o->dampening, o->weight_decay, name_of(o->nesterov), name_of(o->maximize));
        break;
    }
    case PFO_OP_LION: {
        const pfo_lion_options *o = &c->options.lion;
        printf("\"optimizer\": \"Lion\", \"options\": {\"lr\": %.17g, \"betas\": [%.17g, %.17g], "
               "\"weight_decay\": %.17g, \"maximize\": %s}",
               o->lr, o->beta1, o->beta2, o->weight_decay, name_of(o->maximize));
        break;
    }
    case PFO_OP_ADAGRAD: {
        const pfo_adagrad_options *o = &c->options.adagrad;
        printf("\"optimizer\": \"Adagrad\", \"options\": {\"lr\": %.17g, \"lr_decay\": %.17g, \"eps\": %.17g, "
               "\"weight_decay\": %.17g, \"maximize\": %s}",
               o->lr, o->lr_decay, o->eps, o->weight_decay, name_of(o->maximize));
        break;
    }
    case PFO_OP_RMSPROP: {
        const pfo_rmsprop_options *o = &c->options.rmsprop;
        printf("\"optimizer\": \"RMSprop\", \"options\": {\"lr\": %.17g, \"alpha\": %.17g, \"eps\": %.17g, "
               "\"weight_decay\": %.17g, \"momentum\": %.17g, \"centered\": %s, \"maximize\": %s}",
               o->lr, o->alpha, o->eps, o->weight_decay, o->momentum, name_of(o->centered), name_of(o->maximize));
        break;
    }
    case PFO_OP_NORM:
    case PFO_OP_COUNT:
        break;
    }
}

static const char *
key_of(const kernel_case *c, int role)
{
    return role == PFO_ROLE_WEIGHT ? "weight"
           : role == PFO_ROLE_GRAD ? "grad"
                                   : pfo_operation_of(c->op)->state[role - PFO_ROLE_STATE_1].key;
}

static void
print_values(const kernel_case *c, const char *name, double values[SAMPLES][PFO_ROLE_COUNT])
{
    printf(", \"%s\": {", name);
    for (int role = 0; role < PFO_ROLE_COPY; role++) {
        if (case_uses(c, role)) {
            printf("%s\"%s\": [", role > 0 ? ", " : "", key_of(c, role));
            for (int i = 0; i < SAMPLES; i++) {
                printf("%s%.17g", i > 0 ? ", " : "", values[i][role]);
            }
            printf("]");
        }
    }
    printf("}");
}

int
main(void)
{
    unsigned long long state = 2463534242ULL;
    double before[SAMPLES][PFO_ROLE_COUNT], after[SAMPLES][PFO_ROLE_COUNT];
    for (int k = 0; k < KERNEL_CASES; k++) {
        const kernel_case *c = &kernel_cases[k];
        for (int i = 0; i < SAMPLES; i++) {
            for (int role = 0; role < PFO_ROLE_COUNT; role++) {
                state ^= state << 13; /* xorshift64 */
                state ^= state >> 7;
                state ^= state << 17;
                const float random = (float)(state >> 40) / (float)(1 << 23) - 1.0f;
                before[i][role] = after[i][role] = (double)case_value(c, role, random);
            }
            case_double(c, after[i]);
        }
        printf("%s{\"name\": \"%s\", \"first\": %s, \"step\": %.17g, \"multiplier\": %.17g, \"counts_steps\": %s, ",
               k == 0 ? "[" : ",\n", c->name, name_of(c->first), c->step, c->unscale * c->clipping,
               name_of(pfo_operation_of(c->op)->counts_steps));
        print_options(c);
        print_values(c, "before", before);
        print_values(c, "after", after);
        printf("}");
    }
    printf("]\n");
    return 0;
}
