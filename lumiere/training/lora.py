"""Low-rank adapters (LoRA, Hu et al. 2021) of an image network: few weights learn a style, W + B A for each W adapted.

peft trains them, and they end in the network's plain weights, which know nothing of it.
"""

from __future__ import annotations

from diffusers import UNet2DConditionModel
from peft import LoraConfig, get_peft_model_state_dict
from torch import Tensor

ADAPTER = "style"
# Attention decides what of a caption is drawn where, and most adapters stop there. A style is also colours and strokes,
# which a network in pixel space makes in its ResNets, at the finest level in them alone; so those are adapted too.
LAYERS = ("to_q", "to_k", "to_v", "to_out.0", "conv1", "conv2", "time_emb_proj")
PREFIX = "unet"  # by which diffusers' pipelines find the network's part in an adapter's file


def add_lora(unet: UNet2DConditionModel, rank: int) -> None:
    """Put adapters that change nothing yet into a network; they alone need a gradient.

    Their scale is 1 (lora_alpha = rank), as diffusers takes it where a file does not say; how fast they learn is the
    learning rate's to say. A is drawn from torch's global generator.
    """
    unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=list(LAYERS)), ADAPTER)


def fuse_lora(unet: UNet2DConditionModel) -> dict[str, Tensor]:
    """Merge the adapters into the network, which is plain again.

    Returns:
        The adapters themselves, by the names that diffusers' `load_lora_weights` reads from a file.
    """
    adapter = get_peft_model_state_dict(unet, adapter_name=ADAPTER)
    unet.fuse_lora()
    unet.unload_lora()
    return {f"{PREFIX}.{name}": value for name, value in adapter.items()}
