// The GIL, given back for as long as C++ computes.
#pragma once

#include <pybind11/pybind11.h>

#include <chrono>
#include <thread>

namespace tuili::bindings {

// As pybind11's gil_scoped_release, for threads that may still run when the interpreter exits. Before
// Python 3.14 one that then asks for the GIL is ended by unwinding its stack, which a destructor turns into
// std::terminate. Here it stands still until the process has ended.
class Released {
 public:
  Released() : state_(PyEval_SaveThread()) {}
  Released(const Released&) = delete;
  Released& operator=(const Released&) = delete;

  ~Released() {
    try {
      PyEval_RestoreThread(state_);
    } catch (...) {  // C code throws nothing: this is the unwinding, which may not be left
      for (;;) std::this_thread::sleep_for(std::chrono::hours(1));
    }
  }

 private:
  PyThreadState* state_;
};

}  // namespace tuili::bindings
