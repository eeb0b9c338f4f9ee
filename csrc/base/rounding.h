// Integers rounded up; n >= 0.
#pragma once

#include <cstdint>

namespace tuili {

constexpr int64_t ceil_div(int64_t n, int64_t divisor) { return (n + divisor - 1) / divisor; }

constexpr int64_t round_up(int64_t n, int64_t step) { return ceil_div(n, step) * step; }

}  // namespace tuili
