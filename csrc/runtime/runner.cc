#include "runtime/runner.h"

#include <algorithm>
#include <chrono>

#include "base/check.h"
#include "base/float_environment.h"
#include "base/rounding.h"

namespace tuili {
namespace {

// Of a step: few rows wait for memory, so that one more costs a fraction; many cost one each.
constexpr int64_t kRowsWithGuesses = 16;

// The most heads of a layer, of the model or of the encoder in it, and the largest.
struct Heads {
  int64_t n = 0, dim = 0;
};

Heads largest_heads(const ModelSpec& spec) {
  Heads most;
  const auto measure = [&](const ModelSpec& part) {
    for (const LayerSpec& layer : part.layers)
      most = {std::max(most.n, layer.n_heads), std::max(most.dim, layer.head_dim)};
  };
  measure(spec);
  for (const ModelSpec& encoder : spec.encoder) measure(encoder);
  return most;
}

// Of a thread.
int64_t scratch_floats_for(const ModelSpec& spec, const RunnerOptions& options) {
  const int64_t head_dim = largest_heads(spec).dim;
  if (spec.distances.places.empty()) return ops::scratch_floats_for(head_dim);
  return ops::distance_scratch_floats(head_dim, std::min(spec.max_positions, options.max_batch_tokens));
}

// Of attention's scratch in device memory, or on the CPU: of texts behind n_places of a cache at most.
int64_t partial_floats_for(const Model& model, const RunnerOptions& options, int64_t n_places) {
  const int64_t n_keys = std::max(std::min(model.spec.max_positions, n_places), options.max_source_tokens);
  const int64_t max_rows = std::max(options.max_batch_tokens, options.max_source_tokens);
  const Heads heads = largest_heads(model.spec);
  return model.device.kind == DeviceKind::cuda
             ? ops::device_partial_floats(max_rows, n_keys, heads.n, heads.dim)
             : ops::attention_partial_floats(n_keys, heads.n, heads.dim);
}

ops::Context context_for(const RunnerOptions& options, const OwnStream& stream) {
  return {.kernels = &ops::find_kernels(options.isa),
          .pool = &ThreadPool::shared(),
          .n_threads = resolve_num_threads(options.num_threads),
          .stream = stream.get()};
}

}  // namespace

// ---- construction

Runner::Runner(const Model& model, KvCache* cache, const RunnerOptions& options)
    : Runner(model, cache, options, device::Chosen(model.device)) {}

Runner::Runner(const Model& model, KvCache* cache, const RunnerOptions& options, const device::Chosen&)
    : model_(model),
      cache_(cache),
      options_(options),
      checks_(model, cache, options_),
      transformer_(model),
      stream_(model.device.kind),
      context_(context_for(options, stream_)),
      choices_(context_, model.spec, options.max_batch_tokens),
      text_head_(context_, model),
      lists_(cache ? cache->n_areas() : 1, options.max_batch_tokens, options.max_seqs) {
  if (!model.spec.encoder.empty()) sources_.emplace(context_, model, transformer_, *cache, options_);
  carve(Carver());
  carve(Carver(workspace_.data()));
  sequences_.reserve(options.max_seqs);
  drawn_.reserve(options.max_seqs);
  if (cache && model.spec.kind == ModelKind::encoder)
    for (int32_t i = 0; i < cache->n_blocks(); ++i) cache_blocks_.push_back(i);
  if (model.device.kind == DeviceKind::cuda) prepare_device();
}

// Lays the workspace out; without memory it allocates what the layout needs.
void Runner::carve(Carver carver) {
  const ModelSpec& spec = model_.spec;
  const bool measuring = workspace_.data() == nullptr;
  const DeviceKind device = model_.device.kind;
  state_ = State::take(carver, spec, options_.max_batch_tokens, device);
  context_.scratch_floats = device == DeviceKind::cpu ? scratch_floats_for(spec, options_) : 0;
  context_.scratch = carver.take<float>(context_.scratch_floats * context_.n_threads);
  choices_.carve(carver, device);
  if (spec.kind == ModelKind::encoder) text_head_.carve(carver, options_.max_batch_tokens, options_.max_seqs);
  if (!cache_) pages_ = TextPages(carver, spec, options_.max_batch_tokens, options_.max_seqs, device);
  state_.attention_partials = take_partials(carver);
  if (sources_) sources_->carve(carver, state_.attention_partials);
  if (!measuring) return;
  if (device == DeviceKind::cuda) check_device_sizes();
  workspace_ = PlacedBuffer(carver.used(), device, Pages::small);
}

// Scratch of attention, of which texts that are read at once need none on the CPU.
std::span<float> Runner::take_partials(Carver& carver) const {
  if (!cache_ && model_.device.kind == DeviceKind::cpu) return {};
  const int64_t n_places = cache_ ? cache_->n_blocks() * cache_->block_size() : options_.max_batch_tokens;
  const int64_t floats = partial_floats_for(model_, options_, n_places);
  return {carver.take<float>(floats), static_cast<size_t>(floats)};
}

int64_t Runner::most_workspace_bytes(const Model& model, const RunnerOptions& options) {
  const ModelSpec& spec = model.spec;
  const DeviceKind device = model.device.kind;
  const ops::Context context;
  Carver carver;
  State::take(carver, spec, options.max_batch_tokens, device);
  if (device == DeviceKind::cpu)
    carver.take<float>(scratch_floats_for(spec, options) * resolve_num_threads(options.num_threads));
  Choices(context, spec, options.max_batch_tokens).carve(carver, device);
  carver.take<float>(partial_floats_for(model, options, spec.max_positions));
  if (!spec.encoder.empty()) SourceEncoder::Room::take(carver, model, options);
  return carver.used();
}

// ---- one step

struct Runner::Guard {
  explicit Guard(Runner& runner)
      : chosen_(runner.model_.device), runner_(runner), allocations_before_(n_heap_allocations()) {
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
  lists_.clear();
  pages_.release();
  if (sources_) sources_->clear();
  choices_.clear();
  sequences_.clear();
  drawn_.clear();
}

// Blocks whose first token this step writes hold somebody's stale keys and values. A device multiplies those
// behind a text's end by 0, so they must be finite; the kernels of the CPU read no value that no row sees.
void Runner::clear_fresh_blocks(const Sequence& sequence, int64_t n_rows) {
  const int64_t size = cache_->block_size();
  const int64_t first = ceil_div(sequence.n_computed, size),
                end = ceil_div(sequence.n_computed + n_rows, size);
  for (int64_t area = 0; area < cache_->n_areas(); ++area)
    for (int64_t i = first; i < end; ++i) cache_->clear_block(context_, area, blocks_of(sequence, area)[i]);
}

void Runner::encode_sources(std::span<const StepRequest> requests) {
  for (const StepRequest& request : requests)
    if (const Sequence& s = *request.sequence; !s.source_kept) sources_->add(s, s.source_blocks.data());
  sources_->run();
  for (const StepRequest& request : requests) request.sequence->source_kept = true;
}

// Appends a sequence's rows to the batch.
void Runner::add(const StepRequest& request) {
  Sequence& s = *request.sequence;
  const int64_t n_rows = request.n_new + s.n_drafted;
  clear_fresh_blocks(s, n_rows);
  // A token that is generated behind a source has the row of its own place, as in transformers' generate.
  lists_.add_rows(model_.spec, s.tokens, s.token_types, s.n_computed, n_rows,
                  sources_ ? s.n_prompt : s.n_tokens());
  for (int64_t area = 0; area < cache_->n_areas(); ++area)
    lists_.add_places(area, s.n_computed, n_rows, blocks_of(s, area).data(), s.block_size);
  if (sources_) lists_.add_source(s.n_source(), s.source_blocks.data());
  add_choices(request);
}

// Lists the rows whose logits somebody wants, and drops what a step that failed had collected.
void Runner::add_choices(const StepRequest& request) {
  Sequence& s = *request.sequence;
  s.logits.resize(s.collect.logits ? s.n_computed * model_.spec.n_vocab : 0);
  if (s.collect.prompt_logprobs >= 0) s.prompt_logprobs.resize(std::min(s.n_computed, s.n_prompt - 1));
  const ops::SequenceRows& rows = lists_.sequences().back();
  for (int64_t r = 0; r < rows.n_rows; ++r) {
    const bool sample = request.sample && r >= rows.n_rows - 1 - s.n_drafted;
    const bool prompt = s.collect.prompt_logprobs >= 0 && s.n_computed + r < s.n_prompt - 1;
    if (!sample && !prompt && !s.collect.logits) continue;
    lists_.ask_for(rows.first_row + r);
    choices_.add(s, s.n_computed + r, sample);
  }
}

StepBatch Runner::batch() {
  const StepBatch batch = lists_.asked(cache_ ? cache_->view().back().area : 0);
  return place(staging_, context_, transformer_, batch, lists_.positions(), state_);
}

// One step of requests that were checked, after begin_batch().
void Runner::compute(std::span<const StepRequest> requests) {
  for (const StepRequest& request : requests)
    sequences_.push_back(request.sequence);  // Guard's, from here on
  if (sources_) encode_sources(requests);
  for (const StepRequest& request : requests) add(request);
  forward(batch(), taps_for(sequences_));
  choices_.run(transformer_, state_);
  wait();
  for (size_t i = 0; i < requests.size(); ++i) collect_hidden(*sequences_[i], lists_.sequences()[i]);
  for (const StepRequest& request : requests) {
    request.sequence->n_computed += request.n_new;
    if (request.sample) drawn_.push_back(choices_.keep(*request.sequence));
  }
}

std::span<const int32_t> Runner::step(std::span<const StepRequest> requests) {
  const Guard guard(*this);
  checks_.step(requests);
  for (const StepRequest& request : requests) request.sequence->logprobs.clear();
  compute(requests);
  return drawn_;
}

// ---- steps without a pause

RunCounts Runner::run(std::span<const StepRequest> requests, int64_t max_steps, double max_s) {
  using Clock = std::chrono::steady_clock;
  const Clock::time_point start = Clock::now();
  TUILI_CHECK(max_steps >= 1, "run: max_steps must be at least 1, not ", max_steps);
  checks_.run(requests);
  for (const StepRequest& request : requests) {
    Sequence& s = *request.sequence;
    const int64_t n_most = s.lookup.n_most() > 0 ? room_of(s) + 1 - s.n_tokens() : max_steps;
    make_room(s.tokens, std::min(n_most, kMostBatchTokens));
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
  int64_t n_left = most - std::ssize(requests), n_drafted = 0;
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
    const int32_t token = drawn_[i];
    if (token < 0 || s.stops_at(token)) return false;
    if (s.n_tokens() > room_of(s) || s.n_tokens() >= s.max_tokens) return false;
  }
  return true;
}

void Runner::copy_block(std::span<const BlockCopy> copies) {
  checks_.copy_block(copies);
  const device::Chosen chosen(model_.device);
  for (int64_t area = 0; area < cache_->n_areas(); ++area)
    if (copies[area].from != copies[area].to) cache_->copy_block(context_, area, copies[area]);
}

std::span<const int32_t> Runner::sample(Sequence& s, std::span<const float> logits) {
  const Guard guard(*this);
  checks_.sample(s, logits);
  choices_.run(s, logits);
  s.logprobs.clear();
  drawn_.push_back(choices_.keep(s));
  return drawn_;
}

// ---- hidden states and encoders

Taps* Runner::taps_for(std::span<Sequence* const> sequences) {
  if (std::ranges::none_of(sequences, [](const Sequence* s) { return s->collect.hidden; })) return nullptr;
  const int64_t n_tokens = lists_.n_rows(), layers = model_.spec.n_layers() + 1, d = model_.spec.d_model;
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
  text_head_.ask_for_vectors(lists_, pooling, n_skipped);
  forward_texts();
  text_head_.pool(out, lists_, state_, pooling, normalize, n_skipped);
  wait();
}

void Runner::answer(std::span<Sequence* const> sequences, AnswerPositions positions, float* out) {
  const Guard guard(*this);
  n_answers(sequences, positions);
  add_texts(sequences);
  text_head_.ask_for_answers(lists_, positions);
  forward_texts();
  text_head_.answer(out, lists_, transformer_, state_, positions);
  wait();
}

}  // namespace tuili
