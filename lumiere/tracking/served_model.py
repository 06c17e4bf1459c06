"""The model in MLflow's registry: answers prompts with videos.

MLflow runs this file when it loads the model, so a version holds no pickle. Use it with
`mlflow.pyfunc.load_model`, or with `mlflow models serve`, which answers a POST to `/invocations`.
"""

import base64
import logging
import os
import secrets
import tempfile
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.exceptions import MlflowException

from lumiere.threads import set_threads
from lumiere.tracking.model_registry import COLUMNS

MAX_RANDOM_SEED = 2**31 - 1
# MLflow runs this file under another name.
logger = logging.getLogger("lumiere.tracking.served_model")


class VideoModel(mlflow.pyfunc.PythonModel):
    """Makes one mp4 for each row."""

    def load_context(self, context: Any) -> None:
        """Load the pipeline of the version, on a GPU if there is one."""
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        set_threads()
        import torch

        from lumiere.pipelines import LumierePipeline

        self.pipe = LumierePipeline.from_pretrained(context.artifacts["pipeline"])
        self.pipe.to("cuda" if torch.cuda.is_available() else "cpu")
        self.pipe.set_progress_bar_config(disable=True)

    def predict(self, context: Any, model_input: pd.DataFrame, params: Any = None) -> pd.DataFrame:
        """Make the videos.

        Args:
            context: unused.
            model_input: a row for each video; its columns are those of the model's signature.
            params: unused.

        Returns:
            A row for each video: `video_mp4`, the file in base64, and `seed`, which makes it again.

        Raises:
            MlflowException: if a row cannot be used; the scoring server answers with status 400.
        """
        return pd.DataFrame([self._answer(row) for row in model_input.to_dict("records")])

    def _answer(self, row: dict[Any, Any]) -> dict[str, Any]:
        from lumiere.data.pixel_values import from_unit_range
        from lumiere.data.video_io import write_video
        from lumiere.pipelines.run_request import check_request, complete_request, run_request
        from lumiere.requests import make_request

        # Files of this machine are no input: people who can send a prompt must not read them.
        values = {name: row[name] for name in COLUMNS if name in row and not pd.isna(row[name])}
        values.setdefault("seed", secrets.randbelow(MAX_RANDOM_SEED))
        try:
            request = make_request(values)
            pixels = check_request(self.pipe, request)
            for note in pixels.notes:
                logger.warning(note)
            request = complete_request(self.pipe, request, pixels.num_frames, int(values["seed"]))
            output = run_request(self.pipe, request, pixels.arguments)
        except ValueError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from error
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "video.mp4")
            write_video(path, from_unit_range(output.frames[0]), output.fps)
            content = base64.b64encode(path.read_bytes()).decode("ascii")
        return {"video_mp4": content, "seed": request.seed}


mlflow.models.set_model(VideoModel())
