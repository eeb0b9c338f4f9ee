// What follows an encoder's final hidden states: one vector per text, or the answers of its task head.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "model/transformer.h"
#include "runtime/batch_lists.h"
#include "runtime/sequence.h"

namespace tuili {

// How the rows of a text become one vector; of the means one is divided by √n_tokens, and one weighs row i
// with i + 1.
enum class Pooling : uint8_t { mean, cls, last, max, mean_sqrt_len, weighted_mean };

// For each text the positions whose rows a head that reads all rows answers for; empty: all of all texts.
using AnswerPositions = std::span<const std::vector<int64_t>>;

class TextHead {
 public:
  // Context and model outlive it.
  TextHead(const ops::Context& context, const Model& model) : context_(context), model_(model) {}

  // Cuts its views from the carver over the device's memory.
  void carve(Carver& carver, int64_t max_rows, int64_t max_seqs);

  // Which rows of the batch's texts pooling reads, or the head.
  void ask_for_vectors(BatchLists& lists, Pooling pooling, int64_t n_skipped) const;
  void ask_for_answers(BatchLists& lists, AnswerPositions positions) const;

  // Vectors into out f32 [n_seqs, d_model], or answers into out f32 [n_answers, n_out], of the hidden states
  // of those rows, which may change. The caller waits for a device.
  void pool(float* out, const BatchLists& lists, const State& state, Pooling pooling, bool normalize,
            int64_t n_skipped) const;
  void answer(float* out, const BatchLists& lists, const Transformer& transformer, State& state,
              AnswerPositions positions) const;

  // Rows of answers. Throws invalid_parameter for positions outside their sequence.
  int64_t n_answers(std::span<Sequence* const> sequences, AnswerPositions positions) const;

 private:
  void pool_texts(Pooling pooling, const TensorView& pooled, const TensorView& hidden,
                  std::span<const int32_t> n_rows) const;
  template <class Visit>
  void for_each_answer(const BatchLists& lists, AnswerPositions positions, const Visit& visit) const;

  const ops::Context& context_;
  const Model& model_;
  TensorView input_, inner_;  // [answer rows, d_model], [answer rows, d_inner]
  TensorView output_;         // [answer rows, n_out], of a device
  TensorView pooled_;         // [max_seqs, d_model], of a device
};

}  // namespace tuili
