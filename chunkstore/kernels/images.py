"""Encoded images: look at a header, decode to pixels, encode from pixels.

`check_image` runs on every encoded image that is written, so it parses headers and looks for the end marker, and
nothing else; it bounds the memory that decoding may take before anything is decoded. JPEG is decoded by libjpeg-turbo
in `_native` where the package was built with it, else by Pillow; PNG and WebP by Pillow, by the named format's own
decoder, never by what the bytes claim to be.

Pixels are as stored: an EXIF orientation is not applied, an animation gives its first frame. This module must never do
I/O, and never name a dataset, field or sample: it raises ValueError with what is wrong and the caller adds where.
Before it: `writing/encode` (check, encode); `reading/present` (decode).

Sources: ITU-T T.81 annex B; W3C PNG, third edition, section 5; RFC 9649 (WebP).
"""

import io
import struct
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from chunkstore import _native

if TYPE_CHECKING:
    from PIL import Image, ImageFile

Format: TypeAlias = Literal["jpeg", "png", "webp"]
Mode: TypeAlias = Literal["RGB", "L", "RGBA"]
Buffer: TypeAlias = bytes | bytearray | memoryview

MAX_PIXELS = 1 << 28

_CHANNELS = {"L": 1, "RGB": 3, "RGBA": 4}
_EXACTLY_TO = {"L": {"1"}, "RGB": {"1", "L", "P"}, "RGBA": {"1", "L", "P", "RGB", "LA", "PA"}}  # PIL's modes
_JPEG_DECODABLE = {0xC0, 0xC1, 0xC2, 0xC9, 0xCA}  # baseline, extended and progressive; Huffman and arithmetic
_JPEG_ARITHMETIC = {0xC9, 0xCA}  # whose symbols may take less than a bit
_JPEG_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # start of frame, in all its kinds
_JPEG_MAX_SEGMENTS = 10_000  # a hostile header must not hold the interpreter for long
_JPEG_ALONE = {0x01, *range(0xD0, 0xD8)}  # markers without a length
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"\0\0\0\0IEND\xae\x42\x60\x82"
_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_DEFLATE_RATIO = 1032  # zlib's best: a run of 258 bytes in two bits
_JPEG_RATIO = 2048  # pixels a byte: a block of 64 takes a bit of Huffman's, with room for any subsampling
_PNG_DEPTHS = {0: {1, 2, 4, 8, 16}, 2: {8, 16}, 3: {1, 2, 4, 8}, 4: {8, 16}, 6: {8, 16}}
# What Pillow raises for bytes that are no image: its decoders have no error class of their own.
_PILLOW_ERRORS = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, struct.error, zlib.error)


def check_image(data: Buffer, format: Format) -> tuple[int, int]:
    """Read the size from an encoded image's header, and see that the image is whole.

    Nothing is decoded: damage between header and end marker is not seen here.

    Args:
        data: The encoded image, contiguous.
        format: What it has to be.

    Returns:
        Height and width in pixels, each at least 1, their product at most 2^28.

    Raises:
        ValueError: It is no such image, cut short, too large, or of a kind that is not decoded.
    """
    if len(data) == 0:
        raise ValueError(f"not a {format} image: it is empty")
    with memoryview(data) as view, view.cast("B") as octets:
        height, width = _parser(format)(octets)
    if height < 1 or width < 1:
        raise ValueError(f"{format} header gives a size of {height} × {width} pixels")
    if height * width > MAX_PIXELS:
        raise ValueError(
            f"{format} header gives {height} × {width} pixels, more than the {MAX_PIXELS} that are decoded"
        )
    return height, width


def decode_image(data: Buffer, format: Format, mode: Mode) -> NDArray[np.uint8]:
    """Decode an encoded image.

    Sixteen-bit channels keep their upper eight bits. Transparency is dropped unless the mode is "RGBA".

    Args:
        data: The encoded image, contiguous.
        format: What it has to be.
        mode: "L" (for colour JPEG its luma as stored), "RGB" or "RGBA".

    Returns:
        uint8, (height, width) for "L", else (height, width, 3 or 4); new memory.

    Raises:
        ValueError: As `check_image`, or the pixels do not decode.
    """
    height, width = check_image(data, format)
    if mode not in _CHANNELS:
        raise ValueError(f"mode must be one of {', '.join(_CHANNELS)}, not {mode!r}")
    if format == "jpeg" and mode != "RGBA":
        pixels = _decode_jpeg_natively(data, mode, height, width)
        if pixels is not None:
            return pixels
    return _decode_with_pillow(data, format, mode, height, width)


def encode_image(
    image: "NDArray[np.uint8] | Image.Image", format: Format, mode: Mode, quality: int | None = None
) -> bytes:
    """Encode pixels.

    Args:
        image: uint8, (height, width) for mode "L", else (height, width, 3 or 4); or a PIL image of the mode, or of one
            that converts to it without loss: "1" and "L" to every mode, "P" to "RGBA", and without transparency to "RGB".
        format: "png" is lossless; "webp" is lossless when quality is None; "jpeg" never is.
        mode: What is stored; "RGBA" not in JPEG.
        quality: 1 to 100, for "jpeg" and for lossy "webp".

    Raises:
        ValueError: An array of another dtype or shape, a PIL image that would lose something, a size beyond the format, or a
            quality missing or out of range.
    """
    from PIL import Image

    _check_encoding(format, mode, quality)
    if isinstance(image, Image.Image):
        source = _converted_exactly(image, mode)
    else:
        pixels = np.asarray(image)
        shape = "(height, width)" if mode == "L" else f"(height, width, {_CHANNELS[mode]})"
        right = pixels.ndim == 2 if mode == "L" else pixels.ndim == 3 and pixels.shape[2] == _CHANNELS[mode]
        if pixels.dtype != np.uint8 or not right or pixels.size == 0:
            raise ValueError(f"an image of mode {mode} is uint8 {shape}, not {pixels.dtype} {pixels.shape}")
        source = Image.fromarray(np.ascontiguousarray(pixels))
    options: dict[str, Any] = {}
    if format == "jpeg":
        options = {"quality": quality}
    elif format == "webp":
        # exact: colours under full transparency are data too
        options = {"lossless": True, "exact": True} if quality is None else {"quality": quality}
    if source.width * source.height > MAX_PIXELS:
        raise ValueError(
            f"an image of {source.height} × {source.width} pixels is more than the {MAX_PIXELS} that are stored"
        )
    encoded = io.BytesIO()
    try:
        source.save(encoded, format.upper(), **options)
    except _PILLOW_ERRORS as error:
        raise ValueError(f"{source.height} × {source.width} {mode} does not encode as {format}: {error}") from error
    return encoded.getvalue()


def _check_encoding(format: Format, mode: Mode, quality: int | None) -> None:
    if format not in ("jpeg", "png", "webp"):
        raise ValueError(f"format must be jpeg, png or webp, not {format!r}")
    if mode not in _CHANNELS:
        raise ValueError(f"mode must be one of {', '.join(_CHANNELS)}, not {mode!r}")
    if format == "jpeg" and quality is None:
        raise ValueError('JPEG is lossy: pass quality= (1 to 100), or choose "png" to keep every pixel')
    if format == "jpeg" and mode == "RGBA":
        raise ValueError('JPEG has no transparency: use mode "RGB", or choose "png" or "webp"')
    if format == "png" and quality is not None:
        raise ValueError("PNG is lossless: it takes no quality")
    if quality is not None and not 1 <= quality <= 100:
        raise ValueError(f"quality must be 1 to 100, not {quality}")


def _parser(format: Format) -> Callable[[memoryview], tuple[int, int]]:
    if format == "jpeg":
        return _parse_jpeg
    if format == "png":
        return _parse_png
    if format == "webp":
        return _parse_webp
    raise ValueError(f"format must be jpeg, png or webp, not {format!r}")


def _parse_jpeg(octets: memoryview) -> tuple[int, int]:
    if bytes(octets[:3]) != b"\xff\xd8\xff":
        raise ValueError("not a jpeg image: it does not begin with FF D8 FF")
    size, scan = _walk_jpeg_header(octets)
    # In a scan FF is followed by 00 or a restart marker, so FF D9 after the first scan's header is the end.
    if bytes(octets[-2:]) != b"\xff\xd9" and b"\xff\xd9" not in octets[scan:].tobytes():
        raise ValueError("jpeg is cut short: it has no end marker FF D9")
    if scan >= len(octets) - 2:
        raise ValueError("jpeg has no pixels: it ends after its header")
    return size


def _walk_jpeg_header(octets: memoryview) -> tuple[tuple[int, int], int]:
    """Size from the frame header, and where the first scan's data begin."""
    size: tuple[int, int] | None = None
    position = 2
    for _ in range(_JPEG_MAX_SEGMENTS):
        if position + 4 > len(octets):
            raise ValueError("jpeg is cut short in its header")
        marker = octets[position + 1]
        if octets[position] != 0xFF or marker == 0xD9:
            raise ValueError(f"jpeg header is damaged at byte {position}")
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        if marker in _JPEG_ALONE:
            position += 2
            continue
        (length,) = struct.unpack_from(">H", octets, position + 2)
        if length < 2:
            raise ValueError(f"jpeg header is damaged at byte {position}: a segment of {length} bytes")
        if marker in _JPEG_FRAMES:
            size = _parse_jpeg_frame(octets, marker, position + 4, length)
        position += 2 + length
        if marker == 0xDA:
            if size is None:
                raise ValueError("jpeg has no frame header before its first scan")
            return size, position
    raise ValueError(f"jpeg header is damaged: more than {_JPEG_MAX_SEGMENTS} segments before the first scan")


def _parse_jpeg_frame(octets: memoryview, marker: int, start: int, length: int) -> tuple[int, int]:
    if length < 11 or start + 6 > len(octets):
        raise ValueError("jpeg is cut short in its frame header")
    precision, height, width, components = struct.unpack_from(">BHHB", octets, start)
    if marker not in _JPEG_DECODABLE or precision != 8:
        raise ValueError(f"jpeg of a kind that is not decoded (marker FF {marker:02X}, {precision} bits a channel)")
    if components not in (1, 3, 4):
        raise ValueError(f"jpeg of {components} channels is not decoded")
    if marker not in _JPEG_ARITHMETIC:
        _check_room("jpeg", height, width, _JPEG_RATIO * len(octets))
    return height, width


def _parse_png(octets: memoryview) -> tuple[int, int]:
    if bytes(octets[:8]) != _PNG_SIGNATURE:
        raise ValueError("not a png image: it does not begin with the PNG signature")
    if len(octets) < 33:
        raise ValueError("png is cut short in its header")
    length, name, width, height, depth, colour = struct.unpack_from(">I4sIIBB", octets, 8)
    (stored,) = struct.unpack_from(">I", octets, 29)
    if length != 13 or name != b"IHDR" or zlib.crc32(octets[12:29]) != stored:
        raise ValueError("png header is damaged: its IHDR chunk is wrong or fails its checksum")
    if depth not in _PNG_DEPTHS.get(colour, ()):
        raise ValueError(f"png header is damaged: colour type {colour} with {depth} bits")
    _check_room("png", height, width, _DEFLATE_RATIO * len(octets) * 8 // (depth * _PNG_CHANNELS[colour]))
    if bytes(octets[-12:]) != _PNG_END and _PNG_END not in octets[33:].tobytes():
        raise ValueError("png is cut short: it has no IEND chunk")
    return height, width


def _check_room(format: Format, height: int, width: int, most: int) -> None:
    """Refuse a size that the image has no bytes for: decoders allocate by it. One that is refused anyway is not judged here."""
    if most < height * width <= MAX_PIXELS:
        raise ValueError(f"{format} is cut short: its header gives {height} × {width} pixels, which it cannot hold")


def _parse_webp(octets: memoryview) -> tuple[int, int]:
    if bytes(octets[:4]) != b"RIFF" or bytes(octets[8:12]) != b"WEBP":
        raise ValueError("not a webp image: it does not begin with RIFF and WEBP")
    if len(octets) < 30:
        raise ValueError("webp is cut short in its header")
    (riff_nbytes,) = struct.unpack_from("<I", octets, 4)
    chunk, chunk_nbytes = struct.unpack_from("<4sI", octets, 12)
    if riff_nbytes + 8 > len(octets):
        raise ValueError(f"webp is cut short: {len(octets)} of {riff_nbytes + 8} bytes")
    if chunk_nbytes + 12 > riff_nbytes:
        raise ValueError("webp header is damaged: its first chunk is longer than the file")
    if chunk == b"VP8 ":
        if bytes(octets[23:26]) != b"\x9d\x01\x2a":
            raise ValueError("webp header is damaged: no VP8 start code")
        width, height = struct.unpack_from("<HH", octets, 26)
        return height & 0x3FFF, width & 0x3FFF
    if chunk == b"VP8L":
        if octets[20] != 0x2F:
            raise ValueError("webp header is damaged: no VP8L signature")
        (bits,) = struct.unpack_from("<I", octets, 21)
        return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1
    if chunk == b"VP8X":
        width = int.from_bytes(octets[24:27], "little") + 1
        return int.from_bytes(octets[27:30], "little") + 1, width
    raise ValueError(f"webp header is damaged: unknown first chunk {bytes(chunk)!r}")


def _decode_jpeg_natively(data: Buffer, mode: Mode, height: int, width: int) -> NDArray[np.uint8] | None:
    """Decode by libjpeg-turbo; None where the package lacks it, or where Pillow has to convert (CMYK)."""
    size, decode = getattr(_native, "jpeg_size", None), getattr(_native, "jpeg_decode", None)
    if size is None or decode is None or size(data)[2] == 4:
        return None
    pixels = np.empty((height, width) if mode == "L" else (height, width, 3), dtype=np.uint8)
    decode(data, pixels)
    return pixels


def _decode_with_pillow(data: Buffer, format: Format, mode: Mode, height: int, width: int) -> NDArray[np.uint8]:
    from PIL.Image import DecompressionBombError

    try:
        with _opened(io.BytesIO(data), format) as image:
            if image.size != (width, height):
                raise ValueError(
                    f"its header says {height} × {width} pixels and its data {image.height} × {image.width}"
                )
            if format == "jpeg" and mode == "L":
                image.draft("L", None)
            image.load()
            return np.array(_converted(image, mode))
    except (*_PILLOW_ERRORS, DecompressionBombError) as error:
        raise ValueError(f"{format} does not decode: {error}") from error


def _opened(file: io.BytesIO, format: Format) -> "ImageFile.ImageFile":
    """Open by one format's reader. `Image.open` would try every format and has a limit of its own (process-wide)."""
    if format == "jpeg":
        from PIL.JpegImagePlugin import JpegImageFile as Reader
    elif format == "png":
        from PIL.PngImagePlugin import PngImageFile as Reader  # type: ignore[assignment]
    else:
        from PIL.WebPImagePlugin import WebPImageFile as Reader  # type: ignore[assignment]
    return Reader(file)


def _converted_exactly(image: "Image.Image", mode: Mode) -> "Image.Image":
    """Convert where every pixel comes back; what loses colour, depth or transparency is the caller's to say."""
    exact = image.mode == mode or image.mode in _EXACTLY_TO[mode]
    if exact and not (mode not in ("RGBA", image.mode) and image.has_transparency_data):
        try:
            return image if image.mode == mode else image.convert(mode)
        except _PILLOW_ERRORS as error:
            raise ValueError(f"a PIL image of mode {image.mode} does not load: {error}") from error
    deep = ", which clips to 0–255: scale the pixels before" if image.mode[:1] in ("I", "F") else ""
    raise ValueError(
        f"a PIL image of mode {image.mode}{' with transparency' if image.has_transparency_data else ''} would change as it"
        f' becomes {mode}; if that is meant, give image.convert("{mode}"){deep}'
    )


def _converted(image: "Image.Image", mode: Mode) -> "Image.Image":
    from PIL import Image

    if image.mode.startswith("I"):  # sixteen bits of gray; Pillow's own conversion clips them
        image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info and mode != "RGBA":
        image = image.convert("RGBA")
    return image if image.mode == mode else image.convert(mode)
