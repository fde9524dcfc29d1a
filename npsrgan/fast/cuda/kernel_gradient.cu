// The gradient of a convolution with respect to its kernel, as a matrix product along the pixels.
//
//     dw[(tap, c), o] = sum over output pixels p of  x[pixel of p shifted by the tap, c] * dy[p, o]
//
// M = taps * channels, N = outputs, K = output pixels.  A block computes BM x BN entries of dw from `stretch` chunks of BK
// pixels; blockIdx.y counts the stretches, and sums.cu sums their results, `parts`, in a fixed order: bitwise reproducible.
// With GATHER 0 entries are copied 16 bytes at a time; channels must be divisible by 4.  With GATHER 1 they are copied one by one.

#include "ptx.cuh"
#define A_ALONG_K 0
#define B_ALONG_K 0
#include "product.cuh"

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
kernel_gradient(const float* __restrict__ x, const float* __restrict__ dy, float* __restrict__ parts,
                int images, int height, int width, int channels, int out_height, int out_width, int outputs,
                int kernel_height, int kernel_width, int top, int left, int stride, int stretch) {
    extern __shared__ __align__(16) float shared_memory[];
    __shared__ int4 pixels[2][BK];  // for the chunk being copied and the next: the window start of each row of A
    const int tiles = (outputs + BN - 1) / BN, m0 = blockIdx.x / tiles * BM, n0 = blockIdx.x % tiles * BN;
    const int entries = kernel_height * kernel_width * channels, pixels_count = images * out_height * out_width;
    const int first = blockIdx.y * stretch, chunks = min(stretch, (pixels_count + BK - 1) / BK - first);

    // A thread copies the same column of A, with one tap (i, j) and channel, in every chunk.
    constexpr int WIDE = GATHER ? 1 : 4, PER_ROW = BM / WIDE;
    static_assert(THREADS % PER_ROW == 0, "a thread must stay in its column");
    const int column = threadIdx.x % PER_ROW * WIDE, tap = (m0 + column) / channels;
    const int i = tap / kernel_width, j = tap % kernel_width, shift = (i * width + j) * channels + (m0 + column) % channels;

    auto locate = [&](int s) {
        int p = (first + s) * BK + threadIdx.x;
        if (threadIdx.x >= BK) return;
        int k = p % out_width, h = p / out_width % out_height, n = p / out_width / out_height;
        int row = stride * h - top, column = stride * k - left;
        pixels[s % 2][threadIdx.x] = p < pixels_count
            ? make_int4(((n * height + row) * width + column) * channels, row, column, 0)
            : make_int4(0, -(1 << 30), 0, 0);       // outside for every tap
    };
    auto copy_chunk = [&](int s, float* tile_a, float* tile_b) {
#pragma unroll
        for (int k = threadIdx.x / PER_ROW; k < BK; k += THREADS / PER_ROW) {
            int4 p = pixels[s % 2][k];
            bool inside = m0 + column < entries && unsigned(p.y + i) < unsigned(height) && unsigned(p.z + j) < unsigned(width);
            const float* from = inside ? x + p.x + shift : x;
            GATHER ? copy4(tile_a + k * A_ROW + column, from, inside) : copy16_reused(tile_a + k * A_ROW + column, from, inside);
        }
        copy_b(tile_b, dy, (first + s) * BK, pixels_count, n0, outputs);
    };

    auto stage = [&](int s) { return shared_memory + s % STAGES * TILES_SIZE; };
    for (int s = 0; s < STAGES - 1; s++) {
        locate(s);
        __syncthreads();
        if (s < chunks) copy_chunk(s, stage(s), stage(s) + A_SIZE);
        close_group();
    }
    locate(STAGES - 1);
    Product product;
    for (int s = 0; s < chunks; s++) {
        wait_for_groups<STAGES - 2>();
        __syncthreads();            // chunk s has arrived, the next chunk's pixels are located, and the previous chunk is no longer used
        const int next = s + STAGES - 1;
        if (next < chunks) copy_chunk(next, stage(next), stage(next) + A_SIZE);
        close_group();
        locate(next + 1);
        product.add(stage(s), stage(s) + A_SIZE);
    }

    float* part = parts + static_cast<long long>(blockIdx.y) * entries * outputs;
    product.write([&](int m) { return m0 + m < entries ? part + (m0 + m) * outputs + n0 : nullptr; }, outputs - n0,
                  [](float sum) { return sum; });
}
