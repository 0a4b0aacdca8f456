// crc32: the CRC of zlib, PNG and gzip (RFC 1952, section 8) of a buffer, by zlib-ng from the blosc2 wheel.
//
// It checks whole objects, whose chunks end in their own crc32c: a crc of another polynomial is needed there, because the crc32c
// of bytes that end in their crc32c is a constant and would tell no object from another.
//
// Contract: reads exactly `data`, writes nothing, never throws. `crc32(b, crc32(a))` is the crc of a followed by b.
#pragma once

#include <cstdint>
#include <span>

namespace chunkstore {

std::uint32_t crc32(std::span<const std::uint8_t> data, std::uint32_t value = 0) noexcept;

}  // namespace chunkstore
