"""Finds backbones by name."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lumiere.errors import ParamsError
from lumiere.evaluation.backbones.efficientnet_lite import EfficientNetLite0Backbone
from lumiere.evaluation.backbones.i3d import I3DBackbone
from lumiere.evaluation.backbones.inception_v3 import InceptionV3Backbone
from lumiere.evaluation.backbones.interface import FrameNetwork, VideoNetwork
from lumiere.evaluation.backbones.open_clip_image import OpenCLIPBackbone
from lumiere.evaluation.backbones.transformers_models import (
    DINOBackbone,
    VideoMAEBackbone,
    VJEPA2Backbone,
)

EMBEDDED = "efficientnet_lite0"
SHA256 = re.compile(r"[0-9a-fA-F]{64}")


@dataclass(frozen=True)
class Entry:
    """A backbone that can be asked for.

    Attributes:
        load: takes the path and the expected hash (None: the published one, if known).
        description: one line for a help page.
        files: what the user has to give; empty if the package brings the weights.
    """

    load: Callable[[str, str | None], FrameNetwork | VideoNetwork]
    description: str
    files: str


def _embedded(path: str, sha256: str | None) -> FrameNetwork:
    return EfficientNetLite0Backbone()


_FOLDER = "a folder of transformers (config.json, .safetensors)"

BACKBONES: dict[str, Entry] = {
    EMBEDDED: Entry(_embedded, "frames: ImageNet features, embedded; a proxy, never FID", ""),
    "inception_v3": Entry(
        InceptionV3Backbone,
        "frames: the network of FID and the Inception Score",
        "pytorch-fid's or torch-fidelity's inception-2015-12-05-6726825d.pth",
    ),
    "dino": Entry(
        DINOBackbone, "frames: DINO or DINOv2, for VBench's subject consistency", _FOLDER
    ),
    "open_clip": Entry(
        OpenCLIPBackbone,
        "frames: a CLIP model of open_clip, for CLIPSIM",
        "an architecture and a file, ARCHITECTURE/FILE.safetensors",
    ),
    "i3d": Entry(
        I3DBackbone, "videos: the network of FVD, 16 frames", "StyleGAN-V's i3d_torchscript.pt"
    ),
    "videomae": Entry(VideoMAEBackbone, "videos: VideoMAE, 16 frames", _FOLDER),
    "vjepa2": Entry(VJEPA2Backbone, "videos: V-JEPA 2 (not JEDi's network), 16 frames", _FOLDER),
}


@dataclass(frozen=True)
class BackboneSpec:
    """A backbone as a user writes it: `NAME`, `NAME=PATH` or `NAME=PATH@SHA256`."""

    name: str
    path: str | None = None
    sha256: str | None = None

    def load(self) -> FrameNetwork | VideoNetwork:
        """Load the network; see `load_backbone`."""
        return load_backbone(self.name, self.path, self.sha256)


def parse_backbone(text: str) -> BackboneSpec:
    """Read `NAME`, `NAME=PATH` or `NAME=PATH@SHA256`, as on the command line and in params.yaml.

    Raises:
        ParamsError: if the name is unknown, a path is missing, or one is given to a backbone that
            brings its weights.
    """
    name, equals, rest = text.partition("=")
    path, at, digest = rest.rpartition("@")
    if at and SHA256.fullmatch(digest):
        spec = BackboneSpec(name.strip(), path, digest.lower())
    else:
        spec = BackboneSpec(name.strip(), rest if equals else None)
    _check(spec)
    return spec


def load_backbone(
    name: str, path: str | Path | None = None, sha256: str | None = None
) -> FrameNetwork | VideoNetwork:
    """Load a backbone by name. Nothing is downloaded.

    Args:
        name: one of `BACKBONES`.
        path: the file or folder of the weights; None for the embedded backbone.
        sha256: the expected hash; None takes the published one where it is known.

    Raises:
        ParamsError: if the name is unknown, or the number of paths is not the right one.
        DataError: if the weights are missing, damaged or have another hash.
    """
    spec = BackboneSpec(name, None if path is None else str(path), sha256)
    _check(spec)
    return BACKBONES[name].load(spec.path or "", sha256)


def _check(spec: BackboneSpec) -> None:
    if spec.name not in BACKBONES:
        close = difflib.get_close_matches(spec.name, BACKBONES, n=1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise ParamsError(
            f"unknown backbone {spec.name!r}{hint}; allowed: {', '.join(sorted(BACKBONES))}"
        )
    files = BACKBONES[spec.name].files
    if files and not spec.path:
        raise ParamsError(f"backbone {spec.name} needs {files}; write {spec.name}=PATH")
    if not files and (spec.path is not None or spec.sha256 is not None):
        raise ParamsError(
            f"backbone {spec.name} brings its weights; write {spec.name} without =PATH"
        )
    if spec.sha256 is not None and not SHA256.fullmatch(spec.sha256):
        raise ParamsError(f"sha256 {spec.sha256!r} of {spec.name}; allowed: 64 hexadecimal digits")
