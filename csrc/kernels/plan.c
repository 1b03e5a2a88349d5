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

const char *
pfo_role_name(pfo_role role)
{
    return role_names[role];
}

static int
role_required(pfo_op op, pfo_role role, int has_grad)
{
    return role == PFO_ROLE_GRAD ? has_grad : op != PFO_OP_NORM;
}

static pfo_status
check_entry(pfo_op op, const pfo_plan_entry *entry, int32_t tensor, int32_t group_count, pfo_error *err)
{
    if (entry->count < 0 || (uint64_t)entry->count > (uint64_t)PTRDIFF_MAX / pfo_dtype_bytes(entry->dtype)) {
        return pfo_fail(err, PFO_BAD_ARGUMENT, "tensor %d has %lld elements", (int)tensor, (long long)entry->count);
    }
    if (entry->group < 0 || entry->group >= group_count) {
        return pfo_fail(err, PFO_BAD_ARGUMENT, "tensor %d is in group %d of %d", (int)tensor, (int)entry->group,
                        (int)group_count);
    }
    for (int role = 0; role < PFO_ROLE_COUNT; role++) {
        const void *data = entry->data[role];
        if (data == NULL && entry->count > 0 && role_required(op, (pfo_role)role, entry->has_grad)) {
            return pfo_fail(err, PFO_BAD_ARGUMENT, "%s[%d] has no memory", role_names[role], (int)tensor);
        }
        if ((uintptr_t)data % pfo_dtype_bytes(entry->dtype) != 0) {
            return pfo_fail(err, PFO_BAD_ARGUMENT, "%s[%d] is not aligned to its element size (address %p)",
                            role_names[role], (int)tensor, data);
        }
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
    const pfo_interval interval = { begin, begin + (uintptr_t)entry->count * pfo_dtype_bytes(entry->dtype), tensor,
                                    role };
    return interval;
}

static pfo_status
fail_shared(const pfo_interval *a, const pfo_interval *b, pfo_error *err)
{
    return pfo_fail(err, PFO_BAD_ARGUMENT, "%s[%d] and %s[%d] share memory; a step needs each in memory of its own",
                    role_names[a->role], (int)a->tensor, role_names[b->role], (int)b->tensor);
}

static pfo_status
collect_written(pfo_plan *plan, pfo_error *err)
{
    for (int32_t t = 0; t < plan->tensor_count; t++) {
        for (int role = 0; role < PFO_ROLE_COUNT; role++) {
            if (role_written[role] && plan->entries[t].count > 0 && plan->entries[t].data[role] != NULL) {
                plan->written[plan->written_count++] = interval_of(&plan->entries[t], t, (pfo_role)role);
            }
        }
    }
    qsort(plan->written, (size_t)plan->written_count, sizeof *plan->written, by_address);
    for (int64_t i = 1; i < plan->written_count; i++) {
        if (plan->written[i].begin < plan->written[i - 1].end) {
            const int in_order = plan->written[i - 1].tensor <= plan->written[i].tensor;
            return fail_shared(&plan->written[in_order ? i - 1 : i], &plan->written[in_order ? i : i - 1], err);
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
        return fail_shared(&grad, &plan->written[low], err);
    }
    return PFO_OK;
}

static int64_t
chunks_of(int64_t count)
{
    return count / PFO_CHUNK_ELEMENTS + (count % PFO_CHUNK_ELEMENTS != 0);
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
    plan->written = pfo_alloc_array(tensors * PFO_ROLE_COUNT, sizeof *plan->written);
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
pfo_plan_set_grad(pfo_plan *plan, int32_t tensor, int present, void *data, pfo_error *err)
{
    pfo_plan_entry *entry = &plan->entries[tensor];
    void *before = entry->data[PFO_ROLE_GRAD];
    if (data == before && data != NULL) {
        entry->has_grad = present;
        return PFO_OK;
    }
    if ((uintptr_t)data % pfo_dtype_bytes(entry->dtype) != 0) {
        return pfo_fail(err, PFO_BAD_ARGUMENT, "grads[%d] is not aligned to its element size (address %p)", (int)tensor,
                        data);
    }
    if (present && data == NULL && entry->count > 0) {
        return pfo_fail(err, PFO_BAD_ARGUMENT, "grads[%d] has no memory", (int)tensor);
    }
    entry->data[PFO_ROLE_GRAD] = data;
    const pfo_status status = check_grad_is_apart(plan, tensor, err);
    if (status != PFO_OK) {
        entry->data[PFO_ROLE_GRAD] = before;
        return status;
    }
    entry->has_grad = present;
    return PFO_OK;
}
