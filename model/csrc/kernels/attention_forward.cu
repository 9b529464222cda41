// The forward pass of attention.cuh.
#include "attention.cuh"

struct AttentionForward {
  const bf16* qkv;
  bf16* out;
  unsigned char* lost;
  float* lse;
  const int* cu;        // [sequences + 1]
  const float* slopes;  // [H]
  int heads, tokens;
  float scale;
  Dropout dropout;  // of the kernel with dropout
};

// One block computes WARPS * ROW_TILES * 16 queries of one head; keys and values pass by in blocks of KEYS, the next one
// under way while one is worked on. grid = (blocks of queries of the longest sequence, heads, sequences).
template <int WARPS, int ROW_TILES, int KEYS> struct ForwardShape {
  static constexpr int THREADS = WARPS * 32, QUERIES = WARPS * ROW_TILES * 16;
  static constexpr int TILE_BYTES = KEYS * TILE_ROW_BYTES;
  static constexpr int SHARED_BYTES = QUERIES * TILE_ROW_BYTES + 4 * TILE_BYTES;
};

template <int WARPS, int ROW_TILES, int KEYS, bool DROPOUT>
DEVICE void attention_forward(const AttentionForward& a, unsigned char* shared) {
  typedef ForwardShape<WARPS, ROW_TILES, KEYS> Shape;
  constexpr int COLUMN_TILES = KEYS / 8;
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, group = lane >> 2, pair = lane & 3;
  const int head = blockIdx.y, start = a.cu[blockIdx.z], length = a.cu[blockIdx.z + 1] - start;
  const int query0 = blockIdx.x * Shape::QUERIES;
  if (query0 >= length) return;
  const long stride = 3L * a.heads * HEAD_DIM;
  const bf16* queries = a.qkv + start * stride + head * HEAD_DIM;
  const bf16* keys = queries + a.heads * HEAD_DIM;
  const bf16* values = keys + a.heads * HEAD_DIM;
  const u32 query_tile = shared_address(shared), key_tiles = query_tile + Shape::QUERIES * TILE_ROW_BYTES;
  const u32 value_tiles = key_tiles + 2 * Shape::TILE_BYTES;

  auto copy_keys = [&](int block) {
    const int first = block * KEYS;
    copy_tile<KEYS, Shape::THREADS>(key_tiles + (block & 1) * Shape::TILE_BYTES, keys + first * stride, stride, length - first);
    copy_tile<KEYS, Shape::THREADS>(value_tiles + (block & 1) * Shape::TILE_BYTES, values + first * stride, stride, length - first);
    commit_async();
  };
  copy_tile<Shape::QUERIES, Shape::THREADS>(query_tile, queries + query0 * stride, stride, length - query0);
  copy_keys(0);

  // Scores are kept in units of 1 / scale, so that scaling and the change of base are one multiplication in the exponent.
  const float slope = a.slopes[head] / a.scale, to_log2 = a.scale * LOG2_E;
  const int row0 = warp * ROW_TILES * 16;  // this warp's first row within the block
  const bool working = query0 + row0 < length;
  // Sums of the weights as they are and, without dropout, as bf16 has them, which is how they multiply the values: divided by
  // the latter, a part that all values have in common passes through unchanged.
  float out[ROW_TILES][8][4], largest[ROW_TILES][2], sum[ROW_TILES][2], rounded_sum[ROW_TILES][4];
  u32 query[ROW_TILES][4][4];
#pragma unroll
  for (int m = 0; m < ROW_TILES; m++) {
    largest[m][0] = largest[m][1] = -FAR, sum[m][0] = sum[m][1] = 0.f;
    rounded_sum[m][0] = rounded_sum[m][1] = rounded_sum[m][2] = rounded_sum[m][3] = 0.f;
#pragma unroll
    for (int j = 0; j < 8; j++) out[m][j][0] = out[m][j][1] = out[m][j][2] = out[m][j][3] = 0.f;
  }

  const int blocks = (length + KEYS - 1) / KEYS;
  for (int block = 0; block < blocks; block++) {
    const int key0 = block * KEYS;
    if (block + 1 < blocks) {
      copy_keys(block + 1);
      wait_async<1>();
    } else {
      wait_async<0>();
    }
    sync_block();
    if (working) {
      const u32 key_tile = key_tiles + (block & 1) * Shape::TILE_BYTES, value_tile = value_tiles + (block & 1) * Shape::TILE_BYTES;
      if (block == 0) {
#pragma unroll
        for (int m = 0; m < ROW_TILES; m++)
#pragma unroll
          for (int k = 0; k < 4; k++)
            load_matrices(query[m][k], query_tile + tile_offset(row0 + m * 16 + left_row(lane), k * 2 + left_chunk(lane)));
      }
      float score[ROW_TILES][COLUMN_TILES][4];
#pragma unroll
      for (int m = 0; m < ROW_TILES; m++)
#pragma unroll
        for (int j = 0; j < COLUMN_TILES; j++) score[m][j][0] = score[m][j][1] = score[m][j][2] = score[m][j][3] = 0.f;
#pragma unroll
      for (int j = 0; j < COLUMN_TILES / 2; j++)
#pragma unroll
        for (int k = 0; k < 4; k++) {
          u32 key[4];
          load_matrices(key, key_tile + tile_offset(j * 16 + right_row(lane), k * 2 + right_chunk(lane)));
#pragma unroll
          for (int m = 0; m < ROW_TILES; m++) {
            multiply_accumulate(score[m][2 * j], query[m][k], key[0], key[1]);
            multiply_accumulate(score[m][2 * j + 1], query[m][k], key[2], key[3]);
          }
        }
#pragma unroll
      for (int m = 0; m < ROW_TILES; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
          // slope * (query - key) of this lane's column 0; each further column takes one multiply-add.
          const float distance0 = slope * (float)(query0 + row0 + m * 16 + group + half * 8 - key0 - pair * 2);
#pragma unroll
          for (int j = 0; j < COLUMN_TILES; j++)
#pragma unroll
            for (int e = 0; e < 2; e++) score[m][j][half * 2 + e] -= fabsf(distance0 - slope * (float)(j * 8 + e));
          if (key0 + KEYS > length) {
#pragma unroll
            for (int j = 0; j < COLUMN_TILES; j++)
#pragma unroll
              for (int e = 0; e < 2; e++)
                if (key0 + j * 8 + pair * 2 + e >= length) score[m][j][half * 2 + e] = -FAR;
          }
          float peak = largest[m][half];
#pragma unroll
          for (int j = 0; j < COLUMN_TILES; j++)
#pragma unroll
            for (int e = 0; e < 2; e++) peak = fmaxf(peak, score[m][j][half * 2 + e]);
          peak = fmaxf(peak, exchange(peak, 1));
          peak = fmaxf(peak, exchange(peak, 2));
          const float shrink = exp2_fast((largest[m][half] - peak) * to_log2), offset = peak * to_log2;
          largest[m][half] = peak;
          float total = sum[m][half] * shrink;
          if (block) {
#pragma unroll
            for (int j = 0; j < 8; j++) out[m][j][half * 2] *= shrink, out[m][j][half * 2 + 1] *= shrink;
            rounded_sum[m][half * 2] *= shrink;
          }
#pragma unroll
          for (int j = 0; j < COLUMN_TILES; j++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
              float p = exp2_fast(score[m][j][half * 2 + e] * to_log2 - offset);
              score[m][j][half * 2 + e] = p;
              total += p;
            }
          sum[m][half] = total;
        }
      if (DROPOUT) {
        static_assert(KEYS % 32 == 0, "a group of random numbers reaches over 32 keys");
#pragma unroll
        for (int m = 0; m < ROW_TILES; m++)
#pragma unroll
          for (int j = 0; j < COLUMN_TILES; j += 4)
#pragma unroll
            for (int e = 0; e < 2; e++) {
              const int row = start + query0 + row0 + m * 16 + group;
              const u32 kept = kept_probabilities(a.dropout, head, row, key0 + j * 8 + pair * 2 + e);
#pragma unroll
              for (int half = 0; half < 2; half++)
#pragma unroll
                for (int b = 0; b < 4; b++)
                  if (!(kept >> (half * 4 + b) & 1)) score[m][j + b][half * 2 + e] = 0.f;
            }
      }
#pragma unroll
      for (int k = 0; k < KEYS / 16; k++) {
        u32 weight[ROW_TILES][4];
#pragma unroll
        for (int m = 0; m < ROW_TILES; m++)
#pragma unroll
          for (int h = 0; h < 2; h++) {
            weight[m][2 * h] = pack(score[m][2 * k + h][0], score[m][2 * k + h][1]);
            weight[m][2 * h + 1] = pack(score[m][2 * k + h][2], score[m][2 * k + h][3]);
          }
        const u32 ones = 0x3f803f80u;
        if (!DROPOUT) {
#pragma unroll
          for (int m = 0; m < ROW_TILES; m++) multiply_accumulate(rounded_sum[m], weight[m], ones, ones);
        }
#pragma unroll
        for (int j = 0; j < 4; j++) {
          u32 value[4];
          load_matrices_transposed(value, value_tile + tile_offset(k * 16 + left_row(lane), j * 2 + left_chunk(lane)));
#pragma unroll
          for (int m = 0; m < ROW_TILES; m++) {
            multiply_accumulate(out[m][2 * j], weight[m], value[0], value[1]);
            multiply_accumulate(out[m][2 * j + 1], weight[m], value[2], value[3]);
          }
        }
      }
    }
    sync_block();
  }
  if (!working) return;

#pragma unroll
  for (int m = 0; m < ROW_TILES; m++) {
    const int first = query0 + row0 + m * 16;
    float inverse[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float total = sum[m][half];
      total += exchange(total, 1);
      total += exchange(total, 2);
      inverse[half] = DROPOUT ? a.dropout.scale / total : 1.f / rounded_sum[m][half * 2];
      const int row = first + group + half * 8;
      if (pair == 0 && row < length) a.lse[(long)head * a.tokens + start + row] = largest[m][half] * to_log2 + log2_fast(total);
    }
    // The block's query tile is done with, and each warp writes only its own rows of it.
    const long at = ((long)(start + first) * a.heads + head) * HEAD_DIM, out_stride = (long)a.heads * HEAD_DIM;
    store_rows(shared, row0 + m * 16, out[m], inverse[0], inverse[1], a.out + at, out_stride, length - first);
    store_lost(shared, row0 + m * 16, out[m], inverse[0], inverse[1], a.lost + at, out_stride, length - first);
  }
}

// Measured on an H200 against 128 queries a block, 32 rows a warp, and blocks of 32 and 128 keys: this shape was the
// fastest of the forward pass at 128 and at 512 tokens, at 4096 within 4 % of the fastest.
typedef ForwardShape<4, 1, 64> Forward;
KERNEL(Forward::THREADS, 4) attention_forward(AttentionForward a) {
  SHARED_MEMORY(shared);
  attention_forward<4, 1, 64, false>(a, shared);
}
KERNEL(Forward::THREADS, 3) attention_forward_dropout(AttentionForward a) {
  SHARED_MEMORY(shared);
  attention_forward<4, 1, 64, true>(a, shared);
}
