// What every kernel file stands on: the few PTX instructions they use, bf16 packing, tiles in shared memory, and the
// counter-based random numbers of dropout. No header of the CUDA toolkit is needed, so NVRTC compiles these files as
// they are; on a machine without a GPU the same files compile as C++ against tests/kernels/emulator.h, which supplies
// the names of the first section.
#pragma once

typedef unsigned int u32;
typedef unsigned long long u64;
typedef unsigned short bf16;  // the bits; arithmetic is in float

#ifdef KERNEL_EMULATOR
#include "emulator.h"
#else

// `KERNEL(threads, blocks)` opens a kernel of `threads` threads of which `blocks` should fit one multiprocessor.
#define KERNEL(threads, blocks) extern "C" __global__ void __launch_bounds__(threads, blocks)
#define DEVICE __device__ __forceinline__
#define SHARED_MEMORY(name) extern __shared__ __align__(128) unsigned char name[]

// Address of a pointer into shared memory, as ldmatrix and cp.async want it.
DEVICE u32 shared_address(const void* pointer) { return (u32)__cvta_generic_to_shared(pointer); }

// Four 8x8 bf16 matrices from shared memory; lane l gives the address of row l % 8 of matrix l / 8. Afterwards lane l
// holds, of each matrix, row l / 4, columns 2 (l % 4) and the next (transposed: the two exchange roles).
DEVICE void load_matrices(u32 (&m)[4], u32 row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3},[%4];"
               : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3]) : "r"(row) : "memory");
}
DEVICE void load_matrices_transposed(u32 (&m)[4], u32 row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3},[%4];"
               : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3]) : "r"(row) : "memory");
}

// c += a b: a is 16x16 (row-major fragments), b is 16x8, c is 16x8 in float. Lane l holds of c: rows l / 4 (elements 0
// and 1) and l / 4 + 8 (elements 2 and 3), columns 2 (l % 4) and the next.
DEVICE void multiply_accumulate(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// 16 bytes from global to shared memory without passing a register; with `keep` false, 16 zero bytes.
DEVICE void copy_async(u32 to, const void* from, bool keep) {
  asm volatile("cp.async.cg.shared.global [%0],[%1],16,%2;" ::"r"(to), "l"(from), "r"(keep ? 16 : 0) : "memory");
}
// Closes a group of this thread's copies; `wait_async<N>` waits until at most the N youngest groups are under way.
DEVICE void commit_async() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N> DEVICE void wait_async() { asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory"); }

DEVICE float exp2_fast(float x) { float y; asm("ex2.approx.ftz.f32 %0,%1;" : "=f"(y) : "f"(x)); return y; }
DEVICE float log2_fast(float x) { float y; asm("lg2.approx.ftz.f32 %0,%1;" : "=f"(y) : "f"(x)); return y; }
DEVICE float reciprocal_fast(float x) { float y; asm("rcp.approx.ftz.f32 %0,%1;" : "=f"(y) : "f"(x)); return y; }

// Two floats rounded to nearest even, `low` in the low half.
DEVICE u32 pack(float low, float high) {
  u32 r;
  asm("cvt.rn.bf16x2.f32 %0,%1,%2;" : "=r"(r) : "f"(high), "f"(low));
  return r;
}

// The value of the lane whose number differs from this lane's in the bits of `mask`; all 32 lanes take part.
DEVICE float exchange(float v, int mask) { return __shfl_xor_sync(0xffffffffu, v, mask); }
DEVICE int exchange(int v, int mask) { return __shfl_xor_sync(0xffffffffu, v, mask); }
// The value of one lane, for all.
DEVICE float broadcast(float v, int lane) { return __shfl_sync(0xffffffffu, v, lane); }
DEVICE void sync_block() { __syncthreads(); }
DEVICE void sync_warp() { __syncwarp(); }
DEVICE u32 multiply_high(u32 a, u32 b) { return __umulhi(a, b); }
DEVICE uint4 load16(const void* p) { return *(const uint4*)p; }
// For data read once: it need not stay in the cache.
DEVICE uint4 load16_streaming(const void* p) {
  uint4 v;
  asm volatile("ld.global.L1::no_allocate.v4.u32 {%0,%1,%2,%3},[%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p));
  return v;
}
DEVICE uint2 load8(const void* p) { return *(const uint2*)p; }
DEVICE void store16(void* p, uint4 v) { *(uint4*)p = v; }
DEVICE void store4(void* p, u32 v) { *(u32*)p = v; }
#endif

constexpr float LOG2_E = 1.4426950408889634f;

// ---- bf16 -----------------------------------------------------------------------------------------------------------

DEVICE float float_of_bits(u32 bits) {
  union { u32 u; float f; } x;
  x.u = bits;
  return x.f;
}
DEVICE u32 bits_of_float(float v) {
  union { float f; u32 u; } x;
  x.f = v;
  return x.u;
}
DEVICE float low_half(u32 v) { return float_of_bits(v << 16); }
DEVICE float high_half(u32 v) { return float_of_bits(v & 0xffff0000u); }
DEVICE float to_float(bf16 v) { return float_of_bits((u32)v << 16); }

DEVICE void unpack8(float (&f)[8], uint4 v) {
  f[0] = low_half(v.x), f[1] = high_half(v.x), f[2] = low_half(v.y), f[3] = high_half(v.y);
  f[4] = low_half(v.z), f[5] = high_half(v.z), f[6] = low_half(v.w), f[7] = high_half(v.w);
}
DEVICE uint4 pack8(const float (&f)[8]) {
  uint4 r;
  r.x = pack(f[0], f[1]), r.y = pack(f[2], f[3]), r.z = pack(f[4], f[5]), r.w = pack(f[6], f[7]);
  return r;
}

// What rounding to bf16 took from a float, for where a small difference of large numbers depends on it: the eight bits that
// follow bf16's, with a sign. Put back, they leave a relative error of 2^-17.
DEVICE u32 lost_bits(float v, u32 rounded) {  // `rounded`: v's bf16 in the upper half
  const int difference = (int)(bits_of_float(v) - rounded), byte = (difference + 128) >> 8;
  return (u32)(byte < 127 ? byte : 127) & 0xffu;
}
DEVICE void unpack8(float (&f)[8], uint4 v, uint2 lost) {
  const u32 words[4] = {v.x, v.y, v.z, v.w}, bytes[2] = {lost.x, lost.y};
#pragma unroll
  for (int e = 0; e < 8; e++) {
    const u32 rounded = e & 1 ? words[e >> 1] & 0xffff0000u : words[e >> 1] << 16;
    f[e] = float_of_bits(rounded + ((u32)((int)(bytes[e >> 2] << (24 - 8 * (e & 3))) >> 16) & 0xffffff00u));
  }
}

// ---- reductions -----------------------------------------------------------------------------------------------------

DEVICE float warp_sum(float v) {
#pragma unroll
  for (int mask = 16; mask; mask >>= 1) v += exchange(v, mask);
  return v;
}

// ---- tiles in shared memory -----------------------------------------------------------------------------------------

// A tile is rows of 64 bf16 = 128 bytes = 8 chunks of 16 bytes; chunk c of row r lies at place c ^ (r % 8), so that the
// eight rows of an 8x8 matrix lie in eight different groups of banks.
constexpr int TILE_ROW_BYTES = 128;
DEVICE u32 tile_offset(int row, int chunk) { return (u32)(row * TILE_ROW_BYTES + ((chunk ^ (row & 7)) << 4)); }

// Row and chunk whose address a lane gives to load_matrices, relative to a 16x16 block, for the three uses:
// fragments of the left factor (and, transposed, of a right factor stored k-major), …
DEVICE int left_row(int lane) { return lane & 15; }
DEVICE int left_chunk(int lane) { return lane >> 4; }
// … and of a right factor stored n-major: two 16x8 fragments, {m[0], m[1]} and {m[2], m[3]}.
DEVICE int right_row(int lane) { return (lane & 7) + ((lane >> 4) << 3); }
DEVICE int right_chunk(int lane) { return (lane >> 3) & 1; }

// ---- dropout --------------------------------------------------------------------------------------------------------

// Which call of dropout this is. Masks are a pure function of (seed, stream, element), so the backward pass computes
// them again and nothing is stored. `threshold` is the dropout probability in 1/65536, `scale` is 1 / (1 - probability).
struct Dropout {
  u64 seed, stream;
  u32 threshold;
  float scale;
};

// Philox4x32 with seven rounds, the fewest that pass BigCrush (Salmon, Moraes, Dror, Shaw: Parallel random numbers: as
// easy as 1, 2, 3; SC 2011).
DEVICE void philox(u32 (&counter)[4], u32 key0, u32 key1) {
#pragma unroll
  for (int round = 0; round < 7; round++) {
    u32 high0 = multiply_high(0xD2511F53u, counter[0]), low0 = 0xD2511F53u * counter[0];
    u32 high1 = multiply_high(0xCD9E8D57u, counter[2]), low1 = 0xCD9E8D57u * counter[2];
    counter[0] = high1 ^ counter[1] ^ key0, counter[1] = low1;
    counter[2] = high0 ^ counter[3] ^ key1, counter[3] = low0;
    key0 += 0x9E3779B9u, key1 += 0xBB67AE85u;
  }
}

// Random numbers of the eight elements of a group: one Philox block, 16 bits an element.
DEVICE void dropout_bits(u32 (&r)[4], const Dropout& d, u64 group) {
  r[0] = (u32)group, r[1] = (u32)(group >> 32), r[2] = (u32)d.stream, r[3] = (u32)(d.stream >> 32);
  philox(r, (u32)d.seed, (u32)(d.seed >> 32));
}

// Factors (0 or `scale`) of the eight elements 8 * group … 8 * group + 7.
DEVICE void dropout_factors(float (&factor)[8], const Dropout& d, u64 group) {
  if (d.threshold == 0) {
#pragma unroll
    for (int e = 0; e < 8; e++) factor[e] = 1.f;
    return;
  }
  u32 r[4];
  dropout_bits(r, d, group);
#pragma unroll
  for (int e = 0; e < 8; e++) {
    u32 bits = e & 1 ? r[e >> 1] >> 16 : r[e >> 1] & 0xffffu;
    factor[e] = bits >= d.threshold ? d.scale : 0.f;
  }
}
