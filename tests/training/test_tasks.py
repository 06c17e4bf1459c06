"""What the loop trains: which weights, from which pixels and sentences, with all randomness drawn from the step."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import default_collate

from lumiere.config import LaunchConfig, Params, TextOptimConfig, TrainSSRConfig
from lumiere.data.captioned_pictures import load_captioned_folder
from lumiere.data.clips import ClipStore, resize_video
from lumiere.data.pixel_values import bytes_to_model, to_model_range
from lumiere.data.shards import Sample, pack_frames, write_index, write_null_text, write_shards
from lumiere.diffusion.objective import make_scheduler
from lumiere.models import SpaceTimeUNet
from lumiere.models.pretrained import load_text_to_image
from lumiere.models.text_to_image import TextToImage, load_image_network, load_scheduler
from lumiere.models.unet_builders import build_ssr_unet, build_text_to_image_unet
from lumiere.training.conditioned_task import ConditionedTask
from lumiere.training.diffusion_task import Batch
from lumiere.training.examples import Pictures, StoredClips, draw_captioned
from lumiere.training.image_task import TextToImageTask
from lumiere.training.loss_curves import write_record
from lumiere.training.seeding import generator_for
from lumiere.training.space_time_task import SpaceTimeTask
from lumiere.training.ssr_task import SuperResolutionTask
from lumiere.training.staged_training import StagedTraining
from lumiere.training.state import TrainingResult, trained_parameters
from tests import forked
from tests.conftest import REPOSITORY
from tests.default_dtype import same, under_each_default_dtype
from tests.training.small_task import Stop, at_step, make_task
from tests.video_factory import numbered

FRAMES, LARGE, SIZE, TOKENS, DIM = 6, 32, 8, 4, 32
NULL = torch.zeros(TOKENS, DIM), torch.tensor([1, 1, 0, 0])
OPTIM = TextOptimConfig(batch_size=2, text_dropout=0.0)
SSR = TrainSSRConfig(size=LARGE, low_size=16, window_size=3, crop=16)
MIX = {"text_only": 1.0, "inpainting_box": 1.0}


def write_clips(folder: Path) -> tuple[ClipStore, ClipStore]:
    """Four clips to train on, one held out, none in "empty"; two captions a clip, told apart by their states."""
    generator = np.random.default_rng(0)
    samples = [
        Sample(
            pack_frames(numbered(FRAMES, subject=i, height=LARGE, width=96)[:, :, :LARGE]),
            generator.standard_normal((2, TOKENS, DIM)).astype(np.float16),
            np.ones((2, TOKENS), np.uint8),
            {
                "clip_id": f"{i}@0",
                "video": f"{i}.mp4",
                "start": 0.0,
                "captions": ["a", "b"],
                "fps": 16,
            },
        )
        for i in range(5)
    ]
    splits = {"train": write_shards(folder, "train", samples[:4], 9)}
    splits |= {
        name: write_shards(folder, name, part, 9)
        for name, part in (("validation", samples[4:]), ("empty", []))
    }
    shared: dict[str, Any] = {
        "fps": 16,
        "num_frames": FRAMES,
        "size": LARGE,
        "text_encoder": "minilm",
    }
    write_null_text(folder, NULL[0].half().numpy(), NULL[1].byte().numpy())
    write_index(folder, splits, **shared, embed_dim=DIM, max_text_tokens=TOKENS)
    return ClipStore(folder), ClipStore(folder, "validation")


def image_unet() -> Any:
    torch.manual_seed(0)
    return build_text_to_image_unet(SIZE, (16, 32), 1, DIM)


def base_task(
    stores: tuple[ClipStore, ClipStore], mix: dict[str, float] | None = None
) -> SpaceTimeTask:
    unet = SpaceTimeUNet.from_unet2d(image_unet(), conditioning_channels=4 if mix else 0)
    train, held_out = (StoredClips(store, SIZE) for store in stores)
    if mix is None:
        return SpaceTimeTask("base", unet, make_scheduler(), train, held_out, OPTIM)
    return ConditionedTask("base", unet, make_scheduler(), train, held_out, OPTIM, mask_weights=mix)


def t2i_task(stores: tuple[ClipStore, ClipStore]) -> TextToImageTask:
    train, held_out = (StoredClips(store, SIZE) for store in stores)
    return TextToImageTask("t2i", image_unet(), make_scheduler(), train, held_out, OPTIM)


def ssr_task(stores: tuple[ClipStore, ClipStore], inflated: bool = True) -> SuperResolutionTask:
    torch.manual_seed(0)
    network: Any = build_ssr_unet(LARGE, (16, 32), 1)
    if inflated:
        network = SpaceTimeUNet.from_unet2d(network, temporal_resampling=False)
    frames = SSR.window_size if inflated else 1
    train, held_out = (StoredClips(store, LARGE) for store in stores)
    return SuperResolutionTask(
        "ssr", network, make_scheduler(), train, held_out, OPTIM, ssr=SSR, window_size=frames
    )


TASKS: dict[str, Callable[[tuple[ClipStore, ClipStore]], Any]] = {
    "base": base_task,
    "conditioned": lambda stores: base_task(stores, MIX),
    "t2i": t2i_task,
    "ssr": ssr_task,
    "ssr image": lambda stores: ssr_task(stores, inflated=False),
}


# --- every task ------------------------------------------------------------------------------------------------------


def training_batch(task: Any, step: int) -> Batch:
    size = task.config.batch_size
    return default_collate([task.example(i) for i in range(step * size, (step + 1) * size)])


def held_out_batch(task: Any) -> Batch:
    return default_collate([task.validation_example(i) for i in range(task.held_out())])


def loss_at(task: Any, step: int) -> Tensor:
    return task.losses(task.network, training_batch(task, step)).mean()


@pytest.mark.parametrize("name", TASKS)
def test_a_loss_is_a_function_of_its_step(name: str, stores: tuple[ClipStore, ClipStore]) -> None:
    task = TASKS[name](stores)
    losses = [loss_at(task, step).item() for step in (0, 1)]
    torch.manual_seed(7)  # nothing is drawn from the global generator
    with torch.no_grad():  # as the loop does
        held_out = task.losses(task.network, held_out_batch(task))
        assert (
            torch.equal(task.losses(task.network, held_out_batch(task)), held_out)
            and (held_out > 0).all()
        )
    assert [loss_at(task, step).item() for step in (0, 1)] == losses and losses[0] != losses[1]


@pytest.mark.parametrize("name", TASKS)
def test_examples_and_losses_do_not_depend_on_the_default_dtype(
    name: str, stores: tuple[ClipStore, ClipStore]
) -> None:
    task = TASKS[name](stores)
    task.config = replace(OPTIM, text_dropout=0.5)
    task.image_share = 0.5

    def draw() -> list[Tensor]:
        batches = [training_batch(task, step) for step in range(4)]
        tensors = [tensor for batch in batches for tensor in batch.values()]
        with torch.no_grad():
            return [*tensors, task.losses(task.network, batches[0])]

    assert all(map(same, *under_each_default_dtype(draw)))


@pytest.mark.parametrize("name", TASKS)
def test_an_example_has_the_same_loss_in_any_batch(
    name: str, stores: tuple[ClipStore, ClipStore]
) -> None:
    task = TASKS[name](stores)
    with torch.no_grad():
        together = task.losses(task.network, training_batch(task, 0))
        apart = [
            task.losses(task.network, default_collate([task.example(i)]))
            for i in range(OPTIM.batch_size)
        ]
    torch.testing.assert_close(torch.cat(apart), together)


@pytest.mark.parametrize("name", TASKS)
def test_timesteps_of_a_batch_are_spread_over_the_noise_levels(
    name: str, stores: tuple[ClipStore, ClipStore]
) -> None:
    task = TASKS[name](stores)
    task.config = replace(OPTIM, batch_size=8)
    for step in range(3):
        timesteps = training_batch(task, step)["timesteps"]
        assert sorted((timesteps * 8 // task.objective.num_timesteps).tolist()) == list(range(8))
    first, second = (training_batch(task, step)["timesteps"] for step in (0, 1))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("name", TASKS)
def test_what_is_trained_has_a_gradient_and_nothing_else(
    name: str, stores: tuple[ClipStore, ClipStore]
) -> None:
    task = TASKS[name](stores)
    trained = trained_parameters(task.network)
    frozen = {n for n, _ in task.network.named_parameters()} - trained.keys()
    inflated = isinstance(task.network, SpaceTimeUNet)
    assert frozen == {
        n for n, _ in task.network.named_parameters() if inflated and n.startswith("unet.")
    }
    loss_at(task, 0).backward()
    assert any(p.grad is not None and p.grad.any() for p in trained.values())
    assert all(p.grad is None for n, p in task.network.named_parameters() if n in frozen)


@pytest.mark.parametrize("name", TASKS)
def test_nothing_need_be_held_out(name: str, stores: tuple[ClipStore, ClipStore]) -> None:
    assert TASKS[name]((stores[0], ClipStore(stores[0].folder, "empty"))).held_out() == 0


@pytest.mark.parametrize("task_of", [base_task, t2i_task])
def test_dropped_text_is_the_empty_sentence(
    task_of: Callable[..., Any], stores: tuple[ClipStore, ClipStore]
) -> None:
    for dropout in (0.0, 1.0):
        task = task_of(stores)
        task.config = replace(OPTIM, text_dropout=dropout)
        text = training_batch(task, 0)["prompt_embeds"]
        assert text.shape == (2, TOKENS, DIM) and bool((text == 0).all()) == (dropout == 1.0)
        assert (held_out_batch(task)["prompt_embeds"] != 0).any()


def test_a_share_of_the_steps_trains_on_single_frames(stores: tuple[ClipStore, ClipStore]) -> None:
    task = base_task(stores, MIX)
    task.image_share = 0.5
    frames = [training_batch(task, step)["video"].shape[2] for step in range(40)]
    assert set(frames) == {1, FRAMES} and 10 < frames.count(1) < 30
    loss_at(task, frames.index(1)).backward()
    assert all(p.grad is not None for p in trained_parameters(task.network).values())
    assert all(example.shape[1] == FRAMES for example in held_out_batch(task)["video"])


@pytest.mark.parametrize("correlation", [0.0, 1.0])
def test_the_noise_of_a_clip_is_as_correlated_as_the_settings_say(
    correlation: float, stores: tuple[ClipStore, ClipStore]
) -> None:
    for task in (base_task(stores), ssr_task(stores)):
        task.noise_correlation = correlation
        batch = training_batch(task, 0)
        noises = [task.noised(batch).noise, batch.get("low_noise")]
        for noise in noises:
            if noise is not None:
                is_equal = torch.equal(noise, noise[:, :, :1].expand_as(noise))
                assert is_equal == (correlation == 1.0)


# --- data ------------------------------------------------------------------------------------------------------------


def test_videos_and_pictures_are_those_of_the_clips(stores: tuple[ClipStore, ClipStore]) -> None:
    clips = StoredClips(stores[0], LARGE)
    assert len(clips) == 4
    assert np.array_equal(clips.video(2).permute(1, 2, 3, 0).numpy(), stores[0][2].frames)
    drawn = draw_captioned(clips, 2, generator_for("draw"))
    assert drawn["video"].shape == (3, FRAMES, LARGE, LARGE) and drawn["prompt_mask"].shape == (
        TOKENS,
    )
    assert bytes_to_model(drawn["video"]).min() >= -1 and bytes_to_model(drawn["video"]).max() <= 1
    own = torch.from_numpy(stores[0][2].prompt_embeds).float()
    many = [draw_captioned(clips, 2, generator_for("draw", i), one_frame=True) for i in range(60)]
    frames = [
        next(f for f in range(FRAMES) if torch.equal(d["video"][:, 0], clips.video(2)[:, f]))
        for d in many
    ]
    assert set(frames) == set(range(FRAMES))  # all of its frames, and both of its captions
    assert all(any(torch.equal(d["prompt_embeds"], entry) for d in many) for entry in own)


@pytest.mark.parametrize("cache_mb", [0, 0.002, 10])  # room for none, one of the clips, all
def test_clips_kept_in_memory_are_the_clips(
    cache_mb: float, stores: tuple[ClipStore, ClipStore]
) -> None:
    clips, plain = StoredClips(stores[0], SIZE, cache_mb), StoredClips(stores[0], SIZE, 0)
    for i in [0, 1, 0, 2, 3, 0, 1]:
        assert torch.equal(clips.video(i, slice(1, 3)), plain.video(i)[:, 1:3])
        assert all(
            torch.equal(one, other) for one, other in zip(clips.text(i), plain.text(i), strict=True)
        )
    assert len(clips._kept) == (4 if cache_mb == 10 else 0)
    assert pickle.loads(pickle.dumps(clips))._kept == {}  # a worker begins with its own


@pytest.mark.parametrize("size", [8, 12, 20, LARGE, 48])  # boxes, antialiased, as stored, enlarged
def test_frames_alone_are_those_of_the_whole_clip(
    size: int, stores: tuple[ClipStore, ClipStore]
) -> None:
    clips = StoredClips(stores[0], size, 0)
    resized = resize_video(to_model_range(stores[0][1].frames)[None], size)[0]
    whole = ((resized + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    for frames in (slice(None), slice(2, 5), slice(4, 5), slice(1, None, 2)):
        assert torch.equal(clips.video(1, frames), whole[:, frames])


@pytest.mark.parametrize(
    "name, count", [("base", FRAMES), ("t2i", 1), ("ssr", SSR.window_size), ("ssr image", 1)]
)
def test_no_frame_is_read_that_is_not_seen(
    name: str, count: int, stores: tuple[ClipStore, ClipStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    task, read = TASKS[name](stores), []
    task.train_data = StoredClips(stores[0], task.train_data.size, 0)
    original = ClipStore.frames

    def frames(store: ClipStore, *call: Any) -> np.ndarray:
        read.append(original(store, *call))
        return read[-1]

    monkeypatch.setattr(ClipStore, "frames", frames)
    task.example(0)
    assert [len(found) for found in read] == [count]


def test_a_style_has_one_picture_and_caption_a_subject() -> None:
    pictures = np.arange(2 * 3 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3, 3)
    embeds, masks = torch.randn(2, TOKENS, DIM), torch.ones(2, TOKENS, dtype=torch.int64)
    images = Pictures(pictures, (embeds, masks), NULL)
    assert len(images) == len(images.shards) == 2
    for i in range(2):
        drawn = draw_captioned(images, i, generator_for(i), one_frame=True)
        assert torch.equal(drawn["video"][:, 0].permute(1, 2, 0), torch.from_numpy(pictures[i]))
        assert torch.equal(drawn["prompt_embeds"], embeds[i])


def test_super_resolution_sees_the_same_place_twice(stores: tuple[ClipStore, ClipStore]) -> None:
    task, places = ssr_task(stores), set()
    frames = torch.from_numpy(np.array(stores[0][1].frames))  # (t, h, w, 3)
    clip = frames.permute(3, 0, 1, 2).float() / 127.5 - 1  # (3, t, h, w)
    low = resize_video(resize_video(clip[None], SSR.low_size), LARGE)[0]
    windows = {
        (start, top, left): clip[:, start : start + 3, top : top + 16, left : left + 16]
        for start in range(FRAMES - 2) for top in range(LARGE - 15) for left in range(LARGE - 15)
    }  # fmt: skip
    for i in range(15):
        drawn = task.draw(task.train_data, 1, generator_for("crop", i), True, False)
        start, top, left = next(
            place for place, window in windows.items() if torch.equal(window, drawn["high"])
        )
        assert torch.allclose(
            low[:, start : start + 3, top : top + 16, left : left + 16], drawn["low"], atol=1e-6
        )
        places.add((start, top, left))
    assert len(places) > 10


def test_a_folder_of_pictures(tmp_path: Path) -> None:
    wide = np.zeros((10, 30, 4), np.uint8)
    wide[:, 10:20] = (255, 0, 0, 255)  # what the centre crop keeps; the rest is transparent
    Image.fromarray(wide).save(tmp_path / "wide.png")
    Image.new("RGBA", (6, 6), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    Image.new("L", (4, 9), 50).save(tmp_path / "grey.jpg", quality=100)
    (tmp_path / "captions.csv").write_text(
        'image,caption\nwide.png,"red, all of it"\nclear.png,b\ngrey.jpg,c\n'
    )
    pictures, captions = load_captioned_folder(tmp_path, 5)
    assert (
        pictures.shape == (3, 5, 5, 3)
        and pictures.dtype == np.uint8
        and captions == ["red, all of it", "b", "c"]
    )
    assert (pictures[0] == (255, 0, 0)).all() and (pictures[1] == 255).all()
    assert np.abs(pictures[2].astype(int) - 50).max() <= 2


def test_a_picture_from_a_camera_is_turned_upright(tmp_path: Path) -> None:
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:4] = 255  # white above, black below
    exif = Image.Exif()
    exif[0x0112] = 3  # the tag for orientation: the camera was upside down
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    (tmp_path / "captions.csv").write_text("image,caption\na.png,half\n")
    pictures, _ = load_captioned_folder(tmp_path, 8)
    assert np.array_equal(pictures[0], pixels[::-1])


@pytest.mark.parametrize("listing, expected", [
    (None, "captions.csv: no such file"), ("image,caption\n", "at least one row"),
    ("a,b\n1,2\n", "columns image, caption"),
    ("image,caption\nnowhere.png,x\n", "nowhere.png: not a readable picture"),
    ("image,caption\ncaptions.csv,x\n", "captions.csv: not a readable picture"),
])  # fmt: skip
def test_a_folder_that_cannot_be_used_is_told(
    listing: str | None, expected: str, tmp_path: Path
) -> None:
    if listing is not None:
        (tmp_path / "captions.csv").write_text(listing)
    with pytest.raises(ValueError, match=expected):
        load_captioned_folder(tmp_path, 8)


# --- files -----------------------------------------------------------------------------------------------------------


def test_a_text_to_image_model_comes_back(tmp_path: Path) -> None:
    TextToImage(image_unet().half(), make_scheduler(), "minilm", 12).save(tmp_path)
    loaded = load_text_to_image(tmp_path)
    assert (loaded.text_encoder, loaded.max_text_tokens, loaded.unet.dtype) == (
        "minilm",
        12,
        torch.float32,
    )
    assert loaded.scheduler.config.prediction_type == "v_prediction"
    weights = loaded.unet.state_dict()
    for name, value in image_unet().half().state_dict().items():
        assert torch.equal(weights[name], value.float())


def test_what_a_model_lacks_is_told(tmp_path: Path) -> None:
    TextToImage(image_unet(), make_scheduler(), "minilm").save(tmp_path)
    (tmp_path / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"half")
    for load in (load_text_to_image, load_image_network):
        with pytest.raises(ValueError, match="unet: no U-Net can be read") as error:
            load(tmp_path)
        assert "\n" not in str(error.value)
    (tmp_path / "scheduler" / "scheduler_config.json").write_text('{"_class_name": "Nothing"}')
    with pytest.raises(ValueError, match="'Nothing' is not in diffusers"):
        load_scheduler(tmp_path / "scheduler")
    for load in (load_scheduler, load_image_network):
        with pytest.raises(ValueError, match="nowhere"):
            load(tmp_path / "nowhere")


def test_a_record_has_the_same_bytes_whenever_it_is_written(tmp_path: Path) -> None:
    for name, seconds in (("one", 1.0), ("two", 2.0)):
        result = TrainingResult(3, 0, seconds, [(2, 0.5), (3, 0.25)], [(3, 0.75)])
        write_record(tmp_path / name, "training", result)
    for suffix in ("json", "png"):
        one, two = (
            (tmp_path / name / f"training.{suffix}").read_bytes() for name in ("one", "two")
        )
        assert one == two
    record = json.loads((tmp_path / "one" / "training.json").read_text())
    assert record == {"steps": 3, "loss": [[2, 0.5], [3, 0.25]], "validation_loss": [[3, 0.75]]}


@pytest.mark.filterwarnings("error")
def test_a_record_of_no_steps(tmp_path: Path) -> None:
    write_record(tmp_path, "none", TrainingResult(0, 0, 0.0))
    assert (tmp_path / "none.png").is_file()


def test_state_is_found_by_params_and_inputs_and_dropped_at_the_end(tmp_path: Path) -> None:
    given, scratch = tmp_path / "given", tmp_path / "scratch"
    given.write_text("a")

    def staged(seed: int, parts: int = 1) -> StagedTraining:
        params = Params(launch=LaunchConfig(gradient_accumulation=parts))
        return StagedTraining(scratch, params, replace(OPTIM, seed=seed), [given])

    def resumed_from(training: StagedTraining) -> int:
        return training.train(
            make_task(), lambda metrics, step: None, tmp_path / "out"
        ).resumed_from

    with pytest.raises(Stop):
        staged(1).train(
            at_step(make_task(), 5, _stop), lambda metrics, step: None, tmp_path / "out"
        )
    assert resumed_from(staged(2)) == 0
    assert resumed_from(staged(1, parts=2)) == 0
    assert resumed_from(staged(1)) == 4
    given.write_text("b")
    assert resumed_from(staged(1)) == 0
    assert len([path for path in scratch.iterdir() if path.is_dir()]) == 3  # the oldest was dropped
    staged(1).finish()
    assert len([path for path in scratch.iterdir() if path.is_dir()]) == 2


def test_the_same_training_does_not_run_twice_at_once(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    # The number of threads is a part of the fingerprint.
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    command = ["tests.training.test_tasks", str(scratch)]
    mine = StagedTraining(scratch, Params(), TextOptimConfig(), [])
    mine.claim()
    other = forked.start(command, tmp_path / "refused.txt", REPOSITORY, threads)
    assert "the same training is running in this folder" in other.wait(expected=1)
    mine.finish()
    forked.start(command, tmp_path / "claimed.txt", REPOSITORY, threads).wait()


def test_states_of_trainings_at_work_are_left_alone(tmp_path: Path) -> None:
    for i in range(4):
        (tmp_path / str(i)).mkdir()
        os.utime(tmp_path / str(i), (i, i))
    with_lock = (
        "import sys; from filelock import FileLock\n"
        "with FileLock(sys.argv[1]): print('locked', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", with_lock, str(tmp_path / ".0.lock")]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == "locked\n"
        late = StagedTraining(tmp_path, Params(), TextOptimConfig(), [])
        late.claim()
        late.finish()
        assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["0", "2", "3"]
        other.communicate("")
    later = StagedTraining(tmp_path, Params(), TextOptimConfig(), [])
    later.claim()
    later.finish()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "3"]


def _stop() -> None:
    raise Stop


if __name__ == "__main__":
    StagedTraining(Path(sys.argv[1]), Params(), TextOptimConfig(), []).claim()
