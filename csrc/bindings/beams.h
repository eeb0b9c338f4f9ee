// Beam searches as Python holds them.
#pragma once

#include <pybind11/pybind11.h>

#include <exception>
#include <memory>
#include <utility>

#include "runtime/beam_rows.h"

namespace tuili::bindings {

// With what went wrong in its last step, which is its own affair: other searches take theirs in the same
// call.
struct SteppedRows : BeamRows {
  using BeamRows::BeamRows;
  std::exception_ptr error;

  // Throws that.
  void check() {
    if (const std::exception_ptr thrown = std::exchange(error, nullptr)) std::rethrow_exception(thrown);
  }
};

using SharedRows = std::shared_ptr<SteppedRows>;

// What a callable answers, which has to outlive it; None: nothing ends a beam.
EndsBeam asking(pybind11::handle ends);

}  // namespace tuili::bindings
