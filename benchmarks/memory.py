"""Measures the peak memory of a call: resident memory on a CPU (Linux only), allocated on a GPU."""

from __future__ import annotations

import ctypes
import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


def start_peak(device: torch.device, trim: bool = False) -> float:
    """Reset the peak to the current use of memory, and return that in MiB.

    Args:
        device: a CPU or a GPU.
        trim: first return freed memory to the system or the GPU, so that it does not count as used.
    """
    if device.type == "cuda":
        if trim:
            torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    else:
        if trim:
            ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return peak(device)


def peak(device: torch.device) -> float:
    """Return the largest use of memory since `start_peak`, in MiB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def in_a_process(target: Callable[..., None], *args: Any) -> Any:
    """Run `target(*args, sender)` in a new process, and return what it sends.

    A forked process would inherit its parent's peak, so the process is spawned.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=target, args=(*args, sender))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    finally:
        process.join()
