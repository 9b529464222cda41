// What the kernel tests share: random tensors, bf16 conversion, and errors relative to float64 references.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>
#include <string>
#include <vector>

namespace check {

inline std::mt19937 random(20240601);
inline bool failed = false;

inline bf16 to_bf16(double v) { return (bf16)rounded((float)v); }
inline double value(bf16 v) { return bf16_value(v); }
inline double value(float v) { return v; }

// Vectors of tensors are over-aligned, as device allocations are.
template <class T> struct Aligned {
  typedef T value_type;
  Aligned() = default;
  template <class U> Aligned(const Aligned<U>&) {}
  T* allocate(size_t n) { return (T*)aligned_alloc(64, (n * sizeof(T) + 127) / 64 * 64); }
  void deallocate(T* p, size_t) { free(p); }
  template <class U> bool operator==(const Aligned<U>&) const { return true; }
  template <class U> bool operator!=(const Aligned<U>&) const { return false; }
};
typedef std::vector<bf16, Aligned<bf16>> Half;
typedef std::vector<float, Aligned<float>> Single;

inline Half normal_half(size_t n, double deviation = 1.0) {
  std::normal_distribution<double> normal(0.0, deviation);
  Half out(n);
  for (bf16& v : out) v = to_bf16(normal(random));
  return out;
}
inline Single normal_single(size_t n, double mean = 0.0, double deviation = 1.0) {
  std::normal_distribution<double> normal(mean, deviation);
  Single out(n);
  for (float& v : out) v = (float)normal(random);
  return out;
}
// Outputs start as NaN: an element that no thread writes is found.
inline Half unwritten_half(size_t n) { return Half(n, 0x7fff); }
inline Single unwritten_single(size_t n) { return Single(n, NAN); }

// |got - expected| / |expected| over all elements pushed; must stay under the limit given at the end.
struct Error {
  double difference = 0, norm = 0;
  size_t count = 0;
  void add(double got, double expected) {
    if (!(std::fabs(got) < 1e300)) difference = NAN;
    difference += (got - expected) * (got - expected), norm += expected * expected, count++;
  }
  double relative() const { return count == 0 ? 0 : std::sqrt(difference / (norm > 0 ? norm : 1)); }
};

inline void under(const std::string& what, const Error& error, double limit) {
  const bool good = error.relative() <= limit;
  if (!good) failed = true;
  printf("%-56s relative error %.2e (limit %.0e) over %zu%s\n", what.c_str(), error.relative(), limit, error.count, good ? "" : "  FAILED");
}
inline void that(const std::string& what, bool holds) {
  if (!holds) failed = true;
  printf("%-56s %s\n", what.c_str(), holds ? "holds" : "FAILED");
}

// Dropout's random numbers written down once more, plainly, from Salmon et al. 2011: does number e of `group` keep its element?
inline bool kept(const Dropout& d, u64 group, int e) {
  if (d.threshold == 0) return true;
  u32 c[4] = {(u32)group, (u32)(group >> 32), (u32)d.stream, (u32)(d.stream >> 32)}, key[2] = {(u32)d.seed, (u32)(d.seed >> 32)};
  for (int round = 0; round < 7; round++) {
    const u64 a = 0xD2511F53ull * c[0], b = 0xCD9E8D57ull * c[2];
    const u32 next[4] = {(u32)(b >> 32) ^ c[1] ^ key[0], (u32)b, (u32)(a >> 32) ^ c[3] ^ key[1], (u32)a};
    std::copy(next, next + 4, c);
    key[0] += 0x9E3779B9u, key[1] += 0xBB67AE85u;
  }
  return (c[e / 2] >> (16 * (e % 2)) & 0xffff) >= d.threshold;
}
inline Dropout dropout(double p, u64 stream) { return {0x123456789abcdefull, stream, (u32)std::lround(p * 65536), (float)(1 / (1 - p))}; }

}  // namespace check
