// The second half of a convolution with few outputs: a thread sums the planes' entries for one output of one pixel.
//
//     y[n, h, k, o] = leaky(bias[o] + sum over j of  z[n, h, k + j, j, o])         z (N, H', W' + shifts - 1, shifts, outputs)

#include "leaky.cuh"

extern "C" __global__ void add_planes(const float* __restrict__ z, const float* __restrict__ bias, float slope,
                                      float* __restrict__ y, int rows, int width, int shifts, int outputs) {
    int i = blockIdx.x * blockDim.x + threadIdx.x, o = i % outputs, k = i / outputs % width, row = i / outputs / width;
    if (row >= rows) return;
    const float* from = z + (row * (width + shifts - 1) + k) * shifts * outputs + o;
    float sum = bias ? bias[o] : 0;
    for (int j = 0; j < shifts; j++) sum += from[j * (shifts + 1) * outputs];
    y[i] = leaky(sum, slope);
}
