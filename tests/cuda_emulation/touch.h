// One access of one thread to memory, as a trace build sees it, and the names of instructions in reports.
#pragma once

#include <cstdint>
#include <string>

namespace tuili::emulation {

enum class Space : uint8_t { shared, global };
enum class Act : uint8_t { read, write, atomic };

struct Touch {
  Space space;
  Act act;
  const void* address;
  uint32_t bytes;
  uint32_t instruction;  // instruction_id of its return address
};

// Small numbers for code addresses of this program, and what they are called in reports: "gemm.cuh:104", or
// the number where there is no debug information or no addr2line.
uint32_t instruction_id(const void* code);
std::string name_of_instruction(uint32_t id);
uintptr_t linked_address(uint32_t id);  // of the call, as addr2line wants it

}  // namespace tuili::emulation
