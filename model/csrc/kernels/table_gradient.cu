// The gradient of a table of embeddings: rows of d_sum are summed by the id they were looked up by, in float, straight into
// the table's gradient.
//
// The ids come sorted, each with the row it belongs to, so that the rows of an id lie one behind the other; where the sort is
// stable, the order of every sum is fixed and the same step gives the same bits. A block takes TABLE_PLACES places of the
// sorted list. What an id's rows within one block sum up to, that block adds to the gradient, which no other block touches.
// Where an id reaches over a block's border (as [MASK], a quarter of all tokens, reaches over hundreds), each block leaves
// its part, and a second kernel adds the parts in order.
#include "rows.cuh"

struct TableGradient {
  const int* ids;          // [places], ascending
  const long long* order;  // [places], the row of each place
  const bf16* d_sum;       // [places, HIDDEN]
  float* parts;            // [blocks, 2, HIDDEN]: of the id that reaches in, and of the one that reaches out only
  float* gradient;         // [ids, HIDDEN]
  int places;
  int skipped;  // an id that has no gradient, or -1
};

constexpr int TABLE_PLACES = 128;
constexpr int TABLE_THREADS = (HIDDEN / 8 + 31) / 32 * 32;  // eight columns a thread
constexpr int TABLE_AHEAD = 8;                              // rows under way at once

DEVICE void add_floats(float* to, const float (&f)[8]) {
  float sum[8];
  load_floats(sum, to);
#pragma unroll
  for (int e = 0; e < 8; e++) sum[e] += f[e];
  store8(to, sum);
}

// grid = ceil(places / TABLE_PLACES).
KERNEL(TABLE_THREADS, 4) table_gradient(TableGradient a) {
  const int column = threadIdx.x * 8;
  if (column >= HIDDEN) return;
  const int first = blockIdx.x * TABLE_PLACES;
  const int end = first + TABLE_PLACES < a.places ? first + TABLE_PLACES : a.places;
  const bool reaches_in = first > 0 && a.ids[first - 1] == a.ids[first];
  const bool reaches_out = end < a.places && a.ids[end] == a.ids[end - 1];
  float* parts = a.parts + (u64)blockIdx.x * 2 * HIDDEN + column;
  int id = a.ids[first];
  bool is_first = true;
  float sum[8] = {0.f, 0.f, 0.f, 0.f, 0.f, 0.f, 0.f, 0.f};
  auto leave = [&](bool is_last) {
    if (is_first && reaches_in) {
      store8(parts, sum);
    } else if (is_last && reaches_out) {
      store8(parts + HIDDEN, sum);
    } else if (id != a.skipped) {
      add_floats(a.gradient + (u64)id * HIDDEN + column, sum);
    }
  };
  for (int place0 = first; place0 < end; place0 += TABLE_AHEAD) {
    int next[TABLE_AHEAD];
    uint4 bits[TABLE_AHEAD];
#pragma unroll
    for (int i = 0; i < TABLE_AHEAD; i++) {
      const int place = place0 + i < end ? place0 + i : end - 1;
      next[i] = a.ids[place];
      bits[i] = load16_streaming(a.d_sum + (u64)a.order[place] * HIDDEN + column);
    }
#pragma unroll
    for (int i = 0; i < TABLE_AHEAD; i++) {
      if (place0 + i >= end) break;
      float x[8];
      unpack8(x, bits[i]);
      if (next[i] != id) {
        leave(false);
        id = next[i], is_first = false;
#pragma unroll
        for (int e = 0; e < 8; e++) sum[e] = 0.f;
      }
#pragma unroll
      for (int e = 0; e < 8; e++) sum[e] += x[e];
    }
  }
  leave(true);
}

// The ids that reach over a border, each by the block it begins in. The same grid, afterwards.
KERNEL(TABLE_THREADS, 4) table_gradient_over_borders(TableGradient a) {
  const int column = threadIdx.x * 8, block = blockIdx.x;
  const int first = block * TABLE_PLACES, end = first + TABLE_PLACES;
  if (column >= HIDDEN || end >= a.places) return;
  const int id = a.ids[end - 1];
  if (a.ids[end] != id || id == a.skipped || (first > 0 && a.ids[first - 1] == id)) return;
  int last = block + 1, beyond = gridDim.x;  // the last block whose first place has the id lies from `last` to `beyond` - 1
  while (beyond - last > 1) {
    const int middle = (last + beyond) / 2;
    if (a.ids[middle * TABLE_PLACES] == id) {
      last = middle;
    } else {
      beyond = middle;
    }
  }
  float sum[8];
  load_floats(sum, a.parts + ((u64)block * 2 + 1) * HIDDEN + column);
#pragma unroll 8
  for (int i = block + 1; i <= last; i++) {
    float x[8];
    load_floats(x, a.parts + (u64)i * 2 * HIDDEN + column);
#pragma unroll
    for (int e = 0; e < 8; e++) sum[e] += x[e];
  }
  add_floats(a.gradient + (u64)id * HIDDEN + column, sum);
}
