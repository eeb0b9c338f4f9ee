// Panels of base/packed.h -> records of base/device_records.h, exactly.
#include "base/device_records.h"

#include <cstring>

#include "base/rounding.h"
#include "ops/checks.h"
#include "ops/ops.h"

namespace tuili::ops {
namespace {

// Bytes of a panel's stream.
int64_t panel_bytes(Format format, int64_t k) {
  const DeviceRecords records = device_records(format);
  return ceil_div(k, kPairK) / records.pairs * records.record_bytes();
}

// The code of k `at` of a group, as bits; `codes` and `high` begin at the group.
template <int kCodeBytes, int kHighBytes>
int code_of(const uint8_t* codes, const uint8_t* high, int column, int at) {
  const int quad = at / 4, byte = column * 4 + at % 4;
  if (kCodeBytes == 1024) return codes[quad * 64 + byte];
  int code = codes[quad % 4 * 64 + byte] >> quad / 4 * 4 & 15;
  if (kHighBytes == 128) code |= (high[byte] >> quad & 1) << 4;
  if (kHighBytes == 256) code |= (high[quad / 4 * 64 + byte] >> quad % 4 * 2 & 3) << 4;
  return code;
}

void set_bits(uint8_t* word, int from, int bits) { word[from / 8] |= static_cast<uint8_t>(bits << from % 8); }

// The codes of group `j` of a pair.
template <int kCodeBytes, int kHighBytes>
void write_codes(uint8_t* pair, const uint8_t* codes, const uint8_t* high, int j) {
  uint8_t* const high_to = pair + kCodeBytes;
  for (int column = 0; column < kPanel; ++column) {
    for (int at = 0; at < kGroup; ++at) {
      const int i = at / 16 * 4 + at % 4 / 2 * 2 + column / 8, lane = column % 8 * 4 + at % 16 / 4;
      const int upper = at % 2 * 16, code = code_of<kCodeBytes, kHighBytes>(codes, high, column, at);
      if (kCodeBytes == 1024) {
        pair[j * 512 + lane * 16 + i / 2 * 4 + i % 2 + upper / 8] = static_cast<uint8_t>(code);
        continue;
      }
      set_bits(pair + lane * 16 + j * 8 + i / 4 * 4, i % 4 * 4 + upper, code & 15);
      if (kHighBytes == 128) set_bits(high_to + lane * 4, 8 * j + i + upper, code >> 4);
      if (kHighBytes == 256) set_bits(high_to + lane * 8 + j * 4, 2 * i + upper, code >> 4);
    }
  }
}

using WriteCodes = void (*)(uint8_t* pair, const uint8_t* codes, const uint8_t* high, int j);

WriteCodes write_codes_of(const DeviceRecords& records) {
  if (records.codes == 1024) return write_codes<1024, 0>;
  return records.high == 128   ? write_codes<512, 128>
         : records.high == 256 ? write_codes<512, 256>
                               : write_codes<512, 0>;
}

// Elements of columns g and g + 8 side by side: those of g from `to + g · stride` on.
template <class Element>
void write_columns(uint8_t* to, int stride, const Element* of_columns) {
  for (int column = 0; column < kPanel; ++column)
    std::memcpy(to + column % 8 * stride + column / 8 * int{sizeof(Element)}, &of_columns[column],
                sizeof(Element));
}

void write_scales(uint8_t* to, const PackedMatrix& w, int64_t group, int j) {
  if (w.format == Format::q6_k) {
    for (int step = 0; step < 2; ++step)
      write_columns(to + j * 4 + step * 2, 8, w.sub_scale + (group * 2 + step) * kPanel);
  } else if (w.sub_scale) {
    write_columns(to + j * 2, 8, w.sub_scale + group * kPanel);
    write_columns(to + 4 + j * 2, 8, w.sub_min + group * kPanel);
  } else {
    write_columns(to + j * 4, w.min ? 16 : 8, w.scale + group * kPanel);
    if (w.min) write_columns(to + 8 + j * 4, 16, w.min + group * kPanel);
  }
}

void write_panel(uint8_t* to, const PackedMatrix& w, int64_t panel) {
  const DeviceRecords records = device_records(w.format);
  const WriteCodes write = write_codes_of(records);
  const int64_t n_groups = w.n_groups(), n_blocks = n_groups / (2 * records.pairs);
  for (int64_t group = 0; group < n_groups; ++group) {
    const int64_t pair = group / 2, source = panel * n_groups + group, block = pair / records.pairs;
    uint8_t* const record = to + block * records.record_bytes();
    if (records.header && group % (2 * records.pairs) == 0) {
      const int64_t at = (panel * n_blocks + block) * kPanel;
      write_columns(record, w.min ? 8 : 4, w.scale + at);
      if (w.min) write_columns(record + 4, 8, w.min + at);
    }
    uint8_t* const pair_to = record + records.header + pair % records.pairs * records.pair_bytes();
    write(pair_to, w.codes + source * (records.codes / 2), w.high + source * (records.high / 2),
          static_cast<int>(group % 2));
    write_scales(pair_to + records.codes + records.high, w, source, static_cast<int>(group % 2));
  }
}

}  // namespace

int64_t device_bytes(Format format, int64_t n, int64_t k) {
  row_bytes(format, k);
  return ceil_div(n, kPanel) * panel_bytes(format, k) + kRecordsEnd;
}

void arrange_for_device(const Context& context, uint8_t* records, const PackedMatrix& w) {
  TUILI_EXPECT(!is_float(w.format) && w.codes != nullptr, "arrange_for_device: ", info_of(w.format).name);
  const int64_t bytes = panel_bytes(w.format, w.k);
  std::memset(records, 0, static_cast<size_t>(device_bytes(w.format, w.n, w.k)));
  context.pool->parallel_for(w.n_panels(), context.n_threads, [&](int64_t begin, int64_t end, int) {
    for (int64_t panel = begin; panel < end; ++panel) write_panel(records + panel * bytes, w, panel);
  });
}

}  // namespace tuili::ops
