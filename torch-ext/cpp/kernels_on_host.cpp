// The kernels of kernels.cu, compiled for the host.
#include "kernels.h"

#include <utility>

#include "on_host.h"

namespace began {
namespace on_host {

constexpr size_t SHARED_BYTES = 16 << 10;
__thread float sums[SHARED_BYTES / sizeof(float)];

#include "kernels.cu"

static_assert(THREADS == began::THREADS && BLOCKS_EACH == began::BLOCKS_EACH && AT_ONCE == began::AT_ONCE);

}  // namespace on_host

namespace {

// What this thread runs kernels with; negative: what BEGAN_FUSED says.
thread_local int forced_order = -1;
thread_local uint64_t launches = 0;

template <typename... Parameters, size_t... N>
void call(void (*kernel)(Parameters...), void** arguments, std::index_sequence<N...>) {
  kernel(*static_cast<Parameters*>(arguments[N])...);
}

template <typename... Parameters>
void run(void (*kernel)(Parameters...), const Grid& grid, void** arguments) {
  const auto order = forced_order > 0 ? on_host::Order::DESCENDING : on_host::Order::ASCENDING;
  on_host::run(grid.blocks, grid.threads, {on_host::sums, grid.shared, on_host::SHARED_BYTES}, order,
               [&] { call(kernel, arguments, std::index_sequence_for<Parameters...>()); });
}

class OnHost final : public Kernels {
 public:
  // One, so that the blocks are few and their threads have several turns already with small tensors.
  int multiprocessors() const override { return 1; }

  void launch(Kernel kernel, const Grid& grid, void** arguments) const override {
    ++launches;
    switch (kernel) {
      case BIAS_ELU_BF16: return run(on_host::bias_elu_bf16, grid, arguments);
      case BIAS_ELU_F32: return run(on_host::bias_elu_f32, grid, arguments);
      case BIAS_ELU_BACKWARD_BF16: return run(on_host::bias_elu_backward_bf16, grid, arguments);
      case BIAS_ELU_BACKWARD_F32: return run(on_host::bias_elu_backward_f32, grid, arguments);
      case KERNELS: break;
    }
  }
};

}  // namespace

const Kernels* kernels_of_host() {
  static const OnHost kernels;
  return forced_order >= 0 || fused_wanted() == Fused::HOST ? &kernels : nullptr;
}

}  // namespace began

extern "C" {

// Runs this thread's kernels on the host from now on, whatever BEGAN_FUSED says: 0 in ascending order, 1 in descending; -1 as it
// says again. Gives what held before.
int began_order_on_host(int order) { return std::exchange(began::forced_order, order); }

// How many kernels this thread has run on the host.
uint64_t began_launches_on_host() { return began::launches; }

}  // extern "C"
