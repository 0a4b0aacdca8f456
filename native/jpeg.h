// jpeg_size, jpeg_decode: one JPEG image, by libjpeg-turbo, decoded straight into the caller's memory.
//
// Contract: writes exactly height·width·components bytes, or throws std::invalid_argument. The size is compared with the
// header's before anything is decoded. What libjpeg merely warns of although pixels are lost (a premature end, damaged
// entropy-coded data, a lost restart marker) is an error here; stray bytes between segments, which some cameras write, are
// not. Exif orientation is not applied. After an error the content of `out` is unspecified.
//
// ITU-T T.81; https://github.com/libjpeg-turbo/libjpeg-turbo/blob/main/doc/libjpeg.txt
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace chunkstore {

struct JpegSize {
  std::size_t height;
  std::size_t width;
  std::size_t components;  // 1 gray, 3 colour, 4 CMYK
};

JpegSize jpeg_size(std::span<const std::uint8_t> data);

// `components` of the output: 3 for RGB, 1 for gray; the image's own are converted. CMYK images are refused.
void jpeg_decode(std::span<const std::uint8_t> data, std::span<std::uint8_t> out, std::size_t height, std::size_t width,
                 std::size_t components);

std::string jpeg_version();

}  // namespace chunkstore
