// What an emulated device knows of its streams: whose they are, and whether work that was given to one beside
// another is waited for. Everything completes at once, so that on the device alone a step might begin too
// early.
#pragma once

namespace tuili::emulation {

inline constexpr int kDevices = 2;

inline int& current_device() {  // of this host thread
  static thread_local int device = 0;
  return device;
}

}  // namespace tuili::emulation

struct CUstream_st {
  int device = tuili::emulation::current_device();
  CUstream_st* forked_from = nullptr;
  bool has_work = false;  // that forked_from does not wait for
};

struct CUevent_st {
  int device = tuili::emulation::current_device();
  CUstream_st* marked = nullptr;
};
