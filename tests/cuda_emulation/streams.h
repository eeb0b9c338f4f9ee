// What the emulated device knows of its streams: whether work that was given to one beside another is waited
// for. Everything completes at once, so that on the device alone a step might begin too early.
#pragma once

struct CUstream_st {
  CUstream_st* forked_from = nullptr;
  bool has_work = false;  // that forked_from does not wait for
};

struct CUevent_st {
  CUstream_st* marked = nullptr;
};
