"""Requests: one set of checks, one CSV form and one JSON form for every way to ask for a video."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lumiere.data.video_formats import WRITERS
from lumiere.errors import DataError
from lumiere.modes import MODES, go_together, infer_mode
from lumiere.pipelines.sample_videos import read_videos
from lumiere.requests import Box, Request, change_request, make_request, read_rows, sidecar
from lumiere.requests.request import FILE_NAME
from tests.conftest import REPOSITORY

HERE = __file__  # a file that exists
REQUESTS: list[dict[str, Any]] = [
    {"prompt": "a fox"},
    {"prompt": "a fox", "image": HERE, "last_image": HERE, "strength": "0.5"},
    {"prompt": "a fox", "video": HERE, "mask": "0.1,0.2,0.30000001,1"},
    {"prompt": "a fox", "video": HERE, "mask": "0.00001,0,1,1"},
    {"prompt": "a fox", "video": HERE, "mask": HERE, "keep_known": "yes", "upscale": "no"},
    {"prompt": "a fox", "clip": "fox@0", "mode": "cinemagraph", "mask": "0,0,1,0.5", "seed": "7"},
    {"prompt": "ein Fuchs, müde", "style": "ink", "alpha": 0.25, "num_videos": 3, "name": "fuchs"},
    {"prompt": "a fox", "frames": 5, "steps": 3, "guidance": "2.5", "negative_prompt": "a cat"},
    {"prompt": "a fox", "motion": "0", "smoothing": 0.5},
]


def test_requests_need_no_torch() -> None:
    code = "import sys, lumiere.requests; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "diffusers", "av", "PIL"} & set(done.stdout.split())


@pytest.mark.parametrize("values", REQUESTS)
def test_the_json_form_is_the_inverse_of_reading_it(values: dict[str, Any]) -> None:
    request = make_request(values)
    assert make_request(request.as_values()) == request
    again, left_out = change_request(sidecar(request, {"size": [32, 32]}), {})
    assert again == Request(**{**vars(request), "name": ""}) and left_out == []


def test_the_csv_form_says_what_the_json_form_says(tmp_path: Path) -> None:
    path = tmp_path / "prompts.csv"
    columns = list(make_request(REQUESTS[0]).as_values())
    lines = [",".join(columns)]
    for number, values in enumerate(REQUESTS):
        cells = {**values, "name": f"row-{number}"}
        lines.append(",".join(f'"{cells.get(column, "")}"' for column in columns))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    for number, (row, values) in enumerate(zip(read_rows(path), REQUESTS, strict=True)):
        assert row.request == make_request({**values, "name": f"row-{number}"}), row.problem


def test_a_sentence_in_a_column_of_files_is_the_problem_of_its_row(tmp_path: Path) -> None:
    path = tmp_path / "prompts.csv"
    path.write_text(f"prompt,image\na fox,{'a long sentence ' * 20}\na cat,\nfox.mp4,\n", "utf-8")
    too_long, fine, file_name = read_rows(path)
    assert "File name too long" in too_long.problem
    assert fine.request is not None
    assert "looks like a file" in file_name.problem


def test_the_prompts_of_the_repository_are_in_this_form() -> None:
    rows = read_rows(REPOSITORY / "data" / "prompts.csv")
    assert {row.request.mode for row in rows if row.request} == MODES.keys() - {"outpainting"}
    assert all(row.request for row in rows)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"clip": "fox@0"}, "clip fox@0 can be a picture or a video; name the mode"),
        ({"clip": "fox@0", "mode": "text_to_video"}, "mode text_to_video takes no clip"),
        (
            {"clip": "fox@0", "mode": "inpainting", "video": HERE, "mask": "0,0,1,1"},
            "clip and video are two sources of pixels; give one of them",
        ),
        ({"clip": "fox@0", "mode": "inpainting"}, "takes video and mask; given: video"),
        ({"mode": "text-to-video"}, "mode is 'text-to-video'; allowed: text_to_video"),
        ({"video": HERE, "mask": "0.5,0,0.5,1"}, "with 0 <= x0 < x1 <= 1"),
        ({"name": "../fox"}, "name '../fox'; allowed: letters, digits, '.', '_', '-'"),
        ({"name": "x" * 151}, "at most 150 of them, the first a letter or a digit"),
        ({"colour": "red"}, "no field 'colour'; allowed: prompt, name, "),
    ],
)
def test_values_that_make_no_request(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as error:
        make_request({"prompt": "a fox", **values})
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("changes", "mode", "left_out"),
    [
        ({"mode": "outpainting"}, "outpainting", ["mask"]),
        ({"mask": ""}, "video_to_video", []),
        ({"clip": "cat@0"}, "inpainting", []),
        ({"image": HERE}, "image_to_video", ["clip", "mask", "frames"]),
        ({"video": HERE}, "inpainting", ["clip", "frames"]),
        ({"mode": "text_to_video"}, "text_to_video", ["clip", "mask", "frames"]),
        ({"mode": "image_to_video"}, "image_to_video", ["mask", "frames"]),
    ],
)
def test_a_clip_gives_way_to_other_sources(
    changes: dict[str, Any], mode: str, left_out: list[str]
) -> None:
    request = make_request(
        {"prompt": "a", "clip": "fox@0", "mode": "inpainting", "mask": "0,0,1,0.5", "frames": 8}
    )
    changed, names = change_request(sidecar(request, {}), changes)
    assert (changed.mode, sorted(names)) == (mode, sorted(left_out))
    assert changed.clip == (None if "clip" in left_out else changes.get("clip", "fox@0"))


def test_sources_go_together_if_a_request_takes_both() -> None:
    values = {"image": HERE, "last_image": HERE, "video": HERE, "mask": "0,0,1,0.5", "clip": "x@0"}
    accepted: set[frozenset[str]] = set()
    for mode, names in itertools.product(MODES, _subsets(values)):
        with suppress(ValueError):
            make_request({"prompt": "a", "mode": mode, **{name: values[name] for name in names}})
            accepted |= {frozenset(pair) for pair in itertools.combinations(names, 2)}
    for pair in itertools.combinations(values, 2):
        assert go_together(*pair) == go_together(*reversed(pair)) == (frozenset(pair) in accepted)


def _subsets(names: Iterable[str]) -> list[tuple[str, ...]]:
    members = list(names)
    sizes = range(len(members) + 1)
    return [subset for size in sizes for subset in itertools.combinations(members, size)]


def test_every_mode_but_outpainting_is_inferred() -> None:
    for mode, parts in MODES.items():
        inputs = {name: 1 if name in parts else None for name in ("image", "video", "mask")}
        expected = "video_to_video" if mode == "outpainting" else mode
        assert infer_mode(None, **inputs) == expected and infer_mode(mode, **inputs) == mode


def test_a_box_is_painted_in_whole_pixels() -> None:
    mask = Box(0.5, 0, 1, 0.26).paint(4, 6)
    assert mask.dtype == np.uint8 and np.argwhere(mask == 255).tolist() == [[0, 3], [0, 4], [0, 5]]
    assert mask.sum() == 3 * 255
    with pytest.raises(ValueError, match="no pixel of 6 x 4 lies in it; make the box larger"):
        Box(0, 0, 0.01, 1).paint(4, 6)


def test_a_row_of_several_videos_becomes_several_requests(tmp_path: Path) -> None:
    path = tmp_path / "prompts.csv"
    path.write_text("name,prompt,num_videos,seed\na,a cat,2,5\nb,a dog,,\n", encoding="utf-8")
    videos = read_videos(path, seed=3)
    assert {name: (line, request.seed) for name, (line, request) in videos.items()} == {
        "a-1": (2, 5),
        "a-2": (2, 6),
        "b": (3, 3),
    }
    for names in ("a-2", "index"):
        path.write_text(f"name,prompt,num_videos\na,a cat,2\n{names},a dog,\n", encoding="utf-8")
        with pytest.raises(ValueError, match=f"line 3: the name '{names}' is taken; choose"):
            read_videos(path, seed=3)


def test_names_of_files_are_known_by_all_suffixes_that_are_written() -> None:
    assert all(FILE_NAME.fullmatch(f"fox{suffix}") for suffix in (*WRITERS, ".png"))


def test_no_prompt_overwrites_a_file_of_the_stage(tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.csv"
    prompts.write_text("name,prompt\nseams,a cat\nt2v_set,a dog\nsets,a fox\n")
    assert list(read_videos(prompts, 0)) == ["seams", "t2v_set", "sets"]  # nothing has these names
    prompts.write_text("name,prompt\nindex,a cat\n")
    with pytest.raises(DataError, match=r"line 2: the name 'index' is taken; choose another"):
        read_videos(prompts, 0)
