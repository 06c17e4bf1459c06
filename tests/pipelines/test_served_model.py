"""The model in MLflow's registry answers a prompt with an mp4, without pickles."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Any

import pytest
from mlflow.exceptions import MlflowException

from lumiere.data.video_io import read_video
from lumiere.pipelines import LumierePipeline
from lumiere.tracking.model_registry import save_model


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
