/* capture_object.h: Capture, the Python face of a pfo_capture, for the files that make or export one.
 *
 * The object owns its capture and never changes it, so the GIL may be released while it is read, as long as a reference
 * to the object is held.
 */
#ifndef PFO_BINDINGS_CAPTURE_OBJECT_H
#define PFO_BINDINGS_CAPTURE_OBJECT_H

#include "bindings/core/profiler_objects.h"

#include "profiler/capture.h"

typedef struct pfo_capture_object {
    PyObject_HEAD
    pfo_capture *capture;
    PyObject *names; /* tuple of str as the user gave them, where the capture was taken in this process, else NULL */
} pfo_capture_object;

/* The capture of a Capture object, borrowed from it; NULL with TypeError for anything else. */
const pfo_capture *pfo_capture_from(const pfo_core_state *state, PyObject *object);

/* A new Capture that owns `capture`, which is destroyed on failure. names: may be NULL; taken over. */
PyObject *pfo_capture_wrap(PyTypeObject *type, pfo_capture *capture, PyObject *names);

/* A new Capture of what the profiler has recorded. */
PyObject *pfo_capture_of_recorder(pfo_profiler_object *profiler);

/* The method export(format, file). */
PyObject *pfo_capture_export(const pfo_capture_object *self, PyObject *const *args, Py_ssize_t nargs);
extern const char pfo_capture_export_doc[];

#endif
