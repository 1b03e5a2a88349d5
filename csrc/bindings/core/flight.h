/* flight.h: single flight: of all threads that miss one key at once, one computes and the others sleep until it has.
 *
 * Contract: a flight is one computation of one key of one cache. A caller that found nothing in its cache boards:
 *
 *     again:
 *         look into the cache; on a hit return
 *         switch (pfo_flight_board(&flights, &builder, &boarded)) {
 *         MINE:    (look once more if the cache changed since the look) compute; then, in this order, put the result into the
 *                  cache (cache_changes.h says when not), and pfo_flight_land(); or pfo_flight_fail() with the exception set
 *         ALONE:   as MINE, without the look; nobody is told of the outcome
 *         LANDED:  boarded.value and boarded.guard are new references (guard may be NULL); if the guard does not hold: again
 *         AGAIN:   goto again
 *         FAILED:  an exception is set
 *         }
 *
 * ALONE is the answer to a thread that already computes this key further up its own stack (recursion), and to one whose waiting would close a
 * cycle: A waits for what B computes while B, over any number of threads, waits for what A computes. [cycles]
 * A computation that fails with an Exception fails for everyone who waited, with the same exception object, as in concurrent.futures.
 * Any other BaseException (KeyboardInterrupt, SystemExit) belongs to its own thread: the waiters get AGAIN, and one takes over.
 * Waiters sleep without the GIL and never spin; a signal handler that raises in the main thread ends the wait (FAILED).
 * Fork: a flight whose thread does not exist in the child is discarded there when it is next met. [generations]
 * Threads: everything needs the GIL, and is told from other threads by the address of thread-local memory. A flight ends on the
 * thread it began on. It may not be suspended in the middle by a switch of stacks to code that waits for it in the same thread.
 * References: a flight borrows the key of whoever computes, who keeps it, unchanged, until the flight has ended; it owns its outcome until the
 * last waiter took it. `flights` outlives its flights: whoever computes holds a reference to the object that `flights` is a part of.
 * Comparing keys and dropping references may run user code: the table of flights is whole whenever it does.
 */
#ifndef PFO_BINDINGS_FLIGHT_H
#define PFO_BINDINGS_FLIGHT_H

#include "bindings/core/key.h"

typedef struct pfo_flight pfo_flight;

/* The keys that are being computed for one cache. As a rule that is one at a time, which costs a few stores and no allocation. */
typedef struct pfo_flights {
    pfo_flight *lone;  /* one of them, or NULL */
    pfo_flight *spare; /* memory for the next one, or NULL */
    pfo_table table;   /* key: pfo_flight; all others */
} pfo_flights;

typedef enum pfo_flight_answer {
    PFO_FLIGHT_FAILED = -1,
    PFO_FLIGHT_MINE,
    PFO_FLIGHT_ALONE,
    PFO_FLIGHT_LANDED,
    PFO_FLIGHT_AGAIN,
} pfo_flight_answer;

typedef struct pfo_boarded {
    pfo_flight *flight; /* MINE, ALONE */
    PyObject *value;    /* LANDED */
    PyObject *guard;
} pfo_boarded;

void pfo_flights_init(pfo_flights *flights);

/* Another number in the child of every fork. [generations] */
unsigned pfo_flight_generation(void);

/* pre: nothing in it is in flight (its owner is being deallocated). */
void pfo_flights_free(pfo_flights *flights);

/* builder: a finished key; a flight that is MINE or ALONE borrows it. */
pfo_flight_answer pfo_flight_board(pfo_flights *flights, const pfo_key_builder *builder, pfo_boarded *boarded);

/* Ends the flight with a value for those who wait; both references stay the caller's, guard may be NULL. */
void pfo_flight_land(pfo_flight *flight, PyObject *value, PyObject *guard);

/* Ends the flight with the exception that is set, which stays set. */
void pfo_flight_fail(pfo_flight *flight);

/* Ends the flight without an outcome: its owner found the value elsewhere. The waiters get AGAIN. Keeps an exception that is set. */
void pfo_flight_give_up(pfo_flight *flight);

/* Takes the flight of this key, if there is one, out of sight: later callers compute anew, those who already wait still get its
 * outcome. -1 with an exception. */
int pfo_flight_detach(pfo_flights *flights, const pfo_key_builder *builder);
void pfo_flight_detach_all(pfo_flights *flights);

#endif
