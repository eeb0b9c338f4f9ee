// The runner's part of encoders whose layers read a source besides: decoders that see a whole text at once,
// for a task head, after an encoder has read it. What is kept lies in the cache for one batch alone.
#include "base/check.h"
#include "base/rounding.h"
#include "runtime/runner.h"

namespace tuili {

// Makes whole sequences the batch, after the encoder has read their sources. The cache fills from its first
// block on.
void Runner::add_rereading(std::span<Sequence* const> sequences) {
  const int64_t size = cache_->block_size();
  const auto n_blocks = [&](int64_t n_tokens) { return ceil_div(n_tokens, size); };
  int64_t n_needed = 0, n_source = 0;
  for (const Sequence* s : sequences) {
    n_needed += n_blocks(s->n_source()) + n_blocks(s->n_tokens());
    n_source += s->n_source();
  }
  TUILI_CHECK(n_source <= options_.max_source_tokens, "the batch has sources of ", n_source,
              " tokens; max_source_tokens is ", options_.max_source_tokens);
  TUILI_CHECK(n_needed <= cache_->n_blocks(), "the batch needs ", n_needed, " blocks; the cache has ",
              cache_->n_blocks());
  const int32_t *source_blocks = cache_blocks_.data(), *next = source_blocks;
  for (const Sequence* s : sequences) {
    add_source_text(*s, next);
    next += n_blocks(s->n_source());
  }
  keep_sources();
  for (Sequence* s : sequences) {
    sequences_.push_back(s);
    add_rows(*s, 0, s->n_tokens());
    add_places(0, 0, s->n_tokens(), next, size);
    sources_.push_back({places_[0].rows.back().first_row, s->n_tokens(), 0, s->n_source(), source_blocks});
    for (int64_t i = 0; i < n_blocks(s->n_tokens()); ++i) cache_->clear_block(context_, 0, next[i]);
    next += n_blocks(s->n_tokens());
    source_blocks += n_blocks(s->n_source());
  }
}

}  // namespace tuili
