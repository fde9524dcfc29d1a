// Leaky ReLU: x if positive, else slope * x.

__device__ inline float leaky(float x, float slope) { return x > 0 ? x : slope * x; }

// Replaces d = dL/d(leaky(x, slope)) by dL/dx, and returns dL/d(slope).
__device__ inline float leaky_gradient(float x, float slope, float& d) {
    if (x > 0) return 0;
    float d_slope = x * d;
    d *= slope;
    return d_slope;
}
