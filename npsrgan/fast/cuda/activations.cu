// Activation functions and their gradients.  Threads map to x (rows, columns) as in rows.cuh; in purely elementwise kernels
// the columns have no meaning.

#include "rows.cuh"

// to = f(from) or f(from, also), elementwise
template <class F> __device__ void map(In from, Out to, int rows, int columns, F f) {
    Place at(columns);
#pragma unroll 4
    for (int row = at.row; row < rows; row += at.step) {
        Pack value = at.load(from, row);
        for (int k = 0; k < WIDTH; k++) value.of[k] = f(value.of[k]);
        at.store(to, row, value);
    }
}

template <class F> __device__ void map(In from, In also, Out to, int rows, int columns, F f) {
    Place at(columns);
#pragma unroll 2
    for (int row = at.row; row < rows; row += at.step) {
        Pack value = at.load(from, row), other = at.load(also, row);
        for (int k = 0; k < WIDTH; k++) value.of[k] = f(value.of[k], other.of[k]);
        at.store(to, row, value);
    }
}

KERNEL relu(In x, Out y, int rows, int columns) {
    map(x, y, rows, columns, [](float x) { return x < 0 ? 0 : x; });           // this form propagates NaN
}

KERNEL relu_gradient(In y, In dy, Out dx, int rows, int columns) {
    map(y, dy, dx, rows, columns, [](float y, float dy) { return y > 0 ? dy : 0; });
}

KERNEL leaky_relu(In x, float slope, Out y, int rows, int columns) {
    map(x, y, rows, columns, [=](float x) { return leaky(x, slope); });
}

KERNEL leaky_relu_gradient(In x, In dy, float slope, Out dx, int rows, int columns) {
    map(x, dy, dx, rows, columns, [=](float x, float dy) { return x > 0 ? dy : slope * dy; });
}

KERNEL softplus(In x, Out y, int rows, int columns) {
    map(x, y, rows, columns, [](float x) { return max(x, 0.0f) + log1pf(expf(-fabsf(x))); });
}

KERNEL softplus_gradient(In x, In dy, Out dx, int rows, int columns) {
    map(x, dy, dx, rows, columns, [](float x, float dy) {
        float small = expf(-fabsf(x));
        return dy * (x > 0 ? 1 : small) / (1 + small);
    });
}

// One slope per column
KERNEL prelu(In x, In slopes, Out y, int rows, int columns) {
    Place at(columns);
    Columns slope(at, slopes);
#pragma unroll 4
    for (int row = at.row; row < rows; row += at.step) {
        Pack value = at.load(x, row);
        for (int k = 0; k < WIDTH; k++) value.of[k] = leaky(value.of[k], slope[k]);
        at.store(y, row, value);
    }
}

// dx and parts (gridDim.y, columns) of d_slope, both from one pass over x and dy
KERNEL prelu_gradient(In x, In dy, In slopes, Out dx, Out parts, int rows, int columns) {
    __shared__ Sums all[THREADS];
    Place at(columns);
    Columns slope(at, slopes);
    Sums d_slope = {};
#pragma unroll 2
    for (int row = at.row; row < rows; row += at.step) {
        Pack value = at.load(x, row), d = at.load(dy, row);
        for (int k = 0; k < WIDTH; k++) d_slope.of[k] += leaky_gradient(value.of[k], slope[k], d.of[k]);
        at.store(dx, row, d);
    }
    join_threads(d_slope, all);
    if (threadIdx.y == 0) d_slope.write(parts + blockIdx.y * columns, at);
}
