/* flight_tasks.h: the flights of threads (flight.h) as the computations of asyncio's tasks see them (perfopt/_flights.py), so that a circle
 * of waiting is also found where it goes through both.
 *
 * What a thread computes has a node, a Computation, in the graph that _flights.py keeps of who waits for whom; contextvars carry it to the
 * tasks and to the threads of asyncio.to_thread() that it starts. A thread outside of all tasks has one, too: it may wait for a thread
 * that waits for a task.
 * Until perfopt._flights is imported there are no nodes, and state->tasks_enter is NULL.
 * Threads: the GIL. Runs Python code, so flights may begin and end meanwhile; the caller keeps references to those it goes on with.
 */
#ifndef PFO_BINDINGS_FLIGHT_TASKS_H
#define PFO_BINDINGS_FLIGHT_TASKS_H

#include "bindings/core/core_state.h"

/* pre: state->tasks_enter is not NULL. *node: that of a computation which this thread begins here, a new reference. 0, or -1 with an
 * exception. */
int pfo_tasks_enter(pfo_core_state *state, PyObject **node);

/* Ends it; takes the reference over. NULL is allowed. Keeps an exception that is set. */
void pfo_tasks_leave(pfo_core_state *state, PyObject *node);

/* Before a wait for the flight of that node: 1 when it may be waited for, with *wait, a new reference or NULL; 0 when that would close a
 * circle; -1 with an exception. */
int pfo_tasks_begin_wait(pfo_core_state *state, PyObject *node, PyObject **wait);

/* After it; as pfo_tasks_leave(). */
void pfo_tasks_end_wait(pfo_core_state *state, PyObject *wait);

#endif
