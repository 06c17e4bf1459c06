"""The networks of a params file or of a saved folder on torch's meta device: shapes without numbers or memory."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor

from lumiere.config import OptimConfig, Params
from lumiere.models import SpaceTimeUNet, layers_in_order
from lumiere.models.autoencoder import latent_factor
from lumiere.models.inflation import takes_text
from lumiere.models.text_to_image import read_stored_config, text_width
from lumiere.models.unet_builders import build_ssr_unet, build_text_to_image_unet
from lumiere.text import load_text_encoder
from lumiere.text.hub import pipeline_folder
from lumiere.text.minilm import MiniLMTextEncoder

META = torch.device("meta")


@dataclass
class Workload:
    """A network, and what one forward pass is given.

    Attributes:
        title: what it is.
        network: on the meta device.
        shape: of one training example without its batch axis, (c, t, h, w) or (c, h, w).
        text: tokens and width of its text, or None.
        optim: its training; None where it is not trained.
        sample_shape: of one forward pass when a video is made; None where none is.
        sample_passes: forward passes for one video.
    """

    title: str
    network: Any
    shape: tuple[int, ...]
    text: tuple[int, int] | None = None
    optim: OptimConfig | None = None
    sample_shape: tuple[int, ...] | None = None
    sample_passes: int = 0

    def inputs(
        self, batch_size: int, shape: tuple[int, ...] | None = None
    ) -> tuple[Tensor, dict[str, Any]]:
        """A batch: the sample, and the other arguments by name."""
        config = (
            self.network.unet.config
            if isinstance(self.network, SpaceTimeUNet)
            else self.network.config
        )
        device = next(self.network.parameters()).device
        given: dict[str, Any] = {
            "timestep": torch.zeros(batch_size, dtype=torch.long, device=device)
        }
        given["encoder_hidden_states"] = None
        if self.text is not None:
            given["encoder_hidden_states"] = torch.zeros(batch_size, *self.text, device=device)
            if (
                not config.mid_block_only_cross_attention
            ):  # diffusers' own attention over text alone takes no mask
                given["encoder_attention_mask"] = torch.ones(
                    batch_size, self.text[0], dtype=torch.long, device=device
                )
        if config.class_embed_type == "timestep":
            given["class_labels"] = torch.zeros(batch_size, dtype=torch.long, device=device)
        return torch.zeros(batch_size, *(shape or self.shape), device=device), given

    def loss(self, batch_size: int) -> tuple[Callable[[], Tensor], list[Tensor]]:
        """The forward pass of a training step, and what it is given."""
        sample, given = self.inputs(batch_size)
        config = getattr(self.network, "unet", self.network).config
        channels = min(
            config.in_channels, config.out_channels
        )  # without a condition, without a learned variance
        target = torch.zeros_like(sample[:, :channels])  # the clean clip, or the noise

        def run() -> Tensor:
            output = self.network(sample, **given).sample[:, :channels]
            return ((output.float() - target) ** 2).mean()

        return run, [sample, target, *(each for each in given.values() if each is not None)]


def workloads(params: Params, root: Path = Path()) -> list[Workload]:
    """The networks of a params file, in the order in which they are trained.

    Args:
        params: of which sizes, architectures and trainings are read.
        root: where relative paths in it start.

    Raises:
        ValueError: when a model that it names cannot be found, or a config file describes no such network.
    """
    t2i, ssr, generate = params.prepare_t2i, params.train_ssr, params.generate
    trains_t2i, trains_ssr_image = t2i.source == "train", ssr.image_model == "train"
    image_model = on_meta(lambda: text_to_image_network(params, root))
    ssr_image = on_meta(lambda: super_resolution_network(params, root))
    text = (params.decode.max_text_tokens, text_width(image_model.config))
    frames, low, channels = (
        params.decode.num_frames,
        image_model.config.sample_size,
        image_model.config.in_channels,
    )
    conditioned = inflate(image_model, conditioning_channels=channels + 1)
    in_channels = conditioned.total_channels
    enlarger = inflate(ssr_image, temporal_resampling=False)
    ssr_window = min(generate.window_size, generate.num_frames)
    found = [
        Workload(
            "text-to-image",
            image_model,
            (channels, low, low),
            text,
            t2i.optim if trains_t2i else None,
        )
    ]
    found.append(
        Workload(
            "base, conditioned",
            conditioned,
            (in_channels, frames, low, low),
            text,
            params.train_conditioned.optim,
            (in_channels, generate.num_frames, low, low),
            generate.num_inference_steps * (2 if generate.guidance_scale > 1 else 1),
        )
    )
    if trains_ssr_image:
        found.append(
            Workload(
                "super-resolution, image", ssr_image, (6, ssr.crop, ssr.crop), None, ssr.image_optim
            )
        )
    found.append(
        Workload(
            "super-resolution",
            enlarger,
            (6, ssr.window_size, ssr.crop, ssr.crop),
            None,
            ssr.optim,
            (6, ssr_window, ssr.size, ssr.size),
            generate.ssr_steps * _num_windows(generate.num_frames, ssr_window, generate.overlap),
        )
    )
    return found


def stored_workloads(folder: Path, num_frames: int = 16) -> list[Workload]:
    """The networks of a saved folder: a pipeline, a Space-Time U-Net, a text-to-image model or a U-Net.

    Raises:
        ValueError: when it is none of these.
    """
    if (folder / "model_index.json").is_file():
        index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
        parts = [name for name in ("unet", "ssr_unet") if (folder / name / "config.json").is_file()]
        if not parts:
            raise ValueError(f"{folder}: a {index.get('_class_name')} without unet/config.json")
        frames = index.get("num_frames") or num_frames
        return [_stored(folder / name, name, frames) for name in parts]
    if (folder / "unet" / "config.json").is_file():
        return [_stored(folder / "unet", "unet", num_frames)]
    if (folder / "config.json").is_file():
        return [_stored(folder, folder.name, num_frames)]
    raise ValueError(
        f"{folder}: no model_index.json, unet/config.json or config.json; expected a folder of a pipeline, a "
        "text-to-image model or a network"
    )


def _stored(folder: Path, title: str, num_frames: int) -> Workload:
    stored = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    settings = {key: value for key, value in stored.items() if not key.startswith("_")}
    kind = stored.get("_class_name")
    if kind == SpaceTimeUNet.__name__:
        network: Any = on_meta(lambda: SpaceTimeUNet(**settings))
        config, channels = network.unet.config, network.total_channels
    elif kind == UNet2DConditionModel.__name__:
        network = on_meta(lambda: UNet2DConditionModel.from_config(settings))
        config, channels = network.config, network.config.in_channels
    else:
        raise ValueError(
            f"{folder}/config.json: of a {kind}; allowed: SpaceTimeUNet, UNet2DConditionModel"
        )
    size = config.sample_size or 64
    height, width = (size, size) if isinstance(size, int) else size
    is_video = kind == SpaceTimeUNet.__name__
    shape = (channels, num_frames, height, width) if is_video else (channels, height, width)
    text = (77, text_width(config)) if takes_text(network.unet if is_video else network) else None
    return Workload(f"{title} ({kind})", network, shape, text, None, shape, 1)


def on_meta(build: Callable[[], Any]) -> Any:
    """What `build` makes, on the meta device."""
    with META:
        return build()


def inflate(unet2d: UNet2DConditionModel, **settings: Any) -> SpaceTimeUNet:
    """The Space-Time U-Net of an image network, on the meta device; nothing is copied."""
    config = {key: value for key, value in unet2d.config.items() if not key.startswith("_")}
    return on_meta(lambda: SpaceTimeUNet(unet2d_config=config, **settings)).train()


def text_to_image_network(params: Params, root: Path) -> UNet2DConditionModel:
    """The T2I's U-Net: of a config file or the small one where it is trained, otherwise the given model's."""
    config, file = params.prepare_t2i, params.prepare_t2i.unet_config
    if config.source != "train":
        return _given(config.source, root, config.size)
    # The text encoder's weights may be gigabytes on a hub; a config file says what width it was made for.
    width = (
        text_width(_whole(json.loads((root / file).read_text(encoding="utf-8"))))
        if file
        else _width(params)
    )
    return build_text_to_image_unet(
        config.size,
        config.block_out_channels,
        config.layers_per_block,
        width,
        root / file if file else "",
    )


def super_resolution_network(params: Params, root: Path) -> UNet2DConditionModel:
    """The image SR network, likewise."""
    config = params.train_ssr
    if config.image_model != "train":
        return _given(config.image_model, root, config.size)
    file = root / config.unet_config if config.unet_config else ""
    return build_ssr_unet(config.size, config.block_out_channels, config.layers_per_block, file)


def _given(source: str, root: Path, size: int) -> UNet2DConditionModel:
    here = root / source
    folder = here if here.is_dir() else pipeline_folder(source)
    settings = {
        k: v
        for k, v in read_stored_config(folder / "unet").items()
        if not k.startswith("_") and k != "self"
    }
    factor = 1
    if (folder / "vae").is_dir():  # of a latent model
        factor = latent_factor(
            read_stored_config(folder / "vae", AutoencoderKL)["block_out_channels"]
        )
    return UNet2DConditionModel.from_config(settings | {"sample_size": size // factor})


def _whole(settings: dict[str, Any]) -> dict[str, Any]:
    return {"encoder_hid_dim": None, "cross_attention_dim": 1280} | settings  # diffusers' defaults


def _width(params: Params) -> int:
    name = params.decode.text_encoder
    if name == MiniLMTextEncoder.name:
        return MiniLMTextEncoder.embed_dim
    return load_text_encoder(name, params.decode.max_text_tokens).embed_dim


def _num_windows(num_frames: int, window_size: int, overlap: int) -> int:
    from lumiere.diffusion.windows import temporal_windows

    return len(temporal_windows(num_frames, window_size, overlap))


def layer_parameters(network: UNet2DConditionModel | SpaceTimeUNet) -> int:
    """Parameters of the largest of the layers that FSDP gathers one at a time (`lumiere.training.parallel`)."""
    sizes = [sum(p.numel() for p in layer.parameters()) for layer in layers_in_order(network)]
    return max(sizes, default=0)
