#include "runtime/runner.h"

#include <algorithm>
#include <chrono>

#include "base/check.h"
#include "base/float_environment.h"
#include "base/rounding.h"

namespace tuili {
namespace {

constexpr int64_t kMostBatchTokens = 1 << 20;
constexpr int64_t kMostSeqs = 1 << 16;
// Rows of logits are made in chunks of about this size, but of at least so many rows: the head's weights are
// read once per chunk.
constexpr int64_t kLogitBytes = 16 << 20, kFewestLogitRows = 8;
// Of a step: few rows wait for memory, so that one more costs a fraction; many cost one each.
constexpr int64_t kRowsWithGuesses = 16;

int64_t logit_rows_for(const RunnerOptions& options, const ModelSpec& spec) {
  const int64_t fitting = std::max(kLogitBytes / (spec.n_vocab * 4), kFewestLogitRows);
  return std::min(fitting, options.max_batch_tokens);
}

// Room for n more, at least doubling it, so that many small runs copy each token a few times at most.
void make_room(Vector<int32_t>& tokens, int64_t n) {
  const size_t needed = tokens.size() + static_cast<size_t>(std::min(n, kMostBatchTokens));
  if (tokens.capacity() < needed) tokens.reserve(std::max(needed, 2 * tokens.capacity()));
}

void check(const Model& model, const KvCache* cache, const RunnerOptions& options) {
  const auto check_size = [](const char* name, int64_t n, int64_t most) {
    TUILI_CHECK(n >= 1 && n <= most, name, " is ", n, "; it must be in [1, ", most, "]");
  };
  check_size("max_batch_tokens", options.max_batch_tokens, kMostBatchTokens);
  check_size("max_seqs", options.max_seqs, kMostSeqs);
  if (!model.spec.encoder.empty())
    check_size("max_source_tokens", options.max_source_tokens, kMostBatchTokens);
  const bool keeps = model.spec.kind != ModelKind::encoder || !model.spec.encoder.empty();
  TUILI_CHECK(keeps == (cache != nullptr), keeps ? "a decoder needs a cache" : "an encoder takes no cache");
  TUILI_CHECK(!keeps || cache->fits(model.spec), "the cache was made for another model");
  TUILI_CHECK(!keeps || (cache->device().kind == model.device && cache->device().ordinal == model.ordinal),
              "model and cache are not on one device");
}

}  // namespace

// ---- construction

Runner::Runner(const Model& model, KvCache* cache, const RunnerOptions& options)
    : Runner(model, cache, options, device::Chosen({model.device, model.ordinal})) {}

Runner::Runner(const Model& model, KvCache* cache, const RunnerOptions& options, const device::Chosen&)
    : model_(model), cache_(cache), options_(options), transformer_(model), stream_(model.device) {
  check(model, cache, options);
  const ModelSpec& spec = model.spec;
  if (!spec.encoder.empty()) encoder_.emplace(spec.encoder[0], model.weights.encoder[0], model.compute);
  context_.kernels = &ops::find_kernels(options.isa);
  context_.pool = &ThreadPool::shared();
  context_.n_threads = resolve_num_threads(options.num_threads);
  context_.stream = stream_.get();

  carve(Carver());
  carve(Carver(workspace_.data()));
  reserve_lists();
  for (size_t i = 0; i < shared_blocks_.size(); ++i) shared_blocks_[i] = static_cast<int32_t>(i);
  if (cache && spec.kind == ModelKind::encoder)
    for (int32_t i = 0; i < cache->n_blocks(); ++i) cache_blocks_.push_back(i);
  if (spec.has_head) {
    samplers_.reserve(context_.n_threads);
    for (int i = 0; i < context_.n_threads; ++i) samplers_.emplace_back(spec.n_vocab);
  }
  if (model.device == DeviceKind::cuda) prepare_device();
}

// What a step puts together, so that it allocates nothing.
void Runner::reserve_lists() {
  const RunnerOptions& options = options_;
  const int64_t max_rows = std::max(options.max_batch_tokens, options.max_source_tokens);
  token_ids_.reserve(max_rows);
  token_types_.reserve(max_rows);
  positions_.reserve(max_rows);
  position_rows_.reserve(max_rows);
  logit_rows_.reserve(options.max_batch_tokens);
  asked_.reserve(options.max_batch_tokens);
  asked_rows_.reserve(options.max_batch_tokens);
  asked_sources_.reserve(options.max_seqs);
  places_.resize(cache_ ? cache_->n_areas() : 1);
  areas_.reserve(std::max<size_t>(places_.size(), 2));  // two in encode_sources
  for (Places& places : places_) {
    places.slots.reserve(max_rows);
    places.rows.reserve(options.max_seqs);
  }
  sequences_.reserve(options.max_seqs);
  sources_.reserve(options.max_seqs);
  source_slots_.reserve(options.max_source_tokens);
  result_.token_ids.reserve(options.max_seqs);
  drawn_.reserve(options.max_batch_tokens);
  drawn_logprobs_.reserve(options.max_batch_tokens);
}

// Lays the workspace out; without memory it allocates what the layout needs.
void Runner::carve(Carver carver) {
  const ModelSpec& spec = model_.spec;
  const bool measuring = workspace_.data() == nullptr;
  const DeviceKind device = model_.device;
  state_ = State::take(carver, spec, options_.max_batch_tokens, device);
  int64_t head_dim = 0, n_heads = 0;
  const auto measure = [&](const ModelSpec& part) {
    for (const LayerSpec& layer : part.layers) {
      head_dim = std::max(head_dim, layer.head_dim);
      n_heads = std::max(n_heads, layer.n_heads);
    }
  };
  measure(spec);
  for (const ModelSpec& encoder : spec.encoder) measure(encoder);
  const int64_t scratch_floats = DistanceState::scratch_floats(spec, head_dim, options_.max_batch_tokens);
  context_.scratch_floats = device == DeviceKind::cpu ? scratch_floats : 0;
  context_.scratch = carver.take<float>(context_.scratch_floats * context_.n_threads);
  if (spec.has_head) {
    const int64_t rows = logit_rows_for(options_, spec);
    logits_ = take_rows(carver, rows, spec.n_vocab, device);
    if (device == DeviceKind::cuda) take_draws(carver, rows);
  }
  if (spec.task_head.n_out) carve_task_head(carver);
  if (cache_) {
    const int64_t most_own = std::min(spec.max_positions, cache_->n_blocks() * cache_->block_size());
    take_partials(carver, std::max(most_own, options_.max_source_tokens), n_heads, head_dim);
  } else {
    carve_encoder(carver, spec, options_.max_batch_tokens);
    if (device == DeviceKind::cuda) take_partials(carver, options_.max_batch_tokens, n_heads, head_dim);
  }
  if (device == DeviceKind::cuda && spec.kind == ModelKind::encoder)
    pooled_ = take_rows(carver, options_.max_seqs, spec.d_model, device);
  if (encoder_) {
    encoder_state_ = State::take(carver, spec.encoder[0], options_.max_source_tokens, device);
    encoder_state_.attention_partials = state_.attention_partials;
    carve_encoder(carver, spec.encoder[0], options_.max_source_tokens);
  }
  if (!measuring) return;
  if (device == DeviceKind::cuda) check_device_sizes();
  workspace_ = PlacedBuffer(carver.used(), device, Pages::small);
}

// ---- one step

struct Runner::Guard {
  explicit Guard(Runner& runner)
      : chosen_({runner.model_.device, runner.model_.ordinal}),
        runner_(runner),
        allocations_before_(n_heap_allocations()) {
    runner.begin_batch();
  }
  ~Guard() {
    const ModelSpec& spec = runner_.model_.spec;
    for (Sequence* sequence : runner_.sequences_) sequence->keep_computed(spec.n_vocab, spec.d_model);
    runner_.n_allocations_ += n_heap_allocations() - allocations_before_;
    runner_.interrupted_ = false;
  }

 private:
  const device::Chosen chosen_;
  Runner& runner_;
  const int64_t allocations_before_;
  const FloatEnvironment environment_;
};

// Forgets the step before.
void Runner::begin_batch() {
  token_ids_.clear();
  token_types_.clear();
  positions_.clear();
  position_rows_.clear();
  for (Places& places : places_) {
    places.slots.clear();
    places.rows.clear();
  }
  n_shared_blocks_ = 0;
  sequences_.clear();
  sources_.clear();
  source_slots_.clear();
  logit_rows_.clear();
  asked_.clear();
  asked_rows_.clear();
  asked_sources_.clear();
  drawn_.clear();
  drawn_logprobs_.clear();
  result_.token_ids.clear();
}

void Runner::check_token(const Sequence& sequence, int64_t i) const {
  const int32_t id = sequence.tokens[i];
  TUILI_CHECK_KIND(ErrorKind::token_id, id >= 0 && id < model_.spec.n_vocab, "token id ", id, " at position ",
                   i, " is not in [0, ", model_.spec.n_vocab, ")");
}

void Runner::check_tokens(const Sequence& sequence, int64_t begin, int64_t end) const {
  const ModelSpec& spec = model_.spec;
  TUILI_CHECK(end <= spec.max_positions, "a sequence of ", end, " tokens; the model takes ",
              spec.max_positions);
  for (int64_t i = begin; i < end; ++i) check_token(sequence, i);
  if (sequence.token_types.empty()) return;
  TUILI_CHECK(static_cast<int64_t>(sequence.token_types.size()) >= end,
              "token_type_ids end before the tokens");
  for (int64_t i = begin; i < end; ++i)
    TUILI_CHECK(
        sequence.token_types[i] >= 0 && sequence.token_types[i] < std::max<int64_t>(spec.n_token_types, 1),
        "token type ", sequence.token_types[i], " is not in [0, ", spec.n_token_types, ")");
}

void Runner::check_request(const StepRequest& request, int64_t n_before) const {
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
  for (int64_t area = 0; area < cache_->n_areas(); ++area) check_blocks(s, area);
  // Tokens before n_computed may have been checked for another model.
  const bool reads_all = reads_history(s.sampling) || s.lookup.n_most() > 0;
  check_tokens(s, request.sample && reads_all ? 0 : s.n_computed, end);
  if (s.collect.prompt_logprobs >= 0 && end < s.n_prompt) check_token(s, end);  // the last row's target
  if (request.sample) check_choice(s);
  check_source(s);
}

// Whether what attention reads and writes from n_computed on is in the cache.
void Runner::check_blocks(const Sequence& sequence, int64_t area) const {
  const int64_t first = ops::first_key_read(sequence.n_computed, cache_->window(area)) / sequence.block_size;
  for (const int32_t id : blocks_of(sequence, area).subspan(first))
    TUILI_CHECK(id >= 0 && id < cache_->n_blocks(area), "block ", id, " is not in the cache, which has ",
                cache_->n_blocks(area));
}

void Runner::check_choice(const Sequence& sequence) const {
  const int64_t n_vocab = model_.spec.n_vocab;
  check_sampling(sequence.sampling, n_vocab);
  const auto n_words = static_cast<int64_t>(sequence.allowed.size());
  TUILI_CHECK(n_words == 0 || n_words == ceil_div(n_vocab, 32), "a mask of ", n_words, " words for ", n_vocab,
              " tokens");
}

// Appends rows [begin, begin + n_rows) of a sequence to the batch; add_places says where their keys go.
void Runner::add_rows(const Sequence& sequence, int64_t begin, int64_t n_rows) {
  const int64_t padding = model_.spec.padding_id;
  // A token that is generated behind a source has the row of its own place, as in transformers' generate.
  const int64_t n_uncounted = padding < 0 ? 0 : encoder_ ? sequence.n_prompt : std::ssize(sequence.tokens);
  int64_t n_padding =
      std::ranges::count(std::span(sequence.tokens).first(std::min(begin, n_uncounted)), padding);
  for (int64_t i = begin; i < begin + n_rows; ++i) {
    token_ids_.push_back(sequence.tokens[i]);
    token_types_.push_back(sequence.token_types.empty() ? 0 : sequence.token_types[i]);
    positions_.push_back(static_cast<int32_t>(i));
    const bool is_padding = sequence.tokens[i] == padding;
    n_padding = i < n_uncounted ? n_padding + is_padding : 0;
    const int64_t position = is_padding ? -1 : i - n_padding;
    position_rows_.push_back(static_cast<int32_t>(position + model_.spec.position_offset));
  }
}

void Runner::add_places(int64_t area, int64_t begin, int64_t n_rows, const int32_t* blocks,
                        int64_t block_size) {
  auto& [slots, rows] = places_[area];
  rows.push_back({std::ssize(slots), n_rows, begin, begin + n_rows, blocks});
  for (int64_t i = begin; i < begin + n_rows; ++i)
    slots.push_back(static_cast<int32_t>(blocks[i / block_size] * block_size + i % block_size));
}

// Blocks whose first token this step writes hold somebody's stale keys and values.
void Runner::clear_fresh_blocks(const Sequence& sequence, int64_t n_new) {
  const int64_t size = cache_->block_size();
  const int64_t first = ceil_div(sequence.n_computed, size),
                end = ceil_div(sequence.n_computed + n_new, size);
  for (int64_t area = 0; area < cache_->n_areas(); ++area)
    for (int64_t i = first; i < end; ++i) cache_->clear_block(context_, area, blocks_of(sequence, area)[i]);
}

StepBatch Runner::batch() {
  areas_.clear();
  for (const Places& places : places_) areas_.push_back({places.slots, {places.rows, {}}});
  StepBatch batch{token_ids_, token_types_, position_rows_, areas_, {sources_, {}}, {}};
  if (asked_.size() < token_ids_.size()) batch.asked = place_asked();
  return placed(batch, staging_, transformer_, state_);
}

void Runner::check_requests(std::span<const StepRequest> requests) const {
  TUILI_CHECK(model_.spec.kind != ModelKind::encoder, "this model is an encoder: use encode");
  TUILI_CHECK(!requests.empty() && static_cast<int64_t>(requests.size()) <= options_.max_seqs, "a step of ",
              requests.size(), " sequences; max_seqs is ", options_.max_seqs);
  int64_t n_tokens = 0, n_source = 0;
  for (const StepRequest& request : requests) {
    check_request(request, n_tokens);
    n_tokens += request.n_new;
    n_source += request.sequence->n_source_pending();
  }
  TUILI_CHECK(n_source <= options_.max_source_tokens, "the step encodes sources of ", n_source,
              " tokens; max_source_tokens is ", options_.max_source_tokens);
}

// One step of requests that were checked, after begin_batch().
void Runner::compute(std::span<const StepRequest> requests) {
  if (encoder_) encode_sources(requests);
  for (const StepRequest& request : requests) {
    Sequence& s = *request.sequence;
    const int64_t n_rows = request.n_new + s.n_drafted;
    sequences_.push_back(&s);
    clear_fresh_blocks(s, n_rows);
    add_rows(s, s.n_computed, n_rows);
    for (int64_t area = 0; area < cache_->n_areas(); ++area)
      add_places(area, s.n_computed, n_rows, blocks_of(s, area).data(), s.block_size);
    if (encoder_) add_source(s, places_[0].rows.back());
  }
  plan_logits(requests);
  forward(batch(), taps_for(sequences_));
  run_logits(requests);
  wait();
  for (size_t i = 0; i < requests.size(); ++i) collect_hidden(*requests[i].sequence, places_[0].rows[i]);
  int64_t n_sampled = 0;
  for (const StepRequest& request : requests) {
    request.sequence->n_computed += request.n_new;
    if (request.sample) n_sampled += keep_drawn(*request.sequence, n_sampled);
  }
}

// Appends what was drawn: the guesses that were right, then one token more, or nothing if that is none.
// Returns how many rows of the sequence were sampled.
int64_t Runner::keep_drawn(Sequence& s, int64_t first_sample) {
  const int32_t* const drawn = drawn_.data() + first_sample;
  const int64_t n_drafted = std::exchange(s.n_drafted, 0), n_known = s.n_tokens() - n_drafted;
  int64_t n_kept = 0;
  while (n_kept < n_drafted && drawn[n_kept] == s.tokens[n_known + n_kept] && !s.stops_at(drawn[n_kept]))
    ++n_kept;
  s.tokens.resize(n_known + n_kept);
  s.n_computed += n_kept;
  s.lookup.learn(n_drafted, n_kept);
  if (drawn[n_kept] >= 0) s.tokens.push_back(drawn[n_kept]);
  result_.token_ids.push_back(drawn[n_kept]);
  if (s.sampling.n_logprobs >= 0)
    for (int64_t i = 0; i < s.n_tokens() - n_known; ++i)
      s.logprobs.push_back(std::move(drawn_logprobs_[first_sample + i]));
  return n_drafted + 1;
}

const StepResult& Runner::step(std::span<const StepRequest> requests) {
  const Guard guard(*this);
  check_requests(requests);
  for (const StepRequest& request : requests) request.sequence->logprobs.clear();
  compute(requests);
  return result_;
}

// ---- steps without a pause

RunCounts Runner::run(std::span<const StepRequest> requests, int64_t max_steps, double max_s) {
  using Clock = std::chrono::steady_clock;
  const Clock::time_point start = Clock::now();
  TUILI_CHECK(max_steps >= 1, "run: max_steps is ", max_steps, "; it must be at least 1");
  for (const StepRequest& request : requests) {
    const Sequence& s = *request.sequence;
    TUILI_CHECK(request.n_new == 1 && request.sample, "run: every sequence computes one token and samples");
    TUILI_CHECK(s.token_types.empty(),
                "run: a sequence has token types, which its new tokens lack: use step");
    TUILI_CHECK(!s.collect.logits && !s.collect.hidden,
                "run: a sequence wants logits or hidden states: use step");
    TUILI_CHECK(s.n_source_pending() == 0, "run: a sequence's source is not encoded: use step");
    TUILI_CHECK(!s.deferred && s.sampling.n_candidates == 0 && s.allowed.empty(),
                "run: the caller has a say in each token of a sequence: use step");
  }
  check_requests(requests);
  for (const StepRequest& request : requests) {
    Sequence& s = *request.sequence;
    make_room(s.tokens, s.lookup.n_most() > 0 ? room_of(s) + 1 - s.n_tokens() : max_steps);
    s.logprobs.clear();
  }
  const Guard guard(*this);
  RunCounts counts;
  for (;;) {
    begin_batch();
    counts.n_drafted += draft(requests);
    compute(requests);
    ++counts.n_steps;
    const bool out_of_time = std::chrono::duration<double>(Clock::now() - start).count() >= max_s;
    if (counts.n_steps == max_steps || out_of_time || interrupted_ || !may_decode_on(requests)) return counts;
  }
}

// Tokens that have a place among the sequence's blocks and the model's positions.
int64_t Runner::room_of(const Sequence& s) const { return std::min(s.n_places(), model_.spec.max_positions); }

// Appends guesses where a sequence looks them up, as long as a row more is cheap. Returns their number.
int64_t Runner::draft(std::span<const StepRequest> requests) {
  const int64_t most = std::min(kRowsWithGuesses, options_.max_batch_tokens);
  int64_t n_left = most - static_cast<int64_t>(requests.size()), n_drafted = 0;
  for (const StepRequest& request : requests) {
    Sequence& s = *request.sequence;
    const int64_t n_room = std::min({n_left, room_of(s) - s.n_tokens(), s.max_tokens - s.n_tokens() - 1});
    s.n_drafted = s.lookup.draft(s.tokens, n_room);
    n_left -= s.n_drafted;
    n_drafted += s.n_drafted;
  }
  return n_drafted;
}

// Whether every sequence has a token to go on with, and a place to put it.
bool Runner::may_decode_on(std::span<const StepRequest> requests) const {
  for (size_t i = 0; i < requests.size(); ++i) {
    const Sequence& s = *requests[i].sequence;
    const int32_t token = result_.token_ids[i];
    if (token < 0 || s.stops_at(token)) return false;
    if (s.n_tokens() > room_of(s) || s.n_tokens() >= s.max_tokens) return false;
  }
  return true;
}

void Runner::copy_block(std::span<const BlockCopy> copies) {
  TUILI_CHECK(cache_ != nullptr, "this model is an encoder: it has no cache");
  TUILI_CHECK(std::ssize(copies) == cache_->n_areas(), copies.size(), " copies for ", cache_->n_areas(),
              " areas");
  for (int64_t area = 0; area < cache_->n_areas(); ++area) {
    const auto& [from, to, begin, end] = copies[area];
    for (const int32_t id : {from, to})
      TUILI_CHECK(id >= 0 && id < cache_->n_blocks(area), "block ", id, " is not in the cache, which has ",
                  cache_->n_blocks(area));
    TUILI_CHECK(begin >= 0 && begin <= end && end <= cache_->block_size(), "tokens [", begin, ", ", end,
                ") of a block of ", cache_->block_size());
  }
  const device::Chosen chosen({model_.device, model_.ordinal});
  for (int64_t area = 0; area < cache_->n_areas(); ++area)
    if (copies[area].from != copies[area].to) cache_->copy_block(context_, area, copies[area]);
}

// ---- logits

// Lists the rows whose logits somebody wants, and drops what a step that failed had collected.
void Runner::plan_logits(std::span<const StepRequest> requests) {
  for (size_t i = 0; i < requests.size(); ++i) {
    Sequence& s = *requests[i].sequence;
    s.logits.resize(s.collect.logits ? s.n_computed * model_.spec.n_vocab : 0);
    if (s.collect.prompt_logprobs >= 0) s.prompt_logprobs.resize(std::min(s.n_computed, s.n_prompt - 1));
    const auto& rows = places_[0].rows[i];
    for (int64_t r = 0; r < rows.n_rows; ++r) {
      const bool sample = requests[i].sample && r >= rows.n_rows - 1 - s.n_drafted;
      const bool prompt = s.collect.prompt_logprobs >= 0 && s.n_computed + r < s.n_prompt - 1;
      if (!sample && !prompt && !s.collect.logits) continue;
      ask_for(rows.first_row + r);
      logit_rows_.push_back(
          {rows.first_row + r, static_cast<int64_t>(i), sample ? static_cast<int64_t>(drawn_.size()) : -1});
      if (!sample) continue;
      if (s.deferred) s.next_logits.resize(model_.spec.n_vocab);
      drawn_.push_back(kNotANumber);
      drawn_logprobs_.emplace_back();
    }
  }
}

void Runner::run_logits(std::span<const StepRequest> requests) {
  const std::span<const LogitRow> all = logit_rows_;
  for (size_t begin = 0; begin < all.size(); begin += logits_.rows()) {
    const auto rows = all.subspan(begin, std::min(all.size() - begin, static_cast<size_t>(logits_.rows())));
    const auto n_rows = static_cast<int64_t>(rows.size());
    const TensorView hidden = state_.hidden.slice(static_cast<int64_t>(begin), n_rows);
    if (choose_likeliest(requests, rows, hidden)) continue;
    transformer_.head(context_, logits_.slice(0, n_rows), hidden, state_);
    if (staging_ && draw_on_device(requests, rows)) continue;
    const TensorView logits = on_host(logits_.slice(0, n_rows), arrived_.data());
    for (int64_t i = 0; i < n_rows; ++i) {
      Sequence& s = *requests[rows[i].request].sequence;
      if (s.collect.anything()) collect_row(s, positions_[rows[i].row], logits.f32_row(i));
    }
    sample_rows(requests, rows, logits.f32());
  }
}

void Runner::collect_row(Sequence& sequence, int64_t position, const float* logits) {
  const int64_t n_vocab = model_.spec.n_vocab, k = sequence.collect.prompt_logprobs;
  if (sequence.collect.logits) sequence.logits.insert(sequence.logits.end(), logits, logits + n_vocab);
  if (k >= 0 && position < sequence.n_prompt - 1)
    sequence.prompt_logprobs.push_back(
        samplers_[0].logprobs(context_, logits, sequence.tokens[position + 1], std::min(k, n_vocab)));
}

const StepResult& Runner::sample(Sequence& s, std::span<const float> logits) {
  const Guard guard(*this);
  const int64_t n_vocab = model_.spec.n_vocab, n_tokens = s.n_tokens();
  TUILI_CHECK(s.deferred && s.n_computed == n_tokens && static_cast<int64_t>(s.next_logits.size()) == n_vocab,
              "sample: no step has left the choice of this sequence's next token");
  TUILI_CHECK(static_cast<int64_t>(logits.size()) == n_vocab, "sample: ", logits.size(), " logits for ",
              n_vocab, " tokens");
  check_tokens(s, reads_history(s.sampling) ? 0 : n_tokens, n_tokens);
  check_choice(s);
  drawn_.push_back(kNotANumber);
  drawn_logprobs_.emplace_back();
  choose(samplers_[0], s, past_of(s, n_tokens), logits.data(), s.next_logits.data(), 0);
  s.next_logits.clear();
  s.logprobs.clear();
  keep_drawn(s, 0);
  return result_;
}

// ---- hidden states and encoders

Taps* Runner::taps_for(std::span<Sequence* const> sequences) {
  if (std::ranges::none_of(sequences, [](const Sequence* s) { return s->collect.hidden; })) return nullptr;
  const int64_t n_tokens = std::ssize(token_ids_), layers = model_.spec.n_layers() + 1,
                d = model_.spec.d_model;
  const int64_t bytes = layers * n_tokens * d * 4;
  if (tapped_.bytes() < bytes) tapped_ = Buffer(bytes);
  taps_.hidden = TensorView(tapped_.data(), DType::f32, {layers, n_tokens, d});
  return &taps_;
}

void Runner::collect_hidden(Sequence& sequence, const ops::SequenceRows& rows) {
  if (!sequence.collect.hidden) return;
  const int64_t d = model_.spec.d_model;
  sequence.hidden.resize(model_.spec.n_layers() + 1);
  for (size_t i = 0; i < sequence.hidden.size(); ++i) {
    const float* from = taps_.hidden.f32_row(static_cast<int64_t>(i)) + rows.first_row * d;
    sequence.hidden[i].resize(sequence.n_computed * d);
    sequence.hidden[i].insert(sequence.hidden[i].end(), from, from + rows.n_rows * d);
  }
}

void Runner::encode(std::span<Sequence* const> sequences, Pooling pooling, bool normalize, int64_t n_skipped,
                    float* out) {
  TUILI_CHECK(n_skipped >= 0, "encode: n_skipped is ", n_skipped);
  const Guard guard(*this);
  add_texts(sequences);
  ask_for_vectors(pooling, n_skipped);
  forward_encoder();
  pool_texts(pooling, normalize, n_skipped, out);
}

void Runner::answer(std::span<Sequence* const> sequences, std::span<const std::vector<int64_t>> positions,
                    float* out) {
  const Guard guard(*this);
  n_answers(sequences, positions);
  add_texts(sequences);
  ask_for_answers(positions);
  forward_encoder();
  run_task_head(positions, out);
}

}  // namespace tuili
