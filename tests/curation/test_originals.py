"""Of the copies of a clip the original is kept, with the captions of all of them."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from lumiere.config import CurateConfig
from lumiere.curation.captions import Caption
from lumiere.curation.html_report import write_page
from lumiere.curation.manifest import DUPLICATE_OF, MIRRORED, describe_duplicate, kept_clip
from lumiere.curation.manifest_report import write_report
from lumiere.curation.measurement import measure_video
from lumiere.curation.originals import find_original, note_differences, take_captions
from lumiere.curation.verdicts import decide
from lumiere.data.video_io import read_video
from tests.video_factory import encode

HEIGHT, WIDTH, COUNT = 112, 160, 32
ROWS = {"start": 0.0, "end": 2.0, "width": 320, "height": 180}


def detailed() -> np.ndarray:
    """Frames of a camera with some noise that pans over discs of all sizes, as in nature."""
    generator = np.random.default_rng(0)
    picture = np.full((160, 260, 3), 128, np.uint8)
    for _ in range(3000):
        radius = int(min(30, 1.5 * generator.random() ** -0.7))
        colour = generator.integers(20, 236) + generator.integers(-20, 20, 3)
        centre = int(generator.integers(0, 260)), int(generator.integers(0, 160))
        cv2.circle(picture, centre, radius, colour.tolist(), -1, cv2.LINE_AA)
    noise = generator.normal(0, 2, (COUNT, HEIGHT, WIDTH, 1))
    frames = [
        picture[10 + i // 4 : 10 + i // 4 + HEIGHT, 3 * i // 2 : 3 * i // 2 + WIDTH]
        for i in range(COUNT)
    ]
    return np.clip(np.stack(frames) + noise, 0, 255).astype(np.uint8)


def scaled(frames: np.ndarray, factor: float) -> np.ndarray:
    way = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    size = round(WIDTH * factor), round(HEIGHT * factor)
    return np.stack([cv2.resize(frame, size, interpolation=way) for frame in frames])


def measured(path: Path) -> dict[str, Any]:
    """The columns of a clip by which originals are told."""
    video = measure_video(path.parent, path.name, (), 200.0, path.parent / "s")
    size = {"width": video.width, "height": video.height, "start": 0.0}
    return size | {
        "clip_id": path.stem,
        "end": float(video.duration),
        "sharpness": video.segments[0].sharpness,
        "bitrate": 8 * video.num_bytes / float(video.duration),
    }


@pytest.mark.parametrize("crf", [16, 18, 20])
def test_no_copy_beats_its_original_whatever_its_bitrate_and_size(tmp_path, crf):
    original = encode(tmp_path / "z-original.mp4", detailed(), crf=str(crf), threads="1")
    frames, kept = read_video(original), measured(original)
    copies = [(1.0, other) for other in (4, crf, crf + 4, 26, 38)]
    if crf == 18:
        copies += [(0.5, 8), (0.75, 23), (1.5, 8), (2.0, 30)]
    rows = [kept]
    for factor, other in copies:
        name = f"a-{factor}-{other}.mp4"
        copy = encode(tmp_path / name, scaled(frames, factor), crf=str(other), threads="1")
        rows.append(measured(copy))
        assert find_original([kept, rows[-1]]) is kept, name
    assert find_original(rows) is find_original(rows[::-1]) is kept
    bits = [row["bitrate"] for row in rows if row["width"] == WIDTH]
    assert max(bits) > 2 * kept["bitrate"] > 4 * min(bits)


@pytest.mark.parametrize(
    ("original", "copy"),
    [
        # In pairs: (width, sharpness, bitrate).
        ((320, 1000, 5e5), (320, 970, 3e5)),  # encoded again with less loss than the eye sees
        ((320, 1000, 5e5), (320, 1003, 2e6)),  # at four times the bits
        ((320, 1000, 5e5), (320, 990, 6e5)),
        ((320, 1000, 5e5), (320, 990, 5e5)),
        ((320, 1000, 5e5), (320, 1100, 3e5)),  # coarse steps, whose noise looks like detail
        ((640, 1000, 2e6), (320, 2500, 2e6)),  # half as large, and sharper for it
        ((320, 1000, 5e5), (640, 150, 3e6)),  # enlarged
        ((320, 1000, 5e5), (160, 1000, 9e6)),
    ],
)  # fmt: skip
def test_pixels_count_first_then_detail_and_bits_for_nothing_do_not(original, copy):
    one, other = (
        ROWS | {"clip_id": name, "width": width, "height": width // 2} | dict(sharpness=sharp, bitrate=bits)
        for name, (width, sharp, bits) in {"z": original, "a": copy}.items()
    )  # fmt: skip
    assert find_original([one, other]) is find_original([other, one]) is one


def decided(tmp_path: Path, videos: dict[str, np.ndarray], captions: dict[str, list[Caption]]):
    """The rows of videos with captions, by name."""
    outcomes = {}
    for i, (name, frames) in enumerate(videos.items()):
        # The macroblock tree of x264 gives other bytes each time on some processors.
        options = {"crf": str(12 + 8 * i), "threads": "1", "x264-params": "mbtree=0"}
        encode(tmp_path / f"{name}.mp4", frames, **options)
        outcomes[f"{name}.mp4"] = measure_video(tmp_path, f"{name}.mp4", (), 200.0, tmp_path / "s")
    own = {f"{name}.mp4": captions[name] for name in videos}
    rows, _ = decide(outcomes, own, CurateConfig(min_motion=0.0, max_hash_distance=40))
    return {row["clip_id"]: row for row in rows}


def test_the_original_takes_the_captions_of_its_duplicates(tmp_path):
    frames = detailed()
    captions = {
        "z": [Caption("one", others={"by": "ann"}), Caption("two")],
        "c": [Caption("two", others={"by": "bob"}), Caption("four")],
        "b": [Caption("three", others={"by": "eve"}), Caption("one")],
    }
    rows = decided(tmp_path, dict.fromkeys(captions, frames), captions)
    kept = rows["z"]
    assert kept["captions"] == ["one", "two", "three", "four"]
    assert kept["by"] == ["ann", "", "eve", ""]
    assert kept["notes"] == [
        "by of b.mp4, a duplicate: eve; of this video: ann",
        "by of c.mp4, a duplicate: bob; of this video: ann",
        "captions of b.mp4, a duplicate",
        "captions of c.mp4, a duplicate",
    ]
    for name in "bc":
        assert (rows[name]["reason"], rows[name]["detail"]) == ("duplicate", f"{DUPLICATE_OF}z.mp4")
        assert rows[name]["captions"] == [caption.text for caption in captions[name]]


CC, NONE = {"licence": "CC BY 4.0"}, {"licence": ""}
# captions of the clip that is kept and of its duplicate, and what the kept one's note says
LICENCES = {
    "one caption, no licence": (
        [Caption("one", others=NONE)], [Caption("one", others=CC)], "CC BY 4.0; of this video: none",
    ),
    "another caption": (
        [Caption("one", others=NONE)], [Caption("two", others=CC)], "CC BY 4.0; of this video: none",
    ),
    "another licence": (
        [Caption("one", others={"licence": "all rights reserved"})], [Caption("one", others=CC)],
        "CC BY 4.0; of this video: all rights reserved",
    ),
    "the same licence": ([Caption("one", others=CC)], [Caption("two", others=CC)], ""),
    "no licence of the duplicate": ([Caption("one", others=CC)], [Caption("one", others=NONE)], ""),
}  # fmt: skip


@pytest.mark.parametrize("kind", LICENCES)
def test_a_licence_of_a_duplicate_is_named_and_not_taken(kind):
    """A licence belongs to a file: that of a copy may not hold for its original."""
    own, others, said = LICENCES[kind]
    best, copy = (
        {
            "clip_id": video.removesuffix(".mp4"),
            "video": video,
            "notes": [],
            "captions": [caption.text for caption in captions],
            "licence": [caption.others["licence"] for caption in captions],
        }
        for video, captions in (("z.mp4", own), ("a.mp4", others))
    )
    note_differences(best, [copy])
    assert best["notes"] == ([f"licence of a.mp4, a duplicate: {said}"] if said else [])
    take_captions(best, copy)
    assert best["licence"][0] == own[0].others["licence"], "its own caption keeps its own licence"


def nearly_symmetric() -> np.ndarray:
    """A clip whose mirror image counts as its duplicate, although it is not the same."""
    half = detailed()[:, :, : WIDTH // 2].astype(np.float32)
    tilt = np.linspace(-8, 8, WIDTH)[None, None, :, None]
    both = np.concatenate([half, half[:, :, ::-1]], axis=2) + tilt
    return np.clip(both, 0, 255).astype(np.uint8)


def test_captions_of_a_mirrored_duplicate_are_not_taken(tmp_path):
    frames = nearly_symmetric()
    videos = {"z": frames, "a": frames[:, :, ::-1].copy()}
    captions = {
        "z": [Caption("to the left", others=NONE)],
        "a": [Caption("to the right", others=CC)],
    }
    rows = decided(tmp_path, videos, captions)
    note = "licence of a.mp4, a duplicate: CC BY 4.0; of this video: none"
    assert (rows["z"]["captions"], rows["z"]["licence"]) == (["to the left"], [""])
    assert rows["z"]["notes"] == [note]
    detail = rows["a"]["detail"]
    assert detail == f"{DUPLICATE_OF}z.mp4{MIRRORED}"
    assert kept_clip(detail) == "z.mp4"
    assert describe_duplicate(detail) == (
        "It shows the same as z.mp4, which is kept; mirrored, so its captions are not taken over."
    )
    content = list(rows.values())
    pictures = {name: np.zeros((4, 64, 64, 3), np.uint8) for name in rows}
    write_report(tmp_path, content, pictures, 0.1)
    write_page(tmp_path / "report.html", content, pictures, CurateConfig())
    assert note in (tmp_path / "report.md").read_text().split("## Rejected")[1]
    assert f"<br><small>{note}</small>" in (tmp_path / "report.html").read_text()


def test_captions_of_a_model_and_of_people_are_not_mixed():
    best = {"captions": ["a boat"], "captioner": "", "notes": [], "caption_match": 0.3}
    copy = {"captions": ["a ship"], "captioner": "blip", "caption_match": 0.2}
    copy |= {"clip_id": "b", "video": "b"}
    take_captions(best, copy)
    assert best["captions"] == ["a boat"]
    take_captions(best, copy | {"captioner": ""})
    assert best["captions"] == ["a boat", "a ship"] and best["caption_match"] == 0.2


def test_each_clip_shows_the_licence_of_its_own_duplicate(tmp_path):
    """Two shots of one file may be copies of two shots of another, under two licences."""
    other = 255 - detailed()[:, ::-1, ::-1]
    frames, cut = np.concatenate([detailed(), other]), COUNT // 16
    spans = {"CC0": (Fraction(0), Fraction(cut)), "GPL": (Fraction(cut), Fraction(2 * cut))}
    captions = {
        "a": [Caption(text, span, others=NONE) for text, span in zip("xy", spans.values(), strict=True)],
        "king of b": [Caption("x", spans["CC0"], others={"licence": "all rights reserved"})],
        "b": [
            Caption(text, span, others={"licence": licence})
            for text, (licence, span) in zip("xy", spans.items(), strict=True)
        ],
    }  # fmt: skip
    names = list(captions)
    for i, name in enumerate(names):
        encode(tmp_path / f"{name}.mp4", frames, crf=str(12 + 8 * i), threads="1")
    found = {
        f"{name}.mp4": measure_video(
            tmp_path, f"{name}.mp4", tuple(spans.values()), 27.0, tmp_path / "s"
        )
        for name in names
    }
    own = {f"{name}.mp4": captions[name] for name in names}
    rows, pictures = decide(found, own, CurateConfig(min_motion=0.0, max_hash_distance=40))
    table = {row["clip_id"]: row for row in rows}
    assert [table[name]["verdict"] for name in ("a#0", "a#1")] == ["accepted"] * 2
    assert [table[name]["detail"] for name in ("b#0", "b#1", "king of b#0")] == [
        f"{DUPLICATE_OF}a.mp4#0", f"{DUPLICATE_OF}a.mp4#1", f"{DUPLICATE_OF}a.mp4#0",
    ]  # fmt: skip
    noted = {
        "b#0": "licence of b.mp4#0, a duplicate: CC0; of this video: none",
        "b#1": "licence of b.mp4#1, a duplicate: GPL; of this video: none",
        "king of b#0": "licence of king of b.mp4#0, a duplicate: all rights reserved; of this video: none",
    }  # fmt: skip
    write_report(tmp_path, rows, pictures, 0.1)
    write_page(tmp_path / "report.html", rows, pictures, CurateConfig())
    lines = (tmp_path / "report.md").read_text().splitlines()
    blocks = (tmp_path / "report.html").read_text().split('<div class="group">')[1:]
    for clip_id, note in noted.items():
        name, kept = f"{clip_id.replace('#', '.mp4#')}", f"a.mp4#{clip_id[-1]}"
        (line,) = (line for line in lines if line.startswith(f"| {clip_id} | `duplicate`"))
        assert line.endswith(
            f'| It shows the same as {kept}, which is kept. Its notes say: "{note}". |'
        )
        (block,) = (block for block in blocks if f"<figcaption>{name}<" in block)
        assert f"<figcaption>{kept}<" in block
        assert [other for other in noted.values() if f"<small>{other}<" in block] == [note]
