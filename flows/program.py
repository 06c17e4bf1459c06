"""Does the work of `python -m flows.pipeline` once its command line is parsed: it checks, and runs the
flow in `flows.flow` or serves it on a schedule.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from dvc.exceptions import DvcException
from prefect import Flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.schedules import CronSchedule
from prefect.exceptions import PrefectHTTPStatusError
from prefect.settings import (
    PREFECT_API_DATABASE_CONNECTION_URL,
    PREFECT_API_URL,
    PREFECT_HOME,
)
from pydantic import ValidationError

from flows import dag
from flows.cancellation import STARTED_BY
from flows.embedded_server import mend_database
from flows.flow import MAX_MINUTES, PROJECT, lumiere_pipeline
from flows.run_params import check_params, read_override
from lumiere import tracking
from lumiere.addresses import check_database_folder, redacted
from lumiere.errors import LumiereError, ParamsError, first_line, one_line
from lumiere.locks import make_folder
from lumiere.start import check_interpreter

FAILED, INTERRUPTED = 1, 130  # exit statuses
ANSWER_SECONDS = 10.0  # how long a Prefect server may take to answer


def run(options: argparse.Namespace, wait_for_server: Callable[[], None]) -> int:
    """Do what the command line asks for, and return the exit status.

    Args:
        options: the command line.
        wait_for_server: returns when the embedded server answers; it raises LumiereError if that
            server has ended.
    """
    root = Path(options.root or PROJECT).resolve()
    try:
        check_interpreter()
        parameters = {
            "root": str(root),
            "stages": options.stages,
            "only": options.only,
            "from_stage": options.from_stage,
            "force": options.force,
            "profile": options.profile,
            "overrides": dict(map(read_override, options.overrides)),
            "wait_minutes": options.wait,
            "max_parallel": options.max_parallel,
            "time_limits": dict(map(read_time_limit, options.time_limits)),
            "retries": options.retries,
        }
        # Fail at once, because Prefect takes seconds to start.
        named = [*(options.stages or []), *parameters["time_limits"]]
        dag.check_names(root, named + ([options.from_stage] if options.from_stage else []))
        check_params(root, options.profile, parameters["overrides"])
        check_home()
        if options.schedule is None and tracking.is_on():
            tracking.prepare(root)  # while the server starts
        wait_for_server()
        check_server()
        if options.schedule is not None:
            schedule = read_schedule(options.schedule, options.timezone or "UTC")
            dag.read_dag(root)  # with a broken file of DVC, every scheduled run would fail
            serve(schedule, parameters)
            return 0
        state = lumiere_pipeline(**parameters, return_state=True)
    except (LumiereError, DvcException) as error:
        print(f"error: {redacted(one_line(error))}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print(
            "interrupted: finished stages are kept, and the next run continues from there",
            file=sys.stderr,
        )
        return INTERRUPTED
    if not state.is_completed():
        print(f"error: {state.message}", file=sys.stderr)
        return FAILED
    return 0


def check_server() -> None:
    """Check that the Prefect server answers, if one is set. Otherwise the run embeds one; check that
    it can write its files.

    Raises:
        ParamsError: if one of the two is impossible.
    """
    check_home()
    if not PREFECT_API_URL.value():
        return
    url = redacted(PREFECT_API_URL.value())
    try:
        client = get_client(sync_client=True, httpx_settings={"timeout": ANSWER_SECONDS})
        error = client.api_healthcheck()
    except ImportError as problem:  # of a SOCKS proxy
        raise ParamsError(
            f"the Prefect server {url} cannot be reached through the proxy of this environment "
            f"({first_line(problem)}); install socksio, or add the server to no_proxy"
        ) from None
    has_answered = error is None or isinstance(error, PrefectHTTPStatusError)
    if not has_answered:
        raise ParamsError(
            f"no Prefect server answers at PREFECT_API_URL={url} ({redacted(first_line(error))}); start it with "
            "`prefect server start`, or unset PREFECT_API_URL to run without it"
        )


def check_home(starts_server: bool = False) -> None:
    """Check Prefect's home folder, because Prefect would wait forever for its server. A damaged database
    in it is renamed.

    Args:
        starts_server: whether a server is started there; by default one is if no other is set.

    Raises:
        ParamsError: if it cannot be written, or cannot hold a database.
    """
    home = PREFECT_HOME.value()
    try:
        make_folder(home)
        with tempfile.TemporaryFile(dir=home):
            pass
    except OSError as error:
        raise ParamsError(
            f"PREFECT_HOME={home}: cannot be written ({error.strerror}); let this user write it, or "
            "set PREFECT_HOME to another folder"
        ) from None
    starts_server = starts_server or not PREFECT_API_URL.value()
    if starts_server and str(home) in str(PREFECT_API_DATABASE_CONNECTION_URL.value() or home):
        check_database_folder(home)
        mend_database(home)


def read_schedule(cron: str, timezone: str) -> CronSchedule:
    """Make a schedule from a cron expression and the name of a time zone.

    Args:
        cron: minute, hour, day of month, month and day of week; a sixth field, if any, means
            seconds.
        timezone: a name from the IANA database, such as UTC or Europe/Berlin.

    Raises:
        ParamsError: if one of the two cannot be used.
    """
    try:
        return CronSchedule(cron=cron, timezone=timezone)
    except ValidationError as error:
        fields = [detail["loc"][0] for detail in error.errors()]
    if "cron" in fields:
        raise ParamsError(
            f"--schedule {cron!r} is not a cron expression; give minute, hour, day of month, month and "
            "day of week, as in '0 3 * * *' for 03:00 every day"
        )
    raise ParamsError(
        f"--timezone {timezone!r} is not a time zone; give a name such as UTC or Europe/Berlin"
    )


def serve(schedule: CronSchedule, parameters: dict[str, object]) -> None:
    """Serve the flow on a schedule until interrupted.

    A run that would overlap another is skipped, because the flow locks the project's folder. There is
    no concurrency limit of Prefect's, because the run of a dead process would keep its slot.

    Raises:
        ParamsError: if no Prefect server is set, because nothing could start a scheduled run.
    """
    if not PREFECT_API_URL.value():
        raise ParamsError(
            "--schedule needs a Prefect server, because the embedded one ends with its run; start one with "
            "`prefect server start`, then set PREFECT_API_URL=http://127.0.0.1:4200/api and try again"
        )
    os.environ[STARTED_BY] = str(os.getpid())
    print(f"schedule: {schedule.cron} in the time zone {schedule.timezone} (Ctrl-C stops it)")
    # Each run loads the flow from its file, so edits take effect in the next run.
    flow = lumiere_pipeline.from_source(str(PROJECT), entrypoint="flows.flow.lumiere_pipeline")
    assert isinstance(flow, Flow)  # it is a coroutine only in async code
    flow.serve(
        name="scheduled",
        schedules=[schedule],
        parameters=parameters,
        limit=2,  # the second finds the project locked, says so and ends
    )


def read_time_limit(text: str) -> tuple[str, float]:
    """Split `evaluate=60` into the stage and the minutes.

    Raises:
        ParamsError: if it has another form.
    """
    stage, _, minutes = text.partition("=")
    with contextlib.suppress(ValueError):
        if stage and 0 < float(minutes) <= MAX_MINUTES:
            return stage, float(minutes)
    raise ParamsError(
        f"--time-limit {text!r}: expected STAGE=MINUTES, more than 0, as in evaluate=60"
    )
