// Sums in a fixed order: the same bits every time.

// total[i] = parts[0][i] + parts[1][i] + ...   A thread adds up every blockDim.y-th part of one i.
extern "C" __global__ void sum_parts(const float* __restrict__ parts, float* __restrict__ total, int size, int count) {
    __shared__ float sums[256];
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    float sum = 0;
    if (i < size) {
#pragma unroll 8
        for (int part = threadIdx.y; part < count; part += blockDim.y) sum += parts[static_cast<long long>(part) * size + i];
    }
    sums[threadIdx.y * blockDim.x + threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y == 0 && i < size) {
        for (int y = 1; y < blockDim.y; y++) sum += sums[y * blockDim.x + threadIdx.x];
        total[i] = sum;
    }
}

// parts[s][c] = the sum of column c over the s-th stretch of rows of x (rows, columns).  A block of 32 x 8 threads has one
// stretch of 32 columns; each thread adds up every eighth row.
extern "C" __global__ void column_sums(const float* __restrict__ x, float* __restrict__ parts, int rows, int columns, int stretch) {
    __shared__ float sums[8][32];
    int column = blockIdx.x * 32 + threadIdx.x, first = blockIdx.y * stretch, last = min(rows, first + stretch);
    float sum = 0;
    if (column < columns) {
#pragma unroll 4
        for (int row = first + threadIdx.y; row < last; row += 8) sum += x[static_cast<long long>(row) * columns + column];
    }
    sums[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y == 0 && column < columns) {
        for (int y = 1; y < 8; y++) sum += sums[y][threadIdx.x];
        parts[blockIdx.y * columns + column] = sum;
    }
}
