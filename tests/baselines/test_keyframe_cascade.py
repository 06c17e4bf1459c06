"""The baseline of keyframes and temporal super-resolution: which frames its tasks see, and what its sampler keeps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor
from torch.utils.data import default_collate

from benchmarks import baselines, baselines_measure
from lumiere.baselines.keyframe_cascade import (
    KeyframeCascade,
    KeyframeTask,
    TemporalSuperResolutionTask,
)
from lumiere.config import TextOptimConfig
from lumiere.data.pixel_values import bytes_to_model
from lumiere.data.shards import ALL, Sample, pack_frames, write_index, write_null_text, write_shards
from lumiere.diffusion.objective import make_scheduler
from lumiere.models import SpaceTimeUNet
from lumiere.models.text_to_image import TextToImage
from lumiere.models.unet_builders import build_text_to_image_unet
from lumiere.pipelines import LumierePipeline
from lumiere.training.examples import Text
from lumiere.training.loop import train
from lumiere.training.space_time_task import SpaceTimeTask
from tests.video_factory import numbered

SIZE, TOKENS, DIM = 8, 4, 32
CONFIG = TextOptimConfig(steps=2, batch_size=2, warmup_steps=1, text_dropout=0.0)


class Counted:
    """Clips whose f-th frame is of value f throughout."""

    def __init__(self, num_frames: int) -> None:
        self.frames = (
            torch.arange(num_frames, dtype=torch.uint8).view(1, -1, 1, 1).expand(3, -1, SIZE, SIZE)
        )
        self.shards, self.num_frames = ["", ""], num_frames
        self.buckets = [0, 0]
        self.null_text = torch.zeros(TOKENS, DIM), torch.ones(TOKENS, dtype=torch.int64)

    def __len__(self) -> int:
        return 2

    def video(self, i: int, frames: slice = ALL) -> Tensor:
        return self.frames[:, frames]

    def text(self, i: int) -> Text:
        return torch.full((1, TOKENS, DIM), float(i)), torch.ones(1, TOKENS)


def image_unet() -> UNet2DConditionModel:
    torch.manual_seed(0)
    return build_text_to_image_unet(SIZE, (16, 32), 1, DIM)


def keyframe_task(num_frames: int, stride: int) -> KeyframeTask:
    unet = SpaceTimeUNet.from_unet2d(image_unet(), temporal_resampling=False)
    clips = Counted(num_frames)
    return KeyframeTask("keyframes", unet, make_scheduler(), clips, clips, CONFIG, stride=stride)


def segment_task(num_frames: int, stride: int) -> TemporalSuperResolutionTask:
    unet = SpaceTimeUNet.from_unet2d(image_unet(), 4, temporal_resampling=False)
    clips = Counted(num_frames)
    return TemporalSuperResolutionTask(
        "segments", unet, make_scheduler(), clips, clips, CONFIG, stride=stride
    )


def numbers(video: Tensor) -> list[int]:
    return video[0, :, 0, 0].tolist()


# --- training --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("num_frames", "stride", "starts", "count"),
    [(16, 4, {0, 1, 2, 3}, 4), (13, 4, {0}, 4), (6, 2, {0, 1}, 3)],
)
def test_keyframes_are_strided_from_every_start_that_leaves_room(
    num_frames: int, stride: int, starts: set[int], count: int
) -> None:
    task, seen = keyframe_task(num_frames, stride), set()
    for position in range(40):
        found = numbers(task.example(position)["video"])
        assert (
            found == list(range(found[0], found[0] + stride * count, stride))
            and found[-1] < num_frames
        )
        seen.add(found[0])
    assert seen == starts


def test_a_segment_is_whole_and_its_known_frames_are_the_clips() -> None:
    task, starts = segment_task(7, 4), set()
    for position in range(20):
        example = task.example(position)
        found = numbers(example["video"])
        assert found == list(range(found[0], found[0] + 5))
        assert example["known_mask"][0, :, 0, 0].tolist() == [1, 0, 0, 0, 1]
        starts.add(found[0])
    assert starts == {0, 1, 2}

    batch = default_collate([task.example(i) for i in range(2)])
    sample = task.noised(batch).inputs.model_input
    x_0, c, known_mask = bytes_to_model(batch["video"]), sample[:, 3:6], sample[:, 6:]
    assert torch.equal(c[:, :, [0, -1]], x_0[:, :, [0, -1]]) and not c[:, :, 1:-1].any()
    assert torch.equal(known_mask[:, 0], batch["known_mask"][:, 0].float())


@pytest.mark.parametrize("make", [keyframe_task, segment_task])
def test_the_loop_trains_the_temporal_layers_alone(make: Any, tmp_path: Path) -> None:
    task = make(9, 4)
    task.validation_clips = 2
    image = {name: p.clone() for name, p in task.network.unet.named_parameters()}
    before = {name: p.clone() for name, p in task.network.named_temporal_parameters()}
    result = train(task, tmp_path)
    assert result.losses and result.validation
    assert all(torch.equal(p, image[name]) for name, p in task.network.unet.named_parameters())
    assert any(
        not torch.equal(p, before[name]) for name, p in task.network.named_temporal_parameters()
    )


# --- sampling --------------------------------------------------------------------------------------------------------


def shaken(channels: int) -> LumierePipeline:
    unet = SpaceTimeUNet.from_unet2d(image_unet(), channels, temporal_resampling=False)
    with torch.no_grad():
        for parameter in unet.temporal_parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    pipe = LumierePipeline(unet.eval(), make_scheduler())
    pipe.set_progress_bar_config(disable=True)
    return pipe


def text(number: int) -> Text:
    states = torch.randn(number, TOKENS, DIM, generator=torch.Generator().manual_seed(0))
    return states, torch.ones(number, TOKENS, dtype=torch.int64)


def seeded(number: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(i) for i in range(number)]


CALL: dict[str, Any] = {"num_inference_steps": 2, "guidance_scale": 1.0}


@pytest.mark.parametrize(("num_keyframes", "stride"), [(2, 2), (3, 4), (4, 3)])
def test_the_cascade_keeps_its_keyframes_and_counts_frames(num_keyframes: int, stride: int) -> None:
    cascade = KeyframeCascade(shaken(0), shaken(4), stride)
    made = cascade.sample(num_keyframes, text(2), seeded(2), **CALL)
    assert made.shape == (2, stride * (num_keyframes - 1) + 1, 3, SIZE, SIZE)
    assert made.min() >= 0 and made.max() <= 1
    states, mask = text(2)
    alone: Any = cascade.keyframes(
        num_frames=num_keyframes, generator=seeded(2), upscale=False, prompt_embeds=states,
        prompt_attention_mask=mask, output_type="pt", **CALL,
    )  # fmt: skip
    assert torch.equal(made[:, ::stride], alone.frames)
    assert torch.equal(made, cascade.sample(num_keyframes, text(2), seeded(2), **CALL))


def test_a_segment_sees_its_own_two_keyframes_and_no_other() -> None:
    cascade = KeyframeCascade(shaken(0), shaken(4), stride=3)
    keyframes = torch.rand(1, 4, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    other = keyframes.clone()
    other[:, 3] = 1 - other[:, 3]
    one, two = (
        cascade.fill_in(frames, text(1), seeded(1), **CALL) for frames in (keyframes, other)
    )
    torch.testing.assert_close(one[:, :7], two[:, :7], atol=1e-5, rtol=0)
    assert not torch.allclose(one[:, 7:9], two[:, 7:9], atol=1e-3)


@pytest.mark.parametrize(("num_keyframes", "stride"), [(1, 4), (3, 1)])
def test_a_cascade_without_gaps_is_refused(num_keyframes: int, stride: int) -> None:
    with pytest.raises(ValueError, match="at least 2 each"):
        KeyframeCascade(shaken(0), shaken(4), stride).sample(
            num_keyframes, text(1), seeded(1), **CALL
        )


# --- the benchmark ---------------------------------------------------------------------------------------------------


def test_both_sides_are_of_one_size_and_he_start_differs_in_the_resampling_alone() -> None:
    shipped = json.loads(
        (Path(baselines.__file__).parents[1] / "pretrained/t2i/unet/config.json").read_text("utf-8")
    )
    networks = baselines.build(UNet2DConditionModel.from_config(shipped), seed=0)
    ours, cascade = (
        baselines.count(networks[baselines.OURS]),
        baselines.count(networks[baselines.KEYFRAMES], networks[baselines.TSR]),
    )
    assert abs(cascade / ours - 1) < 0.05
    he = dict(networks[baselines.HE].named_temporal_parameters())
    differ = {
        name
        for name, p in networks[baselines.OURS].named_temporal_parameters()
        if not torch.equal(p, he[name])
    }
    assert differ and all("samplers" in name and name.endswith("conv.weight") for name in differ)


def test_second_differences_tell_borders_and_fast_change_from_slow() -> None:
    steady = np.tile(np.arange(13, dtype=np.uint8).reshape(-1, 1, 1, 1), (1, 4, 4, 3)) * 4
    assert not baselines_measure.second_difference(steady).any()
    jolted = steady.copy()
    jolted[5:] += 40
    assert baselines_measure.second_difference(jolted).argmax() in (3, 4)  # of frames 4 and 5
    # The borders are frames 4 and 8; the ends of the clip do not count.
    assert baselines_measure.borders(13, 4) == [3, 7]
    blinking = (steady * 0 + 100 * (np.arange(13) % 2).reshape(-1, 1, 1, 1)).astype(np.uint8)
    assert (
        baselines_measure.fast_share(blinking, 4)
        > 0.9
        > 0.5
        > baselines_measure.fast_share(steady, 4)
    )


class MeanColour:
    """A network that sees colours."""

    def embed(self, frames: np.ndarray) -> np.ndarray:
        return frames.reshape(len(frames), -1, 3).mean(axis=1) / 255


def test_the_benchmark_trains_measures_and_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    generator, clips = np.random.default_rng(0), tmp_path / "clips"
    clips.mkdir()
    samples = [
        Sample(
            pack_frames(numbered(13, subject=i, height=32, width=96)[:, :, :32]),
            generator.standard_normal((1, TOKENS, DIM)).astype(np.float16),
            np.ones((1, TOKENS), np.uint8),
            {"clip_id": f"{i}@0", "video": f"{i}.mp4", "start": 0.0, "captions": ["a"], "fps": 16},
        )
        for i in range(9)
    ]
    splits = {"train": write_shards(clips, "train", samples[:6], 9)}
    splits |= {"validation": write_shards(clips, "validation", samples[6:], 9)}
    write_null_text(clips, np.zeros((TOKENS, DIM), np.float16), np.ones(TOKENS, np.uint8))
    shared: dict[str, Any] = {"fps": 16, "num_frames": 13, "size": 32, "text_encoder": "minilm"}
    write_index(clips, splits, **shared, embed_dim=DIM, max_text_tokens=TOKENS)

    t2i = TextToImage(image_unet(), make_scheduler(), "minilm", TOKENS)
    monkeypatch.setattr(baselines, "load_text_to_image", lambda _: t2i)
    monkeypatch.setattr(baselines_measure, "load_backbone", lambda _: MeanColour())
    monkeypatch.setattr(SpaceTimeTask, "validation_clips", 2)
    threads = str(torch.get_num_threads())
    call = [
        "--quick",
        "--clips",
        str(clips),
        "--t2i",
        str(clips),
        "--out",
        str(tmp_path),
        "--threads",
        threads,
    ]
    baselines.main(call)
    record = json.loads((tmp_path / "baselines.json").read_text("utf-8"))
    assert set(record["scores"]) == {"ours", "cascade", "cascade, from a blend", "real"}
    assert {name: row["frames"] for name, row in record["training"].items()} == {
        baselines.OURS: 13, baselines.KEYFRAMES: 4, baselines.TSR: 5, baselines.HE: 13
    }  # fmt: skip
    assert (
        tmp_path / "baselines.png"
    ).is_file() and "| Fréchet distance |" in capsys.readouterr().out

    monkeypatch.setattr(baselines_measure, "KeyframeCascade", None)  # nothing is sampled again
    monkeypatch.setattr(baselines, "draw", lambda *_: None)
    baselines.main(call)
    again = json.loads((tmp_path / "baselines.json").read_text("utf-8"))
    distances = {name: row["Fréchet distance"] for name, row in record["scores"].items()}
    assert distances["real"] < min(distances["ours"], distances["cascade"])  # the floor
    assert (
        again["scores"] == record["scores"] and "resuming at step 2 of 2" in capsys.readouterr().out
    )
