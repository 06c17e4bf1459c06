"""The deployment for Docker and the job for Slurm in `deploy/`, as far as no daemon is needed."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.utilities.schema_tools.validation import validate

from flows import worker
from flows.flow import lumiere_pipeline
from flows.leftovers import POOL
from flows.program import read_schedule
from lumiere.errors import ParamsError
from tests.flows.conftest import REPOSITORY
from tests.flows.test_supervisor import wait_until

FOLDER = "/srv/lumiere"


@pytest.fixture
def deployment() -> Any:
    config = yaml.safe_load((REPOSITORY / "deploy" / "prefect-docker.yaml").read_text())
    (step,) = config["pull"]
    assert step == {"prefect.deployments.steps.set_working_directory": {"directory": FOLDER}}
    (found,) = config["deployments"]
    return found


def test_the_deployment_for_docker_can_be_called(deployment: Any) -> None:
    assert deployment["entrypoint"] == "flows.flow.lumiere_pipeline"
    lumiere_pipeline.validate_parameters(deployment["parameters"])
    for schedule in deployment["schedules"]:
        parsed = read_schedule(schedule["cron"], schedule["timezone"])
        assert DeploymentScheduleCreate(schedule=parsed, active=schedule["active"]).active
    # `python -m flows.leftovers` does not see the processes in containers.
    assert deployment["work_pool"]["name"] != POOL


def test_the_jobs_of_docker_are_those_of_prefects_worker(deployment: Any) -> None:
    docker = pytest.importorskip("prefect_docker.worker", reason="pip install -e '.[docker]'")
    template = docker.DockerWorker.get_default_base_job_template()
    variables = deployment["work_pool"]["job_variables"]
    assert variables.keys() <= template["variables"]["properties"].keys()
    validate(variables, template["variables"], raise_on_error=True)
    no_server: Any = object()  # only references to blocks and variables would need one
    configuration = docker.DockerWorkerJobConfiguration
    made = asyncio.run(
        configuration.from_template_and_values(template, variables, client=no_server)
    )
    assert made.volumes == [f"{FOLDER}:{FOLDER}"] and made.get_network_mode() == "host"
    assert made.env["PYTHONPATH"] == FOLDER
    assert made.container_create_kwargs["user"] == "1000:1000"
    assert made.env["USER"], "getpass finds no name for a number that the image does not know"


def test_the_image_has_what_its_build_needs() -> None:
    lines = (REPOSITORY / "deploy" / "Dockerfile").read_text().splitlines()
    copied = [line.split()[1:-1] for line in lines if line.startswith("COPY")]
    needed = {name for names in copied for name in names}
    assert all((REPOSITORY / name).exists() for name in needed)
    ignored = (REPOSITORY / "deploy" / "Dockerfile.dockerignore").read_text().splitlines()
    assert set(ignored) == {"*"} | {f"!{name}" for name in needed}


def test_the_job_of_slurm_is_a_script_that_ends_as_its_worker() -> None:
    path = REPOSITORY / "deploy" / "slurm.sh"
    subprocess.run(["bash", "-n", str(path)], check=True)
    lines = path.read_text().splitlines()
    options = {line.removeprefix("#SBATCH --") for line in lines if line.startswith("#SBATCH")}
    assert {"dependency=singleton", "signal=B:TERM@120"} <= options
    assert lines[-1] == "exec python -m flows.worker --pool lumiere-slurm --end-leftovers --limit 1"


WORKER = """
import os, pathlib, signal, subprocess, sys

signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as Prefect's, which waits for its run
open("served by", "w").write(os.environ["LUMIERE_SERVED_BY"])
save = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: (open('saved', 'w'), sys.exit()))"
run = subprocess.Popen([sys.executable, "-c", f"{save}; open('at work', 'w'); time.sleep(60)"], start_new_session=True)
run.wait()
"""


def test_a_worker_that_is_stopped_ends_its_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "PROJECT", tmp_path)
    before = {number: signal.getsignal(number) for number in worker.STOPPING}

    def stop() -> None:
        wait_until((tmp_path / "at work").exists)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=stop)
    thread.start()
    try:
        assert worker.work([sys.executable, "-c", WORKER]) == 0
    finally:
        thread.join()
        for number, handler in before.items():
            signal.signal(number, handler)
    assert (tmp_path / "saved").exists()
    assert (tmp_path / "served by").read_text() == str(os.getpid())


def test_a_worker_without_a_server_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["worker"])
    with temporary_settings({PREFECT_API_URL: None}), pytest.raises(ParamsError, match="a worker"):
        worker.main()


def test_a_worker_that_fails_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "PROJECT", tmp_path)
    before = {number: signal.getsignal(number) for number in worker.STOPPING}
    try:
        assert worker.work([sys.executable, "-c", "raise SystemExit(3)"]) == 3
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
