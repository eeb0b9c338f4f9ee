// The runner's part of what follows an encoder's hidden states: pooling, and which rows task heads read.
#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "runtime/runner.h"

namespace tuili {
namespace {

constexpr int64_t kAnswerBytes = 16 << 20;  // answers are made in chunks of about this size

// The rows of a text that pooling reads, behind the first n_skipped; its last one stays.
struct PooledRows {
  PooledRows(Pooling pooling, int64_t n_skipped, int64_t n_rows)
      : first(pooling == Pooling::last ? n_rows - 1 : std::min(n_skipped, n_rows - 1)),
        n(pooling == Pooling::cls || pooling == Pooling::last ? 1 : n_rows - first) {}
  int64_t first, n;
};

}  // namespace

// pooled f32 [1, d] of the rows of one text, hidden f32 [n, d], which it may change.
void Runner::pool(Pooling pooling, const TensorView& pooled, const TensorView& hidden) {
  const int64_t n = hidden.rows();
  switch (pooling) {
    case Pooling::cls: return ops::copy(context_, pooled, hidden.slice(0, 1));
    case Pooling::last: return ops::copy(context_, pooled, hidden.slice(n - 1, 1));
    case Pooling::max: return ops::max_rows(context_, pooled, hidden);
    case Pooling::mean: return ops::mean_rows(context_, pooled, hidden);
    case Pooling::mean_sqrt_len:
      ops::mean_rows(context_, pooled, hidden);
      return ops::scale(context_, pooled, std::sqrt(static_cast<float>(n)));
    case Pooling::weighted_mean: return ops::weighted_mean_rows(context_, pooled, hidden);
  }
}

void Runner::ask_for_vectors(Pooling pooling, int64_t n_skipped) {
  for (const ops::SequenceRows& text : places_[0].rows) {
    const PooledRows rows(pooling, n_skipped, text.n_rows);
    ask_for(text.first_row + rows.first, rows.n);
  }
}

// One vector per text of the batch whose hidden states are computed, into out f32 [n_seqs, d_model].
void Runner::pool_texts(Pooling pooling, bool normalize, int64_t n_skipped, float* out) {
  const auto& texts = places_[0].rows;
  const TensorView vectors(out, DType::f32, {std::ssize(texts), model_.spec.d_model});
  const TensorView made = pooled_.data ? pooled_.slice(0, vectors.rows()) : vectors;
  int64_t row = 0;  // of those that were asked for
  for (int64_t i = 0; i < vectors.rows(); ++i) {
    const int64_t n = PooledRows(pooling, n_skipped, texts[i].n_rows).n;
    pool(pooling, made.slice(i, 1), state_.hidden.slice(row, n));
    row += n;
  }
  if (normalize) ops::l2_normalize(context_, made, made);
  if (made.data == vectors.data) return;
  ops::copy(context_, vectors, made);
  wait();
}

void Runner::carve_task_head(Carver& carver) {
  const ModelSpec& spec = model_.spec;
  const int64_t width = std::max({spec.task_head.n_out, spec.task_head.d_inner, spec.d_model});
  const int64_t n_rows = std::clamp<int64_t>(kAnswerBytes / (width * 4), 1, options_.max_batch_tokens);
  const auto rows = [&](int64_t n) { return take_rows(carver, n_rows, n, model_.device); };
  task_input_ = rows(spec.d_model);
  task_inner_ = rows(std::max<int64_t>(spec.task_head.d_inner, 1));
  if (model_.device == DeviceKind::cuda) task_output_ = rows(spec.task_head.n_out);
}

int64_t Runner::n_answers(std::span<Sequence* const> sequences,
                          std::span<const std::vector<int64_t>> positions) const {
  const TaskHead& head = model_.spec.task_head;
  TUILI_CHECK(head.n_out > 0, "this model has no task head");
  const auto n_sequences = static_cast<int64_t>(sequences.size());
  TUILI_CHECK(positions.empty() ||
                  (head.rows == HeadRows::all && static_cast<int64_t>(positions.size()) == n_sequences),
              "positions are for heads that read all rows, one list per sequence");
  if (head.rows != HeadRows::all) return n_sequences;
  int64_t n_rows = 0;
  for (int64_t i = 0; i < n_sequences; ++i) {
    if (positions.empty()) {
      n_rows += sequences[i]->n_tokens();
      continue;
    }
    for (const int64_t position : positions[i])
      TUILI_CHECK(position >= 0 && position < sequences[i]->n_tokens(), "position ", position,
                  " of a sequence of ", sequences[i]->n_tokens(), " tokens");
    n_rows += static_cast<int64_t>(positions[i].size());
  }
  return n_rows;
}

// visit(first, n) with the rows of the batch that each answer is made of, in order.
template <class Visit>
void Runner::for_each_answer(std::span<const std::vector<int64_t>> positions, const Visit& visit) const {
  const auto& texts = places_[0].rows;
  for (size_t i = 0; i < texts.size(); ++i) {
    const int64_t first = texts[i].first_row, n = texts[i].n_rows;
    switch (model_.spec.task_head.rows) {
      case HeadRows::first: visit(first, 1); break;
      case HeadRows::last: visit(first + n - 1, 1); break;
      case HeadRows::mean: visit(first, n); break;
      case HeadRows::all:
        if (positions.empty())
          for (int64_t row = first; row < first + n; ++row) visit(row, 1);
        else
          for (const int64_t position : positions[i]) visit(first + position, 1);
        break;
    }
  }
}

void Runner::ask_for_answers(std::span<const std::vector<int64_t>> positions) {
  for_each_answer(positions, [&](int64_t first, int64_t n) { ask_for(first, n); });
}

// Gathers the rows that the head reads, chunk by chunk, of the batch whose hidden states are computed.
void Runner::run_task_head(std::span<const std::vector<int64_t>> positions, float* out) {
  const int64_t n_out = model_.spec.task_head.n_out;
  int64_t n_waiting = 0;
  const auto flush = [&] {
    if (n_waiting == 0) return;
    const TensorView answers(out, DType::f32, {n_waiting, n_out});
    const TensorView computed = task_output_.data ? task_output_.slice(0, n_waiting) : answers;
    transformer_.task_head(context_, computed, task_input_.slice(0, n_waiting),
                           task_inner_.slice(0, n_waiting), state_);
    if (computed.data != answers.data) ops::copy(context_, answers, computed);
    out += n_waiting * n_out;
    n_waiting = 0;
  };
  const auto next = [&] {
    if (n_waiting == task_input_.rows()) flush();
    return task_input_.slice(n_waiting++, 1);
  };
  for_each_answer(positions, [&](int64_t first, int64_t n) {
    const TensorView rows = state_.hidden.slice(place_of(first), n);
    if (model_.spec.task_head.rows == HeadRows::mean)
      ops::mean_rows(context_, next(), rows);
    else
      ops::copy(context_, next(), rows);
  });
  flush();
  wait();
}

}  // namespace tuili
