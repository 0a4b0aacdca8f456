// chunkstore._native: the operations of this folder, given to Python. Nothing but argument checks and calls.
//
// Arguments come through the buffer protocol, so bytes, memoryview, mmap and NumPy arrays are all taken without a copy, and
// are pinned while the GIL is released. std::invalid_argument becomes ValueError.

#include <nanobind/nanobind.h>

#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "blosc.h"
#include "build_info.h"
#include "chunks.h"
#include "crc32.h"
#include "crc32c.h"
#include "rows.h"
#include "statistics.h"
#include "zstd.h"
#if defined(CHUNKSTORE_JPEG)
#include "jpeg.h"
#endif

namespace nb = nanobind;
using namespace nb::literals;

namespace {

// A pinned view of a Python object's memory. Made and destroyed with the GIL held.
class Buffer {
 public:
  Buffer(nb::handle object, const char* name, int flags) {
    if (PyObject_GetBuffer(object.ptr(), &view_, flags) == 0) return;
    nb::python_error error;
    if (error.matches(PyExc_TypeError)) throw error;
    throw nb::value_error((std::string(name) + ": " + nb::str(error.value()).c_str()).c_str());
  }
  ~Buffer() { if (view_.obj != nullptr) PyBuffer_Release(&view_); }
  Buffer(Buffer&& other) noexcept : view_(other.view_) { other.view_.obj = nullptr; }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  Buffer& operator=(Buffer&&) = delete;

  static Buffer readable(nb::handle object, const char* name) { return {object, name, PyBUF_SIMPLE}; }
  static Buffer writable(nb::handle object, const char* name) { return {object, name, PyBUF_SIMPLE | PyBUF_WRITABLE}; }
  static Buffer with_type(nb::handle object, const char* name, int more = 0) {
    return {object, name, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | more};
  }

  std::span<const std::uint8_t> bytes() const { return {static_cast<const std::uint8_t*>(view_.buf), size()}; }
  std::span<std::uint8_t> writable_bytes() const { return {static_cast<std::uint8_t*>(view_.buf), size()}; }
  const Py_buffer& view() const { return view_; }

  // A one-dimensional array of signed integers of `sizeof(Integer)` bytes in native order.
  template <typename Integer>
  std::span<const Integer> integers(const char* name) const {
    const std::string format = view_.format == nullptr ? "B" : view_.format;
    const bool is_signed = format.size() == 1 && std::string("bhilqn").find(format) != std::string::npos;
    if (!is_signed || view_.itemsize != sizeof(Integer) || view_.ndim != 1) {
      const std::string wanted = "int" + std::to_string(8 * sizeof(Integer));
      throw std::invalid_argument(std::string(name) + " is not a one-dimensional array of " + wanted);
    }
    if (reinterpret_cast<std::uintptr_t>(view_.buf) % alignof(Integer) != 0) {
      throw std::invalid_argument(std::string(name) + " is not aligned");
    }
    return {static_cast<const Integer*>(view_.buf), size() / sizeof(Integer)};
  }

  // A one-dimensional array of uint32 in native order, to write to.
  std::span<std::uint32_t> writable_uint32s(const char* name) const {
    const std::string format = view_.format == nullptr ? "B" : view_.format;
    const bool is_unsigned = format.size() == 1 && std::string("IL").find(format) != std::string::npos;
    if (!is_unsigned || view_.itemsize != sizeof(std::uint32_t) || view_.ndim != 1) {
      throw std::invalid_argument(std::string(name) + " is not a one-dimensional array of uint32");
    }
    if (reinterpret_cast<std::uintptr_t>(view_.buf) % alignof(std::uint32_t) != 0) {
      throw std::invalid_argument(std::string(name) + " is not aligned");
    }
    return {static_cast<std::uint32_t*>(view_.buf), size() / sizeof(std::uint32_t)};
  }

 private:
  std::size_t size() const { return static_cast<std::size_t>(view_.len); }
  Py_buffer view_{};
};

struct Sources {
  std::vector<Buffer> buffers;
  std::vector<chunkstore::Source> spans;

  explicit Sources(const nb::sequence& objects) {
    const std::size_t count = nb::len(objects);
    buffers.reserve(count);
    spans.reserve(count);
    for (nb::handle object : objects) {
      buffers.push_back(Buffer::readable(object, "sources"));
      spans.push_back(buffers.back().bytes());
    }
  }
};

std::uint32_t crc32(nb::handle data, std::uint32_t value) {
  const Buffer buffer = Buffer::readable(data, "data");
  const nb::gil_scoped_release release;
  return chunkstore::crc32(buffer.bytes(), value);
}

std::uint32_t crc32c(nb::handle data, std::uint32_t value) {
  const Buffer buffer = Buffer::readable(data, "data");
  const nb::gil_scoped_release release;
  return chunkstore::crc32c(buffer.bytes(), value);
}

std::uint32_t crc32c_table(nb::handle data, std::uint32_t value) {
  const Buffer buffer = Buffer::readable(data, "data");
  const nb::gil_scoped_release release;
  return chunkstore::crc32c_table(buffer.bytes(), value);
}

void crc32c_spans(nb::handle out, nb::handle data, nb::handle starts, nb::handle stops) {
  const Buffer out_buffer = Buffer::with_type(out, "out", PyBUF_WRITABLE);
  const Buffer from = Buffer::readable(data, "data");
  const Buffer start_buffer = Buffer::with_type(starts, "starts");
  const Buffer stop_buffer = Buffer::with_type(stops, "stops");
  const auto into = out_buffer.writable_uint32s("out");
  const auto start_span = start_buffer.integers<std::int64_t>("starts");
  const auto stop_span = stop_buffer.integers<std::int64_t>("stops");
  const nb::gil_scoped_release release;
  chunkstore::crc32c_spans(into, from.bytes(), start_span, stop_span);
}

template <void (*decompress)(std::span<const std::uint8_t>, std::span<std::uint8_t>)>
void decompress_into(nb::handle data, nb::handle out) {
  const Buffer from = Buffer::readable(data, "data");
  const Buffer into = Buffer::writable(out, "out");
  const nb::gil_scoped_release release;
  decompress(from.bytes(), into.writable_bytes());
}

void gather_rows(nb::handle out, const nb::sequence& sources, nb::handle source_index, nb::handle row_index) {
  const Buffer into = Buffer::writable(out, "out");
  const Sources from(sources);
  const Buffer source_buffer = Buffer::with_type(source_index, "source_index");
  const Buffer row_buffer = Buffer::with_type(row_index, "row_index");
  const auto source_span = source_buffer.integers<std::int32_t>("source_index");
  const auto row_span = row_buffer.integers<std::int64_t>("row_index");
  const nb::gil_scoped_release release;
  chunkstore::gather_rows(into.writable_bytes(), from.spans, source_span, row_span);
}

void gather_spans(nb::handle out, const nb::sequence& sources, nb::handle source_index, nb::handle starts, nb::handle stops) {
  const Buffer into = Buffer::writable(out, "out");
  const Sources from(sources);
  const Buffer source_buffer = Buffer::with_type(source_index, "source_index");
  const Buffer start_buffer = Buffer::with_type(starts, "starts");
  const Buffer stop_buffer = Buffer::with_type(stops, "stops");
  const auto source_span = source_buffer.integers<std::int32_t>("source_index");
  const auto start_span = start_buffer.integers<std::int64_t>("starts");
  const auto stop_span = stop_buffer.integers<std::int64_t>("stops");
  const nb::gil_scoped_release release;
  chunkstore::gather_spans(into.writable_bytes(), from.spans, source_span, start_span, stop_span);
}

// Calls `use` with a typed pointer to a one-dimensional array of numbers.
template <typename Use>
auto with_numbers(const Buffer& buffer, Use use) {
  const Py_buffer& view = buffer.view();
  const std::string format = view.format == nullptr ? "B" : view.format;
  const auto count = view.itemsize == 0 ? 0 : static_cast<std::size_t>(view.len / view.itemsize);
  if (reinterpret_cast<std::uintptr_t>(view.buf) % static_cast<std::uintptr_t>(view.itemsize) != 0) {
    throw std::invalid_argument("values are not aligned");
  }
  const char kind = format.size() == 1 ? format[0] : '\0';
  if (kind == 'f') return use(static_cast<const float*>(view.buf), count);
  if (kind == 'd') return use(static_cast<const double*>(view.buf), count);
  if (std::string("bhilq").find(kind) != std::string::npos) {
    if (view.itemsize == 1) return use(static_cast<const std::int8_t*>(view.buf), count);
    if (view.itemsize == 2) return use(static_cast<const std::int16_t*>(view.buf), count);
    if (view.itemsize == 4) return use(static_cast<const std::int32_t*>(view.buf), count);
    if (view.itemsize == 8) return use(static_cast<const std::int64_t*>(view.buf), count);
  }
  if (std::string("BHILQ").find(kind) != std::string::npos) {
    if (view.itemsize == 1) return use(static_cast<const std::uint8_t*>(view.buf), count);
    if (view.itemsize == 2) return use(static_cast<const std::uint16_t*>(view.buf), count);
    if (view.itemsize == 4) return use(static_cast<const std::uint32_t*>(view.buf), count);
    if (view.itemsize == 8) return use(static_cast<const std::uint64_t*>(view.buf), count);
  }
  throw std::invalid_argument("values are neither integers nor float32 or float64, in native order");
}

nb::tuple value_range(nb::handle values) {
  const Buffer buffer = Buffer::with_type(values, "values");
  return with_numbers(buffer, [](const auto* numbers, std::size_t count) {
    const auto range = [&] {
      const nb::gil_scoped_release release;
      return chunkstore::value_range(numbers, count);
    }();
    return nb::make_tuple(range.nan, range.positive_infinities, range.negative_infinities, range.smallest, range.largest, range.mean);
  });
}

nb::tuple histogram(nb::handle values, double mean, int exponent, double first_bin) {
  const Buffer buffer = Buffer::with_type(values, "values");
  return with_numbers(buffer, [&](const auto* numbers, std::size_t count) {
    constexpr bool is_integer = std::is_integral_v<std::remove_cvref_t<decltype(*numbers)>>;
    if (is_integer ? exponent < 0 || exponent > 63 : exponent < -1074 || exponent > 1024) {
      throw std::invalid_argument("a bin exponent that no numbers have");
    }
    if (!(first_bin >= -0x1p62 && first_bin <= 0x1p62)) throw std::invalid_argument("a first bin that no numbers have");
    const auto result = [&] {
      const nb::gil_scoped_release release;
      return chunkstore::histogram(numbers, count, mean, exponent, first_bin);
    }();
    nb::list counts;
    for (const std::uint64_t number : result.counts) counts.append(number);
    return nb::make_tuple(counts, result.m2);
  });
}

// What a ChunkReader is made of comes as int64 arrays: one row a tile in `counts`, and its two offsets.
chunkstore::ChunkReader make_chunk_reader(const std::string& compression, bool has_crc32c, std::int64_t chunk_rows,
                                          std::int64_t chunk_row_nbytes, std::int64_t out_row_nbytes, std::int64_t item_nbytes,
                                          std::vector<std::int64_t> source_strides, std::vector<std::int64_t> target_strides,
                                          nb::handle counts, nb::handle source_offsets, nb::handle target_offsets) {
  chunkstore::ChunkLayout layout;
  if (compression == "blosc") {
    layout.compression = chunkstore::Compression::kBlosc;
  } else if (compression == "zstd") {
    layout.compression = chunkstore::Compression::kZstd;
  } else if (!compression.empty()) {
    throw std::invalid_argument("compression is \"\", \"blosc\" or \"zstd\"");
  }
  const Buffer counts_buffer = Buffer::with_type(counts, "counts");
  const Buffer source_buffer = Buffer::with_type(source_offsets, "source_offsets");
  const Buffer target_buffer = Buffer::with_type(target_offsets, "target_offsets");
  const auto all_counts = counts_buffer.integers<std::int64_t>("counts");
  const auto sources = source_buffer.integers<std::int64_t>("source_offsets");
  const auto targets = target_buffer.integers<std::int64_t>("target_offsets");
  const std::size_t axes = source_strides.size();
  if (targets.size() != sources.size() || all_counts.size() != sources.size() * axes) {
    throw std::invalid_argument("counts and offsets of different numbers of tiles");
  }
  layout.has_crc32c = has_crc32c;
  layout.chunk_rows = chunk_rows;
  layout.chunk_row_nbytes = chunk_row_nbytes;
  layout.out_row_nbytes = out_row_nbytes;
  layout.item_nbytes = item_nbytes;
  layout.source_strides = std::move(source_strides);
  layout.target_strides = std::move(target_strides);
  for (std::size_t tile = 0; tile < sources.size(); ++tile) {
    const auto own = all_counts.subspan(tile * axes, axes);
    layout.tiles.push_back({{own.begin(), own.end()}, sources[tile], targets[tile]});
  }
  return chunkstore::ChunkReader(std::move(layout));
}

nb::list read_chunks(const chunkstore::ChunkReader& reader, nb::handle out, const nb::sequence& sources, nb::handle source_index,
                     nb::handle starts, nb::handle stops, nb::handle tile, nb::handle check, nb::handle piece_from, nb::handle piece_to,
                     nb::handle piece_start, nb::handle piece_stop, nb::handle destination) {
  const Buffer into = Buffer::writable(out, "out");
  std::vector<Buffer> buffers;
  std::vector<chunkstore::ChunkSource> from;
  buffers.reserve(nb::len(sources));
  for (nb::handle source : sources) {
    if (nb::isinstance<nb::int_>(source)) {
      from.emplace_back(nb::cast<int>(source));
    } else {
      buffers.push_back(Buffer::readable(source, "sources"));
      from.emplace_back(buffers.back().bytes());
    }
  }
  const Buffer index_buffer = Buffer::with_type(source_index, "source_index");
  const Buffer start_buffer = Buffer::with_type(starts, "starts");
  const Buffer stop_buffer = Buffer::with_type(stops, "stops");
  const Buffer tile_buffer = Buffer::with_type(tile, "tile");
  const Buffer check_buffer = Buffer::readable(check, "check");
  const Buffer from_buffer = Buffer::with_type(piece_from, "piece_from");
  const Buffer to_buffer = Buffer::with_type(piece_to, "piece_to");
  const Buffer piece_start_buffer = Buffer::with_type(piece_start, "piece_start");
  const Buffer piece_stop_buffer = Buffer::with_type(piece_stop, "piece_stop");
  const Buffer destination_buffer = Buffer::with_type(destination, "destination");
  const chunkstore::ChunkRequests requests{
      index_buffer.integers<std::int32_t>("source_index"),
      start_buffer.integers<std::int64_t>("starts"),
      stop_buffer.integers<std::int64_t>("stops"),
      tile_buffer.integers<std::int32_t>("tile"),
      check_buffer.bytes(),
      from_buffer.integers<std::int64_t>("piece_from"),
      to_buffer.integers<std::int64_t>("piece_to"),
      piece_start_buffer.integers<std::int64_t>("piece_start"),
      piece_stop_buffer.integers<std::int64_t>("piece_stop"),
      destination_buffer.integers<std::int64_t>("destination"),
  };
  const auto failed = [&] {
    const nb::gil_scoped_release release;
    return reader.read(into.writable_bytes(), from, requests);
  }();
  nb::list told;
  for (const auto& [chunk, reason] : failed) told.append(nb::make_tuple(chunk, nb::str(reason.c_str())));
  return told;
}

#if defined(CHUNKSTORE_JPEG)
nb::tuple jpeg_size(nb::handle data) {
  const Buffer from = Buffer::readable(data, "data");
  chunkstore::JpegSize size{};
  {
    const nb::gil_scoped_release release;
    size = chunkstore::jpeg_size(from.bytes());
  }
  return nb::make_tuple(size.height, size.width, size.components);
}

void jpeg_decode(nb::handle data, nb::handle out) {
  const Buffer from = Buffer::readable(data, "data");
  const Buffer into = Buffer::with_type(out, "out", PyBUF_WRITABLE);
  const Py_buffer& view = into.view();
  const bool is_uint8 = view.format != nullptr && std::string(view.format) == "B";
  const bool is_gray = view.ndim == 2;
  const bool is_rgb = view.ndim == 3 && view.shape[2] == 3;
  if (!is_uint8 || (!is_gray && !is_rgb)) {
    throw std::invalid_argument("out is neither a uint8 array (height, width, 3) nor (height, width)");
  }
  const auto height = static_cast<std::size_t>(view.shape[0]);
  const auto width = static_cast<std::size_t>(view.shape[1]);
  const nb::gil_scoped_release release;
  chunkstore::jpeg_decode(from.bytes(), into.writable_bytes(), height, width, is_rgb ? 3 : 1);
}
#endif

nb::dict build_info() {
  nb::dict info;
  for (const auto& [component, version] : chunkstore::build_info()) {
    if (version.empty()) {
      info[component.c_str()] = false;
    } else {
      info[component.c_str()] = nb::str(version.c_str());
    }
  }
  return info;
}

}  // namespace

// NumPy's stubs call ndarray a Buffer from Python 3.12 on only.
#define BUFFER "typing_extensions.Buffer | numpy.typing.NDArray[typing.Any]"
#define UINT32 "numpy.typing.NDArray[numpy.uint32]"
#define INT32 "numpy.typing.NDArray[numpy.int32]"
#define INT64 "numpy.typing.NDArray[numpy.int64]"

NB_MODULE(_native, m) {
  // Threads that an interrupt left reading hold their reader when the interpreter ends; that is no leak to be told of.
  nb::set_leak_warnings(false);
  m.doc() =
      "Codecs, checksums and row copies in C++: what touches every byte, and the interpreter never.\n\n"
      "Every function releases the GIL while it works. Wrong input is a ValueError with the reason; nothing is read or\n"
      "written out of bounds. Knows no store, no Zarr metadata and no chunk grid: chunkstore.kernels stands before it.";

  m.def("crc32", &crc32, "data"_a, "value"_a = 0,
        nb::sig("def crc32(data: " BUFFER ", value: int = 0) -> int"),
        "The crc32 of zlib of a C-contiguous buffer; `value` is the crc of the bytes before it.");
  m.def("crc32c", &crc32c, "data"_a, "value"_a = 0,
        nb::sig("def crc32c(data: " BUFFER ", value: int = 0) -> int"),
        "The crc32c of a C-contiguous buffer; `value` is the crc of the bytes before it.");
  m.def("crc32c_table", &crc32c_table, "data"_a, "value"_a = 0,
        nb::sig("def crc32c_table(data: " BUFFER ", value: int = 0) -> int"),
        "`crc32c` by its portable implementation: slower, there for tests.");
  m.def("crc32c_spans", &crc32c_spans, "out"_a, "data"_a, "starts"_a, "stops"_a,
        nb::sig("def crc32c_spans(out: " UINT32 ", data: " BUFFER ", starts: " INT64 ", stops: " INT64 ") -> None"),
        "The crc32c of bytes [starts[i], stops[i]) of `data` becomes `out[i]`.\n\n"
        "Args:\n"
        "    out: uint32, shape (n,).\n"
        "    data: any C-contiguous buffer.\n"
        "    starts, stops: int64, shape (n,).\n\n"
        "Raises:\n    ValueError: lengths that differ, or a span that leaves `data`; `out` is then untouched.");
  m.def("blosc_decompress", &decompress_into<chunkstore::blosc_decompress>, "data"_a, "out"_a,
        nb::sig("def blosc_decompress(data: " BUFFER ", out: " BUFFER ") -> None"),
        "Decodes one blosc1 frame into `out`, which is exactly as long as the frame says.\n\n"
        "Raises:\n    ValueError: a damaged frame, one of blosc2, or an `out` of another length.");
  m.def("zstd_decompress", &decompress_into<chunkstore::zstd_decompress>, "data"_a, "out"_a,
        nb::sig("def zstd_decompress(data: " BUFFER ", out: " BUFFER ") -> None"),
        "Decodes zstd frames into `out`, which is exactly as long as what they hold.\n\n"
        "Raises:\n    ValueError: damaged frames, or an `out` of another length.");
  m.def("gather_rows", &gather_rows, "out"_a, "sources"_a, "source_index"_a, "row_index"_a,
        nb::sig("def gather_rows(out: " BUFFER ", sources: collections.abc.Sequence[" BUFFER "], "
                "source_index: " INT32 ", row_index: " INT64 ") -> None"),
        "Row i of `out` becomes row `row_index[i]` of `sources[source_index[i]]`.\n\n"
        "Args:\n"
        "    out: n rows of out.nbytes / n bytes each; overlaps no source.\n"
        "    sources: buffers, each a whole number of such rows.\n"
        "    source_index: int32, shape (n,).\n"
        "    row_index: int64, shape (n,).\n\n"
        "Raises:\n    ValueError: lengths that do not fit, or an index out of range; `out` is then untouched.");
  m.def("gather_spans", &gather_spans, "out"_a, "sources"_a, "source_index"_a, "starts"_a, "stops"_a,
        nb::sig("def gather_spans(out: " BUFFER ", sources: collections.abc.Sequence[" BUFFER "], "
                "source_index: " INT32 ", starts: " INT64 ", stops: " INT64 ")"
                " -> None"),
        "Bytes [starts[i], stops[i]) of `sources[source_index[i]]`, one after another, become `out`.\n\n"
        "Args:\n"
        "    out: as many bytes as all spans together; overlaps no source.\n"
        "    sources: buffers.\n"
        "    source_index: int32, shape (n,).\n"
        "    starts, stops: int64, shape (n,).\n\n"
        "Raises:\n    ValueError: lengths that do not add up, or a span out of range; `out` is then untouched.");
  m.def("value_range", &value_range, "values"_a,
        nb::sig("def value_range(values: " BUFFER ") -> tuple[int, int, int, int | float, int | float, float]"),
        "How many numbers are NaN, +inf and -inf; and the smallest, the largest and the mean of the others.\n\n"
        "Args:\n    values: integers, float32 or float64 in native order, C-contiguous.\n\n"
        "Smallest, largest and mean are 0 where no number is finite; the mean is not finite where the sum leaves float64.\n\n"
        "Raises:\n    ValueError: another type.");
  m.def("histogram", &histogram, "values"_a, "mean"_a, "exponent"_a, "first_bin"_a,
        nb::sig("def histogram(values: " BUFFER ", mean: float, exponent: int, first_bin: float) -> tuple[list[int], float]"),
        "Finite numbers in each of 64 bins [i·2^exponent, (i+1)·2^exponent), i from `first_bin`, and the sum of their squared\n"
        "distances from `mean`. A number in none of these bins is left out of both.\n\n"
        "Raises:\n    ValueError: another type than `value_range` takes, or bins that no numbers have.");
  nb::class_<chunkstore::ChunkReader>(
      m, "ChunkReader",
      "Reads many stored chunks of one array, and copies the wanted rows of each to where they go.\n\n"
      "Args:\n"
      "    compression: \"\", \"blosc\" or \"zstd\".\n"
      "    has_crc32c: whether stored chunks end in their crc32c.\n"
      "    chunk_rows, chunk_row_nbytes: rows of a decoded chunk, and the bytes of one.\n"
      "    out_row_nbytes: of a row of the output.\n"
      "    item_nbytes: of a number.\n"
      "    source_strides, target_strides: bytes from one wanted number to the next along each axis of a row, in a chunk and in the\n"
      "        output.\n"
      "    counts: int64, (tiles · axes,): how many numbers along each axis a tile of the row has.\n"
      "    source_offsets, target_offsets: int64, (tiles,): where they begin in a row, in bytes.\n\n"
      "Raises:\n    ValueError: a tile that leaves a row.")
      .def("__init__",
           [](chunkstore::ChunkReader* self, const char* compression, bool has_crc32c, std::int64_t chunk_rows,
              std::int64_t chunk_row_nbytes, std::int64_t out_row_nbytes, std::int64_t item_nbytes, const nb::sequence& source_strides,
              const nb::sequence& target_strides, nb::handle counts, nb::handle source_offsets, nb::handle target_offsets) {
             std::vector<std::int64_t> source, target;
             for (nb::handle stride : source_strides) source.push_back(nb::cast<std::int64_t>(stride));
             for (nb::handle stride : target_strides) target.push_back(nb::cast<std::int64_t>(stride));
             new (self) chunkstore::ChunkReader(make_chunk_reader(compression, has_crc32c, chunk_rows, chunk_row_nbytes, out_row_nbytes,
                                                                  item_nbytes, std::move(source), std::move(target), counts,
                                                                  source_offsets, target_offsets));
           },
           "compression"_a, "has_crc32c"_a, "chunk_rows"_a, "chunk_row_nbytes"_a, "out_row_nbytes"_a, "item_nbytes"_a,
           "source_strides"_a, "target_strides"_a, "counts"_a, "source_offsets"_a, "target_offsets"_a,
           nb::sig("def __init__(self, compression: str, has_crc32c: bool, chunk_rows: int, chunk_row_nbytes: int, "
                   "out_row_nbytes: int, item_nbytes: int, source_strides: collections.abc.Sequence[int], "
                   "target_strides: collections.abc.Sequence[int], counts: " INT64 ", source_offsets: " INT64 ", "
                   "target_offsets: " INT64 ") -> None"))
      .def("read", &read_chunks, "out"_a, "sources"_a, "source_index"_a, "starts"_a, "stops"_a, "tile"_a, "check"_a, "piece_from"_a, "piece_to"_a,
           "piece_start"_a, "piece_stop"_a, "destination"_a,
           nb::sig("def read(self, out: " BUFFER ", sources: collections.abc.Sequence[" BUFFER " | int], source_index: " INT32 ", "
                   "starts: " INT64 ", stops: " INT64 ", tile: " INT32 ", check: " BUFFER ", piece_from: " INT64 ", piece_to: " INT64 ", "
                   "piece_start: " INT64 ", piece_stop: " INT64 ", destination: " INT64 ") -> list[tuple[int, str]]"),
           "Chunk i is bytes [starts[i], stops[i]) of `sources[source_index[i]]`.\n\n"
           "Args:\n"
           "    out: whole rows; overlaps no source.\n"
           "    sources: buffers, or descriptors of files.\n"
           "    source_index: int32, (n,).\n"
           "    starts, stops: int64, (n,).\n"
           "    tile: int32, (n,): which tile of its rows a chunk is.\n"
           "    check: n bytes: whether a chunk's crc32c is compared.\n"
           "    piece_from, piece_to: int64, (n,): pieces [piece_from[i], piece_to[i]) are of chunk i.\n"
           "    piece_start, piece_stop: int64, (m,): rows of the chunk.\n"
           "    destination: int64, (m,): the row of `out` where a piece begins.\n\n"
           "Returns:\n"
           "    Number and reason of each chunk that is damaged or cannot be read; its rows of `out` are unspecified.\n\n"
           "Raises:\n    ValueError: indices that do not fit; `out` is then untouched.");
#if defined(CHUNKSTORE_JPEG)
  m.def("jpeg_size", &jpeg_size, "data"_a, nb::sig("def jpeg_size(data: " BUFFER ") -> tuple[int, int, int]"),
        "(height, width, components) of a JPEG image, from its header. Only where built with libjpeg-turbo.\n\n"
        "Raises:\n    ValueError: no JPEG image.");
  m.def("jpeg_decode", &jpeg_decode, "data"_a, "out"_a,
        nb::sig("def jpeg_decode(data: " BUFFER ", out: " BUFFER ") -> None"),
        "Decodes a JPEG image into `out`. Only where built with libjpeg-turbo.\n\n"
        "Args:\n"
        "    data: one image; its Exif orientation is not applied.\n"
        "    out: uint8, C-contiguous; (height, width, 3) gets RGB, (height, width) gray.\n\n"
        "Raises:\n    ValueError: a damaged or CMYK image, or an `out` of another size.");
#endif
  m.def("build_info", &build_info, nb::sig("def build_info() -> dict[str, str | bool]"),
        "Versions of what is compiled in; False for what is not.");
}
