// One request's decoding state.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <limits>
#include <span>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/memory.h"
#include "runtime/prompt_lookup.h"
#include "runtime/sampling_params.h"

namespace tuili {

// What a sequence keeps of the steps that compute it. Off by default.
struct Collect {
  bool logits = false;
  bool hidden = false;
  int64_t prompt_logprobs = -1;

  bool anything() const { return logits || hidden || prompt_logprobs >= 0; }
};

// A sequence's blocks in the area of a window.
struct WindowBlocks {
  Vector<int32_t> ids;  // in order of position; -1: given back, as no token to come sees its keys
  int64_t n_gone = 0;   // so many of them, the first ones
};

struct Sequence {
  Sequence(std::span<const int32_t> prompt, SamplingParams params, uint64_t salt_, Collect what)
      : tokens(prompt.begin(), prompt.end()),
        n_prompt(std::ssize(prompt)),
        sampling(std::move(params)),
        salt(salt_),
        collect(what) {
    TUILI_CHECK(n_prompt >= 1, "a sequence needs at least one token");
  }

  Vector<int32_t> tokens;       // prompt, then generated
  Vector<int32_t> token_types;  // empty, or one per token
  Vector<int32_t> source;       // of encoder-decoders: what the encoder reads
  int64_t n_prompt;
  int64_t n_computed = 0;  // tokens whose keys and values are in the blocks
  SamplingParams sampling;
  Vector<int32_t> stop_ids;  // one of these, chosen, ends a run of steps; what else it means is the caller's
  Vector<uint32_t> allowed;  // bit id % 32 of word id / 32: whether that token may be next; empty: all may
  bool deferred = false;     // steps choose no token: they leave next_logits, and Runner::sample chooses
  int64_t max_tokens = std::numeric_limits<int64_t>::max();  // so many in all end one too
  PromptLookup lookup;                                       // guesses tokens in runs
  uint64_t salt;                                             // prefixes are shared only under the same salt
  Collect collect;

  // The block pool's part.
  Vector<int32_t> blocks;             // ids, in order of position
  std::vector<WindowBlocks> windows;  // the same in each window's area
  Vector<uint64_t> content;           // content ids of the leading whole blocks that the pool knows
  Vector<int32_t> source_blocks;      // for the keys and values of the source
  bool source_kept = false;           // whether they hold them
  uint64_t pool_id = 0;               // of the pool that gave the blocks; 0: none
  int64_t block_size = 0;

  // The runner's part: rows of what was asked to be collected.
  Vector<float> logits;               // [n_computed, n_vocab]
  std::vector<Vector<float>> hidden;  // per layer: [n_computed, d_model]
  Vector<float> next_logits;  // [n_vocab] for the next token if it is deferred and due, or empty; of a beam
                              // log-probabilities
  Vector<TokenLogprobs> prompt_logprobs;
  Vector<TokenLogprobs> logprobs;    // of the tokens that the last step or run chose, if asked for
  Candidates candidates;             // of the step that computed a beam's last token
  int64_t n_drafted = 0;             // the last tokens, while a step runs: guesses that it will decide about
  std::atomic<bool> in_step{false};  // see HeldSequences

  int64_t n_tokens() const { return std::ssize(tokens); }
  int64_t n_places() const {  // tokens that the blocks have places for, those of windows to come
    int64_t n = std::ssize(blocks);
    for (const WindowBlocks& window : windows) n = std::min(n, std::ssize(window.ids));
    return n * block_size;
  }
  int64_t n_source() const { return std::ssize(source); }
  int64_t n_source_pending() const { return source_kept ? 0 : n_source(); }
  int64_t n_generated() const { return n_tokens() - n_prompt; }
  bool stops_at(int32_t token) const { return std::ranges::find(stop_ids, token) != stop_ids.end(); }

  void forget_collected() {
    logits.clear();
    for (auto& layer : hidden) layer.clear();
    prompt_logprobs.clear();
  }

  // Drops guesses, and rows collected, of a step that failed before its tokens counted as computed. Allocates
  // nothing.
  void keep_computed(int64_t n_vocab, int64_t d_model) {
    tokens.resize(tokens.size() - static_cast<size_t>(std::exchange(n_drafted, 0)));
    const auto shrink = [](auto& rows, int64_t n) {
      rows.resize(std::min(rows.size(), static_cast<size_t>(std::max<int64_t>(n, 0))));
    };
    shrink(logits, n_computed * n_vocab);
    for (auto& layer : hidden) shrink(layer, n_computed * d_model);
    shrink(prompt_logprobs, std::min(n_computed, n_prompt - 1));
  }
};

// Sequences whose tokens and blocks nobody else may change while it lives: a step reads them without the GIL.
// Made before the GIL is released. Throws invalid_parameter for one that is held already.
class HeldSequences {
 public:
  HeldSequences() = default;
  HeldSequences(const HeldSequences&) = delete;
  HeldSequences& operator=(const HeldSequences&) = delete;
  ~HeldSequences() {
    for (Sequence* sequence : held_) sequence->in_step = false;
  }
  void reserve(size_t n) { held_.reserve(n); }
  void hold(Sequence& sequence) {
    held_.push_back(&sequence);
    if (!sequence.in_step.exchange(true)) return;
    held_.pop_back();  // it is another holder's
    TUILI_CHECK(false, "a sequence is in this step twice, or in another one");
  }

 private:
  std::vector<Sequence*> held_;
};

}  // namespace tuili
