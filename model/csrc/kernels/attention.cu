// Self-attention over packed sequences with symmetric ALiBi, forward and backward, head dimension 64.
//
//   scores[h, i, j] = scale * <q_i, k_j> - slope_h * |i - j|        within one sequence
//   out[h, i]       = sum_j softmax_j(scores[h, i, .])_j v_j
//
// Sequences of any length lie one behind the other: sequence s is rows cu[s] … cu[s + 1] of
//   qkv [T, 3, H, 64] bf16, out and d_out [T, H, 64] bf16, lse [H, T] float (base-2 logarithm of the softmax sums).
// Nothing of size length^2 reaches memory. The forward pass is the online softmax of FlashAttention (Dao et al. 2022;
// Dao 2023); the backward pass recomputes the probabilities from lse. It lets one block own one (sequence, head) and walk
// over the blocks of keys, so that the gradient of q is summed in a fixed order: no atomics, and the same bits each run.
// ALiBi: Press, Smith, Lewis 2022, in its symmetric form for encoders.
#include "device.cuh"

struct AttentionForward {
  const bf16* qkv;
  bf16* out;
  float* lse;
  const int* cu;        // [sequences + 1]
  const float* slopes;  // [H]
  int heads, tokens;
  float scale;
};

struct AttentionBackward {
  const bf16* qkv;
  const bf16* out;
  const bf16* d_out;
  const float* lse;
  bf16* d_qkv;
  float* d_query_sums;  // [T, H, 64]; used where a sequence is longer than one block of keys, else may be null
  float* d_query_bias;  // [sequences, H, 64]: d_query summed over each sequence; those of empty sequences stay
  const int* cu;
  const float* slopes;
  int heads, tokens;
  float scale;
  int longest;  // of all sequences, rounded up to a multiple of QUERY_BLOCK; shared memory: ROWS_AT + 8 * longest bytes
};

constexpr int HEAD_DIM = 64;
constexpr int QUERY_BLOCK = 64;  // queries a step of the backward pass
constexpr float FAR = 1e30f;  // a distance, or a logarithm, beyond which probabilities vanish

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

// ---- forward --------------------------------------------------------------------------------------------------------

// One block computes WARPS * ROW_TILES * 16 queries of one head; keys and values pass by in blocks of KEYS, the next one
// under way while one is worked on. grid = (blocks of queries of the longest sequence, heads, sequences).
template <int WARPS, int ROW_TILES, int KEYS> struct ForwardShape {
  static constexpr int THREADS = WARPS * 32, QUERIES = WARPS * ROW_TILES * 16;
  static constexpr int TILE_BYTES = KEYS * TILE_ROW_BYTES;
  static constexpr int SHARED_BYTES = QUERIES * TILE_ROW_BYTES + 4 * TILE_BYTES;
};

template <int WARPS, int ROW_TILES, int KEYS>
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
  float out[ROW_TILES][8][4], largest[ROW_TILES][2], sum[ROW_TILES][2];
  u32 query[ROW_TILES][4][4];
#pragma unroll
  for (int m = 0; m < ROW_TILES; m++) {
    largest[m][0] = largest[m][1] = -FAR, sum[m][0] = sum[m][1] = 0.f;
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
      inverse[half] = 1.f / total;
      const int row = first + group + half * 8;
      if (pair == 0 && row < length) a.lse[(long)head * a.tokens + start + row] = largest[m][half] * to_log2 + log2_fast(total);
    }
    // The block's query tile is done with, and each warp writes only its own rows of it.
    store_rows(shared, row0 + m * 16, out[m], inverse[0], inverse[1],
               a.out + ((long)(start + first) * a.heads + head) * HEAD_DIM, (long)a.heads * HEAD_DIM, length - first);
  }
}

// ---- backward -------------------------------------------------------------------------------------------------------

// One block owns one (sequence, head): grid = (heads, sequences). It walks over blocks of KEYS = WARPS * KEY_TILES * 16
// keys, whose gradients stay in registers (a warp owns KEY_TILES * 16 keys), and within each over steps of 64 queries:
//   P^T  = exp2(K Q^T - |distance| - lse)   and   dS^T = P^T (V dO^T - delta)     a warp: its keys x 32 queries, twice
//   dV  += P^T dO,   dK += dS^T Q                                                  a warp: its keys, in registers
//   dQ   = dS K                                                                    all warps, over dS^T in shared memory
// with delta_i = <dO_i, O_i>. One barrier a step: the tiles of two steps' queries and dS^T are double-buffered. Sequences
// of at most 2 * 64 queries are thus loaded whole before the first step.
// The gradient of the bias of the queries, their sum over tokens, comes along as (sum_i dS_ij) K_j. (That of the keys' bias
// is zero, because the rows of dS sum to zero; that of the values' is the sum of dO, because the rows of P sum to one.)
template <int WARPS, int KEY_TILES> struct BackwardShape {
  static constexpr int THREADS = WARPS * 32, KEYS = WARPS * KEY_TILES * 16;
  static constexpr int KEY_BYTES = KEYS * TILE_ROW_BYTES, QUERY_BYTES = QUERY_BLOCK * TILE_ROW_BYTES;
  static constexpr int SCORE_BYTES = KEYS * TILE_ROW_BYTES;  // dS^T: a row a key, 64 queries
  // keys, values | queries and d_out, twice | dS^T, twice | staging of dQ | lse and delta of the whole sequence
  static constexpr int QUERIES_AT = 2 * KEY_BYTES, SCORES_AT = QUERIES_AT + 4 * QUERY_BYTES;
  static constexpr int STAGING_AT = SCORES_AT + 2 * SCORE_BYTES, ROWS_AT = STAGING_AT + QUERY_BYTES;
};

// delta and lse of every query of a sequence, eight lanes a row, four rows of each lane under way at once. Past the end,
// lse is so large that probabilities vanish.
template <int THREADS>
DEVICE void prepare_rows(float* delta, float* lse, const bf16* out, const bf16* d_out, long stride, const float* from_lse,
                         int length, int rows) {
  constexpr int PASS = THREADS / 8;
  const int chunk = threadIdx.x & 7;
  for (int row0 = threadIdx.x >> 3; row0 < rows; row0 += 4 * PASS) {
    uint4 x[4], y[4];
    float row_lse[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const int row = row0 + i * PASS < length ? row0 + i * PASS : length - 1;
      x[i] = load16(out + row * stride + chunk * 8);
      y[i] = load16(d_out + row * stride + chunk * 8);
      row_lse[i] = from_lse[row];
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const int row = row0 + i * PASS;
      float a[8], b[8], sum = 0.f;
      unpack8(a, x[i]);
      unpack8(b, y[i]);
#pragma unroll
      for (int e = 0; e < 8; e++) sum += a[e] * b[e];
      sum += exchange(sum, 1);
      sum += exchange(sum, 2);
      sum += exchange(sum, 4);
      if (chunk == 0 && row < rows) {
        delta[row] = sum;
        lse[row] = row < length ? row_lse[i] : FAR;
      }
    }
  }
}

template <int WARPS, int KEY_TILES>
DEVICE void attention_backward(const AttentionBackward& a, unsigned char* shared) {
  typedef BackwardShape<WARPS, KEY_TILES> Shape;
  constexpr int THREADS = Shape::THREADS, KEYS = Shape::KEYS;
  // The warps split the 64 x 64 block of dQ in WARPS / 2 bands of queries x 2 halves of columns.
  constexpr int BAND_TILES = 8 / WARPS;
  static_assert(WARPS == 4 || WARPS == 8, "a band is a whole number of 16 x 16 tiles");
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, group = lane >> 2, pair = lane & 3;
  const int head = blockIdx.x, start = a.cu[blockIdx.y], length = a.cu[blockIdx.y + 1] - start;
  if (length <= 0) return;
  const long stride = 3L * a.heads * HEAD_DIM, out_stride = (long)a.heads * HEAD_DIM;
  const bf16* queries = a.qkv + start * stride + head * HEAD_DIM;
  const bf16* keys = queries + out_stride;
  const bf16* values = keys + out_stride;
  const bf16* d_out = a.d_out + start * out_stride + head * HEAD_DIM;
  const u32 key_tile = shared_address(shared), value_tile = key_tile + Shape::KEY_BYTES;
  const u32 query_tiles = key_tile + Shape::QUERIES_AT, d_out_tiles = query_tiles + 2 * Shape::QUERY_BYTES;
  float* lse = (float*)(shared + Shape::ROWS_AT);
  float* delta = lse + a.longest;
  const int steps = (length + QUERY_BLOCK - 1) / QUERY_BLOCK;

  auto copy_keys = [&](int key0) {
    copy_tile<KEYS, THREADS>(key_tile, keys + key0 * stride, stride, length - key0);
    copy_tile<KEYS, THREADS>(value_tile, values + key0 * stride, stride, length - key0);
  };
  auto copy_queries = [&](int step) {
    const int first = step * QUERY_BLOCK;
    if (step < steps) {
      copy_tile<QUERY_BLOCK, THREADS>(query_tiles + (step & 1) * Shape::QUERY_BYTES, queries + first * stride, stride, length - first);
      copy_tile<QUERY_BLOCK, THREADS>(d_out_tiles + (step & 1) * Shape::QUERY_BYTES, d_out + first * out_stride, out_stride, length - first);
    }
    commit_async();
  };
  const bf16* out = a.out + start * out_stride + head * HEAD_DIM;
  const float* from_lse = a.lse + (long)head * a.tokens + start;
  copy_keys(0);
  if (steps <= 2) {
    // The whole sequence is on its way: delta comes from the tiles, with that of `out` where dS^T will be.
    static_assert(2 * Shape::SCORE_BYTES >= 2 * Shape::QUERY_BYTES && THREADS >= 2 * QUERY_BLOCK, "a thread a row");
    copy_tile<2 * QUERY_BLOCK, THREADS>(key_tile + Shape::SCORES_AT, out, out_stride, length);
    copy_queries(0);
    copy_queries(1);
    const int row = threadIdx.x;
    const float row_lse = row < length ? from_lse[row] : FAR;
    wait_async<0>();
    sync_block();
    if (row < steps * QUERY_BLOCK) {
      float sum = 0.f;
#pragma unroll
      for (int chunk = 0; chunk < 8; chunk++) {
        float x[8], y[8];
        unpack8(x, load16(shared + Shape::SCORES_AT + tile_offset(row, chunk)));
        unpack8(y, load16(shared + Shape::QUERIES_AT + 2 * Shape::QUERY_BYTES + tile_offset(row, chunk)));
#pragma unroll
        for (int e = 0; e < 8; e++) sum += x[e] * y[e];
      }
      delta[row] = sum, lse[row] = row_lse;
    }
  } else {
    copy_queries(0);
    copy_queries(1);
    prepare_rows<THREADS>(delta, lse, out, d_out, out_stride, from_lse, length, steps * QUERY_BLOCK);
  }

  const float slope = a.slopes[head] / a.scale, to_log2 = a.scale * LOG2_E;
  const int warp_row0 = warp * KEY_TILES * 16;
  const int band_row = (warp >> 1) * BAND_TILES * 16, band_chunk = (warp & 1) * 4;  // this warp's share of dQ
  for (int key0 = 0; key0 < length; key0 += KEYS) {
    if (key0) {
      sync_block();  // the gradients of the previous keys have left the tiles
      copy_keys(key0);
      copy_queries(0);
      copy_queries(1);
    }
    float d_key[KEY_TILES][8][4], d_value[KEY_TILES][8][4], key_sum[KEY_TILES][2];
#pragma unroll
    for (int m = 0; m < KEY_TILES; m++) {
      key_sum[m][0] = key_sum[m][1] = 0.f;
#pragma unroll
      for (int j = 0; j < 8; j++)
#pragma unroll
        for (int e = 0; e < 4; e++) d_key[m][j][e] = d_value[m][j][e] = 0.f;
    }
    const int here = length - key0 < KEYS ? length - key0 : KEYS;  // keys of this block
    const bool first_keys = key0 == 0, last_keys = key0 + KEYS >= length;
    wait_async<1>();
    sync_block();

    for (int step = 0; step < steps; step++) {
      const u32 query_tile = query_tiles + (step & 1) * Shape::QUERY_BYTES, d_out_tile = d_out_tiles + (step & 1) * Shape::QUERY_BYTES;
      unsigned char* scores = shared + Shape::SCORES_AT + (step & 1) * Shape::SCORE_BYTES;
      if (warp_row0 < here) {
#pragma unroll 1
        for (int part = 0; part < 2; part++) {  // 32 of the step's queries
          const int row0 = part * 32, query0 = step * QUERY_BLOCK + row0;
          if (query0 >= length) {  // no such queries, but the product below reads the whole of dS^T
#pragma unroll
            for (int m = 0; m < KEY_TILES; m++)
#pragma unroll
              for (int j = 0; j < 4; j++) {
                const int row = warp_row0 + m * 16 + group;
                *(u32*)(scores + tile_offset(row, part * 4 + j) + pair * 4) = 0;
                *(u32*)(scores + tile_offset(row + 8, part * 4 + j) + pair * 4) = 0;
              }
            break;
          }
          float p[KEY_TILES][4][4], ds[KEY_TILES][4][4];
#pragma unroll
          for (int m = 0; m < KEY_TILES; m++)
#pragma unroll
            for (int j = 0; j < 4; j++)
#pragma unroll
              for (int e = 0; e < 4; e++) p[m][j][e] = ds[m][j][e] = 0.f;
#pragma unroll
          for (int k = 0; k < 4; k++) {
            u32 left[KEY_TILES][4], right[4];
#pragma unroll
            for (int m = 0; m < KEY_TILES; m++)
              load_matrices(left[m], key_tile + tile_offset(warp_row0 + m * 16 + left_row(lane), k * 2 + left_chunk(lane)));
#pragma unroll
            for (int j = 0; j < 2; j++) {
              load_matrices(right, query_tile + tile_offset(row0 + j * 16 + right_row(lane), k * 2 + right_chunk(lane)));
#pragma unroll
              for (int m = 0; m < KEY_TILES; m++) {
                multiply_accumulate(p[m][2 * j], left[m], right[0], right[1]);
                multiply_accumulate(p[m][2 * j + 1], left[m], right[2], right[3]);
              }
            }
#pragma unroll
            for (int m = 0; m < KEY_TILES; m++)
              load_matrices(left[m], value_tile + tile_offset(warp_row0 + m * 16 + left_row(lane), k * 2 + left_chunk(lane)));
#pragma unroll
            for (int j = 0; j < 2; j++) {
              load_matrices(right, d_out_tile + tile_offset(row0 + j * 16 + right_row(lane), k * 2 + right_chunk(lane)));
#pragma unroll
              for (int m = 0; m < KEY_TILES; m++) {
                multiply_accumulate(ds[m][2 * j], left[m], right[0], right[1]);
                multiply_accumulate(ds[m][2 * j + 1], left[m], right[2], right[3]);
              }
            }
          }
          float2 row_lse[4], row_delta[4];
#pragma unroll
          for (int j = 0; j < 4; j++) {
            row_lse[j] = *(const float2*)(lse + query0 + j * 8 + pair * 2);
            row_delta[j] = *(const float2*)(delta + query0 + j * 8 + pair * 2);
          }
          u32 p_left[KEY_TILES][2][4], ds_left[KEY_TILES][2][4];
#pragma unroll
          for (int m = 0; m < KEY_TILES; m++) {
#pragma unroll
            for (int half = 0; half < 2; half++) {
              const int key = warp_row0 + m * 16 + group + half * 8;
              // Keys past the end are put so far away that their probabilities vanish.
              const float distance0 = key < here ? slope * (float)(key0 + key - query0 - pair * 2) : FAR;
#pragma unroll
              for (int j = 0; j < 4; j++)
#pragma unroll
                for (int e = 0; e < 2; e++) {
                  const float distance = distance0 - slope * (float)(j * 8 + e), x = p[m][j][half * 2 + e] - fabsf(distance);
                  const float probability = exp2_fast(x * to_log2 - (e ? row_lse[j].y : row_lse[j].x));
                  const float d_score = probability * (ds[m][j][half * 2 + e] - (e ? row_delta[j].y : row_delta[j].x));
                  p[m][j][half * 2 + e] = probability;
                  ds[m][j][half * 2 + e] = d_score;
                  key_sum[m][half] += d_score;
                }
            }
#pragma unroll
            for (int j = 0; j < 4; j++) {
              const int row = warp_row0 + m * 16 + group, k = j >> 1, h = j & 1;
              p_left[m][k][2 * h] = pack(p[m][j][0], p[m][j][1]), p_left[m][k][2 * h + 1] = pack(p[m][j][2], p[m][j][3]);
              ds_left[m][k][2 * h] = pack(ds[m][j][0], ds[m][j][1]), ds_left[m][k][2 * h + 1] = pack(ds[m][j][2], ds[m][j][3]);
              *(u32*)(scores + tile_offset(row, part * 4 + j) + pair * 4) = ds_left[m][k][2 * h];
              *(u32*)(scores + tile_offset(row + 8, part * 4 + j) + pair * 4) = ds_left[m][k][2 * h + 1];
            }
          }
#pragma unroll
          for (int k = 0; k < 2; k++)
#pragma unroll
            for (int j = 0; j < 4; j++) {
              const u32 at = tile_offset(row0 + k * 16 + left_row(lane), j * 2 + left_chunk(lane));
              u32 right[4];
              load_matrices_transposed(right, d_out_tile + at);
#pragma unroll
              for (int m = 0; m < KEY_TILES; m++) {
                multiply_accumulate(d_value[m][2 * j], p_left[m][k], right[0], right[1]);
                multiply_accumulate(d_value[m][2 * j + 1], p_left[m][k], right[2], right[3]);
              }
              load_matrices_transposed(right, query_tile + at);
#pragma unroll
              for (int m = 0; m < KEY_TILES; m++) {
                multiply_accumulate(d_key[m][2 * j], ds_left[m][k], right[0], right[1]);
                multiply_accumulate(d_key[m][2 * j + 1], ds_left[m][k], right[2], right[3]);
              }
            }
        }
      }
      // After this barrier: dS^T of this step and the next step's tiles are there, and this step's tiles are free.
      wait_async<0>();
      sync_block();
      copy_queries(step + 2);

      const int query0 = step * QUERY_BLOCK + band_row;
      if (query0 >= length) continue;
      float d_query[BAND_TILES][4][4];
      float* sums = a.d_query_sums + ((long)(start + query0 + group) * a.heads + head) * HEAD_DIM + band_chunk * 8 + pair * 2;
#pragma unroll
      for (int m = 0; m < BAND_TILES; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
          const int row = m * 16 + half * 8;
          const bool resume = !first_keys && query0 + group + row < length;
#pragma unroll
          for (int j = 0; j < 4; j++) {
            float2 v;
            v.x = v.y = 0.f;
            if (resume) v = *(const float2*)(sums + row * out_stride + j * 8);
            d_query[m][j][half * 2] = v.x, d_query[m][j][half * 2 + 1] = v.y;
          }
        }
      const u32 score_tile = shared_address(scores);
      const int key_steps = (here + 15) >> 4;
#pragma unroll 2
      for (int k = 0; k < key_steps; k++) {
        u32 left[BAND_TILES][4], right[2][4];
#pragma unroll
        for (int m = 0; m < BAND_TILES; m++)
          load_matrices_transposed(left[m], score_tile + tile_offset(k * 16 + right_row(lane), (band_row >> 3) + m * 2 + right_chunk(lane)));
#pragma unroll
        for (int j = 0; j < 2; j++)
          load_matrices_transposed(right[j], key_tile + tile_offset(k * 16 + left_row(lane), band_chunk + j * 2 + left_chunk(lane)));
#pragma unroll
        for (int m = 0; m < BAND_TILES; m++)
#pragma unroll
          for (int j = 0; j < 2; j++) {
            multiply_accumulate(d_query[m][2 * j], left[m], right[j][0], right[j][1]);
            multiply_accumulate(d_query[m][2 * j + 1], left[m], right[j][2], right[j][3]);
          }
      }
      if (last_keys) {
        unsigned char* staging = shared + Shape::STAGING_AT;
#pragma unroll
        for (int m = 0; m < BAND_TILES; m++)
#pragma unroll
          for (int half = 0; half < 2; half++)
#pragma unroll
            for (int j = 0; j < 4; j++)
              *(u32*)(staging + tile_offset(band_row + m * 16 + half * 8 + group, band_chunk + j) + pair * 4) =
                  pack(d_query[m][j][half * 2] * a.scale, d_query[m][j][half * 2 + 1] * a.scale);
        sync_warp();
#pragma unroll
        for (int i = 0; i < 2 * BAND_TILES; i++) {
          const int row = i * 8 + (lane >> 2), chunk = band_chunk + pair;
          if (query0 + row < length)
            store16(a.d_qkv + (start + query0 + row) * stride + head * HEAD_DIM + chunk * 8,
                    load16(staging + tile_offset(band_row + row, chunk)));
        }
      } else {
#pragma unroll
        for (int m = 0; m < BAND_TILES; m++)
#pragma unroll
          for (int half = 0; half < 2; half++) {
            const int row = m * 16 + half * 8;
            if (query0 + group + row >= length) continue;
#pragma unroll
            for (int j = 0; j < 4; j++) {
              float2 v;
              v.x = d_query[m][j][half * 2], v.y = d_query[m][j][half * 2 + 1];
              *(float2*)(sums + row * out_stride + j * 8) = v;
            }
          }
      }
    }

    sync_block();  // dQ has been read off the tiles: from here each warp works on its own rows of them
    float* bias_parts = (float*)(shared + Shape::STAGING_AT);  // [WARPS][64]: each warp's (sum of dS) K
    if (warp_row0 < here) {
      float own_sum[KEY_TILES][2], first = 0.f, second = 0.f;
#pragma unroll
      for (int m = 0; m < KEY_TILES; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
          own_sum[m][half] = key_sum[m][half] + exchange(key_sum[m][half], 1);
          own_sum[m][half] += exchange(own_sum[m][half], 2);
        }
      // A lane takes two columns; the sum of key r comes from the lanes that hold it.
      for (int r = 0; r < 8; r++)
#pragma unroll
        for (int m = 0; m < KEY_TILES; m++)
#pragma unroll
          for (int half = 0; half < 2; half++) {
            const int row = warp_row0 + m * 16 + half * 8 + r;
            const float weight = broadcast(own_sum[m][half], r * 4);
            const u32 key = *(const u32*)(shared + tile_offset(row, lane >> 2) + pair * 4);
            first += weight * low_half(key), second += weight * high_half(key);
          }
      bias_parts[warp * HEAD_DIM + lane * 2] = first, bias_parts[warp * HEAD_DIM + lane * 2 + 1] = second;
      sync_warp();
#pragma unroll
      for (int m = 0; m < KEY_TILES; m++) {
        const int row = warp_row0 + m * 16;
        bf16* to = a.d_qkv + (start + key0 + row) * stride + out_stride + head * HEAD_DIM;
        store_rows(shared, row, d_key[m], a.scale, a.scale, to, stride, here - row);
        store_rows(shared + Shape::KEY_BYTES, row, d_value[m], 1.f, 1.f, to + out_stride, stride, here - row);
      }
    }
    sync_block();
    if (threadIdx.x < HEAD_DIM) {
      float* bias = a.d_query_bias + ((long)blockIdx.y * a.heads + head) * HEAD_DIM + threadIdx.x;
      float sum = 0.f;
      for (int w = 0; w * KEY_TILES * 16 < here; w++) sum += bias_parts[w * HEAD_DIM + threadIdx.x];
      *bias = sum * a.scale + (first_keys ? 0.f : *bias);
    }
  }
}

// ---- entry points ---------------------------------------------------------------------------------------------------

// Measured on an H200 against 128 queries a block, 32 rows a warp, and blocks of 32 and 128 keys: this shape was the
// fastest of the forward pass at 128 and at 512 tokens, at 4096 within 4 % of the fastest.
typedef ForwardShape<4, 1, 64> Forward;
KERNEL(Forward::THREADS, 4) attention_forward(AttentionForward a) {
  SHARED_MEMORY(shared);
  attention_forward<4, 1, 64>(a, shared);
}

// For sequences of up to 128 tokens, whose keys are one block; right for any length.
typedef BackwardShape<4, 2> BackwardShort;
KERNEL(BackwardShort::THREADS, 2) attention_backward_short(AttentionBackward a) {
  SHARED_MEMORY(shared);
  attention_backward<4, 2>(a, shared);
}

// Faster on longer sequences: dQ passes through memory once for 256 keys. Takes 168 KiB of shared memory and more.
typedef BackwardShape<8, 2> BackwardLong;
KERNEL(BackwardLong::THREADS, 1) attention_backward_long(AttentionBackward a) {
  SHARED_MEMORY(shared);
  attention_backward<8, 2>(a, shared);
}
