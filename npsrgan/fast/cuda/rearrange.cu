// Addition, pixel shuffle and max pooling.  Unless stated otherwise, threads map to the output array as in rows.cuh: a row is
// a pixel, and a column is a channel.

#include "rows.cuh"

KERNEL add(In a, In b, Out y, int rows, int columns) {
    Place at(columns);
#pragma unroll 4
    for (int row = at.row; row < rows; row += at.step) {
        Pack sum = at.load(a, row), other = at.load(b, row);
        for (int k = 0; k < WIDTH; k++) sum.of[k] += other.of[k];
        at.store(y, row, sum);
    }
}

// Pixel (r*h + i, r*w + j) of y (N, r*H, r*width, columns) is the (i*r + j)-th group of channels of pixel (h, w) of
// x (N, H, width, r*r*columns).  With both arrays as rows of y's columns, returns the row of x for a row of y.
__device__ inline int shuffled(int row, int r, int width) {
    int column = row % (r * width), line = row / (r * width);
    return ((line / r * width + column / r) * r + line % r) * r + column % r;
}

// y = prelu(pixel_shuffle(x)); without PReLU if slopes is NULL.
KERNEL pixel_shuffle(In x, In slopes, Out y, int r, int width, int rows, int columns) {
    Place at(columns);
    Columns slope(at, slopes, 1);
#pragma unroll 4
    for (int row = at.row; row < rows; row += at.step) {
        Pack value = at.load(x, shuffled(row, r, width));
        for (int k = 0; k < WIDTH; k++) value.of[k] = leaky(value.of[k], slope[k]);
        at.store(y, row, value);
    }
}

// Its gradient: dx and parts (gridDim.y, columns) of d_slope.  If slopes is NULL, there is no PReLU and x may be NULL.
KERNEL pixel_shuffle_gradient(In x, In dy, In slopes, Out dx, Out parts, int r, int width, int rows, int columns) {
    __shared__ Sums all[THREADS];
    Place at(columns);
    Columns slope(at, slopes);
    Sums d_slope = {};
#pragma unroll 2
    for (int row = at.row; row < rows; row += at.step) {
        int there = shuffled(row, r, width);
        Pack d = at.load(dy, row);
        if (slopes) {
            Pack value = at.load(x, there);
            for (int k = 0; k < WIDTH; k++) d_slope.of[k] += leaky_gradient(value.of[k], slope[k], d.of[k]);
        }
        at.store(dx, there, d);
    }
    if (!slopes) return;
    join_threads(d_slope, all);
    if (threadIdx.y == 0) d_slope.write(parts + blockIdx.y * columns, at);
}

// The adjacent max-pooling windows of size x size pixels in x (N, height, width, columns).  An image has down x across windows;
// `row` numbers the windows of all images.
struct Window {
    int first, i_end, j_end;            // the first pixel, and the numbers of window lines and columns inside the image

    __device__ Window(int row, int size, int height, int width, int down, int across) {
        int column = row % across * size, line = row / across % down * size;
        first = (row / across / down * height + line) * width + column;
        i_end = min(size, height - line);
        j_end = min(size, width - column);
    }
};

// y (N, down, across, columns): the maximum of each window; all windows lie inside the image.  SIZE: 0, or `size` as a
// compile-time constant, so that all loads of a window are issued at once.
template <int SIZE> __device__ void pool(In x, Out y, int size, int height, int width, int down, int across, int rows, int columns) {
    Place at(columns);
    if (SIZE) size = SIZE;
    for (int row = at.row; row < rows; row += at.step) {
        Window window(row, size, height, width, down, across);
        Pack best = at.load(x, window.first);
#pragma unroll
        for (int i = 0; i < size; i++) {
#pragma unroll
            for (int j = 0; j < size; j++) {
                Pack value = at.load(x, window.first + i * width + j);
                for (int k = 0; k < WIDTH; k++) {
                    bool larger = value.of[k] > best.of[k] || value.of[k] != value.of[k];      // propagates NaN
                    best.of[k] = larger ? value.of[k] : best.of[k];
                }
            }
        }
        at.store(y, row, best);
    }
}

KERNEL max_pool2d(In x, Out y, int size, int height, int width, int down, int across, int rows, int columns) {
    if (size == 2) pool<2>(x, y, size, height, width, down, across, rows, columns);
    else pool<0>(x, y, size, height, width, down, across, rows, columns);
}

// dx is dy at the first entry of each window that equals the maximum y, and 0 elsewhere.  Here down and across include the
// windows cropped by the edges, whose pixels have no y.  A thread handles one window at a time, whole or cropped.
template <int SIZE> __device__ void pool_gradient(In x, In y, In dy, Out dx, int size, int height, int width, int down, int across,
                                                  int rows, int columns) {
    Place at(columns);
    if (SIZE) size = SIZE;
    for (int row = at.row; row < rows; row += at.step) {
        Window window(row, size, height, width, down, across);
        Pack best = {}, left = {};                  // left: the gradient not yet assigned to a pixel
        if (window.i_end == size && window.j_end == size) {
            int pooled = (row / across / down * (height / size) + row / across % down) * (width / size) + row % across;
            best = at.load(y, pooled);
            left = at.load(dy, pooled);
        }
#pragma unroll
        for (int i = 0; i < size; i++) {
#pragma unroll
            for (int j = 0; j < size; j++) {
                if (i >= window.i_end || j >= window.j_end) continue;
                Pack value = at.load(x, window.first + i * width + j), taken = {};
                for (int k = 0; k < WIDTH; k++) {
                    if (value.of[k] != best.of[k]) continue;
                    taken.of[k] = left.of[k];
                    left.of[k] = 0;
                }
                at.store(dx, window.first + i * width + j, taken);
            }
        }
    }
}

KERNEL max_pool2d_gradient(In x, In y, In dy, Out dx, int size, int height, int width, int down, int across, int rows,
                           int columns) {
    if (size == 2) pool_gradient<2>(x, y, dy, dx, size, height, width, down, across, rows, columns);
    else pool_gradient<0>(x, y, dy, dx, size, height, width, down, across, rows, columns);
}
