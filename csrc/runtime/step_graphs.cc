#include "runtime/step_graphs.h"

#include <utility>

#include "base/check.h"

namespace tuili {

StepGraphs::~StepGraphs() {
  for (const auto& [size, entry] : entries_)
    if (entry.graph) device::destroy_graph(entry.graph);
}

void StepGraphs::run(Size size, device::Stream stream, const std::function<void()>& work) {
  Entry& entry = entries_[size];
  if (entry.graph) return device::enqueue(entry.graph, stream);
  if (++entry.n_runs != 2 || n_left_ == 0 || !device::begin_recording(stream)) return work();
  try {
    work();
  } catch (...) {
    device::discard_recording(stream);
    throw;
  }
  try {
    entry.graph = device::end_recording(stream);
    --n_left_;
    device::enqueue(entry.graph, stream);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::out_of_memory) throw;
    if (entry.graph) device::destroy_graph(std::exchange(entry.graph, nullptr));
    n_left_ = 0;
    work();  // of which nothing has run
  }
}

}  // namespace tuili
