// The normal distribution, which GELU multiplies by. An erf of the usual kind would make the kernels slower than memory:
// this one comes from one reciprocal and one exponential, and the backward pass shares that exponential with the density.
#pragma once
#include "device.cuh"

// Normal distribution function and e^(-x^2 / 2). Abramowitz & Stegun 7.1.26: absolute error below 1e-7, and the tail
// shrinks with the exponential, so that small results stay small.
DEVICE float normal_distribution(float x, float& exponential) {
  const float t = reciprocal_fast(1.f + 0.23164189f * fabsf(x));  // 0.3275911 / sqrt(2)
  exponential = exp2_fast(x * x * -0.72134752f);                  // -log2(e) / 2
  const float polynomial = t * (0.127414796f + t * (-0.142248368f + t * (0.71070687f + t * (-0.72657601f + t * 0.53070271f))));
  const float tail = polynomial * exponential;  // the polynomial holds the factor 1/2
  return x > 0.f ? 1.f - tail : tail;
}

// gelu'(x) = cdf(x) + x density(x), of what normal_distribution gives for x.
DEVICE float gelu_slope(float x, float cdf, float exponential) {
  return cdf + x * exponential * 0.39894228f;  // 1 / sqrt(2 pi)
}
