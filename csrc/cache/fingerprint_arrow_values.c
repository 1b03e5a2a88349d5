/* fingerprint_arrow_values.c: the Arrow layouts that hold values themselves: bits, fixed width, text and binary. See
 * fingerprint_arrow_parts.h. */
#include "cache/fingerprint_arrow_parts.h"

#include <string.h>

/* ---- bits ------------------------------------------------------------------------------------ */

/* Bits in a row, byte by byte, to pieces. */
typedef struct bit_writer {
    pfo_pieces pieces;
    unsigned pending; /* fewer than 8 bits, from bit 0 on */
    unsigned pending_count;
} bit_writer;

static void
put_bits(bit_writer *out, unsigned bits, unsigned count)
{
    out->pending |= bits << out->pending_count;
    out->pending_count += count;
    if (out->pending_count >= 8) {
        const unsigned char byte = (unsigned char)out->pending;
        pfo_pieces_put(&out->pieces, &byte, 1);
        out->pending >>= 8;
        out->pending_count -= 8;
    }
}

/* bits == NULL: all ones, or all zeros. */
static void
put_bit_range(bit_writer *out, const unsigned char *bits, int64_t first, int64_t count, int constant)
{
    if (bits != NULL && out->pending_count == 0 && first % 8 == 0) {
        pfo_pieces_put(&out->pieces, bits + first / 8, (size_t)(count / 8));
        first += count / 8 * 8;
        count %= 8;
    }
    for (int64_t i = 0; i < count;) {
        const unsigned step = count - i < 8 ? (unsigned)(count - i) : 8u;
        unsigned value = constant ? 0xffu : 0u;
        if (bits != NULL) {
            const int64_t at = first + i;
            const unsigned shift = (unsigned)(at % 8);
            value = (unsigned)bits[at / 8] >> shift;
            if (shift + step > 8) {
                value |= (unsigned)bits[at / 8 + 1] << (8 - shift);
            }
        }
        put_bits(out, value & ((1u << step) - 1u), step);
        i += step;
    }
}

static void
finish_bits(bit_writer *out)
{
    if (out->pending_count > 0) {
        const unsigned char byte = (unsigned char)out->pending;
        pfo_pieces_put(&out->pieces, &byte, 1);
    }
    pfo_pieces_finish(&out->pieces);
}

static unsigned
ones_in(uint64_t word)
{
    word -= word >> 1 & UINT64_C(0x5555555555555555);
    word = (word & UINT64_C(0x3333333333333333)) + (word >> 2 & UINT64_C(0x3333333333333333));
    word = (word + (word >> 4)) & UINT64_C(0x0f0f0f0f0f0f0f0f);
    return (unsigned)(word * UINT64_C(0x0101010101010101) >> 56);
}

static uint64_t
count_nulls(const pfo_arrow_range *slots)
{
    const unsigned char *bits = pfo_arrow_validity(slots->array);
    const int64_t end = slots->first + slots->count;
    uint64_t valid = 0;
    if (bits == NULL) {
        return 0;
    }
    for (int64_t slot = slots->first; slot < end;) {
        if (slot % 8 == 0 && end - slot >= 64) {
            uint64_t word;
            memcpy(&word, bits + slot / 8, sizeof word);
            valid += ones_in(word);
            slot += 64;
        } else {
            valid += (uint64_t)pfo_arrow_bit(bits, slot++);
        }
    }
    return (uint64_t)slots->count - valid;
}

void
pfo_arrow_encode_validity(pfo_arrow_walk *at, const pfo_arrow_ranges *slots)
{
    uint64_t nulls = 0;
    for (size_t i = 0; i < slots->count; i++) {
        nulls += count_nulls(&slots->items[i]);
    }
    pfo_encode_number(at->encoder, nulls);
    if (nulls == 0) {
        return;
    }
    bit_writer out = { .pending_count = 0 };
    pfo_pieces_start(&out.pieces, at->encoder, 0);
    for (size_t i = 0; i < slots->count; i++) {
        const pfo_arrow_range *r = &slots->items[i];
        put_bit_range(&out, pfo_arrow_validity(r->array), r->first, r->count, 1);
    }
    finish_bits(&out);
}

/* ---- values of fixed width ------------------------------------------------------------------- */

static pfo_status
put_boolean_run(void *context, const pfo_arrow_range *run, int valid)
{
    put_bit_range(context, valid ? run->array->buffers[1] : NULL, run->first, run->count, 0);
    return PFO_OK;
}

pfo_status
pfo_arrow_encode_booleans(pfo_arrow_walk *at, const pfo_arrow_ranges *slots)
{
    bit_writer out = { .pending_count = 0 };
    pfo_arrow_encode_validity(at, slots);
    pfo_pieces_start(&out.pieces, at->encoder, 0);
    const pfo_status status = pfo_arrow_visit_runs(slots, put_boolean_run, &out);
    finish_bits(&out);
    return status;
}

enum { MIXED_BLOCK = 256, LONG_RUN = 32, WIDEST_MIXED = 32 };

/* Slots of which some are null: a copy of a block with zeros put in. Without branches where the width is a number's, because the
 * pattern of nulls is usually random. pre: count <= MIXED_BLOCK, width <= WIDEST_MIXED. */
static void
put_mixed_block(pfo_pieces *pieces, const unsigned char *bits, const unsigned char *values, int64_t first,
                int64_t count, size_t width)
{
    union {
        unsigned char bytes[MIXED_BLOCK * WIDEST_MIXED];
        uint8_t one[MIXED_BLOCK];
        uint16_t two[MIXED_BLOCK];
        uint32_t four[MIXED_BLOCK];
        uint64_t eight[MIXED_BLOCK];
    } block;
    memcpy(block.bytes, values + (size_t)first * width, (size_t)count * width);
#define KEEP_VALID(member, type)                                                                                       \
    for (int64_t i = 0; i < count; i++) {                                                                              \
        block.member[i] = (type)(block.member[i] & (type)(0 - (type)pfo_arrow_bit(bits, first + i)));                  \
    }
    switch (width) {
    case 1:
        KEEP_VALID(one, uint8_t)
        break;
    case 2:
        KEEP_VALID(two, uint16_t)
        break;
    case 4:
        KEEP_VALID(four, uint32_t)
        break;
    case 8:
        KEEP_VALID(eight, uint64_t)
        break;
    default:
        for (int64_t i = 0; i < count; i++) {
            if (!pfo_arrow_bit(bits, first + i)) {
                memset(block.bytes + (size_t)i * width, 0, width);
            }
        }
    }
#undef KEEP_VALID
    pfo_pieces_put(pieces, block.bytes, (size_t)count * width);
}

static void
put_fixed_range(pfo_pieces *pieces, const pfo_arrow_range *slots, size_t width)
{
    const unsigned char *bits = pfo_arrow_validity(slots->array);
    const unsigned char *values = slots->array->buffers[1];
    const int64_t end = slots->first + slots->count;
    for (int64_t slot = slots->first; slot < end;) {
        int valid;
        int64_t count = pfo_arrow_run(bits, slot, end, &valid);
        if (bits != NULL && count < LONG_RUN && width <= WIDEST_MIXED) {
            count = end - slot < MIXED_BLOCK ? end - slot : MIXED_BLOCK;
            put_mixed_block(pieces, bits, values, slot, count, width);
        } else if (valid) {
            pfo_pieces_put(pieces, values + (size_t)slot * width, (size_t)count * width);
        } else {
            pfo_pieces_put_zeros(pieces, (size_t)count * width);
        }
        slot += count;
    }
}

pfo_status
pfo_arrow_encode_fixed(pfo_arrow_walk *at, const pfo_arrow_ranges *slots, int64_t width)
{
    pfo_pieces pieces;
    pfo_arrow_encode_validity(at, slots);
    pfo_pieces_start(&pieces, at->encoder, 0);
    for (size_t i = 0; i < slots->count && width > 0; i++) {
        put_fixed_range(&pieces, &slots->items[i], (size_t)width);
    }
    pfo_pieces_finish(&pieces);
    return PFO_OK;
}

/* ---- text and binary ------------------------------------------------------------------------- */

enum { LENGTHS_BLOCK = 256, VIEW_INLINE = 12 };

typedef struct lengths_run {
    pfo_pieces pieces;
    pfo_arrow_kind kind;
    uint64_t total;
} lengths_run;

pfo_arrow_extent
pfo_arrow_extent_at(pfo_arrow_kind kind, const struct ArrowArray *array, int64_t slot)
{
    if (kind.layout == PFO_ARROW_BYTES_VIEW) {
        int32_t length;
        memcpy(&length, (const unsigned char *)array->buffers[1] + slot * 16, sizeof length);
        return (pfo_arrow_extent){ slot, length };
    }
    const int64_t begin = pfo_arrow_signed(array->buffers[1], kind.width, slot);
    return kind.layout == PFO_ARROW_LIST_VIEW
               ? (pfo_arrow_extent){ begin, pfo_arrow_signed(array->buffers[2], kind.width, slot) }
               : (pfo_arrow_extent){ begin, pfo_arrow_signed(array->buffers[1], kind.width, slot + 1) - begin };
}

static pfo_status
put_lengths_run(void *context, const pfo_arrow_range *run, int valid)
{
    lengths_run *out = context;
    if (!valid) {
        pfo_pieces_put_zeros(&out->pieces, (size_t)run->count * sizeof(int64_t));
        return PFO_OK;
    }
    int64_t block[LENGTHS_BLOCK];
    for (int64_t done = 0; done < run->count;) {
        const int64_t step = run->count - done < LENGTHS_BLOCK ? run->count - done : LENGTHS_BLOCK;
        for (int64_t i = 0; i < step; i++) {
            block[i] = pfo_arrow_extent_at(out->kind, run->array, run->first + done + i).length;
            if (block[i] < 0) {
                return PFO_BAD_ARGUMENT;
            }
            out->total += (uint64_t)block[i];
        }
        pfo_pieces_put(&out->pieces, block, (size_t)step * sizeof *block);
        done += step;
    }
    return PFO_OK;
}

pfo_status
pfo_arrow_encode_lengths(pfo_arrow_walk *at, const pfo_arrow_ranges *slots, pfo_arrow_kind kind, uint64_t *total)
{
    lengths_run out = { .kind = kind };
    pfo_arrow_encode_validity(at, slots);
    pfo_pieces_start(&out.pieces, at->encoder, 0);
    const pfo_status status = pfo_arrow_visit_runs(slots, put_lengths_run, &out);
    pfo_pieces_finish(&out.pieces);
    *total = out.total;
    return status;
}

static pfo_status
put_bytes_run(void *context, const pfo_arrow_range *run, int valid)
{
    lengths_run *out = context;
    if (!valid) {
        return PFO_OK;
    }
    const struct ArrowArray *array = run->array;
    if (out->kind.layout == PFO_ARROW_BYTES) { /* valid neighbours lie side by side */
        const int64_t begin = pfo_arrow_signed(array->buffers[1], out->kind.width, run->first);
        const int64_t end = pfo_arrow_signed(array->buffers[1], out->kind.width, run->first + run->count);
        const unsigned char *bytes = array->buffers[2];
        if (end > begin) {
            pfo_pieces_put(&out->pieces, bytes + begin, (size_t)(end - begin));
        }
        return PFO_OK;
    }
    for (int64_t i = run->first; i < run->first + run->count; i++) {
        const unsigned char *view = (const unsigned char *)array->buffers[1] + i * 16;
        int32_t place[4]; /* length, prefix, buffer, offset */
        memcpy(place, view, sizeof place);
        if (place[0] <= VIEW_INLINE) {
            pfo_pieces_put(&out->pieces, view + 4, (size_t)place[0]);
        } else if (place[2] < 0 || place[2] >= array->n_buffers - 3 || place[3] < 0) {
            return PFO_BAD_ARGUMENT;
        } else {
            const unsigned char *bytes = array->buffers[2 + place[2]];
            pfo_pieces_put(&out->pieces, bytes + place[3], (size_t)place[0]);
        }
    }
    return PFO_OK;
}

pfo_status
pfo_arrow_encode_bytes(pfo_arrow_walk *at, const pfo_arrow_ranges *slots, pfo_arrow_kind kind)
{
    lengths_run out = { .kind = kind };
    PFO_TRY(pfo_arrow_encode_lengths(at, slots, kind, &out.total));
    pfo_encode_number(at->encoder, out.total);
    pfo_pieces_start(&out.pieces, at->encoder, 0);
    const pfo_status status = pfo_arrow_visit_runs(slots, put_bytes_run, &out);
    pfo_pieces_finish(&out.pieces);
    return status;
}
