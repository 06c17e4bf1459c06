"""Makes the videos of a prompts file, for the `generate` stage."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from lumiere.data.pixel_values import from_unit_range
from lumiere.errors import DataError
from lumiere.pipelines.input_files import Clips, hash_inputs
from lumiere.pipelines.pipeline_lumiere import LumierePipeline
from lumiere.pipelines.run_request import (
    check_request,
    complete_request,
    describe_output,
    run_request,
)
from lumiere.requests import Request, read_rows, sidecar
from lumiere.sample_files import RESERVED_NAMES, Sample


def read_videos(path: Path, seed: int) -> dict[str, tuple[int, Request]]:
    """Read the videos of a prompts file, by name: the line of each, and its request.

    Args:
        path: see `read_rows`. A row with several videos becomes several requests, `name-1`, `name-2`, ...
        seed: used for rows without a seed.

    Raises:
        DataError: if a row cannot be used; the message names the file, the line and how to fix it.
    """
    videos: dict[str, tuple[int, Request]] = {}
    for row in read_rows(path):
        if row.request is None:
            raise DataError(f"{path}, line {row.line}: {row.problem}")
        for request in row.request.split(seed):
            if request.name in videos or request.name in RESERVED_NAMES:
                raise DataError(
                    f"{path}, line {row.line}: the name {request.name!r} is taken; choose another"
                )
            videos[request.name] = row.line, request
    return videos


def check_video(pipe: LumierePipeline, request: Request, clips: Clips) -> list[str]:
    """Check that a request can be met, before any video is made.

    Returns:
        Notes that tell the user what is cut away.

    Raises:
        ValueError: if it cannot be met; the message says how to fix it.
    """
    pixels = check_request(pipe, request, clips)
    if request.clip is not None and "video" in pixels.arguments and request.frames is None:
        length, num_frames = len(clips.frames(request.clip)), pipe.config.num_frames
        if length != num_frames:
            raise ValueError(f"generate.num_frames: {num_frames}; allowed: the clip's {length}")
    return pixels.notes


def make_sample(pipe: LumierePipeline, request: Request, clips: Clips, model_sha256: str) -> Sample:
    """Make one video. Paths in its sidecar start from the project's folder, so none depends on
    this machine.
    """
    pixels = check_request(pipe, request, clips)
    assert request.seed is not None
    request = complete_request(pipe, request, pixels.num_frames, request.seed)
    output = run_request(pipe, request, pixels.arguments)
    files: dict[str, Any] = {
        name: os.path.relpath(file) for name, file in request.input_files().items()
    }
    made = {
        **describe_output(pipe, output),
        "model_sha256": model_sha256,
        "files_sha256": hash_inputs(request, clips),
    }
    frames, known = from_unit_range(output.frames[0]), None
    if output.known is not None and output.known_mask is not None:
        mask = output.known_mask[0, :, 0].to(torch.uint8).cpu().numpy()
        known = {"generated": frames, "known": from_unit_range(output.known[0]), "known_mask": mask}
    return Sample(sidecar(replace(request, **files), made), frames, known)
