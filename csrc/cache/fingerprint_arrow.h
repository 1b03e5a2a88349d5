/* fingerprint_arrow.h: Arrow columns and schemas as parts of a fingerprint, by their logical content.
 *
 * Where chunks are cut, where a slice begins, how validity is stored, and what lies in null slots, in unused elements of lists and
 * in unused entries of dictionaries are no content. Part of the format of fingerprint.h:
 *   'V' schema   type                    'W' data   type; column
 *   type    := payload: format string; payload: name; the nullable, dictionary-ordered and map-keys-sorted flags (8 bytes); metadata:
 *              count, then the digests of the streams of each (key, value) as two 'b' parts, ascending; count of children, their
 *              types; 1 and the dictionary's type, or 0 (8 bytes)
 *   column  := number of slots (8 bytes), then by layout. "validity" is the number of nulls (8 bytes) and, where there are any, data:
 *              one bit per slot, 1 valid, least significant bit first, the last byte filled up with 0.
 *     null                 nothing
 *     boolean              validity; data: one bit per slot, 0 for null
 *     fixed width          validity; data: the values, null slots zeroed
 *     text, binary, views  validity; data: 8-byte lengths, 0 for null; sum of lengths (8 bytes); data: the valid slots' bytes
 *     lists, maps, views   validity; data: 8-byte lengths, 0 for null; column of the valid slots' elements, one after the other
 *     fixed-size lists     validity; column of the valid slots' elements
 *     struct               validity; for each child the column of the slots that are valid in the parent
 *     unions               data: type id of each slot (1 byte); for each child the column of the slots that chose it
 *     dictionary           data: for each slot the 16-byte digest of the stream of its value's column (one slot), 0 for null
 *     run-end encoded      number of runs, equal neighbours joined; data: for each run its length (8 bytes) and the digest of its
 *                          value's column, as above
 * Threads: an encoder belongs to one thread; large buffers are hashed on the pool. Memory: lists of ranges, 16 bytes per dictionary
 * entry, a staging chunk per buffer; all released before return. The arrays are borrowed and only read.
 */
#ifndef PFO_CACHE_FINGERPRINT_ARROW_H
#define PFO_CACHE_FINGERPRINT_ARROW_H

#include "cache/arrow_abi.h"
#include "cache/fingerprint.h"

enum { PFO_ARROW_MAX_DEPTH = 64 };

/* BAD_TYPE with a text for a format that is not known and for types nested deeper than PFO_ARROW_MAX_DEPTH; UNAVAILABLE on big-endian
 * machines. Other failures as pfo_encode_array(). After a failure the encoder is of no more use than to be dropped. */
pfo_status pfo_encode_arrow_schema(pfo_encoder *encoder, const struct ArrowSchema *schema, pfo_error *err);

/* The concatenation of `count` arrays of one type. pre: they are as the schema says. BAD_ARGUMENT where that visibly fails. */
pfo_status pfo_encode_arrow(pfo_encoder *encoder, const struct ArrowSchema *schema, const struct ArrowArray *arrays,
                            size_t count, pfo_error *err);

#endif
