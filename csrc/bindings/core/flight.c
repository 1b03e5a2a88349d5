/* flight.c: see flight.h.
 *
 * A flight is found in the list of its cache (`lone` and the table) while it has a place there. It reads its key where its owner has it,
 * which is good while it is listed. [borrowed key] Its references are the owner's, and one for each thread at its gate. The gate is a
 * lock made by the first waiter and held until the flight ends; then every waiter takes it and lets go at once, so that one release wakes
 * them all in turn. Python's own locks are used because their waits, unlike those of a condition, end on a signal.
 *
 * [cycles] Each thread chains the flights it computes, innermost first. While it waits, all of them say what for (`awaits`). From any flight the
 * chain of waiting is then followed without a search: to its `awaits`, the `awaits` of that, and so on. Nobody waits who would
 * find itself at the end of the chain, so the chains have no loops.
 *
 * [generations] A fork moves the generation of the child and stamps it on the flights of the one thread that lives on.
 *
 * Threads: the GIL; `innermost` is each thread's own. Of the flights in it only those of the running interpreter are written to.
 */
#include "bindings/core/flight.h"

#include "bindings/common/errors.h"
#include "bindings/core/flight_tasks.h"

#include <pthread.h>

#define PLACE_LONE PFO_TABLE_MAX_SLOTS

typedef enum flight_state { IN_FLIGHT, LANDED, CRASHED, ABANDONED } flight_state;

struct pfo_flight {
    pfo_flights *flights;
    PyInterpreterState *interpreter;
    const pfo_key_builder *key; /* [borrowed key] */
    uint64_t hash;
    pfo_flight *outer;       /* the next flight that the same thread computes */
    pfo_flight *awaits;      /* [cycles] */
    pfo_flight **thread;     /* whose it is: the address of its `innermost` */
    PyObject *node;          /* flight_tasks.h, or NULL */
    PyThread_type_lock gate; /* NULL until somebody waits */
    PyObject *value;         /* LANDED */
    PyObject *guard;         /* LANDED, or NULL */
    PyObject *error;         /* CRASHED */
    PyObject *traceback;     /* CRASHED: what every waiter adds its own frames to; may be NULL */
    Py_ssize_t references;
    unsigned generation; /* [generations] */
    flight_state state;
    uint32_t place; /* in the list of flights: a slot of its table, PLACE_LONE, or PFO_SLOT_NONE */
};

static _Thread_local pfo_flight *innermost;
static unsigned current_generation;
static pthread_once_t fork_handler = PTHREAD_ONCE_INIT;

static pfo_flight **
this_thread(void)
{
    return &innermost;
}

static void
begin_generation(void)
{
    current_generation++;
    for (pfo_flight *own = innermost; own != NULL; own = own->outer) {
        own->generation = current_generation;
    }
}

static void
watch_forks(void)
{
    (void)pthread_atfork(NULL, NULL,
                         begin_generation); /* fails only without memory; then forks in mid-flight go unseen */
}

unsigned
pfo_flight_generation(void)
{
    return current_generation;
}

void
pfo_flights_init(pfo_flights *flights)
{
    (void)pthread_once(&fork_handler, watch_forks);
    flights->lone = NULL;
    flights->spare = NULL;
    pfo_table_init(&flights->table);
}

void
pfo_flights_free(pfo_flights *flights)
{
    PyMem_Free(flights->spare);
    flights->spare = NULL;
    pfo_table_free(&flights->table);
}

static void
free_flight(pfo_flight *flight)
{
    if (flight->flights->spare == NULL) {
        flight->flights->spare = flight;
    } else {
        PyMem_Free(flight);
    }
}

static void
release(pfo_flight *flight)
{
    if (--flight->references > 0) {
        return;
    }
    if (flight->gate != NULL) {
        PyThread_free_lock(flight->gate);
    }
    Py_XDECREF(flight->value);
    Py_XDECREF(flight->guard);
    Py_XDECREF(flight->error);
    Py_XDECREF(flight->traceback);
    Py_XDECREF(flight->node);
    free_flight(flight);
}

static void
unlist(pfo_flight *flight)
{
    pfo_flights *flights = flight->flights;
    const uint32_t place = flight->place;
    flight->place = PFO_SLOT_NONE;
    if (place == PLACE_LONE) {
        flights->lone = NULL;
    } else if (place != PFO_SLOT_NONE) {
        pfo_table_unlink(&flights->table, place);
        pfo_table_release_slot(&flights->table, place);
    }
}

/* pfo_table_equal: a builder and the flight it may be the key of. One that a fork left behind has lost its key, and is told apart by whoever
 * finds it. [generations] */
static int
is_of_key(void *context, const void *sought, const void *kept)
{
    (void)context;
    const pfo_flight *flight = kept;
    if (flight->generation != current_generation) {
        return 1;
    }
    pfo_key_builder key; /* user code may end the flight */
    if (pfo_key_copy(&key, flight->key) < 0) {
        return -1;
    }
    const int same = pfo_key_same(sought, &key);
    pfo_key_drop(&key);
    return same;
}

/* Gives a flight a place in the table; -1 with an exception. Runs no code. */
static int
put_in_table(pfo_flights *flights, pfo_flight *flight)
{
    pfo_error err;
    err.code = PFO_OK; /* clearing the whole of it would cost more than the rest */
    err.text[0] = '\0';
    const pfo_status status = pfo_table_reserve_one(&flights->table, 0, &err);
    if (status != PFO_OK) {
        (void)pfo_raise(status, &err);
        return -1;
    }
    flight->place = pfo_table_insert(&flights->table, flight->hash, flight);
    return 0;
}

/* Whether the lone flight may be of this key: then it has to be looked for in the table, which minds what comparing keys runs. */
static int
may_be_lone(const pfo_flights *flights, const pfo_key_builder *builder)
{
    return flights->lone != NULL && flights->lone->hash == builder->hash;
}

/* find() where there are any. */
static int
search(pfo_flights *flights, const pfo_key_builder *builder, pfo_flight **flight)
{
    uint32_t slot;
    do {
        if (may_be_lone(flights, builder)) {
            if (put_in_table(flights, flights->lone) < 0) {
                return -1;
            }
            flights->lone = NULL;
        }
        int exhausted;
        slot = pfo_table_find(&flights->table, builder->hash, builder, is_of_key, NULL, &exhausted);
        if (slot == PFO_SLOT_FAILED) {
            if (exhausted) {
                PyErr_SetString(PyExc_RuntimeError, "the keys being computed changed during every comparison of a key "
                                                    "(does __eq__ call the cached function?)");
            }
            return -1;
        }
    } while (slot == PFO_SLOT_NONE && may_be_lone(flights, builder)); /* that took off during a comparison */
    if (slot == PFO_SLOT_NONE) {
        return 0;
    }
    *flight = flights->table.entries[slot].key;
    return 1;
}

/* The flight of a key: 1 and *flight, 0 when there is none, -1 exception. */
static inline int
find(pfo_flights *flights, const pfo_key_builder *builder, pfo_flight **flight)
{
    return flights->lone == NULL && flights->table.count == 0 ? 0 : search(flights, builder, flight);
}

/* ---- the one who computes -------------------------------------------------------------------- */

/* A new flight in no list; NULL with an exception. Runs no code. */
static inline pfo_flight *
make_flight(pfo_flights *flights, const pfo_key_builder *builder)
{
    pfo_flight *flight = flights->spare != NULL ? flights->spare : PyMem_Malloc(sizeof *flight);
    if (flight == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    flights->spare = NULL;
    flight->flights = flights;
    flight->key = builder;
    flight->hash = builder->hash;
    flight->interpreter = PyInterpreterState_Get();
    flight->outer = NULL;
    flight->awaits = NULL;
    flight->thread = this_thread();
    flight->node = NULL;
    flight->gate = NULL;
    flight->value = NULL;
    flight->guard = NULL;
    flight->error = NULL;
    flight->traceback = NULL;
    flight->references = 1;
    flight->generation = current_generation;
    flight->state = IN_FLIGHT;
    flight->place = PFO_SLOT_NONE;
    return flight;
}

/* A new flight of this thread, listed; NULL with an exception. Runs no code. pre: there is none of this key. */
static pfo_flight *
take_off(pfo_flights *flights, const pfo_key_builder *builder)
{
    pfo_flight *flight = make_flight(flights, builder);
    if (flight == NULL) {
        return NULL;
    }
    if (flights->lone == NULL) {
        flights->lone = flight;
        flight->place = PLACE_LONE;
    } else if (put_in_table(flights, flight) < 0) {
        flights->spare = flight;
        return NULL;
    }
    flight->outer = *flight->thread;
    *flight->thread = flight;
    return flight;
}

static void
leave_thread(pfo_flight *flight)
{
    pfo_flight **link = flight->thread; /* it ends where it began */
    while (*link != NULL && *link != flight) {
        link = &(*link)->outer;
    }
    if (*link != NULL) {
        *link = flight->outer;
    }
    flight->outer = NULL;
}

static void
end(pfo_flight *flight, flight_state state)
{
    leave_thread(flight);
    unlist(flight);
    if (flight->references == 1 && flight->node == NULL && flight->gate == NULL) {
        free_flight(flight); /* nobody was told of it, so it owns nothing: the common case */
        return;
    }
    flight->state = state;
    if (flight->gate != NULL) {
        PyThread_release_lock(flight->gate);
    }
    PyObject *node = flight->node;
    flight->node = NULL;
    pfo_core_state *core = flight->key->state; /* the owner still has it */
    release(flight);
    if (node != NULL) {
        pfo_tasks_leave(core, node); /* runs code, so last */
    }
}

void
pfo_flight_land(pfo_flight *flight, PyObject *value, PyObject *guard)
{
    if (flight->references > 1) { /* somebody waits */
        flight->value = Py_NewRef(value);
        flight->guard = Py_XNewRef(guard);
    }
    end(flight, LANDED);
}

void
pfo_flight_fail(pfo_flight *flight)
{
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    const int is_everyones = PyErr_GivenExceptionMatches(type, PyExc_Exception);
    if (is_everyones && flight->references > 1) {
        PyErr_NormalizeException(&type, &value, &traceback);
        if (traceback != NULL) {
            (void)PyException_SetTraceback(value, traceback);
        }
        flight->error = Py_NewRef(value);
        flight->traceback = Py_XNewRef(traceback);
    }
    end(flight, is_everyones ? CRASHED : ABANDONED);
    PyErr_Restore(type, value, traceback);
}

void
pfo_flight_give_up(pfo_flight *flight)
{
    end(flight, ABANDONED);
}

/* ---- those who wait -------------------------------------------------------------------------- */

/* Whether waiting for this flight would be waiting for oneself. [cycles] */
static int
leads_back(const pfo_flight *flight)
{
    pfo_flight **self = this_thread();
    for (; flight != NULL && flight->generation == current_generation; flight = flight->awaits) {
        if (flight->thread == self) {
            return 1;
        }
    }
    return 0;
}

/* Returns what they said before: a signal handler may wait while the code it interrupted does. */
static pfo_flight *
say_what_for(pfo_flight *awaited)
{
    PyInterpreterState *interpreter = PyInterpreterState_Get();
    pfo_flight *before = NULL;
    for (pfo_flight *own = innermost; own != NULL; own = own->outer) {
        if (own->interpreter == interpreter) {
            before = own->awaits;
            own->awaits = awaited;
        }
    }
    return before;
}

static int
close_gate(pfo_flight *flight)
{
    if (flight->gate != NULL) {
        return 0;
    }
    flight->gate = PyThread_allocate_lock();
    if (flight->gate == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    (void)PyThread_acquire_lock(flight->gate, NOWAIT_LOCK);
    return 0;
}

/* Sleeps until the flight has ended, or this process is the child of a fork that a signal handler made; -1 when a handler raised. */
static int
sleep_at_gate(pfo_flight *flight)
{
    while (flight->state == IN_FLIGHT && flight->generation == current_generation) {
        PyLockStatus status;
        Py_BEGIN_ALLOW_THREADS
        status = PyThread_acquire_lock_timed(flight->gate, -1, 1);
        if (status == PY_LOCK_ACQUIRED) {
            PyThread_release_lock(flight->gate);
        }
        Py_END_ALLOW_THREADS
        if (status == PY_LOCK_INTR && PyErr_CheckSignals() < 0) {
            return -1;
        }
    }
    return 0;
}

static pfo_flight_answer
outcome(const pfo_flight *flight, pfo_boarded *boarded)
{
    switch (flight->state) {
    case LANDED:
        boarded->value = Py_NewRef(flight->value);
        boarded->guard = Py_XNewRef(flight->guard);
        return PFO_FLIGHT_LANDED;
    case CRASHED:
        PyErr_Restore(Py_NewRef((PyObject *)Py_TYPE(flight->error)), Py_NewRef(flight->error),
                      Py_XNewRef(flight->traceback));
        return PFO_FLIGHT_FAILED;
    case IN_FLIGHT:
    case ABANDONED:
        break;
    }
    return PFO_FLIGHT_AGAIN;
}

/* pre: leads_back() has just said no, and nothing ran since. */
static pfo_flight_answer
wait_for(pfo_flight *flight, pfo_boarded *boarded)
{
    if (close_gate(flight) < 0) {
        return PFO_FLIGHT_FAILED;
    }
    flight->references++;
    pfo_flight *before = say_what_for(flight);
    const int interrupted = sleep_at_gate(flight) < 0;
    (void)say_what_for(before);
    const pfo_flight_answer answer = interrupted ? PFO_FLIGHT_FAILED : outcome(flight, boarded);
    release(flight);
    return answer;
}

/* Through which node a wait for this flight may lead to tasks: its own, or that of one it waits for; borrowed, or NULL. */
static PyObject *
nearest_node(const pfo_flight *flight)
{
    while (flight != NULL && flight->node == NULL && flight->generation == current_generation) {
        flight = flight->awaits;
    }
    return flight == NULL ? NULL : flight->node;
}

/* By a flight that nobody finds or waits for. */
static pfo_flight_answer
compute_alone(pfo_flights *flights, const pfo_key_builder *builder, pfo_boarded *boarded)
{
    boarded->flight = make_flight(flights, builder);
    return boarded->flight == NULL ? PFO_FLIGHT_FAILED : PFO_FLIGHT_ALONE;
}

/* Waits for a flight unless that would be waiting for oneself. [cycles] The caller has a reference to it. */
static pfo_flight_answer
wait_or_compute(pfo_flights *flights, const pfo_key_builder *builder, pfo_flight *flight, pfo_boarded *boarded)
{
    PyObject *wait = NULL;
    PyObject *node = leads_back(flight) ? NULL : Py_XNewRef(nearest_node(flight));
    const int may_wait = node == NULL ? 1 : pfo_tasks_begin_wait(builder->state, node, &wait);
    Py_XDECREF(node);
    if (may_wait < 0) {
        return PFO_FLIGHT_FAILED;
    }
    const int is_circle = !may_wait || leads_back(flight); /* asked last, because others may have gone on meanwhile */
    const pfo_flight_answer answer = is_circle ? compute_alone(flights, builder, boarded) : wait_for(flight, boarded);
    pfo_tasks_end_wait(builder->state, wait);
    return answer;
}

/* A flight whose thread stayed behind in the parent of a fork: this drops the owner's reference. Those of waiters that stayed behind are lost,
 * but this thread may have one, too, when a signal handler forked while it waited. */
static void
discard(pfo_flight *flight)
{
    unlist(flight);
    release(flight);
}

pfo_flight_answer
pfo_flight_board(pfo_flights *flights, const pfo_key_builder *builder, pfo_boarded *boarded)
{
    *boarded = (pfo_boarded){ 0 };
    pfo_flight *flight = NULL;
    const int found = find(flights, builder, &flight);
    if (found > 0 && flight->generation != current_generation) {
        discard(flight);
        return PFO_FLIGHT_AGAIN;
    }
    if (found > 0) {
        flight->references++;
        const pfo_flight_answer answer = wait_or_compute(flights, builder, flight, boarded);
        release(flight);
        return answer;
    }
    boarded->flight = found < 0 ? NULL : take_off(flights, builder);
    if (boarded->flight == NULL) {
        return PFO_FLIGHT_FAILED;
    }
    if (builder->state->tasks_enter != NULL && pfo_tasks_enter(builder->state, &boarded->flight->node) < 0) {
        pfo_flight_give_up(boarded->flight);
        return PFO_FLIGHT_FAILED;
    }
    return PFO_FLIGHT_MINE;
}

/* ---- out of sight ---------------------------------------------------------------------------- */

int
pfo_flight_detach(pfo_flights *flights, const pfo_key_builder *builder)
{
    pfo_flight *flight = NULL;
    const int found = find(flights, builder, &flight);
    if (found > 0) {
        unlist(flight);
    }
    return found < 0 ? -1 : 0;
}

void
pfo_flight_detach_all(pfo_flights *flights)
{
    if (flights->lone != NULL) {
        unlist(flights->lone);
    }
    for (uint32_t slot = 0; slot < flights->table.used_slots; slot++) {
        if (flights->table.entries[slot].live) {
            unlist(flights->table.entries[slot].key);
        }
    }
}
