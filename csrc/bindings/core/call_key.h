/* call_key.h: the key of a call: which arguments count, under which parameter, and which one is a method's instance.
 *
 * Contract: a signature says how the calls of one function become keys. Positional and keyword spelling of an argument are one key where the
 * parameters are known by name; where they are not (*args, **kwargs, callables written in C), keywords count in the order of their names.
 * The first argument of a method is its instance: it counts by identity and is held weakly by a kept key.
 * Errors: what cannot be keyed raises TypeError naming the function, the argument and the ways out.
 * References: a signature owns what it points to, except `function`, which is its owner's.
 * Threads: the GIL; it may change hands in every function that returns an answer, because keys run user code.
 */
#ifndef PFO_BINDINGS_CALL_KEY_H
#define PFO_BINDINGS_CALL_KEY_H

#include "bindings/core/key.h"

enum { PFO_MAX_BOUND_NAMES = 64 };

typedef struct pfo_signature {
    PyObject *function;     /* borrowed: its name for messages */
    PyObject *key_function; /* NULL, or called with the arguments to give the key */
    PyObject *names;        /* NULL, or the parameter names, by which keyword and positional spelling become one */
    PyObject *ignored;      /* frozenset of parameter names that are no part of the key, or NULL */
    PyObject *owners;       /* list of weak references to the classes it is a method of; NULL with is_method: of any */
    uint64_t ignored_slots; /* bit i: parameter i is ignored */
    Py_ssize_t positional;  /* how many of names may be given by position */
    Py_ssize_t positional_only;
    int is_method;
    int by_content; /* an instance counts by its content, as every argument */
} pfo_signature;

typedef struct pfo_call {
    PyObject *const *args;
    size_t nargsf;
    PyObject *kwnames;
} pfo_call;

/* names: a tuple of at most PFO_MAX_BOUND_NAMES interned str, or longer or None for "not known"; ignored: an iterable of str
 * or None. -1 with an exception. */
int pfo_signature_set_names(pfo_signature *self, PyObject *names, PyObject *ignored);

/* From now on instances of this class as first argument are instances of a method. */
int pfo_signature_add_owner(pfo_signature *self, PyObject *owner);

int pfo_signature_visit(const pfo_signature *self, visitproc visit, void *arg);
void pfo_signature_clear(pfo_signature *self);

/* The function's qualified name, or its type where it has none that is a str; NULL with an exception. */
PyObject *pfo_signature_name(const pfo_signature *self);

/* Puts the key of a call into a started builder and finishes it. 1: the call does not fit the function's parameters, so that calling it
 * raises its own TypeError; -1 exception. */
int pfo_call_key_build(const pfo_signature *self, pfo_key_builder *builder, const pfo_call *call);

/* Sets TypeError for a call whose key cannot be found again by another process: it names the argument without content and the ways out. */
void pfo_call_raise_not_persistent(const pfo_signature *self, pfo_core_state *state, const pfo_call *call);
#endif
