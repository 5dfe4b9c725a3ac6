// Functions out of libraries that need not be there.
#pragma once
#include <c10/util/Exception.h>
#include <c10/util/StringUtil.h>

#include <dlfcn.h>

#include <string>
#include <vector>

namespace began {

inline void* open_first(const std::vector<std::string>& names) {
  for (const auto& name : names)
    if (void* library = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL)) return library;
  TORCH_CHECK(false, "none of these loads: ", c10::Join(", ", names));
}

template <typename F>
void find(void* library, const char* name, F& into) {
  into = reinterpret_cast<F>(dlsym(library, name));
  TORCH_CHECK(into, name, " is missing");
}

}  // namespace began
