"""Networks that never saw the data: their features are what distances and consistency compare."""

import lumiere.compat  # noqa: F401  before open_clip and transformers
from lumiere.evaluation.backbones.aesthetic import AestheticHead, load_aesthetic_head
from lumiere.evaluation.backbones.interface import (
    Backbone,
    Classifier,
    FrameBackbone,
    TextBackbone,
    VideoBackbone,
)
from lumiere.evaluation.backbones.registry import (
    BACKBONES,
    EMBEDDED,
    BackboneSpec,
    load_backbone,
    parse_backbone,
)

__all__ = [
    "BACKBONES",
    "EMBEDDED",
    "AestheticHead",
    "Backbone",
    "BackboneSpec",
    "Classifier",
    "FrameBackbone",
    "TextBackbone",
    "VideoBackbone",
    "load_aesthetic_head",
    "load_backbone",
    "parse_backbone",
]
