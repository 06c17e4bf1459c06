"""The whole pipeline as one Prefect flow: `python -m flows.pipeline`, or on a schedule.

One task per stage of DVC's graph, independent stages side by side. DVC decides what is stale, so Prefect's own
caching is off; a stage that DVC need not run ends in the state "Cached". A failed stage stops what depends on
it and nothing else. Each run is one MLflow run with a child per stage.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import prefect
from dvc.exceptions import DvcException
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy, State
from prefect.futures import wait
from prefect.states import Completed, Failed
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import Field

from flows import TELEMETRY_OFF, dag, report
from flows.report import StageResult
from flows.screen import Screen, StageOutput
from flows.supervisor import Supervisors, tie_to_this_process
from lumiere import tracking
from lumiere.config import load_params, to_dict
from lumiere.errors import LumiereError, ParamsError, one_line
from lumiere.locks import inheritable_lock

PROJECT = Path(__file__).resolve().parents[1]
LOCK_SECONDS = 20.0  # a killed run's stages may take 10 s to stop; the lock is theirs until then
SLOT_SECONDS = 0.5  # between two looks whether a waiting stage is still wanted
THREADS: Any = ThreadPoolTaskRunner()


class PipelineFailed(Exception):
    """At least one stage failed."""


class PipelineRun:
    """What the tasks of one pipeline run share."""

    def __init__(
        self, root: Path, params: dict[str, Any], forced: set[str], max_parallel: int, lock: int
    ) -> None:
        self.root = root
        self.params = params
        self.forced = forced
        self.lock = lock
        self.supervisors = Supervisors()
        self.screen = Screen()
        self.results: dict[str, StageResult] = {}
        self.parent_id: str | None = None
        self._slots = threading.Semaphore(max_parallel)
        self._dvc = threading.Lock()

    @contextlib.contextmanager
    def slot(self) -> Iterator[None]:
        """One of the places for stages that run side by side; refused when the run has been stopped."""
        while not self._slots.acquire(timeout=SLOT_SECONDS):
            self._check_wanted()
        try:
            self._check_wanted()
            yield
        finally:
            self._slots.release()

    def _check_wanted(self) -> None:
        if self.supervisors.is_stopped:
            raise PipelineFailed("the run was stopped before this stage began")

    def is_stale(self, node: dag.StageNode) -> bool:
        """Whether DVC has to run. After an upstream stage ran it may still find nothing to do.

        What the graph said at the start may be old by now: params, code and data can be edited during a run.
        """
        has_new_input = any(
            self.results[name].status == "ran" for name in node.dependencies if name in self.results
        )
        if node.is_changed or node.name in self.forced or has_new_input:
            return True
        with self._dvc:  # DVC's API is not meant for threads
            return dag.is_changed(self.root, node.name)

    def stage_environment(self) -> dict[str, str]:
        """The environment of `dvc` and of the stage: this interpreter first, telemetry off."""
        env = {
            key: value for key, value in os.environ.items() if key != "MLFLOW_RUN_ID"
        } | TELEMETRY_OFF
        env["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), env.get("PATH", "")])
        env["PYTHONUNBUFFERED"] = "1"
        env.setdefault(
            "OMP_WAIT_POLICY", "passive"
        )  # threads of parallel stages must not spin against each other
        env.setdefault("TQDM_NCOLS", "90")
        if self.parent_id:
            env[tracking.PARENT_VARIABLE] = self.parent_id
        return env


@prefect.task(cache_policy=NO_CACHE, persist_result=False)
def run_stage(node: dag.StageNode, run: PipelineRun) -> State[Any]:
    """Let DVC reproduce one stage whose dependencies are done."""
    with run.slot():
        started = time.monotonic()
        try:
            result, state = _reproduce(node, run)
        except BaseException:  # DVC, MLflow or Prefect failed, if not the stage itself
            run.results[node.name] = StageResult(node.name, "failed", time.monotonic() - started)
            raise
    run.results[node.name] = dataclasses.replace(result, seconds=time.monotonic() - started)
    return state


def _reproduce(node: dag.StageNode, run: PipelineRun) -> tuple[StageResult, State[Any]]:
    output = StageOutput(node.name, run.screen, prefect.get_run_logger())
    if run.is_stale(node):
        force = ["--force"] if node.name in run.forced else []
        command = [
            sys.executable,
            "-m",
            "dvc",
            "--wait-for-lock",
            "repro",
            "--single-item",
            *force,
            node.name,
        ]
        status = run.supervisors.run(
            command, run.root, run.stage_environment(), output, (run.lock,)
        )
        if status:
            return StageResult(node.name, "failed"), Failed(
                message=f"stage {node.name} ended with exit code {status}"
            )
    figures = tracking.numbers(dag.read_metrics(node))
    if output.has_run:
        return StageResult(node.name, "ran", metrics=figures, outputs=node.outputs), Completed()
    tracking.log_cached_stage(
        run.root, run.parent_id, node.name, run.params.get(node.name, {}), figures
    )
    result = StageResult(node.name, "cached", metrics=figures, outputs=node.outputs)
    return result, Completed(name="Cached", message="nothing that it depends on has changed")


@prefect.flow(name="lumiere-pipeline", task_runner=THREADS, validate_parameters=True)
def lumiere_pipeline(
    root: str = "",
    stages: list[str] | None = None,
    force: bool = False,
    max_parallel: Annotated[int, Field(ge=1)] = 2,
) -> State[Any]:
    """Bring every stage up to date.

    Args:
        root: the project's folder; by default the one that this file belongs to.
        stages: only these stages and what they need; by default all.
        force: run them (the named ones, or all) even where nothing has changed.
        max_parallel: stages that may run at the same time.
    """
    folder = Path(root).resolve() if root else PROJECT
    try:
        params = to_dict(load_params(folder / "params.yaml"))
        with pipeline_lock(folder) as lock:
            tie_to_this_process("prefect.server.api")
            nodes = dag.read_dag(folder)
            forced = set(stages or [node.name for node in nodes]) if force else set()
            nodes = dag.with_upstream(nodes, stages) if stages else nodes
            return _run_nodes(nodes, PipelineRun(folder, params, forced, max_parallel, lock))
    except (LumiereError, DvcException, ValueError) as error:
        return Failed(message=one_line(error))


def _run_nodes(nodes: list[dag.StageNode], run: PipelineRun) -> State[Any]:
    """Submit every stage, wait, report."""
    run.screen.share_terminal()
    failure = ""
    try:
        with tracking.pipeline_run(run.root, run.params) as tracked:
            run.parent_id = tracked.run_id
            results = _submit_and_wait(nodes, run)
            tracked.set_tags({f"stage.{result.stage}": result.status for result in results})
            tracked.log_metrics({f"seconds/{result.stage}": result.seconds for result in results})
            for word in ("failed", "not run"):
                if found := ", ".join(result.stage for result in results if result.status == word):
                    raise PipelineFailed(
                        f"{word}: {found}; the reason stands above, in the lines of the stage"
                    )
    except PipelineFailed as error:
        failure = str(error)
    run.screen.clear()
    report.publish_artifacts(results)
    report.print_report(run.root, results)
    return Failed(message=failure) if failure else Completed(message=summary(results))


def _submit_and_wait(nodes: list[dag.StageNode], run: PipelineRun) -> list[StageResult]:
    """One task per stage. Each has a thread, which waits for its dependencies; `run.slot` bounds the work."""
    futures: dict[str, Any] = {}
    try:
        for node in nodes:
            task: Any = run_stage.with_options(name=node.name, task_run_name=node.name)
            upstream = [futures[name] for name in node.dependencies if name in futures]
            futures[node.name] = task.submit(node, run, wait_for=upstream)
        wait(list(futures.values()))  # a task that failed does not raise here
        return [_result(node.name, futures[node.name].state, run) for node in nodes]
    except BaseException:  # Ctrl-C, SIGTERM, Prefect's cancellation
        run.supervisors.stop()
        raise


def _result(stage: str, state: State[Any], run: PipelineRun) -> StageResult:
    """How a stage ended: as it noted itself, but for what Prefect saw go wrong around it."""
    result = run.results.get(stage, StageResult(stage, "not run"))
    waits_for_ever = state.is_pending()  # what it depends on has failed
    return (
        result
        if state.is_completed() or waits_for_ever
        else StageResult(stage, "failed", result.seconds)
    )


def summary(results: list[StageResult]) -> str:
    """`3 ran, 7 cached`."""
    words = [result.status for result in results]
    return ", ".join(f"{words.count(word)} {word}" for word in dict.fromkeys(words))


@contextlib.contextmanager
def pipeline_lock(root: Path) -> Iterator[int]:
    """Keep a second run of the same project out, on this machine.

    Yields the lock's descriptor, which the supervisors of the stages keep open too: the lock is free when the
    last stage is gone, not when the flow is. The kernel frees it however the processes end.

    Raises:
        LockError: another run holds it.
    """
    busy = (
        f"another pipeline run (process {{owner}}) is at work in {root}; try again when it is done"
    )
    with inheritable_lock(root / ".lumiere" / "pipeline.lock", LOCK_SECONDS, busy) as descriptor:
        yield descriptor


def schedule(cron: str) -> None:
    """Serve the flow on a schedule until interrupted; overlapping runs are cancelled.

    Raises:
        ParamsError: there is no Prefect server that could schedule.
    """
    if not prefect.settings.PREFECT_API_URL.value():
        raise ParamsError(
            "--schedule: needs a Prefect server, as the embedded one ends with its run. Start one with "
            "`prefect server start`, then set PREFECT_API_URL=http://127.0.0.1:4200/api and try again"
        )
    limit = ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW)
    lumiere_pipeline.serve(name="scheduled", cron=cron, limit=1, global_limit=limit)


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m flows.pipeline", description=__doc__.split("\n")[0]
    )
    parser.add_argument(
        "--stages", nargs="+", metavar="STAGE", help="only these and what they need (default: all)"
    )
    parser.add_argument(
        "--force", action="store_true", help="run them even where nothing has changed"
    )
    parser.add_argument(
        "--max-parallel", type=int, default=2, metavar="N", help="stages side by side (default: 2)"
    )
    parser.add_argument(
        "--root",
        default="",
        metavar="FOLDER",
        help="the project (default: the one this file is in)",
    )
    parser.add_argument(
        "--schedule", metavar="CRON", help="do not run now: serve on a schedule, e.g. '0 3 * * *'"
    )
    options = parser.parse_args(arguments)
    if options.max_parallel < 1:
        parser.error(f"argument --max-parallel: {options.max_parallel}; allowed: at least 1")
    try:
        load_params(
            Path(options.root or PROJECT) / "params.yaml"
        )  # before the seconds that Prefect takes to start
        if options.schedule:
            schedule(options.schedule)
            return 0
        state = lumiere_pipeline(
            options.root, options.stages, options.force, options.max_parallel, return_state=True
        )
    except LumiereError as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            "interrupted: what had finished is kept, and the next run goes on from there",
            file=sys.stderr,
        )
        return 130
    if not state.is_completed():
        print(f"error: {state.message}", file=sys.stderr)
    return 0 if state.is_completed() else 1


if __name__ == "__main__":
    sys.exit(main())
