// Sums over rows, in a fixed order: bias gradients, and the last step of those that a backward kernel left per block.
#include "device.cuh"

constexpr int SUM_WARPS = 16;

// Adds the column sums of a float matrix [rows, parts, columns] to `parts` separate vectors [columns], each of which may
// be null. grid = (ceil(columns / 32), parts), 32 x SUM_WARPS threads.
struct AddColumnSums {
  const float* matrix;
  float* to[3];
  int rows, parts, columns;
};

KERNEL(32 * SUM_WARPS, 2) add_column_sums(AddColumnSums a) {
  SHARED_MEMORY(memory);
  float* shared = (float*)memory;  // [SUM_WARPS][32]
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, part = blockIdx.y, column = blockIdx.x * 32 + lane;
  float* to = part == 0 ? a.to[0] : part == 1 ? a.to[1] : a.to[2];
  if (!to) return;
  float sum = 0.f;
  if (column < a.columns) {
#pragma unroll 4
    for (int row = warp; row < a.rows; row += SUM_WARPS) sum += a.matrix[((u64)row * a.parts + part) * a.columns + column];
  }
  shared[warp * 32 + lane] = sum;
  sync_block();
  if (warp != 0 || column >= a.columns) return;
  for (int w = 1; w < SUM_WARPS; w++) sum += shared[w * 32 + lane];
  to[column] += sum;
}

// Column sums of a bf16 matrix [rows, columns] to partial [gridDim.y, columns] float; columns a multiple of 8. A warp takes
// 256 columns; the rows are dealt to gridDim.y blocks. grid = (ceil(columns / 256), any), 32 x SUM_WARPS threads.
struct PartialColumnSums {
  const bf16* matrix;
  float* partial;
  int rows, columns;
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
      unpack8(x, load16_streaming(a.matrix + (u64)row * a.columns + column));
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
