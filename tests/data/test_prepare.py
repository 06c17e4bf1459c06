"""Windows and the folders they lie in."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lumiere.data import extract, prepare
from lumiere.data.extract import Source, WindowSettings, extract_windows
from lumiere.errors import LockError
from lumiere.files import content_hash
from tests.video_factory import encode, numbered

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = WindowSettings(fps=16, num_frames=16, size=32, clips_per_video=1)
NO_CAPTIONS = {"": (np.zeros((2, 2), np.float16), np.ones(2, np.uint8))}
HOLDER = """
import sys, time
from pathlib import Path
from lumiere.locks import own_folder
own_folder(Path(sys.argv[1]), 'another decoding')
print("here", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("folder", ["scratch", "clips"])
def test_a_second_decoding_is_refused_until_the_first_is_gone(tmp_path, folder):
    def decode() -> None:
        files, failures = prepare.cut_all([], tmp_path, SETTINGS, 1, 20.0, tmp_path / "scratch")
        prepare.write_clips(tmp_path / "clips", [], files, failures, NO_CAPTIONS, SETTINGS, 3)

    command = [sys.executable, "-c", HOLDER, str(tmp_path / folder)]
    other = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
    try:
        assert other.stdout is not None and other.stdout.readline()
        with pytest.raises(LockError, match=f"{folder}: another decoding is running"):
            decode()
    finally:
        other.kill()
        other.wait()
    decode()
    decode()  # the same process may go on


def test_changed_code_cuts_again(tmp_path, monkeypatch):
    path = encode(tmp_path / "a.mp4", numbered(20))
    source = Source(path, content_hash(path), 0.0, 1.25, "pyav")
    first = extract_windows(source, SETTINGS, tmp_path / "scratch")
    assert extract_windows(source, SETTINGS, tmp_path / "scratch") == first
    assert set(extract.CODE) > {
        "lumiere.data.extract",
        "lumiere.data.shards",
        "lumiere.data.video_io",
        "av",
    }
    monkeypatch.setitem(extract.CODE, "lumiere.data.video_io", "another")
    assert extract_windows(source, SETTINGS, tmp_path / "scratch") != first
