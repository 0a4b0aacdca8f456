#include "zstd.h"

#include <memory>
#include <new>
#include <stdexcept>
#include <string>

#include "zstd_prototypes.h"

namespace chunkstore {
namespace {

struct FreeContext {
  void operator()(ZSTD_DCtx_s* context) const noexcept { ZSTD_freeDCtx(context); }
};

// Creating a context costs more than decoding a small chunk, so each thread keeps one (about 160 KiB).
ZSTD_DCtx_s* thread_context() {
  thread_local std::unique_ptr<ZSTD_DCtx_s, FreeContext> context{ZSTD_createDCtx()};
  if (context == nullptr) throw std::bad_alloc();
  return context.get();
}

[[noreturn]] void refuse(const std::string& reason) { throw std::invalid_argument("zstd: " + reason); }

// The library was built with decoders of pre-1.0 formats, which no Zarr writer ever produced and few have tested; magic
// numbers tell them apart (RFC 8878, section 3.1).
std::uint32_t magic_number(std::span<const std::uint8_t> frame) noexcept {
  if (frame.size() < 4) return 0;
  return static_cast<std::uint32_t>(frame[0]) | static_cast<std::uint32_t>(frame[1]) << 8 |
         static_cast<std::uint32_t>(frame[2]) << 16 | static_cast<std::uint32_t>(frame[3]) << 24;
}

bool is_frame(std::span<const std::uint8_t> data) noexcept { return magic_number(data) == 0xfd2fb528u; }

bool is_skippable_frame(std::span<const std::uint8_t> data) noexcept {
  return (magic_number(data) & 0xfffffff0u) == 0x184d2a50u;
}

void check_frames(std::span<const std::uint8_t> data, std::size_t out_nbytes) {
  std::uint64_t stated_nbytes = 0;
  bool all_stated = true;
  if (data.empty()) refuse("no data");
  while (!data.empty()) {
    if (!is_frame(data) && !is_skippable_frame(data)) refuse("not a zstd frame");
    const std::size_t frame_nbytes = ZSTD_findFrameCompressedSize(data.data(), data.size());
    if (ZSTD_isError(frame_nbytes) != 0) refuse(ZSTD_getErrorName(frame_nbytes));
    if (frame_nbytes == 0 || frame_nbytes > data.size()) refuse("a frame ends outside the data");
    const unsigned long long content_nbytes = ZSTD_getFrameContentSize(data.data(), data.size());
    if (content_nbytes == kZstdContentSizeError) refuse("damaged frame header");
    if (content_nbytes == kZstdContentSizeUnknown) {
      all_stated = false;
    } else {
      if (content_nbytes > out_nbytes - stated_nbytes) {
        refuse("data state more decoded bytes than the " + std::to_string(out_nbytes) + " of the output");
      }
      stated_nbytes += content_nbytes;
    }
    data = data.subspan(frame_nbytes);
  }
  if (all_stated && stated_nbytes != out_nbytes) {
    refuse("data state " + std::to_string(stated_nbytes) + " decoded bytes, the output has " + std::to_string(out_nbytes));
  }
}

}  // namespace

bool is_one_zstd_frame(std::span<const std::uint8_t> data) noexcept {
  return is_frame(data) && ZSTD_findFrameCompressedSize(data.data(), data.size()) == data.size();
}

void zstd_decompress(std::span<const std::uint8_t> data, std::span<std::uint8_t> out) {
  check_frames(data, out.size());
  const std::size_t decoded_nbytes = ZSTD_decompressDCtx(thread_context(), out.data(), out.size(), data.data(), data.size());
  if (ZSTD_isError(decoded_nbytes) != 0) refuse(ZSTD_getErrorName(decoded_nbytes));
  if (decoded_nbytes != out.size()) {
    refuse("data decode to " + std::to_string(decoded_nbytes) + " bytes, the output has " + std::to_string(out.size()));
  }
}

}  // namespace chunkstore
