// An array of rows and columns, in which a column (a channel) has numbers of its own.
//
// A thread has WIDTH neighbouring columns, its pack, of every at.step-th row: what belongs to the columns it reads but once.
// Threads with consecutive threadIdx.x have consecutive packs, those with the same threadIdx.x the same packs of other rows.

#include "leaky.cuh"

#ifndef WIDTH
#define WIDTH 4
#endif
#define THREADS 256         // in a block
#define KERNEL extern "C" __global__ void __launch_bounds__(THREADS, 4)     // as many as rows.py counts on fit a multiprocessor

typedef const float* __restrict__ In;       // arrays that share no memory with others
typedef float* __restrict__ Out;

struct __align__(4 * WIDTH) Pack { float of[WIDTH]; };         // read and written at once

struct Place {
    int pack, packs, column, row, step;

    __device__ Place(int columns) {
        pack = blockIdx.x * blockDim.x + threadIdx.x;
        packs = columns / WIDTH;
        column = pack * WIDTH;
        row = pack < packs ? blockIdx.y * blockDim.y + threadIdx.y : 0x7fffffff;     // beyond the last column there are no rows
        step = gridDim.y * blockDim.y;
    }
    __device__ Pack load(const float* x, int r) const { return reinterpret_cast<const Pack*>(x)[r * packs + pack]; }
    __device__ void store(float* x, int r, const Pack& p) const { reinterpret_cast<Pack*>(x)[r * packs + pack] = p; }
};

// What belongs to a thread's columns, of an array (columns) that begins where a pack may; where it is NULL, one number for all
struct Columns {
    Pack pack;

    __device__ Columns(const Place& at, const float* values, float otherwise = 0) {
        for (int k = 0; k < WIDTH; k++) pack.of[k] = otherwise;
        if (values) pack = reinterpret_cast<const Pack*>(values)[min(at.pack, at.packs - 1)];
    }
    __device__ float operator[](int k) const { return pack.of[k]; }
};

// What the threads with one threadIdx.x have, joined two by two, always in the same order; all of it is then threadIdx.y 0's.
// blockDim.y must be a power of two.  No round writes where the one before reads, so one barrier in each is enough.
template <class T> __device__ void join_threads(T& mine, T* all) {
    int me = threadIdx.y * blockDim.x + threadIdx.x;
    for (int half = blockDim.y / 2; half > 0; half /= 2) {
        if (threadIdx.y < 2 * half) all[me] = mine;
        __syncthreads();
        if (threadIdx.y < half) mine.join(all[me + half * blockDim.x]);
    }
}

// One sum for each of a pack's columns
struct Sums {
    float of[WIDTH];

    __device__ void join(const Sums& other) { for (int k = 0; k < WIDTH; k++) of[k] += other.of[k]; }
    __device__ void write(float* parts, const Place& at) const {           // parts (columns)
        for (int k = 0; k < WIDTH && at.pack < at.packs; k++) parts[at.column + k] = of[k];
    }
};
