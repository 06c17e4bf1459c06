"""Prefect flows. They start the stages of DVC's graph and never import them.

Prefect reads its settings when it is first imported, so the defaults of an embedded run are set here, where
they come before any `import prefect` of this package. What the user has set is left alone.
"""

import os
from pathlib import Path

_PROJECT = Path(__file__).resolve().parents[1]

TELEMETRY_OFF = {
    "DO_NOT_TRACK": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DVC_NO_ANALYTICS": "1",
}


def _set_defaults() -> None:
    defaults = dict(TELEMETRY_OFF)
    defaults["PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS"] = (
        "120"  # 40 s were seen on a busy machine
    )
    chosen = {"PREFECT_API_URL", "PREFECT_HOME", "PREFECT_PROFILE", "PREFECT_PROFILES_PATH"}
    if (
        not chosen & set(os.environ)
        and not Path.home().joinpath(".prefect", "profiles.toml").exists()
    ):
        home = _PROJECT / ".lumiere" / "prefect"
        home.mkdir(parents=True, exist_ok=True)  # Prefect makes the last folder only
        defaults["PREFECT_HOME"] = str(home)
    for name, value in defaults.items():
        os.environ.setdefault(name, value)


_set_defaults()
