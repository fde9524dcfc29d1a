// Batch normalisation of x (rows, columns), where a column is a channel, with optional fused operations:
//
//     y = leaky(gamma * x_hat + beta) + residual,     x_hat = (x - mean) * inv_std,     leaky(v) = v where v > 0, else slope * v
//
// slopes: one per channel, or NULL to use one slope for all.  Threads map as in rows.cuh, except in finish_moments.

#include "rows.cuh"

// The count, mean and sum of squared deviations from the mean of some values.
struct Moments {
    float count, mean, squares;

    __device__ void join(const Moments& other) {            // Chan, Golub and LeVeque 1979
        float sum = count + other.count;
        if (sum == 0) return;
        float delta = other.mean - mean, share = other.count / sum;
        mean += delta * share;
        squares += other.squares + delta * delta * count * share;
        count = sum;
    }
};

struct PackMoments {
    Moments of[WIDTH];
    __device__ void join(const PackMoments& other) { for (int k = 0; k < WIDTH; k++) of[k].join(other.of[k]); }
};

// parts (3, gridDim.y, columns) = count, mean and sum of squared deviations of each column over the rows of each row of blocks.
// A thread sums differences from its first value.  A large mean then costs no digits: the sum of squared deviations is at
// least 1 / n of the sum of n squared differences from one of the values.
KERNEL moments(In x, Out parts, int rows, int columns) {
    __shared__ PackMoments all[THREADS];
    Place at(columns);
    PackMoments mine = {};
    if (at.row < rows) {
        Pack first = at.load(x, at.row);
        float sum[WIDTH] = {}, square[WIDTH] = {}, count = 0;
#pragma unroll 4
        for (int row = at.row; row < rows; row += at.step) {
            Pack value = at.load(x, row);
            for (int k = 0; k < WIDTH; k++) {
                float difference = value.of[k] - first.of[k];
                sum[k] += difference;
                square[k] += difference * difference;
            }
            count++;
        }
        for (int k = 0; k < WIDTH; k++)
            mine.of[k] = {count, first.of[k] + sum[k] / count, max(0.0f, square[k] - sum[k] * sum[k] / count)};
    }
    join_threads(mine, all);
    if (threadIdx.y == 0 && at.pack < at.packs) {
        for (int k = 0; k < WIDTH; k++) {
            int i = blockIdx.y * columns + at.column + k, next = gridDim.y * columns;
            parts[i] = mine.of[k].count;
            parts[i + next] = mine.of[k].mean;
            parts[i + 2 * next] = mine.of[k].squares;
        }
    }
}

// statistics (2, columns) = mean and inv_std of each column.  Also moves the running averages towards mean and unbiased variance.
// A block of 4 x 64 threads handles 4 columns; a thread joins every 64th part, and loads several parts before it joins them.
KERNEL finish_moments(In parts, Out statistics, Out running_mean, Out running_var, int count, int columns, float momentum,
                      float eps) {
    __shared__ Moments all[THREADS];
    int column = blockIdx.x * 4 + threadIdx.x, next = count * columns;
    Moments mine = {}, read[4];
    for (int part = threadIdx.y; part < count && column < columns; part += 4 * 64) {
#pragma unroll
        for (int k = 0; k < 4; k++) {
            int i = (part + k * 64) * columns + column;
            read[k] = {};
            if (part + k * 64 < count) read[k] = {parts[i], parts[i + next], parts[i + 2 * next]};
        }
#pragma unroll
        for (int k = 0; k < 4; k++) mine.join(read[k]);
    }
    join_threads(mine, all);
    if (threadIdx.y == 0 && column < columns) {
        statistics[column] = mine.mean;
        statistics[column + columns] = 1 / sqrtf(mine.squares / mine.count + eps);
        if (running_mean) {
            running_mean[column] = momentum * running_mean[column] + (1 - momentum) * mine.mean;
            running_var[column] = momentum * running_var[column] + (1 - momentum) * (mine.squares / max(mine.count - 1, 1.0f));
        }
    }
}

// The values of a thread's channels
struct Channels {
    Columns mean, inv_std, gamma, beta, slope;

    __device__ Channels(const Place& at, int columns, const float* statistics, const float* gammas, const float* betas,
                        const float* slopes, float constant)
        : mean(at, statistics), inv_std(at, statistics + columns), gamma(at, gammas), beta(at, betas), slope(at, slopes, constant) {}
    __device__ float normalised(int k, float x) const { return (x - mean[k]) * inv_std[k]; }
    __device__ float before(int k, float x_hat) const { return fmaf(gamma[k], x_hat, beta[k]); }     // the activation
};

struct ChannelSums {
    Sums d_gamma, d_beta, d_slope;

    __device__ void join(const ChannelSums& other) {
        d_gamma.join(other.d_gamma);
        d_beta.join(other.d_beta);
        d_slope.join(other.d_slope);
    }
};

// y as defined above; residual may be NULL.
KERNEL normalise(In x, In statistics, In gamma, In beta, In slopes, float slope, In residual, Out y, int rows, int columns) {
    Place at(columns);
    Channels channels(at, columns, statistics, gamma, beta, slopes, slope);
#pragma unroll 4
    for (int row = at.row; row < rows; row += at.step) {
        Pack value = at.load(x, row), more = {};
        if (residual) more = at.load(residual, row);
        for (int k = 0; k < WIDTH; k++)
            value.of[k] = leaky(channels.before(k, channels.normalised(k, value.of[k])), channels.slope[k]) + more.of[k];
        at.store(y, row, value);
    }
}

// parts (gridDim.y, 3, columns) = partial sums of the gradients of gamma, beta and slope, per column and row of blocks.
// v is the activation's input, recomputed from x because it was never stored; dv = dL/dv.
//     d_gamma = sum of dv * x_hat,     d_beta = sum of dv,     d_slope = sum of dy * v where v <= 0
KERNEL gradient_sums(In x, In dy, In statistics, In gamma, In beta, In slopes, float slope, Out parts, int rows, int columns) {
    __shared__ ChannelSums all[THREADS];
    Place at(columns);
    Channels channels(at, columns, statistics, gamma, beta, slopes, slope);
    ChannelSums sums = {};
#pragma unroll 2
    for (int row = at.row; row < rows; row += at.step) {
        Pack value = at.load(x, row), d = at.load(dy, row);
        for (int k = 0; k < WIDTH; k++) {
            float x_hat = channels.normalised(k, value.of[k]), dv = d.of[k];
            sums.d_slope.of[k] += leaky_gradient(channels.before(k, x_hat), channels.slope[k], dv);
            sums.d_gamma.of[k] += dv * x_hat;
            sums.d_beta.of[k] += dv;
        }
    }
    join_threads(sums, all);
    if (threadIdx.y == 0) {
        parts += blockIdx.y * 3 * columns;
        sums.d_gamma.write(parts, at);
        sums.d_beta.write(parts + columns, at);
        sums.d_slope.write(parts + 2 * columns, at);
    }
}

// dx = gamma * inv_std * (dv - share * (d_beta + x_hat * d_gamma)), with the totals of gradient_sums in sums (3, columns) and
// share = 1 / rows.  Every output depends on every input of its channel through the mean and variance; if these are constants,
// sums is NULL.
KERNEL gradient(In x, In dy, In statistics, In gamma, In beta, In slopes, float slope, In sums, float share, Out dx,
                int rows, int columns) {
    Place at(columns);
    Channels channels(at, columns, statistics, gamma, beta, slopes, slope);
    Columns d_gamma(at, sums), d_beta(at, sums ? sums + columns : sums);
#pragma unroll 2
    for (int row = at.row; row < rows; row += at.step) {
        Pack value = at.load(x, row), d = at.load(dy, row);
        for (int k = 0; k < WIDTH; k++) {
            float x_hat = channels.normalised(k, value.of[k]), dv = d.of[k];
            leaky_gradient(channels.before(k, x_hat), channels.slope[k], dv);
            value.of[k] = channels.gamma[k] * channels.inv_std[k] * (dv - share * (d_beta[k] + x_hat * d_gamma[k]));
        }
        at.store(dx, row, value);
    }
}
