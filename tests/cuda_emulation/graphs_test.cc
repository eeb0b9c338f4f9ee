// What StepGraphs records and what it does without, on a device that takes notes.
#include <string>

#include "base/check.h"
#include "runtime/step_graphs.h"
#include "testing.h"

struct CUgraphExec_st {};

namespace tuili::device {
namespace {

struct Notes {
  std::string calls = {};    // b: begin_recording, e: end, d: discard, q: enqueue, x: destroy_graph
  std::string full_at = {};  // the call that finds no memory
  bool can_record = true;
  int n_graphs = 0;  // that exist

  void note(char call) {
    calls += call;
    if (full_at == std::string{call}) throw Error(ErrorKind::out_of_memory, "graph: full");
  }
} notes;

}  // namespace

bool begin_recording(Stream) {
  notes.note('b');
  return notes.can_record;
}
Graph end_recording(Stream) {
  notes.note('e');
  ++notes.n_graphs;
  return new CUgraphExec_st;
}
void discard_recording(Stream) noexcept { notes.calls += 'd'; }
void enqueue(Graph, Stream) { notes.note('q'); }
void destroy_graph(Graph graph) noexcept {
  notes.calls += 'x';
  --notes.n_graphs;
  delete graph;
}

}  // namespace tuili::device

namespace {

using namespace tuili;  // NOLINT: a test file
using device::notes;
using testing::require;

// What happens in a run of this size; w: the work is called.
std::string calls_of(StepGraphs& graphs, StepGraphs::Size size) {
  notes.calls.clear();
  graphs.run(size, nullptr, [] { notes.calls += 'w'; });
  return notes.calls;
}

void require_calls(StepGraphs& graphs, StepGraphs::Size size, const std::string& expected) {
  const std::string calls = calls_of(graphs, size);
  require(calls == expected, "calls are ", calls, ", not ", expected);
}

TUILI_TEST(a_size_is_recorded_when_it_comes_again) {
  notes = {};
  {
    StepGraphs graphs;
    for (const StepGraphs::Size size : {StepGraphs::Size{4, 512}, {4, 1024}, {5, 512}}) {
      require_calls(graphs, size, "w");
      require_calls(graphs, size, "bweq");
      require_calls(graphs, size, "q");
    }
    require(notes.n_graphs == 3, notes.n_graphs, " graphs");
  }
  require(notes.n_graphs == 0, notes.n_graphs, " graphs are left");
}

TUILI_TEST(without_recording_everything_runs_as_ever) {
  notes = {.can_record = false};
  StepGraphs graphs;
  require_calls(graphs, {1, 512}, "w");
  require_calls(graphs, {1, 512}, "bw");
  require_calls(graphs, {1, 512}, "w");
}

TUILI_TEST(sizes_that_come_once_leave_room_for_those_that_come_again) {
  notes = {};
  StepGraphs graphs;
  for (int64_t i = 0; i < 2 * StepGraphs::kMost; ++i) require_calls(graphs, {i, 512}, "w");
  for (int64_t i = 0; i < StepGraphs::kMost; ++i) require_calls(graphs, {i, 512}, "bweq");
  require_calls(graphs, {StepGraphs::kMost, 512}, "w");
  require_calls(graphs, {0, 512}, "q");
}

TUILI_TEST(without_memory_for_a_graph_the_step_is_done) {
  for (const char* const call : {"e", "q"}) {
    notes = {.full_at = call};
    StepGraphs graphs;
    require_calls(graphs, {1, 512}, "w");
    require_calls(graphs, {1, 512}, *call == 'e' ? "bwew" : "bweqxw");
    require(notes.n_graphs == 0, notes.n_graphs, " graphs");
    notes.full_at.clear();
    require_calls(graphs, {1, 512}, "w");
    require_calls(graphs, {2, 512}, "w");
    require_calls(graphs, {2, 512}, "w");
  }
}

TUILI_TEST(an_error_ends_the_recording) {
  notes = {};
  StepGraphs graphs;
  require_calls(graphs, {1, 512}, "w");
  notes.calls.clear();
  std::string error;
  try {
    graphs.run({1, 512}, nullptr, [] { throw Error(ErrorKind::internal, "a launch failed"); });
  } catch (const Error& failure) {
    error = failure.what();
  }
  require(error == "a launch failed" && notes.calls == "bd", "\"", error, "\" after ", notes.calls);
  require_calls(graphs, {1, 512}, "w");
}

}  // namespace
