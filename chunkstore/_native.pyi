"""
Codecs, checksums and row copies in C++: what touches every byte, and the interpreter never.

Every function releases the GIL while it works. Wrong input is a ValueError with the reason; nothing is read or
written out of bounds. Knows no store, no Zarr metadata and no chunk grid: chunkstore.kernels stands before it.
"""

from collections.abc import Sequence
from typing import Any

import numpy
import numpy.typing
from typing_extensions import Buffer


def crc32(data: Buffer | numpy.typing.NDArray[Any], value: int = 0) -> int:
    """
    The crc32 of zlib of a C-contiguous buffer; `value` is the crc of the bytes before it.
    """

def crc32c(data: Buffer | numpy.typing.NDArray[Any], value: int = 0) -> int:
    """
    The crc32c of a C-contiguous buffer; `value` is the crc of the bytes before it.
    """

def crc32c_table(data: Buffer | numpy.typing.NDArray[Any], value: int = 0) -> int:
    """`crc32c` by its portable implementation: slower, there for tests."""

def crc32c_spans(out: numpy.typing.NDArray[numpy.uint32], data: Buffer | numpy.typing.NDArray[Any], starts: numpy.typing.NDArray[numpy.int64], stops: numpy.typing.NDArray[numpy.int64]) -> None:
    """
    The crc32c of bytes [starts[i], stops[i]) of `data` becomes `out[i]`.

    Args:
        out: uint32, shape (n,).
        data: any C-contiguous buffer.
        starts, stops: int64, shape (n,).

    Raises:
        ValueError: lengths that differ, or a span that leaves `data`; `out` is then untouched.
    """

def blosc_decompress(data: Buffer | numpy.typing.NDArray[Any], out: Buffer | numpy.typing.NDArray[Any]) -> None:
    """
    Decodes one blosc1 frame into `out`, which is exactly as long as the frame says.

    Raises:
        ValueError: a damaged frame, one of blosc2, or an `out` of another length.
    """

def zstd_decompress(data: Buffer | numpy.typing.NDArray[Any], out: Buffer | numpy.typing.NDArray[Any]) -> None:
    """
    Decodes zstd frames into `out`, which is exactly as long as what they hold.

    Raises:
        ValueError: damaged frames, or an `out` of another length.
    """

def gather_rows(out: Buffer | numpy.typing.NDArray[Any], sources: Sequence[Buffer | numpy.typing.NDArray[Any]], source_index: numpy.typing.NDArray[numpy.int32], row_index: numpy.typing.NDArray[numpy.int64]) -> None:
    """
    Row i of `out` becomes row `row_index[i]` of `sources[source_index[i]]`.

    Args:
        out: n rows of out.nbytes / n bytes each; overlaps no source.
        sources: buffers, each a whole number of such rows.
        source_index: int32, shape (n,).
        row_index: int64, shape (n,).

    Raises:
        ValueError: lengths that do not fit, or an index out of range; `out` is then untouched.
    """

def gather_spans(out: Buffer | numpy.typing.NDArray[Any], sources: Sequence[Buffer | numpy.typing.NDArray[Any]], source_index: numpy.typing.NDArray[numpy.int32], starts: numpy.typing.NDArray[numpy.int64], stops: numpy.typing.NDArray[numpy.int64]) -> None:
    """
    Bytes [starts[i], stops[i]) of `sources[source_index[i]]`, one after another, become `out`.

    Args:
        out: as many bytes as all spans together; overlaps no source.
        sources: buffers.
        source_index: int32, shape (n,).
        starts, stops: int64, shape (n,).

    Raises:
        ValueError: lengths that do not add up, or a span out of range; `out` is then untouched.
    """

def value_range(values: Buffer | numpy.typing.NDArray[Any]) -> tuple[int, int, int, int | float, int | float, float]:
    """
    How many numbers are NaN, +inf and -inf; and the smallest, the largest and the mean of the others.

    Args:
        values: integers, float32 or float64 in native order, C-contiguous.

    Smallest, largest and mean are 0 where no number is finite; the mean is not finite where the sum leaves float64.

    Raises:
        ValueError: another type.
    """

def histogram(values: Buffer | numpy.typing.NDArray[Any], mean: float, exponent: int, first_bin: float) -> tuple[list[int], float]:
    """
    Finite numbers in each of 64 bins [i·2^exponent, (i+1)·2^exponent), i from `first_bin`, and the sum of their squared
    distances from `mean`. A number in none of these bins is left out of both.

    Raises:
        ValueError: another type than `value_range` takes, or bins that no numbers have.
    """

class ChunkReader:
    """
    Reads many stored chunks of one array, and copies the wanted rows of each to where they go.

    Args:
        compression: "", "blosc" or "zstd".
        has_crc32c: whether stored chunks end in their crc32c.
        chunk_rows, chunk_row_nbytes: rows of a decoded chunk, and the bytes of one.
        out_row_nbytes: of a row of the output.
        item_nbytes: of a number.
        source_strides, target_strides: bytes from one wanted number to the next along each axis of a row, in a chunk and in the
            output.
        counts: int64, (tiles · axes,): how many numbers along each axis a tile of the row has.
        source_offsets, target_offsets: int64, (tiles,): where they begin in a row, in bytes.

    Raises:
        ValueError: a tile that leaves a row.
    """

    def __init__(self, compression: str, has_crc32c: bool, chunk_rows: int, chunk_row_nbytes: int, out_row_nbytes: int, item_nbytes: int, source_strides: Sequence[int], target_strides: Sequence[int], counts: numpy.typing.NDArray[numpy.int64], source_offsets: numpy.typing.NDArray[numpy.int64], target_offsets: numpy.typing.NDArray[numpy.int64]) -> None: ...

    def read(self, out: Buffer | numpy.typing.NDArray[Any], sources: Sequence[Buffer | numpy.typing.NDArray[Any] | int], source_index: numpy.typing.NDArray[numpy.int32], starts: numpy.typing.NDArray[numpy.int64], stops: numpy.typing.NDArray[numpy.int64], tile: numpy.typing.NDArray[numpy.int32], check: Buffer | numpy.typing.NDArray[Any], piece_from: numpy.typing.NDArray[numpy.int64], piece_to: numpy.typing.NDArray[numpy.int64], piece_start: numpy.typing.NDArray[numpy.int64], piece_stop: numpy.typing.NDArray[numpy.int64], destination: numpy.typing.NDArray[numpy.int64]) -> list[tuple[int, str]]:
        """
        Chunk i is bytes [starts[i], stops[i]) of `sources[source_index[i]]`.

        Args:
            out: whole rows; overlaps no source.
            sources: buffers, or descriptors of files.
            source_index: int32, (n,).
            starts, stops: int64, (n,).
            tile: int32, (n,): which tile of its rows a chunk is.
            check: n bytes: whether a chunk's crc32c is compared.
            piece_from, piece_to: int64, (n,): pieces [piece_from[i], piece_to[i]) are of chunk i.
            piece_start, piece_stop: int64, (m,): rows of the chunk.
            destination: int64, (m,): the row of `out` where a piece begins.

        Returns:
            Number and reason of each chunk that is damaged or cannot be read; its rows of `out` are unspecified.

        Raises:
            ValueError: indices that do not fit; `out` is then untouched.
        """

def jpeg_size(data: Buffer | numpy.typing.NDArray[Any]) -> tuple[int, int, int]:
    """
    (height, width, components) of a JPEG image, from its header. Only where built with libjpeg-turbo.

    Raises:
        ValueError: no JPEG image.
    """

def jpeg_decode(data: Buffer | numpy.typing.NDArray[Any], out: Buffer | numpy.typing.NDArray[Any]) -> None:
    """
    Decodes a JPEG image into `out`. Only where built with libjpeg-turbo.

    Args:
        data: one image; its Exif orientation is not applied.
        out: uint8, C-contiguous; (height, width, 3) gets RGB, (height, width) gray.

    Raises:
        ValueError: a damaged or CMYK image, or an `out` of another size.
    """

def build_info() -> dict[str, str | bool]:
    """Versions of what is compiled in; False for what is not."""
