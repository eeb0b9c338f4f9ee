// Steps of one token per sequence, recorded: a launch for each kernel costs more than many of them take.
#pragma once

#include <compare>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>

#include "base/device_memory.h"

namespace tuili {

class StepGraphs {
 public:
  static constexpr int kMost = 256;  // graphs, a megabyte each, about

  // What decides every argument of a step's launches. Their pointers are the same in all steps of a size.
  struct Size {
    int64_t n_rows, most_keys;
    int64_t n_sources = 0, most_source_rows = 0, most_source_keys = 0;  // of an encoder-decoder
    auto operator<=>(const Size&) const = default;
  };

  // Enqueues `work`: the first time of a size as it is, so that its kernels are loaded, the second time while
  // it is recorded, and from then on as one graph. Sizes that come when there are kMost, or no memory for
  // another, stay as they are.
  void run(Size size, device::Stream stream, const std::function<void()>& work);

 private:
  struct Entry {
    int64_t n_runs = 0;
    std::unique_ptr<CUgraphExec_st, GiveBack<device::destroy_graph>> graph;
  };
  std::map<Size, Entry> entries_;
  int n_left_ = kMost;
};

}  // namespace tuili
