// Counts what the memory of a device would do: touches of one warp at one instruction, its n-th time, are one
// request. Shared memory serves a request in wavefronts, one per word that lies in the same bank as another;
// global memory in sectors of 32 bytes. The least possible of both is counted beside them.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "emulation.h"
#include "touch.h"

namespace tuili::emulation {

struct Traffic {
  int64_t n_requests = 0;
  int64_t served = 0;  // wavefronts or sectors
  int64_t least = 0;   // of them, had the addresses been the best for as many bytes
  void add(const Traffic& other);
  void scale(int64_t all, int64_t counted);
};

// Launches of one kernel.
struct Launches {
  int64_t n = 0;
  int64_t read_bytes = 0, written_bytes = 0;  // of global memory, each sector once per launch
  int64_t n_macs = 0;                         // of tensor_core_dot
  int64_t n_threads = 0, shared_bytes = 0;    // of a block, the most
  int64_t n_blocks = 0;                       // of a launch, the most
  int64_t in_flight_bytes = 0;                // what a block has asked cp.async for and not awaited, the most
  std::map<std::pair<uint32_t, Space>, Traffic> sites;  // by instruction

  void add(const Launches& other);
};

struct Counts {
  // By an instruction in each of the first functions that a launch enters: one of them is the kernel.
  std::map<std::vector<uint32_t>, Launches> launches;

  // A line per instruction that is served in at least `factor` times the least: "gemm.cuh:104: shared memory
  // serves 4 requests in 128 wavefronts, 4 would do".
  std::string wasteful(int64_t factor) const;
};

class Requests {
 public:
  void begin_launch(int64_t n_blocks, int64_t n_threads, size_t shared_bytes);
  void finish_launch();
  void enter_function(uint32_t instruction);
  void begin_block(int n_threads);
  void end_block(int64_t in_flight_bytes);
  void touch(int thread, const Touch& touch);
  void finish_warp(int warp);  // all lanes have come to one place: what they touched before is complete
  void finish_block();
  void add_macs(int64_t n) { launch_.n_macs += n; }

  Counts take() { return std::exchange(counts_, {}); }

 private:
  struct Request {
    Touch first;
    std::array<uint64_t, kWarpSize> addresses;  // of each lane
    std::array<uint8_t, kWarpSize> bytes{};     // 0 for a lane that is not there
  };
  struct Warp {
    std::unordered_map<uint64_t, Request> open;  // by instruction, space, and how often a lane has come by
    std::array<std::unordered_map<uint64_t, uint32_t>, kWarpSize> visits;
  };

  void finish(const Request& request);
  Traffic serve_shared(const Request& request);
  Traffic serve_global(const Request& request);

  std::vector<Warp> warps_;
  Launches launch_;
  std::vector<uint32_t> entered_;
  using Sectors = std::unordered_map<uint64_t, int64_t>;  // -> the block that touched it, or kShared
  static int64_t bytes_of(const Sectors& sectors, int64_t all, int64_t counted);
  Sectors read_sectors_, written_sectors_;
  int64_t n_counted_ = 0;  // blocks of the launch so far
  Counts counts_;
};

// What this host thread's launches did since the last call; all zero unless this is a trace build.
Counts take_counts();

}  // namespace tuili::emulation
