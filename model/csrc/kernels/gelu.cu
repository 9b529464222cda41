// GELU in its exact form, x times the normal distribution function of x (Hendrycks & Gimpel 2016), over the bf16 elements of a
// matrix, eight a thread at a time.
#include "normal.cuh"

struct GeluForward {
  const bf16* x;
  bf16* y;
  long long elements;  // a multiple of 8
};

struct GeluBackward {
  const bf16* x;
  const bf16* d_y;
  bf16* d_x;  // may be x or d_y
  long long elements;
};

KERNEL(256, 4) gelu_forward(GeluForward a) {
  const long long step = gridDim.x * 256 * 8;
  for (long long i = (blockIdx.x * 256 + threadIdx.x) * 8LL; i < a.elements; i += step) {
    float x[8], exponential;
    unpack8(x, load16_streaming(a.x + i));
#pragma unroll
    for (int e = 0; e < 8; e++) x[e] *= normal_distribution(x[e], exponential);
    store16(a.y + i, pack8(x));
  }
}

KERNEL(256, 4) gelu_backward(GeluBackward a) {
  const long long step = gridDim.x * 256 * 8;
  for (long long i = (blockIdx.x * 256 + threadIdx.x) * 8LL; i < a.elements; i += step) {
    float x[8], d[8];
    unpack8(x, load16_streaming(a.x + i));
    unpack8(d, load16_streaming(a.d_y + i));
#pragma unroll
    for (int e = 0; e < 8; e++) {
      float exponential;
      const float cdf = normal_distribution(x[e], exponential);
      d[e] *= gelu_slope(x[e], cdf, exponential);
    }
    store16(a.d_x + i, pack8(d));
  }
}
