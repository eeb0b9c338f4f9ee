// The runner's part of encoders: whole texts at once, for their vectors and heads.
#include "base/rounding.h"
#include "runtime/runner.h"

namespace tuili {

// Makes whole sequences the batch, after begin_batch().
void Runner::add_texts(std::span<Sequence* const> sequences) {
  checks_.texts(sequences);
  if (sources_) return add_rereading(sequences);
  for (Sequence* s : sequences) {
    const int64_t n = s->n_tokens();
    sequences_.push_back(s);
    lists_.add_rows(model_.spec, s->tokens, s->token_types, 0, n, n);
    lists_.add_places(0, 0, n, pages_.take(n), TextPages::kBlockSize);
  }
}

// The same where layers read a source besides: decoders that see a whole text at once, for a task head, after
// an encoder has read it. What is kept lies in the cache for this batch alone, from its first block on.
void Runner::add_rereading(std::span<Sequence* const> sequences) {
  const int64_t size = cache_->block_size();
  const int32_t* next = cache_blocks_.data();
  for (Sequence* s : sequences) {
    const int64_t n = s->n_tokens();
    const int32_t* const source_blocks = next;
    sources_->add(*s, source_blocks);
    next += ceil_div(s->n_source(), size);
    sequences_.push_back(s);
    lists_.add_rows(model_.spec, s->tokens, s->token_types, 0, n, n);
    lists_.add_places(0, 0, n, next, size);
    lists_.add_source(s->n_source(), source_blocks);
    for (int64_t i = 0; i < ceil_div(n, size); ++i) cache_->clear_block(context_, 0, *next++);
  }
  sources_->run();
}

// The final hidden states of the rows of those texts that are asked for.
void Runner::forward_texts() {
  if (!sources_) pages_.clear(context_);
  const KvView pages = sources_ ? cache_->view() : pages_.view();
  transformer_.forward(context_, batch(), pages, state_, taps_for(sequences_));
  wait();
  for (size_t i = 0; i < sequences_.size(); ++i) {
    Sequence& s = *sequences_[i];
    const ops::SequenceRows& rows = lists_.sequences()[i];
    s.n_computed = 0;
    collect_hidden(s, rows);
    s.n_computed = rows.n_rows;
  }
}

}  // namespace tuili
