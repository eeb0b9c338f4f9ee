// The tensor cores of the emulator, and the fragments that ldmatrix and mma agree on.
#include "device_testing.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ptx.cuh"

namespace {

using namespace tuili;           // NOLINT: a test file
using namespace tuili::testing;  // NOLINT

uint16_t bits(float x) { return __float2bfloat16_rn(x).bits; }

TUILI_TEST(the_tensor_core_adds_integers_exactly) {
  uint16_t a[16], b[16];
  float expected = 5.0f;
  for (int i = 0; i < 16; ++i) {
    a[i] = bits(float(i - 7));
    b[i] = bits(float(3 * i - 20));
    expected += float((i - 7) * (3 * i - 20));
  }
  require(emulation::tensor_core_dot<emulation::HalfType::bf16>(5.0f, a, b, 16) == expected, "not exact");
}

TUILI_TEST(the_tensor_core_cuts_what_lies_below_its_sum) {
  const uint16_t one[8] = {bits(1.0f)};
  const auto dot = [&](float c, float a) {
    const uint16_t row[8] = {bits(a)};
    return emulation::tensor_core_dot<emulation::HalfType::bf16>(c, row, one, 8);
  };
  require(dot(1.0f, 0x1p-23f) == 1.0f + 0x1p-23f, "the last bit is kept");
  require(dot(1.0f, 0x1.8p-23f) == 1.0f + 0x1p-23f, "rounded toward zero, not to nearest");
  require(dot(1.0f, -0x1p-24f) == 1.0f - 0x1p-24f, "one fraction bit more than float's");
  require(dot(1.0f, -0x1p-25f) == 1.0f, "below that, cut before it is added");
  require(dot(-1.0f, 0.0f) == -1.0f && dot(0.0f, 0.0f) == 0.0f, "zeros");
  require(dot(0.0f, 0x1p-130f) == 0x1p-130f, "subnormals");
  require(std::isnan(dot(NAN, 1.0f)) && std::isinf(dot(1.0f, INFINITY)), "NaN and infinity pass");
}

struct Tiles {
  alignas(16) bf16 a[16][16];
  alignas(16) bf16 b[8][16];
};

TUILI_TEST(ldmatrix_and_mma_multiply_small_integers_exactly) {
  Tiles tiles;
  for (int i = 0; i < 16 * 16; ++i) tiles.a[i / 16][i % 16] = {bits(float(i * 37 % 23 - 11))};
  for (int i = 0; i < 8 * 16; ++i) tiles.b[i / 16][i % 16] = {bits(float(i * 29 % 19 - 9))};
  float d[16][8];
  const auto kernel = [&] {
    Tiles& shared = cuda::shared_storage<Tiles>();
    const int lane = int(threadIdx.x);
    if (lane == 0) shared = tiles;
    __syncwarp();
    uint32_t a[4], b[4];
    cuda::ptx::ldmatrix_x4(a, &shared.a[lane % 16][lane / 16 * 8]);
    cuda::ptx::ldmatrix_x4(b, &shared.b[lane % 8][lane / 8 % 2 * 8]);
    float acc[4] = {};
    cuda::ptx::mma_m16n8k16<bf16>(acc, a, {b[0], b[1]});
    for (int e = 0; e < 4; ++e) d[lane / 4 + e / 2 * 8][lane % 4 * 2 + e % 2] = acc[e];
  };
  TUILI_LAUNCH(kernel, 1, 32, sizeof(Tiles), nullptr);
  device::check(cudaGetLastError(), "mma");
  for (int i = 0; i < 16; ++i) {
    for (int j = 0; j < 8; ++j) {
      double expected = 0;
      for (int k = 0; k < 16; ++k) expected += value(tiles.a[i][k]) * value(tiles.b[j][k]);
      require(d[i][j] == expected, "d[", i, ", ", j, "] = ", d[i][j], ", expected ", expected);
    }
  }
}

}  // namespace
