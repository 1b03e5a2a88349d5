/* content_arrow.c: Arrow's capsules (the C data and stream interfaces) as parts of a fingerprint. See content_parts.h.
 *
 * The producer's callbacks are called with the GIL, the hashing is done without it: arrays that were handed out are ours alone.
 */
#include "bindings/common/errors.h"
#include "bindings/core/content_parts.h"

#include "cache/fingerprint_arrow.h"

typedef struct chunk_list {
    struct ArrowArray *items;
    size_t count;
    size_t capacity;
    int64_t slots;
} chunk_list;

static int
raise_stream_error(struct ArrowArrayStream *stream)
{
    const char *text = stream->get_last_error == NULL ? NULL : stream->get_last_error(stream);
    if (!PyErr_Occurred()) {
        PyErr_Format(PyExc_RuntimeError, "reading an Arrow stream failed: %.200s", text == NULL ? "no text" : text);
    }
    return -1;
}

/* Moves all arrays of the stream to the list. */
static int
read_chunks(struct ArrowArrayStream *stream, chunk_list *chunks)
{
    for (;;) {
        if (chunks->count == chunks->capacity) {
            const size_t capacity = chunks->capacity == 0 ? 4 : chunks->capacity * 2;
            struct ArrowArray *items = PyMem_Realloc(chunks->items, capacity * sizeof *items);
            if (items == NULL) {
                PyErr_NoMemory();
                return -1;
            }
            chunks->items = items;
            chunks->capacity = capacity;
        }
        struct ArrowArray *next = &chunks->items[chunks->count];
        next->release = NULL;
        if (stream->get_next(stream, next) != 0) {
            return raise_stream_error(stream);
        }
        if (next->release == NULL) {
            return 0;
        }
        chunks->slots += next->length;
        chunks->count++;
    }
}

static void
release_chunks(chunk_list *chunks)
{
    for (size_t i = 0; i < chunks->count; i++) {
        chunks->items[i].release(&chunks->items[i]);
    }
    PyMem_Free(chunks->items);
}

static int
answer_of(pfo_content *content, PyObject *owner, pfo_status status, const pfo_error *err)
{
    if (status == PFO_OK) {
        return 0;
    }
    if (status != PFO_BAD_TYPE) {
        (void)pfo_raise(status, err);
        return -1;
    }
    PyObject *reason = PyUnicode_FromString(err->text);
    const int answer = reason == NULL ? -1 : pfo_content_none(content, owner, reason);
    Py_XDECREF(reason);
    return answer;
}

static int
encode_chunks(pfo_content *content, pfo_encoder *encoder, PyObject *owner, const struct ArrowSchema *schema,
              const chunk_list *chunks)
{
    pfo_error err = PFO_ERROR_INIT;
    pfo_status status;
    if (chunks->slots >= PFO_RELEASE_GIL_BYTES / 8) {
        Py_BEGIN_ALLOW_THREADS
        status = pfo_encode_arrow(encoder, schema, chunks->items, chunks->count, &err);
        Py_END_ALLOW_THREADS
    } else {
        status = pfo_encode_arrow(encoder, schema, chunks->items, chunks->count, &err);
    }
    return answer_of(content, owner, status, &err);
}

static int
encode_stream(pfo_content *content, pfo_encoder *encoder, PyObject *owner, struct ArrowArrayStream *stream)
{
    struct ArrowSchema schema = { .release = NULL };
    chunk_list chunks = { NULL, 0, 0, 0 };
    if (stream->release == NULL) {
        PyErr_SetString(PyExc_ValueError, "an Arrow stream that was read before");
        return -1;
    }
    if (stream->get_schema(stream, &schema) != 0) {
        return raise_stream_error(stream);
    }
    int answer = read_chunks(stream, &chunks);
    if (answer == 0) {
        answer = encode_chunks(content, encoder, owner, &schema, &chunks);
    }
    release_chunks(&chunks);
    schema.release(&schema);
    return answer;
}

int
pfo_content_arrow(pfo_content *content, pfo_encoder *encoder, PyObject *owner, PyObject *capsule)
{
    if (PyCapsule_IsValid(capsule, "arrow_schema")) {
        pfo_error err = PFO_ERROR_INIT;
        const struct ArrowSchema *schema = PyCapsule_GetPointer(capsule, "arrow_schema");
        return answer_of(content, owner, pfo_encode_arrow_schema(encoder, schema, &err), &err);
    }
    struct ArrowArrayStream *stream = PyCapsule_GetPointer(capsule, "arrow_array_stream");
    return stream == NULL ? -1 : encode_stream(content, encoder, owner, stream);
}
