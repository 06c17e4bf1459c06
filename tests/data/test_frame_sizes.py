"""Clips that are not square, and clips of several sizes: cut, stored, and put into batches."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lumiere.curation.measurement import measure_video
from lumiere.data import clip_index, prepare
from lumiere.data.clips import ClipStore, batch_order, clip_order, epoch_length
from lumiere.data.extract import fit
from lumiere.data.frame_sizes import as_sizes, at_side, fitting_part, nearest, plain
from lumiere.data.window_choice import WindowSettings
from lumiere.errors import DataError
from lumiere.training.examples import StoredClips
from tests.video_factory import encode, numbered

SIZES = ((32, 32), (24, 40), (40, 24))
SETTINGS = WindowSettings(fps=16, num_frames=16, size=SIZES, clips_per_video=1)
SHAPES = {"square": (64, 64), "wide": (64, 128), "more": (64, 112), "tall": (112, 64)}


def test_sizes_are_named_scaled_and_chosen():
    assert as_sizes(128) == ((128, 128),)
    assert as_sizes([96, 160]) == ((96, 160),)
    assert as_sizes([[128, 128], [96, 160]]) == ((128, 128), (96, 160))
    assert (plain((64, 64)), plain([64, 96])) == (64, (64, 96))
    assert at_side([(128, 128), (96, 160)], 32) == ((32, 32), (24, 40))
    assert at_side([(96, 160)], 24) == ((24, 40),)
    with pytest.raises(ValueError, match=r"96 x 160 pixels become 32 x 53\.3333 at a"):
        at_side([(96, 160)], 32)
    for height, width, best in ((100, 100, 0), (90, 160, 1), (160, 90, 2), (100, 128, 0)):
        assert nearest(SIZES, height, width) == best
    assert nearest(((10, 20), (20, 10)), 15, 15) == 0  # equally near


def test_a_picture_is_cropped_to_the_shape_and_not_stretched():
    assert fitting_part((720, 1280), (24, 40)) == (720, 1200)
    assert fitting_part((1280, 720), (24, 40)) == (432, 720)
    assert fitting_part((481, 853), (9, 16)) == (480, 853)
    picture = np.zeros((72, 200, 3), np.uint8)
    picture[:, 40:160] = 200  # the middle of the shape 3 : 5
    for size in ((24, 40), (72, 120), (144, 240)):
        assert fit(picture, size).shape == (*size, 3) and (fit(picture, size) == 200).all()
    assert fit(picture, (72, 120)).base is None  # a view would keep the whole frame in memory


@pytest.fixture(scope="module")
def decoded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Decode videos of four shapes, each with the size that fits it."""
    folder = tmp_path_factory.mktemp("sizes")
    rows = []
    for i, (name, (height, width)) in enumerate(SHAPES.items()):
        frames = numbered(20, i, height=height, width=max(96, width))[:, :, :width]
        path = encode(folder / f"{name}.mp4", frames)
        measured = measure_video(folder, path.name, (), 27.0, folder / "measured")
        facts = {"width": measured.width, "height": measured.height, "sha256": measured.sha256}
        facts |= {"exact_start": "0", "exact_end": str(measured.duration), "captions": [""]}
        facts |= {"motion_curve": [], "crop": [], "decoder": "pyav", "split": "train"}
        rows.append({"clip_id": name, "video": path.name, **facts})
    files, failures = prepare.cut_all(rows, folder, SETTINGS, 1, 60.0, folder / "cut")
    assert not failures
    empty = {"": (np.zeros((2, 2), np.float16), np.ones(2, np.uint8))}
    text = {"text_encoder": "minilm", "embed_dim": 2, "max_text_tokens": 2}
    prepare.write_clips(folder / "clips", rows, files, failures, empty, SETTINGS, 3, **text)
    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(clip_index, "MOST_IN_JSON", 2)
        prepare.write_clips(folder / "many", rows, files, failures, empty, SETTINGS, 3, **text)
    return folder


@pytest.mark.parametrize("index", ["clips", "many"])
def test_each_clip_has_the_size_that_fits_it_and_a_shard_has_one(decoded, index):
    store = ClipStore(decoded / index)
    assert store.sizes == SIZES
    names = [clip.clip_id for clip in store]
    assert names == ["square@0", "wide@0", "more@0", "tall@0"]  # by size, then as in the manifest
    assert store.buckets == [0, 1, 1, 2]
    assert store.shards == ["train-00000.tar", *["train-00001.tar"] * 2, "train-00002.tar"]
    clips = StoredClips(store, 16)
    for i, bucket in enumerate(store.buckets):
        height, width = SIZES[bucket]
        assert store.frames(i).shape[1:3] == (height, width)
        assert clips.video(i).shape[2:] == (height // 2, width // 2)
    with pytest.raises(DataError, match=r"clips of 24 x 40 pixels become 10\.5 x 17\.5"):
        StoredClips(store, 14)
    assert ClipStore(decoded / index, "validation").buckets == []


def test_one_size_that_is_not_square(decoded, tmp_path):
    settings = replace(SETTINGS, size=(24, 40))
    row = {"clip_id": "tall", "video": "tall.mp4", "exact_start": "0", "exact_end": "1"}
    row |= {"motion_curve": [], "crop": [], "decoder": "pyav", "split": "train", "captions": [""]}
    row |= {"sha256": measure_video(decoded, "tall.mp4", (), 27.0, decoded / "measured").sha256}
    files, _ = prepare.cut_all([row], decoded, settings, 1, 60.0, tmp_path / "cut")
    empty = {"": (np.zeros((2, 2), np.float16), np.ones(2, np.uint8))}
    text = {"text_encoder": "minilm", "embed_dim": 2, "max_text_tokens": 2}
    prepare.write_clips(tmp_path / "clips", [row], files, {}, empty, settings, 3, **text)
    store = ClipStore(tmp_path / "clips")
    assert (store.sizes, store.buckets) == (((24, 40),), [0])
    assert store.frames(0).shape == (16, 24, 40, 3)


def test_every_batch_has_one_size_and_every_clip_comes():
    generator = np.random.default_rng(0)
    counts = {0: 37, 1: 5, 2: 2}
    buckets = [bucket for bucket, count in counts.items() for _ in range(count)]
    shards = [f"{bucket}-{i // 6}" for i, bucket in enumerate(buckets)]
    for batch_size in (1, 4, 8):
        length = epoch_length(buckets, batch_size)
        assert length == sum(-(-count // batch_size) * batch_size for count in counts.values())
        for epoch in range(3):
            seed = int(generator.integers(100))
            order = batch_order(shards, buckets, seed, epoch, 16, batch_size)
            assert len(order) == length and set(order) == set(range(len(buckets)))
            batches = np.asarray(buckets)[order].reshape(-1, batch_size)
            assert (batches == batches[:, :1]).all()
            again = batch_order(shards, buckets, seed, epoch, 16, batch_size)
            assert np.array_equal(order, again)
            other = batch_order(shards, buckets, seed, epoch + 1, 16, batch_size)
            assert not np.array_equal(order, other)
    # The sizes alternate, as the clips of all shards do.
    order = batch_order(shards, buckets, 0, 0, 44, 4)
    assert len(set(np.asarray(buckets)[order][:24].tolist())) > 1


def test_with_one_size_the_order_is_what_it_was():
    shards = [str(i // 3) for i in range(10)]
    assert epoch_length([0] * 10, 4) == 10 and epoch_length([], 4) == 0
    order = batch_order(shards, [0] * 10, 5, 2, 4, batch_size=4)
    assert np.array_equal(order, clip_order(shards, 5, 2, 4))
    assert np.array_equal(batch_order(shards, [2] * 10, 5, 2, 4, 4), order)
