"""Low-rank adapters (LoRA, Hu et al. 2021) of an image network: few weights learn a style, W + B A
for each W.

peft adds the adapters, and merges them into the network's plain weights after training.
"""

from __future__ import annotations

from diffusers import UNet2DConditionModel
from peft import LoraConfig, get_peft_model_state_dict
from torch import Tensor

ADAPTER = "style"
# Attention decides which part of a caption is drawn where, and most adapters stop there. A style is
# also colours and strokes. A network in pixel space makes those in its ResNets, the only layers at
# its finest level.
LAYERS = ("to_q", "to_k", "to_v", "to_out.0", "conv1", "conv2", "time_emb_proj")
PREFIX = "unet"  # diffusers' pipelines look for this prefix in an adapter's file


def add_lora(unet: UNet2DConditionModel, rank: int) -> None:
    """Put adapters into a network; they change nothing yet, and only they need a gradient.

    Their scale is 1 (lora_alpha = rank), which diffusers assumes for files without one. A is drawn
    from torch's global generator.
    """
    unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=list(LAYERS)), ADAPTER)


def fuse_lora(unet: UNet2DConditionModel) -> dict[str, Tensor]:
    """Merge the adapters into the network, which has plain weights again.

    Returns:
        The adapters, by the names that diffusers' `load_lora_weights` expects in a file.
    """
    adapter = get_peft_model_state_dict(unet, adapter_name=ADAPTER)
    unet.fuse_lora()
    unet.unload_lora()
    return {f"{PREFIX}.{name}": value for name, value in adapter.items()}
