"""Fixtures for all tests: no network, no telemetry, and one Prefect server for tests that ask for it."""

from __future__ import annotations

import atexit
import gc
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from filelock import FileLock

gc.disable()  # until all is imported
# Otherwise each of the hundreds of programs that tests start would compile the same modules again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# Registered before Prefect is imported, so that it runs after Prefect's own handlers.
PREFECT_HOME = tempfile.mkdtemp(prefix="lumiere-prefect-")
atexit.register(shutil.rmtree, PREFECT_HOME, ignore_errors=True)

# Before any test module imports torch, Prefect or MLflow, which read these once.
os.environ.update(
    {
        "DO_NOT_TRACK": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DVC_NO_ANALYTICS": "1",
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "OMP_WAIT_POLICY": "passive",
        "MPLBACKEND": "Agg",
        "PREFECT_HOME": PREFECT_HOME,
        "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
        # Workers side by side have a core each.
        **({"OMP_NUM_THREADS": "1"} if "PYTEST_XDIST_WORKER" in os.environ else {}),
        # A folder above the checkout may be someone's git repository; toy projects must not find it.
        "GIT_CONFIG_NOSYSTEM": "1",
    }
)
for name in (
    "MLFLOW_RUN_ID",
    "MLFLOW_TRACKING_URI",
    "LUMIERE_PARENT_RUN_ID",
    "LUMIERE_TRACKING",
    "PREFECT_API_URL",
):
    os.environ.pop(name, None)

import lumiere.compat  # noqa: E402, F401  after the environment, before any test imports diffusers
from lumiere.addresses import keep_loopback_direct  # noqa: E402
from lumiere.tracking.store import SETTINGS, SILENCE  # noqa: E402

keep_loopback_direct()  # as opening a store does, so that no test is the first to change no_proxy

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop() -> None:
    """Collect garbage again, but not what was imported: a full collection takes a second otherwise.

    Collections are rarer than by default: those take a twentieth of the time of the tests.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)
    gc.enable()


# The longest files, which begin first, so that no worker is left with one of them at the end.
LONGEST = (
    "flows/test_pipeline.py", "stages/test_chain.py", "training/test_loop.py", "training/test_parallel.py",
    "models/test_compile.py", "cli/test_generate.py", "stages/test_kills.py", "curation/test_curate_and_decode.py",
    "test_compat.py", "flows/test_schedules.py", "evaluation/test_stage.py", "cli/test_evaluate.py",
    "training/test_latents.py", "training/test_preview.py", "training/test_tasks.py", "stages/test_sizes.py",
    "scripts/test_train_pretrained_layers.py", "flows/test_leftovers.py", "flows/test_telemetry.py",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests of the longest files first; other files, and the tests of a file, keep their order."""
    ranks = {REPOSITORY / "tests" / name: rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path, len(ranks)))


@pytest.fixture(autouse=True)
def no_shared_params() -> Iterator[None]:
    """Forget what a stage of this process recorded with every run; only tests run several stages."""
    yield
    if "lumiere.tracking.recording" in sys.modules:
        sys.modules["lumiere.tracking.recording"]._shared_params.clear()


@pytest.fixture(autouse=True)
def same_environment() -> Iterator[None]:
    """Fail the test that leaves a variable behind, and not a later one that happens to read it.

    Variables that stay set for good reason: decord adds to PATH when it is imported, torch's
    compiler sets the folder of its cache, and opening a store sets the limits of MLflow that are not
    set, and keeps it silent.
    """
    before = dict(os.environ)
    yield
    after = dict(os.environ)
    changed = {key for key in before | after if before.get(key) != after.get(key)}
    changed -= {"PYTEST_CURRENT_TEST", "PATH", "TORCHINDUCTOR_CACHE_DIR"}
    changed -= {key for key, value in (SETTINGS | SILENCE).items() if after.get(key) == value}
    for key in changed:
        if key in before:
            os.environ[key] = before[key]
        else:
            del os.environ[key]
    assert not changed, f"the test changed the environment: {sorted(changed)}"


@pytest.fixture(scope="session", autouse=True)
def flops_estimated() -> None:
    """Let trainings estimate the FLOPs of their step; see `tests.estimated_flops`."""
    if "lumiere.training" in sys.modules:  # do not import it for tests without trainings
        from tests import estimated_flops

        estimated_flops.estimate_flops()


def make_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """Make a folder once for all workers of this run of pytest. Tests work on copies of it.

    Args:
        factory: of this worker's folders.
        name: of the folder, which differs from those of other calls.
        make: fills the empty folder. Other workers wait until it returns.
    """
    base = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # its own folder is below that of the run
        base = base.parent
    folder, finished = base / name, base / f"{name}.finished"
    with FileLock(base / f"{name}.lock"):
        if not finished.exists():
            shutil.rmtree(folder, ignore_errors=True)  # half of it, if another worker failed
            folder.mkdir()
            make(folder)
            finished.touch()
    return folder


@pytest.fixture(scope="session")
def prefect_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a Prefect database without runs. Servers get copies, because making one takes 10 seconds."""
    command = [sys.executable, "-m", "prefect", "server", "database", "upgrade", "--yes"]

    def make(home: Path) -> None:
        variables = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
        variables["PREFECT_HOME"] = str(home)
        subprocess.run(command, env=variables, check=True, capture_output=True)

    return make_once(tmp_path_factory, "empty prefect", make) / "prefect.db"


@pytest.fixture(scope="session")
def prefect_server(
    prefect_database: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """Start one temporary Prefect server for the session, and yield its address."""
    from prefect.settings import PREFECT_API_URL
    from prefect.testing import utilities

    folder = tmp_path_factory.mktemp("prefect")
    shutil.copy(prefect_database, folder / "prefect-test.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utilities, "mkdtemp", lambda: str(folder))
        with utilities.prefect_test_harness(server_startup_timeout=180):
            yield str(PREFECT_API_URL.value())


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make an MLflow database without runs. Tests copy it, because making one takes seconds."""

    def make(root: Path) -> None:
        from lumiere.tracking import store

        store.open_store(root)

    return make_once(tmp_path_factory, "empty store", make) / ".lumiere" / "mlflow.db"
