// Any bytes, as a blosc frame into memory of any size: they decode, or are refused; nothing else is touched.
#include "blosc.h"

#include <algorithm>
#include <stdexcept>

#include "fence.h"

namespace {

// What decodes as a whole decodes in part, to the same bytes.
void check_ranges(std::span<const std::uint8_t> data, std::span<const std::uint8_t> whole, std::size_t number) {
  const std::size_t start = whole.empty() ? 0 : number * 7919 % whole.size();
  const std::size_t stop = std::min(whole.size(), start + number % 97);
  Buffer out(whole.size());
  chunkstore::blosc_decompress_ranges(data, out.span(), {{0, start / 2}, {start, stop}});
  require(std::equal(whole.begin(), whole.begin() + start / 2, out.span().begin()));
  require(std::equal(whole.begin() + start, whole.begin() + stop, out.span().begin() + start));
}

}  // namespace

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
    check_ranges(data.span(), out.span(), nbytes);
  } catch (const std::invalid_argument&) {
  }
  return 0;
}
