// BeamSearch and BeamRows.
#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <variant>
#include <vector>

#include "bindings/beams.h"
#include "bindings/bindings.h"
#include "bindings/names.h"
#include "bindings/numpy.h"
#include "bindings/released.h"
#include "bindings/sequences.h"

namespace tuili::bindings {
namespace {

using Likeliest = std::vector<std::tuple<int32_t, float, float>>;
using Best = std::vector<std::pair<int32_t, float>>;

EarlyStopping to_early_stopping(const std::variant<bool, std::string>& value) {
  if (const bool* const ends = std::get_if<bool>(&value))
    return *ends ? EarlyStopping::yes : EarlyStopping::no;
  return choose<EarlyStopping>(std::get<std::string>(value), "early_stopping",
                               {{"never", EarlyStopping::never}});
}

std::vector<int64_t> advance(BeamSearch& search, const std::vector<std::pair<Likeliest, Best>>& given,
                             const py::object& ends) {
  std::vector<Candidates> candidates(given.size());
  std::vector<const Candidates*> pointers;
  for (size_t beam = 0; beam < given.size(); ++beam) {
    Candidates& own = candidates[beam];
    for (const auto& [id, score, logprob] : given[beam].first) own.likeliest.push_back({id, score, logprob});
    own.best.assign(given[beam].second.begin(), given[beam].second.end());
    pointers.push_back(&own);
  }
  return search.advance(pointers, asking(ends));
}

void bind_search(py::module_& module) {
  py::class_<BeamSearch::Text>(module, "BeamText")
      .def_property_readonly("token_ids", [](const BeamSearch::Text& text) { return ids_of(text.token_ids); })
      .def_property_readonly("logprobs",
                             [](const BeamSearch::Text& text) {
                               py::list all;
                               for (const TokenLogprobs& one : text.logprobs) all.append(to_tuple(one));
                               return all;
                             })
      .def_readonly("score", &BeamSearch::Text::score)
      .def_readonly("ended", &BeamSearch::Text::ended);
  py::class_<BeamSearch, std::shared_ptr<BeamSearch>>(module, "BeamSearch")
      .def(py::init([](int64_t width, const py::object& ending, int64_t max_tokens, double length_penalty,
                       const std::variant<bool, std::string>& early_stopping, bool may_end) {
             return std::make_shared<BeamSearch>(BeamRules{width, to_ids(ending, "ending"), max_tokens,
                                                           length_penalty, to_early_stopping(early_stopping),
                                                           may_end});
           }),
           "width"_a, "ending"_a, "max_tokens"_a, py::kw_only(), "length_penalty"_a, "early_stopping"_a,
           "may_end"_a = false)
      .def_property_readonly("n_candidates", &BeamSearch::n_candidates)
      .def_property_readonly("begun", &BeamSearch::begun)
      .def_property_readonly("done", &BeamSearch::done)
      .def("advance", &advance, "candidates"_a, "ends"_a = py::none())
      .def("best", &BeamSearch::best, "n"_a);
}

}  // namespace

EndsBeam asking(py::handle ends) {
  if (ends.is_none()) return {};
  if (!PyCallable_Check(ends.ptr())) throw py::type_error("ends must be callable");
  return [ends](int64_t parent, int32_t token_id) {
    int answer = -1;
    try {
      PyObject* const given =
          PyObject_CallFunction(ends.ptr(), "Li", static_cast<long long>(parent), token_id);
      if (given) answer = PyObject_IsTrue(given);
      Py_XDECREF(given);
    } catch (...) {
      stand_still();
    }
    if (answer < 0) throw py::error_already_set();
    return answer == 1;
  };
}

void bind_beams(py::module_& module) {
  bind_search(module);
  py::class_<SteppedRows, SharedRows>(module, "BeamRows")
      .def(py::init<std::shared_ptr<BeamSearch>, std::vector<SharedSequence>>(), "search"_a, "sequences"_a)
      .def_property_readonly("ready", &BeamRows::ready)
      .def_property_readonly("moves",
                             [](const SteppedRows& rows) {
                               py::list all;
                               for (const auto& [parent, row, token_id, alive] : rows.moves())
                                 all.append(py::make_tuple(parent, row, token_id, alive));
                               return all;
                             })
      .def("check", &SteppedRows::check);
}

}  // namespace tuili::bindings
