// The GIL, given back for as long as C++ computes.
#pragma once

#include <pybind11/pybind11.h>

#include <chrono>
#include <thread>

namespace tuili::bindings {

// For threads that may still run when the interpreter exits. Before Python 3.14 one that then asks for the
// GIL is ended by unwinding its stack, which a destructor turns into std::terminate. Where it would pass C++,
// it stands still until the process has ended: C code throws nothing, so that what is caught there is the
// unwinding, which may not be left.
[[noreturn]] inline void stand_still() {
  for (;;) std::this_thread::sleep_for(std::chrono::hours(1));
}

// As pybind11's gil_scoped_release.
class Released {
 public:
  Released() : state_(PyEval_SaveThread()) {}
  Released(const Released&) = delete;
  Released& operator=(const Released&) = delete;

  ~Released() {
    try {
      PyEval_RestoreThread(state_);
    } catch (...) {
      stand_still();
    }
  }

 private:
  PyThreadState* state_;
};

}  // namespace tuili::bindings
