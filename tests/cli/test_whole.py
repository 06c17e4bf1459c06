"""What stood in a place before, or what is new, whole: whatever stops a run, and wherever."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lumiere.cli.staging import staging, swap
from lumiere.cli.targets import target_of
from tests.cli.conftest import Generate, names_in

NAMES = ["fox.webm", "fox/", "fox-%d.png"]


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in names_in(folder)}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("stop", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_stop_at_any_rename_leaves_the_old_whole(
    generate: Generate,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    stop: BaseException,
) -> None:
    assert generate("a fox", "-o", name, "--no-upscale", "--sheet", "--frames", "3").exit_code == 0
    before, original, calls = contents(tmp_path), os.replace, []
    fatal = 0

    def stops(*arguments: Any, **options: Any) -> None:
        calls.append(arguments)
        if len(calls) == fatal:
            raise stop
        original(*arguments, **options)

    monkeypatch.setattr(os, "replace", stops)
    while True:
        fatal += 1
        calls.clear()
        result = generate("a cat", "-o", name, "--no-upscale", "--frames", "2", "--sheet")
        if result.exit_code == 0:
            break
        assert result.exit_code == (130 if isinstance(stop, KeyboardInterrupt) else 2), (
            result.output
        )
        assert contents(tmp_path) == before
    assert len(calls) == (4 if "%" in name else 3)  # the video, the contact sheet and the settings
    assert json.loads((tmp_path / "fox.json").read_text())["prompt"] == "a cat"
    assert len(names_in(tmp_path)) == (3 if name == "fox.webm" else 4)


@pytest.mark.parametrize("fatal", [1, 2, 3])
def test_a_killed_run_leaves_no_settings_beside_another_video(tmp_path: Path, fatal: int) -> None:
    video, settings = tmp_path / "fox.mp4", tmp_path / "fox.json"
    video.write_text("old")
    settings.write_text("old")
    child = os.fork()
    if child == 0:
        calls = []

        def killed(original: Any) -> Any:
            def call(*arguments: Any) -> None:
                calls.append(arguments)
                if len(calls) == fatal:
                    os.kill(os.getpid(), signal.SIGKILL)
                original(*arguments)

            return call

        os.rename, os.replace = killed(os.rename), killed(os.replace)
        with staging(tmp_path) as aside:
            (aside / "fox.mp4").write_text("new")
            (aside / "fox.json").write_text("new")
            swap(
                [(None, settings), (aside / "fox.mp4", video), (aside / "fox.json", settings)],
                aside,
            )
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert video.read_text() == ("new" if fatal == 3 else "old")
    assert not settings.exists() or settings.read_text() == video.read_text()


def test_all_videos_of_a_run_or_none(
    generate: Generate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = os.replace

    def full(source: Any, place: Any) -> None:
        if str(place).endswith("fox-2.mp4"):
            raise OSError(28, "No space left on device")
        original(source, place)

    monkeypatch.setattr(os, "replace", full)
    result = generate("a fox", "-o", "new/fox.mp4", "--num-videos", "2")
    assert result.exit_code == 2 and result.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_a_contact_sheet_of_the_former_video_goes(generate: Generate, tmp_path: Path) -> None:
    generate("a fox", "-o", "fox.gif", "--sheet")
    generate("a cat", "-o", "fox.gif")
    assert names_in(tmp_path) == ["fox.gif", "fox.json"]


def test_a_folder_of_others_is_left_alone(generate: Generate, tmp_path: Path) -> None:
    assert generate("a fox", "-o", "fox/").exit_code == 0
    Path("fox/notes.txt").write_text("mine")
    before = contents(tmp_path)
    result = generate("a cat", "-o", "fox/")
    assert result.exit_code == 2
    assert (
        "has files that lumiere did not write, such as notes.txt; name a new folder with -o, or"
        in result.stderr
    )
    assert contents(tmp_path) == before
    Path("link").symlink_to("fox")
    assert "link is a link; name the folder itself" in generate("a cat", "-o", "link/").stderr


@pytest.mark.parametrize("output", [".", "..", "/", "./", "deep/../"])
def test_where_one_stands_is_no_name(generate: Generate, tmp_path: Path, output: str) -> None:
    result = generate("a fox", "-o", output)
    assert (
        result.exit_code == 2
        and f"-o {output}: a name is missing; name a file, such as " in result.stderr
    )
    assert list(tmp_path.iterdir()) == []


def test_sigterm_ends_a_run_like_ctrl_c(
    generate: Generate, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import lumiere.cli.writing

    def terminated(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(lumiere.cli.writing, "swap", terminated)
    handler = signal.getsignal(signal.SIGTERM)
    result = generate("a fox", "-o", "new/fox.mp4")
    assert (
        result.exit_code == 130
        and result.stderr.splitlines()[-1] == "stopped; nothing is half-written"
    )
    assert list(tmp_path.iterdir()) == [] and signal.getsignal(signal.SIGTERM) == handler


def test_work_goes_on_if_nobody_reads_the_paths_of_the_videos() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    code = "from lumiere.cli.generate import show; show('fox.mp4'); show('cat.mp4'); print('end')"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, check=False, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", ["a.webm", "a.gif", "a.webp", "a/", "a-%d.png"])
def test_a_writer_tells_of_a_full_disk(tmp_path: Path, name: str) -> None:
    """/dev/full takes every file and refuses every byte."""
    aside = tmp_path / "aside"
    aside.mkdir()
    target = target_of(f"{tmp_path}/{name}")
    for file in target.files(2):
        (aside / file.name).symlink_to("/dev/full")
    # Above the size of FFmpeg's buffer, and of Python's.
    frames = np.random.default_rng(0).integers(0, 255, (2, 256, 256, 3), dtype=np.uint8)
    with pytest.raises(OSError, match="No space left"):
        target.stage(aside, frames, 8)
