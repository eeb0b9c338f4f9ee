// BlockPool and KvCache.
#include <map>
#include <memory>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>

#include "bindings/bindings.h"
#include "bindings/names.h"
#include "bindings/numpy.h"
#include "bindings/released.h"
#include "bindings/sequences.h"
#include "runtime/block_pool.h"
#include "runtime/kv_cache.h"

namespace tuili::bindings {
namespace {

// The areas by the length of their windows, hence the shortest first.
std::vector<WindowArea> to_areas(const std::map<int64_t, int64_t>& windows) {
  std::vector<WindowArea> areas;
  for (const auto& [window, n_blocks] : windows) areas.push_back({window, n_blocks});
  return areas;
}

struct WindowState {
  int64_t window, span, n_blocks, n_free, n_cached, n_evictions;
};

std::vector<WindowState> states_of(const BlockPool& pool) {
  std::vector<WindowState> states;
  for (int64_t i = 0; i < pool.n_windows(); ++i) {
    const BlockLedger& ledger = pool.ledger(i);
    states.push_back({pool.window(i), pool.span(i), ledger.n_blocks(), ledger.n_free(), ledger.n_cached(),
                      ledger.n_evictions()});
  }
  return states;
}

template <class Count>
auto count_of(Count BlockLedger::* count) {
  return [count](const BlockPool& pool) { return (pool.ledger().*count)(); };
}

using Ids = std::vector<int32_t>;
using Copies = std::tuple<Ids, Ids, std::pair<int64_t, int64_t>>;

// Copies as Runner.copy_block takes them: all areas copy the same tokens.
std::optional<Copies> to_copies(const std::optional<std::vector<BlockCopy>>& copies) {
  if (!copies) return std::nullopt;
  Ids from, to;
  for (const BlockCopy& copy : *copies) {
    from.push_back(copy.from);
    to.push_back(copy.to);
  }
  return Copies{from, to, {copies->front().begin, copies->front().end}};
}

void bind_sequences_of_pool(py::class_<BlockPool>& pool) {
  pool.def("attach_prefix", &BlockPool::attach_prefix, "sequence"_a)
      .def("attach_chain", &BlockPool::attach_chain, "sequence"_a, "n_tokens"_a)
      .def(
          "fork",
          [](BlockPool& self, Sequence& child, const Sequence& parent, int64_t n_tokens) {
            return to_copies(self.fork(child, parent, n_tokens));
          },
          "child"_a, "parent"_a, "n_tokens"_a)
      .def(
          "follow",
          [](BlockPool& self, Sequence& child, const Sequence& parent, int32_t token_id) {
            return to_copies(self.follow(child, parent, token_id));
          },
          "child"_a, "parent"_a, "token_id"_a)
      .def("share_source", &BlockPool::share_source, "child"_a, "parent"_a)
      .def("grow", &BlockPool::grow, "sequence"_a, "n_tokens"_a, py::kw_only(), "position"_a = py::none())
      .def(
          "grow_decoding",
          [](BlockPool& self, const std::vector<SharedSequence>& sequences) {
            return self.grow_decoding(all_idle(sequences));
          },
          "sequences"_a)
      .def(
          "grow_ahead",
          [](BlockPool& self, const std::vector<SharedSequence>& sequences, int64_t n_steps,
             int64_t n_spare) { return self.grow_ahead(all_idle(sequences), n_steps, n_spare); },
          "sequences"_a, "n_steps"_a, py::kw_only(), "n_spare"_a)
      .def(
          "room",
          [](const BlockPool& self, const std::vector<SharedSequence>& sequences) {
            const std::vector<Sequence*> all = all_idle(sequences);
            return self.room({all.data(), all.size()});
          },
          "sequences"_a)
      .def("publish", &BlockPool::publish, "sequence"_a)
      .def(
          "release_unseen",
          [](BlockPool& self, const std::vector<SharedSequence>& sequences) {
            for (Sequence* sequence : all_idle(sequences)) self.release_unseen(*sequence);
          },
          "sequences"_a)
      .def("release", &BlockPool::release, "sequence"_a);
}

void bind_block_pool(py::module_& module) {
  py::class_<WindowState>(module, "WindowState")
      .def_readonly("window", &WindowState::window)
      .def_readonly("span", &WindowState::span)
      .def_readonly("n_blocks", &WindowState::n_blocks)
      .def_readonly("n_free", &WindowState::n_free)
      .def_readonly("n_cached", &WindowState::n_cached)
      .def_readonly("n_evictions", &WindowState::n_evictions);
  py::class_<BlockPool> pool(module, "BlockPool");
  pool.def(py::init([](int64_t n_blocks, int64_t block_size, bool prefix_cache, uint64_t key,
                       uint64_t hash_mask, const std::map<int64_t, int64_t>& windows, int64_t step_tokens) {
             return std::make_unique<BlockPool>(BlockPoolOptions{n_blocks, block_size, prefix_cache, key,
                                                                 hash_mask, to_areas(windows), step_tokens});
           }),
           "n_blocks"_a, "block_size"_a = 32, py::kw_only(), "prefix_cache"_a = true, "key"_a = 0,
           "hash_mask"_a = ~uint64_t{0}, "windows"_a = py::dict(), "step_tokens"_a = 512)
      .def_property_readonly("n_blocks", &BlockPool::n_blocks)
      .def_property_readonly("block_size", &BlockPool::block_size)
      .def_property_readonly("n_free", count_of(&BlockLedger::n_free))
      .def_property_readonly("n_cached", count_of(&BlockLedger::n_cached))
      .def_property_readonly("n_hits", &BlockPool::n_hits)
      .def_property_readonly("n_evictions", count_of(&BlockLedger::n_evictions))
      .def_property_readonly("n_spared", count_of(&BlockLedger::n_spared))
      .def_property_readonly("n_salts", count_of(&BlockLedger::n_salts))
      .def_property_readonly("least_free", &BlockPool::least_free)
      .def_property_readonly("windows", &states_of)
      .def_static("window_span", &BlockPool::window_span, "window"_a, "block_size"_a, "step_tokens"_a)
      .def(
          "take",
          [](BlockPool& self, int64_t n) -> std::optional<std::vector<int32_t>> {
            const auto ids = self.take(n);
            return ids ? std::optional(ids_of(*ids)) : std::nullopt;
          },
          "n"_a)
      .def("share", &BlockPool::share, "block_id"_a)
      .def("drop", &BlockPool::drop, "block_id"_a)
      .def("clear_cache", &BlockPool::clear_cache)
      .def("n_owners", &BlockPool::n_owners, "block_id"_a)
      .def("check_invariants", &BlockPool::check_invariants);
  bind_sequences_of_pool(pool);
}

int64_t bytes_of(const KvCache& cache, int64_t n_tokens, int64_t first, int64_t n) {
  const int64_t before = cache.prefix_bytes(n_tokens, first);
  TUILI_CHECK(n >= 0 && n <= n_tokens, n, " blocks from ", first, " on of ", n_tokens, " tokens");
  return cache.prefix_bytes(n_tokens, first + n) - before;
}

const uint8_t* checked_bytes(const KvCache& cache, int64_t n_tokens, int64_t first, int64_t n,
                             const ByteArray& blocks) {
  const int64_t bytes = bytes_of(cache, n_tokens, first, n);
  TUILI_CHECK(blocks.size() == bytes, blocks.size(), " bytes for ", n, " blocks from ", first, " on of ",
              n_tokens, " tokens, which are ", bytes);
  return blocks.data();
}

py::array_t<uint8_t> read_blocks(const KvCache& cache, Sequence& sequence, int64_t n_tokens, int64_t first,
                                 int64_t n) {
  py::array_t<uint8_t> out(bytes_of(cache, n_tokens, first, n));
  uint8_t* const to = out.mutable_data();
  HeldSequences held;
  held.hold(sequence);
  const Released release;
  cache.read(sequence, n_tokens, first, n, to);
  return out;
}

void write_blocks(KvCache& cache, Sequence& sequence, int64_t n_tokens, int64_t n, const ByteArray& blocks) {
  const int64_t first = idle(sequence).n_computed / cache.block_size();
  const uint8_t* const from = checked_bytes(cache, n_tokens, first, n, blocks);
  HeldSequences held;
  held.hold(sequence);
  const Released release;
  cache.write(sequence, n_tokens, n, from);
}

bool are_finite(const KvCache& cache, int64_t n_tokens, int64_t first, int64_t n, const ByteArray& blocks) {
  const uint8_t* const bytes = checked_bytes(cache, n_tokens, first, n, blocks);
  const Released release;
  return cache.is_finite(n_tokens, first, n, bytes);
}

}  // namespace

void bind_cache(py::module_& module) {
  module.attr("KV_LAYOUT_VERSION") = kKvLayoutVersion;
  bind_block_pool(module);
  py::class_<KvCache>(module, "KvCache")
      .def(py::init([](const ModelSpec& spec, int64_t n_blocks, int64_t block_size, const std::string& dtype,
                       const std::map<int64_t, int64_t>& windows, const std::string& device) {
             return std::make_unique<KvCache>(spec, n_blocks, block_size, to_kv_type(dtype),
                                              to_areas(windows), device_named(device));
           }),
           "spec"_a, "n_blocks"_a, "block_size"_a = 32, "dtype"_a = "float32", py::kw_only(),
           "windows"_a = py::dict(), "device"_a = "cpu")
      .def_property_readonly("bytes", &KvCache::bytes)
      .def("poison", &KvCache::poison)
      .def("prefix_bytes", &KvCache::prefix_bytes, "n_tokens"_a, "n_blocks"_a)
      .def("read", &read_blocks, "sequence"_a, "n_tokens"_a, "first"_a, "n"_a)
      .def("write", &write_blocks, "sequence"_a, "n_tokens"_a, "n"_a, "blocks"_a)
      .def("is_finite", &are_finite, "n_tokens"_a, "first"_a, "n"_a, "blocks"_a)
      .def_static(
          "block_bytes",
          [](const ModelSpec& spec, int64_t block_size, const std::string& dtype,
             std::optional<int64_t> window) {
            return KvCache::block_bytes(spec, block_size, to_kv_type(dtype), window);
          },
          "spec"_a, "block_size"_a = 32, "dtype"_a = "float32", py::kw_only(), "window"_a = py::none());
}

}  // namespace tuili::bindings
