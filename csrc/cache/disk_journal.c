/* disk_journal.c: see disk_journal.h.
 *
 * A killed process leaves the map as its last instruction left it, so only the compiler's order of stores matters: an entry is whole before
 * it is counted, and counted before what it speaks of is done.
 */
#include "cache/disk_journal.h"

#ifdef PFO_TESTING
static void (*watcher)(void);

void
pfo_journal_watch(void (*watch)(void))
{
    watcher = watch;
}

static void
tell_watcher(void)
{
    if (watcher != NULL) {
        watcher();
    }
}
#else
static void
tell_watcher(void)
{
}
#endif

static int
is_kept(const pfo_index *index)
{
    return atomic_load_explicit(&index->header->changing, memory_order_relaxed) == PFO_CHANGE_NOTED;
}

void
pfo_journal_undo(pfo_index *index, pfo_undo kind, uint64_t at, uint64_t before, uint64_t after)
{
    pfo_index_journal *journal = index->journal;
    const uint32_t count = atomic_load_explicit(&journal->count, memory_order_relaxed);
    if (!is_kept(index)) {
        return;
    }
    tell_watcher();
    if (count >= PFO_JOURNAL_ENTRIES) {
        pfo_index_spoil(index);
        return;
    }
    atomic_store_explicit(&journal->entries[count].what, ((uint64_t)kind << 56) | at, memory_order_relaxed);
    atomic_store_explicit(&journal->entries[count].before, before, memory_order_relaxed);
    atomic_store_explicit(&journal->entries[count].after, after, memory_order_relaxed);
    atomic_store_explicit(&journal->count, count + 1, memory_order_release);
    atomic_signal_fence(memory_order_seq_cst);
    tell_watcher();
}

void
pfo_journal_commit(pfo_index *index)
{
    tell_watcher();
    atomic_store_explicit(&index->journal->count, 0, memory_order_release);
    atomic_signal_fence(memory_order_seq_cst);
    tell_watcher();
}

uint32_t
pfo_journal_note(pfo_index *index, pfo_note kind, uint32_t value)
{
    pfo_index_journal *journal = index->journal;
    const uint32_t depth = atomic_load_explicit(&journal->depth, memory_order_relaxed);
    if (depth >= PFO_JOURNAL_NOTES) {
        pfo_index_spoil(index);
        return depth;
    }
    atomic_store_explicit(&journal->notes[depth], ((uint64_t)kind << 32) | value, memory_order_relaxed);
    atomic_store_explicit(&journal->depth, depth + 1, memory_order_release);
    atomic_signal_fence(memory_order_seq_cst);
    tell_watcher();
    return depth;
}

void
pfo_journal_done(pfo_index *index, uint32_t depth)
{
    if (atomic_load_explicit(&index->journal->depth, memory_order_relaxed) > depth) { /* a rebuilt index has none */
        atomic_store_explicit(&index->journal->depth, depth, memory_order_release);
        atomic_signal_fence(memory_order_seq_cst);
    }
}

void
pfo_journal_clear(pfo_index *index)
{
    pfo_journal_commit(index);
    pfo_journal_done(index, 0);
}

void
pfo_journal_copy(const pfo_index *from, pfo_index *to)
{
    const uint32_t depth = atomic_load(&from->journal->depth);
    for (uint32_t i = 0; i < depth && i < PFO_JOURNAL_NOTES; i++) {
        atomic_store(&to->journal->notes[i], atomic_load(&from->journal->notes[i]));
    }
    atomic_store(&to->journal->depth, depth);
    if (atomic_load(&from->header->changing) == PFO_CHANGE_SPOILED) {
        pfo_index_spoil(to);
    }
}
