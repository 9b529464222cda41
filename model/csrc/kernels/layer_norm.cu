// The end of each half of a post-norm layer in one pass: z = dropout(x + bias) + residual, y = LayerNorm(z).
//
// x [rows, HIDDEN] bf16; residual, z, y [rows, HIDDEN] of type stream; bias, gamma, beta [HIDDEN] float; statistics [rows] (mean, 1 / deviation).
// A block of four warps walks over rows, one warp a row, and fetches its next row before it works on the current one.
#include "rows.cuh"

struct LayerNormForward {
  const bf16* x;
  const float* bias;
  const stream* residual;
  stream* z;  // kept for the backward pass; may be x itself where the types agree, or null where there is none
  stream* y;
  float2* statistics;
  const float* gamma;
  const float* beta;
  int rows;
  float epsilon;
  Dropout dropout;
};

struct LayerNormBackward {
  const stream* z;
  const stream* d_y;
  const float2* statistics;
  const float* gamma;
  stream* d_residual;  // gradient of z, hence of the residual; may be d_y itself
  bf16* d_x;           // gradient of x; null without dropout and in a bf16 stream, where it equals d_residual
  float* partial;      // [blocks, 3, HIDDEN]: sums for gamma, beta and bias, for add_column_sums
  int rows;
  Dropout dropout;
};

KERNEL(ROW_WARPS * 32, FORWARD_BLOCKS) layer_norm_forward(LayerNormForward a) {
  const int lane = threadIdx.x & 31, step = gridDim.x * ROW_WARPS;
  int row = blockIdx.x * ROW_WARPS + (threadIdx.x >> 5);
  if (row >= a.rows) return;
  RowBits<bf16> x_bits = fetch_row(a.x + (u64)row * HIDDEN, lane);
  RowBits<stream> residual_bits = fetch_row(a.residual + (u64)row * HIDDEN, lane);
  while (row < a.rows) {
    float x[VECTORS][8], z[VECTORS][8];
    unpack_row(x, x_bits);
    unpack_row(z, residual_bits);
#pragma unroll
    for (int v = 0; v < VECTORS; v++) {
      const int column = column_of(lane, v);
      if (!has_column(column)) continue;
      float bias[8], factor[8];
      load_floats(bias, a.bias + column);
      dropout_factors(factor, a.dropout, ((u64)row * HIDDEN + column) / 8);
#pragma unroll
      for (int e = 0; e < 8; e++) z[v][e] += (x[v][e] + bias[e]) * factor[e];
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
      if (a.z) store8(a.z + (u64)row * HIDDEN + column, z[v]);
#pragma unroll
      for (int e = 0; e < 8; e++) z[v][e] = (z[v][e] - statistics.x) * statistics.y * gamma[e] + beta[e];
      store8(a.y + (u64)row * HIDDEN + column, z[v]);
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
  RowBits<stream> z_bits, d_bits;
  if (row < a.rows) z_bits = fetch_row(a.z + (u64)row * HIDDEN, lane), d_bits = fetch_row(a.d_y + (u64)row * HIDDEN, lane);
  while (row < a.rows) {
    float z[VECTORS][8], d[VECTORS][8];
    unpack_row(z, z_bits);
    unpack_row(d, d_bits);
    const int next = row + step;
    if (next < a.rows) z_bits = fetch_row(a.z + (u64)next * HIDDEN, lane), d_bits = fetch_row(a.d_y + (u64)next * HIDDEN, lane);
    row_backward(d, z, a.statistics[row], a.gamma, lane, sums);
#pragma unroll
    for (int v = 0; v < VECTORS; v++) {
      const int column = column_of(lane, v);
      if (!has_column(column)) continue;
      store8(a.d_residual + (u64)row * HIDDEN + column, d[v]);
      float factor[8];
      dropout_factors(factor, a.dropout, ((u64)row * HIDDEN + column) / 8);
#pragma unroll
      for (int e = 0; e < 8; e++) {
        d[v][e] *= factor[e];
        sums.added[v][e] += d[v][e];
      }
      if (a.d_x) store8(a.d_x + (u64)row * HIDDEN + column, d[v]);
    }
    row = next;
  }
  sums.write((float*)shared, a.partial);
}
