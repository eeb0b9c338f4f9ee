#include "touch.h"

#include <dlfcn.h>
#include <elf.h>

#include <cstdio>
#include <string_view>

// Where this program or extension is loaded; the linker knows it.
extern "C" __attribute__((visibility("hidden"))) const Elf64_Ehdr __ehdr_start;

namespace tuili::emulation {
namespace {

std::string output_of(const std::string& command) {
  FILE* pipe = popen(command.c_str(), "r");
  if (pipe == nullptr) return "";
  std::string out;
  char part[256];
  while (std::fgets(part, sizeof(part), pipe) != nullptr) out += part;
  pclose(pipe);
  return out;
}

}  // namespace

uint32_t instruction_id(const void* code) {
  return static_cast<uint32_t>(reinterpret_cast<uintptr_t>(code) -
                               reinterpret_cast<uintptr_t>(&__ehdr_start));
}

uintptr_t linked_address(uint32_t id) {
  const auto base = reinterpret_cast<uintptr_t>(&__ehdr_start);
  return (__ehdr_start.e_type == ET_EXEC ? base : 0) + id - 1;  // a return address is one call further
}

std::string name_of_instruction(uint32_t id) {
  char address[32];
  std::snprintf(address, sizeof(address), "0x%zx", static_cast<size_t>(linked_address(id)));
  Dl_info file{};
  if (dladdr(&__ehdr_start, &file) == 0) return address;
  // A line per function that was inlined there, the innermost first: what ptx.cuh wraps is named by its
  // caller.
  std::string lines =
      output_of("addr2line -s -i -e '" + std::string(file.dli_fname) + "' " + address + " 2>&1");
  for (size_t begin = 0, end; (end = lines.find('\n', begin)) != std::string::npos; begin = end + 1) {
    const std::string_view line = std::string_view(lines).substr(begin, end - begin);
    if (line.starts_with("ptx.cuh") || line.starts_with("??") || line.find(':') == std::string_view::npos)
      continue;
    return std::string(line.substr(0, line.find(' ')));
  }
  return address;
}

}  // namespace tuili::emulation
