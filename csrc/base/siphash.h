// SipHash-2-4 of 64-bit words: a hash under a secret key, so that nobody without it can make inputs collide.
// The key has 64 bits, from which the 128 that SipHash takes are made.
// Source: Aumasson & Bernstein 2012, "SipHash: a fast short-input PRF".
#pragma once

#include <bit>
#include <cstdint>

namespace tuili {

class SipHash {
 public:
  explicit SipHash(uint64_t key) {
    const uint64_t k0 = key, k1 = key * 0x9E3779B97F4A7C15u + 1;
    v_[0] = k0 ^ 0x736F6D6570736575u;
    v_[1] = k1 ^ 0x646F72616E646F6Du;
    v_[2] = k0 ^ 0x6C7967656E657261u;
    v_[3] = k1 ^ 0x7465646279746573u;
  }
  void add(uint64_t word) {
    v_[3] ^= word;
    rounds(2);
    v_[0] ^= word;
    length_ += 8;
  }
  uint64_t finish() {
    add(length_ << 56);
    v_[2] ^= 0xFF;
    rounds(4);
    return v_[0] ^ v_[1] ^ v_[2] ^ v_[3];
  }

 private:
  void rounds(int n) {
    for (; n > 0; --n) {
      v_[0] += v_[1];
      v_[2] += v_[3];
      v_[1] = std::rotl(v_[1], 13) ^ v_[0];
      v_[3] = std::rotl(v_[3], 16) ^ v_[2];
      v_[0] = std::rotl(v_[0], 32) + v_[3];
      v_[2] += v_[1];
      v_[3] = std::rotl(v_[3], 21) ^ v_[0];
      v_[1] = std::rotl(v_[1], 17) ^ v_[2];
      v_[2] = std::rotl(v_[2], 32);
    }
  }
  uint64_t v_[4];
  uint64_t length_ = 0;
};

}  // namespace tuili
