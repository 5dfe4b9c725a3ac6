// The kernels of kernels.cu as those who launch them see them: by number, wherever they run.
#pragma once
#include <c10/core/Device.h>

#include <cstdint>
#include <string>

namespace began {

// As in kernels.cu: the threads of a block at most, the blocks that a multiprocessor runs at a time, the pixels that a thread takes
// at a time.
constexpr int THREADS = 256;
constexpr int BLOCKS_EACH = 4;
constexpr int AT_ONCE = 4;

enum Kernel { BIAS_ELU_BF16, BIAS_ELU_F32, BIAS_ELU_BACKWARD_BF16, BIAS_ELU_BACKWARD_F32, KERNELS };

struct Grid {
  int blocks = 0, threads = 0;
  // Dynamic shared memory of a block, in bytes.
  unsigned shared = 0;
};

// The kernels, ready to run on one device.
class Kernels {
 public:
  virtual ~Kernels() = default;
  virtual int multiprocessors() const = 0;
  // On a GPU behind what this thread's current stream holds; nobody waits for it. `arguments` point to what kernels.cu names.
  virtual void launch(Kernel kernel, const Grid& grid, void** arguments) const = 0;
};

// What BEGAN_FUSED says: kernels on GPUs, nowhere, or on CPUs too. Throws at a word that it does not know.
enum class Fused { ON, OFF, HOST };
Fused fused_wanted();

// The kernels for tensors of this device, or null where there are none; on a GPU they are compiled and loaded, once.
const Kernels* kernels_of(c10::Device device);
const Kernels* kernels_of_gpu(int device);
const Kernels* kernels_of_host();

// The machine code of kernels.cu for compute capability `major`.`minor`, by NVRTC.
std::string compile_kernels(int major, int minor);

}  // namespace began
