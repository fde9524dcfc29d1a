// The mean squared error of two arrays.  Threads map to them as in rows.cuh, with one pack per row.

#include "rows.cuh"

// parts[i] = sums of (a - b)^2, one per block and pack entry
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

// mean = factor * (the sum of all parts).  Uses one block; each thread sums every blockDim.y-th part.
KERNEL finish_mean(In parts, Out mean, int count, float factor) {
    __shared__ Sums all[THREADS];
    Sums sums = {};
    int step = blockDim.y;
#pragma unroll 4
    for (int i = threadIdx.y; i < count; i += step) sums.of[0] += parts[i];
    join_threads(sums, all);
    if (threadIdx.y == 0) *mean = factor * sums.of[0];
}

// d = factor * dy * (a - b), where dy points to a single number
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
