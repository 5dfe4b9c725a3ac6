// Streams and events of a device, through libtorch's guard interface: no CUDA header is needed, and where no CUDA is, nothing here is called.
#include "ext.h"

#include <ATen/core/Tensor.h>
#include <c10/core/Event.h>
#include <c10/core/Stream.h>
#include <c10/core/impl/VirtualGuardImpl.h>

namespace {
c10::Device cuda(int index) { return c10::Device(c10::DeviceType::CUDA, static_cast<c10::DeviceIndex>(index)); }
c10::Stream stream_of(int index, int64_t id) { return c10::Stream(c10::Stream::UNSAFE, cuda(index), id); }
c10::impl::VirtualGuardImpl guard() { return c10::impl::VirtualGuardImpl(c10::DeviceType::CUDA); }
}  // namespace

extern "C" {

// A stream of the device's own pool that is nobody's current one; `high`: before others where the device must choose.
int began_stream_new(int index, int high, int64_t* id) {
  BEGAN_GUARD(-1, {
    *id = guard().getNewStream(cuda(index), high ? -1 : 0).id();
    return 0;
  })
}

// The stream on which this thread's operations go.
int began_stream_current(int index, int64_t* id) {
  BEGAN_GUARD(-1, {
    *id = guard().getStream(cuda(index)).id();
    return 0;
  })
}

// Makes a stream this thread's current one; gives the one before.
int began_stream_exchange(int index, int64_t id, int64_t* before) {
  BEGAN_GUARD(-1, {
    *before = guard().exchangeStream(stream_of(index, id)).id();
    return 0;
  })
}

// The cudaStream_t behind it. The default stream's is null, so the answer comes beside the code.
int began_stream_native(int index, int64_t id, void** native) {
  BEGAN_GUARD(-1, {
    *native = guard().getStreamNativeHandle(stream_of(index, id));
    return 0;
  })
}

// Makes the device this thread's current one: a new thread begins at device 0.
int began_device_set(int index) {
  BEGAN_GUARD(-1, {
    guard().setDevice(cuda(index));
    return 0;
  })
}

// Waits on the host until all that was put on the stream is done.
int began_stream_synchronize(int index, int64_t id) {
  BEGAN_GUARD(-1, {
    guard().synchronizeStream(stream_of(index, id));
    return 0;
  })
}

// The tensor's memory is not given out again before what this stream holds now is done.
int began_record_stream(at::Tensor* tensor, int index, int64_t id) {
  BEGAN_GUARD(-1, {
    tensor->record_stream(stream_of(index, id));
    return 0;
  })
}

c10::Event* began_event_new(int timing) {
  BEGAN_GUARD(nullptr, {
    const auto flag = timing ? c10::EventFlag::BACKEND_DEFAULT : c10::EventFlag::PYTORCH_DEFAULT;
    return new c10::Event(c10::DeviceType::CUDA, flag);
  })
}

void began_event_free(c10::Event* event) { delete event; }

int began_event_record(c10::Event* event, int index, int64_t id) {
  BEGAN_GUARD(-1, {
    event->record(stream_of(index, id));
    return 0;
  })
}

// What is put on the stream from now on waits for the event.
int began_event_block(c10::Event* event, int index, int64_t id) {
  BEGAN_GUARD(-1, {
    event->block(stream_of(index, id));
    return 0;
  })
}

// 1: done, 0: not yet, -1: the device failed.
int began_event_query(c10::Event* event) {
  BEGAN_GUARD(-1, { return event->query() ? 1 : 0; })
}

// Milliseconds from one to the other; both were made for timing and are done.
int began_event_elapsed(c10::Event* from, c10::Event* to, double* milliseconds) {
  BEGAN_GUARD(-1, {
    *milliseconds = from->elapsedTime(*to);
    return 0;
  })
}

}  // extern "C"
