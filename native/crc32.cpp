#include "crc32.h"

#include <cstddef>

// zlib-ng's own name for zlib's crc32_z; the blosc2 wheel ships the code without its header.
// https://github.com/zlib-ng/zlib-ng/blob/2.2.4/zlib-ng.h.in
extern "C" std::uint32_t zng_crc32_z(std::uint32_t crc, const std::uint8_t* data, std::size_t nbytes);

namespace chunkstore {

std::uint32_t crc32(std::span<const std::uint8_t> data, std::uint32_t value) noexcept {
  // zlib-ng takes a null pointer, which an empty span may have, for a request of the initial value.
  return data.empty() ? value : zng_crc32_z(value, data.data(), data.size());
}

}  // namespace chunkstore
