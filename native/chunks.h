// ChunkReader: many stored chunks of one array, read, verified, decoded, and the wanted rows of each copied to where they go.
//
// Contract: everything that is asked for is checked against the sizes of chunk, source and output before the first byte is read, or
// std::invalid_argument is thrown and `out` is untouched. What is wrong with a stored chunk concerns that chunk alone: it is named
// in the result, and its rows of `out` are unspecified. Allocates by what a chunk of this array may take, never by what stored data
// claim; scratch is kept by each thread. Several threads may read by one reader at once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace chunkstore {

enum class Compression { kNone, kBlosc, kZstd };

// What one chunk holds of a row, and where that lies in a row of the output: numbers `counts[axis]` times along each axis.
struct Tile {
  std::vector<std::int64_t> counts;
  std::int64_t source_offset = 0;  // bytes
  std::int64_t target_offset = 0;
};

struct ChunkLayout {
  Compression compression = Compression::kNone;
  bool has_crc32c = false;
  std::int64_t chunk_rows = 0;
  std::int64_t chunk_row_nbytes = 0;
  std::int64_t out_row_nbytes = 0;
  std::int64_t item_nbytes = 0;
  std::vector<std::int64_t> source_strides;  // bytes from one number to the next along each axis of a row, in a chunk
  std::vector<std::int64_t> target_strides;  // and in the output
  std::vector<Tile> tiles;
};

// Bytes in memory, or the descriptor of a file.
using ChunkSource = std::variant<std::span<const std::uint8_t>, int>;

// Chunk i is bytes [starts[i], stops[i]) of sources[source_index[i]] and is tile[i] of its rows; pieces [piece_from[i], piece_to[i])
// say which of its rows go where. Its crc32c is compared where check[i] is not 0.
struct ChunkRequests {
  std::span<const std::int32_t> source_index;
  std::span<const std::int64_t> starts;
  std::span<const std::int64_t> stops;
  std::span<const std::int32_t> tile;
  std::span<const std::uint8_t> check;
  std::span<const std::int64_t> piece_from;
  std::span<const std::int64_t> piece_to;
  std::span<const std::int64_t> piece_start;
  std::span<const std::int64_t> piece_stop;
  std::span<const std::int64_t> destination;  // in rows of the output
};

class ChunkReader {
 public:
  // Throws std::invalid_argument where a tile leaves the chunk's row or the output's.
  explicit ChunkReader(ChunkLayout layout);

  // What failed: number of the chunk, and why.
  std::vector<std::pair<std::size_t, std::string>> read(std::span<std::uint8_t> out, const std::vector<ChunkSource>& sources,
                                                        const ChunkRequests& requests) const;

 private:
  struct Copy {  // a tile, its innermost axes joined to runs of bytes wherever they are contiguous on both sides
    std::vector<std::int64_t> counts;
    std::vector<std::int64_t> source_strides;
    std::vector<std::int64_t> target_strides;
    std::int64_t source_offset;
    std::int64_t target_offset;
    std::int64_t run_nbytes;
    bool whole_rows;  // the chunk's rows are the output's, so that many are one run
  };

  void check(std::span<std::uint8_t> out, const std::vector<ChunkSource>& sources, const ChunkRequests& requests) const;
  void read_chunk(std::span<std::uint8_t> out, const ChunkSource& source, const ChunkRequests& requests, std::size_t chunk) const;
  void decode(std::span<const std::uint8_t> body, std::span<std::uint8_t> out) const;
  static void check_crc32c(std::span<const std::uint8_t> body, std::span<const std::uint8_t> trailer);
  void copy_pieces(const std::uint8_t* decoded, std::span<std::uint8_t> out, const ChunkRequests& requests,
                   std::size_t chunk) const;
  void copy_rows(const std::uint8_t* first_row, std::uint8_t* first_target, std::int64_t rows, const Copy& copy) const;

  ChunkLayout layout_;
  std::vector<Copy> copies_;
  std::size_t chunk_nbytes_ = 0;
};

}  // namespace chunkstore
