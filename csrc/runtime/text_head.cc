#include "runtime/text_head.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"

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

void TextHead::carve(Carver& carver, int64_t max_rows, int64_t max_seqs) {
  const ModelSpec& spec = model_.spec;
  const auto rows = [&](int64_t n_rows, int64_t n) {
    return take_rows(carver, n_rows, n, model_.device.kind);
  };
  if (spec.task_head.n_out) {
    const int64_t width = std::max({spec.task_head.n_out, spec.task_head.d_inner, spec.d_model});
    const int64_t n_rows = std::clamp<int64_t>(kAnswerBytes / (width * 4), 1, max_rows);
    input_ = rows(n_rows, spec.d_model);
    inner_ = rows(n_rows, std::max<int64_t>(spec.task_head.d_inner, 1));
    if (model_.device.kind == DeviceKind::cuda) output_ = rows(n_rows, spec.task_head.n_out);
  }
  if (model_.device.kind == DeviceKind::cuda) pooled_ = rows(max_seqs, spec.d_model);
}

void TextHead::ask_for_vectors(BatchLists& lists, Pooling pooling, int64_t n_skipped) const {
  for (const ops::SequenceRows& text : lists.sequences()) {
    const PooledRows rows(pooling, n_skipped, text.n_rows);
    lists.ask_for(text.first_row + rows.first, rows.n);
  }
}

void TextHead::pool(float* out, const BatchLists& lists, const State& state, Pooling pooling, bool normalize,
                    int64_t n_skipped) const {
  const std::span<const ops::SequenceRows> texts = lists.sequences();
  const TensorView vectors(out, DType::f32, {std::ssize(texts), model_.spec.d_model});
  const TensorView made = pooled_.data ? pooled_.slice(0, vectors.rows()) : vectors;
  std::vector<int32_t> n_rows;  // that were asked for, one text after another
  n_rows.reserve(texts.size());
  int64_t n_all = 0;
  for (const ops::SequenceRows& text : texts) {
    n_rows.push_back(static_cast<int32_t>(PooledRows(pooling, n_skipped, text.n_rows).n));
    n_all += n_rows.back();
  }
  pool_texts(pooling, made, state.hidden.slice(0, n_all), n_rows);
  if (normalize) ops::l2_normalize(context_, made, made);
  if (made.data != vectors.data) ops::copy(context_, vectors, made);
}

// pooled f32 [n_texts, d] of the rows of each text, hidden f32 [Σ n_rows, d], which it may change.
void TextHead::pool_texts(Pooling pooling, const TensorView& pooled, const TensorView& hidden,
                          std::span<const int32_t> n_rows) const {
  switch (pooling) {
    case Pooling::cls:
    case Pooling::last: return ops::copy(context_, pooled, hidden);
    case Pooling::max: return ops::max_rows(context_, pooled, hidden, n_rows);
    case Pooling::mean: return ops::mean_rows(context_, pooled, hidden, n_rows);
    case Pooling::mean_sqrt_len:
      ops::mean_rows(context_, pooled, hidden, n_rows);
      for (int64_t i = 0; i < pooled.rows(); ++i)
        ops::scale(context_, pooled.slice(i, 1), std::sqrt(static_cast<float>(n_rows[i])));
      return;
    case Pooling::weighted_mean: return ops::weighted_mean_rows(context_, pooled, hidden, n_rows);
  }
}

int64_t TextHead::n_answers(std::span<Sequence* const> sequences, AnswerPositions positions) const {
  const TaskHead& head = model_.spec.task_head;
  TUILI_CHECK(head.n_out > 0, "this model has no task head");
  const int64_t n_sequences = std::ssize(sequences);
  TUILI_CHECK(positions.empty() || (head.rows == HeadRows::all && std::ssize(positions) == n_sequences),
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
    n_rows += std::ssize(positions[i]);
  }
  return n_rows;
}

// visit(first, n) with the rows of the batch that each answer is made of, in order.
template <class Visit>
void TextHead::for_each_answer(const BatchLists& lists, AnswerPositions positions, const Visit& visit) const {
  const std::span<const ops::SequenceRows> texts = lists.sequences();
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

void TextHead::ask_for_answers(BatchLists& lists, AnswerPositions positions) const {
  for_each_answer(lists, positions, [&](int64_t first, int64_t n) { lists.ask_for(first, n); });
}

// Gathers the rows that the head reads, chunk by chunk, of the batch whose hidden states are computed.
void TextHead::answer(float* out, const BatchLists& lists, const Transformer& transformer, State& state,
                      AnswerPositions positions) const {
  const int64_t n_out = model_.spec.task_head.n_out;
  int64_t n_waiting = 0;
  const auto flush = [&] {
    if (n_waiting == 0) return;
    const TensorView answers(out, DType::f32, {n_waiting, n_out});
    const TensorView computed = output_.data ? output_.slice(0, n_waiting) : answers;
    transformer.task_head(context_, computed, input_.slice(0, n_waiting), inner_.slice(0, n_waiting), state);
    if (computed.data != answers.data) ops::copy(context_, answers, computed);
    out += n_waiting * n_out;
    n_waiting = 0;
  };
  const auto next = [&] {
    if (n_waiting == input_.rows()) flush();
    return input_.slice(n_waiting++, 1);
  };
  for_each_answer(lists, positions, [&](int64_t first, int64_t n) {
    const TensorView rows = state.hidden.slice(lists.place_of(first), n);
    const auto n_rows = static_cast<int32_t>(n);
    if (model_.spec.task_head.rows == HeadRows::mean)
      ops::mean_rows(context_, next(), rows, {&n_rows, 1});
    else
      ops::copy(context_, next(), rows);
  });
  flush();
}

}  // namespace tuili
