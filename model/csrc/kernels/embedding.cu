// Embeddings of token, type and perhaps position, LayerNorm and dropout in one pass:
// y = dropout(LayerNorm(words[id] + types[type] + positions[place])).
//
// ids [rows] int; words [V, HIDDEN], types [any, HIDDEN], positions [any, HIDDEN] bf16; y [rows, HIDDEN] of type stream. The
// sum is gathered again in the backward pass instead of being kept. Its gradient, d_sum [rows, HIDDEN] bf16, goes on to the
// tables (table_gradient.cu).
#include "rows.cuh"

struct Tables {
  const int* ids;
  const int* types_of;   // [rows] type of each token, or null: all zero
  const int* places_of;  // [rows] position of each token in its sequence, or null: positions are not embedded
  const bf16* words;
  const bf16* types;
  const bf16* positions;
};

struct EmbeddingForward {
  Tables tables;
  stream* y;
  float2* statistics;
  const float* gamma;
  const float* beta;
  int rows;
  float epsilon;
  Dropout dropout;
};

struct EmbeddingBackward {
  Tables tables;
  const stream* d_y;
  const float2* statistics;
  const float* gamma;
  bf16* d_sum;
  float* partial;  // [blocks, 3, HIDDEN]: sums for gamma, beta, and of d_sum over all rows
  int rows;
  Dropout dropout;
};

DEVICE void gather_row(float (&x)[VECTORS][8], const Tables& t, int row, int lane) {
  const RowBits<bf16> word = fetch_row(t.words + (u64)t.ids[row] * HIDDEN, lane);
  const RowBits<bf16> type = fetch_row(t.types + (u64)(t.types_of ? t.types_of[row] : 0) * HIDDEN, lane);
  float y[VECTORS][8];
  unpack_row(x, word);
  unpack_row(y, type);
  auto add = [&] {
#pragma unroll
    for (int v = 0; v < VECTORS; v++)
#pragma unroll
      for (int e = 0; e < 8; e++) x[v][e] += y[v][e];
  };
  add();
  if (t.places_of) {
    unpack_row(y, fetch_row(t.positions + (u64)t.places_of[row] * HIDDEN, lane));
    add();
  }
}

KERNEL(ROW_WARPS * 32, FORWARD_BLOCKS) embedding_forward(EmbeddingForward a) {
  const int lane = threadIdx.x & 31;
  for (int row = blockIdx.x * ROW_WARPS + (threadIdx.x >> 5); row < a.rows; row += gridDim.x * ROW_WARPS) {
    float x[VECTORS][8];
    gather_row(x, a.tables, row, lane);
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
      store8(a.y + (u64)row * HIDDEN + column, x[v]);
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
    const RowBits<stream> d_bits = fetch_row(a.d_y + (u64)row * HIDDEN, lane);
    gather_row(x, a.tables, row, lane);
    unpack_row(d, d_bits);
#pragma unroll
    for (int v = 0; v < VECTORS; v++) {
      const int column = column_of(lane, v);
      if (!has_column(column)) continue;
      float factor[8];
      dropout_factors(factor, a.dropout, ((u64)row * HIDDEN + column) / 8);
#pragma unroll
      for (int e = 0; e < 8; e++) d[v][e] *= factor[e];
    }
    row_backward(d, x, a.statistics[row], a.gamma, lane, sums);
#pragma unroll
    for (int v = 0; v < VECTORS; v++) {
      const int column = column_of(lane, v);
      if (!has_column(column)) continue;
      store8(a.d_sum + (u64)row * HIDDEN + column, d[v]);
#pragma unroll
      for (int e = 0; e < 8; e++) sums.added[v][e] += d[v][e];
    }
  }
  sums.write((float*)shared, a.partial);
}
