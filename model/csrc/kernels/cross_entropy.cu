// Cross-entropy of the masked tokens over the vocabulary, with the gradient written over the logits.
//
// logits [rows, V] bf16, labels [rows]. Per row: loss = log(sum_v exp(logit_v)) - logit_label, correct = whether the
// label is the first with the largest logit, as argmax would have it (in bf16 several have it often); then logits become
// scale * (softmax - one_hot(label)). One block a row, the whole row in registers: the matrix is read once and written once.
#include "device.cuh"

struct CrossEntropy {
  bf16* logits;
  const long long* labels;  // each in 0 … V - 1
  float* loss;              // [rows]
  int* correct;             // [rows], 0 or 1
  int columns;              // V, a multiple of 8
  int gradient;             // 0: the logits stay as they are
  float scale;
};

constexpr int LOGIT_VECTORS = 8;  // of eight columns, a thread

// Largest or summed value of all threads; `shared` holds 32 floats, and is free again at the next barrier.
template <int THREADS, bool MAXIMUM> DEVICE float block_reduce(float v, float* shared) {
#pragma unroll
  for (int mask = 16; mask; mask >>= 1) {
    const float other = exchange(v, mask);
    v = MAXIMUM ? fmaxf(v, other) : v + other;
  }
  if ((threadIdx.x & 31) == 0) shared[threadIdx.x >> 5] = v;
  sync_block();
  v = shared[0];
  for (int w = 1; w < THREADS / 32; w++) v = MAXIMUM ? fmaxf(v, shared[w]) : v + shared[w];
  return v;
}

// Calls use(column, x) with the columns that this thread holds, eight at a time; the first of them is `column`.
template <int THREADS, class Use> DEVICE void each_eight(const uint4 (&bits)[LOGIT_VECTORS], int columns, Use use) {
#pragma unroll
  for (int v = 0; v < LOGIT_VECTORS; v++) {
    const int column = (v * THREADS + (int)threadIdx.x) * 8;
    if (column >= columns) continue;
    float x[8];
    unpack8(x, bits[v]);
    use(column, x);
  }
}

template <int THREADS> DEVICE void cross_entropy(const CrossEntropy& a, float* shared) {
  const int row = blockIdx.x, label = (int)a.labels[row];
  bf16* logits = a.logits + (u64)row * a.columns;
  uint4 bits[LOGIT_VECTORS];
  float largest = -3e38f, sum = 0.f;
#pragma unroll
  for (int v = 0; v < LOGIT_VECTORS; v++) {
    const int column = (v * THREADS + (int)threadIdx.x) * 8;
    if (column < a.columns) bits[v] = load16(logits + column);
  }
  const float label_logit = to_float(logits[label]);
  each_eight<THREADS>(bits, a.columns, [&](int, float (&x)[8]) {
#pragma unroll
    for (int e = 0; e < 8; e++) largest = fmaxf(largest, x[e]);
  });
  largest = block_reduce<THREADS, true>(largest, shared);
  const float offset = largest * LOG2_E;
  each_eight<THREADS>(bits, a.columns, [&](int, float (&x)[8]) {
#pragma unroll
    for (int e = 0; e < 8; e++) sum += exp2_fast(x[e] * LOG2_E - offset);
  });
  sum = block_reduce<THREADS, false>(sum, shared + 32);
  bool correct = label_logit == largest;
  if (correct) {  // of all threads alike
    float earlier = 0.f;
    each_eight<THREADS>(bits, a.columns, [&](int column, float (&x)[8]) {
#pragma unroll
      for (int e = 0; e < 8; e++)
        if (x[e] == largest && column + e < label) earlier = 1.f;
    });
    // All have read what the first reduction left there: the second has a barrier.
    correct = block_reduce<THREADS, true>(earlier, shared) == 0.f;
  }
  if (threadIdx.x == 0) {
    a.loss[row] = largest + log2_fast(sum) * (1.f / LOG2_E) - label_logit;
    a.correct[row] = correct;
  }
  if (!a.gradient) return;
  const float factor = a.scale * reciprocal_fast(sum);
  each_eight<THREADS>(bits, a.columns, [&](int column, float (&x)[8]) {
#pragma unroll
    for (int e = 0; e < 8; e++) x[e] = exp2_fast(x[e] * LOG2_E - offset) * factor - (column + e == label ? a.scale : 0.f);
    store16(logits + column, pack8(x));
  });
}

// Up to 32,768 columns; above that, up to 65,536.
KERNEL(512, 2) cross_entropy_32k(CrossEntropy a) {
  SHARED_MEMORY(shared);
  cross_entropy<512>(a, (float*)shared);
}
KERNEL(1024, 1) cross_entropy_64k(CrossEntropy a) {
  SHARED_MEMORY(shared);
  cross_entropy<1024>(a, (float*)shared);
}
