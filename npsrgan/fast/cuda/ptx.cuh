// PTX instructions without a C++ equivalent.  Before compute capability 8.0, copies are synchronous and the rest is unavailable.

#if __CUDA_ARCH__ >= 800

__device__ __forceinline__ unsigned shared_address(const float* p) { return static_cast<unsigned>(__cvta_generic_to_shared(p)); }

// Start copying 4 or 16 bytes from global to shared memory, bypassing registers.  If not `valid`, write zeros and read nothing.
__device__ __forceinline__ void copy4(float* to, const float* from, bool valid) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" :: "r"(shared_address(to)), "l"(from), "r"(valid ? 4 : 0));
}
__device__ __forceinline__ void copy16(float* to, const float* from, bool valid) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" :: "r"(shared_address(to)), "l"(from), "r"(valid ? 16 : 0));
}
// The same through the L1 cache, for data that will be reused.
__device__ __forceinline__ void copy16_reused(float* to, const float* from, bool valid) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 16, %2;" :: "r"(shared_address(to)), "l"(from), "r"(valid ? 16 : 0));
}

// close_group() groups the copies started since its last call.  wait_for_groups waits for all but this thread's last LEFT groups.
__device__ __forceinline__ void close_group() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int LEFT> __device__ __forceinline__ void wait_for_groups() {
    asm volatile("cp.async.wait_group %0;" :: "n"(LEFT) : "memory");
}

// Round to the nearest TF32 number.  (Adding half a unit to the bits would also work, but could turn a NaN into zero.)
__device__ __forceinline__ unsigned tf32(float value) {
    unsigned rounded;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(rounded) : "f"(value));
    return rounded;
}

// c += a b, (16, 8) times (8, 8), distributed over the 32 lanes of a warp.  With group = lane / 4, member = lane % 4, a lane holds
// a: [group (+ 8)][member], [group (+ 8)][member + 4];    b: [member][group], [member + 4][group];
// c: [group (+ 8)][2 * member (+ 1)].
__device__ __forceinline__ void multiply_tf32(float* c, const unsigned* a, const unsigned* b) {
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

#elif defined(__CUDA_ARCH__)

__device__ __forceinline__ void copy4(float* to, const float* from, bool valid) { *to = valid ? *from : 0; }
__device__ __forceinline__ void copy16(float* to, const float* from, bool valid) {
    *reinterpret_cast<float4*>(to) = valid ? *reinterpret_cast<const float4*>(from) : make_float4(0, 0, 0, 0);
}
__device__ __forceinline__ void copy16_reused(float* to, const float* from, bool valid) { copy16(to, from, valid); }
__device__ __forceinline__ void close_group() {}
template <int LEFT> __device__ __forceinline__ void wait_for_groups() {}

#endif
