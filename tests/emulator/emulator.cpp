/* emulator.cpp: see cuda_runtime.h. Fibers are begun by ucontext(3) once and switched by setjmp(3), which enters no system call; under
 * AddressSanitizer, which must see them change stacks, by ucontext(3) alone. One block at a time, under one lock. */
#include "cuda_runtime.h"

#include "emulator.h"

#include <map>
#include <mutex>
#include <random>
#include <vector>

#include <setjmp.h>
#include <sys/mman.h>
#include <ucontext.h>

extern "C" void pfo_alloc_fail_at(long n); /* base/alloc.c, compiled for tests */

emulator_index threadIdx, blockIdx, gridDim;

namespace {

constexpr int kMostThreads = 512;
constexpr int kLanes = 32;
constexpr size_t kStackBytes = 160 << 10; /* arguments are copied to it, up to 32 KiB */

[[noreturn]] void
give_up(const char *why)
{
    fprintf(stderr, "emulator: %s (block %u, thread %u)\n", why, blockIdx.x, threadIdx.x);
    abort();
}

/* ---- fibers ----------------------------------------------------------------------------------- */

struct fiber {
    ucontext_t context;
    jmp_buf place;
    bool begun;
    bool done;
    bool waits;
    unsigned exchanges; /* shuffles so far: which half of the warp's slots is whose */
};

struct warp {
    unsigned mask;    /* of the barrier that lanes wait at */
    unsigned waiting; /* lanes */
    uint64_t slots[2][kLanes];
};

struct kernel_type {
    void (*call)(const void *, const void *);
    size_t bytes;
};

struct launch_request {
    const void *kernel;
    std::vector<char> arguments; /* empty: a memset */
    unsigned grid;
    unsigned threads;
    void *to;
    int value;
    size_t bytes;
};

std::recursive_mutex lock;
fiber fibers[kMostThreads];
warp warps[kMostThreads / kLanes];
ucontext_t scheduler;
jmp_buf scheduler_place;
unsigned threads_of_block;
unsigned at_block_barrier;
bool any_so_far, any_answer;
const launch_request *running;
std::mt19937 randomness(20240229);

std::map<const void *, kernel_type> &
kernels()
{
    static std::map<const void *, kernel_type> known; /* filled before main() */
    return known;
}

char *
stacks()
{
    static char *memory;
    if (memory == nullptr) {
        void *mapped = mmap(nullptr, kMostThreads * kStackBytes, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (mapped == MAP_FAILED) {
            give_up("no memory for stacks");
        }
        memory = static_cast<char *>(mapped);
    }
    return memory;
}

void fiber_main();

/* Runs a fiber until it waits or is done. */
void
resume(fiber *next, unsigned thread)
{
    if (!next->begun) {
        getcontext(&next->context);
        next->context.uc_stack.ss_sp = stacks() + thread * kStackBytes;
        next->context.uc_stack.ss_size = kStackBytes;
        next->context.uc_link = nullptr;
        makecontext(&next->context, fiber_main, 0);
    }
#if defined(__SANITIZE_ADDRESS__)
    next->begun = true;
    (void)swapcontext(&scheduler, &next->context);
#else
    if (_setjmp(scheduler_place) == 0) {
        if (next->begun) {
            _longjmp(next->place, 1);
        }
        next->begun = true;
        (void)setcontext(&next->context);
    }
#endif
}

/* Back to where the fiber was resumed. */
void
leave_fiber(fiber *self)
{
#if defined(__SANITIZE_ADDRESS__)
    (void)swapcontext(&self->context, &scheduler);
#else
    if (_setjmp(self->place) == 0) {
        _longjmp(scheduler_place, 1);
    }
#endif
}

/* One thread of one block after the other. */
void
fiber_main()
{
    fiber *self = &fibers[threadIdx.x];
    for (;;) {
        kernels()[running->kernel].call(running->kernel, running->arguments.data());
        self->done = true;
        leave_fiber(self);
    }
}

void
wait_in_fiber()
{
    fiber *self = &fibers[threadIdx.x];
    self->waits = true;
    leave_fiber(self);
}

void
run_block(const std::vector<unsigned> &order)
{
    memset(warps, 0, sizeof warps);
    at_block_barrier = 0;
    any_so_far = false;
    for (unsigned thread = 0; thread < threads_of_block; thread++) {
        fibers[thread].done = fibers[thread].waits = false;
        fibers[thread].exchanges = 0;
    }
    unsigned done = 0;
    while (done < threads_of_block) {
        bool moved = false;
        for (const unsigned thread : order) {
            fiber *next = &fibers[thread];
            if (!next->done && !next->waits) {
                threadIdx.x = thread;
                resume(next, thread);
                done += next->done;
                moved = true;
            }
        }
        if (!moved) {
            give_up("threads wait at a barrier that others do not reach");
        }
    }
}

void
run(const launch_request *request)
{
    if (request->arguments.empty()) {
        memset(request->to, request->value, request->bytes);
        return;
    }
    running = request;
    threads_of_block = request->threads;
    gridDim.x = request->grid;
    std::vector<unsigned> order(threads_of_block);
    for (unsigned thread = 0; thread < threads_of_block; thread++) {
        order[thread] = thread;
    }
    std::vector<unsigned> blocks(request->grid);
    for (unsigned block = 0; block < request->grid; block++) {
        blocks[block] = block;
    }
    const auto shuffle = [](std::vector<unsigned> &list) {
        for (size_t i = list.size(); i > 1; i--) {
            std::swap(list[i - 1], list[randomness() % i]);
        }
    };
    shuffle(order);
    shuffle(blocks);
    for (const unsigned block : blocks) {
        blockIdx.x = block;
        run_block(order);
    }
}

/* ---- state of the runtime ---------------------------------------------------------------------- */

long calls_until_failure;
cudaError_t last_error = cudaSuccess;
long launches_so_far;
bool capturing;
std::vector<launch_request> graph;
thread_local int current_device;
int multiprocessors = 2;

/* At the start of each call of the runtime. */
bool
fails()
{
    const bool now = calls_until_failure > 0 && --calls_until_failure == 0;
    last_error = now ? cudaErrorInjected : last_error;
    return now;
}

#define EMULATOR_MAY_FAIL()                                                                                            \
    const std::lock_guard<std::recursive_mutex> guard(lock);                                                           \
    if (fails()) {                                                                                                     \
        return cudaErrorInjected;                                                                                      \
    }

cudaError_t
enqueue(launch_request &&request)
{
    if (capturing) {
        graph.push_back(static_cast<launch_request &&>(request));
    } else {
        run(&request);
    }
    return cudaSuccess;
}

int
primary_context_state(int, unsigned *flags, int *active)
{
    *flags = 0;
    *active = 1;
    return 0;
}

} // namespace

/* ---- [threads] --------------------------------------------------------------------------------- */

extern "C" void
emulator_wait_for_block(void)
{
    if (++at_block_barrier < threads_of_block) {
        wait_in_fiber();
        return;
    }
    at_block_barrier = 0;
    any_answer = any_so_far;
    any_so_far = false;
    for (unsigned thread = 0; thread < threads_of_block; thread++) {
        if (fibers[thread].done) {
            give_up("a thread has ended before a barrier of its block");
        }
        fibers[thread].waits = false;
    }
}

extern "C" int
emulator_any_in_block(int predicate)
{
    any_so_far |= predicate != 0;
    emulator_wait_for_block();
    return any_answer;
}

extern "C" void
emulator_wait_for_warp(unsigned mask)
{
    warp *own = &warps[threadIdx.x / kLanes];
    const unsigned self = 1u << threadIdx.x % kLanes;
    if ((mask & self) == 0 || (own->waiting != 0 && own->mask != mask)) {
        give_up("lanes of a warp name different masks");
    }
    own->mask = mask;
    own->waiting |= self;
    if (own->waiting != mask) {
        wait_in_fiber();
        return;
    }
    own->waiting = 0;
    const unsigned first = threadIdx.x / kLanes * kLanes;
    for (unsigned lane = 0; lane < (unsigned)kLanes; lane++) {
        if (mask >> lane & 1) {
            fibers[first + lane].waits = false;
        }
    }
}

extern "C" const uint64_t *
emulator_gather(unsigned mask, uint64_t word)
{
    uint64_t *slots = warps[threadIdx.x / kLanes].slots[fibers[threadIdx.x].exchanges++ % 2];
    slots[threadIdx.x % kLanes] = word;
    emulator_wait_for_warp(mask);
    return slots;
}

extern "C" int
emulator_add_kernel(const void *kernel, void (*call)(const void *, const void *), size_t bytes)
{
    kernels()[kernel] = { call, bytes };
    return 1;
}

/* ---- [calls] ------------------------------------------------------------------------------------ */

const char *
cudaGetErrorString(cudaError_t error)
{
    return error == cudaErrorInjected ? "made to fail" : "emulated error";
}

cudaError_t
cudaGetLastError(void)
{
    const cudaError_t error = last_error;
    last_error = cudaSuccess;
    return error;
}

cudaError_t
cudaDriverGetVersion(int *version)
{
    EMULATOR_MAY_FAIL();
    *version = CUDART_VERSION;
    return cudaSuccess;
}

cudaError_t
cudaGetDeviceCount(int *count)
{
    EMULATOR_MAY_FAIL();
    *count = EMULATOR_DEVICES;
    return cudaSuccess;
}

cudaError_t
cudaGetDevice(int *device)
{
    EMULATOR_MAY_FAIL();
    *device = current_device;
    return cudaSuccess;
}

cudaError_t
cudaSetDevice(int device)
{
    EMULATOR_MAY_FAIL();
    if (device < 0 || device >= EMULATOR_DEVICES) {
        return last_error = cudaErrorInvalidDevice;
    }
    current_device = device;
    return cudaSuccess;
}

cudaError_t
cudaGetDeviceProperties(cudaDeviceProp *properties, int device)
{
    EMULATOR_MAY_FAIL();
    if (device < 0 || device >= EMULATOR_DEVICES) {
        return last_error = cudaErrorInvalidDevice;
    }
    memset(properties, 0, sizeof *properties);
    snprintf(properties->name, sizeof properties->name, "emulated");
    properties->major = 9;
    properties->multiProcessorCount = multiprocessors;
    properties->totalGlobalMem = 1 << 20;
    return cudaSuccess;
}

cudaError_t
cudaDeviceGetAttribute(int *value, cudaDeviceAttr, int)
{
    EMULATOR_MAY_FAIL();
    *value = multiprocessors;
    return cudaSuccess;
}

cudaError_t
cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes)
{
    EMULATOR_MAY_FAIL();
    *free_bytes = 1 << 19;
    *total_bytes = 1 << 20;
    return cudaSuccess;
}

cudaError_t
cudaGetDriverEntryPointByVersion(const char *, void **found, unsigned, unsigned long long,
                                 cudaDriverEntryPointQueryResult *outcome)
{
    EMULATOR_MAY_FAIL();
    *found = reinterpret_cast<void *>(&primary_context_state);
    *outcome = cudaDriverEntryPointSuccess;
    return cudaSuccess;
}

cudaError_t
cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, const void *kernel, int threads, size_t)
{
    EMULATOR_MAY_FAIL();
    if (kernels().count(kernel) == 0 || threads > kMostThreads) {
        give_up("a kernel is not known");
    }
    *blocks = 2;
    return cudaSuccess;
}

cudaError_t
cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus *status)
{
    EMULATOR_MAY_FAIL();
    *status = capturing ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
    return cudaSuccess;
}

cudaError_t
cudaStreamSynchronize(cudaStream_t)
{
    EMULATOR_MAY_FAIL();
    if (capturing) {
        give_up("a stream that is captured is waited for");
    }
    return cudaSuccess;
}

cudaError_t
cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind, cudaStream_t)
{
    EMULATOR_MAY_FAIL();
    if (capturing) {
        give_up("memory of the host is copied to by a graph");
    }
    memcpy(to, from, bytes);
    return cudaSuccess;
}

cudaError_t
cudaMemsetAsync(void *to, int value, size_t bytes, cudaStream_t)
{
    EMULATOR_MAY_FAIL();
    return enqueue({ nullptr, {}, 0, 0, to, value, bytes });
}

cudaError_t
cudaLaunchKernel(const void *kernel, dim3 grid, dim3 block, void **parameters, size_t, cudaStream_t)
{
    EMULATOR_MAY_FAIL();
    const auto known = kernels().find(kernel);
    if (known == kernels().end() || block.x > (unsigned)kMostThreads || block.x % kLanes != 0 || grid.x < 1) {
        give_up("a launch is not possible");
    }
    launches_so_far += 1;
    const char *arguments = static_cast<const char *>(parameters[0]);
    return enqueue(
        { kernel, std::vector<char>(arguments, arguments + known->second.bytes), grid.x, block.x, nullptr, 0, 0 });
}

/* ---- controls ----------------------------------------------------------------------------------- */

extern "C" __attribute__((visibility("default"))) const emulator_controls *
emulator_v1(void)
{
    static const emulator_controls controls = {
        [](long n) {
            const long left = calls_until_failure;
            calls_until_failure = n;
            return left;
        },
        [](long n) { pfo_alloc_fail_at(n); },
        []() { return (int)last_error; },
        []() {
            graph.clear();
            capturing = true;
        },
        []() {
            capturing = false;
            return (long)graph.size();
        },
        []() {
            const std::lock_guard<std::recursive_mutex> guard(lock);
            for (const launch_request &request : graph) {
                run(&request);
            }
        },
        []() { return launches_so_far; },
        []() { return current_device; },
        [](int device) { current_device = device; },
        [](int count) { multiprocessors = count; },
    };
    return &controls;
}
