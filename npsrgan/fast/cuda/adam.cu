// Adam (Kingma and Ba 2015, algorithm 1).  One thread updates the entries i, i + (all threads), ... of the flat buffers.
// The rate and the number of steps are read from the GPU's memory, so that a recorded launch can be repeated as they change.
// rest = 1 - beta, which in float32 would lose digits.

extern "C" __global__ void adam(float* __restrict__ p, const float* __restrict__ g, float* __restrict__ m, float* __restrict__ v,
                                const float* rate, const int* steps, float rest1, float rest2, float log_beta1, float log_beta2,
                                float eps, int size) {
    // 1 - beta^t, without the cancellation that takes the digits of the first steps
    float correction1 = -expm1f(*steps * log_beta1), correction2 = -expm1f(*steps * log_beta2), pace = *rate / correction1;
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < size; i += gridDim.x * blockDim.x) {
        float gradient = g[i];
        float mean = m[i] += rest1 * (gradient - m[i]);
        float square = v[i] += rest2 * (gradient * gradient - v[i]);
        p[i] -= pace * mean / (sqrtf(square / correction2) + eps);
    }
}
