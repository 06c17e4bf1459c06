"""No package reports its use, whatever the user's environment."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.flows.conftest import REPOSITORY

CODE = """
import flows  # sets the switches
from prefect._internal.analytics.enabled import is_telemetry_enabled
from prefect.settings import PREFECT_SERVER_ANALYTICS_ENABLED
assert not is_telemetry_enabled(), "Prefect's client"
assert not PREFECT_SERVER_ANALYTICS_ENABLED.value(), "Prefect's server"
from mlflow.telemetry.utils import is_telemetry_disabled
assert is_telemetry_disabled(), "MLflow"
from dvc.analytics import is_enabled
assert not is_enabled(), "DVC"
"""
CI_VARIABLES = {"CI", "GITHUB_ACTIONS", "PYTEST_CURRENT_TEST"}  # they switch telemetry off too


def test_importing_flows_switches_all_telemetry_off() -> None:
    switches = {
        "DO_NOT_TRACK",
        "MLFLOW_DISABLE_TELEMETRY",
        "PREFECT_SERVER_ANALYTICS_ENABLED",
        "DVC_NO_ANALYTICS",
    }
    unset = switches | CI_VARIABLES
    env = {name: value for name, value in os.environ.items() if name not in unset}
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        cwd=REPOSITORY,
        env=env,
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr
