/* profiler_objects.h: what the profiler's types share: Profiler, Range (one `with`), ProfiledFunction and Driven (one
 * coroutine or generator).
 *
 * [names] A Profiler keeps its names twice: `ids` (str -> id) to find them and `texts` (id -> str) to report them; both
 * hold exact str objects only, so no lookup runs user code. `recent` remembers ids by the identity of the str object
 * (with a reference, so that the address stays its own); a literal in the user's code is found there without hashing.
 * reset() replaces all three. Threads: everything here is guarded by the GIL; durations go to the recorder's per-thread
 * data.
 */
#ifndef PFO_BINDINGS_PROFILER_OBJECTS_H
#define PFO_BINDINGS_PROFILER_OBJECTS_H

#include "bindings/core/core_state.h"

#include "profiler/recorder.h"

enum { PFO_RECENT_NAMES = 64, PFO_FREE_RANGES = 32 };

typedef struct pfo_recent_name {
    PyObject *text; /* owned, NULL: empty */
    uint32_t id;
} pfo_recent_name;

typedef struct pfo_range_object pfo_range_object;

typedef struct pfo_profiler_object {
    PyObject_HEAD
    pfo_recorder *recorder;
    uint64_t epoch; /* the recorder's; names of another epoch are looked up again */
    int enabled;
    int memory; /* measure the resident set around every range; never changes, ProfiledFunction relies on it */
    PyObject *ids;
    PyObject *texts; /* [0] is None: the overflow row */
    PyTypeObject *range_type;
    PyTypeObject *function_type;
    PyTypeObject *driven_type;
    PyTypeObject *capture_type;
    pfo_range_object *free_ranges; /* closed Range objects, for the next `with` */
    int free_count;
    pfo_recent_name recent[PFO_RECENT_NAMES];
} pfo_profiler_object;

/* The id of an exact str by dict lookup, given out if it is new. 0 and *name, or -1 with an exception set. */
int pfo_profiler_find_name(pfo_profiler_object *profiler, PyObject *text, pfo_name *name);

static inline pfo_recent_name *
pfo_recent_place(pfo_profiler_object *profiler, const PyObject *text)
{
    const uintptr_t address = (uintptr_t)text;
    return &profiler->recent[((address >> 4) ^ (address >> 10)) % PFO_RECENT_NAMES];
}

/* The same by identity first: the path of every range. */
static inline int
pfo_profiler_name(pfo_profiler_object *profiler, PyObject *text, pfo_name *name)
{
    const pfo_recent_name *recent = pfo_recent_place(profiler, text);
    if (recent->text == text) {
        name->epoch = profiler->epoch;
        name->id = recent->id;
        return 0;
    }
    return pfo_profiler_find_name(profiler, text, name);
}

/* A new reference to `name` as an exact str; NULL with TypeError unless it is a str. */
PyObject *pfo_profiler_exact_text(PyObject *name);

/* A Range of this profiler, not begun; text is an exact str. memory: measure the resident set around it. */
PyObject *pfo_range_new(pfo_profiler_object *profiler, PyObject *text, int memory);

/* A Driven over inner (awaitable or iterable; NULL for one whose steps come later), not begun. NULL with TypeError. */
PyObject *pfo_driven_new(pfo_profiler_object *profiler, PyObject *text, PyObject *inner);

/* Frees the Range objects kept for reuse. */
void pfo_range_free_kept(pfo_profiler_object *profiler);

/* A ProfiledFunction around `function`. */
PyObject *pfo_profiled_function_new(pfo_profiler_object *profiler, PyObject *function, PyObject *text);

#endif
