/* simulate.c: see simulate.h. */
#include "cache/simulate.h"

#include "base/alloc.h"
#include "cache/xxh_ops.h"

#include <string.h>

pfo_status
pfo_simulation_init(pfo_simulation *simulation, size_t count, pfo_error *err)
{
    *simulation = (pfo_simulation){ .caches = pfo_alloc_array(count, sizeof(pfo_simulated)) };
    return simulation->caches == NULL ? pfo_fail(err, PFO_NO_MEMORY, "no memory for %zu simulated caches", count)
                                      : PFO_OK;
}

void
pfo_simulation_free(pfo_simulation *simulation)
{
    for (size_t i = 0; i < simulation->count; i++) {
        pfo_shadow_free(&simulation->caches[i].cache);
    }
    pfo_free(simulation->caches);
    pfo_free(simulation->rest);
    *simulation = (pfo_simulation){ .caches = NULL };
}

pfo_status
pfo_simulation_add(pfo_simulation *simulation, const pfo_policy_ops *ops, const pfo_bounds *bounds, pfo_error *err)
{
    PFO_TRY(pfo_shadow_init(&simulation->caches[simulation->count].cache, ops, bounds, err));
    simulation->count++;
    return PFO_OK;
}

/* ---- one line -------------------------------------------------------------------------------- */

static int
is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\r';
}

static void
strip(const char **text, size_t *length)
{
    while (*length > 0 && is_space((*text)[*length - 1])) {
        --*length;
    }
    while (*length > 0 && is_space(**text)) {
        ++*text;
        --*length;
    }
}

static pfo_status
parse_size(const pfo_simulation *simulation, const char *text, size_t length, size_t *bytes, pfo_error *err)
{
    uint64_t number = 0;
    int valid = length > 0;
    for (size_t i = 0; i < length && valid; i++) {
        const uint64_t digit = (uint64_t)(unsigned char)text[i] - '0';
        valid = digit <= 9 && number <= ((uint64_t)INT64_MAX - digit) / 10;
        number = number * 10 + digit;
    }
    if (!valid) {
        char shown[41] = "";
        for (size_t i = 0; i < length && i < sizeof shown - 1; i++) {
            shown[i] = text[i];
            if (text[i] < ' ' || text[i] > '~') {
                shown[i] = '?'; /* an error's text is plain ASCII, whatever the trace is */
            }
        }
        return pfo_fail(err, PFO_BAD_ARGUMENT,
                        "line %llu: size %s is not accepted; write key or key,size with a whole number of bytes from 0 "
                        "to 2^63 - 1",
                        (unsigned long long)simulation->line, shown);
    }
    *bytes = (size_t)number;
    return PFO_OK;
}

static uint64_t
hash_of(const char *key, size_t length)
{
    unsigned char digest[PFO_DIGEST_BYTES];
    uint64_t hash = 0;
    pfo_xxh_ops_best()->digest(key, length, digest);
    for (int i = 0; i < 8; i++) {
        hash = hash << 8 | digest[PFO_DIGEST_BYTES - 8 + i];
    }
    return hash;
}

static pfo_status
request(pfo_simulation *simulation, uint64_t hash, size_t bytes, pfo_error *err)
{
    simulation->requests++;
    simulation->bytes_requested += bytes;
    for (size_t i = 0; i < simulation->count; i++) {
        pfo_simulated *cache = &simulation->caches[i];
        int hit;
        PFO_TRY(pfo_shadow_request(&cache->cache, hash, bytes, &hit, err));
        cache->hits += hit != 0;
        cache->misses += hit == 0;
        cache->bytes_missed += hit ? 0 : bytes;
    }
    return PFO_OK;
}

static pfo_status
replay_line(pfo_simulation *simulation, const char *line, size_t length, pfo_error *err)
{
    simulation->line++;
    strip(&line, &length);
    if (length == 0) {
        return PFO_OK;
    }
    size_t bytes = 1;
    size_t key_length = length;
    const char *comma = memrchr(line, ',', length);
    if (comma != NULL) {
        const char *size = comma + 1;
        size_t size_length = length - (size_t)(size - line);
        strip(&size, &size_length);
        PFO_TRY(parse_size(simulation, size, size_length, &bytes, err));
        key_length = (size_t)(comma - line);
        strip(&line, &key_length);
        if (key_length == 0) {
            return pfo_fail(err, PFO_BAD_ARGUMENT, "line %llu: no key before the comma; write key or key,size",
                            (unsigned long long)simulation->line);
        }
    }
    return request(simulation, hash_of(line, key_length), bytes, err);
}

/* ---- chunks ---------------------------------------------------------------------------------- */

static pfo_status
keep_rest(pfo_simulation *simulation, const char *text, size_t length, pfo_error *err)
{
    const size_t needed = simulation->rest_length + length;
    if (needed > PFO_TRACE_LINE) {
        return pfo_fail(err, PFO_BAD_ARGUMENT, "line %llu is longer than %d bytes: is this a trace?",
                        (unsigned long long)simulation->line + 1, (int)PFO_TRACE_LINE);
    }
    if (needed > simulation->rest_capacity) {
        const size_t capacity = needed < 256 ? 256 : 2 * needed;
        char *rest = pfo_realloc_array(simulation->rest, capacity, 1);
        if (rest == NULL) {
            return pfo_fail(err, PFO_NO_MEMORY, "no memory for a line of %zu bytes", needed);
        }
        simulation->rest = rest;
        simulation->rest_capacity = capacity;
    }
    if (length > 0) {
        memcpy(simulation->rest + simulation->rest_length, text, length);
    }
    simulation->rest_length = needed;
    return PFO_OK;
}

pfo_status
pfo_simulation_feed(pfo_simulation *simulation, const char *text, size_t length, pfo_error *err)
{
    const char *end = text + length;
    while (text < end) {
        const char *feed = memchr(text, '\n', (size_t)(end - text));
        if (feed == NULL) {
            return keep_rest(simulation, text, (size_t)(end - text), err);
        }
        if (simulation->rest_length > 0) {
            PFO_TRY(keep_rest(simulation, text, (size_t)(feed - text), err));
            PFO_TRY(pfo_simulation_finish(simulation, err));
        } else {
            PFO_TRY(replay_line(simulation, text, (size_t)(feed - text), err));
        }
        text = feed + 1;
    }
    return PFO_OK;
}

pfo_status
pfo_simulation_finish(pfo_simulation *simulation, pfo_error *err)
{
    const size_t length = simulation->rest_length;
    simulation->rest_length = 0;
    return length == 0 ? PFO_OK : replay_line(simulation, simulation->rest, length, err);
}
