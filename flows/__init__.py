"""Prefect flows. They start the stages of DVC's graph and never import them.

Prefect reads its settings when it is first imported. This module runs before any `import prefect`
of this package, so it sets the defaults for an embedded run here. Variables that the user has set
are not changed, except those that switch telemetry on.
"""

import contextlib
import json
import os
from importlib.util import find_spec
from pathlib import Path

from lumiere.addresses import PROXIES_VARIABLE, is_loopback, keep_loopback_direct
from lumiere.locks import make_folder
from lumiere.start import switch_telemetry_off

_PROJECT = Path(__file__).resolve().parents[1]


def _set_defaults() -> None:
    # Prefect's default is 20 s, but a busy machine needed 40 s.
    defaults = {"PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120"}
    if not _has_prefect_settings():
        home = _PROJECT / ".lumiere" / "prefect"
        with contextlib.suppress(OSError):  # `flows.program.check_server` says so in a sentence
            make_folder(home)  # Prefect creates only the last folder of a path
        defaults["PREFECT_HOME"] = str(home)
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    switch_telemetry_off()
    keep_loopback_direct()
    _put_socks_proxies_away()


# Proxies that this process does without and its stages get. The processes between the two, such as
# a worker of Prefect and the run that it starts, hand them on in the variable.
STAGE_PROXIES: dict[str, str] = {}


def _put_socks_proxies_away() -> None:
    """Take SOCKS proxies out of this process's environment if its Prefect server is on this machine.

    Prefect's HTTP client cannot even be made with such a proxy unless the package socksio is
    installed.
    """
    STAGE_PROXIES.update(json.loads(os.environ.get(PROXIES_VARIABLE) or "{}"))
    if find_spec("socksio") or not is_loopback(os.environ.get("PREFECT_API_URL", "//localhost")):
        return
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        for variable in (name, name.upper()):
            if os.environ.get(variable, "").startswith("socks"):
                STAGE_PROXIES[variable] = os.environ.pop(variable)
    if STAGE_PROXIES:
        os.environ[PROXIES_VARIABLE] = json.dumps(STAGE_PROXIES)


def _has_prefect_settings() -> bool:
    """Return whether the user has chosen a server, a home folder or a profile."""
    variables = {"PREFECT_API_URL", "PREFECT_HOME", "PREFECT_PROFILE", "PREFECT_PROFILES_PATH"}
    profiles = Path.home() / ".prefect" / "profiles.toml"
    return not variables.isdisjoint(os.environ) or profiles.exists()


_set_defaults()
