"""What the judge's training says about bad input."""

from __future__ import annotations

from pathlib import Path

import pytest

from lumiere.errors import DataError
from lumiere.evaluation.train_judge import read_captions
from tests import forked


def test_a_missing_folder_of_videos_is_named_in_one_line(tmp_path: Path) -> None:
    captions = tmp_path / "captions.csv"
    names = [f"{number}.mp4" for number in range(20)]
    rows = [f"{name},a red ball" for name in names]
    captions.write_text("\n".join(["video,caption", *rows]), encoding="utf-8")
    raw = tmp_path / "missing"
    command = ["lumiere.evaluation.train_judge", "--raw", str(raw)]
    command += ["--captions", str(captions), "--out", str(tmp_path / "judge")]
    said = forked.start(command, tmp_path / "said.txt").wait(expected=1)
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and str(raw) in errors[0]
    assert "Traceback" not in said


def test_captions_without_their_columns_are_named(tmp_path: Path) -> None:
    path = tmp_path / "captions.csv"
    path.write_text("file,text\na.mp4,a red ball\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"captions\.csv.*video, caption"):
        read_captions(path)
