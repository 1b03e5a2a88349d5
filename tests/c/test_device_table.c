/* Tests of cuda/table.h, the index arithmetic of the CUDA kernels, without a device: layout and cut by themselves, and whole
 * steps of the fake backend, which walks the table as the kernels do, against the CPU's pfo_execute_step(). */
#include "check.h"
#include "device_fixture.h"

#include "../../cuda/table.h"

#include "kernels/execute.h"

#include <math.h>
#include <string.h>

static const pfo_backend *backend;

static const int64_t edge_counts[] = { 0,      1,      2,      3,     4,      5,     7,      8,      15,
                                       63,     64,     65,     511,   512,    513,   2047,   2048,   2049,
                                       65535,  65536,  65537,  65540, 98304,  99999, 131071, 131072, 131073,
                                       196613, 333333, 555555, 33,    262144, 1000 };
enum { EDGES = sizeof edge_counts / sizeof edge_counts[0] };

static void
test_chunks_of_any_size(void)
{
    const int64_t billion = 1000000000;
    const int64_t large[] = { 0,
                              1,
                              65536,
                              65537,
                              INT32_MAX,
                              (int64_t)INT32_MAX + 1,
                              (int64_t)UINT32_MAX,
                              5 * billion,
                              70 * billion,
                              140000 * billion };
    for (size_t i = 0; i < sizeof large / sizeof large[0]; i++) {
        const pfo_table_record record = { .count = large[i], .first_chunk = 123456 };
        const int64_t chunks = pfo_table_chunks_of(large[i]);
        const int64_t looks[] = { 0, 1, 2, chunks / 2, chunks - 2, chunks - 1 };
        CHECK(chunks >= 1 && chunks * PFO_CHUNK_ELEMENTS >= large[i]);
        CHECK(large[i] == 0 || (chunks - 1) * PFO_CHUNK_ELEMENTS < large[i]);
        for (size_t k = 0; k < sizeof looks / sizeof looks[0]; k++) {
            const int64_t chunk = looks[k];
            if (chunk < 0 || chunk >= chunks) {
                continue;
            }
            const pfo_table_chunk span = pfo_table_chunk_at(&record, record.first_chunk + chunk);
            CHECK(span.begin == chunk * PFO_CHUNK_ELEMENTS);
            CHECK(span.first == (chunk == 0));
            CHECK(span.begin + span.length == (chunk == chunks - 1 ? large[i] : span.begin + PFO_CHUNK_ELEMENTS));
        }
    }
}

/* Blocks, chunks, quads and rest together reach every element of every tensor exactly once, whatever the launch's
 * shape. */
static void
test_every_element_once(void)
{
    pfo_backend_tensor tensors[EDGES];
    unsigned char *seen[EDGES];
    pfo_table_record records[EDGES];
    int64_t chunks = 0;
    memset(tensors, 0, sizeof tensors);
    for (int t = 0; t < EDGES; t++) {
        tensors[t].count = edge_counts[t];
        chunks += pfo_table_chunks_of(edge_counts[t]);
    }
    int32_t *chunk_tensor = calloc((size_t)chunks, sizeof *chunk_tensor);
    REQUIRE(chunk_tensor != NULL);
    pfo_table_fill(tensors, EDGES, records, chunk_tensor);
    const int shapes[][2] = { { 1, 512 }, { 3, 512 }, { 7, 32 }, { 1000, 128 } };
    for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++) {
        for (int t = 0; t < EDGES; t++) {
            seen[t] = calloc((size_t)edge_counts[t] + 1, 1);
            REQUIRE(seen[t] != NULL);
        }
        for (int64_t block = 0; block < shapes[s][0]; block++) {
            for (int64_t chunk = block; chunk < chunks; chunk += shapes[s][0]) {
                const int32_t t = chunk_tensor[chunk];
                const pfo_table_chunk span = pfo_table_chunk_at(&records[t], chunk);
                const int32_t quads = pfo_table_quads(span.length);
                for (int32_t thread = 0; thread < shapes[s][1]; thread++) {
                    for (int32_t quad = thread; quad < quads; quad += shapes[s][1]) {
                        for (int i = 0; i < 4; i++) {
                            seen[t][span.begin + quad * 4 + i]++;
                        }
                    }
                    if (quads * 4 + thread < span.length) {
                        seen[t][span.begin + quads * 4 + thread]++;
                    }
                }
            }
        }
        for (int t = 0; t < EDGES; t++) {
            int64_t wrong = seen[t][edge_counts[t]];
            for (int64_t i = 0; i < edge_counts[t]; i++) {
                wrong += seen[t][i] != 1;
            }
            CHECK(wrong == 0);
            free(seen[t]);
        }
    }
    free(chunk_tensor);
}

static void
test_layout_is_disjoint_and_aligned(void)
{
    const int64_t cases[][3] = {
        { 0, 0, 1 }, { 1, 1, 1 }, { 80, 1300, 4 }, { 10000, 10000, 300 }, { 3, INT32_MAX, 1 }
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        for (int with_scalars = 0; with_scalars < 2; with_scalars++) {
            const pfo_table_layout layout = pfo_table_lay_out(cases[i][0], cases[i][1], cases[i][2], with_scalars);
            const int64_t places[][2] = {
                { 0, (int64_t)sizeof(pfo_backend_state) },
                { layout.scratch, (int64_t)sizeof(pfo_table_scratch) },
                { layout.begun, cases[i][0] * (int64_t)sizeof(int32_t) },
                { layout.groups, cases[i][2] * (int64_t)sizeof(pfo_backend_group) },
                { layout.records, cases[i][0] * (int64_t)sizeof(pfo_table_record) },
                { layout.grads, cases[i][0] * (int64_t)sizeof(void *) },
                { layout.chunk_tensor, cases[i][1] * (int64_t)sizeof(int32_t) },
                { layout.scalars, with_scalars ? cases[i][0] * (int64_t)sizeof(pfo_scalars) : 0 },
                { layout.partials, cases[i][1] * (int64_t)sizeof(double) },
                { layout.bytes, 0 },
            };
            for (size_t p = 0; p + 1 < sizeof places / sizeof places[0]; p++) {
                CHECK(places[p][0] % PFO_TABLE_ALIGNMENT == 0);
                CHECK(places[p][0] + places[p][1] <= places[p + 1][0]);
            }
        }
    }
}

static void
test_changes_give_the_shortest_run(void)
{
    enum { COUNT = 6 };
    float memory[COUNT * 2];
    pfo_backend_tensor tensors[COUNT];
    const void *grads[COUNT] = { NULL };
    memset(tensors, 0, sizeof tensors);
    for (int t = 0; t < COUNT; t++) {
        tensors[t].count = t == 3 ? 0 : 1;
        tensors[t].data[PFO_BACKEND_GRAD] = &memory[t];
        tensors[t].has_grad = 1;
    }
    pfo_table_range range = pfo_table_update_grads(tensors, COUNT, grads);
    CHECK(range.begin == 0 && range.end == COUNT);
    CHECK(grads[3] == PFO_TABLE_EMPTY_GRAD && grads[5] == &memory[5]);
    range = pfo_table_update_grads(tensors, COUNT, grads);
    CHECK(range.begin == range.end);
    tensors[2].data[PFO_BACKEND_GRAD] = &memory[COUNT];
    tensors[4].has_grad = 0;
    range = pfo_table_update_grads(tensors, COUNT, grads);
    CHECK(range.begin == 2 && range.end == 5 && grads[4] == NULL && grads[2] == &memory[COUNT]);

    pfo_table_record records[COUNT];
    int32_t chunk_tensor[COUNT];
    pfo_table_fill(tensors, COUNT, records, chunk_tensor);
    range = pfo_table_update_records(tensors, COUNT, records);
    CHECK(range.begin == range.end);
    tensors[5].step = &memory[0];
    range = pfo_table_update_records(tensors, COUNT, records);
    CHECK(range.begin == 5 && range.end == 6 && records[5].step == &memory[0]);
}

/* ---- Steps: the table's against the CPU's ---------------------------------------------------- */

enum { ROLES = PFO_ROLE_STATE_3 };

typedef struct model {
    float *data[EDGES][ROLES];
    float step[EDGES];
} model;

static void
fill_model(model *m, unsigned long long seed)
{
    for (int t = 0; t < EDGES; t++) {
        m->step[t] = (float)(t % 5);
        for (int role = 0; role < ROLES; role++) {
            m->data[t][role] = malloc((size_t)(edge_counts[t] + 1) * sizeof(float));
            REQUIRE(m->data[t][role] != NULL);
            for (int64_t i = 0; i < edge_counts[t]; i++) {
                const float value = (float)(check_random(&seed) >> 40) / 8388608.0f - 1.0f;
                m->data[t][role][i] = role == PFO_ROLE_STATE_2 ? value * value : value;
            }
        }
    }
}

static void
free_model(model *m)
{
    for (int t = 0; t < EDGES; t++) {
        for (int role = 0; role < ROLES; role++) {
            free(m->data[t][role]);
        }
    }
}

static int64_t
differences(const model *a, const model *b)
{
    int64_t found = 0;
    for (int t = 0; t < EDGES; t++) {
        found += memcmp(&a->step[t], &b->step[t], sizeof(float)) != 0;
        for (int role = 0; role < ROLES; role++) {
            found += memcmp(a->data[t][role], b->data[t][role], (size_t)edge_counts[t] * sizeof(float)) != 0;
        }
    }
    return found;
}

typedef struct step_case {
    double max_grad_norm;
    double unscale;
    int maximize;
    int skip_nonfinite;
    int poison;       /* 1: an inf in the last gradient */
    float grad_scale; /* 0: none given */
    float found_inf;  /* < 0: none given */
} step_case;

static void
run_both(const step_case *c, int steps)
{
    model cpu, device;
    pfo_plan_entry entries[EDGES];
    pfo_backend_tensor tensors[EDGES];
    memset(entries, 0, sizeof entries);
    memset(tensors, 0, sizeof tensors);
    fill_model(&cpu, 42);
    fill_model(&device, 42);
    if (c->poison) {
        cpu.data[EDGES - 1][PFO_ROLE_GRAD][999] = INFINITY;
        device.data[EDGES - 1][PFO_ROLE_GRAD][999] = INFINITY;
    }
    const pfo_engine engine = { pfo_kernels_scalar(), pfo_converters_scalar() };
    pfo_options options[2] = { { .adamw = { 1e-2, 0.9, 0.999, 1e-8, 0.1, c->maximize, 0, 0 } },
                               { .adamw = { 3e-3, 0.4, 0.95, 1e-6, 0.0, c->maximize, 0, 0 } } };
    const float slot_lr = 1e-2f; /* group 0 takes its rate from the device */
    options[0].adamw.lr = (double)slot_lr;
    pfo_backend_group groups[2];
    for (int g = 0; g < 2; g++) {
        groups[g] = (pfo_backend_group){ .options = options[g] };
    }
    groups[0].options.adamw.lr = 1e9;
    groups[0].device_lr = &slot_lr;
    for (int t = 0; t < EDGES; t++) {
        entries[t] =
            (pfo_plan_entry){ .has_grad = t % 7 != 3, .step = &cpu.step[t], .count = edge_counts[t], .group = t % 2 };
        tensors[t] = (pfo_backend_tensor){
            .step = &device.step[t], .count = edge_counts[t], .group = t % 2, .has_grad = t % 7 != 3
        };
        memcpy(tensors[t].data, device.data[t], sizeof device.data[t]);
        memcpy(entries[t].data, cpu.data[t], sizeof cpu.data[t]);
    }
    pfo_plan *plan;
    REQUIRE(pfo_plan_create(PFO_OP_ADAMW, entries, EDGES, 2, &plan, NULL) == PFO_OK);
    pfo_backend_plan_spec spec = { 0, PFO_OP_ADAMW, EDGES, tensors, 2, 0, NULL, 0 };
    REQUIRE(backend->plan_bytes(&spec, &spec.workspace_bytes, NULL) == PFO_BACKEND_OK);
    REQUIRE(posix_memalign(&spec.workspace, PFO_TABLE_ALIGNMENT, (size_t)spec.workspace_bytes) == 0);
    pfo_backend_plan *device_plan;
    REQUIRE(backend->plan_create(&spec, NULL, &device_plan, NULL) == PFO_BACKEND_OK);

    const double unscale = c->grad_scale > 0.0f ? c->unscale / (double)c->grad_scale : c->unscale;
    const pfo_step_request request = { .max_grad_norm = c->max_grad_norm,
                                       .unscale = unscale,
                                       .step = 1.0,
                                       .skip_nonfinite = c->skip_nonfinite,
                                       .threads = 1 };
    const pfo_backend_step step = {
        .max_grad_norm = c->max_grad_norm,
        .unscale = c->unscale,
        .grad_scale = c->grad_scale > 0.0f ? &c->grad_scale : NULL,
        .found_inf = c->found_inf >= 0.0f ? &c->found_inf : NULL,
        .groups = groups,
        .skip_nonfinite = c->skip_nonfinite,
    };
    int64_t skipped = 0;
    for (int i = 0; i < steps; i++) {
        pfo_step_result result = { 0 };
        pfo_backend_state state;
        if (!(c->found_inf > 0.0f)) {
            pfo_execute_step(plan, &engine, options, &request, &result);
        }
        skipped += result.skipped || c->found_inf > 0.0f;
        CHECK(backend->plan_update(device_plan, tensors, EDGES, NULL, NULL) == PFO_BACKEND_OK);
        CHECK(backend->norm(device_plan, &step, NULL, NULL) == PFO_BACKEND_OK);
        CHECK(backend->update(device_plan, &step, NULL, NULL) == PFO_BACKEND_OK);
        CHECK(backend->read_state_and_wait(device_plan, NULL, &state, NULL) == PFO_BACKEND_OK);
        CHECK(state.skipped == skipped && state.taken + state.skipped == i + 1);
        CHECK(state.nonfinite == c->poison);
        if (!c->poison && !(c->found_inf > 0.0f)) {
            CHECK(fabs(state.norm - result.norm) <= 1e-12 * result.norm);
            CHECK(fabs(state.clip_factor - result.clip_factor) <= 1e-12);
            CHECK(result.clip_factor < 1.0 || c->max_grad_norm < 0.0 || c->max_grad_norm > 1e6);
        }
    }
    CHECK(differences(&cpu, &device) == 0);
    backend->plan_destroy(device_plan);
    free(spec.workspace);
    pfo_plan_destroy(plan);
    free_model(&cpu);
    free_model(&device);
}

static void
test_steps_equal_the_cpu(void)
{
    const step_case cases[] = {
        { -1.0, 1.0, 0, 1, 0, 0.0f, -1.0f },   { 1e9, 1.0, 0, 1, 0, 0.0f, -1.0f },
        { -1.0, 1.0, 1, 1, 0, 0.0f, -1.0f },   { -1.0, 0.25, 0, 1, 0, 0.0f, -1.0f },
        { -1.0, 1.0, 0, 1, 0, 1024.0f, 0.0f }, { -1.0, 1.0, 0, 1, 1, 0.0f, -1.0f },
        { 1.0, 1.0, 0, 1, 1, 0.0f, -1.0f },    { -1.0, 1.0, 0, 1, 0, 0.0f, 2.0f },
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        run_both(&cases[i], 3);
    }
}

/* Clipping: the two norms may differ in the last bits of a double, which moves no float32 here. */
static void
test_clipped_steps_equal_the_cpu(void)
{
    const step_case cases[] = { { 1.0, 1.0, 0, 1, 0, 0.0f, -1.0f }, { 0.5, 2.0, 1, 1, 0, 64.0f, 0.0f } };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        run_both(&cases[i], 2);
    }
}

int
main(int argc, char **argv)
{
    backend = open_device(argc, argv);
    RUN(test_chunks_of_any_size);
    RUN(test_every_element_once);
    RUN(test_layout_is_disjoint_and_aligned);
    RUN(test_changes_give_the_shortest_run);
    RUN(test_steps_equal_the_cpu);
    RUN(test_clipped_steps_equal_the_cpu);
    return FINISH();
}
