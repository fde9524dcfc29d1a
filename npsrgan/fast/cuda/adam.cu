// Adam (Kingma and Ba 2015, algorithm 1).  A block updates CHUNK entries of the flat buffers and a thread EACH of them.  A thread
// issues all its loads before its stores, to keep enough memory requests in flight.
// The rate and the number of steps are read from GPU memory, so that a recorded launch can be repeated as they change.
// rest = 1 - beta is passed in, because computing it in float32 would lose digits.

#define THREADS 256
#define EACH 4
#define CHUNK (THREADS * EACH)
#define PARAMETERS 256      // maximum per launch

// The addresses of the gradients, which need not be copied into a flat buffer.  Parameter k has entries start[k] to start[k + 1] of
// p, m and v.  After the last parameter, start is larger than any number of entries.
struct Gradients {
    const float* of[PARAMETERS];
    int start[PARAMETERS + 1];
};

extern "C" __global__ void adam(float* __restrict__ p, const Gradients gradients, float* __restrict__ m, float* __restrict__ v,
                                const float* rate, const int* steps, float rest1, float rest2, float log_beta1, float log_beta2,
                                float eps, int size) {
    // 1 - beta^t without cancellation, which would lose digits in the first steps
    float correction1 = -expm1f(*steps * log_beta1), correction2 = -expm1f(*steps * log_beta2), pace = *rate / correction1;
    int first = blockIdx.x * CHUNK + threadIdx.x, k = 0;
    for (int half = PARAMETERS / 2; half > 0; half /= 2)            // binary search: the last parameter that begins at or before `first`
        if (gradients.start[k + half] <= first) k += half;

    float parameter[EACH], gradient[EACH], mean[EACH], square[EACH];
#pragma unroll
    for (int j = 0; j < EACH; j++) {
        int i = first + j * THREADS;
        if (i >= size) continue;
        while (gradients.start[k + 1] <= i) k++;
        gradient[j] = gradients.of[k][i - gradients.start[k]];
        parameter[j] = p[i], mean[j] = m[i], square[j] = v[i];
    }
#pragma unroll
    for (int j = 0; j < EACH; j++) {
        int i = first + j * THREADS;
        if (i >= size) continue;
        mean[j] += rest1 * (gradient[j] - mean[j]);
        square[j] += rest2 * (gradient[j] * gradient[j] - square[j]);
        m[i] = mean[j];
        v[i] = square[j];
        p[i] = parameter[j] - pace * mean[j] / (sqrtf(square[j] / correction2) + eps);
    }
}
