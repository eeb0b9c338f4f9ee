#include "races.h"

#include <algorithm>
#include <sstream>

namespace tuili::emulation {

void Races::begin_launch() {
  constexpr size_t kPagesKept = 2048;  // marks of finished launches are never asked again
  if (global_.size() > kPagesKept) global_.clear();
  launch_begin_ = ++epoch_;
}

void Races::begin_block(const std::byte* shared, size_t shared_bytes, int n_threads) {
  block_begin_ = ++epoch_;
  shared_begin_ = reinterpret_cast<uintptr_t>(shared);
  if (shared_.size() < shared_bytes) shared_.resize(shared_bytes);
  clocks_.assign(static_cast<size_t>(n_threads), 0);
  std::array<int32_t, kWarpSize> nothing;
  nothing.fill(-1);
  known_.assign(static_cast<size_t>(n_threads), nothing);
}

void Races::sync_warp(int first_thread, uint32_t mask) {
  std::array<int32_t, kWarpSize> all;
  all.fill(-1);
  const auto each_lane = [&](auto visit) {
    for (int lane = 0; lane < kWarpSize; ++lane) {
      if (mask >> lane & 1u) visit(static_cast<size_t>(lane), static_cast<size_t>(first_thread + lane));
    }
  };
  each_lane([&](size_t, size_t thread) {
    for (size_t l = 0; l < kWarpSize; ++l) all[l] = std::max(all[l], known_[thread][l]);
  });
  each_lane([&](size_t lane, size_t thread) { all[lane] = std::max<int32_t>(all[lane], clocks_[thread]); });
  each_lane([&](size_t, size_t thread) {
    known_[thread] = all;
    ++clocks_[thread];
  });
}

Races::Cell& Races::cell(Space space, uintptr_t address) {
  if (space == Space::shared) return shared_[address - shared_begin_];
  std::unique_ptr<Page>& page = global_[address / kPageBytes];
  if (page == nullptr) page = std::make_unique<Page>();
  return (*page)[address % kPageBytes];
}

Races::Mark Races::mark(int thread, const Touch& touch) const {
  return {epoch_,
          static_cast<uint16_t>(thread),
          clocks_[static_cast<size_t>(thread)],
          touch.instruction,
          touch.act,
          false};
}

bool Races::is_ordered(const Mark& before, int thread) const {
  if (before.epoch < launch_begin_) return true;
  if (before.epoch < block_begin_) return false;  // another block of this launch
  if (before.epoch < epoch_ || before.thread == thread) return true;
  if (before.thread / kWarpSize != thread / kWarpSize) return false;
  return known_[static_cast<size_t>(thread)][before.thread % kWarpSize] >= before.clock;
}

std::string Races::describe(const Touch& touch, uintptr_t address, const Mark& other, const char* why) const {
  constexpr const char* kActs[] = {"reads", "writes", "changes"};
  constexpr const char* kPast[] = {"read", "wrote", "changed"};
  std::ostringstream out;
  out << kActs[static_cast<size_t>(touch.act)] << " ";
  if (touch.space == Space::shared) out << "byte " << address - shared_begin_ << " of shared memory";
  if (touch.space == Space::global) out << "global memory";
  out << " at " << name_of_instruction(touch.instruction) << ", ";
  if (other.epoch == 0) return out.str() + why;
  out << "which " << (other.epoch < block_begin_ ? "another block" : "thread " + std::to_string(other.thread))
      << " " << kPast[static_cast<size_t>(other.act)] << " at " << name_of_instruction(other.instruction)
      << ", " << why;
  return out.str();
}

std::string Races::conflict(int thread, const Touch& touch, const Cell& cell) const {
  const auto address = reinterpret_cast<uintptr_t>(touch.address);
  const bool is_old =
      touch.space == Space::shared && cell.write.epoch < block_begin_;  // of a block before this one
  if (is_old && touch.act != Act::write) return describe(touch, address, {}, "which nobody has written");
  if (!is_old && cell.write.under_way)
    return describe(touch, address, cell.write, "a race with a cp.async that nobody has waited for");
  const auto collides = [&](const Mark& other) {
    if (touch.space == Space::shared && other.epoch < block_begin_) return false;
    return !is_ordered(other, thread) && (touch.act != Act::atomic || other.act != Act::atomic);
  };
  constexpr const char* kRace = "a race: nothing orders the two";
  if (collides(cell.write)) return describe(touch, address, cell.write, kRace);
  if (touch.act == Act::read) return "";
  for (const Mark& read : cell.reads) {
    if (collides(read)) return describe(touch, address, read, kRace);
  }
  return "";
}

void Races::note(int thread, const Touch& touch, Cell& cell, const Mark& mark) const {
  if (touch.act != Act::read) {
    cell.write = mark;
    return;
  }
  // Keeps the reader of another thread that a later write is least likely to be ordered after.
  if (cell.reads[0].thread != thread && !is_ordered(cell.reads[0], thread)) cell.reads[1] = cell.reads[0];
  cell.reads[0] = mark;
}

std::string Races::touch(int thread, const Touch& touch) {
  const auto begin = reinterpret_cast<uintptr_t>(touch.address);
  const Mark fresh = mark(thread, touch);
  for (uintptr_t address = begin; address < begin + touch.bytes; ++address) {
    Cell& here = cell(touch.space, address);
    std::string wrong = conflict(thread, touch, here);
    if (!wrong.empty()) {
      return wrong;
    }
    note(thread, touch, here, fresh);
  }
  return "";
}

std::string Races::start_copy(int thread, const Touch& shared_write) {
  std::string wrong = touch(thread, shared_write);
  if (!wrong.empty()) return wrong;
  const auto begin = reinterpret_cast<uintptr_t>(shared_write.address);
  for (uint32_t i = 0; i < shared_write.bytes; ++i) cell(Space::shared, begin + i).write.under_way = true;
  return "";
}

void Races::finish_copy(int thread, const Touch& shared_write) {
  const auto begin = reinterpret_cast<uintptr_t>(shared_write.address);
  const Mark landed = mark(thread, shared_write);
  for (uint32_t i = 0; i < shared_write.bytes; ++i) cell(Space::shared, begin + i).write = landed;
}

}  // namespace tuili::emulation
