"""Encoded images: sizes from headers, pixels as Pillow gives them, and hostile bytes refused."""

import io
import struct
import time
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from chunkstore.kernels import images
from chunkstore.kernels.images import MAX_PIXELS, check_image, decode_image, encode_image

FORMATS = ["jpeg", "png", "webp"]
MODES = ["RGB", "L", "RGBA"]


def picture(height: int, width: int, channels: int | None, seed: int = 0) -> np.ndarray:
    """A smooth picture with some noise, as photographs have."""
    y, x = np.mgrid[0:height, 0:width].astype(float)
    planes = [128 + 100 * np.sin(x / (7 + c)) * np.cos(y / (11 + c)) for c in range(channels or 1)]
    noise = np.random.default_rng(seed).normal(0, 4, (height, width, channels or 1))
    pixels = np.clip(np.stack(planes, axis=-1) + noise, 0, 255).astype(np.uint8)
    return pixels if channels else pixels[..., 0]


def saved(image: Image.Image, format: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def channels_of(mode: str) -> int | None:
    return {"RGB": 3, "L": None, "RGBA": 4}[mode]


@given(
    format=st.sampled_from(["png", "webp"]),
    mode=st.sampled_from(MODES),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_lossless_formats_give_every_pixel_back(format, mode, height, width, seed):
    rng = np.random.default_rng(seed)
    shape = (height, width) if mode == "L" else (height, width, channels_of(mode))
    pixels = rng.integers(0, 256, shape, dtype=np.uint8)
    data = encode_image(pixels, format, mode)
    assert check_image(data, format) == (height, width)
    np.testing.assert_array_equal(decode_image(data, format, mode), pixels)


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (37, 53), (480, 640)])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"optimize": True}])
def test_jpeg_decodes_as_pillow_does(mode, height, width, options):
    data = saved(Image.fromarray(picture(height, width, channels_of(mode))), "JPEG", quality=90, **options)
    assert check_image(data, "jpeg") == (height, width)
    np.testing.assert_array_equal(decode_image(data, "jpeg", mode), np.asarray(Image.open(io.BytesIO(data))))


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_native_and_pillow_jpeg_are_the_same_to_the_bit(mode, monkeypatch):
    if not hasattr(images._native, "jpeg_decode"):
        pytest.skip("built without libjpeg-turbo")
    data = saved(Image.fromarray(picture(123, 321, 3)), "JPEG", quality=85)
    native = decode_image(data, "jpeg", mode)
    monkeypatch.setattr(images, "_native", None)
    np.testing.assert_array_equal(native, decode_image(data, "jpeg", mode))


def test_cmyk_jpeg_is_converted_as_pillow_converts_it():
    image = Image.fromarray(picture(20, 30, 3)).convert("CMYK")
    data = saved(image, "JPEG", quality=95)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    np.testing.assert_array_equal(decode_image(data, "jpeg", "RGB"), expected)


@pytest.mark.parametrize("quality", [10, 90])
def test_lossy_quality_is_obeyed(quality):
    pixels = picture(64, 64, 3)
    for format in ("jpeg", "webp"):
        data = encode_image(pixels, format, "RGB", quality)
        assert data == saved(Image.fromarray(pixels), format.upper(), quality=quality)


def pil_image(mode: str) -> Image.Image:
    if mode.endswith("+transparency"):
        image = pil_image(mode.removesuffix("+transparency"))
        image.info["transparency"] = 0
        return image
    colour = Image.fromarray(picture(9, 8, 3))
    if mode == "P":
        return colour.quantize(16)
    if mode == "I;16":
        return Image.fromarray(np.full((9, 8), 40_000, np.uint16))
    return colour.convert("RGBA").convert(mode) if mode in ("LA", "PA") else colour.convert(mode)


@pytest.mark.parametrize(
    ("given_mode", "mode"),
    [("1", "L"), ("1", "RGB"), ("L", "RGB"), ("P", "RGB"), ("RGB", "RGB"), ("L", "L"), ("RGBA", "RGBA"), ("1", "RGBA"),
     ("P", "RGBA"), ("P+transparency", "RGBA"), ("RGB", "RGBA"), ("L", "RGBA"), ("LA", "RGBA")],
)  # fmt: skip
def test_pil_images_are_converted_where_nothing_is_lost(given_mode, mode):
    image = pil_image(given_mode)
    pixels = decode_image(encode_image(image, "png", mode), "png", mode)
    np.testing.assert_array_equal(pixels, np.asarray(image.convert(mode)))


@pytest.mark.parametrize(
    ("given_mode", "mode"),
    [("RGBA", "RGB"), ("RGBA", "L"), ("RGB", "L"), ("P", "L"), ("LA", "L"), ("LA", "RGB"), ("P+transparency", "RGB"),
     ("L+transparency", "RGB"), ("PA", "RGB"), ("CMYK", "RGB"), ("YCbCr", "RGB"), ("HSV", "RGB"), ("I", "L"), ("I;16", "L"),
     ("F", "L"), ("F", "RGB"), ("CMYK", "RGBA")],
)  # fmt: skip
def test_pil_images_that_would_lose_something_are_refused_with_what_to_call(given_mode, mode):
    image = pil_image(given_mode)
    told = rf"PIL image of mode {image.mode}.* would change as it becomes {mode}; .*image\.convert\(\"{mode}\"\)"
    with pytest.raises(ValueError, match=told) as caught:
        encode_image(image, "png", mode)
    assert ("scale the pixels" in str(caught.value)) == (image.mode[0] in "IF")


def test_a_pil_image_cut_short_is_refused():
    data = saved(Image.fromarray(picture(64, 64, 1)[..., 0]), "PNG")
    with pytest.raises(ValueError, match=r"does not load|does not encode"):
        encode_image(Image.open(io.BytesIO(data[: len(data) // 2])), "png", "RGB")


def test_colours_under_full_transparency_survive_lossless_webp():
    pixels = picture(16, 16, 4)
    pixels[..., 3] = 0
    np.testing.assert_array_equal(decode_image(encode_image(pixels, "webp", "RGBA"), "webp", "RGBA"), pixels)


def test_sixteen_bit_png_keeps_its_upper_eight_bits():
    deep = (np.arange(256, dtype=np.uint16).reshape(16, 16) * 257) ^ 0x0055
    data = saved(Image.fromarray(deep), "PNG")
    np.testing.assert_array_equal(decode_image(data, "png", "L"), (deep >> 8).astype(np.uint8))
    assert decode_image(data, "png", "RGB").shape == (16, 16, 3)


def test_palette_png_with_transparency_decodes_in_every_mode():
    image = Image.fromarray(picture(16, 16, 3)).quantize(16)
    data = saved(image, "PNG", transparency=bytes(range(16)))
    for mode in MODES:
        assert decode_image(data, "png", mode).shape[:2] == (16, 16)


@pytest.mark.parametrize("kind", [bytearray, memoryview, lambda data: np.frombuffer(data, np.uint8).data])
@pytest.mark.parametrize("format", FORMATS)
def test_any_buffer_is_taken(format, kind):
    data = encode_image(picture(8, 8, 3), format, "RGB", 90 if format == "jpeg" else None)
    np.testing.assert_array_equal(decode_image(kind(data), format, "RGB"), decode_image(data, format, "RGB"))


@pytest.mark.parametrize("format", FORMATS)
def test_every_truncation_is_refused_by_the_check(format):
    data = encode_image(picture(24, 24, 3), format, "RGB", 80 if format != "png" else None)
    for stop in range(len(data)):
        with pytest.raises(ValueError, match=format):
            check_image(data[:stop], format)


def test_truncation_is_seen_although_a_thumbnail_in_the_header_has_an_end_marker():
    thumbnail = saved(Image.fromarray(picture(8, 8, 3)), "JPEG")
    data = saved(Image.fromarray(picture(64, 64, 3)), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0" + thumbnail)
    assert check_image(data, "jpeg") == (64, 64)
    with pytest.raises(ValueError, match="cut short"):
        check_image(data[:-20], "jpeg")


@pytest.mark.parametrize("format", FORMATS)
def test_bytes_after_the_end_are_harmless(format):
    data = encode_image(picture(24, 25, 3), format, "RGB", 80 if format != "png" else None)
    assert check_image(data + b"\0\0padding", format) == (24, 25)


@pytest.mark.parametrize("format", FORMATS)
def test_another_format_is_refused_by_name(format):
    for other in FORMATS:
        if other != format:
            with pytest.raises(ValueError, match=f"not a {format} image"):
                check_image(encode_image(picture(8, 8, 3), other, "RGB", 90 if other == "jpeg" else None), format)
    with pytest.raises(ValueError, match="empty"):
        check_image(b"", format)


def png_claiming(height: int, width: int) -> bytes:
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    head = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return head + b"\0\0\0\0IEND\xae\x42\x60\x82"


def jpeg_claiming(height: int, width: int) -> bytes:
    data = bytearray(saved(Image.fromarray(picture(8, 8, 3)), "JPEG"))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def webp_claiming(height: int, width: int) -> bytes:
    data = bytearray(encode_image(picture(8, 8, 4), "webp", "RGBA", 50))
    assert data[12:16] == b"VP8X"
    data[24:30] = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "format"),
    [
        (png_claiming(1 << 14, (1 << 14) + 1), "png"),
        (png_claiming((1 << 31) - 1, (1 << 31) - 1), "png"),
        (jpeg_claiming(65535, 65535), "jpeg"),
        (webp_claiming(1 << 24, 1 << 24), "webp"),
    ],
)
def test_bombs_are_refused_before_decoding(data, format):
    with pytest.raises(ValueError, match=f"more than the {MAX_PIXELS}"):
        decode_image(data, format, "RGB")


@pytest.mark.parametrize(
    ("data", "format"),
    [(png_claiming(0, 5), "png"), (jpeg_claiming(0, 8), "jpeg"), (jpeg_claiming(8, 0), "jpeg")],
)
def test_sizes_of_zero_are_refused(data, format):
    with pytest.raises(ValueError, match="size of"):
        check_image(data, format)


def test_a_header_that_contradicts_its_data_does_not_decode():
    with pytest.raises(ValueError, match="webp does not decode"):
        decode_image(webp_claiming(9, 9), "webp", "RGB")
    with pytest.raises(ValueError, match="png does not decode"):
        decode_image(png_claiming(9, 9), "png", "RGB")


@pytest.mark.parametrize("filler", [b"\xff", b"\xff\x01", b"\xff\xe0\x00\x02"])
def test_an_endless_header_is_refused_quickly(filler):
    started = time.process_time()
    with pytest.raises(ValueError, match="segments"):
        check_image(b"\xff\xd8\xff" + filler * 4_000_000 + b"\xff\xd9", "jpeg")
    assert time.process_time() - started < 0.5


@given(
    format=st.sampled_from(FORMATS),
    changes=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=6),
)
@settings(max_examples=400, deadline=None)
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_damaged_images_decode_to_the_checked_size_or_raise_value_error(format, changes):
    data = bytearray(encode_image(picture(16, 16, 3), format, "RGB", 80 if format == "jpeg" else None))
    for position, value in changes:
        data[position % min(len(data), 700)] = value
    try:
        size = check_image(data, format)
        pixels = decode_image(data, format, "RGB") if size[0] * size[1] < 1 << 20 else None
    except ValueError:
        return
    if pixels is not None:
        assert pixels.shape == (*size, 3)


@given(st.sampled_from(FORMATS), st.binary(max_size=200))
@settings(deadline=None)
def test_noise_behind_a_right_beginning_is_a_value_error(format, noise):
    start = {"jpeg": b"\xff\xd8\xff", "png": b"\x89PNG\r\n\x1a\n", "webp": b"RIFF\x80\0\0\0WEBPVP8X"}[format]
    try:
        check_image(start + noise, format)
    except ValueError as error:
        assert format in str(error)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("jpeg", "RGB", None), 'pass quality= .* or choose "png"'),
        (("jpeg", "RGBA", 90), "no transparency"),
        (("png", "RGB", 90), "lossless"),
        (("jpeg", "RGB", 0), "1 to 100"),
        (("gif", "RGB", None), "format must be"),
        (("png", "CMYK", None), "mode must be"),
        (("png", "L", None), r"uint8 \(height, width\), not uint8 \(8, 8, 3\)"),
        (("webp", "RGBA", None), r"\(height, width, 4\)"),
    ],
)
def test_what_cannot_be_encoded_is_said(arguments, complaint):
    with pytest.raises(ValueError, match=complaint):
        encode_image(picture(8, 8, 3), *arguments)


def test_arrays_of_other_dtypes_or_without_pixels_are_refused():
    for pixels in (np.zeros((8, 8, 3)), np.zeros((0, 8, 3), np.uint8), np.zeros((8, 8, 3), np.uint16)):
        with pytest.raises(ValueError, match="an image of mode RGB is uint8"):
            encode_image(pixels, "png", "RGB")


def test_sizes_that_webp_and_jpeg_cannot_hold_are_refused():
    with pytest.raises(ValueError, match="does not encode as webp"):
        encode_image(np.zeros((1, 20_000, 3), np.uint8), "webp", "RGB")
    with pytest.raises(ValueError, match="does not encode as jpeg"):
        encode_image(np.zeros((1, 70_000, 3), np.uint8), "jpeg", "RGB", 90)
