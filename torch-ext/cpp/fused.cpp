// Bias and ELU in one pass over memory, forward and backward: on a GPU by kernels compiled at run time where NVRTC is there,
// everywhere else by libtorch's own operations. Both ways give the same values but for rounding; a kernel that cannot be had is
// never an error.
#include "ext.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <torch/csrc/autograd/custom_function.h>

#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <mutex>
#include <vector>

namespace {

// 16 bytes a thread: 8 bfloat16 or 4 f32 of one pixel, channels beside each other. A thread keeps its channels and walks down
// the pixels. Sums over pixels are taken in an order that the launch alone decides: the same bits every time.
const char* const SOURCE = R"CUDA(
#ifdef BFLOAT16
#define LANES 8
__device__ __forceinline__ void unpack(const uint4& v, float* f) {
  const unsigned w[4] = {v.x, v.y, v.z, v.w};
  #pragma unroll
  for (int i = 0; i < 4; ++i) {
    f[2 * i] = __uint_as_float(w[i] << 16);
    f[2 * i + 1] = __uint_as_float(w[i] & 0xffff0000u);
  }
}
__device__ __forceinline__ unsigned pair(float low, float high) {
  unsigned out;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(high), "f"(low));
  return out;
}
__device__ __forceinline__ uint4 pack(const float* f) {
  return make_uint4(pair(f[0], f[1]), pair(f[2], f[3]), pair(f[4], f[5]), pair(f[6], f[7]));
}
// What bfloat16 keeps of exp(x) - 1: near 0 a series, for the difference loses its bits there.
__device__ __forceinline__ float below(float x) {
  return x > -0.015625f ? x + 0.5f * x * x : __expf(x) - 1.0f;
}
#else
#define LANES 4
__device__ __forceinline__ void unpack(const uint4& v, float* f) {
  f[0] = __uint_as_float(v.x); f[1] = __uint_as_float(v.y); f[2] = __uint_as_float(v.z); f[3] = __uint_as_float(v.w);
}
__device__ __forceinline__ uint4 pack(const float* f) {
  return make_uint4(__float_as_uint(f[0]), __float_as_uint(f[1]), __float_as_uint(f[2]), __float_as_uint(f[3]));
}
__device__ __forceinline__ float below(float x) { return expm1f(x); }
#endif

extern "C" __global__ void bias_elu(uint4* y, const uint4* bias, int pixels, int width) {
  const int group = threadIdx.x / width, groups = blockDim.x / width, channel = threadIdx.x % width;
  float b[LANES];
  unpack(bias[channel], b);
  #pragma unroll 4
  for (int pixel = blockIdx.x * groups + group; pixel < pixels; pixel += gridDim.x * groups) {
    const long long at = (long long)pixel * width + channel;
    float f[LANES];
    unpack(y[at], f);
    #pragma unroll
    for (int i = 0; i < LANES; ++i) {
      const float x = f[i] + b[i];
      f[i] = x > 0.0f ? x : below(x);
    }
    y[at] = pack(f);
  }
}

// partial: [blocks, channels], the sums of what each block wrote.
extern "C" __global__ void bias_elu_backward(const uint4* gradient, const uint4* y, uint4* out, float* partial, int pixels,
                                             int width) {
  extern __shared__ float sums[];
  const int group = threadIdx.x / width, groups = blockDim.x / width, channel = threadIdx.x % width;
  float sum[LANES];
  #pragma unroll
  for (int i = 0; i < LANES; ++i) sum[i] = 0.0f;
  #pragma unroll 4
  for (int pixel = blockIdx.x * groups + group; pixel < pixels; pixel += gridDim.x * groups) {
    const long long at = (long long)pixel * width + channel;
    float g[LANES], f[LANES];
    unpack(gradient[at], g);
    unpack(y[at], f);
    #pragma unroll
    for (int i = 0; i < LANES; ++i) {
      g[i] = f[i] > 0.0f ? g[i] : g[i] * (f[i] + 1.0f);
      sum[i] += g[i];
    }
    out[at] = pack(g);
  }
  #pragma unroll
  for (int i = 0; i < LANES; ++i) sums[threadIdx.x * LANES + i] = sum[i];
  __syncthreads();
  for (int at = threadIdx.x; at < width * LANES; at += blockDim.x) {
    float all = 0.0f;
    for (int other = 0; other < groups; ++other) all += sums[other * width * LANES + at];
    partial[(long long)blockIdx.x * width * LANES + at] = all;
  }
}
)CUDA";

// The few calls of NVRTC and of the driver that are needed; all give 0 for success.
struct Nvrtc {
  int (*create)(void**, const char*, const char*, int, const char* const*, const char* const*) = nullptr;
  int (*compile)(void*, int, const char* const*) = nullptr;
  int (*size)(void*, size_t*) = nullptr;
  int (*code)(void*, char*) = nullptr;
  int (*log_size)(void*, size_t*) = nullptr;
  int (*log)(void*, char*) = nullptr;
  int (*destroy)(void**) = nullptr;
};

struct Driver {
  int (*attribute)(int*, int, int) = nullptr;
  int (*load)(void**, const void*) = nullptr;
  int (*function)(void**, void*, const char*) = nullptr;
  int (*launch)(void*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void*, void**,
                void**) = nullptr;
};

template <typename F>
void find(void* library, const char* name, F& into) {
  into = reinterpret_cast<F>(dlsym(library, name));
  TORCH_CHECK(into, name, " is missing");
}

void* open_first(const std::vector<std::string>& names) {
  for (const auto& name : names)
    if (void* library = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL)) return library;
  TORCH_CHECK(false, "none of these loads: ", names);
}

const Nvrtc& nvrtc() {
  static const Nvrtc found = [] {
    std::vector<std::string> names;
    if (const char* given = std::getenv("BEGAN_NVRTC")) names.emplace_back(given);
    names.emplace_back("libnvrtc.so.13");
    // Where the wheels put it, seen from libtorch.
    Dl_info here;
    if (dladdr(reinterpret_cast<void*>(&at::get_num_threads), &here) && here.dli_fname) {
      std::string folder(here.dli_fname);
      folder.resize(folder.find_last_of('/') == std::string::npos ? 0 : folder.find_last_of('/'));
      names.push_back(folder + "/../../nvidia/cu13/lib/libnvrtc.so.13");
      names.push_back(folder + "/../../nvidia/cuda_nvrtc/lib/libnvrtc.so.13");
    }
    names.emplace_back("/usr/local/cuda/lib64/libnvrtc.so.13");
    names.emplace_back("libnvrtc.so.12");
    void* library = open_first(names);
    Nvrtc f;
    find(library, "nvrtcCreateProgram", f.create);
    // NVRTC looks for its builtins by name alone, which finds them only where they are loaded already: they lie beside it.
    if (dladdr(reinterpret_cast<void*>(f.create), &here) && here.dli_fname) {
      std::error_code ignored;
      for (const auto& file : std::filesystem::directory_iterator(std::filesystem::path(here.dli_fname).parent_path(), ignored))
        if (file.path().filename().string().rfind("libnvrtc-builtins.so.", 0) == 0)
          dlopen(file.path().c_str(), RTLD_NOW | RTLD_GLOBAL);
    }
    find(library, "nvrtcCompileProgram", f.compile);
    find(library, "nvrtcGetCUBINSize", f.size);
    find(library, "nvrtcGetCUBIN", f.code);
    find(library, "nvrtcGetProgramLogSize", f.log_size);
    find(library, "nvrtcGetProgramLog", f.log);
    find(library, "nvrtcDestroyProgram", f.destroy);
    return f;
  }();
  return found;
}

const Driver& driver() {
  static const Driver found = [] {
    void* library = open_first({"libcuda.so.1"});
    Driver f;
    find(library, "cuDeviceGetAttribute", f.attribute);
    find(library, "cuModuleLoadData", f.load);
    find(library, "cuModuleGetFunction", f.function);
    find(library, "cuLaunchKernel", f.launch);
    return f;
  }();
  return found;
}

// The kernels' machine code for compute capability `major`.`minor`.
std::string compile(int major, int minor, bool bfloat16) {
  const auto& f = nvrtc();
  const std::string target = "--gpu-architecture=sm_" + std::to_string(major) + std::to_string(minor);
  std::vector<const char*> options{target.c_str(), "--std=c++17"};
  if (bfloat16) options.push_back("-DBFLOAT16");
  void* program = nullptr;
  TORCH_CHECK(f.create(&program, SOURCE, "began.cu", 0, nullptr, nullptr) == 0, "NVRTC makes no program");
  const int failed = f.compile(program, static_cast<int>(options.size()), options.data());
  std::string log, code;
  size_t size = 0;
  if (failed) {
    if (f.log_size(program, &size) == 0 && size > 0) {
      log.resize(size);
      f.log(program, log.data());
    }
  } else if (f.size(program, &size) == 0) {
    code.resize(size);
    if (f.code(program, code.data()) != 0) code.clear();
  }
  f.destroy(&program);
  TORCH_CHECK(!code.empty(), "NVRTC refuses the kernels for ", target, ": ", log);
  return code;
}

struct Kernels {
  void* forward = nullptr;
  void* backward = nullptr;
  int multiprocessors = 0;
};

// The kernels of a GPU, or null where they cannot be had; tried once. The GPU is this thread's current one.
const Kernels* kernels(int device, bool bfloat16) {
  static std::mutex lock;
  static std::map<std::pair<int, bool>, Kernels> known;
  std::lock_guard<std::mutex> guard(lock);
  auto [at, is_new] = known.try_emplace({device, bfloat16});
  if (is_new) {
    const char* wanted = std::getenv("BEGAN_FUSED");
    try {
      TORCH_CHECK(!wanted || std::string(wanted) != "off", "BEGAN_FUSED=off");
      const auto& f = driver();
      int major = 0, minor = 0, count = 0;
      // CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR, and MULTIPROCESSOR_COUNT; ordinals are the runtime's.
      TORCH_CHECK(f.attribute(&major, 75, device) == 0 && f.attribute(&minor, 76, device) == 0 &&
                      f.attribute(&count, 16, device) == 0,
                  "the driver does not tell what GPU ", device, " is");
      TORCH_CHECK(major >= 8, "the kernels need compute capability 8.0, this is ", major, ".", minor);
      const std::string code = compile(major, minor, bfloat16);
      void* module = nullptr;
      Kernels made;
      TORCH_CHECK(f.load(&module, code.data()) == 0, "the driver does not take the kernels");
      TORCH_CHECK(f.function(&made.forward, module, "bias_elu") == 0 &&
                      f.function(&made.backward, module, "bias_elu_backward") == 0,
                  "the driver does not find the kernels");
      made.multiprocessors = count;
      at->second = made;
    } catch (const std::exception& error) {
      TORCH_WARN("bias and ELU go in two passes: ", std::string(error.what()).substr(0, 300));
    }
  }
  return at->second.multiprocessors ? &at->second : nullptr;
}

struct Launch {
  const Kernels* found = nullptr;
  int pixels = 0, width = 0, threads = 0, blocks = 0;
  c10::Device device{c10::DeviceType::CUDA, 0};
};

constexpr int THREADS = 256;

// How the kernels go over `y`, `[B,C,H,W]`; nothing where they do not fit it.
Launch plan(const at::Tensor& y) {
  Launch launch;
  if (!y.is_cuda() || (y.scalar_type() != at::kBFloat16 && y.scalar_type() != at::kFloat)) return launch;
  const bool bfloat16 = y.scalar_type() == at::kBFloat16;
  const int64_t lanes = bfloat16 ? 8 : 4, channels = y.size(1), pixels = y.numel() / std::max<int64_t>(channels, 1);
  if (!y.is_contiguous(at::MemoryFormat::ChannelsLast) || channels % lanes != 0 || channels / lanes > THREADS ||
      pixels == 0 || pixels > (1 << 30) || reinterpret_cast<uintptr_t>(y.data_ptr()) % 16 != 0)
    return launch;
  launch.device = y.device();
  launch.found = kernels(y.device().index(), bfloat16);
  if (!launch.found) return launch;
  launch.pixels = static_cast<int>(pixels);
  launch.width = static_cast<int>(channels / lanes);
  launch.threads = THREADS / launch.width * launch.width;
  const int groups = launch.threads / launch.width;
  launch.blocks = std::min((launch.pixels + 4 * groups - 1) / (4 * groups), launch.found->multiprocessors * 8);
  return launch;
}

void start(const Launch& launch, void* kernel, unsigned shared, void** arguments) {
  c10::impl::VirtualGuardImpl guard(c10::DeviceType::CUDA);
  void* stream = guard.getStreamNativeHandle(guard.getStream(launch.device));
  const int failed = driver().launch(kernel, launch.blocks, 1, 1, launch.threads, 1, 1, shared, stream, arguments, nullptr);
  TORCH_CHECK(failed == 0, "the driver does not start the kernel for bias and ELU: error ", failed);
}

class BiasElu : public torch::autograd::Function<BiasElu> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* context, at::Tensor y, const at::Tensor& bias) {
    at::AutoDispatchBelowADInplaceOrView below;
    Launch launch = plan(y);
    const bool fits = bias.scalar_type() == y.scalar_type() && bias.is_contiguous() &&
                      reinterpret_cast<uintptr_t>(bias.data_ptr()) % 16 == 0;
    if (launch.found && fits) {
      void *at_y = y.data_ptr(), *at_bias = bias.data_ptr();
      void* arguments[] = {&at_y, &at_bias, &launch.pixels, &launch.width};
      start(launch, launch.found->forward, 0, arguments);
    } else {
      y.add_(bias.view({1, -1, 1, 1}));
      at::elu_(y);
    }
    context->mark_dirty({y});
    context->save_for_backward({y});
    return y;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list gradients) {
    const at::Tensor y = context->get_saved_variables()[0];
    at::Tensor gradient = gradients[0];
    Launch launch = plan(y);
    if (launch.found) {
      gradient = gradient.to(y.scalar_type()).contiguous(at::MemoryFormat::ChannelsLast);
      if (reinterpret_cast<uintptr_t>(gradient.data_ptr()) % 16 == 0) {
        at::Tensor out = at::empty_like(y);
        at::Tensor partial = at::empty({launch.blocks, y.size(1)}, y.options().dtype(at::kFloat));
        void *at_gradient = gradient.data_ptr(), *at_y = y.data_ptr(), *at_out = out.data_ptr(),
             *at_partial = partial.data_ptr();
        void* arguments[] = {&at_gradient, &at_y, &at_out, &at_partial, &launch.pixels, &launch.width};
        const unsigned lanes = static_cast<unsigned>(16 / y.element_size());
        start(launch, launch.found->backward, launch.threads * lanes * sizeof(float), arguments);
        return {out, partial.sum(0).to(y.scalar_type())};
      }
    }
    at::Tensor out = at::elu_backward(gradient, 1, 1, 1, /*is_result=*/true, y);
    return {out, out.sum({0, 2, 3})};
  }
};

}  // namespace

extern "C" {

// ELU(y + bias) in the place of y, `[B,C,H,W]`, bias `[C]`.
at::Tensor* began_bias_elu(at::Tensor* y, at::Tensor* bias) {
  BEGAN_GUARD(nullptr, { return new at::Tensor(BiasElu::apply(*y, *bias)); })
}

// Whether the GPU of this index has the kernels; compiles them.
int began_has_kernels(int device, int bfloat16) {
  BEGAN_GUARD(-1, {
    c10::impl::VirtualGuardImpl(c10::DeviceType::CUDA)
        .setDevice(c10::Device(c10::DeviceType::CUDA, static_cast<c10::DeviceIndex>(device)));
    return kernels(device, bfloat16 != 0) ? 1 : 0;
  })
}

// Compiles the kernels for a GPU that need not be here; the length of the machine code, or -1 with NVRTC's words.
int64_t began_compile_kernels(int major, int minor, int bfloat16) {
  BEGAN_GUARD(-1, { return static_cast<int64_t>(compile(major, minor, bfloat16 != 0).size()); })
}

}  // extern "C"
