/* key_kept.c: keys that are kept in a table: compared with a builder, held, released, and what the user sees of them. See key.h.
 *
 * A kept call key counts its own references, because comparing with it may run user code that removes its entry. An instance part of a
 * kept key holds a weak reference whose callback is an instance note (instance_note_type.c); the note points back to owner and key
 * and is cut loose when the key goes.
 */
#include "bindings/core/content_key.h"
#include "bindings/core/instance_note.h"
#include "bindings/core/key_parts.h"

#include <string.h>

typedef struct pfo_call_key {
    Py_ssize_t references;
    Py_ssize_t count;
    PyObject *original; /* or NULL */
    pfo_key_part parts[];
} pfo_call_key;

static pfo_call_key *
call_key_of(const void *kept)
{
    return (pfo_call_key *)((uintptr_t)kept & ~(uintptr_t)1);
}

/* ---- comparing ------------------------------------------------------------------------------- */

static int
same_figures(const pfo_key_part *left, const pfo_key_part *right)
{
    return left->kind == right->kind && left->detail == right->detail && left->low == right->low &&
           left->high == right->high;
}

/* pre: same_figures(); the right one is of a kept key. */
static int
same_object(const pfo_key_part *sought, const pfo_key_part *kept)
{
    switch ((pfo_part_kind)sought->kind) {
    case PFO_PART_SAME:
        return sought->object == kept->object;
    case PFO_PART_INT:
        return sought->object == kept->object || pfo_same_int(sought->object, kept->object);
    case PFO_PART_STR:
        return sought->object == kept->object || pfo_same_text(sought->object, kept->object);
    case PFO_PART_BYTES:
        return PyBytes_GET_SIZE(sought->object) == PyBytes_GET_SIZE(kept->object) &&
               memcmp(PyBytes_AS_STRING(sought->object), PyBytes_AS_STRING(kept->object),
                      (size_t)PyBytes_GET_SIZE(sought->object)) == 0;
    case PFO_PART_INSTANCE:
        return pfo_instance_of(kept->object) == sought->object;
    case PFO_PART_OBJECT:
        if (sought->object == kept->object) {
            return 1;
        }
        return Py_TYPE(sought->object) != Py_TYPE(kept->object)
                   ? 0
                   : PyObject_RichCompareBool(sought->object, kept->object, Py_EQ);
    case PFO_PART_BITS:
    case PFO_PART_DIGEST:
    case PFO_PART_MARK:
        break;
    }
    return 1;
}

static void
release_call_key(pfo_call_key *key)
{
    if (--key->references > 0) {
        return;
    }
    for (Py_ssize_t i = 0; i < key->count; i++) {
        if (key->parts[i].kind == PFO_PART_INSTANCE) {
            pfo_instance_forget(key->parts[i].object);
        }
    }
    for (Py_ssize_t i = 0; i < key->count; i++) {
        Py_XDECREF(key->parts[i].object);
    }
    Py_XDECREF(key->original);
    PyMem_Free(key);
}

int
pfo_key_equal(void *context, const void *sought, const void *kept)
{
    (void)context;
    const pfo_key_builder *builder = sought;
    if (!PFO_KEY_IS_CALL(kept)) {
        return pfo_key_is_simple(builder) ? pfo_key_equal_simple(NULL, builder->parts[0].object, kept) : 0;
    }
    pfo_call_key *key = call_key_of(kept);
    if (key->count != builder->count) {
        return 0;
    }
    key->references++;
    int same = 1;
    for (Py_ssize_t i = 0; i < key->count && same == 1; i++) {
        const pfo_key_part *left = &builder->parts[i];
        const pfo_key_part *right = &key->parts[i];
        same = same_figures(left, right) ? same_object(left, right) : 0;
    }
    release_call_key(key);
    return same;
}

int
pfo_key_same(const pfo_key_builder *left, const pfo_key_builder *right)
{
    int same = left->hash == right->hash && left->count == right->count;
    for (Py_ssize_t i = 0; i < left->count && same == 1; i++) {
        const pfo_key_part *one = &left->parts[i];
        const pfo_key_part *other = &right->parts[i];
        if (!same_figures(one, other)) {
            same = 0;
        } else if (one->kind == PFO_PART_INSTANCE) { /* both are held strongly here */
            same = one->object == other->object;
        } else {
            same = same_object(one, other);
        }
    }
    return same;
}

/* ---- keeping --------------------------------------------------------------------------------- */

void *
pfo_key_keep(const pfo_key_builder *builder, PyObject *owner, pfo_key_orphaned orphaned)
{
    if (pfo_key_is_simple(builder)) {
        return Py_NewRef(builder->parts[0].object);
    }
    pfo_call_key *key = PyMem_Malloc(sizeof *key + (size_t)builder->count * sizeof *key->parts);
    if (key == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    key->references = 1;
    key->count = 0;
    key->original = Py_XNewRef(builder->original);
    void *kept = (void *)((uintptr_t)key | 1u);
    for (Py_ssize_t i = 0; i < builder->count; i++) {
        pfo_key_part part = builder->parts[i];
        if (part.kind == PFO_PART_INSTANCE) {
            part.object = pfo_instance_remember(builder->state, part.object, owner, builder->hash, kept, orphaned);
            if (part.object == NULL) {
                release_call_key(key);
                return NULL;
            }
        } else {
            Py_XINCREF(part.object);
        }
        key->parts[key->count++] = part;
    }
    return kept;
}

void
pfo_key_release(void *kept)
{
    if (kept == NULL) {
        return;
    }
    if (PFO_KEY_IS_CALL(kept)) {
        release_call_key(call_key_of(kept));
    } else {
        Py_DECREF((PyObject *)kept);
    }
}

void *
pfo_key_hold(void *kept)
{
    if (PFO_KEY_IS_CALL(kept)) {
        call_key_of(kept)->references++;
        return kept;
    }
    return Py_NewRef((PyObject *)kept);
}

int
pfo_key_visit(const void *kept, visitproc visit, void *arg)
{
    if (kept == NULL || !PFO_KEY_IS_CALL(kept)) {
        return 0; /* an exact int or str refers to nothing */
    }
    const pfo_call_key *key = call_key_of(kept);
    for (Py_ssize_t i = 0; i < key->count; i++) {
        Py_VISIT(key->parts[i].object);
    }
    Py_VISIT(key->original);
    return 0;
}

void
pfo_key_disown(void *kept)
{
    if (kept == NULL || !PFO_KEY_IS_CALL(kept)) {
        return;
    }
    const pfo_call_key *key = call_key_of(kept);
    for (Py_ssize_t i = 0; i < key->count; i++) {
        if (key->parts[i].kind == PFO_PART_INSTANCE) {
            pfo_instance_disown(key->parts[i].object);
        }
    }
}

/* ---- what the user sees of a key ------------------------------------------------------------- */

PyObject *
pfo_key_known(const void *kept)
{
    return PFO_KEY_IS_CALL(kept) ? call_key_of(kept)->original : (PyObject *)(uintptr_t)kept;
}

PyObject *
pfo_key_owner(const void *kept)
{
    if (kept == NULL || !PFO_KEY_IS_CALL(kept)) {
        return NULL;
    }
    const pfo_call_key *key = call_key_of(kept);
    const int has_owner =
        key->count > 0 && key->parts[0].kind == PFO_PART_SAME && key->parts[0].detail == PFO_SAME_OWNER;
    return has_owner ? key->parts[0].object : NULL;
}

int
pfo_key_is_owned(const void *kept, const PyObject *owner)
{
    return owner != NULL && pfo_key_owner(kept) == owner;
}

static PyObject *
object_of_bits(const pfo_key_part *part)
{
    double numbers[2];
    memcpy(&numbers[0], &part->low, sizeof numbers[0]);
    memcpy(&numbers[1], &part->high, sizeof numbers[1]);
    return part->detail == 'f' ? PyFloat_FromDouble(numbers[0]) : PyComplex_FromDoubles(numbers[0], numbers[1]);
}

PyObject *
pfo_key_object(pfo_core_state *state, void *kept, uint64_t hash)
{
    if (!PFO_KEY_IS_CALL(kept)) {
        return Py_NewRef((PyObject *)kept);
    }
    const pfo_call_key *key = call_key_of(kept);
    if (key->original != NULL) {
        return Py_NewRef(key->original);
    }
    if (key->count == 1) {
        const pfo_key_part *part = &key->parts[0];
        if (part->kind == PFO_PART_BITS) {
            return object_of_bits(part);
        }
        if (part->kind == PFO_PART_SAME || part->kind == PFO_PART_BYTES || part->kind == PFO_PART_OBJECT) {
            return Py_NewRef(part->object);
        }
    }
    return pfo_content_key_of(state, kept, hash);
}

int
pfo_key_add_kept(pfo_key_builder *builder, const void *kept)
{
    if (!PFO_KEY_IS_CALL(kept)) {
        return pfo_key_add(builder, (PyObject *)(uintptr_t)kept);
    }
    const pfo_call_key *key = call_key_of(kept);
    for (Py_ssize_t i = 0; i < key->count; i++) {
        const pfo_key_part *part = &key->parts[i];
        PyObject *object = part->object;
        if (part->kind == PFO_PART_INSTANCE) {
            object = pfo_instance_of(part->object);
            if (object == NULL) {
                return 1;
            }
        }
        if (pfo_key_add_part(builder, (pfo_part_kind)part->kind, part->detail, part->low, part->high, object) < 0) {
            return -1;
        }
    }
    builder->original = key->original;
    return 0;
}
