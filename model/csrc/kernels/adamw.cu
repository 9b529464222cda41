// AdamW with decoupled weight decay (Loshchilov & Hutter 2019) in one pass over all parameters: fp32 master weights,
// their bf16 copies, both moments and the gradients.
//
//   m = b1 m + (1 - b1) g            v = b2 v + (1 - b2) g^2
//   p = p * keep - lr * m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + epsilon)
//
// with keep = 1 - decay. What depends on the gradients, whether there is an update and hence its number t, is read from
// device memory, so that the host need not wait for it. A block takes one piece of one tensor; the list of pieces lies in
// device memory and is made once.
#include "device.cuh"

struct AdamWPiece {
  float* parameter;
  float* gradient;
  float* first;   // m
  float* second;  // v
  bf16* copy;     // or null
  u64 count;
};

struct AdamW {
  const AdamWPiece* pieces;
  // [3]: what every gradient is multiplied by, 1 / (1 - b1^t) and 1 / sqrt(1 - b2^t). With a factor of zero, nothing
  // changes but the gradients.
  const float* control;
  float beta1, beta2, keep, learning_rate, epsilon;
  int clear_gradients;  // 1: zero them on the way
};

KERNEL(256, 4) adamw(AdamW a) {
  const AdamWPiece piece = a.pieces[blockIdx.x];
  const float factor = a.control[0], rate = a.learning_rate * a.control[1], inverse_bias2 = a.control[2];
  if (factor == 0.f) {
    if (!a.clear_gradients) return;
    for (u64 i = threadIdx.x; i < piece.count; i += 256) piece.gradient[i] = 0.f;
    return;
  }
  auto update = [&](float& p, float& g, float& m, float& v) {
    g *= factor;
    m = a.beta1 * m + (1.f - a.beta1) * g;
    v = a.beta2 * v + (1.f - a.beta2) * g * g;
    p = p * a.keep - rate * m / (sqrtf(v) * inverse_bias2 + a.epsilon);
  };
  const u64 quads = piece.count / 4;
  for (u64 i = threadIdx.x; i < quads; i += 256) {
    float4 p = ((float4*)piece.parameter)[i], g = ((float4*)piece.gradient)[i];
    float4 m = ((float4*)piece.first)[i], v = ((float4*)piece.second)[i];
    update(p.x, g.x, m.x, v.x), update(p.y, g.y, m.y, v.y), update(p.z, g.z, m.z, v.z), update(p.w, g.w, m.w, v.w);
    ((float4*)piece.parameter)[i] = p, ((float4*)piece.first)[i] = m, ((float4*)piece.second)[i] = v;
    if (piece.copy) {
      uint2 low;
      low.x = pack(p.x, p.y), low.y = pack(p.z, p.w);
      ((uint2*)piece.copy)[i] = low;
    }
    if (a.clear_gradients) g.x = g.y = g.z = g.w = 0.f, ((float4*)piece.gradient)[i] = g;
  }
  for (u64 i = quads * 4 + threadIdx.x; i < piece.count; i += 256) {
    float p = piece.parameter[i], g = piece.gradient[i], m = piece.first[i], v = piece.second[i];
    update(p, g, m, v);
    piece.parameter[i] = p, piece.first[i] = m, piece.second[i] = v;
    if (piece.copy) piece.copy[i] = (bf16)(pack(p, p) & 0xffffu);
    if (a.clear_gradients) piece.gradient[i] = 0.f;
  }
}
