// Tensor operations of libtorch that tch does not expose.
#include "ext.h"

#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <ATen/Version.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/version.h>

#include <c10/core/CachingDeviceAllocator.h>

#include <cstdlib>
#include <dlfcn.h>
#include <malloc.h>

namespace {
std::vector<at::Tensor> list(at::Tensor* const* tensors, size_t count) {
  std::vector<at::Tensor> out;
  out.reserve(count);
  for (size_t i = 0; i < count; ++i) out.push_back(*tensors[i]);
  return out;
}
}  // namespace

extern "C" {

// Gradients of one output over `inputs`; `seed` is the gradient of the output, or null for a scalar's 1.
// Gives `count` new tensors through `out`.
int began_grad(at::Tensor* output, at::Tensor* seed, at::Tensor* const* inputs, size_t count, at::Tensor** out) {
  BEGAN_GUARD(-1, {
    std::vector<at::Tensor> seeds;
    if (seed) seeds.push_back(*seed);
    auto grads = torch::autograd::grad({*output}, list(inputs, count), seeds);
    for (size_t i = 0; i < count; ++i) out[i] = new at::Tensor(std::move(grads[i]));
    return 0;
  })
}

int began_foreach_copy(at::Tensor* const* to, at::Tensor* const* from, size_t count) {
  BEGAN_GUARD(-1, {
    at::NoGradGuard no_grad;
    at::_foreach_copy_(list(to, count), list(from, count));
    return 0;
  })
}

int began_add_scaled(at::Tensor* to, at::Tensor* from, double scale) {
  BEGAN_GUARD(-1, {
    at::NoGradGuard no_grad;
    to->add_(*from, scale);
    return 0;
  })
}

int began_fused_adam(at::Tensor* weights, at::Tensor* gradient, at::Tensor* m, at::Tensor* v, at::Tensor* step,
                     double rate, double beta1, double beta2, double epsilon) {
  BEGAN_GUARD(-1, {
    at::NoGradGuard no_grad;
    at::_fused_adam_({*weights}, {*gradient}, {*m}, {*v}, {}, {*step}, rate, beta1, beta2, /*weight_decay=*/0.0,
                     epsilon, /*amsgrad=*/false, /*maximize=*/false);
    return 0;
  })
}

at::Tensor* began_channels_last(at::Tensor* tensor) {
  BEGAN_GUARD(nullptr, { return new at::Tensor(tensor->contiguous(at::MemoryFormat::ChannelsLast)); })
}

// The same results every time: deterministic algorithms, no autotuning, full f32.
int began_deterministic() {
  BEGAN_GUARD(-1, {
    auto& context = at::globalContext();
    context.setDeterministicAlgorithms(true, /*warn_only=*/false);
    // Every element is written before it is read; filling new tensors first would be one pass over memory for each.
    context.setDeterministicFillUninitializedMemory(false);
    context.setDeterministicCuDNN(true);
    context.setBenchmarkCuDNN(false);
    context.setAllowTF32CuDNN(false);
    context.setAllowTF32CuBLAS(false);
    // Sums of bfloat16 products stay in f32.
    context.setAllowBF16ReductionCuBLAS(false);
    return 0;
  })
}

int began_tf32(int allowed) {
  BEGAN_GUARD(-1, {
    at::globalContext().setAllowTF32CuDNN(allowed != 0);
    at::globalContext().setAllowTF32CuBLAS(allowed != 0);
    return 0;
  })
}

// A copy in memory that a GPU can read and write by itself.
at::Tensor* began_pinned(at::Tensor* tensor) {
  BEGAN_GUARD(nullptr, { return new at::Tensor(tensor->pin_memory()); })
}

// A copy on the host, in such memory; whole once the stream's work up to here is done.
at::Tensor* began_to_host(at::Tensor* tensor) {
  BEGAN_GUARD(nullptr, {
    at::NoGradGuard no_grad;
    auto out = at::empty(tensor->sizes(), tensor->options().device(at::kCPU).pinned_memory(true));
    out.copy_(*tensor, /*non_blocking=*/true);
    return new at::Tensor(std::move(out));
  })
}

// Bytes of a GPU: most that tensors took at a time, and most that the allocator held.
int began_gpu_memory(int index, int64_t* allocated, int64_t* reserved) {
  BEGAN_GUARD(-1, {
    auto stats = at::getDeviceAllocator(at::kCUDA)->getDeviceStats(static_cast<c10::DeviceIndex>(index));
    *allocated = stats.allocated_bytes[0].peak;
    *reserved = stats.reserved_bytes[0].peak;
    return 0;
  })
}

int began_gpu_total(int index, int64_t* total) {
  BEGAN_GUARD(-1, {
    *total = static_cast<int64_t>(at::getDeviceAllocator(at::kCUDA)->getMemoryInfo(static_cast<c10::DeviceIndex>(index)).second);
    return 0;
  })
}

int began_single_threaded() {
  BEGAN_GUARD(-1, {
    at::set_num_threads(1);
    at::set_num_interop_threads(1);
    return 0;
  })
}

// Keeps freed memory instead of giving it back to the system after every operation: a step's tensors are of the same sizes
// each time, and fresh pages cost a fault each. 1 where the allocator took it.
int began_keep_memory() {
  return mallopt(M_MMAP_MAX, 0) && mallopt(M_TRIM_THRESHOLD, 1 << 30) && mallopt(M_TOP_PAD, 64 << 20);
}

const char* began_torch_version() { return TORCH_VERSION; }

// "AVX2", "AVX512", ...: which CPU kernels were chosen.
const char* began_cpu_capability() {
  static const std::string name = at::get_cpu_capability();
  return name.c_str();
}

// Loads libtorch_cuda, which the binary is not linked to. 0, or -1 with the loader's words.
int began_load_cuda() {
  // cuBLAS gives the same bits every time only with such workspaces; it reads this once.
  setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8", /*overwrite=*/0);
  if (dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_GLOBAL)) return 0;
  const char* why = dlerror();
  began::last_error = why ? why : "libtorch_cuda.so does not load";
  return -1;
}

}  // extern "C"
