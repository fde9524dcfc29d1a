// Sums in a fixed order, bitwise reproducible.

#include "rows.cuh"

struct Sum {
    float value;
    __device__ void join(const Sum& other) { value += other.value; }
};

// total[i] = parts[0][i] + parts[1][i] + ...   A thread sums every blockDim.y-th part for one i.
KERNEL sum_parts(In parts, Out total, int size, int count) {
    __shared__ Sum all[THREADS];
    int i = blockIdx.x * blockDim.x + threadIdx.x, step = blockDim.y;
    Sum sum = {};
    if (i < size) {
#pragma unroll 4
        for (int part = threadIdx.y; part < count; part += step) sum.value += parts[static_cast<long long>(part) * size + i];
    }
    join_threads(sum, all);
    if (threadIdx.y == 0 && i < size) total[i] = sum.value;
}

// parts (gridDim.y, columns) = the sum of each column over the rows of each row of blocks.  Threads map as in rows.cuh.
KERNEL column_sums(In x, Out parts, int rows, int columns) {
    __shared__ Sums all[THREADS];
    Place at(columns);
    Sums sums = {};
#pragma unroll 4
    for (int row = at.row; row < rows; row += at.step) {
        Pack value = at.load(x, row);
        for (int k = 0; k < WIDTH; k++) sums.of[k] += value.of[k];
    }
    join_threads(sums, all);
    if (threadIdx.y == 0) sums.write(parts + blockIdx.y * columns, at);
}
