#include "runtime/upload.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "base/check.h"

namespace tuili {
namespace {

constexpr int64_t kChunkFloats = 1 << 22;  // that are rounded at once

// The first thing of a layer that no kernel of the device does, or null.
const char* missing_kernel(const LayerSpec& layer) {
  if (layer.head_dim % 8 != 0 || layer.head_dim > 256)
    return "heads of a size that is no multiple of 8 up to 256";
  return nullptr;
}

void check_supported(const ModelSpec& spec) {
  TUILI_CHECK_KIND(ErrorKind::model_unsupported, spec.encoder.empty(),
                   "encoder-decoders run on the CPU only: use device=\"cpu\"");
  for (size_t i = 0; i < spec.layers.size(); ++i) {
    const char* const missing = missing_kernel(spec.layers[i]);
    TUILI_CHECK_KIND(ErrorKind::model_unsupported, missing == nullptr, "layer ", i, " has ",
                     missing ? missing : "", ", which runs on the CPU only: use device=\"cpu\"");
  }
  TUILI_CHECK_KIND(ErrorKind::model_unsupported,
                   spec.distances.places.empty() && spec.convolution.n_taps == 0,
                   "the model has scores from distances (DeBERTa), which run on the CPU only: use "
                   "device=\"cpu\"");
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

  const PlacedBuffer& copy(const uint8_t* from, int64_t bytes) {
    const PlacedBuffer& to = memory_.emplace_back(bytes, DeviceKind::cuda);
    device::copy_to_device(to.data(), from, bytes, nullptr);
    device::synchronize(nullptr);
    return to;
  }

  // bf16 [w.n, w.k], dense, of a packed matrix.
  const PlacedBuffer& dense(const PackedMatrix& w) {
    const PlacedBuffer& to = memory_.emplace_back(w.n * w.k * 2, DeviceKind::cuda);
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
      device::copy_to_device(to.data() + row * w.k * 2, rounded.data(), n * w.k * 2, nullptr);
      device::synchronize(nullptr);
    }
    return to;
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
    const int64_t bytes = std::ssize(maps) * int64_t{sizeof(ops::ExpertMap)};
    const PlacedBuffer& held = copy(reinterpret_cast<const uint8_t*>(maps.data()), bytes);
    return {reinterpret_cast<const ops::ExpertMap*>(held.data()), std::ssize(maps), w.format, w.n, w.k};
  }

  std::vector<PlacedBuffer> release() { return std::move(memory_); }

 private:
  ops::Context context_;
  std::vector<PlacedBuffer> memory_;
};

}  // namespace

Model upload(const Model& model, int num_threads) {
  check_supported(model.spec);
  try_a_kernel();
  Uploader uploader(num_threads);
  ModelBuilder builder(model.spec, model.compute, num_threads);
  for (const auto& [name, format, bytes, matrix] : model.tensors) {
    if (name.starts_with("position_biases.")) {  // of which the spec has the values already
      builder.borrow(name, format, nullptr, 0);
      continue;
    }
    const bool is_dense = matrix.codes != nullptr && is_float(format);
    const PlacedBuffer& on_device =
        is_dense ? uploader.dense(matrix) : uploader.copy(bytes.data(), static_cast<int64_t>(bytes.size()));
    builder.borrow(name, is_dense ? Format::bf16 : format, on_device.data(), on_device.bytes());
  }
  Model uploaded = builder.finish();
  PackedMatrix& table = uploaded.weights.token_embedding;
  if (!is_float(table.format)) {
    const PlacedBuffer& rows = uploader.dense(model.weights.token_embedding);
    table = {.format = Format::bf16, .n = table.n, .k = table.k, .codes = rows.data()};
    uploaded.weight_bytes += rows.bytes();
  }
  for (size_t i = 0; i < uploaded.spec.position_biases.size(); ++i) {
    const std::vector<float>& values = uploaded.spec.position_biases[i].values;
    const auto bytes = static_cast<int64_t>(values.size() * sizeof(float));
    const PlacedBuffer& copy = uploader.copy(reinterpret_cast<const uint8_t*>(values.data()), bytes);
    uploaded.weights.bias_values[i] = reinterpret_cast<const float*>(copy.data());
    uploaded.weight_bytes += bytes;
  }
  for (size_t i = 0; i < uploaded.spec.layers.size(); ++i) {
    MoeWeights& moe = uploaded.weights.layers[i].moe;
    if (moe.experts.empty()) continue;
    if (uploaded.spec.layers[i].gated) moe.gates = uploader.list(moe.experts, &MlpWeights::gate);
    moe.ups = uploader.list(moe.experts, &MlpWeights::up);
    moe.downs = uploader.list(moe.experts, &MlpWeights::down);
  }
  uploaded.device = DeviceKind::cuda;
  uploaded.device_memory = uploader.release();
  return uploaded;
}

}  // namespace tuili
