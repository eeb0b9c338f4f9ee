// Launches of fixed shapes, for what they ask of memory (traffic.py). Their results are tested elsewhere. A
// kernel joins by a line in a table.
#include <vector>

#include "base/device.h"
#include "emulation.h"
#include "ops/ops.h"
#include "testing.h"

namespace {

using namespace tuili;  // NOLINT: a test file

// Zeros on the device.
class Tensor {
 public:
  Tensor(DType dtype, int64_t rows, int64_t columns)
      : dtype_(dtype), rows_(rows), columns_(columns), memory_(device::allocate(bytes())) {
    const std::vector<char> zeros(static_cast<size_t>(bytes()));
    device::copy_to_device(memory_, zeros.data(), bytes(), nullptr);
  }
  ~Tensor() { device::free(memory_); }
  Tensor(const Tensor&) = delete;
  Tensor& operator=(const Tensor&) = delete;

  TensorView view() const { return {memory_, dtype_, {rows_, columns_}, DeviceKind::cuda}; }
  TensorView row() const { return {memory_, dtype_, {columns_}, DeviceKind::cuda}; }

 private:
  int64_t bytes() const { return rows_ * columns_ * (dtype_ == DType::f32 ? 4 : 2); }

  DType dtype_;
  int64_t rows_, columns_;
  void* memory_;
};

template <int64_t kM, int64_t kN, int64_t kK>
void gemm() {
  const Tensor x(DType::bf16, kM, kK), w(DType::bf16, kN, kK), y(DType::f32, kM, kN);
  ops::gemm({}, y.view(), x.view(), w.view());
}

template <int64_t kTokens, int64_t kModel>
void rms_norm() {
  const Tensor x(DType::f32, kTokens, kModel), y(DType::f32, kTokens, kModel), gain(DType::f32, 1, kModel);
  ops::rms_norm({}, y.view(), x.view(), gain.row(), 1e-5f);
}

const testing::Registration kShapes[] = {
    {"shape: gemm m 1 n 512 k 2048", gemm<1, 512, 2048>},
    {"shape: gemm m 16 n 512 k 2048", gemm<16, 512, 2048>},
    {"shape: gemm m 128 n 256 k 512", gemm<128, 256, 512>},
    {"shape: rms_norm n_tokens 4 d_model 2048", rms_norm<4, 2048>},
};

}  // namespace
