// blosc_decompress: one blosc1 frame (Zarr's blosc codec) decoded straight into the caller's memory.
//
// Contract: `out` is exactly as long as the frame says, or std::invalid_argument is thrown before anything is decoded.
// Never writes past `out`. Works serially on the calling thread, which keeps its scratch; no global state, no environment.
// Frames with features of blosc2 (extended headers, delta, plug-in codecs and filters) are refused: other Zarr readers
// cannot read them, and some make the library load code. After an error the content of `out` is unspecified.
//
// https://github.com/Blosc/c-blosc/blob/main/README_CHUNK_FORMAT.rst
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace chunkstore {

void blosc_decompress(std::span<const std::uint8_t> data, std::span<std::uint8_t> out);

struct ByteRange {
  std::size_t start;
  std::size_t stop;
};

// As `blosc_decompress`, but only the bytes of `out` in `wanted` need to be right afterwards: where the frame allows it, blocks that
// hold none of them are neither looked at nor written. Throws std::invalid_argument for a range that leaves `out` too.
void blosc_decompress_ranges(std::span<const std::uint8_t> data, std::span<std::uint8_t> out, const std::vector<ByteRange>& wanted);

}  // namespace chunkstore
