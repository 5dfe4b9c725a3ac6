// libtorch's own Gloo behind a C face, with a rendezvous that asks Rust.
#include "ext.h"

#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>

#include <algorithm>
#include <cstdint>
#include <cstring>

using Bytes = std::vector<uint8_t>;

extern "C" {
// How Rust hands bytes back: called once for each value, with a pointer to a std::vector<Bytes>.
typedef void (*PutBytes)(void* values, const uint8_t* data, size_t size);

// The rendezvous as Rust gives it. Functions return 0, or -1 with the error's text put as one value.
struct StoreFace {
  void* self;
  int (*set)(void* self, const char* key, const uint8_t* value, size_t size, void* out);
  int (*get)(void* self, const char* const* keys, size_t count, int64_t timeout_ms, void* out);
  int (*add)(void* self, const char* key, int64_t amount, int64_t* sum, void* out);
  int (*append)(void* self, const char* key, const uint8_t* value, size_t size, void* out);
  int (*remove)(void* self, const char* key, int64_t* removed, void* out);
  int (*compare_set)(void* self, const char* key, const uint8_t* expected, size_t expected_size,
                     const uint8_t* desired, size_t desired_size, void* out);
  void (*drop)(void* self);
};
}

namespace {

class ExchangeStore final : public c10d::Store {
 public:
  explicit ExchangeStore(StoreFace face, std::chrono::milliseconds timeout) : Store(timeout), face_(face) {}
  ExchangeStore(const ExchangeStore&) = delete;
  ~ExchangeStore() override { face_.drop(face_.self); }

  // Rust's side is safe to call from any thread, so the copy can be this very object.
  c10::intrusive_ptr<Store> clone() override {
    return c10::intrusive_ptr<Store>::unsafe_reclaim_from_nonowning(this);
  }

  using Store::compareSet;
  using Store::set;

  void set(const std::string& key, const Bytes& value) override {
    std::vector<Bytes> out;
    check_code(face_.set(face_.self, key.c_str(), value.data(), value.size(), &out), out);
  }
  Bytes get(const std::string& key) override { return fetch({key}, timeout_).at(0); }
  std::vector<Bytes> multiGet(const std::vector<std::string>& keys) override { return fetch(keys, timeout_); }
  void multiSet(const std::vector<std::string>& keys, const std::vector<Bytes>& values) override {
    for (size_t i = 0; i < keys.size(); ++i) set(keys.at(i), values.at(i));
  }
  void append(const std::string& key, const Bytes& value) override {
    std::vector<Bytes> out;
    check_code(face_.append(face_.self, key.c_str(), value.data(), value.size(), &out), out);
  }
  bool hasExtendedApi() const override { return true; }
  int64_t add(const std::string& key, int64_t amount) override {
    std::vector<Bytes> out;
    int64_t sum = 0;
    check_code(face_.add(face_.self, key.c_str(), amount, &sum, &out), out);
    return sum;
  }
  bool deleteKey(const std::string& key) override {
    std::vector<Bytes> out;
    int64_t removed = 0;
    check_code(face_.remove(face_.self, key.c_str(), &removed, &out), out);
    return removed > 0;
  }
  Bytes compareSet(const std::string& key, const Bytes& expected, const Bytes& desired) override {
    std::vector<Bytes> out;
    check_code(face_.compare_set(face_.self, key.c_str(), expected.data(), expected.size(), desired.data(),
                                 desired.size(), &out), out);
    return out.at(0);
  }
  bool check(const std::vector<std::string>& keys) override {
    std::vector<Bytes> out;
    return call_get(keys, std::chrono::milliseconds(0), out) == 0;
  }
  int64_t getNumKeys() override { TORCH_CHECK(false, "the exchange does not count its keys"); }
  void wait(const std::vector<std::string>& keys) override { fetch(keys, timeout_); }
  void wait(const std::vector<std::string>& keys, const std::chrono::milliseconds& timeout) override {
    fetch(keys, timeout);
  }

 private:
  int call_get(const std::vector<std::string>& keys, std::chrono::milliseconds timeout, std::vector<Bytes>& out) {
    std::vector<const char*> names;
    names.reserve(keys.size());
    for (const auto& key : keys) names.push_back(key.c_str());
    return face_.get(face_.self, names.data(), names.size(), timeout.count(), &out);
  }
  std::vector<Bytes> fetch(const std::vector<std::string>& keys, std::chrono::milliseconds timeout) {
    std::vector<Bytes> out;
    check_code(call_get(keys, timeout, out), out);
    TORCH_CHECK(out.size() == keys.size(), "the exchange gave ", out.size(), " values for ", keys.size(), " keys");
    return out;
  }
  static void check_code(int code, const std::vector<Bytes>& out) {
    if (code == 0) return;
    TORCH_CHECK(false, out.empty() ? std::string("the exchange failed") : std::string(out[0].begin(), out[0].end()));
  }

  StoreFace face_;
};

struct Device {
  std::shared_ptr<::gloo::transport::Device> gloo;
};

struct Group {
  c10::intrusive_ptr<c10d::ProcessGroupGloo> gloo;
};

// One message to or from a peer. It keeps its tensor alive for as long as Gloo's thread may touch it.
struct Transfer {
  c10::intrusive_ptr<c10d::Work> work;
  at::Tensor tensor;
};

}  // namespace

extern "C" {

void began_put_bytes(void* values, const uint8_t* data, size_t size) {
  static_cast<std::vector<Bytes>*>(values)->emplace_back(data, data + size);
}

const char* began_last_error() { return began::last_error.c_str(); }

// Listens from now on, so that others may connect before this member does.
Device* began_gloo_device(const char* address) {
  BEGAN_GUARD(nullptr, { return new Device{c10d::ProcessGroupGloo::createDeviceForHostname(address)}; })
}

void began_gloo_device_free(Device* device) {
  try {
    delete device;
  } catch (...) {
  }
}

Group* began_gloo_new(StoreFace face, int rank, int world, const Device* device, int64_t timeout_ms) {
  BEGAN_GUARD(nullptr, {
    auto timeout = std::chrono::milliseconds(timeout_ms);
    auto store = c10::make_intrusive<ExchangeStore>(face, timeout);
    auto options = c10d::ProcessGroupGloo::Options::create(timeout);
    // Its threads serve collectives, and only messages are used here.
    options->threads = 1;
    options->devices.push_back(device->gloo);
    return new Group{c10::make_intrusive<c10d::ProcessGroupGloo>(store, rank, world, options)};
  })
}

void began_gloo_free(Group* group) {
  try {
    delete group;
  } catch (...) {  // a peer that is gone already is no concern of a destructor
  }
}

Transfer* began_gloo_send(Group* group, at::Tensor* tensor, int to, int tag) {
  BEGAN_GUARD(nullptr, {
    std::vector<at::Tensor> tensors{*tensor};
    return new Transfer{group->gloo->send(tensors, to, tag), *tensor};
  })
}

Transfer* began_gloo_receive(Group* group, at::Tensor* tensor, int from, int tag) {
  BEGAN_GUARD(nullptr, {
    std::vector<at::Tensor> tensors{*tensor};
    return new Transfer{group->gloo->recv(tensors, from, tag), *tensor};
  })
}

// Blocks until it is done (1), aborted (0), or failed (-1). A time limit that passes fails everything of the group.
int began_transfer_wait(Transfer* transfer, int64_t milliseconds) {
  BEGAN_GUARD(-1, { return transfer->work->wait(std::chrono::milliseconds(std::max<int64_t>(milliseconds, 1))) ? 1 : 0; })
}

// From any thread: ends the wait under way, or the next one.
void began_transfer_abort(Transfer* transfer) {
  try {
    transfer->work->abort();
  } catch (...) {  // what cannot be aborted is done or failed
  }
}

void began_transfer_free(Transfer* transfer) {
  try {
    delete transfer;
  } catch (...) {
  }
}

}  // extern "C"
