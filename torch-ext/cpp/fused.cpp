// Bias and ELU in one pass over memory, forward and backward: by the kernels of kernels.cu where the device has them and the
// tensors fit, everywhere else by libtorch's own operations. Both ways give the same values but for rounding; a kernel that cannot
// be had is never an error.
#include "ext.h"
#include "kernels.h"

#include <ATen/ATen.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

namespace began {

Fused fused_wanted() {
  static const Fused found = [] {
    const char* given = std::getenv("BEGAN_FUSED");
    const std::string word = given ? given : "on";
    if (word == "on") return Fused::ON;
    if (word == "off") return Fused::OFF;
    TORCH_CHECK(word == "host", "BEGAN_FUSED is '", word, "': it is on (as if it were not set), off or host");
    return Fused::HOST;
  }();
  return found;
}

const Kernels* kernels_of(c10::Device device) {
  fused_wanted();
  if (device.is_cuda()) return kernels_of_gpu(device.index());
  return device.is_cpu() ? kernels_of_host() : nullptr;
}

namespace {

// What a kernel reads and writes in words of 16 bytes.
bool aligned(const at::Tensor& tensor) { return reinterpret_cast<uintptr_t>(tensor.data_ptr()) % 16 == 0; }

// How the kernels go over `y`, `[B,C,H,W]`; without kernels where they do not fit it.
struct Plan {
  const Kernels* kernels = nullptr;
  bool bfloat16 = false;
  // 16 bytes of a pixel are this many channels.
  int lanes = 0, pixels = 0, width = 0;
  Grid grid;

  explicit Plan(const at::Tensor& y) {
    bfloat16 = y.scalar_type() == at::kBFloat16;
    if (!bfloat16 && y.scalar_type() != at::kFloat) return;
    lanes = bfloat16 ? 8 : 4;
    const int64_t channels = y.size(1), all = y.numel() / std::max<int64_t>(channels, 1);
    if (!y.is_contiguous(at::MemoryFormat::ChannelsLast) || channels % lanes != 0 || channels / lanes > THREADS || all == 0 ||
        all > (1 << 30) || !aligned(y))
      return;
    kernels = kernels_of(y.device());
    if (!kernels) return;
    pixels = static_cast<int>(all);
    width = static_cast<int>(channels / lanes);
    grid.threads = THREADS / width * width;
    // As many blocks as the pixels give a turn of work to, and no more than run at a time.
    const int turn = AT_ONCE * (grid.threads / width);
    grid.blocks = std::min((pixels + turn - 1) / turn, kernels->multiprocessors() * BLOCKS_EACH);
  }
};

class BiasElu : public torch::autograd::Function<BiasElu> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* context, at::Tensor y, const at::Tensor& bias) {
    at::AutoDispatchBelowADInplaceOrView below;
    // An unknown word is an error for every tensor, whether kernels fit it or not.
    fused_wanted();
    Plan plan(y);
    if (plan.kernels && bias.scalar_type() == y.scalar_type() && bias.is_contiguous() && aligned(bias)) {
      void *at_y = y.data_ptr(), *at_bias = bias.data_ptr();
      void* arguments[] = {&at_y, &at_bias, &plan.pixels, &plan.width};
      plan.kernels->launch(plan.bfloat16 ? BIAS_ELU_BF16 : BIAS_ELU_F32, plan.grid, arguments);
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
    Plan plan(y);
    if (plan.kernels) {
      gradient = gradient.to(y.scalar_type()).contiguous(at::MemoryFormat::ChannelsLast);
      if (aligned(gradient)) {
        at::Tensor out = at::empty_like(y);
        at::Tensor partial = at::empty({plan.grid.blocks, y.size(1)}, y.options().dtype(at::kFloat));
        plan.grid.shared = plan.grid.threads * plan.lanes * sizeof(float);
        void *at_gradient = gradient.data_ptr(), *at_y = y.data_ptr(), *at_out = out.data_ptr(),
             *at_partial = partial.data_ptr();
        void* arguments[] = {&at_gradient, &at_y, &at_out, &at_partial, &plan.pixels, &plan.width};
        plan.kernels->launch(plan.bfloat16 ? BIAS_ELU_BACKWARD_BF16 : BIAS_ELU_BACKWARD_F32, plan.grid, arguments);
        return {out, partial.sum(0).to(y.scalar_type())};
      }
    }
    at::Tensor out = at::elu_backward(gradient, 1, 1, 1, /*is_result=*/true, y);
    return {out, out.sum({0, 2, 3})};
  }
};

}  // namespace
}  // namespace began

extern "C" {

// ELU(y + bias) in the place of y, `[B,C,H,W]`, bias `[C]`.
at::Tensor* began_bias_elu(at::Tensor* y, at::Tensor* bias) {
  BEGAN_GUARD(nullptr, { return new at::Tensor(began::BiasElu::apply(*y, *bias)); })
}

// Whether a GPU of this index, or the host where it is negative, has the kernels; compiles them.
int began_has_kernels(int device) {
  BEGAN_GUARD(-1, {
    if (device < 0) return began::kernels_of(c10::Device(c10::DeviceType::CPU)) ? 1 : 0;
    const c10::Device gpu(c10::DeviceType::CUDA, static_cast<c10::DeviceIndex>(device));
    c10::impl::VirtualGuardImpl(c10::DeviceType::CUDA).setDevice(gpu);
    return began::kernels_of(gpu) ? 1 : 0;
  })
}

// The kernels' machine code for a GPU that need not be here, as a tensor of bytes.
at::Tensor* began_compile_kernels(int major, int minor) {
  BEGAN_GUARD(nullptr, {
    const std::string code = began::compile_kernels(major, minor);
    auto out = at::empty({static_cast<int64_t>(code.size())}, at::kByte);
    std::memcpy(out.data_ptr(), code.data(), code.size());
    return new at::Tensor(std::move(out));
  })
}

}  // extern "C"
