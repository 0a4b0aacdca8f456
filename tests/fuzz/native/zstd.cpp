// Any bytes, as zstd frames into memory of any size: they decode, or are refused; nothing else is touched.
#include "zstd.h"

#include <stdexcept>

#include "fence.h"
#include "zstd_prototypes.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t nbytes) {
  if (nbytes < 2) return 0;
  std::size_t out_nbytes = bytes[0] | static_cast<std::size_t>(bytes[1]) << 8;
  const unsigned long long stated = ZSTD_getFrameContentSize(bytes + 2, nbytes - 2);
  if (bytes[0] != 0xFF && stated <= (1u << 18)) out_nbytes = static_cast<std::size_t>(stated);
  Buffer data(bytes + 2, nbytes - 2);
  Buffer out(out_nbytes);
  (void)chunkstore::is_one_zstd_frame(data.span());
  try {
    chunkstore::zstd_decompress(data.span(), out.span());
  } catch (const std::invalid_argument&) {
  }
  return 0;
}
