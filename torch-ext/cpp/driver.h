// The few calls of NVIDIA's driver that are needed; all give 0 for success.
#pragma once

namespace began {

struct Driver {
  int (*start)(unsigned) = nullptr;
  int (*attribute)(int*, int, int) = nullptr;
  int (*context)(void**) = nullptr;
  int (*retain)(void**, int) = nullptr;
  int (*set_context)(void*) = nullptr;
  int (*load)(void**, const void*) = nullptr;
  int (*function)(void**, void*, const char*) = nullptr;
  int (*launch)(void*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void*, void**,
                void**) = nullptr;
};

// The driver acts in a thread's current context, and a thread begins with none: libtorch's runtime makes one current at its first
// call that needs it, which may come later than ours. Makes the device's primary context current, the one that libtorch uses,
// where the thread has none.
void make_current(const Driver& driver, int device);

}  // namespace began
