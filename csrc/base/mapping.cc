#include "base/mapping.h"

#include <sys/mman.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstring>

#include "base/check.h"

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22  // Linux 5.14; older C libraries do not name it
#endif

namespace tuili {

Mapping::Mapping(int fd, int64_t bytes) {
  struct stat status{};
  TUILI_CHECK_KIND(ErrorKind::model_format, bytes > 0 && fstat(fd, &status) == 0 && S_ISREG(status.st_mode),
                   "this is no file that could be mapped");
  TUILI_CHECK_KIND(ErrorKind::model_format, status.st_size == bytes, "the file must have ", bytes,
                   " bytes, not ", status.st_size);
  void* const at = mmap(nullptr, static_cast<size_t>(bytes), PROT_READ, MAP_SHARED, fd, 0);
  TUILI_CHECK_KIND(ErrorKind::out_of_memory, at != MAP_FAILED, "cannot map ", bytes,
                   " bytes: ", std::strerror(errno));
  // What is not in memory yet is read into huge pages, where the file system has them. One call does what
  // would be a fault for every 16 pages that a first step touches. Refusals change nothing.
  madvise(at, static_cast<size_t>(bytes), MADV_HUGEPAGE);
  madvise(at, static_cast<size_t>(bytes), MADV_POPULATE_READ);
  data_ = static_cast<const uint8_t*>(at);
  bytes_ = bytes;
}

std::span<const uint8_t> Mapping::range(int64_t begin, int64_t bytes) const {
  TUILI_CHECK_KIND(ErrorKind::model_format,
                   begin >= 0 && bytes >= 0 && begin <= bytes_ && bytes <= bytes_ - begin, "bytes ", begin,
                   " to ", begin, " + ", bytes, " are not in a file of ", bytes_);
  return {data_ + begin, static_cast<size_t>(bytes)};
}

void Mapping::release() noexcept {
  if (data_ != nullptr) munmap(const_cast<uint8_t*>(data_), static_cast<size_t>(bytes_));
}

}  // namespace tuili
