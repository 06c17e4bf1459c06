"""Loads batches for one process of a training; worker processes prepare them ahead of time."""

from __future__ import annotations

import atexit
import multiprocessing
import re
import signal
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from lumiere.config import RuntimeConfig
from lumiere.errors import LumiereError, ParamsError, WorkerError, first_line


class Examples(Protocol):
    """The source of a stream's examples."""

    def example(self, position: int) -> dict[str, Tensor]:
        """Return the example at a position."""


class _Stream(Dataset[Any]):
    def __init__(self, examples: Examples) -> None:
        self.examples = examples

    def __getitem__(self, position: int) -> dict[str, Tensor] | LumiereError:
        # Return an error that a user can fix, because a worker's exception reaches the training as
        # another one, whose message is a traceback.
        try:
            return self.examples.example(position)
        except LumiereError as error:
            return error


def _batch_or_error(
    examples: Sequence[dict[str, Tensor] | LumiereError],
) -> dict[str, Tensor] | LumiereError:
    for example in examples:
        if isinstance(example, LumiereError):
            return example
    return default_collate(list(examples))


class Positions(Sampler[list[int]]):
    """The stream positions that one process reads, one list for each part of a batch. All processes
    and parts together cover every position exactly once.

    Step s starts at position s * batch_size. The first parts of all processes come first in a
    batch, then their second parts, and so on.
    """

    def __init__(
        self, steps: range, batch_size: int, parts: int, rank: int = 0, world_size: int = 1
    ) -> None:
        """
        Args:
            steps: the steps that need batches.
            batch_size: examples per step, over all processes.
            parts: the number of parts of each process's share of a batch (gradient accumulation).
            rank, world_size: which process this is, and how many there are.

        Raises:
            ParamsError: processes and parts do not divide a batch evenly.
        """
        if batch_size % (parts * world_size):
            raise ParamsError(
                f"batch_size {batch_size}; allowed: a multiple of {parts * world_size}, which is {world_size} "
                f"processes × {parts} parts of gradient accumulation"
            )
        self.steps, self.batch_size, self.parts = steps, batch_size, parts
        self.rank, self.world_size = rank, world_size
        self.size = batch_size // (parts * world_size)

    def __len__(self) -> int:
        return len(self.steps) * self.parts

    def __iter__(self) -> Iterator[list[int]]:
        for step in self.steps:
            for part in range(self.parts):
                first = step * self.batch_size + (part * self.world_size + self.rank) * self.size
                yield list(range(first, first + self.size))


class _Batches(DataLoader[dict[str, Tensor]]):
    def __iter__(self) -> Iterator[dict[str, Tensor]]:  # type: ignore[override]
        batches = super().__iter__()
        if self.num_workers:
            # Handlers run in reverse order, and torch's own come earlier if this one is new.
            atexit.unregister(_end_workers)
            atexit.register(_end_workers)
        return _raise_errors(batches)


def _end_workers() -> None:
    """End the workers that are left when the program ends, for example after an error.

    torch sends them two SIGTERMs. A busy machine may merge the two into one, which they survive
    (`_outlive_signals`), and the program would wait for them forever.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler reports killed workers
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()
            child.join()


def _raise_errors(
    batches: Iterator[dict[str, Tensor] | LumiereError],
) -> Iterator[dict[str, Tensor]]:
    """Raise the errors among the batches, and turn torch's RuntimeError about a worker that hangs
    or has died into a WorkerError.
    """
    try:
        for batch in batches:
            if isinstance(batch, LumiereError):
                raise batch
            yield batch
    except RuntimeError as error:
        if not re.match(r"DataLoader (timed out|worker \(pid)", str(error)):
            raise
        raise WorkerError(
            f"a process that reads clips hangs or has died: {first_line(error)}; run the stage again, with a larger "
            "runtime.timeout_s or with runtime.workers: 0"
        ) from None


def _outlive_signals(worker: int) -> None:
    """Let a worker survive a signal to the whole process group.

    The training itself handles that signal: it saves its state first, then ends its workers with a
    second signal.
    """

    def obey_the_next(number: int, frame: object) -> None:
        signal.signal(number, signal.SIG_DFL)

    signal.signal(signal.SIGTERM, obey_the_next)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def make_loader(
    examples: Examples, positions: Positions, runtime: RuntimeConfig, device: torch.device
) -> DataLoader[dict[str, Tensor]]:
    """Load the batches at `positions`, in order for any number of workers; in pinned memory for a
    GPU.

    Raises:
        WorkerError: while iterating, if a worker dies or returns nothing for `timeout_s` seconds.
        LumiereError: while iterating, as the examples raise it, whichever process reads them.
    """
    return _Batches(
        _Stream(examples),
        batch_sampler=positions,
        collate_fn=_batch_or_error,
        num_workers=runtime.workers,
        pin_memory=device.type == "cuda",
        timeout=runtime.timeout_s if runtime.workers else 0,
        prefetch_factor=4 if runtime.workers else None,
        worker_init_fn=_outlive_signals,
        generator=torch.Generator(),  # so that nothing is drawn from the global one
    )


def to_device(batch: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Move a batch to the training's device; seeds stay on the CPU, where they are read."""
    return {
        name: value if name == "noise_seed" else value.to(device, non_blocking=True)
        for name, value in batch.items()
    }
