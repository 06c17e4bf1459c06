"""What a reviewer sees in MLflow's pages, in a headless Chromium."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lumiere import tracking
from lumiere.tracking import store
from tests.browser import browser
from tests.servers import free_port, listens, program, wait_for
from tests.video_factory import encode, numbered

PLAYS = """(() => {
    const video = document.querySelector('video');
    if (!video) return false;
    video.muted = true;
    video.play().catch(() => {});
    return video.currentTime > 0.2 && video.videoWidth == 96 && !video.error;
})()"""


def test_the_link_leads_to_runs_whose_videos_play(
    tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program("chromium")  # before the work
    (tmp_path / "p" / ".lumiere").mkdir(parents=True)
    shutil.copy(empty_store, tmp_path / "p" / ".lumiere")
    (tmp_path / "p" / "dvc.yaml").write_text("stages: {}\n")
    monkeypatch.chdir(tmp_path / "p")
    video = encode(tmp_path / "a fox.mp4", numbered(32, height=64, width=96))
    with tracking.pipeline_run(Path.cwd(), {"seed": 3}, "nightly of Tuesday") as pipeline:
        pipeline.describe("**Verdict:** the videos are far from real ones.")
        with tracking.stage_run("generate", {"steps": 20}) as run:
            run.log_metrics({"seconds": 1.5})
            run.log_artifact(video, "videos")
    port = free_port()
    words = [sys.executable, "-m", "lumiere.tracking.pages", "--port", str(port)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as pages:
        try:
            assert pages.stdout is not None
            line = pages.stdout.readline().decode()
            (link,) = re.findall(r"http://\S+", line)
            wait_for(lambda: listens(port))
            with browser(tmp_path / "profile") as page:
                page.open(link)
                page.wait_for_text("nightly of Tuesday")
                experiment = store.experiment_id(store.open_store(Path.cwd()), Path.cwd())
                runs = f"{link.partition('#')[0]}#/experiments/{experiment}/runs"
                page.open(f"{runs}/{pipeline.run_id}")
                page.wait_for_text("the videos are far from real ones.")
                page.open(f"{runs}/{run.run_id}/artifacts")
                page.click("videos")
                page.click("a fox.mp4")
                page.wait_for(PLAYS)
        finally:
            pages.terminate()
