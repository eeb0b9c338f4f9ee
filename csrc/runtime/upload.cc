#include "runtime/upload.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "base/check.h"

namespace tuili {
namespace {

constexpr int64_t kChunkFloats = 1 << 22;  // that are rounded at once

void check_supported(const ModelSpec& spec) {
  for (const ModelSpec& encoder : spec.encoder) check_supported(encoder);
  for (size_t i = 0; i < spec.layers.size(); ++i)
    TUILI_CHECK_KIND(ErrorKind::model_unsupported, spec.layers[i].head_dim <= 256, "layer ", i,
                     " has heads of more than 256 elements, which run on the CPU only: use device=\"cpu\"");
}

// Whether the spec, or what the host has made while loading, has the tensor's part already.
bool is_folded(const std::string& name) {
  return name.find("position_biases.") != std::string::npos || name.find("distance_") != std::string::npos;
}

// To the nearest bf16, ties to even; NaN stays NaN.
uint16_t to_bf16(float x) {
  const auto bits = std::bit_cast<uint32_t>(x);
  if (std::isnan(x)) return static_cast<uint16_t>(bits >> 16 | 0x40);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// Nothing else of an upload runs a kernel: where the build has no code for the device, this says so now.
void try_a_kernel() {
  const PlacedBuffer one(sizeof(float), DeviceKind::cuda);
  ops::scale({}, TensorView(one.data(), DType::f32, {1}, DeviceKind::cuda), 1);
  device::synchronize(nullptr);
}

class Uploader {
 public:
  explicit Uploader(int num_threads) {
    context_.kernels = &ops::find_kernels(nullptr);
    context_.pool = &ThreadPool::shared();
    context_.n_threads = resolve_num_threads(num_threads);
  }

  template <class T>
  const PlacedBuffer& copy(std::span<const T> from) {
    const PlacedBuffer& to = memory_.emplace_back(static_cast<int64_t>(from.size_bytes()), DeviceKind::cuda);
    device::copy_to_device(to.data(), from.data(), to.bytes(), nullptr);
    device::synchronize(nullptr);
    return to;
  }

  // Records of a quantized matrix.
  const PlacedBuffer& records(const PackedMatrix& w) {
    const Buffer arranged(ops::device_bytes(w.format, w.n, w.k));
    ops::arrange_for_device(context_, arranged.data(), w);
    return copy(std::span<const uint8_t>(arranged.data(), static_cast<size_t>(arranged.bytes())));
  }

  // bf16 [w.n, w.k], dense, of a packed matrix.
  const PlacedBuffer& dense(const PackedMatrix& w) {
    const PlacedBuffer& to = memory_.emplace_back(w.n * w.k * 2, DeviceKind::cuda);
    round_to(to.data(), w);
    return to;
  }

  // bf16 of matrices of one shape, one after another; they become views of it.
  int64_t dense(std::span<const PackedMatrix> packed, std::vector<PackedMatrix>& there) {
    if (packed.empty()) return 0;
    const auto [n, k] = std::pair{packed[0].n, packed[0].k};
    const PlacedBuffer& to = memory_.emplace_back(std::ssize(packed) * n * k * 2, DeviceKind::cuda);
    there.clear();
    for (const PackedMatrix& w : packed) {
      const PackedMatrix& placed = there.emplace_back(PackedMatrix{
          .format = Format::bf16, .n = n, .k = k, .codes = to.data() + std::ssize(there) * n * k * 2});
      round_to(const_cast<uint8_t*>(placed.codes), w);
    }
    return to.bytes();
  }

  // What kernels read of a model, or of its encoder, and is no tensor of its own: the table of a quantized
  // token embedding, the values of position biases, tables of distances, lists of experts. Returns their
  // bytes.
  int64_t complete(const ModelSpec& spec, const ModelWeights& packed, ModelWeights& weights) {
    int64_t bytes = 0;
    PackedMatrix& table = weights.token_embedding;
    if (!is_float(table.format)) {
      const PlacedBuffer& rows = dense(packed.token_embedding);
      table = {.format = Format::bf16, .n = table.n, .k = table.k, .codes = rows.data()};
      bytes += rows.bytes();
    }
    for (size_t i = 0; i < spec.position_biases.size(); ++i) {
      const PlacedBuffer& there = copy<float>(spec.position_biases[i].values);
      weights.bias_values[i] = reinterpret_cast<const float*>(there.data());
      bytes += there.bytes();
    }
    bytes += complete_distances(spec, packed, weights);
    bytes += complete_experts(spec, weights);
    for (size_t i = 0; i < spec.encoder.size(); ++i) {
      ModelWeights& encoder = weights.encoder[i];
      if (spec.encoder[i].shares_embedding) encoder.token_embedding = table;
      bytes += complete(spec.encoder[i], packed.encoder[i], encoder);
    }
    return bytes;
  }

  // The places of distances, and each layer's own tables.
  int64_t complete_distances(const ModelSpec& spec, const ModelWeights& packed, ModelWeights& weights) {
    if (spec.distances.places.empty()) return 0;
    const PlacedBuffer& there = copy<int32_t>(spec.distances.places);
    weights.distance_places = reinterpret_cast<const int32_t*>(there.data());
    int64_t bytes = there.bytes();
    for (size_t i = 0; i < weights.layers.size(); ++i) {
      LayerWeights& to = weights.layers[i];
      if (const int64_t owner = spec.layers[i].weights_of; owner >= 0) {
        to.distance_keys = weights.layers[owner].distance_keys;
        to.distance_queries = weights.layers[owner].distance_queries;
        continue;
      }
      bytes += dense(packed.layers[i].distance_keys, to.distance_keys);
      bytes += dense(packed.layers[i].distance_queries, to.distance_queries);
    }
    return bytes;
  }

  // Lists of each layer's experts, which blocks find their weights in.
  int64_t complete_experts(const ModelSpec& spec, ModelWeights& weights) {
    int64_t n_maps = 0;
    for (size_t i = 0; i < spec.layers.size(); ++i) {
      MoeWeights& moe = weights.layers[i].moe;
      if (moe.experts.empty()) continue;
      if (spec.layers[i].gated) moe.gates = list(moe.experts, &MlpWeights::gate);
      moe.ups = list(moe.experts, &MlpWeights::up);
      moe.downs = list(moe.experts, &MlpWeights::down);
      n_maps += (spec.layers[i].gated ? 3 : 2) * std::ssize(moe.experts);
    }
    return n_maps * int64_t{sizeof(ops::ExpertMap)};
  }

  std::vector<PlacedBuffer> release() { return std::move(memory_); }

 private:
  void round_to(uint8_t* to, const PackedMatrix& w) {
    const int64_t n_chunk = std::clamp<int64_t>(kChunkFloats / w.k, 1, w.n);
    std::vector<float> floats(n_chunk * w.k);
    std::vector<uint16_t> rounded(n_chunk * w.k);
    std::vector<int32_t> ids(n_chunk);
    for (int64_t row = 0; row < w.n; row += n_chunk) {
      const int64_t n = std::min(n_chunk, w.n - row);
      for (int64_t i = 0; i < n; ++i) ids[i] = static_cast<int32_t>(row + i);
      ops::embed(context_, TensorView(floats.data(), DType::f32, {n, w.k}), w, ids.data(), 1.0f);
      context_.pool->parallel_for(n, context_.n_threads, [&](int64_t begin, int64_t end, int) {
        std::transform(&floats[begin * w.k], floats.data() + end * w.k, &rounded[begin * w.k], to_bf16);
      });
      device::copy_to_device(to + row * w.k * 2, rounded.data(), n * w.k * 2, nullptr);
      device::synchronize(nullptr);
    }
  }

  // One of the maps of all experts of a layer, in a list.
  ops::ExpertMaps list(const std::vector<MlpWeights>& experts, Linear MlpWeights::* map) {
    const PackedMatrix& w = (experts.front().*map).w;
    std::vector<ops::ExpertMap> maps;
    for (const MlpWeights& expert : experts) {
      const Linear& linear = expert.*map;
      TUILI_CHECK_KIND(ErrorKind::model_unsupported, linear.w.format == w.format, "experts of one layer are ",
                       info_of(w.format).name, " and ", info_of(linear.w.format).name,
                       "; on cuda they must have one format: use device=\"cpu\"");
      maps.push_back({linear.w, linear.bias});
    }
    const PlacedBuffer& held = copy<ops::ExpertMap>(maps);
    return {reinterpret_cast<const ops::ExpertMap*>(held.data()), std::ssize(maps), w.format, w.n, w.k};
  }

  ops::Context context_;
  std::vector<PlacedBuffer> memory_;
};

}  // namespace

Model upload(const Model& model, int ordinal, int num_threads) {
  check_supported(model.spec);
  const Device device{DeviceKind::cuda, ordinal};
  const device::Chosen chosen(device);
  try_a_kernel();
  Uploader uploader(num_threads);
  ModelBuilder builder(model.spec, model.compute, num_threads);
  for (const auto& [name, format, bytes, matrix] : model.tensors) {
    if (is_folded(name)) {
      builder.borrow(name, format, nullptr, 0);
      continue;
    }
    const bool is_matrix = matrix.codes != nullptr, is_dense = is_matrix && is_float(format);
    const PlacedBuffer& on_device = is_dense    ? uploader.dense(matrix)
                                    : is_matrix ? uploader.records(matrix)
                                                : uploader.copy(bytes);
    builder.borrow(name, is_dense ? Format::bf16 : format, on_device.data(), on_device.bytes());
  }
  Model uploaded = builder.finish();
  uploaded.weight_bytes += uploader.complete(uploaded.spec, model.weights, uploaded.weights);
  uploaded.device = device;
  uploaded.device_memory = uploader.release();
  return uploaded;
}

}  // namespace tuili
