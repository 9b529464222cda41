// The backward pass of attention.cuh.
#include "attention.cuh"

struct AttentionBackward {
  const bf16* qkv;
  const bf16* out;
  const unsigned char* lost;
  const bf16* d_out;
  const float* lse;
  bf16* d_qkv;
  float* d_query_sums;  // [T, H, 64]; used where a sequence is longer than one block of keys, else may be null
  float* d_query_bias;  // [sequences, H, 64]: d_query summed over each sequence
  const int* cu;
  const float* slopes;
  int heads, tokens;
  float scale;
  int longest;  // of all sequences, rounded up to a multiple of QUERY_BLOCK; shared memory: ROWS_AT + 8 * longest bytes
  Dropout dropout;  // of the kernels with dropout
};

constexpr int QUERY_BLOCK = 64;  // queries a step of the backward pass

// One block owns one (sequence, head): grid = (heads, sequences). It walks over blocks of KEYS = WARPS * KEY_TILES * 16
// keys, whose gradients stay in registers (a warp owns KEY_TILES * 16 keys), and within each over steps of 64 queries:
//   P^T  = exp2(K Q^T - |distance| - lse)   and   dS^T = P^T (V dO^T - delta)     a warp: its keys x 32 queries, twice
//   dV  += P^T dO,   dK += dS^T Q                                                  a warp: its keys, in registers
//   dQ   = dS K                                                                    all warps, over dS^T in shared memory
// with delta_i = <dO_i, O_i>. Where tokens are much alike, dS is a small difference whose rows sum to zero in exact arithmetic,
// and an error of delta, times what all keys or all queries have in common, would be most of the gradient: with O as bf16 has
// it, 13 % of dQ was seen to be wrong, and as much of the gradient of the keys' weights. So O is taken with the bits that its
// rounding lost. One barrier a step: the tiles of two steps' queries and dS^T are double-buffered. Sequences
// of at most 2 * 64 queries are thus loaded whole before the first step. With dropout, whose factors F are drawn again,
//   dV += (F P)^T dO   and   dS = P (F dO V^T - delta),   and delta is the same sum.
// The gradient of the bias of the queries, their sum over tokens, comes along as (sum_i dS_ij) K_j. (That of the keys' bias
// is zero, because the rows of dS sum to zero; that of the values' is without dropout the sum of dO, because the rows of P
// sum to one, and else the sum of dV.)
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
DEVICE void prepare_rows(float* delta, float* lse, const bf16* out, const unsigned char* lost, const bf16* d_out, long stride,
                         const float* from_lse, int length, int rows) {
  constexpr int PASS = THREADS / 8;
  const int chunk = threadIdx.x & 7;
  for (int row0 = threadIdx.x >> 3; row0 < rows; row0 += 4 * PASS) {
    uint4 x[4], y[4];
    uint2 z[4];
    float row_lse[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const int row = row0 + i * PASS < length ? row0 + i * PASS : length - 1;
      x[i] = load16(out + row * stride + chunk * 8);
      z[i] = load8(lost + row * stride + chunk * 8);
      y[i] = load16(d_out + row * stride + chunk * 8);
      row_lse[i] = from_lse[row];
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const int row = row0 + i * PASS;
      float a[8], b[8], sum = 0.f;
      unpack8(a, x[i], z[i]);
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

template <int WARPS, int KEY_TILES, bool DROPOUT>
DEVICE void attention_backward(const AttentionBackward& a, unsigned char* shared) {
  typedef BackwardShape<WARPS, KEY_TILES> Shape;
  constexpr int THREADS = Shape::THREADS, KEYS = Shape::KEYS;
  // The warps split the 64 x 64 block of dQ in WARPS / 2 bands of queries x 2 halves of columns.
  constexpr int BAND_TILES = 8 / WARPS;
  static_assert(WARPS == 4 || WARPS == 8, "a band is a whole number of 16 x 16 tiles");
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, group = lane >> 2, pair = lane & 3;
  const int head = blockIdx.x, start = a.cu[blockIdx.y], length = a.cu[blockIdx.y + 1] - start;
  float* query_bias = a.d_query_bias + ((long)blockIdx.y * a.heads + head) * HEAD_DIM;
  if (length <= 0) {
    if (threadIdx.x < HEAD_DIM) query_bias[threadIdx.x] = 0.f;
    return;
  }
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
  const unsigned char* lost = a.lost + start * out_stride + head * HEAD_DIM;
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
    uint4 row_lost[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
      row_lost[i] = load16(lost + (row < length ? row : 0) * out_stride + i * 16);
      if (row >= length) row_lost[i].x = row_lost[i].y = row_lost[i].z = row_lost[i].w = 0;  // as `out` is in the tile
    }
    wait_async<0>();
    sync_block();
    if (row < steps * QUERY_BLOCK) {
      float sum = 0.f;
#pragma unroll
      for (int chunk = 0; chunk < 8; chunk++) {
        float x[8], y[8];
        uint2 z;
        z.x = chunk & 1 ? row_lost[chunk >> 1].z : row_lost[chunk >> 1].x, z.y = chunk & 1 ? row_lost[chunk >> 1].w : row_lost[chunk >> 1].y;
        unpack8(x, load16(shared + Shape::SCORES_AT + tile_offset(row, chunk)), z);
        unpack8(y, load16(shared + Shape::QUERIES_AT + 2 * Shape::QUERY_BYTES + tile_offset(row, chunk)));
#pragma unroll
        for (int e = 0; e < 8; e++) sum += x[e] * y[e];
      }
      delta[row] = sum, lse[row] = row_lse;
    }
  } else {
    copy_queries(0);
    copy_queries(1);
    prepare_rows<THREADS>(delta, lse, out, lost, d_out, out_stride, from_lse, length, steps * QUERY_BLOCK);
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
          u32 kept[2][2];  // of queries 16 and 16, even and odd
          if (DROPOUT) {
            static_assert(KEY_TILES == 2, "a group of random numbers reaches over 32 keys");
#pragma unroll
            for (int i = 0; i < 2; i++)
#pragma unroll
              for (int e = 0; e < 2; e++)
                kept[i][e] = kept_probabilities(a.dropout, head, start + query0 + i * 16 + pair * 2 + e, key0 + warp_row0 + group);
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
                  const bool keep = !DROPOUT || kept[j >> 1][e] >> ((j & 1) * 4 + m * 2 + half) & 1;
                  const float factor = DROPOUT ? keep ? a.dropout.scale : 0.f : 1.f;
                  const float d_score = probability * (ds[m][j][half * 2 + e] * factor - (e ? row_delta[j].y : row_delta[j].x));
                  p[m][j][half * 2 + e] = probability * factor;
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
        for (int m = 0; m < BAND_TILES; m++) {
#pragma unroll
          for (int j = 0; j < 2; j++) {
            multiply_accumulate(d_query[m][2 * j], left[m], right[j][0], right[j][1]);
            multiply_accumulate(d_query[m][2 * j + 1], left[m], right[j][2], right[j][3]);
          }
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
      float* bias = query_bias + threadIdx.x;
      float sum = 0.f;
      for (int w = 0; w * KEY_TILES * 16 < here; w++) sum += bias_parts[w * HEAD_DIM + threadIdx.x];
      *bias = sum * a.scale + (first_keys ? 0.f : *bias);
    }
  }
}

// For sequences of up to 128 tokens, whose keys are one block; right for any length.
typedef BackwardShape<4, 2> BackwardShort;
KERNEL(BackwardShort::THREADS, 2) attention_backward_short(AttentionBackward a) {
  SHARED_MEMORY(shared);
  attention_backward<4, 2, false>(a, shared);
}
KERNEL(BackwardShort::THREADS, 2) attention_backward_short_dropout(AttentionBackward a) {
  SHARED_MEMORY(shared);
  attention_backward<4, 2, true>(a, shared);
}

// Faster on longer sequences: dQ passes through memory once for 256 keys. Takes 168 KiB of shared memory and more.
typedef BackwardShape<8, 2> BackwardLong;
KERNEL(BackwardLong::THREADS, 1) attention_backward_long(AttentionBackward a) {
  SHARED_MEMORY(shared);
  attention_backward<8, 2, false>(a, shared);
}
KERNEL(BackwardLong::THREADS, 1) attention_backward_long_dropout(AttentionBackward a) {
  SHARED_MEMORY(shared);
  attention_backward<8, 2, true>(a, shared);
}
