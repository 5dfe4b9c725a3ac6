// The torch wheel leaves gloo's headers out; only pointers to these types are stored here.
#pragma once
namespace gloo::transport {
class Device;
class UnboundBuffer;
}  // namespace gloo::transport
