// The end of each half of a post-norm layer in one pass: z = dropout(x + bias) + residual, y = LayerNorm(z).
//
// x, residual, z, y [rows, HIDDEN] bf16; bias, gamma, beta [HIDDEN] float; statistics [rows] (mean, 1 / deviation).
// A block of four warps walks over rows, one warp a row, and fetches its next row before it works on the current one.
#include "rows.cuh"

struct LayerNormForward {
  const bf16* x;
  const float* bias;
  const bf16* residual;
  bf16* z;  // kept for the backward pass; may be x itself, or null where there is none
  bf16* y;
  float2* statistics;
  const float* gamma;
  const float* beta;
  int rows;
  float epsilon;
  Dropout dropout;
};

struct LayerNormBackward {
  const bf16* z;
  const bf16* d_y;
  const float2* statistics;
  const float* gamma;
  bf16* d_residual;  // gradient of z, hence of the residual; may be d_y itself
  bf16* d_x;         // gradient of x; null without dropout, where it equals d_residual
  float* partial;    // [blocks, 3, HIDDEN]: sums for gamma, beta and bias, for add_column_sums
  int rows;
  Dropout dropout;
};

KERNEL(ROW_WARPS * 32, FORWARD_BLOCKS) layer_norm_forward(LayerNormForward a) {
  const int lane = threadIdx.x & 31, step = gridDim.x * ROW_WARPS;
  int row = blockIdx.x * ROW_WARPS + (threadIdx.x >> 5);
  if (row >= a.rows) return;
  RowBits x_bits = fetch_row(a.x + (u64)row * HIDDEN, lane), residual_bits = fetch_row(a.residual + (u64)row * HIDDEN, lane);
  while (row < a.rows) {
    float z[VECTORS][8];
#pragma unroll
    for (int v = 0; v < VECTORS; v++) {
      const int column = column_of(lane, v);
      float x[8], bias[8], factor[8];
      unpack8(z[v], residual_bits.v[v]);
      if (!has_column(column)) continue;
      unpack8(x, x_bits.v[v]);
      load_floats(bias, a.bias + column);
      dropout_factors(factor, a.dropout, ((u64)row * HIDDEN + column) / 8);
#pragma unroll
      for (int e = 0; e < 8; e++) z[v][e] += (x[e] + bias[e]) * factor[e];
    }
    const int next = row + step;
    if (next < a.rows) x_bits = fetch_row(a.x + (u64)next * HIDDEN, lane), residual_bits = fetch_row(a.residual + (u64)next * HIDDEN, lane);
    const float2 statistics = row_statistics(z, lane, a.epsilon);
#pragma unroll
    for (int v = 0; v < VECTORS; v++) {
      const int column = column_of(lane, v);
      if (!has_column(column)) continue;
      float gamma[8], beta[8];
      load_floats(gamma, a.gamma + column);
      load_floats(beta, a.beta + column);
      if (a.z) store16(a.z + (u64)row * HIDDEN + column, pack8(z[v]));
#pragma unroll
      for (int e = 0; e < 8; e++) z[v][e] = (z[v][e] - statistics.x) * statistics.y * gamma[e] + beta[e];
      store16(a.y + (u64)row * HIDDEN + column, pack8(z[v]));
    }
    if (lane == 0) a.statistics[row] = statistics;
    row = next;
  }
}

KERNEL(ROW_WARPS * 32, BACKWARD_BLOCKS) layer_norm_backward(LayerNormBackward a) {
  SHARED_MEMORY(shared);
  const int lane = threadIdx.x & 31, step = gridDim.x * ROW_WARPS;
  ColumnSums sums;
  sums.clear();
  int row = blockIdx.x * ROW_WARPS + (threadIdx.x >> 5);
  RowBits z_bits, d_bits;
  if (row < a.rows) z_bits = fetch_row(a.z + (u64)row * HIDDEN, lane), d_bits = fetch_row(a.d_y + (u64)row * HIDDEN, lane);
  while (row < a.rows) {
    float z[VECTORS][8], d[VECTORS][8];
#pragma unroll
    for (int v = 0; v < VECTORS; v++) unpack8(z[v], z_bits.v[v]), unpack8(d[v], d_bits.v[v]);
    const int next = row + step;
    if (next < a.rows) z_bits = fetch_row(a.z + (u64)next * HIDDEN, lane), d_bits = fetch_row(a.d_y + (u64)next * HIDDEN, lane);
    row_backward(d, z, a.statistics[row], a.gamma, lane, sums);
#pragma unroll
    for (int v = 0; v < VECTORS; v++) {
      const int column = column_of(lane, v);
      if (!has_column(column)) continue;
      store16(a.d_residual + (u64)row * HIDDEN + column, pack8(d[v]));
      float factor[8];
      dropout_factors(factor, a.dropout, ((u64)row * HIDDEN + column) / 8);
#pragma unroll
      for (int e = 0; e < 8; e++) {
        d[v][e] *= factor[e];
        sums.added[v][e] += d[v][e];
      }
      if (a.d_x) store16(a.d_x + (u64)row * HIDDEN + column, pack8(d[v]));
    }
    row = next;
  }
  sums.write((float*)shared, a.partial);
}
