// Token and type embedding, LayerNorm and dropout in one pass: y = dropout(LayerNorm(words[id] + types[type])).
//
// ids [rows] int; words [V, HIDDEN], types [2, HIDDEN] bf16; y [rows, HIDDEN] bf16. The sum is gathered again in the
// backward pass instead of being kept. The gradient of the sum, d_sum [rows, HIDDEN] bf16, goes on to the tables.
#include "rows.cuh"

struct EmbeddingForward {
  const int* ids;
  const int* types_of;  // [rows] type of each token, or null: all zero
  const bf16* words;
  const bf16* types;
  bf16* y;
  float2* statistics;
  const float* gamma;
  const float* beta;
  int rows;
  float epsilon;
  Dropout dropout;
};

struct EmbeddingBackward {
  const int* ids;
  const int* types_of;
  const bf16* words;
  const bf16* types;
  const bf16* d_y;
  const float2* statistics;
  const float* gamma;
  bf16* d_sum;
  float* partial;  // [blocks, 3, HIDDEN]: sums for gamma, beta, and of d_sum over all rows
  int rows;
  Dropout dropout;
};

DEVICE void gather_row(float (&x)[VECTORS][8], const bf16* words, const bf16* types, const int* ids, const int* types_of,
                       int row, int lane) {
  const RowBits word = fetch_row(words + (u64)ids[row] * HIDDEN, lane);
  const RowBits type = fetch_row(types + (u64)(types_of ? types_of[row] : 0) * HIDDEN, lane);
#pragma unroll
  for (int v = 0; v < VECTORS; v++) {
    float t[8];
    unpack8(x[v], word.v[v]);
    unpack8(t, type.v[v]);
#pragma unroll
    for (int e = 0; e < 8; e++) x[v][e] += t[e];
  }
}

KERNEL(ROW_WARPS * 32, FORWARD_BLOCKS) embedding_forward(EmbeddingForward a) {
  const int lane = threadIdx.x & 31;
  for (int row = blockIdx.x * ROW_WARPS + (threadIdx.x >> 5); row < a.rows; row += gridDim.x * ROW_WARPS) {
    float x[VECTORS][8];
    gather_row(x, a.words, a.types, a.ids, a.types_of, row, lane);
    const float2 statistics = row_statistics(x, lane, a.epsilon);
#pragma unroll
    for (int v = 0; v < VECTORS; v++) {
      const int column = column_of(lane, v);
      if (!has_column(column)) continue;
      float gamma[8], beta[8], factor[8];
      load_floats(gamma, a.gamma + column);
      load_floats(beta, a.beta + column);
      dropout_factors(factor, a.dropout, ((u64)row * HIDDEN + column) / 8);
#pragma unroll
      for (int e = 0; e < 8; e++) x[v][e] = ((x[v][e] - statistics.x) * statistics.y * gamma[e] + beta[e]) * factor[e];
      store16(a.y + (u64)row * HIDDEN + column, pack8(x[v]));
    }
    if (lane == 0) a.statistics[row] = statistics;
  }
}

KERNEL(ROW_WARPS * 32, BACKWARD_BLOCKS) embedding_backward(EmbeddingBackward a) {
  SHARED_MEMORY(shared);
  const int lane = threadIdx.x & 31;
  ColumnSums sums;
  sums.clear();
  for (int row = blockIdx.x * ROW_WARPS + (threadIdx.x >> 5); row < a.rows; row += gridDim.x * ROW_WARPS) {
    float x[VECTORS][8], d[VECTORS][8];
    const RowBits d_bits = fetch_row(a.d_y + (u64)row * HIDDEN, lane);
    gather_row(x, a.words, a.types, a.ids, a.types_of, row, lane);
#pragma unroll
    for (int v = 0; v < VECTORS; v++) {
      const int column = column_of(lane, v);
      float factor[8];
      unpack8(d[v], d_bits.v[v]);
      if (!has_column(column)) continue;
      dropout_factors(factor, a.dropout, ((u64)row * HIDDEN + column) / 8);
#pragma unroll
      for (int e = 0; e < 8; e++) d[v][e] *= factor[e];
    }
    row_backward(d, x, a.statistics[row], a.gamma, lane, sums);
#pragma unroll
    for (int v = 0; v < VECTORS; v++) {
      const int column = column_of(lane, v);
      if (!has_column(column)) continue;
      store16(a.d_sum + (u64)row * HIDDEN + column, pack8(d[v]));
#pragma unroll
      for (int e = 0; e < 8; e++) sums.added[v][e] += d[v][e];
    }
  }
  sums.write((float*)shared, a.partial);
}
