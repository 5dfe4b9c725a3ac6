// The torch wheel leaves gloo's headers out; only pointers to this type are stored here.
#pragma once
#include <chrono>
namespace gloo {
class Context {
 public:
  void setTimeout(std::chrono::milliseconds);
};
}  // namespace gloo
