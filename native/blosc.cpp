#include "blosc.h"

#include <blosc2.h>

#include <limits>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>

namespace chunkstore {
namespace {

constexpr std::size_t kHeaderNbytes = 16;
constexpr std::uint8_t kFormatVersion = 2;  // of every c-blosc release from 1.0 to 1.21

struct Header {
  std::uint8_t version;
  std::uint8_t flags;
  std::uint8_t typesize;
  std::uint32_t nbytes;
  std::uint32_t block_nbytes;
  std::uint32_t frame_nbytes;
};

[[noreturn]] void refuse(const std::string& reason) { throw std::invalid_argument("blosc: " + reason); }

std::uint32_t load_u32(const std::uint8_t* bytes) {
  return static_cast<std::uint32_t>(bytes[0]) | static_cast<std::uint32_t>(bytes[1]) << 8 |
         static_cast<std::uint32_t>(bytes[2]) << 16 | static_cast<std::uint32_t>(bytes[3]) << 24;
}

Header parse_header(std::span<const std::uint8_t> data) {
  if (data.size() < kHeaderNbytes) refuse(std::to_string(data.size()) + " bytes are too few for a frame");
  return Header{data[0], data[2], data[3], load_u32(&data[4]), load_u32(&data[8]), load_u32(&data[12])};
}

void check_header(const Header& header, std::size_t data_nbytes, std::size_t out_nbytes) {
  if (header.version != kFormatVersion) refuse("format version " + std::to_string(header.version) + ", not blosc1's");
  if (header.typesize == 0) refuse("element size 0");
  const bool shuffle = (header.flags & BLOSC_DOSHUFFLE) != 0;
  const bool bitshuffle = (header.flags & BLOSC_DOBITSHUFFLE) != 0;
  if (shuffle && bitshuffle) refuse("an extended header of blosc2");
  if ((header.flags & BLOSC_DODELTA) != 0) refuse("the delta filter of blosc2");
  const int codec = header.flags >> 5;
  if (codec != BLOSC_BLOSCLZ_FORMAT && codec != BLOSC_LZ4_FORMAT && codec != BLOSC_ZLIB_FORMAT && codec != BLOSC_ZSTD_FORMAT) {
    refuse("unknown compressor " + std::to_string(codec));
  }
  if (header.frame_nbytes != data_nbytes) {
    refuse("the frame has " + std::to_string(header.frame_nbytes) + " bytes by its header, but " + std::to_string(data_nbytes) +
           " are there");
  }
  if (header.nbytes != out_nbytes) {
    refuse("the frame holds " + std::to_string(header.nbytes) + " bytes, the output has " + std::to_string(out_nbytes));
  }
  if (header.nbytes != 0 && (header.block_nbytes == 0 || header.block_nbytes > header.nbytes)) {
    refuse("blocks of " + std::to_string(header.block_nbytes) + " bytes in " + std::to_string(header.nbytes));
  }
}

struct FreeContext {
  void operator()(blosc2_context* context) const noexcept { blosc2_free_ctx(context); }
};
using Context = std::unique_ptr<blosc2_context, FreeContext>;

Context make_context() {
  blosc2_dparams parameters = BLOSC2_DPARAMS_DEFAULTS;
  parameters.nthreads = 1;
  Context context{blosc2_create_dctx(parameters)};
  if (context == nullptr) throw std::bad_alloc();
  return context;
}

}  // namespace

void blosc_decompress(std::span<const std::uint8_t> data, std::span<std::uint8_t> out) {
  check_header(parse_header(data), data.size(), out.size());
  std::size_t nbytes = 0;
  if (blosc1_cbuffer_validate(data.data(), data.size(), &nbytes) != 0 || nbytes != out.size()) refuse("damaged header");
  if (out.empty()) return;
  const Context context = make_context();
  const int decoded_nbytes = blosc2_decompress_ctx(context.get(), data.data(), static_cast<std::int32_t>(data.size()), out.data(),
                                                   static_cast<std::int32_t>(out.size()));
  if (decoded_nbytes < 0) refuse(std::string("damaged frame (") + blosc2_error_string(decoded_nbytes) + ")");
  if (static_cast<std::size_t>(decoded_nbytes) != out.size()) {
    refuse("the frame decodes to " + std::to_string(decoded_nbytes) + " bytes, the output has " + std::to_string(out.size()));
  }
}

}  // namespace chunkstore
