// Compiles kernels.cu for a GPU when the program runs, with NVIDIA's run-time compiler where it is.
#include "kernels.h"
#include "library.h"

#include <ATen/Parallel.h>

#include <cstdlib>
#include <filesystem>

namespace began {
namespace {

const char* const SOURCE =
// build.rs makes a string of the file.
#include "kernels.cu.string"
    ;

// The few calls that are needed; all give 0 for success.
struct Nvrtc {
  int (*create)(void**, const char*, const char*, int, const char* const*, const char* const*) = nullptr;
  int (*compile)(void*, int, const char* const*) = nullptr;
  int (*size)(void*, size_t*) = nullptr;
  int (*code)(void*, char*) = nullptr;
  int (*log_size)(void*, size_t*) = nullptr;
  int (*log)(void*, char*) = nullptr;
  int (*destroy)(void**) = nullptr;
};

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

}  // namespace

std::string compile_kernels(int major, int minor) {
  const auto& f = nvrtc();
  const std::string target = "--gpu-architecture=sm_" + std::to_string(major) + std::to_string(minor);
  const char* const options[] = {target.c_str(), "--std=c++17"};
  void* program = nullptr;
  TORCH_CHECK(f.create(&program, SOURCE, "kernels.cu", 0, nullptr, nullptr) == 0, "NVRTC makes no program");
  const int failed = f.compile(program, 2, options);
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

}  // namespace began
