// Records of quantized weights (base/device_records.h): every number is where the header says, on the host.
#include "base/device_records.h"
#include "packed_weights.h"

namespace {

using namespace tuili;           // NOLINT: a test file
using namespace tuili::testing;  // NOLINT

template <typename T>
T at(const uint8_t* bytes) {
  T value;
  std::memcpy(&value, bytes, sizeof(value));
  return value;
}
double half_at(const uint8_t* bytes) { return value(std::bit_cast<__half>(at<uint16_t>(bytes))); }

// Element (j, i): its scaled code, and its min.
std::pair<double, double> element(const uint8_t* records, Format format, int64_t k, int64_t j, int64_t i) {
  const DeviceRecords sizes = device_records(format);
  const int64_t column = j % 16, g = column % 8, side = column / 8, pair = i / 64, group = i / 32 % 2;
  const int64_t step = i / 16 % 2, lane = 4 * g + i % 16 / 4, half = i % 2;
  const int64_t number = 4 * step + i % 4 / 2 * 2 + side;
  const uint8_t* block =
      records + (j / 16 * ((k + 63) / 64 / sizes.pairs) + pair / sizes.pairs) * sizes.record_bytes();
  const uint8_t* codes = block + sizes.header + pair % sizes.pairs * sizes.pair_bytes();
  const uint8_t* high = codes + sizes.codes;
  const uint8_t* scales = high + sizes.high + g * (sizes.scales / 8);
  int64_t code;
  if (sizes.codes == 1024) {
    code = static_cast<int8_t>(codes[group * 512 + lane * 16 + number / 2 * 4 + number % 2 + 2 * half]);
  } else {
    code = at<uint32_t>(codes + lane * 16 + group * 8 + step * 4) >> (4 * (number % 4) + 16 * half) & 15;
    if (sizes.high == 128)
      code |= (at<uint32_t>(high + lane * 4) >> (8 * group + number + 16 * half) & 1) << 4;
    if (sizes.high == 256)
      code |= (at<uint32_t>(high + lane * 8 + group * 4) >> (2 * number + 16 * half) & 3) << 4;
  }
  code -= format == Format::q4_0 ? 8 : format == Format::q5_0 ? 16 : format == Format::q6_k ? 32 : 0;
  if (sizes.header == 0)
    return {half_at(scales + group * 4 + side * 2) * double(code),
            sizes.scales == 128 ? half_at(scales + 8 + group * 4 + side * 2) : 0};
  const uint8_t* d = block + g * (sizes.header / 8) + side * 2;
  if (format == Format::q6_k)
    return {half_at(d) * static_cast<int8_t>(scales[group * 4 + step * 2 + side]) * double(code), 0};
  return {half_at(d) * scales[group * 2 + side] * double(code),
          half_at(d + 4) * -double(scales[4 + group * 2 + side])};
}

TUILI_TEST(records_hold_every_number_where_they_say) {
  ops::Context context;
  context.pool = &ThreadPool::shared();
  for (const Format format : kQuantizedFormats) {
    const int64_t n = 20, k = format >= Format::q4_k ? 512 : 96;
    const PackedWeights w(format, n, k);
    std::vector<uint8_t> records(size_t(ops::device_bytes(format, n, k)), 0xff);
    ops::arrange_for_device(context, records.data(), w.on_host);
    for (int64_t j = 0; j < n; ++j) {
      for (int64_t i = 0; i < k; ++i) {
        require(element(records.data(), format, k, j, i) == w.element(j, i), info_of(format).name,
                ": element ", j, ", ", i);
      }
    }
  }
}

}  // namespace
