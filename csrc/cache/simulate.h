/* simulate.h: replays a trace of requests on simulated caches and counts exactly.
 *
 * Contract: a trace is text, one request a line: `key` or `key,size` with a size in bytes (1 without one); the last comma parts them, spaces
 * around both and a carriage return at the end don't count, empty lines are skipped. A key is the bytes that remain; it is hashed with
 * XXH3-128, of which 64 bits are used. Each request asks for its key and brings it in when it misses; a hit leaves the entry's size as it
 * came. A request larger than the byte bound is a miss and evicts nothing.
 * The trace comes in chunks cut anywhere; a line's beginning is kept until its end comes, at most PFO_TRACE_LINE bytes.
 * Threads: one at a time. Memory: the simulated caches and one line.
 */
#ifndef PFO_CACHE_SIMULATE_H
#define PFO_CACHE_SIMULATE_H

#include "cache/policy_shadow.h"

enum { PFO_TRACE_LINE = 1024 * 1024 };

typedef struct pfo_simulated {
    pfo_shadow cache;
    uint64_t hits;
    uint64_t misses;
    uint64_t bytes_missed;
} pfo_simulated;

typedef struct pfo_simulation {
    pfo_simulated *caches;
    size_t count;
    uint64_t requests;
    uint64_t bytes_requested;
    uint64_t line; /* of the last line begun, from 1 */
    char *rest;    /* the beginning of a line that is not over */
    size_t rest_length;
    size_t rest_capacity;
} pfo_simulation;

/* Room for `count` caches, to be filled by pfo_simulation_add(). NO_MEMORY: needs no pfo_simulation_free(). */
pfo_status pfo_simulation_init(pfo_simulation *simulation, size_t count, pfo_error *err);
void pfo_simulation_free(pfo_simulation *simulation);

/* pre: fewer than the announced number were added. */
pfo_status pfo_simulation_add(pfo_simulation *simulation, const pfo_policy_ops *ops, const pfo_bounds *bounds,
                              pfo_error *err);

/* The next chunk. BAD_ARGUMENT names the line and what is wrong with it; the simulation is of no more use then. */
pfo_status pfo_simulation_feed(pfo_simulation *simulation, const char *text, size_t length, pfo_error *err);

/* The end: a last line without a line feed counts too. */
pfo_status pfo_simulation_finish(pfo_simulation *simulation, pfo_error *err);

#endif
