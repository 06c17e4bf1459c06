"""A tiny model on disk, pictures and videos for it, and the command line as a function."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import lumiere.text
from lumiere.cli.app import app
from lumiere.data.video_io import write_video
from lumiere.diffusion.objective import make_scheduler
from lumiere.models import SpaceTimeUNet
from lumiere.pipelines import LumierePipeline
from tests.copies import copy_network
from tests.pipelines.conftest import WordHashEncoder, shaken, ssr_unet, text_to_image_unet

SIZE = 20  # of the inputs; the model makes 16, then 32
Generate = Callable[..., Any]


_networks: dict[Any, SpaceTimeUNet] = {}


@pytest.fixture(scope="module", autouse=True)
def networks_read_once() -> Iterator[None]:
    """Read the same files of a network once; later commands get copies, in a fifth of the time."""
    read = SpaceTimeUNet.from_pretrained

    def from_pretrained(
        cls: type[SpaceTimeUNet], folder: str | Path, *args: Any, **options: Any
    ) -> SpaceTimeUNet:
        where = Path(folder) / (options.get("subfolder") or "")
        files = sorted(where.iterdir()) if where.is_dir() else []
        stats = [(path.name, path.stat().st_mtime_ns, path.stat().st_size) for path in files]
        key = (cls, str(where.resolve()), repr((args, options)), str(stats))
        if key not in _networks:
            _networks[key] = read(folder, *args, **options)
        return copy_network(_networks[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SpaceTimeUNet, "from_pretrained", classmethod(from_pretrained))
        yield


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five frames of 16 pixels, then 32, with a style."""
    torch.manual_seed(0)
    unet = shaken(
        SpaceTimeUNet.from_unet2d(
            text_to_image_unet(), conditioning_channels=4, temporal_head_dim=8
        )
    )
    pipe = LumierePipeline(
        unet, make_scheduler(), WordHashEncoder(max_tokens=6), ssr_unet(), make_scheduler(),
        num_frames=5, fps=8, ssr_window_size=4, num_inference_steps=2, ssr_steps=1,
    )  # fmt: skip
    pipe.add_style("ink", {key: value * 1.1 for key, value in unet.unet.state_dict().items()})
    folder = tmp_path_factory.mktemp("model")
    pipe.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files to give to --image, --video and --mask, good and bad."""
    folder = tmp_path_factory.mktemp("inputs")
    noise = np.random.default_rng(0).integers(0, 255, (9, SIZE, SIZE, 3), dtype=np.uint8)
    picture = Image.fromarray(noise[0])
    picture.save(folder / "image.png")
    Image.fromarray(noise[1]).save(folder / "last.jpg")
    picture.convert("RGBA").save(folder / "opaque.png")
    clear = picture.convert("RGBA")
    clear.putpixel((0, 0), (0, 0, 0, 254))
    clear.save(folder / "alpha.png")
    Image.fromarray(noise[0, 5:15]).save(folder / "wide.png")
    write_video(folder / "wide.mp4", noise[:, 4:16], 8)
    picture.save(folder / "animated.gif", save_all=True, append_images=[Image.fromarray(noise[2])])
    picture.save(folder / "animated.webp", save_all=True, append_images=[Image.fromarray(noise[2])])
    Image.fromarray(np.zeros((SIZE, SIZE), np.uint16)).save(folder / "deep.png")
    (folder / "cut.png").write_bytes((folder / "image.png").read_bytes()[:200])
    (folder / "text.png").write_text("not a picture")
    for name, size, value in (("mask", SIZE, 255), ("small", SIZE // 2, 255), ("black", SIZE, 0)):
        mask = np.zeros((size, size), np.uint8)
        mask[size // 4 : size // 2, size // 4 : size // 2] = value
        Image.fromarray(mask).save(folder / f"{name}.png")
    moving = np.zeros((9, SIZE, SIZE, 3), np.uint8)
    for i in range(9):
        moving[i, 4:12, i : i + 8] = 255
    write_video(folder / "video.mp4", noise, 8)
    write_video(folder / "moving.mp4", moving, 8)
    write_video(folder / "short.mp4", moving[:3], 8)
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "folder.mp4").mkdir()
    return folder


@pytest.fixture
def generate(
    model: Path, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Generate:
    """`lumiere generate` with the tiny model, in a new folder; "@name" is a file of `inputs`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(lumiere.text.ENCODERS, WordHashEncoder.name, WordHashEncoder)

    def call(*arguments: str, with_model: bool = True) -> Any:
        words = [str(inputs / word[1:]) if word.startswith("@") else word for word in arguments]
        chosen = ["--model", str(model), "--device", "cpu"] if with_model else []
        return CliRunner().invoke(app, ["generate", *chosen, *words])

    return call


def names_in(folder: Path) -> list[str]:
    """All files below, hidden ones included."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
