/* status.h: the one way a pure-C function says how it went.
 *
 * Contract: a function that can fail returns pfo_status and takes a caller-owned pfo_error (may be NULL) as its last
 * argument. The first error wins: pfo_fail() does not overwrite a text that is already there.
 * Threads: no globals; a pfo_error belongs to one call on one thread.
 */
#ifndef PFO_BASE_STATUS_H
#define PFO_BASE_STATUS_H

/* X(name, text): every status once. bindings/errors.c maps each to a Python exception; a test checks that none is left out. */
#define PFO_STATUS_LIST(X)                                                                                             \
    X(OK, "ok")                                                                                                        \
    X(NO_MEMORY, "out of memory")                                                                                      \
    X(BAD_ARGUMENT, "bad argument")                                                                                    \
    X(BAD_TYPE, "bad type")                                                                                            \
    X(OVERFLOW, "number too large")                                                                                    \
    X(UNAVAILABLE, "not available on this machine")                                                                    \
    X(IO, "input/output error")                                                                                        \
    X(STATE, "not possible in this state")                                                                             \
    X(DEVICE, "device error")                                                                                          \
    X(INTERRUPTED, "stopped by the caller's callback")

typedef enum pfo_status {
#define PFO_STATUS_ENUM(name, text) PFO_##name,
    PFO_STATUS_LIST(PFO_STATUS_ENUM)
#undef PFO_STATUS_ENUM
        PFO_STATUS_COUNT
} pfo_status;

enum { PFO_ERROR_TEXT = 240 };

typedef struct pfo_error {
    pfo_status code;
    char text[PFO_ERROR_TEXT]; /* NUL-terminated, cut if too long */
} pfo_error;

#define PFO_ERROR_INIT { PFO_OK, "" }

#if defined(__GNUC__)
#define PFO_PRINTF(format_index, first_argument) __attribute__((format(printf, format_index, first_argument)))
#else
#define PFO_PRINTF(format_index, first_argument)
#endif

/* Fixed text of a status, never NULL. */
const char *pfo_status_text(pfo_status status);

/* Stores code and formatted text in err (if not NULL and still clean) and returns code. */
pfo_status pfo_fail(pfo_error *err, pfo_status code, const char *format, ...) PFO_PRINTF(3, 4);

/* Forwards a failure of expr; the callee has already filled the error. */
#define PFO_TRY(expr)                                                                                                  \
    do {                                                                                                               \
        const pfo_status pfo_try_status = (expr);                                                                      \
        if (pfo_try_status != PFO_OK) {                                                                                \
            return pfo_try_status;                                                                                     \
        }                                                                                                              \
    } while (0)

#endif
