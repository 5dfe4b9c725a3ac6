// The kernels on a GPU, through NVIDIA's driver.
#include "driver.h"
#include "ext.h"
#include "kernels.h"
#include "library.h"

#include <c10/core/DeviceGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <array>
#include <map>
#include <memory>
#include <mutex>

namespace began {
namespace {

void check(int code, const char* call) { TORCH_CHECK(code == 0, call, " gives error ", code); }

const Driver& driver() {
  static const Driver found = [] {
    void* library = open_first({"libcuda.so.1"});
    Driver f;
    find(library, "cuInit", f.start);
    find(library, "cuDeviceGetAttribute", f.attribute);
    find(library, "cuCtxGetCurrent", f.context);
    find(library, "cuDevicePrimaryCtxRetain", f.retain);
    find(library, "cuCtxSetCurrent", f.set_context);
    find(library, "cuModuleLoadData", f.load);
    find(library, "cuModuleGetFunction", f.function);
    find(library, "cuLaunchKernel", f.launch);
    check(f.start(0), "cuInit");
    return f;
  }();
  return found;
}

// CUdevice_attribute's numbers.
enum Attribute { MULTIPROCESSOR_COUNT = 16, CAPABILITY_MAJOR = 75, CAPABILITY_MINOR = 76 };

class OnGpu final : public Kernels {
 public:
  explicit OnGpu(int device) : device_(c10::DeviceType::CUDA, static_cast<c10::DeviceIndex>(device)) {
    const int major = attribute(CAPABILITY_MAJOR), minor = attribute(CAPABILITY_MINOR);
    TORCH_CHECK(major >= 8, "the kernels need compute capability 8.0, this is ", major, ".", minor);
    multiprocessors_ = attribute(MULTIPROCESSOR_COUNT);
    const std::string code = compile_kernels(major, minor);
    const c10::DeviceGuard guard(device_);
    make_current(driver(), device_.index());
    void* module = nullptr;
    check(driver().load(&module, code.data()), "cuModuleLoadData");
    const char* const names[KERNELS] = {"bias_elu_bf16", "bias_elu_f32", "bias_elu_backward_bf16", "bias_elu_backward_f32"};
    for (int kernel = 0; kernel < KERNELS; ++kernel)
      check(driver().function(&functions_[kernel], module, names[kernel]), "cuModuleGetFunction");
  }

  int multiprocessors() const override { return multiprocessors_; }

  // From any thread: the module belongs to the device's primary context, not to the thread that loaded it.
  void launch(Kernel kernel, const Grid& grid, void** arguments) const override {
    const c10::DeviceGuard guard(device_);
    make_current(driver(), device_.index());
    const c10::impl::VirtualGuardImpl streams(c10::DeviceType::CUDA);
    void* stream = streams.getStreamNativeHandle(streams.getStream(device_));
    check(driver().launch(functions_[kernel], grid.blocks, 1, 1, grid.threads, 1, 1, grid.shared, stream, arguments, nullptr),
          "cuLaunchKernel");
  }

 private:
  // Ordinals of devices are the runtime's.
  int attribute(Attribute which) const {
    int value = 0;
    check(driver().attribute(&value, which, device_.index()), "cuDeviceGetAttribute");
    return value;
  }

  c10::Device device_;
  int multiprocessors_ = 0;
  std::array<void*, KERNELS> functions_{};
};

}  // namespace

void make_current(const Driver& driver, int device) {
  void* context = nullptr;
  check(driver.context(&context), "cuCtxGetCurrent");
  if (context) return;
  // Never released: it lasts as long as libtorch's use of the device, which is the process.
  check(driver.retain(&context, device), "cuDevicePrimaryCtxRetain");
  check(driver.set_context(context), "cuCtxSetCurrent");
}

const Kernels* kernels_of_gpu(int device) {
  static std::mutex lock;
  static std::map<int, std::unique_ptr<Kernels>> known;
  std::lock_guard<std::mutex> guard(lock);
  auto [at, is_new] = known.try_emplace(device);
  // Tried once.
  if (is_new) {
    try {
      TORCH_CHECK(fused_wanted() != Fused::OFF, "BEGAN_FUSED=off");
      at->second = std::make_unique<OnGpu>(device);
    } catch (const std::exception& error) {
      TORCH_WARN("bias and ELU go in two passes: ", std::string(error.what()).substr(0, 300));
    }
  }
  return at->second.get();
}

}  // namespace began

extern "C" {

// make_current over a driver that is made up, for a test.
int began_make_current(int (*context)(void**), int (*retain)(void**, int), int (*set_context)(void*), int device) {
  BEGAN_GUARD(-1, {
    began::Driver driver;
    driver.context = context;
    driver.retain = retain;
    driver.set_context = set_context;
    began::make_current(driver, device);
    return 0;
  })
}

}  // extern "C"
