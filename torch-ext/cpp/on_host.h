// The language of kernels.cu for the host's C++ compiler, and what runs such kernels on the host: every thread of a block for real,
// each on a stack of its own, one block after another. For checking kernels, not for speed. It knows grids and blocks of one
// dimension, which is all that the kernels use. It comes after every other header: it defines words that they may use.
#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>

#define ON_HOST
#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
// Dynamic shared memory, `extern __shared__ float sums[]`, belongs to the thread of the host that runs the block; it is defined where
// kernels.cu is included. Any other kind does not compile.
#define __shared__ __thread

namespace began::on_host {

struct Index {
  unsigned x;
};
inline thread_local Index threadIdx, blockIdx, blockDim, gridDim;

struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

inline float __uint_as_float(unsigned bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline unsigned __float_as_uint(float value) {
  unsigned bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

inline float __expf(float x) { return std::exp(x); }

// As cvt.rn.bf16x2.f32 does it: to nearest, ties to even, every NaN to 0x7fff.
inline unsigned bfloat16_bits(float value) {
  if (std::isnan(value)) return 0x7fff;
  const unsigned bits = __float_as_uint(value);
  return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}
inline unsigned bfloat16_pair(float low, float high) { return bfloat16_bits(low) | bfloat16_bits(high) << 16; }

// Waits until all threads of the block have come here.
void __syncthreads();

// In which order the blocks run, and the threads of a block between two barriers. A GPU promises none, so a kernel gives the same
// bits in every order; one that does not has a race.
enum class Order { ASCENDING, DESCENDING };

// Where a block's dynamic shared memory is: `bytes` of it are the launch's. All of it is NaN when a block begins.
struct Shared {
  void* memory;
  size_t bytes, capacity;
};

// Runs `kernel` once for every thread of every block. Throws where some threads of a block wait for others that have ended, and
// where a block wrote behind its shared memory.
void run(unsigned blocks, unsigned threads, const Shared& shared, Order order, const std::function<void()>& kernel);

}  // namespace began::on_host
