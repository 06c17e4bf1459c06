"""Low-rank adapters (LoRA, Hu et al. 2021) of an image network: W becomes W + B A, and only the
small A and B learn a style.

peft adds the adapters, and merges them into the network's plain weights after training.
"""

from __future__ import annotations

from diffusers import UNet2DConditionModel
from peft import LoraConfig, get_peft_model_state_dict
from torch import Tensor

from lumiere.models import SpaceTimeUNet

ADAPTER = "style"
# Attention decides which part of a caption is drawn where, and most LoRAs adapt only that. A style
# is also colours and strokes. A network in pixel space makes those in its ResNets, the only layers
# at its finest level.
LAYERS = ("to_q", "to_k", "to_v", "to_out.0", "conv1", "conv2", "time_emb_proj")
PREFIX = "unet"  # diffusers' pipelines look for this prefix in an adapter's file


def add_lora(unet: UNet2DConditionModel, rank: int) -> None:
    """Add adapters to a network. Only they need a gradient, and they do not change its output yet.

    Their scale is 1 (lora_alpha = rank), which diffusers assumes for files without one. A is drawn
    from torch's global generator.
    """
    unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=list(LAYERS)), ADAPTER)


def fuse_lora(unet: UNet2DConditionModel) -> dict[str, Tensor]:
    """Merge the adapters into the network, so that it has plain weights again.

    Returns:
        The adapters, by the names that diffusers' `load_lora_weights` expects in a file.
    """
    adapter = get_peft_model_state_dict(unet, adapter_name=ADAPTER)
    unet.fuse_lora()
    unet.unload_lora()
    return {f"{PREFIX}.{name}": value for name, value in adapter.items()}


# --- motion: adapters of the temporal layers ---------------------------------------------------------

MOTION = "motion"
MOTION_LAYERS = r"(down_inflations|mid_inflation|up_inflations)\..*(qkv|out|proj_out|spatial_conv|temporal_conv)"


def add_motion_lora(unet: SpaceTimeUNet, rank: int, name: str = MOTION) -> None:
    """Add adapters to the temporal layers; only they need a gradient, so the loop trains nothing
    else. A is drawn from torch's global generator.

    After training, `unet.save_lora_adapter(folder, name)` writes a small file, which
    `LumierePipeline.load_lora_weights` loads; `set_adapters` blends several kinds of motion.
    """
    unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=MOTION_LAYERS), name)
