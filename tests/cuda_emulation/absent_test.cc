// A build without CUDA: the same ops link, and each way to the device is an error that says what to do.
#include "base/check.h"
#include "base/device.h"
#include "ops/ops.h"
#include "testing.h"

namespace {

using namespace tuili;  // NOLINT: a test file
using testing::require;

template <typename Call>
void require_refused(Call call) {
  std::string error = "nothing";
  try {
    call();
  } catch (const Error& refusal) {
    require(refusal.kind() == ErrorKind::invalid_parameter, "not invalid_parameter: ", refusal.what());
    error = refusal.what();
  }
  require(error.find("-DTUILI_CUDA=ON") != std::string::npos, "says \"", error, "\"");
}

TUILI_TEST(there_is_no_device) {
  require(device::count() == 0, "a device answers");
  require(std::string(device::build_kind()) == "none", device::build_kind());
  device::free(nullptr);
}

TUILI_TEST(memory_and_streams_are_refused) {
  float host = 0;
  require_refused([] { device::allocate(16); });
  require_refused([&] { device::copy_to_device(&host, &host, 4, nullptr); });
  require_refused([&] { device::copy_to_host(&host, &host, 4, nullptr); });
  require_refused([] { device::create_stream(); });
  require_refused([] { device::synchronize(nullptr); });
}

TUILI_TEST(ops_on_device_tensors_are_refused) {
  float memory[4] = {};
  const TensorView x(memory, DType::bf16, {1, 1}, DeviceKind::cuda),
      row(memory, DType::f32, {1, 1}, DeviceKind::cuda), gain(memory, DType::f32, {1}, DeviceKind::cuda);
  const PackedMatrix w{
      .format = Format::bf16, .n = 1, .k = 1, .codes = reinterpret_cast<const uint8_t*>(memory)};
  const ops::LinearMap map{row, &w};
  ops::Activations input{x, {}};
  require_refused([&] { ops::gemm({}, input, {&map, 1}, ops::Compute::automatic); });
  for (const TensorView& y : {x, row}) require_refused([&] { ops::rms_norm({}, y, row, gain, 1e-5f); });
  require_refused([&] { ops::add({}, row, row, row); });
}

}  // namespace
