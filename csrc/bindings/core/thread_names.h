/* thread_names.h: tells the recorder what Python calls its threads. */
#ifndef PFO_BINDINGS_THREAD_NAMES_H
#define PFO_BINDINGS_THREAD_NAMES_H

/* Idempotent; process-wide. */
void pfo_thread_names_install(void);

#endif
