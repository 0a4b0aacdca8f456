// crc32c: the Castagnoli CRC of a buffer, as Zarr's crc32c codec and iSCSI (RFC 3720, appendix B.4) define it.
//
// Contract of `crc32c`: reads exactly `data`, writes nothing, never throws. `crc32c(b, crc32c(a))` is the crc of a followed by b.
// The processor's instruction is chosen at run time; the table serves where there is none. All agree on every input.
#pragma once

#include <cstdint>
#include <span>

namespace chunkstore {

std::uint32_t crc32c(std::span<const std::uint8_t> data, std::uint32_t value = 0) noexcept;

// The crc of each span data[starts[i], stops[i]) into out[i]; spans may overlap and come in any order. All are checked before the
// first is read: std::invalid_argument for lengths that differ, or a span that leaves `data`.
void crc32c_spans(std::span<std::uint32_t> out, std::span<const std::uint8_t> data, std::span<const std::int64_t> starts,
                  std::span<const std::int64_t> stops);

// The portable implementation, always compiled, so that tests reach it on machines that never choose it.
std::uint32_t crc32c_table(std::span<const std::uint8_t> data, std::uint32_t value = 0) noexcept;

// What `crc32c` uses here: "sse4.2", "arm" or "table".
const char* crc32c_implementation() noexcept;

}  // namespace chunkstore
