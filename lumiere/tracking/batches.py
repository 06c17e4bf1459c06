"""Sends entries of one kind to MLflow in batches, and leaves out what MLflow rejects."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from lumiere.addresses import redacted
from lumiere.errors import first_line
from lumiere.tracking.journal import Entry

if TYPE_CHECKING:
    from mlflow import MlflowClient

LIMITS = {"metrics": 1000, "params": 100, "tags": 100}  # items of a batch; MLflow's limits
MAX_NAME, MAX_DIGEST = 500, 36  # characters; MLflow's limits. DVC's digest of a folder has 36
# Errors about the content of a request; sending it again does not help.
REJECTED = {"INVALID_PARAMETER_VALUE", "RESOURCE_ALREADY_EXISTS"}

logger = logging.getLogger("lumiere.tracking")


def log_batch(client: MlflowClient, run_id: str, kind: str, items: list[list[Any]]) -> None:
    """Send a batch to MLflow.

    Args:
        client: of the store.
        run_id: MLflow's id of the run.
        kind: a key of `LIMITS`.
        items: at most `LIMITS[kind]`; each has the arguments of MLflow's Metric, Param or RunTag.

    Raises:
        MlflowException: if MLflow rejects the batch or does not answer.
    """
    from mlflow.entities import Metric, Param, RunTag

    made: dict[str, Any] = {"metrics": Metric, "params": Param, "tags": RunTag}
    client.log_batch(run_id, **{kind: [made[kind](*item) for item in items]})


def log_inputs(
    client: MlflowClient, run_id: str, items: Sequence[Sequence[str]], context: str
) -> None:
    """Record data sets, each given as path and digest."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    tags = [InputTag("mlflow.data.context", context)]
    inputs = []
    for path, digest in items:
        source = json.dumps({"uri": path})
        name, short = path[:MAX_NAME], digest[:MAX_DIGEST]
        inputs.append(DatasetInput(Dataset(name, short, "local", source), tags))
    client.log_inputs(run_id, inputs)


def send_one_by_one(client: MlflowClient, run_id: str, kind: str, items: list[list[Any]]) -> None:
    """Send halves of a batch that MLflow rejects, and halves of these, down to the rejected item."""
    if len(items) == 1:
        with rejection_noted():
            log_batch(client, run_id, kind, items)
        return
    middle = len(items) // 2
    for half in (items[:middle], items[middle:]):
        try:
            log_batch(client, run_id, kind, half)
        except Exception as error:
            if getattr(error, "error_code", "") not in REJECTED:
                raise
            send_one_by_one(client, run_id, kind, half)


@contextlib.contextmanager
def rejection_noted() -> Iterator[None]:
    """Warn if MLflow rejects a request, and go on."""
    try:
        yield
    except Exception as error:
        if getattr(error, "error_code", "") not in REJECTED:
            raise
        logger.warning("MLflow refuses this, so it is left out: %s", redacted(first_line(error)))


def parts(entries: list[tuple[Entry, int]], limit: int) -> Iterator[list[tuple[Entry, int]]]:
    """Yield runs of entries that have at most `limit` items together."""
    part: list[tuple[Entry, int]] = []
    size = 0
    for entry, offset in entries:
        length = len(entry["items"])
        if part and size + length > limit:
            yield part
            part, size = [], 0
        part.append((entry, offset))
        size += length
    if part:
        yield part
