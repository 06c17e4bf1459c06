"""Formats the plan of a network as a table for people and as JSON for programs. GB = 10^9 bytes,
TFLOP = 10^12.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from lumiere.inspection.plan import RESERVE, Memory, NetworkPlan, TrainingPlan
from lumiere.plurals import counted

GB = 1e9
LABEL = 46  # characters


def fits(memory: Memory, gpu_memory_gb: float) -> bool:
    """Return whether a GPU of this size holds the training, with RESERVE left for memory that is
    not counted.
    """
    return memory.total <= gpu_memory_gb * GB * (1 - RESERVE)


def as_text(
    plan: NetworkPlan, processes: int, gpu_memory_gb: float, precision: str, checkpointing: bool
) -> str:
    """Format the plan of one network as a table."""
    rows = [("parameters", _millions(plan.parameters))]
    if plan.temporal_parameters:
        rows.append(("  spatial (the image network's, frozen)", _millions(plan.spatial_parameters)))
        rows.append(("  temporal (trained)", _millions(plan.temporal_parameters)))
    if plan.training is not None:
        rows += _training_rows(plan.training, processes, gpu_memory_gb, precision, checkpointing)
    if plan.sample_flops:
        what = (
            "one forward pass"
            if plan.sample_passes == 1
            else f"a video, {plan.sample_passes} forward passes"
        )
        rows.append((f"FLOPs of {what}", _tera(plan.sample_flops)))
        rows.append(("  activations of a forward pass", _gb(plan.sample_activations)))
    lines = [f"{label:<{LABEL}}{value}".rstrip() for label, value in rows]
    return "\n".join([plan.title, "-" * len(plan.title), *lines])


def _training_rows(
    plan: TrainingPlan, processes: int, gpu_memory_gb: float, precision: str, checkpointing: bool
) -> list[tuple[str, str]]:
    with_or_without = "with" if checkpointing else "without"
    rows = [
        (
            f"training in {precision}, batch {plan.batch_size}",
            f"{plan.micro_batch} at once on each of {counted(processes, 'GPU')}",
        ),
        ("  FLOPs of a step, forward", _tera(plan.flops_forward)),
        (f"  all of a step, {with_or_without} checkpointing", _tera(plan.flops)),
        ("  activations without checkpointing", _gb(plan.activations)),
        ("  activations with checkpointing", _gb(plan.activations_checkpointed)),
    ]
    columns: list[Memory] = [plan.whole] if plan.sharded is None else [plan.whole, plan.sharded]
    titles = (
        ["a GPU, whole"] if plan.sharded is None else ["a GPU, whole", f"sharded over {processes}"]
    )
    rows.append(("memory at the peak", "".join(f"{title:>18}" for title in titles)))
    for item in dataclasses.fields(Memory):
        rows.append(
            (
                f"  {item.name}",
                "".join(f"{_gb(getattr(column, item.name)):>18}" for column in columns),
            )
        )
    rows.append(("  total", "".join(f"{_gb(column.total):>18}" for column in columns)))
    verdicts = ["fits" if fits(column, gpu_memory_gb) else "does not fit" for column in columns]
    rows.append(
        (
            f"  a GPU of {gpu_memory_gb:g} GB, {RESERVE:.0%} kept free",
            "".join(f"{v:>18}" for v in verdicts),
        )
    )
    return rows


def as_data(plan: NetworkPlan, gpu_memory_gb: float) -> dict[str, Any]:
    """Convert a plan to plain data; bytes and FLOPs are whole numbers."""
    data = dataclasses.asdict(plan) | {"parameters": plan.parameters}
    if plan.training is not None:
        for name in ("whole", "sharded"):
            memory: Memory | None = getattr(plan.training, name)
            if memory is not None:
                data["training"][name] |= {
                    "total": memory.total,
                    "fits": fits(memory, gpu_memory_gb),
                }
    return data


def _millions(number: int) -> str:
    return f"{number / 1e9:.3f} B" if number >= 1e9 else f"{number / 1e6:.2f} M"


def _gb(number: int) -> str:
    return f"{number / GB:.2f} GB" if number >= GB / 10 else f"{number / 1e6:.2f} MB"


def _tera(number: int) -> str:
    return f"{number / 1e12:,.1f} TFLOP" if number >= 1e12 else f"{number / 1e9:.2f} GFLOP"
