"""A disk that gets full while a stage writes: one line that names the output, and nothing is learned twice."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from lumiere.models import SpaceTimeUNet
from tests.full_disk import full_disk
from tests.stages.conftest import run_stage
from tests.stages.test_errors import error_of


@pytest.mark.parametrize(
    ("stage", "values"),
    [("prepare_t2i", {"source": "outputs/t2i"}), ("blend_style", {}), ("generate", {})],
)
def test_weights_that_do_not_fit(
    stage: str,
    values: dict[str, Any],
    chain: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    paths = {"out": tmp_path / "out"} | (
        {"pipeline": tmp_path / "pipeline"} if stage == "generate" else {}
    )
    with full_disk():
        line = error_of(capfd, chain, stage, {stage: values}, **paths)
    assert all(str(path) in line for path in paths.values()), line
    assert (
        "cannot be written" in line
        and "File too large" in line
        and "make room and run the stage again" in line
    )


def test_a_training_whose_weights_do_not_fit_is_not_trained_again(
    chain: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    plain, out = SpaceTimeUNet.save_pretrained, tmp_path / "out"

    def without_room(*args: Any, **options: Any) -> None:
        with full_disk():
            plain(*args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SpaceTimeUNet, "save_pretrained", without_room)
        assert f"{out}: cannot be written" in error_of(capfd, chain, "train_base", out=out)
    run_stage(chain, "train_base", out=out)
    assert "train_base: resuming at step 3 of 3" in capfd.readouterr().out
    for name in ("temporal.safetensors", "text_to_image.safetensors", "train_base.json"):
        assert (out / name).read_bytes() == (chain / "outputs" / "base" / name).read_bytes()


def test_an_output_that_may_not_be_written_is_named(
    chain: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def refused(*args: Any, **options: Any) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(tmp_path / "out"))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stages.blend_style.save_file", refused)
        line = error_of(capfd, chain, "blend_style", out=tmp_path / "out")
    assert "Permission denied" in line and str(tmp_path / "out") in line
    assert "let this user read and write it" in line
