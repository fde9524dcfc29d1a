// Maps threads to an array of rows and columns with per-column (per-channel) values.
//
// A thread handles WIDTH neighbouring columns, its pack, of every at.step-th row, so it reads per-column values only once.
// Consecutive threadIdx.x map to consecutive packs.  Threads with equal threadIdx.x handle the same pack of different rows.

#include "leaky.cuh"

#ifndef WIDTH
#define WIDTH 4
#endif
#define THREADS 256         // per block
#define KERNEL extern "C" __global__ void __launch_bounds__(THREADS, 4)     // 4 blocks per multiprocessor, as rows.py assumes

typedef const float* __restrict__ In;       // arrays that do not overlap others
typedef float* __restrict__ Out;

struct __align__(4 * WIDTH) Pack { float of[WIDTH]; };         // one load or store

struct Place {
    int pack, packs, column, row, step;

    __device__ Place(int columns) {
        pack = blockIdx.x * blockDim.x + threadIdx.x;
        packs = columns / WIDTH;
        column = pack * WIDTH;
        row = pack < packs ? blockIdx.y * blockDim.y + threadIdx.y : 0x7fffffff;     // no rows beyond the last column
        step = gridDim.y * blockDim.y;
    }
    __device__ Pack load(const float* x, int r) const { return reinterpret_cast<const Pack*>(x)[r * packs + pack]; }
    __device__ void store(float* x, int r, const Pack& p) const { reinterpret_cast<Pack*>(x)[r * packs + pack] = p; }
};

// The values of a thread's columns, from a pack-aligned array (columns); if the array is NULL, one number for all columns
struct Columns {
    Pack pack;

    __device__ Columns(const Place& at, const float* values, float otherwise = 0) {
        for (int k = 0; k < WIDTH; k++) pack.of[k] = otherwise;
        if (values) pack = reinterpret_cast<const Pack*>(values)[min(at.pack, at.packs - 1)];
    }
    __device__ float operator[](int k) const { return pack.of[k]; }
};

// Tree reduction over the threads with equal threadIdx.x, in a fixed order; the thread with threadIdx.y 0 gets the result.
// blockDim.y must be a power of two.  No round writes where the previous one reads, so one barrier per round is enough.
template <class T> __device__ void join_threads(T& mine, T* all) {
    int me = threadIdx.y * blockDim.x + threadIdx.x;
    for (int half = blockDim.y / 2; half > 0; half /= 2) {
        if (threadIdx.y < 2 * half) all[me] = mine;
        __syncthreads();
        if (threadIdx.y < half) mine.join(all[me + half * blockDim.x]);
    }
}

// One sum for each column of a pack
struct Sums {
    float of[WIDTH];

    __device__ void join(const Sums& other) { for (int k = 0; k < WIDTH; k++) of[k] += other.of[k]; }
    __device__ void write(float* parts, const Place& at) const {           // parts (columns)
        for (int k = 0; k < WIDTH && at.pack < at.packs; k++) parts[at.column + k] = of[k];
    }
};
