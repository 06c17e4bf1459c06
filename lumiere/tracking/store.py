"""MLflow's store: opens it, mends what a person or a crash did to it, and says what is wrong with it.

The default store is an SQLite database in the project's folder `.lumiere/`. MLFLOW_TRACKING_URI
names another database or a server, and MLFLOW_DEFAULT_ARTIFACT_ROOT another place for artifacts; a
server chooses that place itself. Relative paths begin at the project's folder.
"""

from __future__ import annotations

import logging
import os
import re
import sqlite3
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from lumiere.addresses import check_database_folder, keep_loopback_direct, redacted
from lumiere.errors import DataError, first_line
from lumiere.locks import exclusive
from lumiere.run_origin import has_lost_its_process
from lumiere.sqlite_files import probe, set_aside
from lumiere.start import switch_telemetry_off
from lumiere.tracking.clock import now_in_ms
from lumiere.tracking.new_database import database_is_open, make_database

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment

EXPERIMENT = "lumiere"
# MLflow's pages then open the experiment at its runs, not at traces of language models.
KIND = {"mlflow.experimentKind": "custom_model_development"}
EMBEDDED = "embedded"  # the address of the default store, wherever the project is moved

# MLflow's defaults let one request wait for minutes. `lumiere.tracking.delivery` tries again itself.
SETTINGS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",  # seconds
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "PGCONNECT_TIMEOUT": "10",  # seconds, of PostgreSQL's client library
}
# As a run ends, MLflow would print the address of its page, with the password in it.
SILENCE = {"MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true"}
CURE = "correct MLFLOW_TRACKING_URI, or set LUMIERE_TRACKING=off to record nothing"
EMBEDDED_CURE = (
    "let this user read and write it and its folder, or set LUMIERE_TRACKING=off to record nothing"
)

logger = logging.getLogger("lumiere.tracking")


def tracking_uri(root: Path) -> str:
    """Return the address of the store. It is absolute: MLflow's default depends on the current
    folder, and so does the relative path of an SQLite database in MLFLOW_TRACKING_URI, which begins
    at the project here.

    Raises:
        ParamsError: if the project's path cannot be part of a database's address.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///.lumiere/mlflow.db"
    kind, has_path, path = uri.partition(":///")
    is_relative = path != "" and not path.startswith(("/", ":memory:", "file:"))
    if not (kind.startswith("sqlite") and has_path and is_relative):
        return uri
    check_database_folder(root.resolve())
    return f"{kind}:///{root.resolve()}/{path}"


def store_name(root: Path) -> str:
    """Return what identifies the store in a journal; it contains no password."""
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    return redacted(uri) if uri else EMBEDDED


def artifact_location(root: Path) -> str | None:
    """Return where a new experiment keeps its artifacts; None if a server decides."""
    if tracking_uri(root).startswith(("http:", "https:")):
        return None
    address = os.environ.get("MLFLOW_DEFAULT_ARTIFACT_ROOT")
    if address:
        # MLflow keeps relative paths as absolute ones, which would never equal the variable.
        path = address if address.startswith("file:/") else address.removeprefix("file:")
        if not urlsplit(path).scheme:
            address = (root / path).resolve().as_uri()
        return f"{address.rstrip('/')}/{EXPERIMENT}"
    return (root.resolve() / ".lumiere" / "mlartifacts").as_uri()


def import_mlflow(uri: str) -> None:
    """Import what a client of the store needs.

    Called in the main thread: two threads that import packages at the same time can see each
    other's half-imported modules.
    """
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    os.environ.update(SILENCE)
    switch_telemetry_off()
    keep_loopback_direct()
    import mlflow.store.tracking.rest_store

    if not uri.startswith(("http:", "https:")):
        import mlflow.store.tracking.sqlalchemy_store  # noqa: F401
    # The first two have a line for each of 60 migrations, and the others a traceback or a warning
    # for each request that fails.
    for name in ("alembic", "mlflow.store.db.utils", "urllib3.connectionpool"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def open_store(root: Path) -> MlflowClient:
    """Make a client of the store, and initialise or mend the store if necessary.

    Raises:
        DataError: if the store cannot be used until a person changes something.
        Exception: of many kinds, if it cannot be used now.
    """
    try:
        return _open_store(root)
    finally:
        database_is_open()


def sqlite_path(root: Path) -> Path | None:
    """Return the file of the store's database; None if it is not SQLite."""
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        return root.resolve() / ".lumiere" / "mlflow.db"
    uri = tracking_uri(root)
    if not uri.startswith("sqlite:///"):
        return None
    return Path(unquote(uri.removeprefix("sqlite:///").partition("?")[0]))  # as SQLAlchemy reads it


def _open_store(root: Path) -> MlflowClient:
    uri = tracking_uri(root)
    import_mlflow(uri)
    from mlflow import MlflowClient

    path = sqlite_path(root)
    # One process initialises a store: concurrent migrations crash.
    with exclusive(root / ".lumiere" / "mlflow.lock"):
        if not os.environ.get("MLFLOW_TRACKING_URI"):
            assert path is not None
            _set_aside_if_damaged(path)
        elif path is not None:
            _check_sqlite(path)
        elif uri.startswith("postgresql"):
            _check_postgresql(uri)
        if (artifact_location(root) or "").startswith("s3:") and not find_spec("boto3"):
            raise DataError(
                "MLFLOW_DEFAULT_ARTIFACT_ROOT is in S3, and the package boto3 is missing; install it with "
                "pip install -e '.[s3]'"
            )
        if path is not None and path.exists() and not path.stat().st_size:
            make_database(uri, path)
        client = MlflowClient(uri)
        client.get_experiment_by_name(EXPERIMENT)
    return client


def experiment_id(client: MlflowClient, root: Path) -> str:
    """Return the experiment's id. A database without a place for artifacts keeps them in the
    project.

    An experiment that was deleted in MLflow's pages is restored. MLflow stores absolute artifact
    paths, so the embedded store of a copied or moved folder would write into the old place. In that
    case, and if another place was chosen, the old experiment is renamed and a new one begins. In a
    database that was chosen, the experiment may be that of other people too, so it stays.
    """
    location = artifact_location(root)
    with exclusive(root / ".lumiere" / "mlflow.lock"):
        experiment = client.get_experiment_by_name(EXPERIMENT)
        if experiment is None:
            return client.create_experiment(EXPERIMENT, location, KIND)
        restore_experiment(client, experiment)
        if not KIND.keys() & experiment.tags.keys():
            for key, value in KIND.items():
                client.set_experiment_tag(experiment.experiment_id, key, value)
        is_shared = bool(os.environ.get("MLFLOW_TRACKING_URI"))
        if is_shared or experiment.artifact_location == location:
            return experiment.experiment_id
        old_name = f"{EXPERIMENT} until {time.strftime('%Y-%m-%d %H:%M:%S')}"
        client.rename_experiment(experiment.experiment_id, old_name)
        return client.create_experiment(EXPERIMENT, location, KIND)


def restore_experiment(client: MlflowClient, experiment: Experiment) -> bool:
    """Restore an experiment that was deleted in MLflow's pages; return whether it was deleted."""
    if experiment.lifecycle_stage == "active":
        return False
    client.restore_experiment(experiment.experiment_id)
    logger.warning(
        "the MLflow experiment %s was deleted; it is restored, because this run belongs to it "
        "(rename an experiment that you want to put away)",
        experiment.name,
    )
    return True


def close_abandoned_runs(client: MlflowClient, root: Path, kept: set[str]) -> None:
    """Mark runs as KILLED if their process on this machine is gone, as it is after `kill -9`.

    Args:
        client: the store.
        root: the project's folder.
        kept: ids of runs that still have a journal; it says how they ended.
    """
    running = client.search_runs([experiment_id(client, root)], "attributes.status = 'RUNNING'")
    for run in running:
        if run.info.run_id not in kept and has_lost_its_process(run.data.tags):
            ended = max(now_in_ms(), run.info.start_time)  # the clock may have been set back
            client.set_terminated(run.info.run_id, status="KILLED", end_time=ended)


def lasting_problem(error: Exception, root: Path) -> DataError | None:
    """Return the error to show if the store stays unusable until a person changes something; None
    if it may answer later.
    """
    if isinstance(error, DataError):
        return error
    text = redacted(first_line(error))
    store = redacted(tracking_uri(root))
    if isinstance(error, ImportError) and (error.name or "").startswith("psycopg"):
        return DataError(
            f"MLflow's store {store} needs the package psycopg; install it with "
            "pip install -e '.[postgresql]'"
        )
    if "database schema" in text or "locate revision" in text:
        from mlflow.version import VERSION

        return DataError(
            f"{store} belongs to another version of MLflow than the installed {VERSION}; install the "
            f"version that wrote it, or back it up and run `mlflow db upgrade {store}`, or move it away"
        )
    from mlflow.exceptions import MlflowException

    if isinstance(error, MlflowException):
        status = error.get_http_status_code()
        if status in (401, 403):
            return DataError(
                f"MLflow at {store} refuses this user ({text}); set MLFLOW_TRACKING_USERNAME and "
                "MLFLOW_TRACKING_PASSWORD, or set LUMIERE_TRACKING=off to record nothing"
            )
        is_wrong = any(word in type(error).__name__ for word in ("Invalid", "Unsupported"))
        is_wrong |= "filesystem tracking backend" in text  # which MLflow has given up
        if status == 404 or is_wrong:
            return DataError(f"MLflow's store {store} cannot be used ({text}); {CURE}")
    elif isinstance(error, ImportError | ValueError):
        return DataError(f"MLflow's store {store} cannot be used ({text}); {CURE}")
    return None


def set_aside_if_malformed(error: Exception, root: Path) -> None:
    """Rename the embedded database if an error of a write says that it is damaged. The next process
    begins a new one and delivers the journals of the runs that are missing there.
    """
    if "is malformed" in str(error) and store_name(root) == EMBEDDED:
        _set_aside(root.resolve() / ".lumiere" / "mlflow.db", first_line(error))


def reason(error: Exception) -> str:
    """Return why the store does not answer, in a few words where the error has them."""
    text = redacted(first_line(error))
    system = re.search(r"\[Errno \d+\] ([^'\")]+)", text)
    if system:
        return system[1]
    return "it took too long" if "timed out" in text else text


def _set_aside_if_damaged(path: Path) -> None:
    """Rename the embedded database if SQLite cannot read it, so that a new one begins."""
    try:
        probe(path)
    except sqlite3.OperationalError as error:
        raise _unusable(path, error) from error
    except sqlite3.DatabaseError as error:
        _set_aside(path, str(error))


def _set_aside(path: Path, problem: str) -> None:
    logger.warning(
        "MLflow's database was damaged (%s); it is now %s, and a new one begins",
        problem,
        set_aside(path),
    )


def _check_sqlite(path: Path) -> None:
    """Raise an error at once if a database cannot be opened; MLflow would try for minutes."""
    try:
        probe(path)
    except sqlite3.DatabaseError as error:
        raise _unusable(path, error) from error


def _check_postgresql(uri: str) -> None:
    """Raise an error at once if a database cannot be opened; MLflow would try for minutes."""
    from mlflow.store.db.utils import create_sqlalchemy_engine

    engine = create_sqlalchemy_engine(uri)
    try:
        engine.connect().close()
    except Exception as error:
        # SQLAlchemy's own text goes on with a link.
        text = " ".join(str(getattr(error, "orig", error)).split())
        if "FATAL" in text and ("authentication" in text or "does not exist" in text):
            raise DataError(
                f"MLflow's store {redacted(uri)} refuses ({redacted(text)}); {CURE}"
            ) from None
        raise ConnectionError(text) from None
    finally:
        engine.dispose()


def _unusable(path: Path, error: sqlite3.DatabaseError) -> Exception:
    is_busy = getattr(error, "sqlite_errorcode", 0) & 0xFF in (
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
    )
    if is_busy:
        return TimeoutError(f"{path}: another process has locked the database")
    cure = CURE if os.environ.get("MLFLOW_TRACKING_URI") else EMBEDDED_CURE
    return DataError(f"MLflow's store {path} cannot be used ({error}); {cure}")
