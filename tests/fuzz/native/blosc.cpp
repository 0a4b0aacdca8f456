// Any bytes, as a blosc frame into memory of any size: they decode, or are refused; nothing else is touched.
#include "blosc.h"

#include <stdexcept>

#include "fence.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t nbytes) {
  if (nbytes < 2) return 0;
  // Frames are refused by their size before they are decoded, so most outputs are of the size that the header says.
  std::size_t out_nbytes = bytes[0] | static_cast<std::size_t>(bytes[1]) << 8;
  if (bytes[0] != 0xFF && nbytes >= 2 + 16) {
    out_nbytes = (bytes[6] | bytes[7] << 8 | bytes[8] << 16) & 0x3FFFF;
  }
  Buffer data(bytes + 2, nbytes - 2);
  Buffer out(out_nbytes);
  try {
    chunkstore::blosc_decompress(data.span(), out.span());
  } catch (const std::invalid_argument&) {
  }
  return 0;
}
