// gather_rows, gather_spans: pieces of several sources copied, in a given order, one after another into one output.
//
// Contract: every index is checked before the first byte is copied, so after std::invalid_argument `out` is untouched.
// Sources are only read, and must not overlap `out` (checked). Pieces may repeat and come in any order.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace chunkstore {

using Source = std::span<const std::uint8_t>;

// Row i of out = row row_index[i] of sources[source_index[i]]; n = row_index.size() rows of out.size() / n bytes each.
// Every source is a whole number of such rows.
void gather_rows(std::span<std::uint8_t> out, const std::vector<Source>& sources, std::span<const std::int32_t> source_index,
                 std::span<const std::int64_t> row_index);

// Bytes [starts[i], stops[i]) of sources[source_index[i]], one after another; their lengths add up to out.size().
void gather_spans(std::span<std::uint8_t> out, const std::vector<Source>& sources, std::span<const std::int32_t> source_index,
                  std::span<const std::int64_t> starts, std::span<const std::int64_t> stops);

}  // namespace chunkstore
