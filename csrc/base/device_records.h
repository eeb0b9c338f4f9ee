// Quantized weights as the kernels of a device read them: the numbers of base/packed.h in the order in which
// the lanes of a warp want them, so that one copy brings all planes and one load a lane's part.
//
// A panel of 16 outputs is one stream of records. Two groups of 32 k are a pair; what is past k is zero.
//   K formats   a record is a header and the 4 pairs of a block of 256       others   a record is a pair
//   header      [8 g] d, of formats with a min dmin as well, each fp16 [2]: of columns g and g + 8
//   pair        codes, high, scales
//     codes     8 bit  [2 groups][32 lanes][8 i / 2] words: number i is bytes i % 2 and i % 2 + 2
//               else   [32 lanes][2 groups][8 i / 4] words: the 4 bits from 4 (i % 4) on, and 16 above
//     high      5 bit  [32 lanes] words: of group j bit 8 j + i, and 16 above: bit 4 of the code
//               6 bit  [32 lanes][2 groups] words: the 2 bits from 2 i on, and 16 above
//     scales    [8 g], each of [2 groups][2] for columns g and g + 8: fp16 d, then m of formats with a min;
//               u8 sub_scale, then sub_min, of q4_k and q5_k; q6_k [2 groups][2 steps][2] i8 sub_scale
// Number i = 4 step + r of lane 4 g + t is two codes: of column g + 8 (r % 2), k 16 step + 4 t + 2 (r / 2) of
// the group and the k after it. So a lane's numbers of a step are the registers that mma wants of it.
#pragma once

#include <cstdint>

#include "base/dtype.h"

namespace tuili {

inline constexpr int kPairK = 64;
inline constexpr int64_t kRecordsEnd = 4096;  // bytes behind the last panel: kernels copy whole stages

struct DeviceRecords {  // in bytes, but for the last
  int codes, high, scales, header, pairs;

  constexpr int pair_bytes() const { return codes + high + scales; }
  constexpr int record_bytes() const { return header + pairs * pair_bytes(); }
};

constexpr DeviceRecords device_records(Format format) {
  switch (format) {
    case Format::q8_0: return {1024, 0, 64, 0, 1};
    case Format::q4_0: return {512, 0, 64, 0, 1};
    case Format::q4_1: return {512, 0, 128, 0, 1};
    case Format::q5_0: return {512, 128, 64, 0, 1};
    case Format::q5_1: return {512, 128, 128, 0, 1};
    case Format::q4_k: return {512, 0, 64, 64, 4};
    case Format::q5_k: return {512, 128, 64, 64, 4};
    case Format::q6_k: return {512, 256, 64, 32, 4};
    default: return {0, 0, 0, 0, 1};
  }
}

}  // namespace tuili
