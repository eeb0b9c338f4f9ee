#include "requests.h"

#include <algorithm>
#include <sstream>

namespace tuili::emulation {
namespace {

constexpr uint64_t kBankBytes = 4;
constexpr uint64_t kBanks = 32;
constexpr int64_t kSector = 32;  // bytes
constexpr uint32_t kPieceBytes = 128;
constexpr int64_t kShared = -1;  // by several blocks

// Words of one wavefront lie in different banks; lanes that want the same word share it.
int64_t wavefronts(const std::array<uint64_t, kWarpSize>& addresses,
                   const std::array<uint8_t, kWarpSize>& bytes, uint32_t begin, uint32_t end) {
  std::array<std::vector<uint64_t>, kBanks> words;
  size_t most = 0;
  for (uint32_t lane = begin; lane < end; ++lane) {
    if (bytes[lane] == 0) continue;
    const uint64_t last = (addresses[lane] + bytes[lane] - 1) / kBankBytes;
    for (uint64_t word = addresses[lane] / kBankBytes; word <= last; ++word) {
      std::vector<uint64_t>& here = words[word % kBanks];
      if (std::find(here.begin(), here.end(), word) == here.end()) here.push_back(word);
      most = std::max(most, here.size());
    }
  }
  return static_cast<int64_t>(most);
}

}  // namespace

void Traffic::add(const Traffic& other) {
  n_requests += other.n_requests;
  served += other.served;
  least += other.least;
}

// From the `counted` blocks to all of the grid.
void Traffic::scale(int64_t all, int64_t counted) {
  for (int64_t* const count : {&n_requests, &served, &least}) *count = *count * all / counted;
}

void Launches::add(const Launches& other) {
  n += other.n;
  read_bytes += other.read_bytes;
  written_bytes += other.written_bytes;
  n_macs += other.n_macs;
  n_threads = std::max(n_threads, other.n_threads);
  shared_bytes = std::max(shared_bytes, other.shared_bytes);
  n_blocks = std::max(n_blocks, other.n_blocks);
  in_flight_bytes = std::max(in_flight_bytes, other.in_flight_bytes);
  for (const auto& [site, traffic] : other.sites) sites[site].add(traffic);
}

std::string Counts::wasteful(int64_t factor) const {
  Launches all;
  for (const auto& [entered, kernel] : launches) all.add(kernel);
  std::ostringstream out;
  for (const auto& [site, traffic] : all.sites) {
    if (traffic.served < factor * traffic.least) continue;
    const bool shared = site.second == Space::shared;
    out << name_of_instruction(site.first) << ": " << (shared ? "shared" : "global") << " memory serves "
        << traffic.n_requests << " requests in " << traffic.served
        << (shared ? " wavefronts, " : " sectors, ") << traffic.least << " would do\n";
  }
  return out.str();
}

void Requests::begin_launch(int64_t n_blocks, int64_t n_threads, size_t shared_bytes) {
  launch_ = {};
  launch_.n = 1;
  launch_.n_blocks = n_blocks;
  launch_.n_threads = n_threads;
  launch_.shared_bytes = static_cast<int64_t>(shared_bytes);
  entered_.clear();
  n_counted_ = 0;
  read_sectors_.clear();
  written_sectors_.clear();
}

// Blocks that did not run would have done the same, with as many sectors of their own.
void Requests::finish_launch() {
  const int64_t all = launch_.n_blocks;
  launch_.read_bytes = bytes_of(read_sectors_, all, n_counted_);
  launch_.written_bytes = bytes_of(written_sectors_, all, n_counted_);
  launch_.n_macs = launch_.n_macs * all / n_counted_;
  for (auto& [site, traffic] : launch_.sites) traffic.scale(all, n_counted_);
  counts_.launches[entered_].add(launch_);
}

int64_t Requests::bytes_of(const Sectors& sectors, int64_t all, int64_t counted) {
  const int64_t shared = std::count_if(sectors.begin(), sectors.end(),
                                       [](const auto& sector) { return sector.second == kShared; });
  return (shared + (std::ssize(sectors) - shared) * all / counted) * kSector;
}

void Requests::enter_function(uint32_t instruction) {
  constexpr size_t kEntered = 8;
  if (entered_.size() >= kEntered) return;
  if (std::find(entered_.begin(), entered_.end(), instruction) == entered_.end())
    entered_.push_back(instruction);
}

void Requests::begin_block(int n_threads) {
  warps_.assign(static_cast<size_t>((n_threads + kWarpSize - 1) / kWarpSize), {});
  ++n_counted_;
}

void Requests::end_block(int64_t in_flight_bytes) {
  launch_.in_flight_bytes = std::max(launch_.in_flight_bytes, in_flight_bytes);
}

void Requests::touch(int thread, const Touch& touch) {
  Warp& warp = warps_[static_cast<size_t>(thread / kWarpSize)];
  const auto lane = static_cast<size_t>(thread % kWarpSize);
  const uint64_t site = uint64_t{touch.instruction} << 1 | (touch.space == Space::shared);
  const uint32_t visit = warp.visits[lane][site]++;
  Request& request = warp.open[site << 24 | (visit & 0xffffffu)];
  request.first = touch;
  request.addresses[lane] = reinterpret_cast<uintptr_t>(touch.address);
  request.bytes[lane] = static_cast<uint8_t>(touch.bytes);
}

void Requests::finish_warp(int index) {
  Warp& warp = warps_[static_cast<size_t>(index)];
  for (const auto& [key, request] : warp.open) finish(request);
  warp.open.clear();
  for (auto& visits : warp.visits) visits.clear();
}

void Requests::finish_block() {
  for (int warp = 0; warp < static_cast<int>(warps_.size()); ++warp) finish_warp(warp);
}

void Requests::finish(const Request& request) {
  const Space space = request.first.space;
  const Traffic traffic = space == Space::shared ? serve_shared(request) : serve_global(request);
  launch_.sites[{request.first.instruction, space}].add(traffic);
}

Traffic Requests::serve_shared(const Request& request) {
  Traffic traffic{1, 0, 0};
  // Lanes with 8 bytes are served by half warps, with 16 by quarters.
  const uint32_t n_together = kPieceBytes / std::max<uint32_t>(request.first.bytes, kBankBytes);
  for (uint32_t lane = 0; lane < kWarpSize; lane += n_together) {
    const int64_t n = wavefronts(request.addresses, request.bytes, lane, lane + n_together);
    traffic.served += n;
    traffic.least += n > 0;
  }
  return traffic;
}

Traffic Requests::serve_global(const Request& request) {
  std::vector<uint64_t> sectors, bytes;
  for (size_t lane = 0; lane < kWarpSize; ++lane) {
    for (uint64_t i = 0; i < request.bytes[lane]; ++i) {
      bytes.push_back(request.addresses[lane] + i);
      sectors.push_back((request.addresses[lane] + i) / static_cast<uint64_t>(kSector));
    }
  }
  const auto n_different = [](std::vector<uint64_t>& values) {
    std::sort(values.begin(), values.end());
    values.erase(std::unique(values.begin(), values.end()), values.end());
    return static_cast<int64_t>(values.size());
  };
  const Traffic traffic{1, n_different(sectors), (n_different(bytes) + kSector - 1) / kSector};
  const bool reads = request.first.act == Act::read;
  auto& seen = reads ? read_sectors_ : written_sectors_;
  for (const uint64_t sector : sectors) {
    const auto place = seen.try_emplace(sector, n_counted_).first;
    if (place->second != n_counted_) place->second = kShared;
  }
  return traffic;
}

}  // namespace tuili::emulation
