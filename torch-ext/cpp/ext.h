// What every file of the shim shares: no exception may cross into Rust.
#pragma once
#include <exception>
#include <string>

namespace began {
inline thread_local std::string last_error;
}

// Runs the body; an exception becomes the last error of this thread and the value `bad`.
#define BEGAN_GUARD(bad, ...)                                   \
  try {                                                         \
    __VA_ARGS__                                                 \
  } catch (const std::exception& error) {                       \
    began::last_error = error.what();                           \
    return bad;                                                 \
  } catch (...) {                                               \
    began::last_error = "an exception of an unknown type";      \
    return bad;                                                 \
  }
