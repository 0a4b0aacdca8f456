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
