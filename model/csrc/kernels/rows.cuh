// Rows of HIDDEN columns, one warp a row: what LayerNorm and the embedding share. HIDDEN, a multiple of 8, is given to
// the compiler. Lane l holds the columns 8 (32 v + l) … + 7 for v = 0 … VECTORS - 1, so that a warp reads 512 bytes in
// one piece.
#pragma once
#include "device.cuh"

#ifndef HIDDEN
#define HIDDEN 768
#endif
static_assert(HIDDEN % 8 == 0, "a lane takes eight columns at a time");

// The residual stream between LayerNorms, and its gradient: bf16, or float where the compiler is given FLOAT_STREAM.
#ifdef FLOAT_STREAM
typedef float stream;
#else
typedef bf16 stream;
#endif

constexpr int VECTORS = (HIDDEN + 255) / 256;
constexpr int ROW_WARPS = 4;  // warps of a block, each with its own row
// Blocks a multiprocessor should hold: as many as leave each thread the registers its rows and sums take.
constexpr int FORWARD_BLOCKS = sizeof(stream) == 4 ? 3 : VECTORS <= 3 ? 5 : 4;
constexpr int BACKWARD_BLOCKS = VECTORS <= 3 && sizeof(stream) == 2 ? 3 : 2;

// First column of a lane's vector v; `has_column` is a constant where HIDDEN is a multiple of 256.
DEVICE int column_of(int lane, int v) { return (v * 32 + lane) * 8; }
DEVICE bool has_column(int column) { return HIDDEN % 256 == 0 || column < HIDDEN; }

DEVICE void load_floats(float (&f)[8], const float* from) {
  const float4 low = *(const float4*)from, high = *(const float4*)(from + 4);
  f[0] = low.x, f[1] = low.y, f[2] = low.z, f[3] = low.w, f[4] = high.x, f[5] = high.y, f[6] = high.z, f[7] = high.w;
}

// Raw vectors of one row of bf16 or float: what is fetched ahead while the row before is worked on.
template <class T> struct RowBits {
  static constexpr int PIECES = sizeof(T) / 2;  // of 16 bytes, for eight columns
  uint4 v[VECTORS][PIECES];
};
template <class T> DEVICE RowBits<T> fetch_row(const T* row, int lane) {
  RowBits<T> bits;
#pragma unroll
  for (int v = 0; v < VECTORS; v++)
#pragma unroll
    for (int piece = 0; piece < RowBits<T>::PIECES; piece++) {
      uint4& place = bits.v[v][piece];
      place.x = place.y = place.z = place.w = 0;
      if (has_column(column_of(lane, v))) place = load16((const uint4*)(row + column_of(lane, v)) + piece);
    }
  return bits;
}
DEVICE void unpack_row(float (&f)[VECTORS][8], const RowBits<bf16>& bits) {
#pragma unroll
  for (int v = 0; v < VECTORS; v++) unpack8(f[v], bits.v[v][0]);
}
DEVICE void unpack_row(float (&f)[VECTORS][8], const RowBits<float>& bits) {
#pragma unroll
  for (int v = 0; v < VECTORS; v++)
#pragma unroll
    for (int piece = 0; piece < 2; piece++) {
      const uint4 four = bits.v[v][piece];
      f[v][piece * 4] = float_of_bits(four.x), f[v][piece * 4 + 1] = float_of_bits(four.y);
      f[v][piece * 4 + 2] = float_of_bits(four.z), f[v][piece * 4 + 3] = float_of_bits(four.w);
    }
}
DEVICE void store8(bf16* to, const float (&f)[8]) { store16(to, pack8(f)); }
DEVICE void store8(float* to, const float (&f)[8]) {
  float4 low, high;
  low.x = f[0], low.y = f[1], low.z = f[2], low.w = f[3], high.x = f[4], high.y = f[5], high.z = f[6], high.w = f[7];
  ((float4*)to)[0] = low, ((float4*)to)[1] = high;
}

// Mean and 1 / sqrt(variance + epsilon) of a row held by a warp; columns beyond HIDDEN hold zero.
DEVICE float2 row_statistics(const float (&x)[VECTORS][8], int lane, float epsilon) {
  float sum = 0.f, squares = 0.f;
#pragma unroll
  for (int v = 0; v < VECTORS; v++)
#pragma unroll
    for (int e = 0; e < 8; e++) sum += x[v][e];
  const float mean = warp_sum(sum) * (1.f / HIDDEN);
#pragma unroll
  for (int v = 0; v < VECTORS; v++)
    if (has_column(column_of(lane, v)))
#pragma unroll
      for (int e = 0; e < 8; e++) squares += (x[v][e] - mean) * (x[v][e] - mean);
  float2 statistics;
  statistics.x = mean, statistics.y = rsqrtf(warp_sum(squares) * (1.f / HIDDEN) + epsilon);
  return statistics;
}

// Sums over rows that a block keeps while it walks: gradients of gamma and beta, and of what is added to every row.
struct ColumnSums {
  float gamma[VECTORS][8], beta[VECTORS][8], added[VECTORS][8];
  DEVICE void clear() {
#pragma unroll
    for (int v = 0; v < VECTORS; v++)
#pragma unroll
      for (int e = 0; e < 8; e++) gamma[v][e] = beta[v][e] = added[v][e] = 0.f;
  }

  // Adds the block's warps in order and writes the block's line of partial [blocks, 3, HIDDEN]. `shared` holds 3 HIDDEN
  // floats.
  DEVICE void write(float* shared, float* partial) {
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    for (int turn = 0; turn < ROW_WARPS; turn++) {
      if (warp == turn) {
#pragma unroll
        for (int v = 0; v < VECTORS; v++)
          if (has_column(column_of(lane, v)))
#pragma unroll
            for (int e = 0; e < 8; e++) {
              const int c = column_of(lane, v) + e;
              shared[c] = gamma[v][e] + (turn ? shared[c] : 0.f);
              shared[HIDDEN + c] = beta[v][e] + (turn ? shared[HIDDEN + c] : 0.f);
              shared[2 * HIDDEN + c] = added[v][e] + (turn ? shared[2 * HIDDEN + c] : 0.f);
            }
      }
      sync_block();
    }
    for (int c = threadIdx.x; c < 3 * HIDDEN; c += ROW_WARPS * 32) partial[(u64)blockIdx.x * 3 * HIDDEN + c] = shared[c];
  }
};

// One row of LayerNorm's backward pass: on entry d holds the gradient of the output and x the input; on return d holds
// the gradient of the input. Adds to the sums of gamma and beta.
DEVICE void row_backward(float (&d)[VECTORS][8], float (&x)[VECTORS][8], float2 statistics, const float* gamma, int lane,
                         ColumnSums& sums) {
  float mean_d = 0.f, mean_dx = 0.f;
#pragma unroll
  for (int v = 0; v < VECTORS; v++) {
    float weight[8] = {0.f, 0.f, 0.f, 0.f, 0.f, 0.f, 0.f, 0.f};
    if (has_column(column_of(lane, v))) load_floats(weight, gamma + column_of(lane, v));
#pragma unroll
    for (int e = 0; e < 8; e++) {
      const float normal = (x[v][e] - statistics.x) * statistics.y;
      x[v][e] = normal;
      sums.gamma[v][e] += d[v][e] * normal;
      sums.beta[v][e] += d[v][e];
      d[v][e] *= weight[e];
      mean_d += d[v][e];
      mean_dx += d[v][e] * normal;
    }
  }
  mean_d = warp_sum(mean_d) * (1.f / HIDDEN);
  mean_dx = warp_sum(mean_dx) * (1.f / HIDDEN);
#pragma unroll
  for (int v = 0; v < VECTORS; v++)
#pragma unroll
    for (int e = 0; e < 8; e++) d[v][e] = statistics.y * (d[v][e] - mean_d - x[v][e] * mean_dx);
}
