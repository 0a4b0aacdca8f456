"""JPEG against Pillow; damage that libjpeg only warns of is an error. Skipped in builds without libjpeg-turbo."""

import io
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from chunkstore import _native

pytestmark = pytest.mark.skipif(not _native.build_info()["jpeg"], reason="built without libjpeg-turbo")


def picture(height, width, components=3):
    y, x = np.mgrid[0:height, 0:width]
    planes = [128 + 100 * np.sin(x / (5 + k) + y / (9 - k)) + 20 * np.cos(x * y / 97) for k in range(components)]
    pixels = np.clip(np.stack(planes, axis=-1), 0, 255).astype(np.uint8)
    return pixels[..., 0] if components == 1 else pixels


def jpeg(pixels, mode=None, **options):
    file = io.BytesIO()
    Image.fromarray(pixels, mode).save(file, "JPEG", **({"quality": 90} | options))
    return file.getvalue()


def by_pillow(data, mode):
    return np.asarray(Image.open(io.BytesIO(data)).convert(mode))


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("size", [(1, 1), (7, 5), (64, 48), (33, 129)])
def test_colour_images_match_pillow(progressive, subsampling, size):
    data = jpeg(picture(*size), progressive=progressive, subsampling=subsampling)
    assert _native.jpeg_size(data) == (*size, 3)
    out = np.zeros((*size, 3), np.uint8)
    _native.jpeg_decode(data, out)
    # Pillow may carry another release of libjpeg-turbo, whose rounding may differ by one.
    np.testing.assert_allclose(out.astype(int), by_pillow(data, "RGB").astype(int), atol=1)


def test_gray_images_match_pillow_and_spread_to_colour():
    data = jpeg(picture(40, 30, 1))
    assert _native.jpeg_size(data) == (40, 30, 1)
    gray = np.zeros((40, 30), np.uint8)
    colour = np.zeros((40, 30, 3), np.uint8)
    _native.jpeg_decode(data, gray)
    _native.jpeg_decode(data, colour)
    np.testing.assert_allclose(gray.astype(int), by_pillow(data, "L").astype(int), atol=1)
    np.testing.assert_array_equal(colour, np.repeat(gray[..., None], 3, axis=2))


def test_colour_images_give_their_luma_as_gray():
    data = jpeg(picture(40, 30))
    out = np.zeros((40, 30), np.uint8)
    _native.jpeg_decode(data, out)
    np.testing.assert_allclose(out.astype(int), by_pillow(data, "L").astype(int), atol=3)


def test_cmyk_images_have_a_size_and_are_refused():
    file = io.BytesIO()
    Image.new("CMYK", (8, 6)).save(file, "JPEG")
    assert _native.jpeg_size(file.getvalue()) == (6, 8, 4)
    with pytest.raises(ValueError, match="CMYK"):
        _native.jpeg_decode(file.getvalue(), np.zeros((6, 8, 3), np.uint8))


WRONG_OUTPUTS = {
    "transposed": np.zeros((30, 40, 3), np.uint8),
    "smaller": np.zeros((20, 30, 3), np.uint8),
    "larger": np.zeros((41, 30, 3), np.uint8),
    "four components": np.zeros((40, 30, 4), np.uint8),
    "flat": np.zeros(40 * 30 * 3, np.uint8),
    "int8": np.zeros((40, 30, 3), np.int8),
    "empty": np.zeros((0, 30, 3), np.uint8),
    "strided": np.zeros((80, 30, 3), np.uint8)[::2],
}


@pytest.mark.parametrize("case", WRONG_OUTPUTS)
def test_an_output_of_another_size_is_refused_untouched(case):
    out = WRONG_OUTPUTS[case]
    with pytest.raises(ValueError, match=r"out"):
        _native.jpeg_decode(jpeg(picture(40, 30)), out)
    assert not out.any()


@pytest.mark.parametrize("progressive", [False, True])
def test_an_image_cut_anywhere_is_refused(progressive):
    data = jpeg(picture(40, 30), progressive=progressive)
    out = np.zeros((40, 30, 3), np.uint8)
    for stop in range(len(data)):
        with pytest.raises(ValueError, match="jpeg"):
            _native.jpeg_decode(data[:stop], out)


@pytest.mark.parametrize("data", [b"", b"\xff", b"\xff\xd8", b"GIF89a", b"\x89PNG\r\n\x1a\n" + bytes(100), bytes(1000)])
def test_what_is_no_jpeg_is_refused(data):
    with pytest.raises(ValueError, match="jpeg"):
        _native.jpeg_size(data)
    with pytest.raises(ValueError, match="jpeg"):
        _native.jpeg_decode(data, np.zeros((4, 4, 3), np.uint8))


def test_an_image_of_many_scans_is_refused():
    """A few bytes a scan over a large image would cost a pass over its memory each."""
    data = jpeg(np.full((16, 16), 77, np.uint8), progressive=True)
    scan = data.rindex(b"\xff\xda")
    again = bytearray(data[scan:-2])
    # One component, its 63 AC coefficients, the last bit of each.
    assert (again[4], again[7:10]) == (1, b"\x01\x3f\x10")
    again[9] = 0x00  # all bits of each, which may follow any number of times
    few = data[:-2] + again * 100 + data[-2:]
    out = np.zeros((16, 16), np.uint8)
    _native.jpeg_decode(few, out)
    assert (out == 77).all()
    many = data[:-2] + again * 600 + data[-2:]
    with pytest.raises(ValueError, match="scans"):
        _native.jpeg_decode(many, out)


def test_a_header_that_claims_a_huge_image_is_refused_by_its_size():
    data = bytearray(jpeg(picture(40, 30)))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", 65500, 65500)
    assert _native.jpeg_size(data) == (65500, 65500, 3)
    with pytest.raises(ValueError, match="65500 x 65500"):
        _native.jpeg_decode(data, np.zeros((40, 30, 3), np.uint8))


@settings(max_examples=300)
@given(
    damage=st.lists(st.tuples(st.floats(0, 1), st.integers(1, 255)), min_size=1, max_size=5), progressive=st.booleans()
)
def test_flipped_bytes_never_write_outside(damage, progressive):
    data = bytearray(jpeg(picture(40, 30), progressive=progressive))
    for place, mask in damage:
        data[min(int(place * len(data)), len(data) - 1)] ^= mask
    nbytes = 40 * 30 * 3
    memory = np.full(nbytes + 128, 0xA5, np.uint8)
    try:
        _native.jpeg_decode(data, memory[64 : 64 + nbytes].reshape(40, 30, 3))
    except ValueError as error:
        assert str(error).startswith("jpeg: ")
    assert (memory[:64] == 0xA5).all()
    assert (memory[64 + nbytes :] == 0xA5).all()


def test_bytes_after_the_image_do_no_harm():
    data = jpeg(picture(8, 8))
    one, other = np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8, 3), np.uint8)
    _native.jpeg_decode(data, one)
    _native.jpeg_decode(data + bytes(100), other)
    np.testing.assert_array_equal(one, other)
