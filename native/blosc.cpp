#include "blosc.h"

#include <blosc2.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "zstd.h"
#include "zstd_prototypes.h"

namespace chunkstore {
namespace {

constexpr std::size_t kHeaderNbytes = 16;
constexpr std::size_t kFlagsPlace = 2;
constexpr std::size_t kMaxNbytes = std::numeric_limits<std::int32_t>::max();
constexpr std::uint8_t kFormatVersion = 2;  // of every c-blosc release from 1.0 to 1.21
constexpr std::uint8_t kDontSplit = 0x10;   // blocks are one stream each, not one for each byte of an element

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
  return Header{data[0], data[kFlagsPlace], data[3], load_u32(&data[4]), load_u32(&data[8]), load_u32(&data[12])};
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
  if (data_nbytes > kMaxNbytes || out_nbytes > kMaxNbytes) refuse("more than 2 GiB, which blosc1 cannot hold");
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

std::size_t block_count(const Header& header, std::span<const std::uint8_t> data) {
  const std::size_t num_blocks = (header.nbytes - 1) / header.block_nbytes + 1;
  if (num_blocks > (data.size() - kHeaderNbytes) / 4) refuse("the offsets of the blocks end outside the frame");
  return num_blocks;
}

// Follows the offset of a block and the lengths of its streams, and hands each stream to `take(stream, nbytes when decoded)`, having
// seen that it lies in the frame and is of blosc1: a stream length of zero or below is a run in blosc2, a zstd stream could hold a
// format from before 1.0.
template <typename Take>
void walk_block(const Header& header, std::span<const std::uint8_t> data, std::size_t num_blocks, std::size_t block, Take take) {
  const bool splits = (header.flags & kDontSplit) == 0;
  const bool is_zstd = header.flags >> 5 == BLOSC_ZSTD_FORMAT;
  const std::size_t block_nbytes = std::min<std::size_t>(header.block_nbytes, header.nbytes - block * header.block_nbytes);
  // A last block that is shorter than the others is never split.
  const std::size_t num_streams = splits && block_nbytes == header.block_nbytes ? header.typesize : 1;
  if (block_nbytes % num_streams != 0) refuse("a block is not a whole number of elements");
  const std::size_t stream_nbytes = block_nbytes / num_streams;
  std::size_t place = load_u32(&data[kHeaderNbytes + 4 * block]);
  if (place < kHeaderNbytes + 4 * num_blocks) refuse("a block starts inside the header");
  for (std::size_t stream = 0; stream < num_streams; ++stream) {
    if (place > data.size() || data.size() - place < 4) refuse("a block starts outside the frame");
    const std::size_t stored_nbytes = load_u32(&data[place]);
    place += 4;
    if (stored_nbytes == 0 || stored_nbytes > stream_nbytes) refuse("a stream of impossible length");
    if (stored_nbytes > data.size() - place) refuse("a stream ends outside the frame");
    const bool is_raw = stored_nbytes == stream_nbytes;
    if (is_zstd && !is_raw && !is_one_zstd_frame(data.subspan(place, stored_nbytes))) refuse("a stream is not a zstd frame");
    take(data.subspan(place, stored_nbytes), stream_nbytes);
    place += stored_nbytes;
  }
}

void check_blocks(const Header& header, std::span<const std::uint8_t> data) {
  const std::size_t num_blocks = block_count(header, data);
  for (std::size_t block = 0; block < num_blocks; ++block) {
    walk_block(header, data, num_blocks, block, [](std::span<const std::uint8_t>, std::size_t) {});
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

// A context holds scratch of about four blocks and a zstd decoder, which take longer to make than a small chunk to decode.
// Each thread therefore keeps one, unless a frame with large blocks made it large or damage left it in an unknown state.
constexpr std::size_t kMaxKeptBlockNbytes = std::size_t{4} << 20;

void decode_frame(const Header& header, std::span<const std::uint8_t> data, std::span<std::uint8_t> out) {
  thread_local Context kept;
  Context context = kept != nullptr ? std::move(kept) : make_context();
  const int decoded_nbytes = blosc2_decompress_ctx(context.get(), data.data(), static_cast<std::int32_t>(data.size()), out.data(),
                                                   static_cast<std::int32_t>(out.size()));
  if (decoded_nbytes < 0) refuse(std::string("damaged frame (") + blosc2_error_string(decoded_nbytes) + ")");
  if (static_cast<std::size_t>(decoded_nbytes) != out.size()) {
    refuse("the frame decodes to " + std::to_string(decoded_nbytes) + " bytes, the output has " + std::to_string(out.size()));
  }
  if (header.block_nbytes <= kMaxKeptBlockNbytes) kept = std::move(context);
}

// Whether the frame is bit-shuffled and a block ends within an element. The library (3.3.5) leaves those last bytes unwritten.
bool has_partial_elements(const Header& header) {
  if ((header.flags & BLOSC_DOBITSHUFFLE) == 0) return false;
  return header.block_nbytes % header.typesize != 0 || header.nbytes % header.block_nbytes % header.typesize != 0;
}

// Decodes as if nothing had been shuffled, then turns each block by itself. In blosc1 a block is bit-shuffled if its whole
// elements are a multiple of eight, and otherwise stored as it is; what follows the last whole element always is.
void decode_bitshuffled_partial_elements(const Header& header, std::span<const std::uint8_t> data, std::span<std::uint8_t> out) {
  std::vector<std::uint8_t> unshuffled_frame(data.begin(), data.end());
  unshuffled_frame[kFlagsPlace] = header.flags & static_cast<std::uint8_t>(~BLOSC_DOBITSHUFFLE);
  decode_frame(header, unshuffled_frame, out);
  std::vector<std::uint8_t> turned(header.block_nbytes);
  for (std::size_t start = 0; start < out.size(); start += header.block_nbytes) {
    const std::span<std::uint8_t> block = out.subspan(start, std::min<std::size_t>(header.block_nbytes, out.size() - start));
    const std::size_t num_elements = block.size() / header.typesize;
    if (num_elements == 0 || num_elements % 8 != 0) continue;
    const std::size_t whole_nbytes = num_elements * header.typesize;
    const std::int32_t result =
        blosc2_bitunshuffle(header.typesize, static_cast<std::int32_t>(whole_nbytes), block.data(), turned.data());
    if (result < 0) refuse(std::string("bit-unshuffling failed (") + blosc2_error_string(result) + ")");
    std::memcpy(block.data(), turned.data(), whole_nbytes);
  }
}

// What both entries check before they decode. Whether there is anything left to do: `out` is filled where the data are stored as
// they are.
bool begin(const Header& header, std::span<const std::uint8_t> data, std::span<std::uint8_t> out) {
  check_header(header, data.size(), out.size());
  std::size_t nbytes = 0;
  if (blosc1_cbuffer_validate(data.data(), data.size(), &nbytes) != 0 || nbytes != out.size()) refuse("damaged header");
  if (out.empty()) return false;
  if ((header.flags & BLOSC_MEMCPYED) == 0) return true;
  if (data.size() != kHeaderNbytes + out.size()) refuse("a stored frame of another length than its data");
  std::memcpy(out.data(), data.data() + kHeaderNbytes, out.size());
  return false;
}

void decode_stream(int codec, std::span<const std::uint8_t> stream, std::span<std::uint8_t> out) {
  if (stream.size() == out.size()) {
    std::memcpy(out.data(), stream.data(), out.size());
  } else if (codec == BLOSC_ZSTD_FORMAT) {
    zstd_decompress(stream, out);
  } else {
    const int decoded_nbytes = LZ4_decompress_safe(reinterpret_cast<const char*>(stream.data()), reinterpret_cast<char*>(out.data()),
                                                   static_cast<int>(stream.size()), static_cast<int>(out.size()));
    if (decoded_nbytes != static_cast<int>(out.size())) refuse("a damaged lz4 stream");
  }
}

// Undoes the shuffle of one block, from `shuffled` to `out`; in blosc1 what follows the last whole element stays as it is, and so
// does a block whose elements are no multiple of eight when bits are shuffled.
void unshuffle_block(const Header& header, std::span<const std::uint8_t> shuffled, std::span<std::uint8_t> out) {
  const std::size_t num_elements = out.size() / header.typesize;
  const bool bits = (header.flags & BLOSC_DOBITSHUFFLE) != 0;
  const bool stays = num_elements == 0 || (bits ? num_elements % 8 != 0 : header.typesize == 1);
  const std::size_t whole_nbytes = stays ? 0 : num_elements * header.typesize;
  if (whole_nbytes != 0) {
    const auto unshuffle = bits ? blosc2_bitunshuffle : blosc2_unshuffle;
    const std::int32_t result = unshuffle(header.typesize, static_cast<std::int32_t>(whole_nbytes), shuffled.data(), out.data());
    if (result < 0) refuse(std::string("unshuffling failed (") + blosc2_error_string(result) + ")");
  }
  std::memcpy(out.data() + whole_nbytes, shuffled.data() + whole_nbytes, out.size() - whole_nbytes);
}

void decode_block(const Header& header, std::span<const std::uint8_t> data, std::size_t num_blocks, std::size_t block,
                  std::span<std::uint8_t> out) {
  thread_local std::vector<std::uint8_t> shuffled;
  const int codec = header.flags >> 5;
  const bool turned = (header.flags & (BLOSC_DOSHUFFLE | BLOSC_DOBITSHUFFLE)) != 0;
  if (turned && shuffled.size() < out.size()) shuffled.resize(out.size());
  const std::span<std::uint8_t> into = turned ? std::span<std::uint8_t>(shuffled).first(out.size()) : out;
  std::size_t filled = 0;
  walk_block(header, data, num_blocks, block, [&](std::span<const std::uint8_t> stream, std::size_t nbytes) {
    decode_stream(codec, stream, into.subspan(filled, nbytes));
    filled += nbytes;
  });
  if (turned) unshuffle_block(header, into, out);
}

}  // namespace

void blosc_decompress(std::span<const std::uint8_t> data, std::span<std::uint8_t> out) {
  const Header header = parse_header(data);
  if (!begin(header, data, out)) return;
  check_blocks(header, data);

  if (has_partial_elements(header)) {
    decode_bitshuffled_partial_elements(header, data, out);
  } else {
    decode_frame(header, data, out);
  }
}

void blosc_decompress_ranges(std::span<const std::uint8_t> data, std::span<std::uint8_t> out, const std::vector<ByteRange>& wanted) {
  for (const ByteRange& range : wanted) {
    if (range.start > range.stop || range.stop > out.size()) refuse("a range outside the output");
  }
  const Header header = parse_header(data);
  const int codec = header.flags >> 5;
  const bool ours = codec == BLOSC_LZ4_FORMAT || codec == BLOSC_ZSTD_FORMAT;
  if (!ours || header.block_nbytes == 0 || header.block_nbytes > kMaxKeptBlockNbytes) return blosc_decompress(data, out);
  if (!begin(header, data, out)) return;
  const std::size_t num_blocks = block_count(header, data);
  std::vector<bool> decoded(num_blocks, false);
  for (const ByteRange& range : wanted) {
    if (range.start == range.stop) continue;
    for (std::size_t block = range.start / header.block_nbytes; block <= (range.stop - 1) / header.block_nbytes; ++block) {
      if (decoded[block]) continue;
      decoded[block] = true;
      const std::size_t start = block * header.block_nbytes;
      decode_block(header, data, num_blocks, block, out.subspan(start, std::min<std::size_t>(header.block_nbytes, out.size() - start)));
    }
  }
}

}  // namespace chunkstore
