"""Addresses of servers and databases: hides passwords, keeps local traffic off proxies, and puts paths
into addresses.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from lumiere.errors import ParamsError

# Proxies that the flow's programs do without and its stages get, as JSON.
PROXIES_VARIABLE = "LUMIERE_STAGE_PROXIES"
LOOPBACK = ("localhost", "127.0.0.1", "::1")
HIDDEN = "***"
SURE = 8  # characters; a shorter secret may be an ordinary word of the text

# Variables whose value is a secret, or an address that may contain one.
_SECRETS = (
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "PREFECT_API_KEY",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "PGPASSWORD",
    "LUMIERE_WEBHOOK",
)
_ADDRESSES = (
    "MLFLOW_TRACKING_URI",
    "MLFLOW_DEFAULT_ARTIFACT_ROOT",
    "MLFLOW_S3_ENDPOINT_URL",
    "PREFECT_API_URL",
    "PREFECT_SERVER_DATABASE_CONNECTION_URL",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
)

_USER = re.compile(r"(?<=://)[^\s/?#]*@")
_QUERY = re.compile(r"([?&][\w.-]*(?:password|passwd|secret|token|key)[\w.-]*=)[^&\s\"')]+", re.I)


def redacted(value: object) -> str:
    """Return the text of a message or an address without user names, passwords and tokens.

    Everything that quotes an address, or an error of a server's client, passes through here.
    """
    text = str(value)
    for secret in sorted(_secrets(), key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    text = _USER.sub(f"{HIDDEN}@", text)
    return _QUERY.sub(rf"\g<1>{HIDDEN}", text)


def has_secret(text: str) -> bool:
    """Return whether a text contains a secret of the environment, of at least `SURE` characters."""
    return any(len(secret) >= SURE and secret in text for secret in _secrets())


def _secrets() -> set[str]:
    """Return the secrets in the environment, as they are written there and decoded."""
    candidates = {os.environ.get(name, "") for name in _SECRETS}
    for address in _addresses():
        user, has_user, _ = address.partition("://")[2].rpartition("@")
        password = user.partition(":")[2]
        if has_user and password:
            candidates |= {user, password, unquote(password)}
    # Replacing a short password everywhere would garble messages; patterns still hide it in
    # addresses.
    return {secret for secret in candidates if len(secret) > 3}


def _addresses() -> list[str]:
    """Return the addresses in the environment that may contain a password."""
    names = [*_ADDRESSES, *(name.lower() for name in _ADDRESSES)]
    with contextlib.suppress(ValueError, AttributeError):  # the variable may be someone else's
        proxies = json.loads(os.environ.get(PROXIES_VARIABLE) or "{}")
        return [*(os.environ.get(name, "") for name in names), *map(str, proxies.values())]
    return [os.environ.get(name, "") for name in names]


def is_loopback(address: str) -> bool:
    """Return whether an address names this machine's loopback interface."""
    host = urlsplit(address).hostname or ""
    return host in LOOPBACK or host.startswith("127.")


def keep_loopback_direct() -> None:
    """Make the HTTP clients of this process, and of those it starts, reach loopback addresses
    without a proxy.
    """
    listed = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    names = [name.strip() for name in listed.split(",") if name.strip()]
    if "*" in names:
        return
    names += [name for name in LOOPBACK if name not in names]
    for variable in ("no_proxy", "NO_PROXY"):  # clients differ in which one they read
        os.environ[variable] = ",".join(names)


def check_database_folder(folder: Path) -> None:
    """Check that the path of a folder can be part of a database's address.

    SQLAlchemy ends the path of a database at a question mark, and decodes `%20`. There is no way to
    quote either that all its users understand.

    Raises:
        ParamsError: if the database would be written elsewhere.
    """
    text = str(folder)
    if "?" in text or unquote(text) != text:
        raise ParamsError(
            f"{folder}: a folder with '?' or a code such as '%20' in its path cannot hold a database "
            "of MLflow or Prefect; rename the folder"
        )
