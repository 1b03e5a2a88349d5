/* fingerprint_arrow_ranges.c: ranges of slots of Arrow arrays, and their runs of one validity. See fingerprint_arrow_parts.h. */
#include "base/alloc.h"
#include "cache/fingerprint_arrow_parts.h"

/* ---- ranges ---------------------------------------------------------------------------------- */

pfo_status
pfo_arrow_add_range(pfo_arrow_ranges *list, const struct ArrowArray *array, int64_t first, int64_t count)
{
    if (count <= 0) {
        return PFO_OK;
    }
    list->slots += count;
    if (list->count > 0) {
        pfo_arrow_range *last = &list->items[list->count - 1];
        if (last->array == array && last->first + last->count == first) {
            last->count += count;
            return PFO_OK;
        }
    }
    if (list->count == list->capacity) {
        const size_t capacity = list->capacity == 0 ? 8 : list->capacity * 2;
        pfo_arrow_range *items = pfo_realloc_array(list->items, capacity, sizeof *items);
        if (items == NULL) {
            return PFO_NO_MEMORY;
        }
        list->items = items;
        list->capacity = capacity;
    }
    list->items[list->count++] = (pfo_arrow_range){ array, first, count };
    return PFO_OK;
}

pfo_status
pfo_arrow_add_child_range(pfo_arrow_ranges *list, const struct ArrowArray *child, int64_t first, int64_t count)
{
    if (first < 0 || count < 0 || first > child->length - count) {
        return PFO_BAD_ARGUMENT; /* a null slot of a broken producer never gets here, a valid one must be inside */
    }
    return pfo_arrow_add_range(list, child, child->offset + first, count);
}

/* ---- validity -------------------------------------------------------------------------------- */

const unsigned char *
pfo_arrow_validity(const struct ArrowArray *array)
{
    return array->null_count == 0 || array->n_buffers < 1 ? NULL : array->buffers[0];
}

int64_t
pfo_arrow_run(const unsigned char *bits, int64_t index, int64_t end, int *valid)
{
    if (bits == NULL) {
        *valid = 1;
        return end - index;
    }
    *valid = pfo_arrow_bit(bits, index);
    const unsigned char whole = *valid ? 0xff : 0;
    const int64_t start = index++;
    while (index < end) {
        if (index % 8 == 0 && end - index >= 8 && bits[index / 8] == whole) {
            index += 8;
        } else if (pfo_arrow_bit(bits, index) == *valid) {
            index++;
        } else {
            break;
        }
    }
    return index - start;
}

pfo_status
pfo_arrow_visit_runs(const pfo_arrow_ranges *slots, pfo_arrow_visitor visit, void *context)
{
    for (size_t i = 0; i < slots->count; i++) {
        const pfo_arrow_range *r = &slots->items[i];
        const unsigned char *bits = pfo_arrow_validity(r->array);
        for (int64_t slot = r->first, end = r->first + r->count; slot < end;) {
            int valid;
            const int64_t count = pfo_arrow_run(bits, slot, end, &valid);
            const pfo_arrow_range run = { r->array, slot, count };
            PFO_TRY(visit(context, &run, valid));
            slot += count;
        }
    }
    return PFO_OK;
}
