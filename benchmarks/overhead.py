"""Times calls on a CPU or a GPU, and compares a pipeline's call with bare calls of its networks."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn


def mark(device: torch.device) -> Any:
    """Return a point in time; on a GPU, of its queue."""
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def seconds(first: Any, last: Any) -> float:
    """Return the seconds from one mark to another."""
    if isinstance(first, float):
        return last - first
    last.synchronize()
    return first.elapsed_time(last) / 1000


@dataclass
class Case:
    """A call of a pipeline, and the same calls of its networks without the pipeline.

    Attributes:
        name: what the call does.
        run: calls the pipeline.
        networks: the networks that it calls.
        device: where they are.
        calls: the calls of the networks in one run, in order, as `record` keeps them.
        marks: the network's number and a point in time, before and after each call of a network in
            the latest `time_run`.
    """

    name: str
    run: Callable[[], Any]
    networks: Sequence[nn.Module]
    device: torch.device
    calls: list[Callable[[], Any]] = field(default_factory=list)
    marks: list[tuple[int, Any]] = field(default_factory=list)

    def record(self) -> None:
        """Run, and keep the calls for `time_bare`. Calls of equal shapes share one input."""
        self.calls = []
        kept: dict[Any, Callable[[], Any]] = {}

        def keep(network: nn.Module, args: tuple[Any, ...], options: dict[str, Any]) -> None:
            shapes = tuple(
                tuple(v.shape) for v in (*args, *options.values()) if isinstance(v, Tensor)
            )
            call = kept.setdefault((network, shapes), lambda: network(*args, **options))
            self.calls.append(call)

        with ExitStack() as stack:
            for network in self.networks:
                stack.callback(network.register_forward_pre_hook(keep, with_kwargs=True).remove)
            self.run()

    def time_run(self) -> float:
        """Return the seconds of a call of the pipeline, and fill `marks`."""
        self.marks = []
        with ExitStack() as stack:
            for number, network in enumerate(self.networks):

                def note(*_: Any, number: int = number) -> None:
                    self.marks.append((number, mark(self.device)))

                stack.callback(network.register_forward_pre_hook(note).remove)
                stack.callback(network.register_forward_hook(note).remove)
            started = mark(self.device)
            self.run()
            return seconds(started, mark(self.device))

    @torch.no_grad()  # as the pipelines are
    def time_bare(self) -> float:
        """Return the seconds of the bare calls of the networks."""
        started = mark(self.device)
        for call in self.calls:
            call()
        return seconds(started, mark(self.device))

    def in_network(self, number: int) -> float:
        """Return the seconds within the calls of a network in the latest run."""
        marks = [point for of, point in self.marks if of == number]
        return sum(
            seconds(before, after) for before, after in zip(marks[::2], marks[1::2], strict=True)
        )

    def span(self, number: int) -> float:
        """Return the seconds from a network's first call to the end of its last."""
        marks = [point for of, point in self.marks if of == number]
        return seconds(marks[0], marks[-1])


def overhead(cases: Sequence[Case], rounds: int) -> list[dict[str, Any]]:
    """Measure each case, and return a row for each.

    The pipeline and the bare calls take turns in being first. Figures are medians over the rounds.
    """
    made: dict[str, list[tuple[float, float, float]]] = {case.name: [] for case in cases}
    for case in cases:
        case.record()  # this also warms up
    for turn in range(rounds):
        for case in cases:
            loop = case.time_bare() if turn % 2 else None
            total = case.time_run()
            loop = case.time_bare() if loop is None else loop
            inside_networks = sum(map(case.in_network, range(len(case.networks))))
            made[case.name].append((total, loop, inside_networks))
    rows = []
    for case in cases:
        totals, loops, inside = zip(*made[case.name], strict=True)
        against = [total / loop - 1 for total, loop in zip(totals, loops, strict=True)]
        outside = [total / within - 1 for total, within in zip(totals, inside, strict=True)]
        rows.append(
            {
                "name": case.name,
                "network_calls": len(case.calls),
                "seconds": statistics.median(totals),
                "bare_seconds": statistics.median(loops),
                "overhead_against_loop": statistics.median(against),
                "overhead_outside_networks": statistics.median(outside),
            }
        )
    return rows
