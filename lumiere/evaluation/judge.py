"""The judge: an image–text model that measures how well videos match their captions.

The default is the *embedded judge*, a small CLIP made of open_clip's classes and trained on the
sample data (`lumiere.evaluation.train_judge`; see `pretrained/judge/CARD.md`). Its scores compare
runs of this project with each other. They are not CLIPSIM, and cannot be compared with published
numbers. For those, name an open_clip architecture and its weights.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

# isort: split
import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from open_clip.model import CustomTextCLIP
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import save_file

from lumiere.errors import DataError, one_line
from lumiere.evaluation.no_random_weights import NoRandomWeights
from lumiere.plurals import shortened
from lumiere.tensor_files import read_tensors
from lumiere.text.minilm_encoder import model_folder

# The text transformer is frozen and installed with its own package, so it is not stored with the
# judge.
TEXT_TRANSFORMER = "text.transformer."


class ImageTextModel(Protocol):
    """The interface of an open_clip model that this project uses; open_clip's classes have no
    common base.
    """

    def encode_image(self, image: torch.Tensor) -> torch.Tensor:
        """Return the embeddings (n, d) of pictures, float32 (n, 3, h, w), normalised for the model."""
        ...

    def encode_text(self, text: torch.Tensor) -> torch.Tensor:
        """Return the embeddings (n, d) of sentences, given as token ids (n, length)."""
        ...


@dataclass
class Judge:
    """Embeds frames and sentences as unit vectors in one space.

    Attributes:
        name: its name in the report.
        model: any open_clip model in eval mode.
        tokenize: sentences → token tensor.
        transform: PIL image → normalised tensor, open_clip's own for inference.
        preprocessing: a sentence for the report; only scores with the same preprocessing can be
            compared.
        trained_on: a sentence about its training for the report; may be empty.
        captions: the sentences that it was trained on; empty if they are unknown.
        held_out_accuracy: a sentence on how often it is right on videos that it was not trained on;
            empty if that is unknown.
    """

    name: str
    model: ImageTextModel
    tokenize: Callable[[list[str]], torch.Tensor]
    transform: Callable[[Image.Image], torch.Tensor]
    preprocessing: str
    trained_on: str = ""
    captions: frozenset[str] = frozenset()
    held_out_accuracy: str = ""
    batch_size: int = 128

    @torch.no_grad()
    def encode_frames(self, frames: np.ndarray) -> np.ndarray:
        """Embed frames: uint8 (t, h, w, 3) in [0, 255] → float32 (t, d), each of length 1."""
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
            raise ValueError(
                f"frames: {frames.dtype} of shape {frames.shape}; expected uint8 (t, h, w, 3)"
            )
        batches = []
        for start in range(0, len(frames), self.batch_size):
            batch = frames[start : start + self.batch_size]
            images = torch.stack([self.transform(Image.fromarray(frame)) for frame in batch])
            batches.append(F.normalize(self.model.encode_image(images).float(), dim=-1))
        return torch.cat(batches).numpy()

    @torch.no_grad()
    def encode_text(self, sentences: list[str]) -> np.ndarray:
        """Embed k sentences: → float32 (k, d), each of length 1."""
        batches = []
        for start in range(0, len(sentences), self.batch_size):
            tokens = self.tokenize(sentences[start : start + self.batch_size])
            batches.append(F.normalize(self.model.encode_text(tokens).float(), dim=-1))
        return torch.cat(batches).numpy()


def load_judge(source: str | Path = "pretrained/judge", open_clip_model: str = "") -> Judge:
    """Load the embedded judge from its folder, or an open_clip model.

    Args:
        source: a folder written by `save_judge`; with `open_clip_model`, a .safetensors file or one
            of open_clip's pretrained tags (which downloads).
        open_clip_model: an open_clip architecture such as "ViT-B-32"; empty for the embedded judge.

    Raises:
        ValueError: if the architecture is unknown, or the source holds no judge or a damaged one.
    """
    try:
        if open_clip_model:
            return _load_open_clip(str(source), open_clip_model)
        return _load_embedded(Path(source))
    except (
        OSError,
        RuntimeError,
        KeyError,
        TypeError,
        json.JSONDecodeError,
        DataError,
        SafetensorError,
    ) as error:
        detail = shortened(one_line(error), 200)
        raise ValueError(
            f"judge: {str(source)!r} cannot be loaded: {type(error).__name__}: {detail}"
        ) from error


def build_model(
    config: dict[str, Any],
) -> tuple[CustomTextCLIP, Callable[[list[str]], torch.Tensor]]:
    """Build open_clip's CustomTextCLIP with a frozen MiniLM text tower, and its tokenizer."""
    text_folder = model_folder()
    text_cfg = {
        **config["text_cfg"],
        "hf_model_name": str(text_folder),
        "hf_model_pretrained": False,
    }
    model = CustomTextCLIP(config["embed_dim"], config["vision_cfg"], text_cfg)
    state = read_tensors(text_folder / "model.safetensors")
    # The file also holds BERT's pooler, which mean pooling does not use, and a buffer of positions.
    own_keys = model.text.transformer.state_dict().keys()
    own_state = {key: value for key, value in state.items() if key in own_keys}
    model.text.transformer.load_state_dict(own_state)
    model.lock_text_tower(unlocked_layers=0, freeze_layer_norm=True)
    tokenize = open_clip.tokenizer.HFTokenizer(
        str(text_folder), context_length=config["context_length"]
    )
    return model, tokenize


def save_judge(
    folder: str | Path, model: CustomTextCLIP, config: dict[str, Any], captions: Iterable[str]
) -> None:
    """Write config.json, model.safetensors (fp16, without the frozen text transformer) and captions.txt.

    Args:
        folder: created if it does not exist.
        model: from `build_model(config)`.
        config: the config of the model, with facts about its training under "training".
        captions: the sentences that the model was trained on; later evaluations use them to see
            whether it knows a clip.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = {
        key: (value.half() if value.is_floating_point() else value).contiguous()
        for key, value in sorted(model.state_dict().items())
        if not key.startswith(TEXT_TRANSFORMER)
    }
    save_file(state, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    lines = sorted({" ".join(caption.split()) for caption in captions})
    (folder / "captions.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _load_embedded(folder: Path) -> Judge:
    config_path, weights = folder / "config.json", folder / "model.safetensors"
    captions = folder / "captions.txt"
    for path in (config_path, weights, captions):
        if not path.is_file():
            raise ValueError(
                f"judge: no {path}; allowed: the embedded judge's folder, or set open_clip_model"
            )
    config = json.loads(config_path.read_text(encoding="utf-8"))
    # Every weight comes from a file, or the call ends in an error.
    with torch.random.fork_rng(devices=[]), NoRandomWeights():
        model, tokenize = build_model(config)
    state = {
        key: value.float() if value.is_floating_point() else value
        for key, value in read_tensors(weights).items()
    }
    missing, unexpected = model.load_state_dict(state, strict=False)
    missing = [key for key in missing if not key.startswith(TEXT_TRANSFORMER)]
    if missing or unexpected:
        raise ValueError(
            f"{weights}: missing {missing[:3]}, unexpected {unexpected[:3]}; the weights belong to another config"
        )
    preprocess = PreprocessCfg(**config["preprocess"])
    return Judge(
        "embedded judge",
        model.eval(),
        tokenize,
        image_transform_v2(preprocess, is_train=False),
        _describe(preprocess),
        trained_on=_describe_training(config.get("training")),
        captions=frozenset(captions.read_text(encoding="utf-8").splitlines()),
        held_out_accuracy=_describe_accuracy(config.get("retrieval")),
    )


def _load_open_clip(weights: str, architecture: str) -> Judge:
    architectures = open_clip.list_models()
    if architecture not in architectures:
        close = difflib.get_close_matches(architecture, architectures, n=5) or architectures[:5]
        raise ValueError(
            f"open_clip_model: {architecture!r}; allowed: an open_clip architecture, such as {close}"
        )
    is_file = Path(weights).exists()
    if is_file and Path(weights).suffix != ".safetensors":
        raise ValueError(
            f"judge: {weights!r}; allowed: a .safetensors file (nothing is loaded with pickle) or a tag"
        )
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if not is_file and weights not in tags:
        raise ValueError(
            f"judge: {weights!r} is no file; allowed: a .safetensors file or one of {tags}"
        )
    model, _, transform = open_clip.create_model_and_transforms(architecture, pretrained=weights)
    cfg = PreprocessCfg(**open_clip.get_model_preprocess_cfg(model))
    name = f"open_clip {architecture}, {Path(weights).name if is_file else weights}"
    return Judge(
        name, model.eval(), open_clip.get_tokenizer(architecture), transform, _describe(cfg)
    )


def _describe(cfg: PreprocessCfg) -> str:
    return (
        f"uint8 RGB, {cfg.resize_mode} side resized to {cfg.size} px ({cfg.interpolation}, antialiased, PIL), "
        f"centre crop, scaled to [0, 1], mean {tuple(cfg.mean)}, std {tuple(cfg.std)}; unit-length embeddings"
    )


def _describe_accuracy(retrieval: dict[str, Any] | None) -> str:
    """Say how often the judge ranks a held-out video's own caption first among all videos'."""
    if not retrieval:
        return ""
    size, results = next(iter(retrieval.items()))
    held_out = results["held_out_among_all"]
    return (
        f"On held-out videos at {size} it ranks the own video first among all {held_out['videos']} for "
        f"{held_out['r1']:.1%} of the sentences (trained ones: {results['train']['r1']:.1%})."
    )


def _describe_training(training: dict[str, Any] | None) -> str:
    """Describe the training in a sentence, from the record of `lumiere.evaluation.train_judge`;
    empty without a record.
    """
    if training is None:
        return ""
    split = training["split"]
    return (
        f"{training['frames']} frames of {training['subjects']} videos and their captions; "
        f"{split['fraction']:.0%} of the videos, drawn with seed {split['seed']}, were held out"
    )
