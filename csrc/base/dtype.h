// Element types of tensors and formats of stored weights.
#pragma once

#include <cstdint>

namespace tuili {

enum class DType : uint8_t { f32, f16, bf16, i32, i8, u8 };

constexpr int64_t size_of(DType type) {
  switch (type) {
    case DType::f32:
    case DType::i32: return 4;
    case DType::f16:
    case DType::bf16: return 2;
    case DType::i8:
    case DType::u8: return 1;
  }
  return 0;
}

constexpr const char* name_of(DType type) {
  switch (type) {
    case DType::f32: return "f32";
    case DType::f16: return "f16";
    case DType::bf16: return "bf16";
    case DType::i32: return "i32";
    case DType::i8: return "i8";
    case DType::u8: return "u8";
  }
  return "?";
}

// How a weight matrix is stored in a file, row by row. The quantized ones are GGUF's block encodings.
enum class Format : uint8_t { f32, f16, bf16, q8_0, q4_0, q4_1, q5_0, q5_1, q4_k, q5_k, q6_k };
inline constexpr int kFormatCount = 11;

struct FormatInfo {
  const char* name;
  int64_t block_size;   // elements of one block along k
  int64_t block_bytes;  // bytes of one block in the file
};

inline constexpr FormatInfo kFormatInfo[kFormatCount] = {
    {"f32", 1, 4},      {"f16", 1, 2},      {"bf16", 1, 2},     {"q8_0", 32, 34},
    {"q4_0", 32, 18},   {"q4_1", 32, 20},   {"q5_0", 32, 22},   {"q5_1", 32, 24},
    {"q4_k", 256, 144}, {"q5_k", 256, 176}, {"q6_k", 256, 210},
};

constexpr const FormatInfo& info_of(Format format) { return kFormatInfo[static_cast<int>(format)]; }
constexpr bool is_float(Format format) { return format <= Format::bf16; }

}  // namespace tuili
