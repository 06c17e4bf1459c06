"""The whole pipeline as one Prefect flow.

Each stage of DVC's graph is one task (`flows.stage_task`), and independent stages run side by side.
A failed stage stops only the stages that depend on it. Each run is one MLflow run with a child for
each stage.

The flow has a module of its own, apart from the program `flows.pipeline`, and its annotations are
not strings: Prefect loads or unpickles a flow in the process of each scheduled run, where it can
resolve neither `__main__` nor a string.
"""

import contextlib
import gc
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import prefect
import prefect.runtime
from dvc.exceptions import DvcException
from prefect.client.schemas.objects import State
from prefect.futures import PrefectFuture, wait
from prefect.states import Cancelled, Completed, Failed
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import Field

from flows import dag, description, report
from flows.cancellation import STARTER, ending_watched, worker_lost
from flows.lock_file import data_inputs, read_stages
from flows.registration import register_model
from flows.report import StageResult
from flows.run_params import changed_params, check_params
from flows.second_tries import MAX_RETRIES
from flows.stage_task import PipelineFailed, PipelineRun, run_stage
from flows.supervisor import tie_to_this_process
from lumiere import tracking
from lumiere.addresses import redacted
from lumiere.config import to_dict
from lumiere.errors import LockError, LumiereError, one_line
from lumiere.locks import inheritable_lock
from lumiere.run_origin import git_tags
from lumiere.tracking.origins import OF_STAGE
from lumiere.tracking.pages import run_link

PROJECT = Path(__file__).resolve().parents[1]
LOCK_SECONDS = 20.0  # a killed run's stages may take 10 s to stop, and hold the lock until then
END_SECONDS = 30.0  # how long an interrupted run waits for its stages
MAX_MINUTES = 1_000_000  # of a time limit
THREADS: Any = ThreadPoolTaskRunner()  # the annotation of `flow` excludes Prefect's own runner


class RunEnds(BaseException):
    """The run ends before its stages have. MLflow records it as KILLED."""

    def __init__(self, state: State[Any]) -> None:
        self.state = state


def _run_name() -> str:
    """Name a run by its deployment, the time of its start and what it runs."""
    who = prefect.runtime.deployment.name or "by hand"
    parameters = prefect.runtime.flow_run.parameters
    what = ", ".join(parameters.get("stages") or ["all stages"])
    if parameters.get("from_stage"):
        what = f"from {parameters['from_stage']}"
    return f"{who} {time.strftime('%Y-%m-%d %H:%M')} {what}"


@prefect.flow(
    name="lumiere-pipeline",
    flow_run_name=_run_name,
    task_runner=THREADS,
    validate_parameters=True,
)
def lumiere_pipeline(
    root: str = "",
    stages: list[str] | None = None,
    only: bool = False,
    from_stage: str = "",
    force: bool = False,
    profile: str = "",
    overrides: dict[str, Any] | None = None,
    wait_minutes: Annotated[float, Field(ge=0)] = 0,
    max_parallel: Annotated[int, Field(ge=1)] = 2,
    time_limits: dict[str, Annotated[float, Field(gt=0, le=MAX_MINUTES)]] | None = None,
    retries: Annotated[int, Field(ge=0, le=MAX_RETRIES)] = 2,
) -> State[Any]:
    """Bring every stage up to date.

    Args:
        root: the project's folder; by default the project that this file belongs to.
        stages: run only these stages and the stages they depend on; by default all.
        only: run the named stages without those that they depend on.
        from_stage: run this stage and all stages that depend on it.
        force: run the named stages, or all that are selected, even if nothing has changed.
        profile: a params file to use instead of params.yaml, such as profiles/h100.yaml.
        overrides: other values for single params, such as {"generate.seed": 3}.
        wait_minutes: how long to wait for another run of the project to end; then this run is
            skipped.
        max_parallel: how many stages may run at the same time, at least 1.
        time_limits: minutes after which a stage is stopped, by its name, such as {"evaluate": 60};
            by default none.
        retries: how many further tries a stage has that was killed, or found something busy. Other
            failures are final.

    Returns:
        A completed state with a message such as "3 ran, 7 cached", or a failed state with the
        cause.
    """
    folder = Path(root).resolve() if root else PROJECT
    if not STARTER.is_alive():
        return worker_lost()
    try:
        dag.check_choice(stages or [], only, from_stage)
        named = [*(stages or []), *(time_limits or {}), *([from_stage] if from_stage else [])]
        dag.check_names(folder, named)
        check_params(folder, profile, overrides or {})
        with (
            pipeline_lock(folder, 60 * wait_minutes) as lock,
            changed_params(folder, profile, overrides) as params,
            contextlib.closing(dag.StageChecker(folder)) as checker,
        ):
            tie_to_this_process("prefect.server.api")
            every = dag.read_dag(folder, checker)
            nodes = dag.select(every, stages or [], only, from_stage)
            forced = set(stages or [node.name for node in nodes]) if force else set()
            run = PipelineRun(
                folder, to_dict(params), forced, max_parallel, lock, checker, time_limits, retries
            )
            return _run_nodes(nodes, run, is_all=len(nodes) == len(every))
    except LockError as error:
        return Cancelled(name="Skipped", message=one_line(error))
    except (LumiereError, DvcException, ValueError) as error:
        return Failed(message=redacted(one_line(error)))


def _run_nodes(nodes: list[dag.StageNode], run: PipelineRun, is_all: bool) -> State[Any]:
    """Submit every stage, wait, report. `is_all` says whether the pipeline has no others."""
    if not STARTER.is_alive():  # the run may have waited long for the lock
        return worker_lost()
    picked = [] if is_all else [node.name for node in nodes]
    run.screen.share_terminal()
    failure = ""
    try:
        with (
            tracking.pipeline_run(run.root, run.params, prefect.runtime.flow_run.name) as tracked,
            ending_watched(run.supervisors.stop) as ending,
        ):
            run.parent = tracked.reference
            before = {node.name: _old_metrics(node) for node in nodes}
            results = _submit_and_wait(nodes, run)
            if ending.state is not None:
                raise RunEnds(ending.state)
            told = (results, before, git_tags(run.root), tracked.run_id, picked)
            sheet = description.contact_sheet(results)
            has_sheet = sheet is not None and description.log_contact_sheet(tracked, sheet)
            text = description.describe(*told, has_sheet=has_sheet)
            tracked.describe(text)
            tracked.log_inputs(data_inputs(read_stages(run.root / "dvc.lock")), "pipeline")
            _log_results(tracked, results)
            _raise_unless_complete(results)
    except RunEnds as end:
        return end.state
    except PipelineFailed as error:
        failure = str(error)
    run.screen.clear()
    if not failure:
        outputs = [path for result in results for path in result.outputs]
        registry = run.params.get("registry")
        register_model(run.root, registry, outputs, tracked.run_id, text, git_tags(run.root))
    link = run_link(run.root, tracked.run_id) if tracked.run_id else ""
    report.print_report(run.root, results)
    report.publish_artifacts(results, description.describe(*told), link, sheet)
    return Failed(message=failure) if failure else Completed(message=summary(results))


def _log_results(tracked: tracking.Run, results: list[StageResult]) -> None:
    """Record how each stage ended, how long it took, and its metrics."""
    tracked.set_tags({OF_STAGE + result.stage: result.status for result in results})
    tracked.log_metrics({f"seconds/{result.stage}": result.seconds for result in results})
    for result in results:
        figures = {f"{result.stage}/{name}": x for name, x in result.metrics.items()}
        tracked.log_metrics(figures)


def _old_metrics(node: dag.StageNode) -> dict[str, float]:
    """Read the metrics that an earlier run wrote; none if they are damaged."""
    try:
        return tracking.numbers(dag.read_metrics(node))
    except ValueError:
        return {}


def _raise_unless_complete(results: list[StageResult]) -> None:
    for status in ("failed", "stopped", "not run"):
        stages = [result.stage for result in results if result.status == status]
        if stages:
            names = ", ".join(stages)
            raise PipelineFailed(f"{status}: {names}; see the output of the stage above")


def _submit_and_wait(nodes: list[dag.StageNode], run: PipelineRun) -> list[StageResult]:
    """Submit one task per stage.

    Each has a thread that waits for its dependencies; `run.slot` bounds the work.
    """
    futures: dict[str, PrefectFuture[State[Any]]] = {}
    try:
        for node in nodes:
            task = run_stage.with_options(name=node.name, task_run_name=node.name)
            upstream = [futures[name] for name in node.dependencies if name in futures]
            futures[node.name] = task.submit(node, run, wait_for=upstream, return_state=False)
        wait(list(futures.values()))  # a task that failed does not raise here
        return [_result(node.name, futures[node.name].state, run) for node in nodes]
    except BaseException:  # Ctrl-C, SIGTERM, Prefect's cancellation
        run.supervisors.stop()
        # As the process ends, the collector would look at all objects of all packages again.
        gc.freeze()
        # DVC reads params.yaml again when a command has ended, so it must have ended before the
        # params of this run are put back.
        wait(list(futures.values()), timeout=END_SECONDS)
        raise


def _result(stage: str, state: State[Any], run: PipelineRun) -> StageResult:
    """Return how a stage ended: as the stage itself noted, unless Prefect saw a failure around
    it.
    """
    result = run.results.get(stage, StageResult(stage, "not run"))
    waits_forever = state.is_pending()  # because a stage that it depends on has failed
    if state.is_completed() or waits_forever:
        return result
    return StageResult(stage, "failed", result.seconds)


def summary(results: list[StageResult]) -> str:
    """Count how the stages ended, as in "3 ran, 7 cached"."""
    counts = Counter(result.status for result in results)
    return ", ".join(f"{count} {status}" for status, count in counts.items())


@contextlib.contextmanager
def pipeline_lock(root: Path, wait_seconds: float = 0.0) -> Iterator[int]:
    """Keep out a second run of the same project on this machine.

    Wait `wait_seconds` for the other run, but at least as long as a killed run takes to stop.

    Yields the lock's descriptor. The supervisors of the stages keep it open too, so the lock is
    freed when the last stage ends rather than when the flow ends. The kernel frees it for any end
    of these processes.

    Raises:
        LockError: if another run holds the lock.
    """
    busy = f"another pipeline run (process {{owner}}) is running in {root}; try again when it has ended"
    patience = max(LOCK_SECONDS, wait_seconds)
    with inheritable_lock(root / ".lumiere" / "pipeline.lock", patience, busy) as descriptor:
        yield descriptor
