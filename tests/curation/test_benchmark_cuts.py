"""The benchmark of cuts goes on if a folder also holds files that are no videos."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks import cuts
from tests.curation.test_scores import textured
from tests.video_factory import encode


def test_files_that_are_no_videos_are_named(tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setattr(cuts, "labelled_set", lambda count: {})
    monkeypatch.setattr(cuts, "PER_KIND", 1)
    (tmp_path / "notes.txt").write_text("no video")
    (tmp_path / "empty.mp4").touch()

    def run(folder: Path) -> tuple[str, str]:
        monkeypatch.setattr(sys, "argv", ["cuts", str(folder)])
        with pytest.raises(SystemExit):
            cuts.main()
        return capsys.readouterr()

    encode(tmp_path / "a.mp4", textured(2, 30))
    errors = run(tmp_path).err
    assert "left out: notes.txt: " in errors and "left out: empty.mp4: " in errors
    assert "two stretches of 24 frames without a cut; its clips have 1" in errors
    assert "nothing: no such folder" in run(tmp_path / "nothing").err
    encode(tmp_path / "b.mp4", 255 - textured(3, 30))
    monkeypatch.setattr(sys, "argv", ["cuts", str(tmp_path)])
    cuts.main()
    assert "| joins of real clips | videos |" in capsys.readouterr().out
