"""Builds the networks of a params file or of a saved folder on torch's meta device: shapes without
numbers or memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers import AutoencoderKL, SchedulerMixin, UNet2DConditionModel
from torch import Tensor

from lumiere.config import DistilConfig, GenerateConfig, OptimConfig, Params
from lumiere.data.frame_sizes import Size, as_sizes, at_side, plain
from lumiere.diffusion.objective import make_scheduler
from lumiere.diffusion.schedulers import power_timesteps, takes_timesteps
from lumiere.diffusion.windows import temporal_windows
from lumiere.files import read_json
from lumiere.models import SpaceTimeUNet, layers_in_order
from lumiere.models.autoencoder import latent_factor
from lumiere.models.conditions import takes_text
from lumiere.models.diffusers_folders import read_stored_config
from lumiere.models.t2i_requirements import text_width
from lumiere.models.text_to_image import load_scheduler
from lumiere.models.unet_builders import build_ssr_unet, build_text_to_image_unet
from lumiere.models.weights import CONFIG_FILE, TEMPORAL_FILE
from lumiere.text import load_text_encoder
from lumiere.text.hub import pipeline_folder
from lumiere.text.minilm_encoder import MiniLMTextEncoder

META = torch.device("meta")
Network = TypeVar("Network")
UNET_DEFAULTS = {"encoder_hid_dim": None, "cross_attention_dim": 1280}  # of diffusers


@dataclass
class Workload:
    """A network and the inputs of one forward pass.

    Attributes:
        title: the name in the tables.
        network: the network, on the meta device.
        shape: one training example without its batch axis, (c, t, h, w) or (c, h, w).
        text: number and width of its text tokens, or None without text.
        optim: the settings of its training; None if it is not trained.
        sample_shape: the shape of one forward pass when a video is made; None if the network does
            not make videos.
        sample_passes: forward passes for one video.
        distilling_passes: forward passes without gradient in a training step, by the network and by
            its teacher, which is in memory as a whole; 0 without a teacher.
    """

    title: str
    network: UNet2DConditionModel | SpaceTimeUNet
    shape: tuple[int, ...]
    text: tuple[int, int] | None = None
    optim: OptimConfig | None = None
    sample_shape: tuple[int, ...] | None = None
    sample_passes: int = 0
    distilling_passes: float = 0.0

    @property
    def image_network(self) -> UNet2DConditionModel:
        """The network itself, or the image network inside a Space-Time U-Net."""
        return self.network.unet if isinstance(self.network, SpaceTimeUNet) else self.network

    def inputs(
        self, batch_size: int, shape: tuple[int, ...] | None = None
    ) -> tuple[Tensor, dict[str, Any]]:
        """Build a batch: the sample, and the other arguments by name."""
        config = self.image_network.config
        device = next(self.network.parameters()).device
        arguments: dict[str, Any] = {
            "timestep": torch.zeros(batch_size, dtype=torch.long, device=device),
            "encoder_hidden_states": None,
        }
        if self.text is not None:
            arguments["encoder_hidden_states"] = torch.zeros(batch_size, *self.text, device=device)
            # diffusers' own attention over text alone takes no mask.
            if not config.mid_block_only_cross_attention:
                mask = torch.ones(batch_size, self.text[0], dtype=torch.long, device=device)
                arguments["encoder_attention_mask"] = mask
        if config.class_embed_type == "timestep":
            labels = torch.zeros(batch_size, dtype=torch.long, device=device)
            arguments["class_labels"] = labels
        return torch.zeros(batch_size, *(shape or self.shape), device=device), arguments

    def loss(self, batch_size: int) -> tuple[Callable[[], Tensor], list[Tensor]]:
        """Return the forward pass of a training step as a function, and the tensors that it
        reads.
        """
        sample, arguments = self.inputs(batch_size)
        config = self.image_network.config
        # Without a condition, and without a learned variance.
        channels = min(config.in_channels, config.out_channels)
        target = torch.zeros_like(sample[:, :channels])  # the clean clip, or the noise

        def run() -> Tensor:
            output = self.network(sample, **arguments).sample[:, :channels]
            return ((output.float() - target) ** 2).mean()

        tensors = [each for each in arguments.values() if each is not None]
        return run, [sample, target, *tensors]


def _scheduler(params: Params, root: Path) -> SchedulerMixin:
    """Return the scheduler that comes with a params file's text-to-image model."""
    source = params.prepare_t2i.source
    if source == "train":
        return make_scheduler()
    return load_scheduler(_image_folder(source, root) / "scheduler")


def _count_steps(
    sampler: GenerateConfig | DistilConfig,
    num_inference_steps: int,
    scheduler: SchedulerMixin,
) -> tuple[int, int]:
    """Count the steps of a sampler and, among them, those with guidance."""
    total = scheduler.config.num_train_timesteps
    low, high = sampler.guidance_interval
    # The teacher's steps are even, as are those of a scheduler that takes no timesteps.
    is_spaced = isinstance(sampler, GenerateConfig) and takes_timesteps(scheduler)
    power = sampler.timestep_power if is_spaced else 1.0
    timesteps = power_timesteps(num_inference_steps, total, power)
    if sampler.guidance_scale <= 1:
        return len(timesteps), 0
    return len(timesteps), sum(low * total <= timestep <= high * total for timestep in timesteps)


def _distilled(params: Params, conditioned: Workload, scheduler: SchedulerMixin) -> Workload:
    """Describe the network that `distil` trains, which has the layers of the conditioned one."""
    config, settings = params.distil, conditioned.network.config
    network = SpaceTimeUNet.from_config(
        {key: value for key, value in settings.items() if not key.startswith("_")}
    ).train()
    for parameter in network.spatial_parameters():
        parameter.requires_grad_(config.trained == "all")
    steps, guided_steps = _count_steps(config, config.teacher_steps, scheduler)
    return replace(
        conditioned,
        title="base, distilled",
        network=network,
        optim=config.optim,
        sample_passes=config.num_inference_steps,
        distilling_passes=2 + guided_steps / steps,
    )


def workloads(params: Params, root: Path = Path()) -> list[Workload]:
    """Return the networks of a params file, in the order in which they are trained.

    Args:
        params: the sizes, architectures and trainings.
        root: the folder where relative paths in `params` start.

    Raises:
        ValueError: if a named model cannot be found, or a config file does not describe such a
            network.
    """
    t2i, ssr, generate = params.prepare_t2i, params.train_ssr, params.generate
    image_model = on_meta(lambda: text_to_image_network(params, root))
    ssr_image = on_meta(lambda: super_resolution_network(params, root))
    conditioned = inflate(image_model, conditioning_channels=image_model.config.in_channels + 1)
    enlarger = inflate(ssr_image, temporal_resampling=False)

    text = (params.decode.max_text_tokens, text_width(image_model.config))
    frames = params.decode.num_frames
    ((height, width),) = as_sizes(image_model.config.sample_size)
    scheduler = _scheduler(params, root)
    steps, guided_steps = _count_steps(generate, generate.num_inference_steps, scheduler)
    has_guide = generate.guidance_type == "auto"
    base_passes = steps if has_guide else steps + guided_steps
    ssr_window = min(generate.window_size, generate.num_frames)
    windows = temporal_windows(generate.num_frames, ssr_window, generate.overlap)

    loads = [
        Workload(
            "text-to-image",
            image_model,
            (image_model.config.in_channels, height, width),
            text,
            t2i.optim if t2i.source == "train" else None,
        ),
        Workload(
            "base, conditioned",
            conditioned,
            (conditioned.total_channels, frames, height, width),
            text,
            params.train_conditioned.optim,
            (conditioned.total_channels, generate.num_frames, height, width),
            base_passes,
        ),
    ]
    if params.distil.optim.steps:
        loads.append(on_meta(lambda: _distilled(params, loads[-1], scheduler)))
    if has_guide:
        guide = _guide_network(root / generate.guide_unet, conditioned)
        guided = (guide.total_channels, generate.num_frames, height, width)
        loads.append(Workload("guide", guide, guided, text, None, guided, guided_steps))
    if ssr.image_model == "train":
        shape = (6, ssr.crop, ssr.crop)
        loads.append(Workload("super-resolution, image", ssr_image, shape, None, ssr.image_optim))
    loads.append(
        Workload(
            "super-resolution",
            enlarger,
            (6, ssr.window_size, ssr.crop, ssr.crop),
            None,
            ssr.optim,
            (6, ssr_window, *_main_size(params, ssr.size)),
            generate.ssr_steps * len(windows),
        )
    )
    return loads


def stored_workloads(folder: Path, num_frames: int = 16) -> list[Workload]:
    """Return the networks of a saved folder: a pipeline, a Space-Time U-Net, a text-to-image model
    or a U-Net.

    Raises:
        ValueError: if the folder is none of these.
    """
    if (folder / "model_index.json").is_file():
        index = read_json(folder / "model_index.json")
        names = ("unet", "guide_unet", "ssr_unet")
        parts = [name for name in names if (folder / name / "config.json").is_file()]
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


def _guide_network(folder: Path, base: SpaceTimeUNet) -> SpaceTimeUNet:
    """Return the network of autoguidance: another, or the base network with other weights.

    Raises:
        ValueError: if the folder holds neither.
    """
    if not (folder / CONFIG_FILE).is_file():
        if not (folder / TEMPORAL_FILE).is_file():
            raise ValueError(
                f"generate.guide_unet: {folder}: no {CONFIG_FILE} and no {TEMPORAL_FILE}; expected "
                "a folder of SpaceTimeUNet.save_pretrained or save_temporal"
            )
        return base
    network = _stored(folder, "guide", 1).network
    if not isinstance(network, SpaceTimeUNet):
        raise ValueError(f"{folder}/config.json: an image network; expected a SpaceTimeUNet")
    return network


def _stored(folder: Path, title: str, num_frames: int) -> Workload:
    stored = read_json(folder / "config.json")
    settings = {key: value for key, value in stored.items() if not key.startswith("_")}
    kind = stored.get("_class_name")
    if kind == SpaceTimeUNet.__name__:
        network = on_meta(lambda: SpaceTimeUNet(**settings))
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


def on_meta(build: Callable[[], Network]) -> Network:
    """Call `build` with the meta device as the default."""
    with META:
        return build()


def inflate(unet2d: UNet2DConditionModel, **settings: Any) -> SpaceTimeUNet:
    """Inflate an image network to a Space-Time U-Net on the meta device; nothing is copied."""
    config = {key: value for key, value in unet2d.config.items() if not key.startswith("_")}
    return on_meta(lambda: SpaceTimeUNet(unet2d_config=config, **settings)).train()


def text_to_image_network(params: Params, root: Path) -> UNet2DConditionModel:
    """Return the T2I's U-Net: the one that a params file trains, or the one of the model that it
    names.
    """
    config = params.prepare_t2i
    if config.source != "train":
        return _named_network(config.source, root, _main_size(params, config.size))
    return build_text_to_image_unet(
        plain(_main_size(params, config.size)),
        config.block_out_channels,
        config.layers_per_block,
        _text_width(params, root),
        root / config.unet_config if config.unet_config else "",
    )


def super_resolution_network(params: Params, root: Path) -> UNet2DConditionModel:
    """Return the image network for super-resolution, found in the same way."""
    config = params.train_ssr
    size = _main_size(params, config.size)
    source = config.image_init_from if config.image_model == "train" else config.image_model
    if source:
        return _named_network(source, root, size)
    file = root / config.unet_config if config.unet_config else ""
    return build_ssr_unet(plain(size), config.block_out_channels, config.layers_per_block, file)


def _image_folder(source: str, root: Path) -> Path:
    here = root / source
    return here if here.is_dir() else pipeline_folder(source)


def _main_size(params: Params, side: int) -> Size:
    """Return the main size of clips, with this shorter side."""
    return at_side(as_sizes(params.decode.size), side)[0]


def _named_network(source: str, root: Path, size: Size) -> UNet2DConditionModel:
    folder = _image_folder(source, root)
    stored = read_stored_config(folder / "unet")
    settings = {key: value for key, value in stored.items() if not key.startswith("_")}
    settings.pop("self", None)
    factor = 1
    if (folder / "vae").is_dir():  # of a latent model
        factor = latent_factor(
            read_stored_config(folder / "vae", AutoencoderKL)["block_out_channels"]
        )
    return UNet2DConditionModel.from_config(
        settings | {"sample_size": plain([length // factor for length in size])}
    )


def _text_width(params: Params, root: Path) -> int:
    """Return the width of text states without loading a text encoder, whose weights may be
    gigabytes on a hub.
    """
    file, name = params.prepare_t2i.unet_config, params.decode.text_encoder
    if file:
        return text_width(UNET_DEFAULTS | read_json(root / file))
    if name == MiniLMTextEncoder.name:
        return MiniLMTextEncoder.embed_dim
    return load_text_encoder(name, params.decode.max_text_tokens).embed_dim


def layer_parameters(network: UNet2DConditionModel | SpaceTimeUNet) -> int:
    """Count the parameters of the largest layer that FSDP gathers at a time
    (`lumiere.training.parallel`).
    """
    sizes = [sum(p.numel() for p in layer.parameters()) for layer in layers_in_order(network)]
    return max(sizes, default=0)
