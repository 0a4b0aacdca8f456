// blosc_decompress: one blosc1 frame (Zarr's blosc codec) decoded straight into the caller's memory.
//
// Contract: `out` is exactly as long as the frame says, or std::invalid_argument is thrown before anything is decoded.
// Never writes past `out`. Works serially on the calling thread, which keeps its scratch; no global state, no environment.
// Frames with features of blosc2 (extended headers, delta, plug-in codecs and filters) are refused: other Zarr readers
// cannot read them, and some make the library load code. After an error the content of `out` is unspecified.
//
// https://github.com/Blosc/c-blosc/blob/main/README_CHUNK_FORMAT.rst
#pragma once

#include <cstdint>
#include <span>

namespace chunkstore {

void blosc_decompress(std::span<const std::uint8_t> data, std::span<std::uint8_t> out);

}  // namespace chunkstore
