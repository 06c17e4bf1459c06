"""One stage of DVC's graph as a task of Prefect, and the state that the tasks of a run share.

DVC decides what is stale, so Prefect's own caching is off, and a stage that DVC need not run ends
in the state "Cached".
"""

import contextlib
import dataclasses
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import prefect
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Cancelled, Completed, Failed

from flows import PROXIES_VARIABLE, STAGE_PROXIES, dag, second_tries
from flows.progress import StageProgress
from flows.report import StageResult
from flows.screen import Screen, StageOutput
from flows.second_tries import MayPass
from flows.supervisor import TIMED_OUT, Supervisors
from lumiere import tracking
from lumiere.errors import first_line
from lumiere.run_origin import git_tags
from lumiere.start import TELEMETRY_OFF, own_programs_first

SLOT_SECONDS = 0.5  # how often a waiting stage checks whether the run has been stopped


class PipelineFailed(Exception):
    """At least one stage failed."""


class PipelineRun:
    """The state that the tasks of one pipeline run share."""

    def __init__(
        self,
        root: Path,
        params: dict[str, Any],
        forced: set[str],
        max_parallel: int,
        lock: int,
        checker: dag.StageChecker,
        time_limits: Mapping[str, float] | None = None,
        retries: int = 0,
    ) -> None:
        self.root = root
        self.params = params
        self.forced = forced
        self.lock = lock
        self.time_limits = time_limits or {}  # minutes by stage
        self.retries = retries
        self.supervisors = Supervisors()
        self.screen = Screen()
        self.results: dict[str, StageResult] = {}
        self.parent: str | None = None
        self.git = git_tags(root)
        self._slots = threading.Semaphore(max_parallel)
        self._checker = checker

    @contextlib.contextmanager
    def slot(self) -> Iterator[None]:
        """Hold one of the places for stages that run side by side.

        Raises:
            PipelineFailed: if the run was stopped meanwhile.
        """
        while not self._slots.acquire(timeout=SLOT_SECONDS):
            self._raise_if_stopped()
        try:
            self._raise_if_stopped()
            yield
        finally:
            self._slots.release()

    def pause(self, seconds: float) -> None:
        """Wait, but no longer than the run goes on."""
        deadline = time.monotonic() + seconds
        while not self.supervisors.is_stopped and time.monotonic() < deadline:
            time.sleep(SLOT_SECONDS)

    def _raise_if_stopped(self) -> None:
        if self.supervisors.is_stopped:
            raise PipelineFailed("the run was stopped before this stage began")

    def is_stale(self, node: dag.StageNode) -> bool:
        """Return whether DVC has to check the stage. It may still find nothing to do.

        The graph was read at the start. Params, code and data can be edited during a run, so DVC is
        asked again.
        """
        has_new_input = any(
            self.results[name].status == "ran" for name in node.dependencies if name in self.results
        )
        if node.is_changed or node.name in self.forced or has_new_input:
            return True
        return self._checker.is_changed(node.name)

    def stage_environment(self) -> dict[str, str]:
        """Return the environment of `dvc` and the stage: this interpreter comes first, and
        telemetry is off.
        """
        env = dict(os.environ) | STAGE_PROXIES | TELEMETRY_OFF
        env.pop("MLFLOW_RUN_ID", None)  # the stage would write into that run
        env.pop(PROXIES_VARIABLE, None)
        env["PATH"] = own_programs_first(env.get("PATH", ""))
        env["PYTHONUNBUFFERED"] = "1"
        env.setdefault("TQDM_NCOLS", "90")
        if self.parent:
            env[tracking.PARENT_VARIABLE] = self.parent
        return env


@prefect.task(cache_policy=NO_CACHE, persist_result=False)
def run_stage(node: dag.StageNode, run: PipelineRun) -> State[Any]:
    """Let DVC reproduce one stage. The stages that it depends on must be done."""
    started = time.monotonic()
    try:
        result, state = _try_again_and_again(node, run)
    except BaseException:  # also if DVC, MLflow or Prefect failed instead of the stage
        run.results[node.name] = StageResult(node.name, "failed", time.monotonic() - started)
        raise
    run.results[node.name] = dataclasses.replace(result, seconds=time.monotonic() - started)
    return state


def _try_again_and_again(node: dag.StageNode, run: PipelineRun) -> tuple[StageResult, State[Any]]:
    """Reproduce a stage, again after temporary failures (`flows.second_tries`)."""
    for attempt in range(1, run.retries + 2):
        try:
            with run.slot():
                return _reproduce(node, run)
        except MayPass as error:
            failure = str(error)
        if attempt <= run.retries:
            seconds = second_tries.delay(attempt)
            prefect.get_run_logger().warning(
                "%s; try %d of %d begins in %.0f s", failure, attempt + 1, run.retries + 1, seconds
            )
            run.pause(seconds)
    return StageResult(node.name, "failed"), Failed(message=failure)


def _reproduce(node: dag.StageNode, run: PipelineRun) -> tuple[StageResult, State[Any]]:
    progress = StageProgress(node.name)
    output = StageOutput(node.name, run.screen, prefect.get_run_logger(), progress)
    if run.is_stale(node):
        try:
            status = _run_dvc(node, run, output)
        finally:
            progress.end()
        if run.supervisors.is_stopped:
            return StageResult(node.name, "stopped"), Cancelled(message="the run was stopped")
        if status:
            return StageResult(node.name, "failed"), _failure(node, run, output, status)
    figures = tracking.numbers(dag.read_metrics(node))
    if output.has_run:
        return StageResult(node.name, "ran", metrics=figures, outputs=node.outputs), Completed()
    tracking.log_cached_stage(
        run.root, run.parent, node.name, run.params.get(node.name, {}), figures, run.git
    )
    result = StageResult(node.name, "cached", metrics=figures, outputs=node.outputs)
    return result, Completed(name="Cached", message="nothing that it depends on has changed")


def _run_dvc(node: dag.StageNode, run: PipelineRun, output: StageOutput) -> int:
    limit = run.time_limits.get(node.name)
    try:
        return run.supervisors.run(
            _dvc_command(node, node.name in run.forced),
            run.root,
            run.stage_environment(),
            output,
            (run.lock,),
            None if limit is None else 60 * limit,
        )
    except OSError as error:
        if error.errno in second_tries.NO_ROOM_TO_START:
            raise MayPass(f"stage {node.name} cannot be started ({first_line(error)})") from error
        raise


def _failure(node: dag.StageNode, run: PipelineRun, output: StageOutput, status: int) -> State[Any]:
    """Return the state of a stage that failed.

    Raises:
        MayPass: if a second try may succeed.
    """
    limit = run.time_limits.get(node.name)
    if status == TIMED_OUT and limit is not None:
        return Failed(
            name="TimedOut",
            message=f"stage {node.name} ran into its time limit of {limit:g} minutes; a training has "
            "saved its state, and goes on from there in the next run",
        )
    code = output.exit_code or status
    reason = second_tries.reason(node.name, code)
    if reason:
        raise MayPass(reason)
    return Failed(message=f"stage {node.name} ended with exit code {code}")


def _dvc_command(node: dag.StageNode, is_forced: bool) -> list[str]:
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", "repro", "--single-item"]
    if is_forced:
        command.append("--force")
    return [*command, node.name]
