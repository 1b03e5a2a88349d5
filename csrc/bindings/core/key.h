/* key.h: cache keys of Python objects: built from arguments, compared, kept and released.
 *
 * A key is a sequence of typed parts, so that 1, 1.0 and True never meet. Plain scalars are kept as themselves, arrays and containers
 * of content as a digest (content.h), other hashable objects by their own hash and equality, and objects whose equality is identity
 * as a weak reference, because nobody can ask for such an entry once the object is gone: its death drops the entry. [instances]
 * A key that is one exact int or str is that object itself (the fast path): a kept key is a tagged pointer, either a PyObject or,
 * with bit 0 set, a pfo_call_key.
 * References: a builder owns its parts; a kept key owns what it refers to. Comparing and releasing keys may run user code.
 * Threads: all of it needs the GIL.
 */
#ifndef PFO_BINDINGS_KEY_H
#define PFO_BINDINGS_KEY_H

#include "bindings/core/content.h"

#include "cache/table.h"

#include <string.h>

enum { PFO_KEY_INLINE_PARTS = 6 };

typedef enum pfo_part_kind {
    PFO_PART_SAME,     /* object: a singleton or a class, compared by identity */
    PFO_PART_INT,      /* object: exact int, low: its hash */
    PFO_PART_STR,      /* object: exact str, low: its hash */
    PFO_PART_BYTES,    /* object: exact bytes, low: its hash */
    PFO_PART_BITS,     /* detail 'f' or 'c'; low, high: IEEE bits */
    PFO_PART_DIGEST,   /* low, high: content digest */
    PFO_PART_MARK,     /* detail: what follows; high: how many */
    PFO_PART_OBJECT,   /* object: compared by type and own equality, low: its hash */
    PFO_PART_INSTANCE, /* object: compared by identity; a weak reference to it in a kept key */
} pfo_part_kind;

typedef struct pfo_key_part {
    uint32_t kind;
    uint32_t detail;
    uint64_t low;
    uint64_t high;
    PyObject *object;
} pfo_key_part;

typedef struct pfo_key_builder {
    pfo_core_state *state;
    PyTypeObject *culprit; /* the type that cannot be keyed, after an answer 1; owned */
    pfo_key_part *parts;
    Py_ssize_t count;
    Py_ssize_t capacity;
    PyObject *original;    /* borrowed: what a kept key shall give back to the user as its key, or NULL */
    uint64_t hash;         /* after pfo_key_finish() */
    int64_t content_ticks; /* time spent on reading content */
    int holds_weakly;      /* [instances] */
    pfo_key_part inline_parts[PFO_KEY_INLINE_PARTS];
} pfo_key_builder;

static inline void
pfo_key_start(pfo_key_builder *builder, pfo_core_state *state, int holds_weakly)
{
    builder->state = state;
    builder->culprit = NULL;
    builder->original = NULL;
    builder->parts = builder->inline_parts;
    builder->count = 0;
    builder->capacity = PFO_KEY_INLINE_PARTS;
    builder->hash = 0;
    builder->content_ticks = 0;
    builder->holds_weakly = holds_weakly;
}

/* The same, and finished: the key of one exact int or str. */
static inline void
pfo_key_start_simple(pfo_key_builder *builder, pfo_core_state *state, int holds_weakly, PyObject *object)
{
    pfo_key_start(builder, state, holds_weakly);
    builder->hash = (uint64_t)Py_TYPE(object)->tp_hash(object);
    builder->count = 1;
    builder->parts[0] = (pfo_key_part){
        .kind = PyLong_CheckExact(object) ? PFO_PART_INT : PFO_PART_STR,
        .low = builder->hash,
        .object = Py_NewRef(object),
    };
}

void pfo_key_drop(pfo_key_builder *builder);

/* 0; 1 when the object can be no part of a key (culprit is set, no exception); -1 exception. */
int pfo_key_add(pfo_key_builder *builder, PyObject *object);

/* The instance a method is called on: by identity, held weakly, whatever its own equality says. Same answers; 1 if it has no weak
 * references. */
int pfo_key_add_instance(pfo_key_builder *builder, PyObject *object);

int pfo_key_add_mark(pfo_key_builder *builder, char detail, uint64_t count);

/* A part that only meets itself and has no content: whose key it is, in a cache that several share. To be added first.
 * [prefix] */
int pfo_key_add_owner(pfo_key_builder *builder, PyObject *owner);

/* The parts of a kept key, instances that still live included; 1 without an exception when one has died. */
int pfo_key_add_kept(pfo_key_builder *builder, const void *kept);

/* Computes the hash; nothing may be added after it. */
void pfo_key_finish(pfo_key_builder *builder);

/* The digest of a finished builder that is the same in every process: of prefix (may be NULL) and the parts, without reading any array
 * again. Parts that have no content in the key (objects by their own equality, instances) are read for it. 0; 1 when one has none that
 * can be read (culprit is set, no exception); -1 exception. Owner parts [prefix] are left out: prefix says whose key it is. */
int pfo_key_persistent(pfo_key_builder *builder, const pfo_digest *prefix, pfo_digest *digest);

/* pfo_table_equal: sought is a finished builder. */
int pfo_key_equal(void *context, const void *sought, const void *kept);

/* pfo_table_equal for pfo_table_find_inline(): sought is an exact int or str; runs no user code. */
static inline int pfo_key_equal_simple(void *context, const void *sought, const void *kept);

/* What a kept key needs to drop its entry when an instance dies: called with the owner and the entry's hash and key. */
typedef void (*pfo_key_orphaned)(PyObject *owner, uint64_t hash, void *key);

/* A kept key from a finished builder (which stays as it is), or NULL with an exception. owner is borrowed: it releases its keys
 * before it goes. Creating weak references may run the collector, so any table may have changed afterwards. */
void *pfo_key_keep(const pfo_key_builder *builder, PyObject *owner, pfo_key_orphaned orphaned);

/* Starts a builder as a copy of a finished one; it is dropped like any other. Runs no code. -1 with an exception. */
int pfo_key_copy(pfo_key_builder *copy, const pfo_key_builder *builder);

/* 1 equal, 0 different, -1 exception: two finished builders. Runs user code. */
int pfo_key_same(const pfo_key_builder *left, const pfo_key_builder *right);

void pfo_key_release(void *kept); /* NULL is allowed; may run user code */
void *pfo_key_hold(void *kept);   /* one more reference, to be released */

/* What the user knows the key as: the object given, where it says all (hashable keys), else a ContentKey. New reference, or NULL with an
 * exception. */
PyObject *pfo_key_object(pfo_core_state *state, void *kept, uint64_t hash);

/* The object itself that a kept key keeps, borrowed: the int or str that it is, or the original; NULL when there is none. */
PyObject *pfo_key_known(const void *kept);

/* The owner part that a kept key begins with [prefix], borrowed, or NULL. */
PyObject *pfo_key_owner(const void *kept);

/* 1 for a kept key whose first part is this owner [prefix]. */
int pfo_key_is_owned(const void *kept, const PyObject *owner);

/* 1 when a key made from this object may keep it alive and give it back: it is hashable, and nothing in it is keyed by content. */
int pfo_key_keeps_original(pfo_core_state *state, PyObject *object, int depth);
int pfo_key_visit(const void *kept, visitproc visit, void *arg);

/* The owner is going: no death of an instance calls it any more. Runs no code. */
void pfo_key_disown(void *kept);

#define PFO_KEY_IS_CALL(kept) (((uintptr_t)(kept) & 1u) != 0)

static inline int
pfo_same_text(PyObject *left, PyObject *right)
{
    const Py_ssize_t length = PyUnicode_GET_LENGTH(left);
    return length == PyUnicode_GET_LENGTH(right) && PyUnicode_KIND(left) == PyUnicode_KIND(right) &&
           memcmp(PyUnicode_DATA(left), PyUnicode_DATA(right), (size_t)length * (size_t)PyUnicode_KIND(left)) == 0;
}

static inline int
pfo_same_int(PyObject *left, PyObject *right)
{
    PyObject *same = PyLong_Type.tp_richcompare(left, right, Py_EQ); /* cannot fail for two ints; gives a singleton */
    Py_XDECREF(same);
    return same == Py_True;
}

static inline int
pfo_key_equal_simple(void *context, const void *sought, const void *kept)
{
    (void)context;
    PyObject *left = (PyObject *)(uintptr_t)sought;
    PyObject *right = (PyObject *)(uintptr_t)kept;
    if (PFO_KEY_IS_CALL(kept) || Py_TYPE(left) != Py_TYPE(right)) {
        return 0;
    }
    return PyUnicode_CheckExact(left) ? pfo_same_text(left, right) : pfo_same_int(left, right);
}

#endif
