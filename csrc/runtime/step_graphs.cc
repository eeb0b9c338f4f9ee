#include "runtime/step_graphs.h"

namespace tuili {
namespace {

constexpr size_t kMostGraphs = 256;  // a megabyte each, about

}  // namespace

StepGraphs::~StepGraphs() {
  for (const auto& [size, entry] : entries_)
    if (entry.graph) device::destroy_graph(entry.graph);
}

void StepGraphs::run(Size size, device::Stream stream, const std::function<void()>& work) {
  if (entries_.size() >= kMostGraphs && !entries_.contains(size)) return work();
  Entry& entry = entries_[size];
  if (entry.graph) return device::enqueue(entry.graph, stream);
  if (++entry.n_runs != 2 || !device::begin_recording(stream)) return work();
  try {
    work();
  } catch (...) {
    device::discard_recording(stream);
    throw;
  }
  entry.graph = device::end_recording(stream);
  device::enqueue(entry.graph, stream);
}

}  // namespace tuili
