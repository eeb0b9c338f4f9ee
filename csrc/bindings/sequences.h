// Sequences as Python holds them.
#pragma once

#include <pybind11/pybind11.h>

#include <memory>
#include <utility>
#include <vector>

#include "runtime/sequence.h"

namespace tuili::bindings {

using SharedSequence = std::shared_ptr<Sequence>;

// The sequence, unless a runner is writing to it on another thread.
inline Sequence& idle(Sequence& sequence) {
  TUILI_CHECK(!sequence.in_step, "the sequence is in a step that is still running");
  return sequence;
}

// Pointers to the sequences, none of which may be in a step.
inline std::vector<Sequence*> all_idle(const std::vector<SharedSequence>& sequences) {
  std::vector<Sequence*> pointers;
  for (const SharedSequence& sequence : sequences) {
    TUILI_CHECK(sequence != nullptr, "a sequence is None");
    pointers.push_back(&idle(*sequence));
  }
  return pointers;
}

// Block ids as a list.
inline std::vector<int32_t> ids_of(const Vector<int32_t>& blocks) { return {blocks.begin(), blocks.end()}; }

inline pybind11::list to_list(const Vector<std::pair<int32_t, float>>& best) {
  pybind11::list all;
  for (const auto& [id, value] : best) all.append(pybind11::make_tuple(id, value));
  return all;
}

inline pybind11::tuple to_tuple(const TokenLogprobs& logprobs) {
  return pybind11::make_tuple(logprobs.logprob, to_list(logprobs.best));
}

}  // namespace tuili::bindings
