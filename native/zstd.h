// zstd_decompress: zstd frames (RFC 8878), one or several after another, decoded straight into the caller's memory.
//
// Contract: `out` is exactly as long as the decoded data, or std::invalid_argument is thrown; where the frames state their
// content size, before anything is decoded. Never writes past `out`, never allocates by what the data claim. Frames of
// zstd's releases before 1.0 and dictionaries are refused. After an error the content of `out` is unspecified.
#pragma once

#include <cstdint>
#include <span>

namespace chunkstore {

// Whether `data` are exactly one frame of the current format, by its headers.
bool is_one_zstd_frame(std::span<const std::uint8_t> data) noexcept;

void zstd_decompress(std::span<const std::uint8_t> data, std::span<std::uint8_t> out);

}  // namespace chunkstore
