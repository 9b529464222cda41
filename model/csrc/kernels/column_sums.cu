// Sums over rows, in a fixed order: bias gradients, and the last step of those that a backward kernel left per block.
#include "device.cuh"

constexpr int SUM_WARPS = 16;

// One sum: the rows of a float matrix [rows, columns], `stride` floats apart, each times its weight, are added to `to`
// [columns].
struct ColumnSum {
  const float* matrix;
  const float* weights;  // of row r: weights[r * weight_stride]; or null: all one
  float* to;             // or null
  float* alone;          // [columns], which becomes the sum itself; or null
  int rows, stride, weight_stride;
};

// Up to three sums of equally many columns at a time: grid = (ceil(columns / 32), sums), 32 x SUM_WARPS threads.
struct AddColumnSums {
  ColumnSum sums[3];
  int columns;
};

KERNEL(32 * SUM_WARPS, 2) add_column_sums(AddColumnSums a) {
  SHARED_MEMORY(memory);
  float* shared = (float*)memory;  // [SUM_WARPS][32]
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, column = blockIdx.x * 32 + lane;
  const ColumnSum s = blockIdx.y == 0 ? a.sums[0] : blockIdx.y == 1 ? a.sums[1] : a.sums[2];
  float sum = 0.f;
  if (column < a.columns) {
#pragma unroll 8
    for (int row = warp; row < s.rows; row += SUM_WARPS)
      sum += s.matrix[(u64)row * s.stride + column] * (s.weights ? s.weights[(u64)row * s.weight_stride] : 1.f);
  }
  shared[warp * 32 + lane] = sum;
  sync_block();
  if (warp != 0 || column >= a.columns) return;
  for (int w = 1; w < SUM_WARPS; w++) sum += shared[w * 32 + lane];
  if (s.to) s.to[column] += sum;
  if (s.alone) s.alone[column] = sum;
}

// Column sums of a bf16 matrix [rows, columns], whose rows lie `stride` elements apart, to partial [gridDim.y, columns]
// float; columns and stride multiples of 8. A warp takes 256 columns; the rows are dealt to gridDim.y blocks. grid = (ceil(columns / 256), any), 32 x SUM_WARPS threads.
struct PartialColumnSums {
  const bf16* matrix;
  float* partial;
  int rows, columns, stride;
};

KERNEL(32 * SUM_WARPS, 2) partial_column_sums(PartialColumnSums a) {
  SHARED_MEMORY(memory);
  float* shared = (float*)memory;  // [SUM_WARPS][256]
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, column = blockIdx.x * 256 + lane * 8;
  float sum[8] = {0.f, 0.f, 0.f, 0.f, 0.f, 0.f, 0.f, 0.f};
  if (column < a.columns) {
#pragma unroll 4
    for (int row = blockIdx.y * SUM_WARPS + warp; row < a.rows; row += gridDim.y * SUM_WARPS) {
      float x[8];
      unpack8(x, load16_streaming(a.matrix + (u64)row * a.stride + column));
#pragma unroll
      for (int e = 0; e < 8; e++) sum[e] += x[e];
    }
  }
#pragma unroll
  for (int e = 0; e < 8; e++) shared[warp * 256 + lane * 8 + e] = sum[e];
  sync_block();
  const int own = blockIdx.x * 256 + threadIdx.x;
  if (threadIdx.x >= 256 || own >= a.columns) return;
  float total = 0.f;
  for (int w = 0; w < SUM_WARPS; w++) total += shared[w * 256 + threadIdx.x];
  a.partial[(u64)blockIdx.y * a.columns + own] = total;
}
