// The product of two tiles in shared memory, A (BM, BK) and B (BK, BN), accumulated in a block's registers.
//
// The layout of A is [m][k] if A_ALONG_K is 1, else [k][m]; that of B is [n][k] if B_ALONG_K is 1, else [k][n].  Rows are padded
// so that the lanes of a warp, reading as below, access 32 different banks.

constexpr int A_ROW = A_ALONG_K ? BK + 4 : BM + 8, A_SIZE = A_ROW * (A_ALONG_K ? BM : BK);
constexpr int B_ROW = B_ALONG_K ? BK + 4 : BN + 8, B_SIZE = B_ROW * (B_ALONG_K ? BN : BK);
constexpr int TILES_SIZE = A_SIZE + B_SIZE;         // floats of shared memory for both

// Write entries n and n + 1 of the row at `to`, skipping those past its end; n is even.  Writes nothing if `to` is NULL.
__device__ __forceinline__ void write_pair(float* to, int n, int columns, float one, float two) {
    if (!to || n >= columns) return;
    if (columns % 2 == 0) {         // rows have the matrix's full width, so every pair is 8-byte aligned
        *reinterpret_cast<float2*>(to + n) = make_float2(one, two);
    } else {
        to[n] = one;
        if (n + 1 < columns) to[n + 1] = two;
    }
}

// The methods of Product:
//     begin(start)            initialise every sum of column n to start(n) instead of 0
//     add(a, b)               add the product of two tiles to the sums
//     write(at, columns, f)   write f(sum[m][n]) to at(m)[n] for n < columns, unless at(m) is nullptr

#if TF32

// Tensor cores: WARPS_M x WARPS_N warps share the tile; each computes ROWS x COLUMNS blocks of 16 x 8 sums.
constexpr int THREADS = 32 * WARPS_M * WARPS_N, ROWS = BM / WARPS_M / 16, COLUMNS = BN / WARPS_N / 8;

struct Product {
    float sum[ROWS][COLUMNS][4] = {};
    int group = threadIdx.x % 32 / 4, member = threadIdx.x % 4;         // as in multiply_tf32
    int top = threadIdx.x / 32 / WARPS_N * (16 * ROWS) + group, left = threadIdx.x / 32 % WARPS_N * (8 * COLUMNS);

    __device__ __forceinline__ void add(const float* a, const float* b) {
        auto at_a = [=](int m, int k) { return tf32(a[A_ALONG_K ? m * A_ROW + k : k * A_ROW + m]); };
        auto at_b = [=](int k, int n) { return tf32(b[B_ALONG_K ? n * B_ROW + k : k * B_ROW + n]); };
#pragma unroll
        for (int step = 0; step < BK; step += 8) {
            const int k = step + member;
            unsigned x[ROWS][4], y[COLUMNS][2];
#pragma unroll
            for (int r = 0; r < ROWS; r++)
#pragma unroll
                for (int e = 0; e < 4; e++) x[r][e] = at_a(top + 16 * r + 8 * (e % 2), k + 4 * (e / 2));
#pragma unroll
            for (int c = 0; c < COLUMNS; c++)
#pragma unroll
                for (int e = 0; e < 2; e++) y[c][e] = at_b(k + 4 * e, left + 8 * c + group);
#pragma unroll
            for (int r = 0; r < ROWS; r++)
#pragma unroll
                for (int c = 0; c < COLUMNS; c++) multiply_tf32(sum[r][c], x[r], y[c]);
        }
    }

    template <class Start> __device__ __forceinline__ void begin(Start start) {
#pragma unroll
        for (int c = 0; c < COLUMNS; c++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
                float first = start(left + 8 * c + 2 * member + e);
#pragma unroll
                for (int r = 0; r < ROWS; r++) sum[r][c][e] = sum[r][c][e + 2] = first;
            }
    }

    template <class At, class F> __device__ __forceinline__ void write(At at, int columns, F f) {
#pragma unroll
        for (int r = 0; r < ROWS; r++)
#pragma unroll
            for (int e = 0; e < 4; e += 2) {
                float* to = at(top + 16 * r + 4 * e);
#pragma unroll
                for (int c = 0; c < COLUMNS; c++)
                    write_pair(to, left + 8 * c + 2 * member, columns, f(sum[r][c][e]), f(sum[r][c][e + 1]));
            }
    }
};

#else

// float32: every thread computes 8 x 8 sums, in runs of RUN_M rows and RUN_N columns.
constexpr int ACROSS = BN / 8, DOWN = BM / 8, THREADS = ACROSS * DOWN, RUN_M = A_ALONG_K ? 1 : 4, RUN_N = B_ALONG_K ? 2 : 4;

struct Product {
    float sum[8][8] = {};
    int across = threadIdx.x % ACROSS, down = threadIdx.x / ACROSS;
    // Every second row of [n][k] uses the same half of the banks, so four of eight lanes read the odd row of each pair first.
    int odd_first = B_ALONG_K ? across / 4 % 2 : 0;

    __device__ __forceinline__ int row(int i) { return i / RUN_M * (RUN_M * DOWN) + RUN_M * down + i % RUN_M; }
    __device__ __forceinline__ int column(int j) {
        return j / RUN_N * (RUN_N * ACROSS) + RUN_N * across + (j % RUN_N ^ odd_first);
    }

    __device__ __forceinline__ static void read(float* to, const float* from) {
        float4 four = *reinterpret_cast<const float4*>(from);
        to[0] = four.x, to[1] = four.y, to[2] = four.z, to[3] = four.w;
    }

    __device__ __forceinline__ void add(const float* a, const float* b) {
#pragma unroll
        for (int k = 0; k < BK; k += 4) {
            float x[8][4], y[8][4];             // [along m][along k] and [along n][along k]; in the other layout
#pragma unroll
            for (int i = 0; i < 8; i++) {       // [along k][half of 8 along m]: x[2 * k + half]
                read(x[i], A_ALONG_K ? a + row(i) * A_ROW + k : a + (k + i / 2) * A_ROW + row(i % 2 * 4));
                read(y[i], B_ALONG_K ? b + column(i) * B_ROW + k : b + (k + i / 2) * B_ROW + column(i % 2 * 4));
            }
#pragma unroll
            for (int e = 0; e < 4; e++)
#pragma unroll
                for (int i = 0; i < 8; i++)
#pragma unroll
                    for (int j = 0; j < 8; j++)
                        sum[i][j] += (A_ALONG_K ? x[i][e] : x[2 * e + i / 4][i % 4])
                                   * (B_ALONG_K ? y[j][e] : y[2 * e + j / 4][j % 4]);
        }
    }

    template <class Start> __device__ __forceinline__ void begin(Start start) {
#pragma unroll
        for (int j = 0; j < 8; j++) {
            float first = start(column(j));
#pragma unroll
            for (int i = 0; i < 8; i++) sum[i][j] = first;
        }
    }

    template <class At, class F> __device__ __forceinline__ void write(At at, int columns, F f) {
#pragma unroll
        for (int i = 0; i < 8; i++) {
            float* to = at(row(i));
#pragma unroll
            for (int j = 0; j < 8; j += 2) {
                float one = f(sum[i][j]), two = f(sum[i][j + 1]);
                write_pair(to, column(j + odd_first), columns, odd_first ? two : one, odd_first ? one : two);
            }
        }
    }
};

#endif

// Start copying tile B from a matrix (rows, columns) with layout [k][n], beginning at `row` and `column`; zeros outside.
__device__ __forceinline__ void copy_b(float* tile, const float* matrix, int row, int rows, int column, int columns) {
    if (columns % 4 == 0) {
#pragma unroll
        for (int e = threadIdx.x; e < BK * BN / 4; e += THREADS) {
            int k = e / (BN / 4), n = e % (BN / 4) * 4;
            bool inside = row + k < rows && column + n < columns;
            copy16(tile + k * B_ROW + n, inside ? matrix + (row + k) * columns + column + n : matrix, inside);
        }
    } else {
        for (int e = threadIdx.x; e < BK * BN; e += THREADS) {
            int k = e / BN, n = e % BN;
            bool inside = row + k < rows && column + n < columns;
            copy4(tile + k * B_ROW + n, inside ? matrix + (row + k) * columns + column + n : matrix, inside);
        }
    }
}
