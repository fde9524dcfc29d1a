// Convolution and its gradient with respect to the image, as an implicit matrix product: the left factor is never stored.
//
//     y[p, :] = leaky(bias + sum over taps (a, b) and channels c of  x[pixel of p shifted by (a, b), c] * w[tap, c, :])
//
// leaky(v) = v where v > 0, else slope * v; slope 1 is the identity.
//
// M = all output pixels, N = outputs, K = taps * channels.  A block computes BM x BN entries of y: it iterates over K in chunks
// of BK, and STAGES chunks of both factors are in shared memory at once, being copied or being multiplied.
// With GATHER 0 a chunk is BK channels of one tap, copied 16 bytes at a time; channels must be divisible by BK.
// With GATHER 1 every entry of a chunk is located individually, so any number of channels works.
//
// TURNED 0, forward:  y[stride 1], x[stride * h + a - top], taps in the kernel's order.
// TURNED 1, backward: `x` is dy and `y` is dx.  Pixels of dx that are `stride` apart use the same kernel entries, so dx splits
// into stride * stride phases (blockIdx.y).  In a phase, kernel entry i of output pixel g covers pixel stride * h + phase when
// stride * g + i - top = stride * h + phase.  So i = first, first + stride, ... and g decreases as i increases.

#include "leaky.cuh"
#include "ptx.cuh"
#define A_ALONG_K 1
#define B_ALONG_K TURNED
#include "product.cuh"

struct Axis {                       // one axis of the image, for one phase of outputs
    int taps, entry, step;          // the a-th tap is kernel entry  entry + step * a; it covers
    int stride, before;             // pixel  stride * h + a - before  of x, for
    int outputs, spread, phase;     // pixel  spread * h + phase  of y, h < outputs
};

__device__ Axis see(int entries, int before, int stride, int size, int phase) {
#if TURNED
    int first = (phase + before) % stride, taps = first < entries ? (entries - 1 - first) / stride + 1 : 0;
    return {taps, first + stride * (taps - 1), -stride, 1, taps - 1 - (phase + before) / stride,
            (size - phase + stride - 1) / stride, stride, phase};
#else
    return {entries, 0, 1, stride, before, size, 1, 0};
#endif
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
convolution(const float* __restrict__ x, const float* __restrict__ w, const float* __restrict__ bias, float slope,
            float* __restrict__ y, int images, int height, int width, int channels, int out_height, int out_width, int outputs,
            int kernel_height, int kernel_width, int top, int left, int stride) {
    extern __shared__ __align__(16) float shared_memory[];
    __shared__ int4 pixels[BM];     // for each row of A: its window's start in x (index, row, column) and its index in y
    const Axis down = see(kernel_height, top, stride, out_height, blockIdx.y / stride);
    const Axis across = see(kernel_width, left, stride, out_width, blockIdx.y % stride);
    const int tiles = (outputs + BN - 1) / BN, m0 = blockIdx.x / tiles * BM, n0 = blockIdx.x % tiles * BN;
    const int pixels_count = images * down.outputs * across.outputs, length = down.taps * across.taps * channels;
    const int chunks = (length + BK - 1) / BK;
    if (m0 >= pixels_count) return;

    for (int m = threadIdx.x; m < BM; m += THREADS) {
        int k = (m0 + m) % across.outputs, rest = (m0 + m) / across.outputs, h = rest % down.outputs, n = rest / down.outputs;
        int row = down.stride * h - down.before, column = across.stride * k - across.before;
        pixels[m] = m0 + m < pixels_count
            ? make_int4(((n * height + row) * width + column) * channels, row, column,
                        ((n * out_height + down.spread * h + down.phase) * out_width
                         + across.spread * k + across.phase) * outputs)
            : make_int4(0, -(1 << 30), 0, -1);      // a row outside the image for every tap
    }
    __syncthreads();

    // Neighbouring taps of a row are consecutive, so most of the pixels they cover are still in the L1 cache.
    int chunk = 0, a = 0, b = 0, c = 0;             // of the next chunk to copy
    auto copy_chunk = [&](float* tile_a, float* tile_b) {
#if GATHER
        const int lane = threadIdx.x % BK, at = chunk * BK + lane;
        const bool exists = at < length;
        a = at / channels / across.taps, b = at / channels % across.taps, c = at % channels;
        for (int m = threadIdx.x / BK; m < BM; m += THREADS / BK) {
            int4 p = pixels[m];
            bool inside = exists && unsigned(p.y + a) < unsigned(height) && unsigned(p.z + b) < unsigned(width);
            copy4(tile_a + m * A_ROW + lane, inside ? x + p.x + (a * width + b) * channels + c : x, inside);
        }
#else
        const int quad = threadIdx.x % (BK / 4) * 4;
#pragma unroll
        for (int m = threadIdx.x / (BK / 4); m < BM; m += THREADS / (BK / 4)) {
            int4 p = pixels[m];
            bool inside = unsigned(p.y + a) < unsigned(height) && unsigned(p.z + b) < unsigned(width);
            copy16_reused(tile_a + m * A_ROW + quad, inside ? x + p.x + (a * width + b) * channels + c + quad : x, inside);
        }
#endif
        const int tap = (down.entry + down.step * a) * kernel_width + across.entry + across.step * b;
#if TURNED && GATHER                // w[tap][n][c]
        for (int n = threadIdx.x / BK; n < BN; n += THREADS / BK) {
            bool inside = exists && n0 + n < outputs;
            copy4(tile_b + n * B_ROW + lane, inside ? w + (tap * outputs + n0 + n) * channels + c : w, inside);
        }
#elif TURNED
#pragma unroll
        for (int n = threadIdx.x / (BK / 4); n < BN; n += THREADS / (BK / 4)) {
            bool inside = n0 + n < outputs;
            copy16(tile_b + n * B_ROW + quad, inside ? w + (tap * outputs + n0 + n) * channels + c + quad : w, inside);
        }
#else                               // w[k][n]
        copy_b(tile_b, w, GATHER ? chunk * BK : tap * channels + c, length, n0, outputs);
#endif
        chunk++;
        if (!GATHER && ++b == across.taps) {
            b = 0;
            if ((c += BK) == channels) c = 0, a++;
        }
    };

    auto stage = [&](int s) { return shared_memory + s % STAGES * TILES_SIZE; };
    for (int s = 0; s < STAGES - 1; s++) {
        if (s < chunks) copy_chunk(stage(s), stage(s) + A_SIZE);
        close_group();
    }
    Product product;
    if (!TURNED && bias) product.begin([&](int n) { return n0 + n < outputs ? bias[n0 + n] : 0; });
    for (int s = 0; s < chunks; s++) {
        wait_for_groups<STAGES - 2>();
        __syncthreads();            // chunk s has arrived, and all threads are done with the previous one
        if (chunk < chunks) copy_chunk(stage(s + STAGES - 1), stage(s + STAGES - 1) + A_SIZE);
        close_group();
        product.add(stage(s), stage(s) + A_SIZE);
    }

    product.write([&](int m) { return pixels[m].w < 0 ? nullptr : y + pixels[m].w + n0; }, outputs - n0,
                  [&](float v) { return TURNED ? v : leaky(v, slope); });
}
