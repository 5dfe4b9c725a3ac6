// Bias and ELU of a tensor [B,C,H,W] in channels-last memory, forward and backward. This one text is compiled by NVRTC for a GPU
// and, over on_host.h, by the C++ compiler for the host, so that the kernels can be tried where there is no GPU.
//
// A pixel is `width` words of 16 bytes: 8 channels of bfloat16 or 4 of f32 each. A thread keeps its place in the pixel and walks
// down the pixels, AT_ONCE of them a turn. All of a turn's words are loaded before the first is used: memory answers after hundreds of
// cycles, and only what is asked for meanwhile hides that. Words beyond the last pixel are zero and are not stored.
// Sums over pixels are taken in an order that the launch alone decides: the same bits every time.

// kernels.h says the same to those who launch.
constexpr int AT_ONCE = 4;
// Blocks of this size at most, of which a multiprocessor runs this many at a time: a thread has 64 registers.
constexpr int THREADS = 256;
constexpr int BLOCKS_EACH = 4;

#ifndef ON_HOST
// Two f32, rounded to nearest even.
__device__ __forceinline__ unsigned bfloat16_pair(float low, float high) {
  unsigned out;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(high), "f"(low));
  return out;
}
#endif

struct BFloat16 {
  static constexpr int LANES = 8;
  static __device__ __forceinline__ void unpack(const uint4& word, float* f) {
    const unsigned pairs[4] = {word.x, word.y, word.z, word.w};
    #pragma unroll
    for (int i = 0; i < 4; ++i) {
      f[2 * i] = __uint_as_float(pairs[i] << 16);
      f[2 * i + 1] = __uint_as_float(pairs[i] & 0xffff0000u);
    }
  }
  static __device__ __forceinline__ uint4 pack(const float* f) {
    return make_uint4(bfloat16_pair(f[0], f[1]), bfloat16_pair(f[2], f[3]), bfloat16_pair(f[4], f[5]), bfloat16_pair(f[6], f[7]));
  }
  // What bfloat16 keeps of exp(x) - 1: near 0 a series, for the difference loses its bits there.
  static __device__ __forceinline__ float expm1(float x) {
    const float series = x * (0.5f * x + 1.0f), difference = __expf(x) - 1.0f;
    return x > -0.015625f ? series : difference;
  }
};

struct Float {
  static constexpr int LANES = 4;
  static __device__ __forceinline__ void unpack(const uint4& word, float* f) {
    f[0] = __uint_as_float(word.x), f[1] = __uint_as_float(word.y), f[2] = __uint_as_float(word.z), f[3] = __uint_as_float(word.w);
  }
  static __device__ __forceinline__ uint4 pack(const float* f) {
    return make_uint4(__float_as_uint(f[0]), __float_as_uint(f[1]), __float_as_uint(f[2]), __float_as_uint(f[3]));
  }
  static __device__ __forceinline__ float expm1(float x) { return expm1f(x); }
};

// A thread's way over the pixels: blockDim.x is a multiple of `width`, so that `groups` pixels go beside each other in a block.
struct Way {
  int place, groups, first, stride;
  __device__ __forceinline__ explicit Way(int width)
      : place(threadIdx.x % width), groups(blockDim.x / width), first(blockIdx.x * groups + threadIdx.x / width),
        stride(gridDim.x * groups) {}
};

// The words of one turn: those of `pixel`, `pixel + stride`, ...
__device__ __forceinline__ void load(uint4* words, const uint4* from, long long step, int pixel, int stride, int pixels) {
  #pragma unroll
  for (int i = 0; i < AT_ONCE; ++i)
    words[i] = pixel + i * stride < pixels ? from[i * step] : make_uint4(0, 0, 0, 0);
}

template <class Word>
__device__ __forceinline__ void bias_elu(uint4* __restrict__ y, const uint4* __restrict__ bias, int pixels, int width) {
  const Way way(width);
  const long long step = (long long)way.stride * width;
  float b[Word::LANES];
  Word::unpack(bias[way.place], b);
  #pragma unroll 1
  for (int pixel = way.first; pixel < pixels; pixel += AT_ONCE * way.stride) {
    uint4* const at = y + (long long)pixel * width + way.place;
    uint4 words[AT_ONCE];
    load(words, at, step, pixel, way.stride, pixels);
    #pragma unroll
    for (int i = 0; i < AT_ONCE; ++i) {
      float f[Word::LANES];
      Word::unpack(words[i], f);
      #pragma unroll
      for (int lane = 0; lane < Word::LANES; ++lane) {
        const float x = f[lane] + b[lane], below = Word::expm1(x);
        f[lane] = x > 0.0f ? x : below;
      }
      if (pixel + i * way.stride < pixels) at[i * step] = Word::pack(f);
    }
  }
}

// ELU's derivative where ELU gave y is 1 or y + 1. partial: [blocks, channels], the sums of what each block wrote.
template <class Word>
__device__ __forceinline__ void bias_elu_backward(const uint4* __restrict__ gradient, const uint4* __restrict__ y,
                                                  uint4* __restrict__ out, float* __restrict__ partial, int pixels, int width) {
  extern __shared__ float sums[];
  const Way way(width);
  const long long step = (long long)way.stride * width;
  float sum[Word::LANES] = {};
  #pragma unroll 1
  for (int pixel = way.first; pixel < pixels; pixel += AT_ONCE * way.stride) {
    const long long at = (long long)pixel * width + way.place;
    uint4 gradients[AT_ONCE], ys[AT_ONCE];
    load(gradients, gradient + at, step, pixel, way.stride, pixels);
    load(ys, y + at, step, pixel, way.stride, pixels);
    #pragma unroll
    for (int i = 0; i < AT_ONCE; ++i) {
      float g[Word::LANES], f[Word::LANES];
      Word::unpack(gradients[i], g);
      Word::unpack(ys[i], f);
      #pragma unroll
      for (int lane = 0; lane < Word::LANES; ++lane) {
        g[lane] = f[lane] > 0.0f ? g[lane] : g[lane] * (f[lane] + 1.0f);
        sum[lane] += g[lane];
      }
      if (pixel + i * way.stride < pixels) out[at + i * step] = Word::pack(g);
    }
  }
  #pragma unroll
  for (int lane = 0; lane < Word::LANES; ++lane) sums[threadIdx.x * Word::LANES + lane] = sum[lane];
  __syncthreads();
  const int channels = width * Word::LANES;
  for (int channel = threadIdx.x; channel < channels; channel += blockDim.x) {
    float all = 0.0f;
    for (int group = 0; group < way.groups; ++group) all += sums[group * channels + channel];
    partial[(long long)blockIdx.x * channels + channel] = all;
  }
}

extern "C" {

__global__ void __launch_bounds__(THREADS, BLOCKS_EACH) bias_elu_bf16(uint4* y, const uint4* bias, int pixels, int width) {
  bias_elu<BFloat16>(y, bias, pixels, width);
}

__global__ void __launch_bounds__(THREADS, BLOCKS_EACH) bias_elu_f32(uint4* y, const uint4* bias, int pixels, int width) {
  bias_elu<Float>(y, bias, pixels, width);
}

__global__ void __launch_bounds__(THREADS, BLOCKS_EACH)
    bias_elu_backward_bf16(const uint4* gradient, const uint4* y, uint4* out, float* partial, int pixels, int width) {
  bias_elu_backward<BFloat16>(gradient, y, out, partial, pixels, width);
}

__global__ void __launch_bounds__(THREADS, BLOCKS_EACH)
    bias_elu_backward_f32(const uint4* gradient, const uint4* y, uint4* out, float* partial, int pixels, int width) {
  bias_elu_backward<Float>(gradient, y, out, partial, pixels, width);
}

}  // extern "C"
