// Self-attention over packed sequences with symmetric ALiBi, forward and backward, head dimension 64.
//
//   scores[h, i, j] = scale * <q_i, k_j> - slope_h * |i - j|        within one sequence
//   out[h, i]       = sum_j dropout(softmax_j(scores[h, i, .]))_j v_j
//
// A slope of zero is attention without ALiBi. Each kernel is there with dropout and without, which then costs nothing.
//
// Sequences of any length lie one behind the other: sequence s is rows cu[s] … cu[s + 1] of
//   qkv [T, 3, H, 64] bf16, out and d_out [T, H, 64] bf16, lse [H, T] float (base-2 logarithm of the softmax sums),
//   lost [T, H, 64] bytes (what rounding took from out, see device.cuh; the backward pass says what for).
// Nothing of size length^2 reaches memory. The forward pass is the online softmax of FlashAttention (Dao et al. 2022;
// Dao 2023); the backward pass recomputes the probabilities from lse. It lets one block own one (sequence, head) and walk
// over the blocks of keys, so that the gradient of q is summed in a fixed order: no atomics, and the same bits each run.
// ALiBi: Press, Smith, Lewis 2022, in its symmetric form for encoders.
#pragma once
#include "device.cuh"

constexpr int HEAD_DIM = 64;
constexpr float FAR = 1e30f;  // a distance, or a logarithm, beyond which probabilities vanish

// Dropout of probabilities. A group of eight random numbers is for the queries i and i + 8 and the keys j, j + 8, j + 16 and
// j + 24 of a head, with i % 16 < 8 and j % 32 < 8, counted within the sequence: what one thread holds of the products' results
// whether queries are their rows, as in the forward pass, or their columns, as in the backward pass. So both draw each
// number once. Bit 4 a + b of the result: whether query i + 8 a keeps key j + 8 b. `token` is query i's row in the batch.
DEVICE u32 kept_probabilities(const Dropout& d, int head, int token, int key) {
  const u32 keys = (u32)(key >> 5) * 8 + (u32)(key & 7);
  u32 r[4], kept = 0;
  dropout_bits(r, d, (u64)((u32)head << 20 | keys) << 32 | (u32)token);
#pragma unroll
  for (int e = 0; e < 8; e++) {
    const u32 bits = e & 1 ? r[e >> 1] >> 16 : r[e >> 1] & 0xffffu;
    kept |= bits >= d.threshold ? 1u << e : 0u;
  }
  return kept;
}

// Starts the copy of `ROWS` rows of one head to a tile; rows from `valid` on become zero.
template <int ROWS, int THREADS> DEVICE void copy_tile(u32 tile, const bf16* from, long stride, int valid) {
#pragma unroll
  for (int i = 0; i < ROWS * 8 / THREADS; i++) {
    int index = (int)threadIdx.x + i * THREADS, row = index >> 3, chunk = index & 7;
    bool keep = row < valid;
    copy_async(tile + tile_offset(row, chunk), from + (keep ? row * stride : 0) + chunk * 8, keep);
  }
}

// Writes 16 rows x 64 columns of mma results as bf16 to global memory, through the warp's own 16 tile rows `staging` (at
// tile row `row0`), so that every row leaves as whole 16-byte pieces. `to` is row 0 of the 16; rows from `valid` on stay.
DEVICE void store_rows(unsigned char* staging, int row0, const float (&c)[8][4], float factor0, float factor1, bf16* to,
                       long stride, int valid) {
  const int lane = threadIdx.x & 31, group = lane >> 2, pair = lane & 3;
#pragma unroll
  for (int j = 0; j < 8; j++) {
    *(u32*)(staging + tile_offset(row0 + group, j) + pair * 4) = pack(c[j][0] * factor0, c[j][1] * factor0);
    *(u32*)(staging + tile_offset(row0 + group + 8, j) + pair * 4) = pack(c[j][2] * factor1, c[j][3] * factor1);
  }
  sync_warp();
#pragma unroll
  for (int i = 0; i < 4; i++) {
    int row = i * 4 + (lane >> 3), chunk = lane & 7;
    if (row < valid) store16(to + row * stride + chunk * 8, load16(staging + tile_offset(row0 + row, chunk)));
  }
  sync_warp();
}

// Writes what store_rows' rounding loses of the same results, in the same way, to 16 rows of 64 bytes.
DEVICE void store_lost(unsigned char* staging, int row0, const float (&c)[8][4], float factor0, float factor1,
                       unsigned char* to, long stride, int valid) {
  const int lane = threadIdx.x & 31, group = lane >> 2, pair = lane & 3;
#pragma unroll
  for (int j = 0; j < 8; j++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const float factor = half ? factor1 : factor0, x = c[j][half * 2] * factor, y = c[j][half * 2 + 1] * factor;
      const u32 rounded = pack(x, y), lost = lost_bits(x, rounded << 16) | lost_bits(y, rounded & 0xffff0000u) << 8;
      *(unsigned short*)(staging + tile_offset(row0 + group + half * 8, j >> 1) + (j & 1) * 8 + pair * 2) = (unsigned short)lost;
    }
  sync_warp();
#pragma unroll
  for (int i = 0; i < 2; i++) {
    int row = i * 8 + (lane >> 2), chunk = lane & 3;
    if (row < valid) store16(to + row * stride + chunk * 16, load16(staging + tile_offset(row0 + row, chunk)));
  }
  sync_warp();
}
