"""What a batch of generated videos leaves on disk; the layout is told in `lumiere.evaluation.samples`."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from tqdm import tqdm

from lumiere.config import GenerateConfig
from lumiere.data.clips import ClipStore
from lumiere.data.contact_sheets import contact_sheet, save_picture, xt_slice
from lumiere.data.pixel_values import from_unit_range, to_unit_range
from lumiere.data.video_io import write_video
from lumiere.files import write_atomically
from lumiere.pipelines.batch import Job
from lumiere.pipelines.pipeline_lumiere import LumierePipeline
from lumiere.pipelines.pipeline_output import LumierePipelineOutput, LumiereUpscalePipelineOutput


def given_pixels(job: Job, stores: list[ClipStore]) -> dict[str, Any]:
    """The `image`, `video` and `mask` arguments that a job's mode takes.

    Raises:
        ValueError: when the clip is in no store, or the mask's box holds no pixel of it.
    """
    if not job.clip:
        return {}
    found = [
        (store, i)
        for store in stores
        for i, entry in enumerate(store.entries)
        if entry["clip_id"] == job.clip
    ]
    if not found:
        known = ", ".join(entry["clip_id"] for entry in stores[0].entries[:3])
        raise ValueError(
            f"clip {job.clip!r} is not among the decoded clips; there are {known}, ..."
        )
    store, index = found[0]
    frames = to_unit_range(store[index].frames)  # (t, c, h, w)
    pixels: dict[str, Any] = {}
    if job.mode in ("image_to_video", "cinemagraph"):
        pixels["image"] = frames[0]
    else:
        pixels["video"] = frames
    if job.mask is not None:
        pixels["mask"] = job.region(*frames.shape[-2:])
        if not pixels["mask"].any():
            raise ValueError(
                f"mask {job.mask}: no pixel of the clip lies in it; make the box larger"
            )
    return pixels


def check_jobs(
    prompts: Path,
    jobs: list[Job],
    pipe: LumierePipeline,
    stores: list[ClipStore],
    config: GenerateConfig,
) -> None:
    """Raises ValueError, naming file and row, on a job that cannot be done, before any is begun."""
    for job in jobs:
        try:
            video = given_pixels(job, stores).get("video")
            if video is not None and len(video) != config.num_frames:
                raise ValueError(
                    f"generate.num_frames: {config.num_frames}; allowed: the clip's {len(video)}"
                )
            if job.style:
                pipe.styles.check(job.style, job.alpha)
        except ValueError as error:
            raise ValueError(f"{prompts}: {job.name}: {error}") from None


def save_sample(
    folder: Path, job: Job, output: LumierePipelineOutput, settings: dict[str, Any]
) -> None:
    """Write one video, its settings, a contact sheet and an x-t slice."""
    frames = from_unit_range(output.frames[0])
    write_video(folder / f"{job.name}.mp4", frames, fps=output.fps)
    save_picture(
        contact_sheet(frames[:: max(1, len(frames) // 8)]), folder / f"{job.name}.sheet.png"
    )
    save_picture(xt_slice(frames), folder / f"{job.name}.xt.png")
    base = output.frames if output.base_frames is None else output.base_frames
    info = {
        **settings,
        "name": job.name,
        "mode": job.mode,
        "prompt": job.prompt,
        "clip": job.clip,
        "mask": job.mask,
        "style": job.style,
        "alpha": job.alpha if job.style else None,
        "strength": job.strength if job.mode == "video_to_video" else None,
        "fps": output.fps,
        "num_frames": len(frames),
        "base_size": list(base.shape[-2:]),
        "size": list(frames.shape[1:3]),
    }
    write_atomically(folder / f"{job.name}.json", (json.dumps(info, indent=2) + "\n").encode())
    if output.known is not None and output.known_mask is not None:
        arrays = {
            "generated": frames,
            "known": from_unit_range(output.known[0]),
            "known_mask": output.known_mask[0, :, 0].to(torch.uint8).cpu().numpy(),
        }
        _save_arrays(folder / f"{job.name}.known.npz", arrays)


def set_prompts(store: ClipStore, size: int, seed: int) -> list[str]:
    """`size` different captions of training clips of different videos, drawn by seed."""
    captions: dict[str, str] = {}
    for i in np.random.default_rng(seed).permutation(len(store)):
        clip = store[int(i)]
        captions.setdefault(clip.video, clip.captions[0])
        if len(captions) == size:
            break
    return list(dict.fromkeys(captions.values()))


def generate_set(
    pipe: LumierePipeline, prompts: list[str], config: GenerateConfig
) -> list[np.ndarray]:
    """One text-to-video clip per prompt at base size, uint8 (t, h, w, c), each with a seed of its own."""
    frames: list[np.ndarray] = []
    for start in tqdm(
        range(0, len(prompts), config.batch_size), desc="text-to-video set", unit="batch"
    ):
        batch = prompts[start : start + config.batch_size]
        generators = [
            torch.Generator().manual_seed(config.seed + start + i) for i in range(len(batch))
        ]
        output = cast(LumierePipelineOutput, pipe(batch, generator=generators, upscale=False))
        frames.extend(from_unit_range(clip) for clip in output.frames)
    return frames


def save_text_to_video_set(
    folder: Path, frames: list[np.ndarray], prompts: list[str], fps: int
) -> None:
    """The clips at base size that the distances are measured on."""
    _save_arrays(folder / "t2v_set.npz", {"frames": np.stack(frames)})
    text = json.dumps({"prompts": prompts, "fps": fps}, indent=1) + "\n"
    write_atomically(folder / "t2v_set.json", text.encode())


def save_seams(
    folder: Path, pipe: LumierePipeline, low: list[np.ndarray], config: GenerateConfig
) -> None:
    """Super-resolve clips with and without MultiDiffusion, for the seam measure of the evaluation."""
    upscale = pipe.upscaler()
    upscale.set_progress_bar_config(leave=False)
    made: dict[str, list[np.ndarray]] = {"multidiffusion": [], "independent": []}
    for frames in low:
        for name, clips in made.items():
            output = upscale(
                frames,
                num_inference_steps=config.ssr_steps,
                window_size=config.window_size,
                overlap=config.overlap,
                multidiffusion=name == "multidiffusion",
                generator=torch.Generator().manual_seed(config.seed),
            )
            clips.append(from_unit_range(cast(LumiereUpscalePipelineOutput, output).frames[0]))
    _save_arrays(folder / "seams.npz", {name: np.stack(clips) for name, clips in made.items()})
    settings = {"window_size": config.window_size, "overlap": config.overlap}
    write_atomically(folder / "seams.json", (json.dumps(settings) + "\n").encode())


def _save_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    write_atomically(path, buffer.getvalue())
