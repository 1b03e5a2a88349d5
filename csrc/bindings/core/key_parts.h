/* key_parts.h: what the files of keys share: key.c, which builds them, and key_kept.c, which keeps and compares them. */
#ifndef PFO_BINDINGS_KEY_PARTS_H
#define PFO_BINDINGS_KEY_PARTS_H

#include "bindings/core/key.h"

/* Details of PFO_PART_SAME: a singleton that is content, a class that a digest beside it already names, or the owner. */
enum { PFO_SAME_SINGLETON = 0, PFO_SAME_CLASS = 'C', PFO_SAME_OWNER = 'F' };

/* One part more; object is borrowed (NULL: none). -1 with MemoryError. */
int pfo_key_add_part(pfo_key_builder *builder, pfo_part_kind kind, uint32_t detail, uint64_t low, uint64_t high,
                     PyObject *object);

/* One exact int or str: kept as that object itself. */
static inline int
pfo_key_is_simple(const pfo_key_builder *builder)
{
    return builder->count == 1 && (builder->parts[0].kind == PFO_PART_INT || builder->parts[0].kind == PFO_PART_STR);
}

#endif
