/* disk_journal.h: what a change has done so far, in the first page of the index, so that the next writer can undo it when this one is killed.
 *
 * Contract: every change is a row of steps. Within a step each word of the index that is about to change, each record that is about to be
 * marked dead and each end of a segment that is about to be written behind is put down first; pfo_journal_commit(), where index and files agree,
 * forgets that. What cannot be undone (an unlink) is done in a step of its own, after a note that says how to do it again; notes form a
 * stack and outlast commits.
 * It serves a killed process and nothing else: after a power cut, or where a word is neither what it was nor what it was to become, the index is
 * rebuilt from the segments. So is one whose change is spoiled: the step is too long for the page, or the writer met something it
 * could not bring in order.
 * Threads: under the writers' lock. Memory: none; the page is the index's.
 */
#ifndef PFO_CACHE_DISK_JOURNAL_H
#define PFO_CACHE_DISK_JOURNAL_H

#include "cache/disk_index.h"

typedef enum pfo_undo {
    PFO_UNDO_WORD, /* of the index, at this offset */
    PFO_UNDO_MARK, /* of the record in this segment at the offset `before`: LIVE again */
    PFO_UNDO_TAIL  /* of this segment, from `before` on: cut off */
} pfo_undo;

typedef enum pfo_note {
    PFO_NOTE_FOLDER = 1, /* payloads/xx of this number may hold a file that no entry names */
    PFO_NOTE_DROP,       /* this segment goes */
    PFO_NOTE_COMPACT     /* records of this segment may have copies that their slots name */
} pfo_note;

/* Before what it says is done. Nothing while no change has begun: nobody else has a new index yet. */
void pfo_journal_undo(pfo_index *index, pfo_undo kind, uint64_t at, uint64_t before, uint64_t after);
void pfo_journal_commit(pfo_index *index);
/* Returns the depth that pfo_journal_done() goes back to. */
uint32_t pfo_journal_note(pfo_index *index, pfo_note kind, uint32_t value);
void pfo_journal_done(pfo_index *index, uint32_t depth);
void pfo_journal_clear(pfo_index *index);
/* The notes, and whether the change is spoiled, into an index that is to take the other's place; pre: committed. */
void pfo_journal_copy(const pfo_index *from, pfo_index *to);

#ifdef PFO_TESTING
/* Called before and after every step of the journal, so that a test can die there; NULL: nothing. */
void pfo_journal_watch(void (*watch)(void));
#endif

#endif
