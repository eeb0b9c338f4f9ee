// Finds two accesses to one byte, one of them a write, that nothing orders; and reads of shared memory that
// nobody wrote. What orders accesses: one thread's own order; __syncthreads for its block; __syncwarp for the
// lanes of its mask (other collectives order nothing, as PTX has it); the end of a launch. A copy of cp.async
// is a write that is under way until its thread has waited for its group. Threads run one at a time here, but
// the verdict does not depend on which came first. Each byte remembers its last write and two readers; seeds
// do the rest.
#pragma once

#include <array>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "emulation.h"
#include "touch.h"

namespace tuili::emulation {

class Races {
 public:
  void begin_launch();
  void begin_block(const std::byte* shared, size_t shared_bytes, int n_threads);
  void barrier() { ++epoch_; }
  void sync_warp(int first_thread, uint32_t mask);

  // These say what is wrong, or nothing. A touch of shared memory lies inside it.
  std::string touch(int thread, const Touch& touch);
  std::string start_copy(int thread, const Touch& shared_write);
  void finish_copy(int thread, const Touch& shared_write);  // its thread has waited for it

 private:
  struct Mark {
    uint32_t epoch = 0;  // barriers and blocks since the beginning; 0 is never
    uint16_t thread = 0;
    uint16_t clock = 0;  // __syncwarps of the thread before it
    uint32_t instruction = 0;
    Act act = Act::read;
    bool under_way = false;
  };
  struct Cell {
    Mark write, reads[2];
  };
  static constexpr size_t kPageBytes = 1024;
  using Page = std::array<Cell, kPageBytes>;

  Cell& cell(Space space, uintptr_t address);
  Mark mark(int thread, const Touch& touch) const;
  bool is_ordered(const Mark& before, int thread) const;
  std::string conflict(int thread, const Touch& touch, const Cell& cell) const;
  void note(int thread, const Touch& touch, Cell& cell, const Mark& mark) const;
  std::string describe(const Touch& touch, uintptr_t address, const Mark& other, const char* why) const;

  uint32_t epoch_ = 0, block_begin_ = 0, launch_begin_ = 0;
  uintptr_t shared_begin_ = 0;
  std::vector<Cell> shared_;
  std::unordered_map<uintptr_t, std::unique_ptr<Page>> global_;
  std::vector<uint16_t> clocks_;  // of each thread
  // Of each thread: the clock up to which it has seen each lane.
  std::vector<std::array<int32_t, kWarpSize>> known_;
};

}  // namespace tuili::emulation
