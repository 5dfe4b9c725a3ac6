// libtorch's own profiler (kineto, over CUPTI on a GPU): what was called on the host and what ran on the device, with times.
#include "ext.h"

#include <torch/csrc/autograd/profiler_kineto.h>

namespace {
namespace impl = torch::profiler::impl;
namespace profiler = torch::autograd::profiler;
}  // namespace

extern "C" {

// Begins to record what this thread calls and, with `cuda`, everything that runs on this process's GPUs.
int began_profiler_start(int cuda) {
  BEGAN_GUARD(-1, {
    const impl::ProfilerConfig config(impl::ProfilerState::KINETO);
    std::set<impl::ActivityType> activities{impl::ActivityType::CPU};
    if (cuda) activities.insert(impl::ActivityType::CUDA);
    profiler::prepareProfiler(config, activities);
    profiler::enableProfiler(config, activities);
    return 0;
  })
}

// Ends it. Writes what was recorded in Chrome's trace format, unless `path` is null.
int began_profiler_stop(const char* path) {
  BEGAN_GUARD(-1, {
    const auto result = profiler::disableProfiler();
    if (path) {
      TORCH_CHECK(result, "the profiler recorded nothing");
      result->save(path);
    }
    return 0;
  })
}

}  // extern "C"
