"""The model in MLflow's registry answers a prompt with an mp4, without pickles."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import psutil
import pytest
from mlflow.exceptions import MlflowException

from lumiere.data.video_io import read_video
from lumiere.diffusion.objective import make_scheduler
from lumiere.models import SpaceTimeUNet
from lumiere.pipelines import LumierePipeline
from lumiere.text import load_text_encoder
from lumiere.tracking.model_registry import save_model
from tests.pipelines.conftest import text_to_image_unet


@pytest.fixture
def saved(tmp_path: Path, pipe: LumierePipeline) -> Path:
    pipe.register_to_config(num_inference_steps=2, ssr_steps=1)
    pipe.save_pretrained(tmp_path / "pipeline")
    save_model(tmp_path / "model", tmp_path / "pipeline")
    return tmp_path / "model"


@pytest.fixture
def model(saved: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    import mlflow

    monkeypatch.setenv("LUMIERE_NUM_THREADS", os.environ.get("OMP_NUM_THREADS", "2"))
    monkeypatch.setenv("OMP_NUM_THREADS", "2")  # the model sets it
    return mlflow.pyfunc.load_model(str(saved))


def test_it_holds_neither_pickles_nor_bytecode(saved: Path) -> None:
    suffixes = {path.suffix for path in saved.rglob("*") if path.is_file()}
    assert ".py" in suffixes and suffixes.isdisjoint({".pkl", ".pickle", ".bin", ".pt", ".pyc"})


def test_a_prompt_becomes_a_video_that_can_be_made_again(model: Any, tmp_path: Path) -> None:
    assert model.metadata.signature.inputs.required_input_names() == ["prompt"]
    answer = model.predict([{"prompt": "a red fox"}])
    again = model.predict([{"prompt": "a red fox", "seed": int(answer["seed"][0])}])
    assert list(answer.columns) == ["video_mp4", "seed"]
    assert answer["video_mp4"][0] == again["video_mp4"][0]
    (tmp_path / "fox.mp4").write_bytes(base64.b64decode(answer["video_mp4"][0]))
    assert read_video(tmp_path / "fox.mp4").shape == (5, 32, 32, 3)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": " "}, "the prompt is empty"),
        ({"prompt": "a fox", "steps": 0}, "steps is 0; allowed: whole numbers, 1 to"),
        ({"prompt": "a fox", "motion": -1.0}, "motion is -1.0; allowed: 0 to"),
        ({"prompt": "a fox", "style": "../other"}, "style"),
        ({"seed": 1}, "prompt"),
    ],
)
def test_a_bad_request_is_an_error_of_the_client(
    model: Any, row: dict[str, Any], message: str
) -> None:
    with pytest.raises(MlflowException, match=message) as raised:
        model.predict([row])
    assert raised.value.get_http_status_code() == 400


def test_notes_on_a_request_are_logged(model: Any, caplog: pytest.LogCaptureFixture) -> None:
    model.predict([{"prompt": "a fox", "motion": 2.0, "steps": 1}])
    (record,) = [record for record in caplog.records if "motion" in record.message]
    assert record.message.startswith("motion 2 has no effect, because ")
    assert record.message.endswith("take more steps") and record.levelname == "WARNING"


def test_no_file_of_the_server_is_an_input(model: Any, tmp_path: Path) -> None:
    plain = model.predict([{"prompt": "a fox", "seed": 1}])
    with_file = model.predict([{"prompt": "a fox", "seed": 1, "image": str(tmp_path / "a.png")}])
    assert plain["video_mp4"][0] == with_file["video_mp4"][0]


def test_a_server_answers_a_prompt_with_an_mp4(tmp_path: Path) -> None:
    # The server is a program of its own, which does not know the encoder of these tests.
    encoder = load_text_encoder("minilm", 6)
    unet = SpaceTimeUNet.from_unet2d(text_to_image_unet(encoder.embed_dim), temporal_head_dim=8)
    pipe = LumierePipeline(unet.eval(), make_scheduler(), encoder, num_frames=5)
    pipe.register_to_config(num_inference_steps=2)
    pipe.save_pretrained(tmp_path / "pipeline")
    saved = tmp_path / "model"
    save_model(saved, tmp_path / "pipeline")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", str(saved)]
    command += [
        "--env-manager",
        "local",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--workers",
        "1",
    ]
    env = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(command, cwd=tmp_path, env=env, stdout=log, stderr=log)
    root = psutil.Process(server.pid)
    try:
        deadline = time.monotonic() + 180
        while not answers(f"http://127.0.0.1:{port}/ping"):
            assert server.poll() is None and time.monotonic() < deadline, (
                tmp_path / "log"
            ).read_text()
            time.sleep(0.2)
        rows = [{"prompt": "a red fox", "seed": 1}]
        (answer,) = post(port, rows)["predictions"]
        with pytest.raises(urllib.error.HTTPError, match="400"):
            post(port, [{"prompt": " "}])
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in [*root.children(recursive=True), root]:
                process.kill()
        server.wait()
    assert answer["seed"] == 1
    (tmp_path / "fox.mp4").write_bytes(base64.b64decode(answer["video_mp4"]))
    assert read_video(tmp_path / "fox.mp4").shape == (5, 16, 16, 3)


def answers(address: str) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=5):
        return True
    return False


def post(port: int, rows: list[dict[str, Any]]) -> Any:
    """Ask as the page for reviewers does with curl."""
    body = json.dumps({"dataframe_records": rows}).encode()
    kind = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"http://127.0.0.1:{port}/invocations", body, kind)
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.load(answer)
