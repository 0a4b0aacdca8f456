"""The demo's data are real, disjoint where they must be, and packed without loss."""

import io

import numpy as np
from PIL import Image

from chunkstore.stages.demo import data


def test_training_and_test_digits_share_no_sample_and_lose_none():
    train, test = data.split_digits()
    assert (len(train), len(test)) == (1438, 359)
    assert train.images.dtype == test.images.dtype == np.uint8
    bunch = data.load_digits()
    assert np.array_equal(test.images, bunch.images[4::5])
    rest = np.delete(bunch.images, np.s_[4::5], axis=0)
    assert np.array_equal(train.images, rest)
    assert set(test.labels) == set(range(10))


def test_moved_digits_keep_their_pixels_and_labels():
    image = np.arange(64, dtype=np.uint8).reshape(1, 8, 8)
    moved = data.shifted(data.Digits(image, np.array([3])))
    assert moved.labels.tolist() == [3, 3, 3, 3]
    up, down, left, right = moved.images
    assert np.array_equal(up[:-1], image[0, 1:])
    assert np.array_equal(down[1:], image[0, :-1])
    assert np.array_equal(left[:, :-1], image[0, :, 1:])
    assert np.array_equal(right[:, 1:], image[0, :, :-1])
    assert not up[-1].any()
    assert not right[:, 0].any()


def test_tiles_are_jpeg_images_with_captions_of_their_own():
    tiles = list(data.cut_tiles())
    assert len(tiles) == data.num_tiles() == 1702
    assert len({tile["caption"] for tile in tiles}) == len(tiles)
    with Image.open(io.BytesIO(tiles[0]["image"])) as image:
        assert (image.format, image.size) == ("JPEG", (64, 64))


def test_sources_are_of_the_standard_library():
    paths = [sample["path"] for sample in data.python_sources()]
    assert "json/decoder.py" in paths
    assert not any("site-packages" in path or "/test/" in path for path in paths)


def test_tokens_give_the_texts_back():
    texts = ["", "é" * 300, "print(1)\n" * 200]
    rows = data.pack_tokens(texts)
    assert rows.shape[1] == data.ROW
    stream = rows.ravel()
    ends = np.flatnonzero(stream == data.END_OF_FILE)[: len(texts)]
    starts = [0, *(ends[:-1] + 1)]
    assert [bytes(stream[a:b].astype(np.uint8)).decode() for a, b in zip(starts, ends, strict=True)] == texts
