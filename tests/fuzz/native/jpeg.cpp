// Any bytes, as a JPEG image: size and pixels, in colour and in gray, or a refusal; nothing else is touched.
#include "jpeg.h"

#include <stdexcept>

#include "fence.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t nbytes) {
  Buffer data(bytes, nbytes);
  try {
    const chunkstore::JpegSize size = chunkstore::jpeg_size(data.span());
    require(size.height <= 65535 && size.width <= 65535);
    if (size.height * size.width > (1u << 18)) return 0;
    for (const std::size_t components : {std::size_t{1}, std::size_t{3}}) {
      Buffer out(size.height * size.width * components);
      chunkstore::jpeg_decode(data.span(), out.span(), size.height, size.width, components);
    }
  } catch (const std::invalid_argument&) {
  }
  return 0;
}
