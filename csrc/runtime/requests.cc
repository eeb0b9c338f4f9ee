#include "runtime/requests.h"

#include <algorithm>

#include "base/check.h"
#include "base/rounding.h"
#include "runtime/sampler.h"

namespace tuili {

constexpr int64_t kMostSeqs = 1 << 16;

RequestChecks::RequestChecks(const Model& model, const KvCache* cache, const RunnerOptions& options)
    : spec_(model.spec), cache_(cache), options_(options) {
  const auto check_size = [](const char* name, int64_t n, int64_t least, int64_t most) {
    TUILI_CHECK(n >= least && n <= most, name, " must be in [", least, ", ", most, "], not ", n);
  };
  check_size("max_batch_tokens", options.max_batch_tokens, 1, kMostBatchTokens);
  check_size("max_seqs", options.max_seqs, 1, kMostSeqs);
  check_size("max_source_tokens", options.max_source_tokens, spec_.encoder.empty() ? 0 : 1, kMostBatchTokens);
  const bool keeps = spec_.kind != ModelKind::encoder || !spec_.encoder.empty();
  TUILI_CHECK(keeps == (cache != nullptr), keeps ? "a decoder needs a cache" : "an encoder takes no cache");
  TUILI_CHECK(!keeps || cache->fits(spec_), "the cache was made for another model");
  TUILI_CHECK(!keeps || cache->device() == model.device, "model and cache are not on one device");
}

void RequestChecks::step(std::span<const StepRequest> requests) const {
  TUILI_CHECK(spec_.kind != ModelKind::encoder, "this model is an encoder: use encode");
  TUILI_CHECK(!requests.empty() && std::ssize(requests) <= options_.max_seqs, "a step of ", requests.size(),
              " sequences; max_seqs is ", options_.max_seqs);
  int64_t n_tokens = 0, n_source = 0;
  for (const StepRequest& one : requests) {
    check_request(one, n_tokens);
    n_tokens += one.n_new;
    n_source += one.sequence->n_source_pending();
  }
  TUILI_CHECK(n_source <= options_.max_source_tokens, "the step encodes sources of ", n_source,
              " tokens; max_source_tokens is ", options_.max_source_tokens);
}

void RequestChecks::run(std::span<const StepRequest> requests) const {
  for (const StepRequest& one : requests) {
    const Sequence& s = *one.sequence;
    TUILI_CHECK(one.n_new == 1 && one.sample, "run: every sequence computes one token and samples");
    TUILI_CHECK(s.token_types.empty(),
                "run: a sequence has token types, which its new tokens lack: use step");
    TUILI_CHECK(!s.collect.logits && !s.collect.hidden,
                "run: a sequence wants logits or hidden states: use step");
    TUILI_CHECK(s.n_source_pending() == 0, "run: a sequence's source is not encoded: use step");
    TUILI_CHECK(!s.deferred && s.sampling.n_candidates == 0 && s.allowed.empty(),
                "run: the caller has a say in each token of a sequence: use step");
  }
  step(requests);
}

void RequestChecks::sample(const Sequence& s, std::span<const float> logits) const {
  TUILI_CHECK(spec_.kind != ModelKind::encoder, "this model is an encoder: it chooses no tokens");
  TUILI_CHECK(s.deferred && s.n_computed == s.n_tokens() && std::ssize(s.next_logits) == spec_.n_vocab,
              "sample: no step has left the choice of this sequence's next token");
  TUILI_CHECK(std::ssize(logits) == spec_.n_vocab, "sample: ", logits.size(), " logits for ", spec_.n_vocab,
              " tokens");
  check_tokens(s, reads_history(s.sampling) ? 0 : s.n_tokens(), s.n_tokens());
  check_choice(s);
}

void RequestChecks::copy_block(std::span<const BlockCopy> copies) const {
  TUILI_CHECK(cache_ != nullptr, "this model is an encoder: it has no cache");
  TUILI_CHECK(std::ssize(copies) == cache_->n_areas(), copies.size(), " copies for ", cache_->n_areas(),
              " areas");
  for (int64_t area = 0; area < cache_->n_areas(); ++area) {
    const auto& [from, to, begin, end] = copies[area];
    for (const int32_t id : {from, to}) cache_->check_block(area, id);
    TUILI_CHECK(begin >= 0 && begin <= end && end <= cache_->block_size(), "tokens [", begin, ", ", end,
                ") of a block of ", cache_->block_size());
  }
}

void RequestChecks::texts(std::span<Sequence* const> sequences) const {
  TUILI_CHECK(spec_.kind == ModelKind::encoder, "this model is a decoder: use step");
  TUILI_CHECK(!sequences.empty() && std::ssize(sequences) <= options_.max_seqs, "a batch of ",
              sequences.size(), " sequences; max_seqs is ", options_.max_seqs);
  int64_t n_tokens = 0;
  for (const Sequence* s : sequences) {
    TUILI_CHECK(s->blocks.empty(), "encode: a sequence holds blocks, which an encoder does not fill");
    n_tokens += s->n_tokens();
    TUILI_CHECK(n_tokens <= options_.max_batch_tokens,
                "the batch has more than max_batch_tokens = ", options_.max_batch_tokens, " tokens");
    check_tokens(*s, 0, s->n_tokens());
    check_source(*s);
  }
  if (cache_) check_rereading(sequences);
}

// Checks that the sources are within max_source_tokens, and that the cache has room for them and the texts.
void RequestChecks::check_rereading(std::span<Sequence* const> sequences) const {
  const int64_t size = cache_->block_size();
  int64_t n_needed = 0, n_source = 0;
  for (const Sequence* s : sequences) {
    n_needed += ceil_div(s->n_source(), size) + ceil_div(s->n_tokens(), size);
    n_source += s->n_source();
  }
  TUILI_CHECK(n_source <= options_.max_source_tokens, "the batch has sources of ", n_source,
              " tokens; max_source_tokens is ", options_.max_source_tokens);
  TUILI_CHECK(n_needed <= cache_->n_blocks(), "the batch needs ", n_needed, " blocks; the cache has ",
              cache_->n_blocks());
}

void RequestChecks::check_request(const StepRequest& request, int64_t n_before) const {
  const Sequence& s = *request.sequence;
  TUILI_CHECK(request.n_new >= 1 && request.n_new <= s.n_tokens() - s.n_computed, "n_new is ", request.n_new,
              " for a sequence with ", s.n_tokens() - s.n_computed, " tokens to compute");
  const int64_t end = s.n_computed + request.n_new;
  TUILI_CHECK(n_before + request.n_new <= options_.max_batch_tokens,
              "the batch has more than max_batch_tokens = ", options_.max_batch_tokens, " tokens");
  TUILI_CHECK(!request.sample || end == s.n_tokens(), "sampling needs the sequence's last token computed");
  TUILI_CHECK(s.block_size == cache_->block_size() && s.n_places() >= end, "a sequence has blocks for ",
              s.n_places(), " tokens in blocks of ", s.block_size, " and needs room for ", end,
              " in blocks of ", cache_->block_size());
  TUILI_CHECK(std::ssize(s.windows) + 1 == cache_->n_areas(), "a sequence with blocks in ",
              s.windows.size() + 1, " areas; the cache has ", cache_->n_areas());
  for (int64_t area = 0; area < cache_->n_areas(); ++area) {  // what attention reads and writes from there on
    const int64_t first = ops::first_key_read(s.n_computed, cache_->window(area)) / s.block_size;
    for (const int32_t id : blocks_of(s, area).subspan(first)) cache_->check_block(area, id);
  }
  // Tokens before n_computed may have been checked for another model.
  const bool reads_all = reads_history(s.sampling) || s.lookup.n_most() > 0;
  check_tokens(s, request.sample && reads_all ? 0 : s.n_computed, end);
  if (s.collect.prompt_logprobs >= 0 && end < s.n_prompt) check_token(s, end);  // the last row's target
  if (request.sample) check_choice(s);
  check_source(s);
}

void RequestChecks::check_choice(const Sequence& sequence) const {
  check_sampling(sequence.sampling, spec_.n_vocab);
  const int64_t n_words = std::ssize(sequence.allowed);
  TUILI_CHECK(n_words == 0 || n_words == ceil_div(spec_.n_vocab, 32), "a mask of ", n_words, " words for ",
              spec_.n_vocab, " tokens");
}

void RequestChecks::check_token(const Sequence& sequence, int64_t i) const {
  const int32_t id = sequence.tokens[i];
  TUILI_CHECK_KIND(ErrorKind::token_id, id >= 0 && id < spec_.n_vocab, "token id ", id, " at position ", i,
                   " is not in [0, ", spec_.n_vocab, ")");
}

void RequestChecks::check_tokens(const Sequence& sequence, int64_t begin, int64_t end) const {
  TUILI_CHECK(end <= spec_.max_positions, "a sequence of ", end, " tokens; the model takes ",
              spec_.max_positions);
  for (int64_t i = begin; i < end; ++i) check_token(sequence, i);
  const Vector<int32_t>& types = sequence.token_types;
  if (types.empty()) return;
  TUILI_CHECK(std::ssize(types) >= end, "token_type_ids end before the tokens");
  for (int64_t i = begin; i < end; ++i)
    TUILI_CHECK(types[i] >= 0 && types[i] < std::max<int64_t>(spec_.n_token_types, 1), "token type ",
                types[i], " is not in [0, ", spec_.n_token_types, ")");
}

// Whether the sequence has one if the model needs it, in a decoder's case with blocks, and the encoder can
// read it.
void RequestChecks::check_source(const Sequence& sequence) const {
  if (spec_.encoder.empty()) {
    TUILI_CHECK(sequence.source.empty(), "a sequence has a source, which only an encoder-decoder reads");
    return;
  }
  const ModelSpec& encoder = spec_.encoder[0];
  const int64_t n = sequence.n_source(), most = std::min(encoder.max_positions, options_.max_source_tokens);
  TUILI_CHECK(n >= 1 && n <= most, "a source of ", n, " tokens; the encoder takes 1 to ", most);
  if (spec_.kind == ModelKind::encoder_decoder) {
    const int64_t size = cache_->block_size();
    TUILI_CHECK(std::ssize(sequence.source_blocks) == ceil_div(n, size), "a source of ", n, " tokens has ",
                sequence.source_blocks.size(), " blocks of ", size);
    for (const int32_t id : sequence.source_blocks) cache_->check_block(0, id);
  }
  if (sequence.source_kept) return;
  for (int64_t i = 0; i < n; ++i)
    TUILI_CHECK_KIND(ErrorKind::token_id, sequence.source[i] >= 0 && sequence.source[i] < encoder.n_vocab,
                     "token id ", sequence.source[i], " at position ", i, " of the source is not in [0, ",
                     encoder.n_vocab, ")");
}

}  // namespace tuili
