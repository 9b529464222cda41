// GeGLU with dropout (Shazeer 2020; GELU in its exact form): y = dropout(gelu(gate) * linear).
//
// h [rows, 2 I] bf16 holds gate (first I columns) and linear (last I) as one matrix product leaves them; y [rows, I].
// A thread takes eight columns at a time: 16-byte accesses and one Philox block of dropout each. Both kernels stay below
// the memory's time.
#include "normal.cuh"

struct GegluForward {
  const bf16* h;
  bf16* y;
  int rows, width;  // width = I, a multiple of 8
  Dropout dropout;
};

struct GegluBackward {
  const bf16* h;
  const bf16* d_y;
  bf16* d_h;  // may be h itself
  int rows, width;
  Dropout dropout;
};

KERNEL(256, 4) geglu_forward(GegluForward a) {
  const u32 groups = (u32)a.width / 8, total = (u32)a.rows * groups, step = gridDim.x * 256;
  for (u32 i = blockIdx.x * 256 + threadIdx.x; i < total; i += step) {
    const u32 row = i / groups, group = i - row * groups;
    const bf16* h = a.h + (u64)row * 2 * a.width + group * 8;
    float gate[8], linear[8], factor[8], exponential;
    unpack8(gate, load16_streaming(h));
    unpack8(linear, load16_streaming(h + a.width));
    dropout_factors(factor, a.dropout, i);
#pragma unroll
    for (int e = 0; e < 8; e++) linear[e] *= gate[e] * normal_distribution(gate[e], exponential) * factor[e];
    store16(a.y + (u64)i * 8, pack8(linear));
  }
}

KERNEL(256, 3) geglu_backward(GegluBackward a) {
  const u32 groups = (u32)a.width / 8, total = (u32)a.rows * groups, step = gridDim.x * 256;
  for (u32 i = blockIdx.x * 256 + threadIdx.x; i < total; i += step) {
    const u32 row = i / groups, group = i - row * groups;
    const u64 at = (u64)row * 2 * a.width + group * 8;
    float gate[8], linear[8], d_y[8], factor[8], exponential;
    unpack8(gate, load16_streaming(a.h + at));
    unpack8(linear, load16_streaming(a.h + at + a.width));
    unpack8(d_y, load16_streaming(a.d_y + (u64)i * 8));
    dropout_factors(factor, a.dropout, i);
#pragma unroll
    for (int e = 0; e < 8; e++) {
      const float x = gate[e], d = d_y[e] * factor[e], cdf = normal_distribution(x, exponential);
      gate[e] = d * linear[e] * gelu_slope(x, cdf, exponential);
      linear[e] = d * x * cdf;
    }
    store16(a.d_h + at, pack8(gate));
    store16(a.d_h + at + a.width, pack8(linear));
  }
}
