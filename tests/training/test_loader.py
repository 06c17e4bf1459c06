"""Batches: every position once, in order, whoever reads it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils.data import _utils

from lumiere.config import RuntimeConfig
from lumiere.errors import DataError, WorkerError
from lumiere.training.loader import Positions, make_loader
from tests import forked
from tests.conftest import REPOSITORY
from tests.training.small_task import CONFIG, make_task


class Counting:
    """An example that is its position; one of them takes for ever, one cannot be read."""

    def __init__(self, stuck: int = -1, damaged: int = -1) -> None:
        self.stuck, self.damaged = stuck, damaged

    def example(self, position: int) -> dict[str, Tensor]:
        if position == self.stuck:
            time.sleep(60)
        if position == self.damaged:
            raise DataError("a.tar: cannot be read: DataError: no", cure="decode it again")
        return {"position": torch.tensor(position)}


@pytest.mark.parametrize("world_size, parts", [(1, 1), (1, 3), (2, 1), (2, 3), (6, 1)])
def test_processes_and_parts_tile_the_stream(world_size: int, parts: int) -> None:
    ranks = [Positions(range(2, 5), 6, parts, rank, world_size) for rank in range(world_size)]
    streams = [list(positions) for positions in ranks]
    assert {len(stream) for stream in streams} == {len(ranks[0])} == {3 * parts}
    for step in range(3):
        batch = [
            p
            for stream in streams
            for part in stream[step * parts : (step + 1) * parts]
            for p in part
        ]
        assert sorted(batch) == list(range((step + 2) * 6, (step + 3) * 6))


def test_parts_that_do_not_divide_a_batch_are_refused() -> None:
    with pytest.raises(
        ValueError, match="batch_size 6; allowed: a multiple of 4, which is 2 processes × 2 parts"
    ):
        Positions(range(3), 6, 2, 0, 2)


def compare_workers() -> None:
    cpu = torch.device("cpu")
    positions = Positions(range(3, 7), CONFIG.batch_size, 1)
    batches = [
        list(make_loader(make_task(), positions, RuntimeConfig(workers=n), cpu)) for n in (0, 2)
    ]
    assert [len(found) for found in batches] == [4, 4]
    for alone, read_ahead in zip(*batches, strict=True):
        assert alone.keys() == read_ahead.keys()
        assert all(torch.equal(alone[name], read_ahead[name]) for name in alone)


def wait_for_a_hung_worker() -> None:
    _utils.MP_STATUS_CHECK_INTERVAL = 0.5  # torch waits so long, and again, for a worker to end
    runtime = RuntimeConfig(workers=1, timeout_s=2.0)
    with pytest.raises(WorkerError, match=r"timed out after 2.*runtime\.timeout_s"):
        list(
            make_loader(Counting(stuck=4), Positions(range(4), 2, 1), runtime, torch.device("cpu"))
        )


def read_a_damaged_clip() -> None:
    for workers in (0, 1):
        runtime = RuntimeConfig(workers=workers)
        loader = make_loader(
            Counting(damaged=3), Positions(range(4), 2, 1), runtime, torch.device("cpu")
        )
        read = iter(loader)
        assert next(read)["position"].tolist() == [0, 1]
        with pytest.raises(DataError) as raised:
            next(read)
        assert str(raised.value) == "a.tar: cannot be read: DataError: no; decode it again"
        assert raised.value.problem == "a.tar: cannot be read: DataError: no"


def leave_a_worker_that_takes_no_signal() -> None:
    loader = make_loader(
        Counting(), Positions(range(4), 2, 1), RuntimeConfig(workers=1), torch.device("cpu")
    )
    sys.left = read = iter(loader)  # type: ignore[attr-defined]  # nothing frees it before the end
    next(read)
    (worker,) = multiprocessing.active_children()
    os.kill(worker.pid or 0, signal.SIGSTOP)  # as a worker on a busy machine, but for sure


@pytest.mark.parametrize(
    "what",
    [
        "compare_workers",
        "wait_for_a_hung_worker",
        "read_a_damaged_clip",
        "leave_a_worker_that_takes_no_signal",
    ],
)
def test_workers_read_ahead_in_order_and_end_when_they_hang(what: str, tmp_path: Path) -> None:
    # In a process of its own: workers are forked, and who knows what other tests have left here.
    log = tmp_path / "said.txt"
    forked.start(["tests.training.test_loader", what], log, REPOSITORY).wait()


def test_nothing_is_drawn_from_the_global_generator() -> None:
    before = torch.get_rng_state()
    loader = make_loader(
        make_task(), Positions(range(2), 2, 1), RuntimeConfig(workers=0), torch.device("cpu")
    )
    assert len(list(loader)) == 2 and torch.equal(torch.get_rng_state(), before)


if __name__ == "__main__":
    globals()[sys.argv[1]]()
