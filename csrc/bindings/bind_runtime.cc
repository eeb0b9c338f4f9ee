// SamplingParams, Sequence, Runner.
#include <exception>
#include <memory>
#include <optional>

#include "bindings/beams.h"
#include "bindings/bindings.h"
#include "bindings/fields.h"
#include "bindings/names.h"
#include "bindings/numpy.h"
#include "bindings/released.h"
#include "bindings/sequences.h"
#include "runtime/block_pool.h"
#include "runtime/runner.h"

namespace tuili::bindings {
namespace {

void bind_sampling(py::module_& module) {
  Fields<SamplingParams>(module, "SamplingParams")
      .field("temperature", &SamplingParams::temperature)
      .field("top_k", &SamplingParams::top_k)
      .field("top_p", &SamplingParams::top_p)
      .field("min_p", &SamplingParams::min_p)
      .field("typical_p", &SamplingParams::typical_p)
      .field("repetition_penalty", &SamplingParams::repetition_penalty)
      .field("source_penalty", &SamplingParams::source_penalty)
      .field("presence_penalty", &SamplingParams::presence_penalty)
      .field("frequency_penalty", &SamplingParams::frequency_penalty)
      .field("no_repeat_ngram_size", &SamplingParams::no_repeat_ngram_size)
      .field("source_ngram_size", &SamplingParams::source_ngram_size)
      .field("seed", &SamplingParams::seed)
      .field("logit_bias", &SamplingParams::logit_bias)
      .field("sequence_bias", &SamplingParams::sequence_bias)
      .field("allowed_token_ids", &SamplingParams::allowed_token_ids)
      .field("bad_words", &SamplingParams::bad_words)
      .field("not_first", &SamplingParams::not_first)
      .field("ending", &SamplingParams::ending)
      .field("min_tokens", &SamplingParams::min_tokens)
      .field("ending_growth", &SamplingParams::ending_growth)
      .field("ending_from", &SamplingParams::ending_from)
      .field("forced_first", &SamplingParams::forced_first)
      .field("forced_last", &SamplingParams::forced_last)
      .field("n_before_last", &SamplingParams::n_before_last)
      .field("n_logprobs", &SamplingParams::n_logprobs)
      .field("n_candidates", &SamplingParams::n_candidates)
      .field("renormalize", &SamplingParams::renormalize)
      .done();
}

// ---- Sequence

SharedSequence make_sequence(const py::object& token_ids, const SamplingParams* sampling, uint64_t salt,
                             const py::object& token_type_ids, bool collect_logits, bool collect_hidden,
                             int64_t prompt_logprobs, const std::vector<int32_t>& stop_ids,
                             std::optional<int64_t> max_tokens, int64_t prompt_lookup, bool deferred,
                             const py::object& source) {
  TUILI_CHECK(prompt_lookup >= 0, "prompt_lookup must be at least 0, not ", prompt_lookup);
  const std::vector<int32_t> ids = to_ids(token_ids, "token_ids");
  auto sequence = std::make_shared<Sequence>(ids, sampling ? *sampling : SamplingParams(), salt,
                                             Collect{collect_logits, collect_hidden, prompt_logprobs});
  sequence->stop_ids.assign(stop_ids.begin(), stop_ids.end());
  sequence->deferred = deferred;
  if (max_tokens) sequence->max_tokens = *max_tokens;
  sequence->lookup = PromptLookup(prompt_lookup);
  if (!source.is_none()) {
    const std::vector<int32_t> read = to_ids(source, "source");
    TUILI_CHECK(!read.empty(), "a source needs at least one token");
    sequence->source.assign(read.begin(), read.end());
  }
  if (token_type_ids.is_none()) return sequence;
  const std::vector<int32_t> types = to_ids(token_type_ids, "token_type_ids");
  TUILI_CHECK(types.size() == ids.size(), "token_type_ids has ", types.size(), " entries for ", ids.size(),
              " tokens");
  sequence->token_types.assign(types.begin(), types.end());
  return sequence;
}

py::array_t<float> logits_of(Sequence& sequence) {
  const Sequence& s = idle(sequence);
  TUILI_CHECK(s.collect.logits, "logits() needs collect_logits=True");
  const int64_t n_vocab = s.n_computed ? std::ssize(s.logits) / s.n_computed : 0;
  py::array_t<float> out({s.n_computed, n_vocab});
  std::copy(s.logits.begin(), s.logits.end(), out.mutable_data());
  return out;
}

py::array_t<float> next_logits_of(Sequence& sequence) {
  const auto& logits = idle(sequence).next_logits;
  return py::array_t<float>(static_cast<py::ssize_t>(logits.size()), logits.data());
}

py::tuple candidates_of(Sequence& sequence) {
  const Candidates& candidates = idle(sequence).candidates;
  py::list likeliest;
  for (const auto& [id, score, logprob] : candidates.likeliest)
    likeliest.append(py::make_tuple(id, score, logprob));
  return py::make_tuple(likeliest, to_list(candidates.best));
}

void allow(Sequence& sequence, const MaskArray& mask) {
  check_dims(mask, "mask", 1);
  idle(sequence).allowed.assign(mask.data(), mask.data() + mask.size());
}

py::array_t<float> hidden_of(Sequence& sequence) {
  const Sequence& s = idle(sequence);
  TUILI_CHECK(s.collect.hidden, "hidden_states() needs collect_hidden=True");
  const int64_t n_layers = std::ssize(s.hidden);
  const int64_t d_model = s.n_computed ? std::ssize(s.hidden.at(0)) / s.n_computed : 0;
  py::array_t<float> out({n_layers, s.n_computed, d_model});
  float* to = out.mutable_data();
  for (const auto& layer : s.hidden) to = std::copy(layer.begin(), layer.end(), to);
  return out;
}

std::vector<std::vector<int32_t>> window_ids_of(Sequence& sequence) {
  std::vector<std::vector<int32_t>> all;
  for (const WindowBlocks& window : idle(sequence).windows) all.push_back(ids_of(window.ids));
  return all;
}

void bind_sequence(py::module_& module) {
  py::class_<Sequence, SharedSequence>(module, "Sequence")
      .def(py::init(&make_sequence), "token_ids"_a, "sampling"_a = nullptr, py::kw_only(), "salt"_a = 0,
           "token_type_ids"_a = py::none(), "collect_logits"_a = false, "collect_hidden"_a = false,
           "prompt_logprobs"_a = -1, "stop_ids"_a = py::tuple(), "max_tokens"_a = py::none(),
           "prompt_lookup"_a = 0, "deferred"_a = false, "source"_a = py::none())
      .def_readonly("n_prompt", &Sequence::n_prompt)
      .def_property_readonly("n_tokens", &Sequence::n_tokens)
      .def_readonly("n_computed", &Sequence::n_computed)
      .def_property_readonly("n_source", &Sequence::n_source)
      .def_property_readonly("n_source_pending", &Sequence::n_source_pending)
      .def_property_readonly("n_blocks", [](const Sequence& s) { return s.blocks.size(); })
      .def_property_readonly("block_ids", [](Sequence& s) { return ids_of(idle(s).blocks); })
      .def_property_readonly("source_block_ids", [](Sequence& s) { return ids_of(idle(s).source_blocks); })
      .def_property_readonly("window_block_ids", &window_ids_of)
      .def(
          "token_ids",
          [](Sequence& s, int64_t begin) {
            const auto& tokens = idle(s).tokens;
            TUILI_CHECK(begin >= 0 && begin <= s.n_tokens(), "begin is ", begin, "; there are ", s.n_tokens(),
                        " tokens");
            return std::vector<int32_t>(tokens.begin() + begin, tokens.end());
          },
          "begin"_a = 0)
      .def(
          "append_token",
          [](Sequence& s, int32_t id) {
            TUILI_CHECK_KIND(ErrorKind::token_id, id >= 0, id, " is no token id");
            idle(s).tokens.push_back(id);
          },
          "token_id"_a)
      .def("logits", &logits_of)
      .def("next_logits", &next_logits_of)
      .def("candidates", &candidates_of)
      .def("allow", &allow, "mask"_a.noconvert())
      .def("hidden_states", &hidden_of)
      .def("prompt_logprobs", [](Sequence& s) {
        TUILI_CHECK(s.collect.prompt_logprobs >= 0, "prompt_logprobs() needs prompt_logprobs >= 0");
        py::list all;
        for (const TokenLogprobs& logprobs : idle(s).prompt_logprobs) all.append(to_tuple(logprobs));
        return all;
      });
}

// ---- Runner

struct StepResult {
  py::list token_ids, logprobs;
};

struct RunResult {
  RunCounts counts;
  py::list token_ids, logprobs;  // of lists
};

py::list logprobs_of(const Sequence& sequence) {
  py::list all;
  for (const TokenLogprobs& logprobs : sequence.logprobs) all.append(to_tuple(logprobs));
  return all;
}

// A runner as Python sees it. The flag changes only under the GIL, from the entry of a call to the end of the
// conversion of its result.
struct BusyRunner : Runner {
  using Runner::Runner;
  bool busy = false;
};

class Turn {
 public:
  explicit Turn(BusyRunner& runner) : runner_(runner) {
    TUILI_CHECK(!runner.busy, "this runner is in a step; it serves one thread at a time");
    runner.busy = true;
  }
  ~Turn() { runner_.busy = false; }
  Turn(const Turn&) = delete;

 private:
  BusyRunner& runner_;
};

// Holds them, and returns pointers to them.
std::vector<Sequence*> hold_all(HeldSequences& held, const std::vector<SharedSequence>& sequences) {
  held.reserve(sequences.size());
  std::vector<Sequence*> pointers;
  for (const SharedSequence& sequence : sequences) {
    TUILI_CHECK(sequence != nullptr, "a sequence is None");
    held.hold(*sequence);
    pointers.push_back(sequence.get());
  }
  return pointers;
}

// sampled: the sequences of which the step drew a token.
StepResult to_result(std::span<const int32_t> token_ids, std::span<const Sequence* const> sampled) {
  StepResult result;
  for (const int32_t id : token_ids) result.token_ids.append(id);
  for (const Sequence* sequence : sampled) {
    const auto& logprobs = sequence->logprobs;
    result.logprobs.append(logprobs.empty() ? py::none() : py::object(to_tuple(logprobs.back())));
  }
  return result;
}

StepResult run_step(BusyRunner& runner, const std::vector<SharedSequence>& sequences,
                    const std::vector<int64_t>& n_new, const std::vector<bool>& sample) {
  TUILI_CHECK(n_new.size() == sequences.size() && sample.size() == sequences.size(),
              "step: ", sequences.size(), " sequences, ", n_new.size(), " n_new, ", sample.size(), " sample");
  const Turn turn(runner);
  HeldSequences held;
  const std::vector<Sequence*> pointers = hold_all(held, sequences);
  std::vector<StepRequest> requests;
  std::vector<const Sequence*> sampled;
  for (size_t i = 0; i < pointers.size(); ++i) {
    requests.push_back({pointers[i], n_new[i], sample[i]});
    if (sample[i]) sampled.push_back(pointers[i]);
  }
  std::span<const int32_t> drawn;
  {
    const Released release;
    drawn = runner.step(requests);
  }
  return to_result(drawn, sampled);
}

StepResult run_sample(BusyRunner& runner, Sequence& sequence, const FloatArray& logits) {
  check_dims(logits, "logits", 1);
  const std::vector<float> copy(logits.data(), logits.data() + logits.size());  // others may write to theirs
  const Turn turn(runner);
  HeldSequences held;
  held.hold(sequence);
  std::span<const int32_t> drawn;
  {
    const Released release;
    drawn = runner.sample(sequence, copy);
  }
  const Sequence* const sampled = &sequence;
  return to_result(drawn, {&sampled, 1});
}

RunResult run_steps(BusyRunner& runner, const std::vector<SharedSequence>& sequences, int64_t max_steps,
                    double max_s) {
  const Turn turn(runner);
  HeldSequences held;
  std::vector<StepRequest> requests;
  std::vector<int64_t> n_before;
  for (Sequence* sequence : hold_all(held, sequences)) {
    requests.push_back({sequence, 1, true});
    n_before.push_back(sequence->n_tokens());
  }
  RunResult result;
  {
    const Released release;
    result.counts = runner.run(requests, max_steps, max_s);
  }
  for (size_t i = 0; i < sequences.size(); ++i) {
    const Vector<int32_t>& tokens = sequences[i]->tokens;
    py::list drawn;
    for (size_t t = static_cast<size_t>(n_before[i]); t < tokens.size(); ++t) drawn.append(tokens[t]);
    if (const int32_t last = runner.drawn()[i]; last < 0) drawn.append(last);
    result.token_ids.append(std::move(drawn));
    result.logprobs.append(logprobs_of(*sequences[i]));
  }
  return result;
}

py::array_t<float> run_encode(BusyRunner& runner, const std::vector<SharedSequence>& sequences,
                              const std::string& pooling, bool normalize, int64_t n_skipped) {
  const auto how = choose<Pooling>(pooling, "pooling",
                                   {{"mean", Pooling::mean},
                                    {"cls", Pooling::cls},
                                    {"last", Pooling::last},
                                    {"max", Pooling::max},
                                    {"mean_sqrt_len", Pooling::mean_sqrt_len},
                                    {"weighted_mean", Pooling::weighted_mean}});
  py::array_t<float> out({std::ssize(sequences), runner.spec().d_model});
  float* const to = out.mutable_data();
  const Turn turn(runner);
  HeldSequences held;
  const std::vector<Sequence*> pointers = hold_all(held, sequences);
  const Released release;
  runner.encode(pointers, how, normalize, n_skipped, to);
  return out;
}

py::array_t<float> run_answer(BusyRunner& runner, const std::vector<SharedSequence>& sequences,
                              const std::optional<std::vector<std::vector<int64_t>>>& positions) {
  const Turn turn(runner);
  HeldSequences held;
  const std::vector<Sequence*> pointers = hold_all(held, sequences);
  const auto rows =
      positions ? std::span<const std::vector<int64_t>>(*positions) : std::span<const std::vector<int64_t>>();
  py::array_t<float> out({runner.n_answers(pointers, rows), runner.spec().task_head.n_out});
  float* const to = out.mutable_data();
  const Released release;
  runner.answer(pointers, rows, to);
  return out;
}

void hold_all(HeldSequences& held, const std::vector<SharedRows>& searches) {
  for (const SharedRows& rows : searches) rows->hold(held);
}

// A step of each of these searches. What goes wrong with one is kept for its check().
void advance_beams(BusyRunner& runner, BlockPool& pool, const std::vector<SharedRows>& searches,
                   const std::vector<py::object>& ends) {
  TUILI_CHECK(ends.size() == searches.size(), "advance_beams: ", searches.size(), " searches, ", ends.size(),
              " ends");
  std::vector<EndsBeam> asked;
  for (const py::object& one : ends) asked.push_back(asking(one));
  for (const SharedRows& rows : searches) TUILI_CHECK(rows != nullptr, "advance_beams: a search is None");
  const Turn turn(runner);
  {
    HeldSequences each_once;
    hold_all(each_once, searches);
  }
  std::vector<std::vector<BlockCopy>> copies;
  for (size_t i = 0; i < searches.size(); ++i) {
    searches[i]->error = nullptr;
    try {
      searches[i]->advance(pool, asked[i], &copies);
    } catch (const std::exception&) {
      searches[i]->error = std::current_exception();
    }
  }
  if (copies.empty()) return;
  HeldSequences held;
  hold_all(held, searches);
  const Released release;  // most of the time goes here
  for (const auto& copy : copies) runner.copy_block(copy);
}

void bind_runner(py::module_& module) {
  py::class_<StepResult>(module, "StepResult")
      .def_readonly("token_ids", &StepResult::token_ids)
      .def_readonly("logprobs", &StepResult::logprobs);
  py::class_<RunResult>(module, "RunResult")
      .def_property_readonly("n_steps", [](const RunResult& run) { return run.counts.n_steps; })
      .def_property_readonly("n_drafted", [](const RunResult& run) { return run.counts.n_drafted; })
      .def_readonly("token_ids", &RunResult::token_ids)
      .def_readonly("logprobs", &RunResult::logprobs);
  py::class_<BusyRunner>(module, "Runner")
      .def(py::init([](const Model& model, KvCache* cache, int64_t max_batch_tokens, int64_t max_seqs,
                       int64_t max_source_tokens, int num_threads, const Isa& isa) {
             const RunnerOptions options{max_batch_tokens, max_seqs, max_source_tokens, num_threads,
                                         name_or_null(isa)};
             return std::make_unique<BusyRunner>(model, cache, options);
           }),
           "model"_a, "cache"_a = nullptr, py::kw_only(), "max_batch_tokens"_a = 512, "max_seqs"_a = 64,
           "max_source_tokens"_a = 0, "num_threads"_a = 0, "isa"_a = py::none(), py::keep_alive<1, 2>(),
           py::keep_alive<1, 3>())
      .def_property_readonly("workspace_bytes", &Runner::workspace_bytes)
      .def_static(
          "most_workspace_bytes",
          [](const Model& model, int64_t max_batch_tokens, int64_t max_seqs, int64_t max_source_tokens) {
            return Runner::most_workspace_bytes(model, {max_batch_tokens, max_seqs, max_source_tokens});
          },
          "model"_a, py::kw_only(), "max_batch_tokens"_a, "max_seqs"_a, "max_source_tokens"_a = 0)
      .def_property_readonly("n_threads", &Runner::n_threads)
      .def_property_readonly("isa", &Runner::isa)
      .def("step", &run_step, "sequences"_a, "n_new"_a, "sample"_a)
      .def("run", &run_steps, "sequences"_a, py::kw_only(), "max_steps"_a, "max_s"_a)
      .def("sample", &run_sample, "sequence"_a, "logits"_a)
      .def(
          "copy_block",
          [](BusyRunner& runner, const std::vector<int32_t>& from, const std::vector<int32_t>& to,
             std::pair<int64_t, int64_t> tokens) {
            TUILI_CHECK(from.size() == to.size(), "copy_block: ", from.size(), " from_ids, ", to.size(),
                        " to_ids");
            std::vector<BlockCopy> copies;
            for (size_t i = 0; i < from.size(); ++i)
              copies.push_back({from[i], to[i], tokens.first, tokens.second});
            const Turn turn(runner);
            runner.copy_block(copies);
          },
          "from_ids"_a, "to_ids"_a, "tokens"_a)
      .def("advance_beams", &advance_beams, "pool"_a, "searches"_a, "ends"_a)
      .def("expect_work", &Runner::expect_work)
      .def("interrupt", &Runner::interrupt)
      .def("encode", &run_encode, "sequences"_a, "pooling"_a, "normalize"_a, "n_skipped"_a = 0)
      .def("answer", &run_answer, "sequences"_a, "positions"_a = py::none())
      .def("n_allocations", &Runner::n_allocations)
      .def("n_last_rows", &Runner::n_last_rows)
      .def("n_screened", &Runner::n_screened)
      .def("n_listed", &Runner::n_listed);
}

}  // namespace

void bind_runtime(py::module_& module) {
  module.attr("NOTHING_ALLOWED") = kNothingAllowed;
  module.attr("DEFERRED") = kDeferred;
  bind_sampling(module);
  bind_sequence(module);
  bind_cache(module);
  bind_beams(module);
  bind_runner(module);
}

}  // namespace tuili::bindings
