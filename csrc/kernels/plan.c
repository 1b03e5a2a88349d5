/* plan.c: see plan.h for the contract. Overlap is found by sorting all written intervals by address: written tensors must be
 * pairwise disjoint, and a gradient is looked up among them by binary search. Gradients may share memory with each other. */
#include "kernels/plan.h"

#include "base/alloc.h"

#include <stdlib.h>
#include <string.h>

static const char *const role_names[PFO_ROLE_COUNT] = {
#define PFO_ROLE_NAME(id, name, written) name,
    PFO_ROLE_LIST(PFO_ROLE_NAME)
#undef PFO_ROLE_NAME
};

static const int role_written[PFO_ROLE_COUNT] = {
#define PFO_ROLE_WRITTEN(id, name, written) written,
    PFO_ROLE_LIST(PFO_ROLE_WRITTEN)
#undef PFO_ROLE_WRITTEN
};

static int
is_state(int role)
{
    return role >= PFO_ROLE_STATE_1 && role < PFO_ROLE_STATE_1 + PFO_STATE_COUNT;
}

const char *
pfo_role_name(pfo_op op, pfo_role role)
{
    return is_state(role) ? pfo_operation_of(op)->state[role - PFO_ROLE_STATE_1].plural : role_names[role];
}

static int
role_required(pfo_op op, int role, int has_grad)
{
    static const pfo_options nothing_chosen = { .adamw = { 0.0 } };
    if (role == PFO_ROLE_GRAD) {
        return has_grad;
    }
    if (is_state(role)) {
        return pfo_operation_keeps(op, &nothing_chosen, role - PFO_ROLE_STATE_1);
    }
    return role == PFO_ROLE_WEIGHT && op != PFO_OP_NORM;
}

static int
dtype_allowed(int role, pfo_dtype dtype)
{
    switch (dtype) {
    case PFO_DTYPE_FLOAT32:
    case PFO_DTYPE_BFLOAT16:
    case PFO_DTYPE_FLOAT16:
        return 1;
    case PFO_DTYPE_FLOAT8_E4M3:
    case PFO_DTYPE_FLOAT8_E5M2:
        return role == PFO_ROLE_COPY;
    case PFO_DTYPE_BLOCK8:
    case PFO_DTYPE_UBLOCK8:
        return is_state(role);
    case PFO_DTYPE_COUNT:
        break;
    }
    return 0;
}

static int
is_scaled(const pfo_plan_entry *entry, int role)
{
    return entry->dtype[role] == PFO_DTYPE_BLOCK8 || entry->dtype[role] == PFO_DTYPE_UBLOCK8;
}

static pfo_status
check_role(pfo_op op, const pfo_plan_entry *entry, int role, int32_t tensor, pfo_error *err)
{
    const char *name = pfo_role_name(op, (pfo_role)role);
    const void *data = entry->data[role];
    if (data == NULL) {
        return entry->count > 0 && role_required(op, role, entry->has_grad)
                   ? pfo_fail(err, PFO_BAD_ARGUMENT, "%s[%d] has no memory", name, (int)tensor)
                   : PFO_OK;
    }
    if (!dtype_allowed(role, entry->dtype[role])) {
        return pfo_fail(err, PFO_BAD_ARGUMENT, "%s[%d] is of %s, in which a step cannot keep it", name, (int)tensor,
                        pfo_dtype_name(entry->dtype[role]));
    }
    if ((uintptr_t)data % pfo_dtype_bytes(entry->dtype[role]) != 0) {
        return pfo_fail(err, PFO_BAD_ARGUMENT, "%s[%d] is not aligned to its element size (address %p)", name,
                        (int)tensor, data);
    }
    if (is_scaled(entry, role)) {
        const float *scales = entry->scales[role - PFO_ROLE_STATE_1];
        if ((scales == NULL && entry->count > 0) || (uintptr_t)scales % sizeof *scales != 0) {
            return pfo_fail(err, PFO_BAD_ARGUMENT, "the scales of %s[%d] have no aligned memory (address %p)", name,
                            (int)tensor, (const void *)scales);
        }
    }
    return PFO_OK;
}

static pfo_status
check_entry(pfo_op op, const pfo_plan_entry *entry, int32_t tensor, int32_t group_count, pfo_error *err)
{
    if (entry->count < 0 || (uint64_t)entry->count > (uint64_t)PTRDIFF_MAX / sizeof(float)) {
        return pfo_fail(err, PFO_BAD_ARGUMENT, "tensor %d has %lld elements", (int)tensor, (long long)entry->count);
    }
    if (entry->group < 0 || entry->group >= group_count) {
        return pfo_fail(err, PFO_BAD_ARGUMENT, "tensor %d is in group %d of %d", (int)tensor, (int)entry->group,
                        (int)group_count);
    }
    for (int role = 0; role < PFO_ROLE_COUNT; role++) {
        PFO_TRY(check_role(op, entry, role, tensor, err));
    }
    return PFO_OK;
}

static int
by_address(const void *left, const void *right)
{
    const pfo_interval *a = left;
    const pfo_interval *b = right;
    return (a->begin > b->begin) - (a->begin < b->begin);
}

static pfo_interval
interval_of(const pfo_plan_entry *entry, int32_t tensor, pfo_role role)
{
    const uintptr_t begin = (uintptr_t)entry->data[role];
    const uintptr_t bytes = (uintptr_t)entry->count * pfo_dtype_bytes(entry->dtype[role]);
    const pfo_interval interval = { begin, begin + bytes, tensor, role, 0 };
    return interval;
}

static pfo_interval
interval_of_scales(const pfo_plan_entry *entry, int32_t tensor, pfo_role role)
{
    const uintptr_t begin = (uintptr_t)entry->scales[role - PFO_ROLE_STATE_1];
    const uintptr_t blocks = ((uintptr_t)entry->count + PFO_SCALE_BLOCK - 1) / PFO_SCALE_BLOCK;
    const pfo_interval interval = { begin, begin + blocks * sizeof(float), tensor, role, 1 };
    return interval;
}

static pfo_status
fail_shared(const pfo_plan *plan, const pfo_interval *a, const pfo_interval *b, pfo_error *err)
{
    return pfo_fail(err, PFO_BAD_ARGUMENT, "%s%s[%d] and %s%s[%d] share memory; a step needs each in memory of its own",
                    a->is_scales ? "the scales of " : "", pfo_role_name(plan->op, a->role), (int)a->tensor,
                    b->is_scales ? "the scales of " : "", pfo_role_name(plan->op, b->role), (int)b->tensor);
}

static pfo_status
collect_written(pfo_plan *plan, pfo_error *err)
{
    for (int32_t t = 0; t < plan->tensor_count; t++) {
        const pfo_plan_entry *entry = &plan->entries[t];
        for (int role = 0; role < PFO_ROLE_COUNT && entry->count > 0; role++) {
            if (role_written[role] && entry->data[role] != NULL) {
                plan->written[plan->written_count++] = interval_of(entry, t, (pfo_role)role);
                if (is_scaled(entry, role)) {
                    plan->written[plan->written_count++] = interval_of_scales(entry, t, (pfo_role)role);
                }
            }
        }
    }
    qsort(plan->written, (size_t)plan->written_count, sizeof *plan->written, by_address);
    for (int64_t i = 1; i < plan->written_count; i++) {
        if (plan->written[i].begin < plan->written[i - 1].end) {
            const int in_order = plan->written[i - 1].tensor <= plan->written[i].tensor;
            return fail_shared(plan, &plan->written[in_order ? i - 1 : i], &plan->written[in_order ? i : i - 1], err);
        }
    }
    return PFO_OK;
}

static pfo_status
check_grad_is_apart(const pfo_plan *plan, int32_t tensor, pfo_error *err)
{
    if (plan->entries[tensor].count == 0 || plan->entries[tensor].data[PFO_ROLE_GRAD] == NULL) {
        return PFO_OK;
    }
    const pfo_interval grad = interval_of(&plan->entries[tensor], tensor, PFO_ROLE_GRAD);
    int64_t low = 0, high = plan->written_count; /* first written interval that ends after grad begins */
    while (low < high) {
        const int64_t middle = low + (high - low) / 2;
        if (plan->written[middle].end <= grad.begin) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    if (low < plan->written_count && plan->written[low].begin < grad.end) {
        return fail_shared(plan, &grad, &plan->written[low], err);
    }
    return PFO_OK;
}

static int64_t
chunks_of(int64_t count)
{
    return count / PFO_CHUNK_ELEMENTS + (count % PFO_CHUNK_ELEMENTS != 0);
}

/* Upper bound of what steps write: every role that is there, and its scales. */
static size_t
written_tensors(const pfo_plan *plan)
{
    size_t count = 0;
    for (int32_t t = 0; t < plan->tensor_count; t++) {
        for (int role = 0; role < PFO_ROLE_COUNT; role++) {
            count += (plan->entries[t].data[role] != NULL) + (size_t)is_scaled(&plan->entries[t], role);
        }
    }
    return count;
}

static pfo_status
allocate_tables(pfo_plan *plan, pfo_error *err)
{
    const size_t tensors = (size_t)plan->tensor_count;
    const size_t chunks = (size_t)plan->chunk_count;
    plan->first_chunk = pfo_alloc_array(tensors + 1, sizeof *plan->first_chunk);
    plan->chunk_tensor = pfo_alloc_array(chunks, sizeof *plan->chunk_tensor);
    plan->scalars_of = pfo_alloc_array(tensors, sizeof *plan->scalars_of);
    plan->scalars = pfo_alloc_array(tensors, sizeof *plan->scalars);
    plan->partials = pfo_alloc_array(chunks, sizeof *plan->partials);
    plan->written = pfo_alloc_array(written_tensors(plan), sizeof *plan->written);
    if (plan->first_chunk == NULL || plan->chunk_tensor == NULL || plan->scalars_of == NULL || plan->scalars == NULL ||
        plan->partials == NULL || plan->written == NULL) {
        return pfo_fail(err, PFO_NO_MEMORY, "out of memory for a plan over %zu tensors in %zu chunks", tensors, chunks);
    }
    return PFO_OK;
}

static void
cut_into_chunks(pfo_plan *plan)
{
    int64_t chunk = 0;
    for (int32_t t = 0; t < plan->tensor_count; t++) {
        plan->first_chunk[t] = chunk;
        const int64_t end = chunk + chunks_of(plan->entries[t].count);
        while (chunk < end) {
            plan->chunk_tensor[chunk++] = t;
        }
    }
    plan->first_chunk[plan->tensor_count] = chunk;
}

static int
is_plain(const pfo_plan_entry *entry)
{
    for (int role = 0; role < PFO_ROLE_COUNT; role++) {
        if (role != PFO_ROLE_GRAD && entry->data[role] != NULL && entry->dtype[role] != PFO_DTYPE_FLOAT32) {
            return 0;
        }
    }
    return entry->data[PFO_ROLE_COPY] == NULL && entry->data[PFO_ROLE_EMA] == NULL;
}

static pfo_status
fill(pfo_plan *plan, const pfo_plan_entry *entries, pfo_error *err)
{
    for (int32_t t = 0; t < plan->tensor_count; t++) {
        PFO_TRY(check_entry(plan->op, &entries[t], t, plan->group_count, err));
        plan->chunk_count += chunks_of(entries[t].count);
        plan->element_count += entries[t].count;
    }
    plan->entries = pfo_alloc_array((size_t)plan->tensor_count, sizeof *plan->entries);
    if (plan->entries == NULL) {
        return pfo_fail(err, PFO_NO_MEMORY, "out of memory for a plan over %d tensors", (int)plan->tensor_count);
    }
    if (plan->tensor_count > 0) {
        memcpy(plan->entries, entries, (size_t)plan->tensor_count * sizeof *entries);
    }
    for (int32_t t = 0; t < plan->tensor_count; t++) {
        plan->entries[t].plain = is_plain(&plan->entries[t]);
    }
    PFO_TRY(allocate_tables(plan, err));
    cut_into_chunks(plan);
    PFO_TRY(collect_written(plan, err));
    for (int32_t t = 0; t < plan->tensor_count; t++) {
        PFO_TRY(check_grad_is_apart(plan, t, err));
    }
    return PFO_OK;
}

pfo_status
pfo_plan_create(pfo_op op, const pfo_plan_entry *entries, int64_t tensor_count, int32_t group_count, pfo_plan **plan,
                pfo_error *err)
{
    *plan = NULL;
    if (tensor_count < 0 || tensor_count > INT32_MAX) {
        return pfo_fail(err, PFO_BAD_ARGUMENT, "%lld tensors; accepted: 0 to %d", (long long)tensor_count, INT32_MAX);
    }
    pfo_plan *made = pfo_alloc_array(1, sizeof *made);
    if (made == NULL) {
        return pfo_fail(err, PFO_NO_MEMORY, "out of memory for a plan");
    }
    made->op = op;
    made->tensor_count = (int32_t)tensor_count;
    made->group_count = group_count;
    made->grads_apart = -1;
    const pfo_status status = fill(made, entries, err);
    if (status != PFO_OK) {
        pfo_plan_destroy(made);
        return status;
    }
    *plan = made;
    return PFO_OK;
}

void
pfo_plan_destroy(pfo_plan *plan)
{
    if (plan == NULL) {
        return;
    }
    pfo_free(plan->entries);
    pfo_free(plan->first_chunk);
    pfo_free(plan->chunk_tensor);
    pfo_free(plan->scalars_of);
    pfo_free(plan->scalars);
    pfo_free(plan->partials);
    pfo_free(plan->written);
    pfo_free(plan);
}

pfo_status
pfo_plan_set_grad(pfo_plan *plan, int32_t tensor, int present, void *data, pfo_dtype dtype, pfo_error *err)
{
    pfo_plan_entry *entry = &plan->entries[tensor];
    void *const data_before = entry->data[PFO_ROLE_GRAD];
    const pfo_dtype dtype_before = entry->dtype[PFO_ROLE_GRAD];
    if (data == data_before && data != NULL && dtype == dtype_before) {
        entry->has_grad = present;
        return PFO_OK;
    }
    const int present_before = entry->has_grad;
    entry->data[PFO_ROLE_GRAD] = data;
    entry->dtype[PFO_ROLE_GRAD] = dtype;
    entry->has_grad = present;
    pfo_status status = check_role(plan->op, entry, PFO_ROLE_GRAD, tensor, err);
    if (status == PFO_OK) {
        status = check_grad_is_apart(plan, tensor, err);
    }
    if (status != PFO_OK) {
        entry->data[PFO_ROLE_GRAD] = data_before;
        entry->dtype[PFO_ROLE_GRAD] = dtype_before;
        entry->has_grad = present_before;
        return status;
    }
    plan->grads_apart = -1;
    return PFO_OK;
}

static int
grads_overlap(const pfo_plan *plan, pfo_interval *grads)
{
    size_t count = 0;
    for (int32_t t = 0; t < plan->tensor_count; t++) {
        if (plan->entries[t].count > 0 && plan->entries[t].data[PFO_ROLE_GRAD] != NULL) {
            grads[count++] = interval_of(&plan->entries[t], t, PFO_ROLE_GRAD);
        }
    }
    qsort(grads, count, sizeof *grads, by_address);
    for (size_t i = 1; i < count; i++) {
        if (grads[i].begin < grads[i - 1].end) {
            return 1;
        }
    }
    return 0;
}

int
pfo_plan_grads_are_apart(pfo_plan *plan)
{
    if (plan->grads_apart < 0) {
        pfo_interval *grads = pfo_alloc_array((size_t)plan->tensor_count, sizeof *grads);
        if (grads == NULL) {
            return 0;
        }
        plan->grads_apart = !grads_overlap(plan, grads);
        pfo_free(grads);
    }
    return plan->grads_apart;
}
