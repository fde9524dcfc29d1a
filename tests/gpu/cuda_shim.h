// CUDA's language on a CPU, for tests: blocks run one after another, the threads of a block as fibres that take turns.
//
// A fibre runs until it waits for others: at a barrier, or in an exchange with its warp.  What threads of a block may not rely
// on is made visible: shared memory begins as NaN in every block; an asynchronous copy arrives only when it is waited for, not
// before; threads run in rising or in falling order, as the test asks; a barrier that some thread never reaches is an error.
#include <ucontext.h>

#include <cmath>
#include <csetjmp>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <string>
#include <utility>
#include <vector>

using std::max;
using std::min;

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
#define __shared__ static __attribute__((section("shared_variables"), aligned(16)))
#define __constant__ static

struct dim3 { unsigned x = 1, y = 1, z = 1; };
struct __align__(8) float2 { float x, y; };
struct __align__(16) float4 { float x, y, z, w; };
struct __align__(8) int2 { int x, y; };
struct __align__(16) int4 { int x, y, z, w; };
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline int2 make_int2(int x, int y) { return {x, y}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
inline unsigned __float_as_uint(float value) { unsigned bits; memcpy(&bits, &value, 4); return bits; }
inline float __uint_as_float(unsigned bits) { float value; memcpy(&value, &bits, 4); return value; }
inline float rsqrtf(float x) { return 1 / sqrtf(x); }
inline float __ldg(const float* p) { return *p; }
inline float4 __ldg(const float4* p) { return *p; }

static dim3 threadIdx, blockIdx, blockDim, gridDim;
__attribute__((aligned(16))) float shared_memory[60 << 10];     // for `extern __shared__ float shared_memory[]`: at most 227 KB
__attribute__((used)) __shared__ char at_least_one_variable;     // else there would be no such section
extern char __start_shared_variables[], __stop_shared_variables[];

// Fibres

struct Barrier { unsigned arrived = 0, members = 0, generation = 0; };

struct Copy { void* to; const void* from; int bytes; bool valid; };

struct Fibre {
    ucontext_t context;                     // where it begins; afterwards the cheaper jumps take over
    jmp_buf place;
    bool begun = false, done = false;
    Barrier* waiting = nullptr;
    unsigned generation;                    // of the barrier it waits at
    unsigned exchanges = 0;
    std::deque<std::vector<Copy>> copies;   // asynchronous ones under way, in their groups; the last group is still open
    char stack[1 << 15];
};

struct Warp { Barrier barrier; char values[2][32][64]; };

static std::vector<Fibre*> fibres;
static std::vector<Warp> warps;
static Barrier block_barrier;
static unsigned current;
static int falling;
static size_t shared_size;              // of shared_memory, as launched
static jmp_buf scheduler;               // where a block begins and ends
static char failure[200];
static std::vector<std::pair<const char*, const char*>> arrays;         // begin and end of every array the kernel was given
static void (*body)(void**);
static void** arguments;

[[noreturn]] inline void fail(const char* what) {
    snprintf(failure, sizeof failure, "block (%u, %u, %u), thread %u: %s", blockIdx.x, blockIdx.y, blockIdx.z, current, what);
    _longjmp(scheduler, 2);
}

inline bool ready(unsigned index) {
    Fibre& f = *fibres[index];
    return !f.done && (!f.waiting || f.waiting->generation != f.generation);
}

[[noreturn]] inline void resume(unsigned index) {
    current = index;
    threadIdx.x = index % blockDim.x;
    threadIdx.y = index / blockDim.x % blockDim.y;
    threadIdx.z = index / (blockDim.x * blockDim.y);
    Fibre& f = *fibres[index];
    f.waiting = nullptr;
    if (f.begun) _longjmp(f.place, 1);
    f.begun = true;
    setcontext(&f.context);
    fail("no such fibre");
}

[[noreturn]] inline void next() {           // the neighbours in the warp first, for whom an exchange waits
    unsigned count = fibres.size(), first = current / 32 * 32, lanes = min(32u, count - first);
    for (unsigned step = 1; step <= lanes; step++) {
        unsigned index = first + (current - first + (falling ? lanes - step : step)) % lanes;
        if (ready(index)) resume(index);
    }
    for (unsigned step = 1; step <= count; step++) {
        unsigned index = (current + (falling ? count - step : step)) % count;
        if (ready(index)) resume(index);
    }
    _longjmp(scheduler, 1);
}

inline void wait(Barrier& barrier) {
    if (++barrier.arrived == barrier.members) {
        barrier.arrived = 0;
        barrier.generation++;
        return;
    }
    Fibre& f = *fibres[current];
    f.waiting = &barrier;
    f.generation = barrier.generation;
    if (!_setjmp(f.place)) next();
}

inline void begin_fibre() {
    body(arguments);
    fibres[current]->done = true;
    next();
}

static const char* run_block() {        // what went wrong, or null
    unsigned count = blockDim.x * blockDim.y * blockDim.z;
    while (fibres.size() < count) fibres.push_back(new Fibre);
    while (fibres.size() > count) { delete fibres.back(); fibres.pop_back(); }
    warps.assign((count + 31) / 32, Warp());
    for (unsigned w = 0; w < warps.size(); w++) warps[w].barrier.members = min(32u, count - 32 * w);
    block_barrier = Barrier();
    block_barrier.members = count;
    for (Fibre* f : fibres) {
        f->begun = f->done = false;
        f->waiting = nullptr;
        f->exchanges = 0;
        f->copies.assign(1, {});
        getcontext(&f->context);
        f->context.uc_stack.ss_sp = f->stack;
        f->context.uc_stack.ss_size = sizeof f->stack;
        f->context.uc_link = nullptr;
        makecontext(&f->context, begin_fibre, 0);
    }
    memset(__start_shared_variables, 0xff, __stop_shared_variables - __start_shared_variables);
    memset(shared_memory, 0xff, shared_size + 4096);
    switch (_setjmp(scheduler)) {
        case 0: resume(falling ? count - 1 : 0);
        case 2: return failure;
    }
    for (size_t byte = shared_size; byte < shared_size + 4096; byte++)
        if (((unsigned char*)shared_memory)[byte] != 0xff) fail("uses more shared memory than it was launched with");
    for (current = 0; current < count; current++) {
        if (!fibres[current]->done) fail("waits for threads that never come");
        for (auto& group : fibres[current]->copies)
            if (!group.empty()) fail("ends before its asynchronous copies have arrived");
    }
    return nullptr;
}

// What a kernel may call

inline void __syncthreads() { wait(block_barrier); }

template <class T> T* exchange(T value) {       // the values of the warp's lanes; good until the next exchange
    static_assert(sizeof(T) <= 64, "too large for an exchange");
    Warp& warp = warps[current / 32];
    auto& values = warp.values[fibres[current]->exchanges++ % 2];
    static T lanes[32];
    memcpy(values[current % 32], &value, sizeof(T));
    wait(warp.barrier);
    for (int lane = 0; lane < 32; lane++) memcpy(&lanes[lane], values[lane], sizeof(T));
    return lanes;
}

inline void __syncwarp(unsigned = ~0u) { wait(warps[current / 32].barrier); }
template <class T> T __shfl_sync(unsigned, T value, int lane) { return exchange(value)[lane % 32]; }
template <class T> T __shfl_xor_sync(unsigned, T value, int mask) { int me = current % 32; return exchange(value)[me ^ mask]; }
template <class T> T __shfl_down_sync(unsigned, T value, unsigned by) {
    unsigned from = current % 32 + by;
    return exchange(value)[from < 32 ? from : current % 32];
}

// What ptx.cuh wraps where there is a GPU; with __CUDA_ARCH__ below 800 it brings its own copies

#ifndef __CUDA_ARCH__
inline void copy_async(float* to, const float* from, int bytes, bool valid) {
    if ((uintptr_t)to % bytes || (valid && (uintptr_t)from % bytes)) fail("a copy from or to an address that is not aligned");
    bool known = !valid;
    for (auto& [begin, end] : arrays) known |= (const char*)from >= begin && (const char*)from + bytes <= end;
    if (!known) fail("copies from beyond the end of an array");
    fibres[current]->copies.back().push_back({to, from, bytes, valid});
}
inline void copy4(float* to, const float* from, bool valid) { copy_async(to, from, 4, valid); }
inline void copy16(float* to, const float* from, bool valid) { copy_async(to, from, 16, valid); }
inline void copy16_reused(float* to, const float* from, bool valid) { copy_async(to, from, 16, valid); }
inline void close_group() { fibres[current]->copies.emplace_back(); }
template <int LEFT> void wait_for_groups() {    // until at most LEFT closed groups are still under way
    auto& copies = fibres[current]->copies;
    for (; copies.size() > LEFT + 1; copies.pop_front())
        for (Copy& copy : copies.front())
            copy.valid ? (void)memcpy(copy.to, copy.from, copy.bytes) : (void)memset(copy.to, 0, copy.bytes);
}

inline unsigned tf32(float value) {             // to the nearest, as cvt.rna does
    unsigned bits = __float_as_uint(value);
    return std::isnan(value) ? 0x7fffe000u : (bits + 0x1000u) & 0xffffe000u;
}

// c += a b for matrices (16, 8) and (8, 8) spread over a warp (PTX ISA, "Matrix fragments for mma.m16n8k8", .tf32).  Of the
// factors the hardware takes the upper 19 bits as they are: who wants them rounded rounds before.
inline void multiply_tf32(float* c, const unsigned* a, const unsigned* b) {
    struct Factors { unsigned a[4], b[2]; } mine = {{a[0], a[1], a[2], a[3]}, {b[0], b[1]}};
    const Factors* lanes = exchange(mine);
    auto tf32 = [](unsigned bits) { return __uint_as_float(bits & 0xffffe000u); };
    int group = current % 32 / 4, member = current % 4;
    for (int e = 0; e < 4; e++) {
        int row = group + e / 2 * 8, column = 2 * member + e % 2;
        for (int k = 0; k < 8; k++)
            c[e] += tf32(lanes[row % 8 * 4 + k % 4].a[row / 8 + k / 4 * 2]) * tf32(lanes[column * 4 + k % 4].b[k / 4]);
    }
}

#endif

// What the test calls

template <class T> std::string letter() { return std::is_same_v<T, float> ? "f" : std::is_same_v<T, int> ? "i" : "?"; }
template <class T> std::string kind() {
    if constexpr (std::is_pointer_v<T>) return "*" + letter<std::remove_cv_t<std::remove_pointer_t<T>>>();
    else return letter<T>();
}
template <class... A> std::string kinds_of(void (*)(A...)) { return (kind<A>() + ...); }
template <class... A, size_t... I> void call(void (*f)(A...), void** args, std::index_sequence<I...>) { f(*(A*)args[I]...); }
template <class... A> void call(void (*f)(A...), void** args) { call(f, args, std::index_sequence_for<A...>()); }

#define EMULATE(function)                                                                                               \
    extern "C" const char* kinds() { static std::string all = kinds_of(function); return all.c_str(); }                \
    extern "C" void know(const char* begin, size_t size) { arrays.emplace_back(begin, begin + size); }                 \
    extern "C" const char* launch(const unsigned* grid, const unsigned* block, void** args, int shared, int order) {   \
        gridDim = {grid[0], grid[1], grid[2]};                                                                          \
        blockDim = {block[0], block[1], block[2]};                                                                      \
        body = [](void** args) { call(function, args); };                                                               \
        arguments = args;                                                                                               \
        shared_size = shared;                                                                                           \
        falling = order;                                                                                                \
        for (blockIdx.z = 0; blockIdx.z < gridDim.z; blockIdx.z++)                                                      \
            for (blockIdx.y = 0; blockIdx.y < gridDim.y; blockIdx.y++)                                                  \
                for (blockIdx.x = 0; blockIdx.x < gridDim.x; blockIdx.x++)                                              \
                    if (run_block()) return arrays.clear(), failure;                                                    \
        arrays.clear();                                                                                                 \
        return nullptr;                                                                                                 \
    }
