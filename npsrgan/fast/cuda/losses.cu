// The mean squared error of two arrays.  Threads lie over them as rows.cuh says, with one pack in a row.

#include "rows.cuh"

// parts[i] = sums of (a - b)^2, one for each block and entry of a pack
KERNEL squared_error(In a, In b, Out parts, int rows, int columns) {
    __shared__ Sums all[THREADS];
    Place at(columns);
    Sums sums = {};
#pragma unroll 4
    for (int row = at.row; row < rows; row += at.step) {
        Pack mine = at.load(a, row), other = at.load(b, row);
        for (int k = 0; k < WIDTH; k++) sums.of[k] += (mine.of[k] - other.of[k]) * (mine.of[k] - other.of[k]);
    }
    join_threads(sums, all);
    if (threadIdx.y == 0) sums.write(parts + blockIdx.y * columns, at);
}

// mean = factor * (the sum of all parts).  One block; a thread adds up every (all threads)-th of them.
KERNEL finish_mean(In parts, Out mean, int count, float factor) {
    __shared__ Sums all[THREADS];
    Sums sums = {};
    int step = blockDim.y;
#pragma unroll 4
    for (int i = threadIdx.y; i < count; i += step) sums.of[0] += parts[i];
    join_threads(sums, all);
    if (threadIdx.y == 0) *mean = factor * sums.of[0];
}

// d = factor * dy * (a - b), with the one number that dy points to
KERNEL squared_error_gradient(In a, In b, In dy, float factor, Out d, int rows, int columns) {
    Place at(columns);
    factor *= *dy;
#pragma unroll 4
    for (int row = at.row; row < rows; row += at.step) {
        Pack mine = at.load(a, row), other = at.load(b, row);
        for (int k = 0; k < WIDTH; k++) mine.of[k] = factor * (mine.of[k] - other.of[k]);
        at.store(d, row, mine);
    }
}
