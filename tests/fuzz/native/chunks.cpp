// Any layout of chunks and any request, over any bytes: rows are copied, a chunk is named as damaged, or all is refused.
#include "chunks.h"

#include <stdexcept>

#include "fence.h"
#include "numbers.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t nbytes) {
  Numbers numbers(bytes, nbytes);
  chunkstore::ChunkLayout layout;
  layout.compression = static_cast<chunkstore::Compression>(numbers.small() % 3);
  layout.has_crc32c = numbers.small() % 2 != 0;
  layout.chunk_rows = numbers.any();
  layout.chunk_row_nbytes = numbers.any();
  layout.out_row_nbytes = numbers.any();
  layout.item_nbytes = numbers.any();
  // More would only be time: no chunk of this size is in the bytes.
  if (layout.chunk_rows > 4096 || layout.chunk_row_nbytes > 4096) layout.chunk_rows = -1;
  const std::size_t axes = numbers.small() % 4;
  for (std::size_t axis = 0; axis < axes; ++axis) {
    layout.source_strides.push_back(numbers.any());
    layout.target_strides.push_back(numbers.any());
  }
  const std::size_t num_tiles = 1 + numbers.small() % 3;
  for (std::size_t i = 0; i < num_tiles; ++i) {
    chunkstore::Tile tile;
    for (std::size_t axis = 0; axis < axes; ++axis) tile.counts.push_back(numbers.any());
    tile.source_offset = numbers.any();
    tile.target_offset = numbers.any();
    layout.tiles.push_back(tile);
  }

  const std::size_t num_chunks = numbers.small() % 5, num_pieces = numbers.small() % 5, out_rows = numbers.small() % 16;
  const bool fits = numbers.small() % 4 != 0;  // places that follow from the layout, or any
  std::vector<std::int32_t> source_index, tile;
  std::vector<std::int64_t> starts, stops, piece_from, piece_to, piece_start, piece_stop, destination;
  std::vector<std::uint8_t> check;
  for (std::size_t i = 0; i < num_chunks; ++i) {
    source_index.push_back(fits ? 0 : static_cast<std::int32_t>(numbers.any() % 4));
    tile.push_back(static_cast<std::int32_t>(fits ? i % num_tiles : numbers.any() % 4));
    starts.push_back(fits ? numbers.small() : numbers.any());
    stops.push_back(fits ? starts.back() + numbers.small() + 256 * (numbers.small() % 4) : numbers.any());
    check.push_back(numbers.small() % 2);
    piece_from.push_back(fits ? static_cast<std::int64_t>(i * num_pieces / num_chunks) : numbers.any());
    piece_to.push_back(fits ? static_cast<std::int64_t>((i + 1) * num_pieces / num_chunks) : numbers.any());
  }
  for (std::size_t i = 0; i < num_pieces; ++i) {
    piece_start.push_back(numbers.any());
    piece_stop.push_back(numbers.any());
    destination.push_back(numbers.any());
  }
  Buffer source(numbers.rest(), numbers.left());
  const std::size_t row_nbytes = layout.out_row_nbytes > 0 && layout.out_row_nbytes < 4096 ? layout.out_row_nbytes : 1;
  Buffer out(out_rows * row_nbytes);
  try {
    const chunkstore::ChunkReader reader(layout);
    const std::vector<chunkstore::ChunkSource> sources{std::span<const std::uint8_t>(source.span())};
    const chunkstore::ChunkRequests requests{.source_index = source_index,
                                             .starts = starts,
                                             .stops = stops,
                                             .tile = tile,
                                             .check = check,
                                             .piece_from = piece_from,
                                             .piece_to = piece_to,
                                             .piece_start = piece_start,
                                             .piece_stop = piece_stop,
                                             .destination = destination};
    const auto failed = reader.read(out.span(), sources, requests);
    for (const auto& [chunk, reason] : failed) require(chunk < num_chunks && !reason.empty());
  } catch (const std::invalid_argument&) {
  }
  return 0;
}
