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
    uint64_t hash;    /* after pfo_key_finish() */
    int holds_weakly; /* [instances] */
    pfo_key_part inline_parts[PFO_KEY_INLINE_PARTS];
} pfo_key_builder;

void pfo_key_start(pfo_key_builder *builder, pfo_core_state *state, int holds_weakly);
void pfo_key_drop(pfo_key_builder *builder);

/* 0; 1 when the object can be no part of a key (culprit is set, no exception); -1 exception. */
int pfo_key_add(pfo_key_builder *builder, PyObject *object);

/* The instance a method is called on: by identity, held weakly, whatever its own equality says. Same answers; 1 if it has no weak
 * references. */
int pfo_key_add_instance(pfo_key_builder *builder, PyObject *object);

int pfo_key_add_mark(pfo_key_builder *builder, char detail, uint64_t count);

/* Computes the hash; nothing may be added after it. */
void pfo_key_finish(pfo_key_builder *builder);

/* pfo_table_equal: sought is a finished builder. */
int pfo_key_equal(void *context, const void *sought, const void *kept);

/* pfo_table_equal for pfo_table_find_inline(): sought is an exact int or str; runs no user code. */
static inline int pfo_key_equal_simple(void *context, const void *sought, const void *kept);

/* What a kept key needs to drop its entry when an instance dies: called with the owner and the entry's hash and key. */
typedef void (*pfo_key_orphaned)(PyObject *owner, uint64_t hash, void *key);

/* A kept key from a finished builder (which stays as it is), or NULL with an exception. owner is borrowed: it releases its keys
 * before it goes. Creating weak references may run the collector, so any table may have changed afterwards. */
void *pfo_key_keep(const pfo_key_builder *builder, PyObject *owner, pfo_key_orphaned orphaned);

void pfo_key_release(void *kept); /* NULL is allowed; may run user code */
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
