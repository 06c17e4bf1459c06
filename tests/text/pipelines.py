"""Tiny pipelines on disk, of diffusers' and transformers' own classes: DeepFloyd IF's, Stable
Diffusion's.
"""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler, IFPipeline, UNet2DConditionModel
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
)

from lumiere.data.shards import ALL
from lumiere.text import TextEncoder
from lumiere.training.examples import Text
from tests.models.zoo import CONFIGS, TEXT_DIM, TINY

WORDS = ["a", "cat", "dog", "runs", "red", *string.ascii_lowercase[1:]]


def tokenizer(max_length: int = 77, start: str = "") -> PreTrainedTokenizerFast:
    """Whole words, an end token and, where `start` is given, a start token."""
    vocabulary = {word: i for i, word in enumerate(["<pad>", "</s>", "<unk>", "<s>", *WORDS])}
    plain = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    plain.pre_tokenizer = Whitespace()
    plain.post_processor = TemplateProcessing(
        single=f"{start} $A </s>".strip(), special_tokens=[("</s>", 1), ("<s>", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=plain,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=max_length,
    )


def t5(width: int = TEXT_DIM) -> T5EncoderModel:
    torch.manual_seed(1)
    return T5EncoderModel(
        T5Config(
            vocab_size=64,
            d_model=width,
            d_kv=8,
            d_ff=16,
            num_layers=2,
            num_heads=2,
            dropout_rate=0.0,
        )
    ).eval()


def clip(positions: int = 77) -> CLIPTextModel:
    torch.manual_seed(1)
    config = CLIPTextConfig(
        vocab_size=64, hidden_size=TEXT_DIM, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=positions, eos_token_id=1, bos_token_id=3, pad_token_id=0,
    )  # fmt: skip
    return CLIPTextModel(config).eval()


def if_unet(**changes: Any) -> UNet2DConditionModel:
    torch.manual_seed(2)
    return UNet2DConditionModel(**(TINY | CONFIGS["if_stage_1"] | changes))


def if_scheduler(**changes: Any) -> DDPMScheduler:
    """As DeepFloyd IF stores it: learned variance, dynamic thresholding."""
    settings = {
        "beta_schedule": "squaredcos_cap_v2",
        "variance_type": "learned_range",
        "thresholding": True,
    }
    return DDPMScheduler(
        **(settings | {"prediction_type": "epsilon", "sample_max_value": 1.5} | changes)
    )


def save_if(folder: Path, **parts: Any) -> IFPipeline:
    """DeepFloyd IF, tiny; `parts` replace its own."""
    components = {
        "tokenizer": tokenizer(),
        "text_encoder": t5(),
        "unet": if_unet(),
        "scheduler": if_scheduler(),
    }
    unused = {
        "safety_checker": None,
        "feature_extractor": None,
        "watermarker": None,
        "requires_safety_checker": False,
    }
    pipe = IFPipeline(**(components | parts), **unused)
    pipe.save_pretrained(folder)
    return pipe


def save_clip_pipeline(folder: Path, positions: int = 77) -> None:
    """A pixel-space pipeline with CLIP's text encoder, three channels out."""
    tokenizer(positions, start="<s>").save_pretrained(folder / "tokenizer")
    clip(positions).save_pretrained(folder / "text_encoder")
    torch.manual_seed(2)
    settings = TINY | CONFIGS["sd1"] | {"in_channels": 3, "out_channels": 3}
    UNet2DConditionModel(**settings).save_pretrained(folder / "unet")
    DDPMScheduler(prediction_type="v_prediction").save_pretrained(folder / "scheduler")


# --- Stable Diffusion -----------------------------------------------------------------------------

BETAS = {
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "num_train_timesteps": 1000,
}
# scheduler_config.json as it is shipped: 1.5's, 2.1's, and Euler's, which many put in their place.
SD_SCHEDULERS: dict[str, dict[str, Any]] = {
    "sd1": BETAS | {
        "_class_name": "PNDMScheduler", "clip_sample": False, "set_alpha_to_one": False, "skip_prk_steps": True,
        "steps_offset": 1, "trained_betas": None,
    },
    "sd2": BETAS | {
        "_class_name": "DDIMScheduler", "clip_sample": False, "prediction_type": "v_prediction",
        "set_alpha_to_one": False, "skip_prk_steps": True, "steps_offset": 1, "trained_betas": None,
    },
    "euler": BETAS | {
        "_class_name": "EulerDiscreteScheduler", "interpolation_type": "linear", "prediction_type": "epsilon",
        "steps_offset": 1, "timestep_spacing": "leading", "trained_betas": None, "use_karras_sigmas": False,
    },
}  # fmt: skip


def vae() -> AutoencoderKL:
    """Two pixels a latent; by the mid block's attention every latent of a frame hears of all
    others.
    """
    torch.manual_seed(3)
    return AutoencoderKL(
        block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2, norm_num_groups=2,
        up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=4, sample_size=16,
    ).eval()  # fmt: skip


def save_stable_diffusion(folder: Path, kind: str = "sd1", **unet_changes: Any) -> None:
    """Latents 4 x 8 x 8 of pixels 16 x 16, CLIP's 77 tokens; `kind`: of `SD_SCHEDULERS`."""
    tokenizer(start="<s>").save_pretrained(folder / "tokenizer")
    clip().save_pretrained(folder / "text_encoder")
    vae().save_pretrained(folder / "vae")
    torch.manual_seed(2)
    unet = UNet2DConditionModel(
        **(TINY | CONFIGS["sd2" if kind == "sd2" else "sd1"] | unet_changes)
    )
    unet.save_pretrained(folder / "unet")
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(SD_SCHEDULERS[kind]))


class Sentences:
    """Random clips of `num_frames` frames, each with a sentence as a pipeline's own encoder gives
    it.
    """

    def __init__(self, encoder: TextEncoder, size: int, num_frames: int = 3) -> None:
        generator = torch.Generator().manual_seed(0)
        embeds, masks = encoder.encode(["a cat runs", "a red dog"])
        self.videos = torch.randint(
            0, 256, (2, 3, num_frames, size, size), generator=generator, dtype=torch.uint8
        )
        self.texts, self.num_frames = (
            list(zip(embeds[:, None], masks[:, None], strict=True)),
            num_frames,
        )
        null_embeds, null_mask = encoder.encode([""])
        self.null_text, self.shards = (null_embeds[0], null_mask[0]), ["", ""]
        self.buckets = [0, 0]

    def __len__(self) -> int:
        return len(self.videos)

    def video(self, i: int, frames: slice = ALL) -> torch.Tensor:
        return self.videos[i][:, frames]

    def text(self, i: int) -> Text:
        return self.texts[i]
