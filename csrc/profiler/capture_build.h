/* capture_build.h: a capture while it is being made, for the files that make one: from a recorder, a file, by merging.
 *
 * pfo_capture_create() gives an empty one; the functions below add to its tables and copy what they are given. A failure
 * leaves it good for pfo_capture_destroy() only. Nobody else may look at it meanwhile.
 */
#ifndef PFO_PROFILER_CAPTURE_BUILD_H
#define PFO_PROFILER_CAPTURE_BUILD_H

#include "profiler/capture.h"

#include <stdatomic.h>

/* Something that spans can be read from again and again: a ring or an open file. Shared by all captures over it. */
typedef struct pfo_span_store pfo_span_store;
struct pfo_span_store {
    _Atomic int64_t references;
    pfo_status (*open)(pfo_span_store *store, pfo_span_source *source,
                       pfo_error *err); /* the source takes a reference */
    void (*destroy)(pfo_span_store *store);
};

pfo_span_store *pfo_span_store_share(pfo_span_store *store);
void pfo_span_store_release(pfo_span_store *store); /* NULL is allowed */

/* How the spans of a store become those of a capture. */
typedef struct pfo_span_part {
    pfo_span_store *store;
    int64_t shift_ns;     /* is added to begin_ns */
    int32_t first_thread; /* is added to thread */
    int32_t name_count;   /* of `names`; -1: names stay as they are */
    int32_t *names;       /* from the store's index to the capture's, owned by the capture */
} pfo_span_part;

/* 1 if the text is UTF-8 without surrogates (RFC 3629), as all text of a capture must be. */
int pfo_text_is_utf8(pfo_text text);

pfo_capture *pfo_capture_create(void);

pfo_status pfo_capture_add_process(pfo_capture *capture, const pfo_capture_process *process, pfo_error *err);
pfo_status pfo_capture_add_thread(pfo_capture *capture, const pfo_capture_thread *thread, pfo_error *err);
pfo_status pfo_capture_add_name(pfo_capture *capture, pfo_text name, pfo_error *err);
pfo_status pfo_capture_add_node(pfo_capture *capture, const pfo_capture_node *node, pfo_error *err);

/* row->ticks goes over to the capture, also when this fails. */
pfo_status pfo_capture_add_row(pfo_capture *capture, const pfo_capture_row *row, pfo_error *err);

/* The store's reference and `names` go over to the capture, also when this fails. */
pfo_status pfo_capture_add_spans(pfo_capture *capture, const pfo_span_part *part, pfo_error *err);

int32_t pfo_capture_span_parts(const pfo_capture *capture, const pfo_span_part **parts);

/* Sums over subtrees: fills total_ns of every node from self_ns. Whole nanoseconds below 2^53 add up exactly. */
void pfo_capture_sum_nodes(pfo_capture *capture);

#endif
