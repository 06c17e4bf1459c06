"""Tells on which devices torch computes in bfloat16 at full speed."""

from __future__ import annotations

import torch


def has_fast_bf16(device: torch.device) -> bool:
    """Return whether a device has instructions for bfloat16.

    Without them, torch computes many times more slowly than in float32 on a CPU
    (pytorch/pytorch#183815). The answer is yes where torch is too old to tell.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu" or not hasattr(torch.cpu, "get_capabilities"):
        return True
    capabilities = torch.cpu.get_capabilities()
    return any(has and name.endswith("bf16") for name, has in capabilities.items())
