// Runs CUDA kernels on the CPU, to test their arithmetic, indexing and synchronisation where there is no GPU.
//
// Every thread of a block is a fiber. A warp's collective instructions (ldmatrix, mma, shuffles) are carried out by the
// lane that arrives last, for all 32; a lane that runs into a different instruction than its warp ends the test. The
// order of threads is drawn anew at each turn and shared memory starts out as NaN, so that a missing barrier shows as a
// wrong result; asynchronous copies land only when their thread waits for them, so a missing wait shows too. Addresses
// are checked for alignment, shared addresses for bounds. What this cannot show: speed, and races of one instruction.
#pragma once
#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <random>
#include <vector>

struct uint4 { unsigned int x, y, z, w; };
struct uint2 { unsigned int x, y; };
struct float2 { float x, y; };
struct float4 { float x, y, z, w; };
struct Extent { unsigned int x, y, z; };
inline Extent blockIdx, gridDim;

namespace emulator {

enum class Wait { None, Warp, Block, Done };

struct Copy {
  unsigned int to;
  const void* from;
  bool keep;
};

struct Lane {
  ucontext_t start;
  jmp_buf at;
  bool started = false;
  Wait wait = Wait::None;
  const char* operation = nullptr;  // the collective it waits in
  const unsigned int* in = nullptr;
  unsigned int* out = nullptr;
  std::deque<std::vector<Copy>> groups;  // committed, oldest first
  std::vector<Copy> open;
  std::vector<char> stack;
};

inline std::vector<unsigned char> memory;  // the block's shared memory
inline std::vector<Lane> lanes;
inline jmp_buf scheduler;
inline ucontext_t scheduler_start;
inline int current = 0, threads = 0;
inline std::function<void()> body;
inline std::mt19937 order(1);

[[noreturn]] inline void fail(const char* what) {
  printf("emulator: %s (block %u %u %u, thread %d)\n", what, blockIdx.x, blockIdx.y, blockIdx.z, current);
  fflush(stdout);
  _Exit(1);
}

inline unsigned char* shared_at(unsigned int address, unsigned int bytes) {
  if (address + bytes > memory.size()) fail("shared memory address out of bounds");
  return memory.data() + address;
}

inline void yield(Wait wait) {
  Lane& lane = lanes[current];
  lane.wait = wait;
  if (_setjmp(lane.at) == 0) _longjmp(scheduler, 1);
}

inline void enter() {
  body();
  lanes[current].wait = Wait::Done;
  _longjmp(scheduler, 1);
}

// A collective: each lane brings `in` and gets `out`; the last to arrive runs `all` over the warp's 32 lanes.
template <class F> void collective(const char* operation, const unsigned int* in, unsigned int* out, F all) {
  Lane* warp = &lanes[current & ~31];
  Lane& mine = lanes[current];
  mine.operation = operation, mine.in = in, mine.out = out;
  mine.wait = Wait::Warp;
  for (int l = 0; l < 32; l++) {
    if (warp[l].wait == Wait::Done) fail("a collective after a lane of the warp has ended");
    if (warp[l].wait != Wait::Warp) {
      yield(Wait::Warp);
      return;
    }
  }
  for (int l = 0; l < 32; l++)
    if (warp[l].operation != operation) fail("lanes of one warp in different collectives");
  all(warp);
  for (int l = 0; l < 32; l++) warp[l].wait = Wait::None;
}

}  // namespace emulator

// threadIdx.x reads the number of the running fiber.
inline struct {
  struct {
    operator unsigned int() const { return (unsigned int)emulator::current; }
  } x;
} threadIdx;

#define KERNEL(threads, blocks) static void
#define DEVICE inline
#define SHARED_MEMORY(name) unsigned char* name = emulator::memory.data()

DEVICE u32 shared_address(const void* pointer) { return (u32)((const unsigned char*)pointer - emulator::memory.data()); }

DEVICE float bf16_value(u32 bits) {
  bits <<= 16;
  float f;
  memcpy(&f, &bits, 4);
  return f;
}

DEVICE void load_any(u32 (&m)[4], u32 row, bool transposed) {
  emulator::collective(transposed ? "ldmatrix.trans" : "ldmatrix", &row, m, [transposed](emulator::Lane* warp) {
    for (int matrix = 0; matrix < 4; matrix++) {
      unsigned short value[8][8];
      for (int r = 0; r < 8; r++) {
        u32 address = warp[matrix * 8 + r].in[0];
        if (address & 15) emulator::fail("misaligned ldmatrix");
        memcpy(value[r], emulator::shared_at(address, 16), 16);
      }
      for (int l = 0; l < 32; l++) {
        int r = l / 4, c = 2 * (l % 4);
        u32 low = transposed ? value[c][r] : value[r][c], high = transposed ? value[c + 1][r] : value[r][c + 1];
        warp[l].out[matrix] = low | high << 16;
      }
    }
  });
}
DEVICE void load_matrices(u32 (&m)[4], u32 row) { load_any(m, row, false); }
DEVICE void load_matrices_transposed(u32 (&m)[4], u32 row) { load_any(m, row, true); }

DEVICE void multiply_accumulate(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
  u32 in[10] = {a[0], a[1], a[2], a[3], b0, b1};
  memcpy(in + 6, c, 16);
  u32 out[4];
  emulator::collective("mma", in, out, [](emulator::Lane* warp) {
    float left[16][16], right[8][16];
    for (int l = 0; l < 32; l++)
      for (int half = 0; half < 2; half++) {
        int r = l / 4, k = 2 * (l % 4) + half;
        auto bits = [&](int i) { return bf16_value(warp[l].in[i] >> (16 * half) & 0xffff); };
        left[r][k] = bits(0), left[r + 8][k] = bits(1), left[r][k + 8] = bits(2), left[r + 8][k + 8] = bits(3);
        right[r][k] = bits(4), right[r][k + 8] = bits(5);
      }
    for (int l = 0; l < 32; l++)
      for (int e = 0; e < 4; e++) {
        int r = l / 4 + (e >> 1) * 8, column = 2 * (l % 4) + (e & 1);
        float sum;
        memcpy(&sum, &warp[l].in[6 + e], 4);
        for (int k = 0; k < 16; k++) sum += left[r][k] * right[column][k];
        memcpy(&warp[l].out[e], &sum, 4);
      }
  });
  memcpy(c, out, 16);
}

DEVICE void copy_async(u32 to, const void* from, bool keep) {
  if ((to & 15) || ((u64)from & 15)) emulator::fail("misaligned cp.async");
  memset(emulator::shared_at(to, 16), 0x7f, 16);  // NaN until it is waited for
  emulator::lanes[emulator::current].open.push_back({to, from, keep});
}
DEVICE void commit_async() {
  emulator::Lane& lane = emulator::lanes[emulator::current];
  lane.groups.push_back(std::move(lane.open));
  lane.open.clear();
}
template <int N> DEVICE void wait_async() {
  auto& groups = emulator::lanes[emulator::current].groups;
  for (; groups.size() > N; groups.pop_front())
    for (const emulator::Copy& copy : groups.front()) {
      memset(emulator::shared_at(copy.to, 16), 0, 16);
      if (copy.keep) memcpy(emulator::shared_at(copy.to, 16), copy.from, 16);
    }
}

DEVICE float exp2_fast(float x) { return exp2f(x); }
DEVICE float log2_fast(float x) { return log2f(x); }
DEVICE float reciprocal_fast(float x) { return 1.f / x; }
DEVICE float rsqrtf(float x) { return 1.f / sqrtf(x); }

DEVICE u32 rounded(float f) {
  u32 u;
  memcpy(&u, &f, 4);
  if (f != f) return 0x7fff;
  return (u + 0x7fff + (u >> 16 & 1)) >> 16;
}
DEVICE u32 pack(float low, float high) { return rounded(low) | rounded(high) << 16; }

template <class T> T exchange(T v, int mask) {
  u32 in[2] = {0, (u32)mask}, out[1];
  memcpy(in, &v, 4);
  emulator::collective("shfl", in, out, [](emulator::Lane* warp) {
    for (int l = 0; l < 32; l++) warp[l].out[0] = warp[l ^ (int)warp[l].in[1]].in[0];
  });
  memcpy(&v, out, 4);
  return v;
}
DEVICE float broadcast(float v, int lane) {
  u32 in[2] = {0, (u32)lane}, out[1];
  memcpy(in, &v, 4);
  emulator::collective("broadcast", in, out, [](emulator::Lane* warp) {
    for (int l = 0; l < 32; l++) warp[l].out[0] = warp[(int)warp[l].in[1]].in[0];
  });
  memcpy(&v, out, 4);
  return v;
}
DEVICE void sync_warp() {
  emulator::collective("syncwarp", nullptr, nullptr, [](emulator::Lane*) {});
}
DEVICE void sync_block() { emulator::yield(emulator::Wait::Block); }
DEVICE u32 multiply_high(u32 a, u32 b) { return (u32)((u64)a * b >> 32); }

template <class T> T aligned_load(const void* p) {
  if ((u64)p % sizeof(T)) emulator::fail("misaligned load");
  T v;
  memcpy(&v, p, sizeof(T));
  return v;
}
DEVICE uint4 load16(const void* p) { return aligned_load<uint4>(p); }
DEVICE uint2 load8(const void* p) { return aligned_load<uint2>(p); }
DEVICE uint4 load16_streaming(const void* p) { return aligned_load<uint4>(p); }
DEVICE void store16(void* p, uint4 v) {
  if ((u64)p & 15) emulator::fail("misaligned store");
  memcpy(p, &v, 16);
}
DEVICE void store4(void* p, u32 v) {
  if ((u64)p & 3) emulator::fail("misaligned store");
  memcpy(p, &v, 4);
}

namespace emulator {

// Runs `kernel` for every block of `grid`, one after the other.
inline void launch(Extent grid, int block_threads, int shared_bytes, std::function<void()> kernel) {
  body = std::move(kernel);
  gridDim = grid;
  threads = block_threads;
  if ((int)lanes.size() < threads) lanes.resize(threads);
  memory.reserve(256 << 10);
  for (unsigned z = 0; z < grid.z; z++)
    for (unsigned y = 0; y < grid.y; y++)
      for (unsigned x = 0; x < grid.x; x++) {
        blockIdx = {x, y, z};
        memory.assign(shared_bytes, 0x7f);
        std::vector<int> turn(threads);
        for (int i = 0; i < threads; i++) {
          turn[i] = i;
          Lane& lane = lanes[i];
          lane.started = false, lane.wait = Wait::None;
          lane.groups.clear(), lane.open.clear();
          lane.stack.resize(128 << 10);
        }
        for (;;) {
          bool ran = false;
          std::shuffle(turn.begin(), turn.end(), order);
          for (int i : turn) {
            Lane& lane = lanes[i];
            if (lane.wait != Wait::None) continue;
            ran = true;
            current = i;
            if (_setjmp(scheduler) == 0) {
              if (lane.started) _longjmp(lane.at, 1);
              lane.started = true;
              getcontext(&lane.start);
              lane.start.uc_stack.ss_sp = lane.stack.data(), lane.start.uc_stack.ss_size = lane.stack.size();
              lane.start.uc_link = nullptr;
              makecontext(&lane.start, enter, 0);
              swapcontext(&scheduler_start, &lane.start);
            }
          }
          if (ran) continue;
          int at_barrier = 0, done = 0;
          for (int i = 0; i < threads; i++) at_barrier += lanes[i].wait == Wait::Block, done += lanes[i].wait == Wait::Done;
          if (done == threads) break;
          if (at_barrier != threads) fail(done ? "a barrier that some threads never reach" : "a collective that some lanes never reach");
          for (int i = 0; i < threads; i++) lanes[i].wait = Wait::None;
        }
        for (int i = 0; i < threads; i++) {
          for (auto& group : lanes[i].groups)
            if (!group.empty()) fail("a copy that was never waited for");
        }
      }
}

}  // namespace emulator
