"""The schema of `params.yaml` as frozen dataclasses: one class per section, one section per stage."""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from lumiere.errors import ParamsError
from lumiere.params_file import choice, number, read
from lumiere.plurals import counted
from lumiere.style import STYLE_NAME

__all__ = ["Params", "load_params", "to_dict"]


@dataclass(frozen=True)
class CurateConfig:
    """The conditions on raw videos to become training clips."""

    seed: int = number(0, at_least=0)
    # wall-clock limit for one video without progress, such as a decoded frame, and for the list of
    # an object store
    timeout_s: float = number(60.0, above=0)
    memory_mb: float = number(4096.0, at_least=64)  # limit for each worker
    workers: int = number(2, at_least=1)
    min_seconds: float = number(1.0, above=0)
    min_side: int = number(64, at_least=1)  # pixels
    # mean change of hue, saturation and value, 0 to 255, that makes a clear cut
    shot_threshold: float = number(27.0, above=0)
    # mean length of the optical flow, pixels per frame at 64 pixels
    min_motion: float = number(0.01, at_least=0)
    # variance of the Laplacian, which depends on the size of the pictures; 0 for no threshold
    min_sharpness: float = number(0.0, at_least=0)
    # shares of the pixels that are nearly black, and nearly white; 1 for no threshold
    max_dark_share: float = number(1.0, at_least=0, at_most=1)
    max_bright_share: float = number(1.0, at_least=0, at_most=1)
    # up to this many differing bits of 64, two clips may be duplicates
    max_hash_distance: int = number(4, at_least=0, at_most=64)
    validation_fraction: float = number(0.1, at_least=0, at_most=0.5)
    # folders outside the raw folder that links in it may lead to
    allowed_roots: tuple[str, ...] = ()
    # a transformers model that describes clips without a caption: a folder or a hub name
    captioner: str = ""
    # "uncaptioned": clips without any caption; "shots": also the shots of a video whose caption
    # describes several
    captioner_for: str = choice("uncaptioned", "shots")
    # "<architecture>/<file>.safetensors" of open_clip; measures how well clips fit their captions
    clip_model: str = ""
    # the linear layer on that model's image features that scores beauty, as .safetensors or .pth
    aesthetic_head: str = ""
    # measures how much of the pictures text covers; "rapidocr" is an extra
    text_reader: str = choice("none", "rapidocr")
    min_aesthetic: float = number(0.0, at_least=0)  # 0 for no threshold
    min_caption_match: float = number(0.0, at_least=0, at_most=1)  # 0 for no threshold
    max_text_area: float = number(1.0, at_least=0, at_most=1)  # 1 for no threshold

    def __post_init__(self) -> None:
        needs = (
            ("captioner_for", self.captioner_for == "shots", "captioner", bool(self.captioner)),
            ("aesthetic_head", bool(self.aesthetic_head), "clip_model", bool(self.clip_model)),
            ("min_aesthetic", self.min_aesthetic > 0, "aesthetic_head", bool(self.aesthetic_head)),
            ("min_caption_match", self.min_caption_match > 0, "clip_model", bool(self.clip_model)),
            ("max_text_area", self.max_text_area < 1, "text_reader", self.text_reader != "none"),
        )
        for key, is_set, other, has_other in needs:
            if is_set and not has_other:
                value = getattr(self, key)
                raise ParamsError(f"{key}: {value!r}; allowed only if {other} names a model")


@dataclass(frozen=True)
class DecodeConfig:
    """The shape of training clips."""

    fps: int = number(16, at_least=1)
    num_frames: int = number(16, at_least=1)
    # pixels; the SSR's output size: the side of a square, [height, width], or a list of such pairs.
    # In a list, each clip gets the pair that crops least, and generated videos have the first.
    size: int | tuple[int | tuple[int, ...], ...] = 128
    clips_per_video: int = number(2, at_least=1)
    # share of the motion of a clip's liveliest window that each of its windows must have
    min_window_motion: float = number(0.1, at_least=0, at_most=1)
    # how far below that of the clip's best window a window's fit with its caption may be, as a
    # difference of cosines; only with curate.clip_model
    max_match_drop: float = number(0.05, at_least=0, at_most=2)
    clips_per_shard: int = number(64, at_least=1)
    timeout_s: float = number(60.0, above=0)
    memory_mb: float = number(4096.0, at_least=64)
    # decord only reads the files that curation trusts it with; it returns the same frames
    decoder: str = choice("pyav", "decord")
    workers: int = number(2, at_least=1)
    # "minilm", "open_clip:<architecture>/<tag or .safetensors file>" or "diffusers:<folder or hub
    # name>"
    text_encoder: str = "minilm"
    # at least a start, a word and an end; the encoder limits it further
    max_text_tokens: int = number(32, at_least=3)

    def __post_init__(self) -> None:
        sizes = self.sizes
        for size in sizes:
            if len(size) != 2 or min(size) < 8:
                raise ParamsError(
                    f"size: {self.size!r}; allowed: a number, [height, width], or a list of such "
                    "pairs, each at least 8 pixels"
                )
        if len(set(sizes)) < len(sizes):
            raise ParamsError(f"size: {self.size!r}; allowed: each pair once")

    @property
    def sizes(self) -> list[tuple[int, ...]]:
        """All sizes of clips, (height, width) each; the main one first."""
        if isinstance(self.size, int):
            return [(self.size, self.size)]
        if all(isinstance(entry, int) for entry in self.size):  # one size
            return [cast(tuple[int, ...], self.size)]
        return [entry if isinstance(entry, tuple) else (entry,) for entry in self.size]


@dataclass(frozen=True)
class LaunchConfig:
    """The way in which trainings are computed: processes, precision and memory.

    Apart from the rounding of bf16 and fp16, these settings only change the last bits of the
    weights.
    """

    # on this machine; torchrun for several machines
    processes: int = number(1, at_least=1)
    # whether each process holds the whole network, or a share of it (FSDP2)
    strategy: str = choice("ddp", "fsdp")
    # of arithmetic; weights and optimizer stay in float32
    precision: str = choice("fp32", "bf16", "fp16")
    # parts into which a process splits its share of a batch
    gradient_accumulation: int = number(1, at_least=1)
    gradient_checkpointing: bool = False
    compile: bool = False

    def __post_init__(self) -> None:
        if self.strategy == "fsdp" and self.precision == "fp16":
            raise ParamsError("precision: 'fp16'; allowed with strategy fsdp: fp32, bf16")


@dataclass(frozen=True)
class RuntimeConfig:
    """Settings that do not change results and do not make stages stale."""

    # processes that read clips for each training process; with 0 it reads them itself
    workers: int = number(0, at_least=0)
    # memory of each of these processes for decoded clips and texts, used if a whole split fits
    cache_mb: int = number(512, at_least=0)
    # a training ends when one of its processes does not respond for this long
    timeout_s: float = number(1800.0, above=0)
    # steps between sample videos during training; 0 for none
    sample_every: int = number(0, at_least=0)
    sample_guidance_scale: float = number(3.0, at_least=1)
    # what runs the workers of curate and decode: processes of this machine, or a Ray cluster
    engine: str = choice("local", "ray")
    # of a running Ray cluster; if empty, Ray is started on this machine
    address: str = ""


@dataclass(frozen=True)
class RegistryConfig:
    """The model in MLflow's registry. No stage reads it."""

    name: str = "lumiere"
    # a score of the stage evaluate that has an interval; it decides which version is the champion
    metric: str = "independent_frechet"

    def __post_init__(self) -> None:
        # MLflow refuses slashes and colons, and its queries have no way to quote a quotation mark.
        if not self.name.strip() or set(self.name) & set("/:'\"`\\"):
            raise ParamsError(
                f"name: {self.name!r}; allowed: text without slashes, colons, quotation marks and "
                "backslashes"
            )


@dataclass(frozen=True)
class OptimConfig:
    """The settings of the training loop, for every training."""

    steps: int = number(100, at_least=0)
    batch_size: int = number(4, at_least=1)  # clips per step, over all processes
    optimizer: str = choice("adamw", "adafactor")
    learning_rate: float = number(1e-3, above=0)
    warmup_steps: int = number(20, at_least=0)
    # at the end of the cosine schedule, as a share of learning_rate
    final_learning_rate: float = number(0.1, at_least=0, at_most=1)
    weight_decay: float = number(0.01, at_least=0)
    max_grad_norm: float = number(1.0, above=0)
    ema_decay: float = number(0.999, at_least=0, at_most=0.99999)
    min_snr_gamma: float = number(0.0, at_least=0)  # 0 switches the weighting off
    checkpoint_every: int = number(50, at_least=1)
    log_every: int = number(10, at_least=1)
    validate_every: int = number(50, at_least=1)
    # the training stops when the smoothed loss exceeds its best value times this factor
    divergence_factor: float = number(5.0, above=1)
    # clips that are shuffled among each other; shards are shuffled too
    shuffle_buffer: int = number(4096, at_least=1)
    seed: int = number(0, at_least=0)


@dataclass(frozen=True)
class TextOptimConfig(OptimConfig):
    """The settings of a training with text; super-resolution has no text."""

    # share of training clips that get the empty sentence
    text_dropout: float = number(0.1, at_least=0, at_most=1)


@dataclass(frozen=True)
class PrepareT2IConfig:
    """The frozen text-to-image model: shipped, a diffusers folder or hub name, or trained here."""

    # a folder, a hub name, or "train"
    source: str = "pretrained/t2i"
    # pixels of the shorter side; a pretrained model may have been trained at another size
    size: int = number(32, at_least=8)
    # The remaining keys apply to "train" only.
    # a UNet2DConditionModel's config.json; empty: a small network of the two that follow
    unet_config: str = ""
    block_out_channels: tuple[int, ...] = (32, 96, 128)
    layers_per_block: int = number(1, at_least=1)
    optim: TextOptimConfig = field(default_factory=TextOptimConfig)

    def __post_init__(self) -> None:
        _check_widths(self.block_out_channels)


@dataclass(frozen=True)
class TrainBaseConfig:
    """Temporal layers of the base Space-Time U-Net."""

    init_from: str = ""  # a folder written by save_temporal; empty starts at the identity
    resampling_init: str = choice("nearest", "he")
    # share of the steps that train on single frames
    image_share: float = number(0.0, at_least=0, at_most=1)
    # between the noise of any two frames of a clip: 0 for independent noise, 1 for equal noise
    noise_correlation: float = number(0.0, at_least=0, at_most=1)
    optim: TextOptimConfig = field(default_factory=TextOptimConfig)

    def __post_init__(self) -> None:
        if self.resampling_init != "nearest" and self.init_from:
            raise ParamsError(
                f"resampling_init: {self.resampling_init!r}; "
                f"allowed: nearest, because the weights in init_from ({self.init_from!r}) replace it"
            )


# Which pixels of a training clip are known; lumiere.training.masks draws each kind.
MASK_KINDS = (
    "text_only",
    "first_frame",
    "last_frame",
    "first_and_last",
    "inpainting_box",
    "inpainting_moving_box",
    "inpainting_free_form",
    "outpainting",
    "cinemagraph",
)


def _default_mask_weights() -> dict[str, float]:
    return {
        "text_only": 1.0,
        "first_frame": 2.0,
        "last_frame": 0.5,
        "first_and_last": 0.5,
        "inpainting_box": 0.25,
        "inpainting_moving_box": 0.25,
        "inpainting_free_form": 0.5,
        "outpainting": 0.5,
        "cinemagraph": 1.0,
    }


def _check_mask_weights(mask_weights: dict[str, float]) -> None:
    if min(mask_weights.values(), default=0) < 0 or sum(mask_weights.values()) <= 0:
        raise ParamsError(
            f"mask_weights: {mask_weights}; allowed: weights of at least 0 with a sum above 0"
        )
    unknown = sorted(set(mask_weights) - set(MASK_KINDS))
    if unknown:
        raise ParamsError(
            f"mask_weights.{unknown[0]}: unknown mask kind; allowed: {', '.join(MASK_KINDS)}"
        )


@dataclass(frozen=True)
class TrainConditionedConfig:
    """Fine-tuning on <J, C, M>; masks are drawn by their relative weights."""

    # a folder written by save_temporal, for the added input convolution; empty starts at zero
    init_from: str = ""
    mask_weights: dict[str, float] = field(default_factory=_default_mask_weights)
    image_share: float = number(0.0, at_least=0, at_most=1)
    # between the noise of any two frames of a clip: 0 for independent noise, 1 for equal noise
    noise_correlation: float = number(0.0, at_least=0, at_most=1)
    optim: TextOptimConfig = field(default_factory=TextOptimConfig)

    def __post_init__(self) -> None:
        _check_mask_weights(self.mask_weights)


@dataclass(frozen=True)
class DistilConfig:
    """The conditioned network, distilled to few steps without guidance."""

    num_inference_steps: int = number(4, at_least=1)  # of the distilled network
    # of the teacher; a multiple of num_inference_steps that divides the schedule's timesteps, which
    # are 1000 as a rule
    teacher_steps: int = number(20, at_least=1)
    # of the distilled network's sampler; above 1, more of the steps are at low noise levels
    timestep_power: float = number(1.0, at_least=1)
    # The teacher's guidance, as in `generate`. It becomes a part of the weights.
    guidance_scale: float = number(3.0, at_least=1)
    guidance_rescale: float = number(0.7, at_least=0, at_most=1)
    guidance_interval: tuple[float, ...] = (0.0, 1.0)
    # "temporal" keeps the image model, so that styles fit
    trained: str = choice("all", "temporal")
    mask_weights: dict[str, float] = field(default_factory=_default_mask_weights)
    noise_correlation: float = number(0.0, at_least=0, at_most=1)
    # with 0 steps, nothing is distilled
    optim: TextOptimConfig = field(default_factory=lambda: TextOptimConfig(steps=0))

    def __post_init__(self) -> None:
        if self.teacher_steps % self.num_inference_steps:
            raise ParamsError(
                f"teacher_steps: {self.teacher_steps}; allowed: multiples of num_inference_steps "
                f"({self.num_inference_steps})"
            )
        _check_interval("guidance_interval", self.guidance_interval)
        _check_mask_weights(self.mask_weights)


@dataclass(frozen=True)
class TrainSSRConfig:
    """The spatial super-resolution network, trained on windows of window_size frames."""

    image_model: str = "pretrained/ssr_image"  # a folder with an image SR U-Net, or "train"
    init_from: str = ""
    size: int = number(128, at_least=8)  # pixels of the output's shorter side
    low_size: int = number(32, at_least=8)  # pixels of that of the base model's output
    # frames; generate.window_size may differ
    window_size: int = number(8, at_least=1)
    # pixels of the high-resolution crop that a training step uses
    crop: int = number(64, at_least=8)
    # noise augmentation of the low-resolution input
    max_noise_level: float = number(0.3, at_least=0, at_most=1)
    # between the noise of any two frames of a clip: 0 for independent noise, 1 for equal noise
    noise_correlation: float = number(1.0, at_least=0, at_most=1)
    # The next five keys describe the image network, and apply to "train" only.
    # a folder with an image SR U-Net whose training goes on; empty: a new network of the next three
    image_init_from: str = ""
    # a UNet2DConditionModel's config.json; empty: a small network of the two that follow
    unet_config: str = ""
    block_out_channels: tuple[int, ...] = (32, 48, 96)
    layers_per_block: int = number(1, at_least=1)
    image_optim: OptimConfig = field(default_factory=OptimConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)

    def __post_init__(self) -> None:
        _check_widths(self.block_out_channels)
        if self.low_size >= self.size:
            raise ParamsError(f"low_size: {self.low_size}; allowed: below size ({self.size})")
        if self.image_init_from and self.image_model != "train":
            raise ParamsError(
                f"image_init_from: {self.image_init_from!r}; allowed: empty, unless image_model is "
                f"train ({self.image_model!r})"
            )
        if self.crop > self.size:
            raise ParamsError(f"crop: {self.crop}; allowed: at most train_ssr.size ({self.size})")


@dataclass(frozen=True)
class TrainStyleConfig:
    """The text-to-image model fine-tuned on the pictures of one style."""

    # a folder under data/styles
    style: str = "line-art"
    # rank of the adapters that are trained; 0 trains all weights
    lora_rank: int = number(0, at_least=0)
    optim: TextOptimConfig = field(default_factory=TextOptimConfig)

    def __post_init__(self) -> None:
        if not re.fullmatch(STYLE_NAME, self.style):
            raise ParamsError(f"style: {self.style!r}; allowed: letters, digits, - and _")


@dataclass(frozen=True)
class BlendStyleConfig:
    """W = alpha * W_style + (1 - alpha) * W_orig, for each alpha."""

    alphas: tuple[float, ...] = (0.5, 1.0)

    def __post_init__(self) -> None:
        for alpha in self.alphas:
            if not 0 <= alpha <= 1:
                raise ParamsError(f"alphas: {alpha}; allowed: 0 to 1")
        if not self.alphas or len(set(self.alphas)) != len(self.alphas):
            raise ParamsError(
                f"alphas: {list(self.alphas)}; allowed: at least one value, each once"
            )


@dataclass(frozen=True)
class GenerateConfig:
    """Batch generation from a prompts file."""

    num_inference_steps: int = number(20, at_least=1)
    # above 1, more of the steps are at low noise levels
    timestep_power: float = number(1.0, at_least=1)
    guidance_scale: float = number(3.0, at_least=1)
    guidance_rescale: float = number(0.7, at_least=0, at_most=1)
    # the lowest and the highest noise level with guidance; 0 is clean, 1 is pure noise
    guidance_interval: tuple[float, ...] = (0.0, 1.0)
    # what guidance moves away from: the negative prompt, or the prediction of guide_unet
    guidance_type: str = choice("cfg", "auto")
    # the folder of a weaker Space-Time U-Net, or of temporal weights that save_temporal wrote;
    # empty for none
    guide_unet: str = ""
    # adaptive projected guidance; 1, 0 and 0 are plain guidance
    guidance_eta: float = number(1.0, at_least=0, at_most=1)
    # the largest root mean square of the difference in x_0, where pixels are from -1 to 1; 0 sets
    # no limit
    guidance_threshold: float = number(0.0, at_least=0)
    guidance_momentum: float = number(0.0, at_least=-1, at_most=0)
    # between the noise of any two frames of a video, in the base model and in super-resolution
    noise_correlation: float = number(0.0, at_least=0, at_most=1)
    ssr_noise_correlation: float = number(1.0, at_least=0, at_most=1)
    # the factor of motion at these noise levels; 1 changes nothing
    motion_scale: float = number(1.0, at_least=0)
    motion_interval: tuple[float, ...] = (0.35, 0.95)
    # how far each frame goes to the median of itself and its neighbours at these noise levels
    temporal_smoothing: float = number(0.0, at_least=0, at_most=1)
    smoothing_interval: tuple[float, ...] = (0.0, 0.3)
    # neighbours in a frame that differ by fewer grey levels are averaged; 0 changes nothing
    spatial_smoothing: float = number(0.0, at_least=0)
    # below 1, denoising starts from the picture
    image_strength: float = number(1.0, at_least=0, at_most=1)
    # at least 3, because the evaluation compares window borders with other frames
    num_frames: int = number(16, at_least=3)
    # the noise of the prompts file's clips that are longer than num_frames
    long_noise: str = choice("independent", "rescheduled")
    fps: int = number(16, at_least=1)
    ssr_steps: int = number(8, at_least=1)
    window_size: int = number(8, at_least=2)
    overlap: int = number(2, at_least=0)
    # The evaluation needs the clips that follow, besides those of the prompts file.
    # text-to-video clips of training captions at base size, for the distances
    set_size: int = number(24, at_least=2)
    held_out_set_size: int = number(8, at_least=0)  # the same, of validation captions
    image_set_size: int = number(8, at_least=0)  # image-to-video clips of training clips
    style_prompts: int = number(4, at_least=0)  # each in every style, at alpha 0 and every blend
    batch_size: int = number(4, at_least=1)  # clips of these sets in one forward pass
    # clips of that set whose middles are super-resolved with and without MultiDiffusion
    seam_videos: int = number(8, at_least=1)
    seam_window_size: int = number(4, at_least=2)
    seam_overlap: int = number(1, at_least=0)
    seam_crop: int = number(16, at_least=4)  # pixels of that middle at base size, height = width
    seed: int = number(0, at_least=0)

    def __post_init__(self) -> None:
        for overlap, window_size in (
            ("overlap", "window_size"),
            ("seam_overlap", "seam_window_size"),
        ):
            most = getattr(self, window_size) - 1
            if getattr(self, overlap) > most:
                raise ParamsError(
                    f"{overlap}: {getattr(self, overlap)}; allowed: 0 to {window_size} - 1 ({most})"
                )
        for name in ("guidance_interval", "motion_interval", "smoothing_interval"):
            _check_interval(name, getattr(self, name))
        if self.guidance_type == "auto" and not self.guide_unet:
            raise ParamsError("guidance_type: 'auto'; allowed without guide_unet: cfg")
        if self.seam_window_size >= self.num_frames:
            raise ParamsError(
                f"seam_window_size: {self.seam_window_size}; allowed: below num_frames "
                f"({self.num_frames}), because the evaluation compares windows"
            )


@dataclass(frozen=True)
class EvaluateConfig:
    """The number of videos to measure, and the networks that measure them."""

    # further networks, as NAME=FILE, beside the embedded one; `lumiere evaluate --backbone list` shows
    # their names
    backbones: tuple[str, ...] = ()
    # LAION's aesthetic head, a file; needs the backbone open_clip=ViT-L-14/FILE
    aesthetic: str = ""
    # of the text: the embedded judge's folder, or an open_clip weights file
    judge: str = "pretrained/judge"
    # the open_clip architecture of a weights file; empty for the embedded judge
    open_clip_model: str = ""
    num_videos: int = number(24, at_least=2)  # text-to-video samples for the distances
    num_frames: int = number(16, at_least=2)
    seed: int = number(0, at_least=0)


# The settings of the loop in each training.
OPTIMS = (
    "prepare_t2i.optim",
    "train_base.optim",
    "train_conditioned.optim",
    "distil.optim",
    "train_ssr.image_optim",
    "train_ssr.optim",
    "train_style.optim",
)

# A network only removes noise of the correlation that it was trained on. The values of each pair are
# equal.
SAME_NOISE = (
    ("distil.noise_correlation", "train_conditioned.noise_correlation"),
    ("generate.noise_correlation", "train_conditioned.noise_correlation"),
    ("generate.ssr_noise_correlation", "train_ssr.noise_correlation"),
)

# The first value of each pair must not exceed the second.
AT_MOST = (
    ("prepare_t2i.size", "decode.size"),
    ("train_ssr.size", "decode.size"),
    ("train_ssr.window_size", "decode.num_frames"),
    ("generate.image_set_size", "generate.set_size"),
    ("generate.style_prompts", "generate.set_size"),
    ("generate.seam_videos", "generate.set_size"),
    ("generate.seam_crop", "prepare_t2i.size"),
    ("evaluate.num_videos", "generate.set_size"),
    ("evaluate.num_frames", "generate.num_frames"),
    ("evaluate.num_frames", "decode.num_frames"),
)


@dataclass(frozen=True)
class Params:
    """A whole params file."""

    curate: CurateConfig = field(default_factory=CurateConfig)
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    prepare_t2i: PrepareT2IConfig = field(default_factory=PrepareT2IConfig)
    train_base: TrainBaseConfig = field(default_factory=TrainBaseConfig)
    train_conditioned: TrainConditionedConfig = field(default_factory=TrainConditionedConfig)
    distil: DistilConfig = field(default_factory=DistilConfig)
    train_ssr: TrainSSRConfig = field(default_factory=TrainSSRConfig)
    train_style: TrainStyleConfig = field(default_factory=TrainStyleConfig)
    blend_style: BlendStyleConfig = field(default_factory=BlendStyleConfig)
    generate: GenerateConfig = field(default_factory=GenerateConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    launch: LaunchConfig = field(default_factory=LaunchConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    registry: RegistryConfig = field(default_factory=RegistryConfig)

    def __post_init__(self) -> None:
        if self.decode.num_frames / self.decode.fps > self.curate.min_seconds:
            raise ParamsError(
                f"decode.num_frames: {counted(self.decode.num_frames, 'frame')} at {self.decode.fps} fps; "
                f"allowed: at most curate.min_seconds ({self.curate.min_seconds:g} s)"
            )
        if self.train_ssr.low_size != self.prepare_t2i.size:
            raise ParamsError(
                f"train_ssr.low_size: {self.train_ssr.low_size}; allowed: prepare_t2i.size ({self.prepare_t2i.size})"
            )
        if self.generate.fps != self.decode.fps:
            raise ParamsError(
                f"generate.fps: {self.generate.fps}; allowed: decode.fps ({self.decode.fps}), the rate "
                "of the training clips; set both to the same value"
            )
        for key, other in SAME_NOISE:
            value, expected = self._value(key), self._value(other)
            if value != expected:
                raise ParamsError(
                    f"{key}: {value}; allowed: {other} ({expected}), the noise that the network "
                    "learned to remove; set both to the same value"
                )
        parts = self.launch.processes * self.launch.gradient_accumulation
        for key in OPTIMS:
            batch_size = self._value(key).batch_size
            if self._value(key).optimizer == "adafactor" and self.launch.strategy == "fsdp":
                raise ParamsError(
                    f"{key}.optimizer: 'adafactor'; allowed with launch.strategy fsdp: adamw"
                )
            if batch_size % parts:
                raise ParamsError(
                    f"{key}.batch_size: {batch_size}; allowed: a multiple of {parts}, which is launch.processes × "
                    "launch.gradient_accumulation"
                )
        for key, other in AT_MOST:
            value, limit = self._value(key), self._value(other)
            if value > limit:
                raise ParamsError(f"{key}: {value}; allowed: at most {other} ({limit})")
        self._check_sizes()

    def _check_sizes(self) -> None:
        """Check that the trainings can scale all sizes of clips by the same factor."""
        main = min(self.decode.sizes[0])
        for size in self.decode.sizes:
            for key in ("prepare_t2i.size", "train_ssr.size"):
                if any(side * self._value(key) % main for side in size):
                    raise ParamsError(
                        f"decode.size: {size[0]} x {size[1]}; allowed: sides that are whole pixels "
                        f"after scaling by {key} ({self._value(key)}) / {main}"
                    )
            smallest = min(size) * self.train_ssr.size // main
            if self.train_ssr.crop > smallest:
                raise ParamsError(
                    f"train_ssr.crop: {self.train_ssr.crop}; allowed: at most {smallest}, the "
                    f"shorter side of clips of decode.size {size[0]} x {size[1]}"
                )

    def _value(self, key: str) -> Any:
        if key == "decode.size":
            return min(self.decode.sizes[0])
        section, name = key.split(".")
        return getattr(getattr(self, section), name)


def load_params(path: str | Path = "params.yaml") -> Params:
    """Read and check a params file; missing sections and keys have their defaults.

    Raises:
        ParamsError: if the file cannot be read, a section or key is unknown, a key is given twice,
            or a value has a wrong type or is out of range. The message names the file, the key, the
            value and what is allowed.
    """
    return read(Params, Path(path))


def to_dict(config: Any) -> dict[str, Any]:
    """Convert a config to plain dicts and lists, for JSON and for MLflow."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def _check_interval(name: str, ends: tuple[float, ...]) -> None:
    interval = list(ends)
    if len(interval) != 2 or not 0 <= interval[0] <= interval[1] <= 1:
        raise ParamsError(f"{name}: {interval}; allowed: [low, high] with 0 <= low <= high <= 1")


def _check_widths(block_out_channels: tuple[int, ...]) -> None:
    # The norms of the U-Net have 16 groups.
    if not block_out_channels or any(width < 16 or width % 16 for width in block_out_channels):
        raise ParamsError(
            f"block_out_channels: {list(block_out_channels)}; allowed: at least one multiple of 16"
        )
