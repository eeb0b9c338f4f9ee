// The encoder whose hidden states a model's cross-attention reads: it makes sources into keys and values of
// the cache.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "runtime/batch_lists.h"
#include "runtime/kv_cache.h"
#include "runtime/requests.h"
#include "runtime/staging.h"
#include "runtime/text_pages.h"

namespace tuili {

class SourceEncoder {
 public:
  // What sources are computed in, of the memory that the carver lays out.
  struct Room {
    State state;
    TextPages pages;
    TensorView key, value;  // f32 [max_source_tokens, kept_size]
    static Room take(Carver& carver, const Model& model, const RunnerOptions& options);
  };

  // All outlive it. `reader` is the model's other part.
  SourceEncoder(const ops::Context& context, const Model& model, const Transformer& reader, KvCache& cache,
                const RunnerOptions& options);

  // Cuts its views from the carver over the device's memory.
  void carve(Carver& carver, std::span<float> attention_partials);
  void prepare_device();  // where the model is on one; after carve

  // Appends a source to the batch, with the blocks of the cache for what is kept of it.
  void add(const Sequence& sequence, const int32_t* blocks);
  // Runs over what was added, if anything, and begins the next batch.
  void run();
  // Begins the next batch, whatever became of this one.
  void clear();

  const State& state() const { return room_.state; }
  int64_t kept_size() const { return room_.key.size(1); }  // of a token, the largest layer's

 private:
  const ops::Context& context_;
  const Model& model_;
  const Transformer& reader_;
  KvCache& cache_;
  const RunnerOptions& options_;
  Transformer transformer_;
  Room room_;
  BatchLists lists_;  // area 0: its own pages; area 1: the slots of what is kept
  std::optional<Staging> staging_;
};

}  // namespace tuili
