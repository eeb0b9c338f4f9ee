// A step's lists on their way to the device.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "base/device_memory.h"
#include "model/transformer.h"

namespace tuili {

struct StagingSizes {
  int64_t max_tokens, max_seqs, n_areas;
  int64_t max_blocks;  // of a sequence, in an area
  int64_t block_size;
  int64_t max_source_blocks = 0;  // of an encoder-decoder's sequence
};

// Lays the lists out in pinned memory and sends them in one copy. Nothing is allocated after the
// construction.
class Staging {
 public:
  Staging(const ModelSpec& spec, const StagingSizes& sizes);

  // The batch in device memory, valid until the next call; state.cos and state.sin become its own. Waits for
  // the stream's work first, which may read what was sent before.
  StepBatch send(const ops::Context& context, const Transformer& transformer, const StepBatch& batch,
                 std::span<const int32_t> positions, State& state);

 private:
  template <class T>
  T* on_device(const T* on_host) const {
    return reinterpret_cast<T*>(device_.data() + (reinterpret_cast<const uint8_t*>(on_host) - host_.data()));
  }
  template <class T>
  const T* on_host(const T* sent) const {
    return reinterpret_cast<const T*>(host_.data() +
                                      (reinterpret_cast<const uint8_t*>(sent) - device_.data()));
  }
  std::span<const int32_t> put(Carver& carver, std::span<const int32_t> list) const;
  void put_ropes(const ops::Context& context, const Transformer& transformer, Carver& carver,
                 std::span<const int32_t> positions, State& state);
  std::span<ops::DeviceSequence> put_rows(Carver& carver, const ops::BatchRows& rows,
                                          ops::BatchRows& sent) const;
  void put_sequences(Carver& carver, const StepBatch& batch);
  void put_parts(Carver& carver, const ops::BatchRows& parts, const ops::BatchRows& all,
                 const ops::BatchRows& all_sent, ops::BatchRows& sent) const;
  AskedRows put_asked(Carver& carver, const StepBatch& batch) const;

  StagingSizes sizes_;
  PinnedBuffer host_;
  PlacedBuffer device_;
  Vector<TensorView> cos_, sin_;  // one per rope, on the host
  Vector<AreaRows> areas_;
  ops::BatchRows sources_;
};

// The batch where the model reads it; the state has the cos and sin of its positions. staging: of a device.
StepBatch place(std::optional<Staging>& staging, const ops::Context& context, const Transformer& transformer,
                const StepBatch& batch, std::span<const int32_t> positions, State& state);

}  // namespace tuili
