"""Records the load of the machine during a run, under MLflow's names for system metrics.

MLflow's own monitor writes to the server itself. Here a thread samples, and the points take the way
of all others, through the journal, so a server that is slow or gone delays nothing.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator
from typing import Any

from lumiere.tracking.run_record import Run

EVERY_SECONDS = 10.0
PREFIX = "system/"
WARNING = "the load of the machine is not recorded: %s"

logger = logging.getLogger("lumiere.tracking")


@contextlib.contextmanager
def system_metrics_recorded(run: Run, seconds: float = EVERY_SECONDS) -> Iterator[None]:
    """Record the load of CPU, memory, disk, network and NVIDIA GPUs while the block runs.

    GPUs need the package nvidia-ml-py. A sample takes about a millisecond.

    Args:
        run: the run.
        seconds: between two samples; the first comes after this time.
    """
    monitors = working_monitors() if run.is_recorded else []
    if not monitors:
        yield
        return
    has_ended = threading.Event()
    arguments = (run, monitors, seconds, has_ended)
    thread = threading.Thread(
        target=_sample, args=arguments, name="lumiere-system-metrics", daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        has_ended.set()
        thread.join(1.0)  # a sample that hangs, as on a dead network disk, holds nothing up


def _sample(run: Run, monitors: list[Any], seconds: float, has_ended: threading.Event) -> None:
    step = 0
    try:
        while not has_ended.wait(seconds):
            log_sample(run, monitors, step)
            step += 1
    except Exception as error:  # psutil and NVML raise many kinds; the work itself goes on
        logger.warning(WARNING, error)


def log_sample(run: Run, monitors: list[Any], step: int) -> None:
    """Log the load since the sample before."""
    metrics: dict[str, float] = {}
    for monitor in monitors:
        monitor.collect_metrics()
        metrics |= monitor.aggregate_metrics()
        monitor.clear_metrics()
    run.log_metrics({PREFIX + name: value for name, value in metrics.items()}, step)


def working_monitors() -> list[Any]:
    """Return MLflow's monitors that work on this machine.

    Called in the main thread, because it imports (`lumiere.tracking.store.import_mlflow`).
    """
    import psutil
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
    from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
    from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

    # It warns at every sample of a GPU that does not tell its load, such as a part of one.
    logging.getLogger("mlflow.system_metrics").setLevel(logging.CRITICAL)
    monitors: list[Any] = []
    try:
        psutil.cpu_percent()  # the first call has nothing to compare with, and returns 0
        monitors = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
        with contextlib.suppress(ImportError, RuntimeError):  # no nvidia-ml-py, or no GPU
            monitors.append(GPUMonitor())
    except Exception as error:
        logger.warning(WARNING, error)
    return monitors
