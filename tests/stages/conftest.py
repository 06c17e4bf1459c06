"""A project of tiny clips, networks and prompts, in which the stages run as dvc.yaml calls them."""

from __future__ import annotations

import importlib
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

import stages
from lumiere.data.frame_sizes import as_sizes
from lumiere.data.prepare import embed_captions
from lumiere.data.shards import Sample, pack_frames, write_index, write_null_text, write_shards
from lumiere.text import load_text_encoder
from lumiere.training.diffusion_task import DiffusionTask
from lumiere.training.image_task import TextToImageTask
from lumiere.training.ssr_task import SuperResolutionTask
from tests.conftest import REPOSITORY, make_once
from tests.stages.linked_outputs import changed_in_cache, drop_links, link_outputs
from tests.video_factory import numbered

FRAMES, FPS, SIZE, LARGE, TOKENS = 8, 16, 16, 32, 8  # tokens: not the encoder's default
SUBJECTS = ["cat", "dog", "crab", "horse", "pig", "owl", "fox", "ant"]  # the last two are held out
STYLE = "ink-wash"
OPTIM = {
    "steps": 3,
    "batch_size": 2,
    "learning_rate": 0.01,
    "warmup_steps": 1,
    "ema_decay": 0.5,
    "log_every": 2,
}
OPTIM |= {"checkpoint_every": 2, "validate_every": 2}
PARAMS: dict[str, Any] = {
    "curate": {"min_seconds": 0.5},
    "decode": {"fps": FPS, "num_frames": FRAMES, "size": LARGE, "max_text_tokens": TOKENS},
    "prepare_t2i": {"source": "train", "size": SIZE, "block_out_channels": [16, 32], "optim": OPTIM},
    "train_base": {"init_from": "", "optim": OPTIM},
    "train_conditioned": {"init_from": "", "optim": OPTIM},
    "distil": {"num_inference_steps": 2, "teacher_steps": 4, "optim": OPTIM},
    "train_ssr": {
        "image_model": "train", "init_from": "", "size": LARGE, "low_size": SIZE, "window_size": 4, "crop": 16,
        "block_out_channels": [16, 32], "image_optim": OPTIM, "optim": OPTIM,
    },
    "train_style": {"style": STYLE, "optim": OPTIM},
    "blend_style": {"alphas": [0.5, 1.0]},
    "generate": {
        "num_inference_steps": 2, "ssr_steps": 2, "num_frames": FRAMES, "fps": FPS, "window_size": 4, "overlap": 1,
        "set_size": 4, "held_out_set_size": 2, "image_set_size": 3, "style_prompts": 2, "seam_videos": 2,
        "seam_window_size": 3, "seam_overlap": 1, "seam_crop": 8,
    },
    "evaluate": {"judge": str(REPOSITORY / "pretrained" / "judge"), "num_videos": 4, "num_frames": FRAMES},
    "runtime": {"sample_every": 0},
}  # fmt: skip
PROMPTS = f"""\
name,mode,prompt,clip,mask,style,alpha,strength
text,text_to_video,an ink drawing of a cat,,,{STYLE},0.5,
image,image_to_video,a dog runs,dog@0,,{STYLE},1.0,
inpaint,inpainting,a crab walks,crab@0,"0,0,0.5,1",,,
outpaint,outpainting,a horse gallops,horse@0,,,,
cinemagraph,cinemagraph,an owl blinks,fox@0,"0.25,0.25,0.75,0.75",,,
edit,video_to_video,a red pig,pig@0,,,,0.6
"""


def commands() -> dict[str, list[str]]:
    """Every stage's arguments, as dvc.yaml gives them."""
    dag = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text(encoding="utf-8"))
    return {name: shlex.split(stage["cmd"])[3:] for name, stage in dag["stages"].items()}


def run_stage(root: Path, name: str, params: dict[str, Any] | None = None, **paths: Path) -> None:
    """Run a stage in `root` as dvc.yaml does, with other values in its sections of params, or other paths."""
    values = {
        section: {**entries, **(params or {}).get(section, {})}
        for section, entries in PARAMS.items()
    }
    (root / "params.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    # argparse takes the last value of each option.
    replaced = [part for key, path in paths.items() for part in (f"--{key}", str(path))]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setenv("LUMIERE_TRACKING", "off")
        patch.setenv("LUMIERE_NUM_THREADS", "1")
        patch.setenv("OMP_NUM_THREADS", "1")  # what the stage sets is gone afterwards
        patch.setattr(sys, "argv", [name, *commands()[name], *replaced])
        stages.run(importlib.import_module(f"stages.{name}").main)


def write_clips(folder: Path, held_out: int = 2, fps: int = FPS, size: Any = LARGE) -> None:
    """What the decode stage would write: one clip of every subject, the last ones for validation;
    with several sizes, each subject has the next one.
    """
    sizes = as_sizes(size)
    encoder = load_text_encoder("minilm", TOKENS)
    captions = {name: [f"a {name}", f"a small {name} moves"] for name in SUBJECTS}
    embeddings = embed_captions(
        [text for texts in captions.values() for text in texts] + [""], encoder
    )
    samples = []
    for i, name in enumerate(SUBJECTS):
        embeds, masks = zip(*(embeddings[text] for text in captions[name]), strict=True)
        info = {
            "clip_id": f"{name}@0",
            "video": f"{name}.mp4",
            "start": 0.0,
            "captions": captions[name],
            "fps": fps,
        }
        bucket = i % len(sizes)
        height, width = sizes[bucket]
        frames = numbered(FRAMES, subject=i, height=height, width=96)[:, :, :width]
        number = bucket if len(sizes) > 1 else None
        samples.append(Sample(pack_frames(frames), np.stack(embeds), np.stack(masks), info, number))
    folder.mkdir(parents=True)
    first = len(SUBJECTS) - held_out
    splits = {}
    for split, own in {"train": samples[:first], "validation": samples[first:]}.items():
        own.sort(key=lambda sample: sample.bucket or 0)
        splits[split] = write_shards(folder, split, own, 64)
    settings = {"fps": fps, "num_frames": FRAMES, "size": size, "text_encoder": "minilm"}
    write_null_text(folder, *embeddings[""])
    write_index(folder, splits, **settings, embed_dim=encoder.embed_dim, max_text_tokens=TOKENS)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put test_kills, which does without the chain, second: one worker makes the chain meanwhile."""
    first = ["test_chain.py", "test_kills.py"]
    places = [i for i, item in enumerate(items) if item.path.parent == Path(__file__).parent]
    found = [items[i] for i in places]
    found.sort(key=lambda item: [item.path.name != name for name in first])
    for place, item in zip(places, found, strict=True):
        items[place] = item


def make_project(root: Path, size: Any = LARGE) -> None:
    """Write clips of one or several sizes, prompts and a style's pictures where dvc.yaml looks for them."""
    write_clips(root / "outputs" / "clips", size=size)
    style = root / "data" / "styles" / STYLE
    style.mkdir(parents=True)
    (root / "data" / "prompts.csv").write_text(PROMPTS, encoding="utf-8")
    for i, name in enumerate(SUBJECTS[:3]):
        Image.fromarray(255 - numbered(1, subject=i)[0]).save(style / f"{name}.png")
    rows = [f"{name}.png,an ink drawing of a {name}" for name in SUBJECTS[:3]]
    (style / "captions.csv").write_text(
        "\n".join(["image,caption", *rows]) + "\n", encoding="utf-8"
    )


@contextmanager
def few_validations() -> Iterator[None]:
    """Let the stages of this process validate on three examples; two clips are held out."""
    with pytest.MonkeyPatch.context() as patch:
        for task in (DiffusionTask, TextToImageTask, SuperResolutionTask):
            patch.setattr(task, "validation_clips", 3)
        yield


@pytest.fixture(autouse=True)
def _few_validations(request: pytest.FixtureRequest) -> Iterator[None]:
    """As in the chain, for tests that compare its bytes with those of other runs."""
    with few_validations() if "chain" in request.fixturenames else nullcontext():
        yield


def make_chain(root: Path) -> None:
    """Make a project, and run all stages from the T2I to the evaluation in it, each on links into a
    cache.

    Raises:
        AssertionError: if one has written through such a link.
    """
    make_project(root)
    with few_validations():
        for name in list(commands())[2:]:
            link_outputs(root)
            run_stage(root, name)
            assert not changed_in_cache(root), f"{name} writes into outputs of other stages"
    drop_links(root)


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `make_project` says, in a folder with a space in its name."""
    root = tmp_path_factory.mktemp("tiny project")
    make_project(root)
    return root


@pytest.fixture(scope="session")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `make_chain` says: this worker's copy of what one worker made."""
    made = make_once(tmp_path_factory, "tiny chain", make_chain)
    return Path(shutil.copytree(made, tmp_path_factory.mktemp("a copy") / made.name))
