#include "runtime/step_graphs.h"

#include "base/check.h"

namespace tuili {

void StepGraphs::run(Size size, device::Stream stream, const std::function<void()>& work) {
  Entry& entry = entries_[size];
  if (entry.graph) return device::enqueue(entry.graph.get(), stream);
  if (++entry.n_runs != 2 || n_left_ == 0 || !device::begin_recording(stream)) return work();
  try {
    work();
  } catch (...) {
    device::discard_recording(stream);
    throw;
  }
  try {
    entry.graph.reset(device::end_recording(stream));
    --n_left_;
    device::enqueue(entry.graph.get(), stream);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::out_of_memory) throw;
    entry.graph.reset();
    n_left_ = 0;
    work();  // of which nothing has run
  }
}

}  // namespace tuili
