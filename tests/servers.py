"""Real servers on the loopback address: PostgreSQL, S3 and SSH. A test that needs one is skipped where
its program or package is missing.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

POSTGRESQL_PASSWORD = "hunter2%40secret"  # as it is written in an address
S3_SECRET = "s3-secret-of-the-test"
BUCKET = "lumiere"


def needs(*packages: str) -> None:
    """Skip the test if a package is missing."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"the package {package} is not installed")


def program(name: str, *folders: Path) -> str:
    """Return the path of a program, or skip the test."""
    path = os.pathsep.join([os.environ["PATH"], "/usr/sbin", *map(str, folders)])
    found = shutil.which(name, path=path)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def free_port() -> int:
    """Return a port that nothing listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(is_there: Callable[[], bool], seconds: float = 60) -> None:
    """Wait until a server answers."""
    deadline = time.monotonic() + seconds
    while not is_there():
        assert time.monotonic() < deadline, "the server did not start"
        time.sleep(0.05)


def listens(port: int) -> bool:
    """Return whether something listens at a port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class PostgreSQL:
    """A cluster of its own, with a password."""

    def __init__(self, folder: Path) -> None:
        bins = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
        self._initdb, self._postgres = program("initdb", *bins), program("postgres", *bins)
        self._dump = program("pg_dump", *bins)
        self.port = free_port()
        self.uri = f"postgresql://lumiere:{POSTGRESQL_PASSWORD}@127.0.0.1:{self.port}/postgres"
        self._folder = folder
        self._user: dict[str, Any] = {}
        if os.geteuid() == 0:  # PostgreSQL refuses to run as root
            try:
                account = pwd.getpwnam("postgres")
            except KeyError:
                pytest.skip("there is no user postgres, and PostgreSQL does not run as root")
            os.chown(folder, account.pw_uid, account.pw_gid)
            self._user = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        password = folder / "password"
        password.write_text(POSTGRESQL_PASSWORD.replace("%40", "@"))
        words = ["--username=lumiere", "--auth=scram-sha-256", f"--pwfile={password}", "--no-sync"]
        self._call(self._initdb, "--locale=C", "--encoding=UTF8", *words, f"{folder}/data")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Listen, on the same port each time."""
        options = {"port": self.port, "listen_addresses": "127.0.0.1", "fsync": "off"}
        options["unix_socket_directories"] = ""
        words = [part for key, value in options.items() for part in ("-c", f"{key}={value}")]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._postgres, "-D", f"{self._folder}/data", *words],
                stdout=log,
                stderr=log,
                cwd=self._folder,
                **self._user,
            )
        wait_for(lambda: listens(self.port))

    def stop(self) -> None:
        """Listen no more, and end all connections."""
        if self._process is not None:
            self._process.send_signal(2)  # SIGINT: the "fast" shutdown
            self._process.wait(30)
            self._process = None

    def content(self) -> str:
        """Return all tables as text."""
        return self._call(self._dump, "--inserts", self.uri)

    def _call(self, *command: str) -> str:
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=self._folder, **self._user
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@contextlib.contextmanager
def postgresql() -> Iterator[PostgreSQL]:
    """Start a PostgreSQL server."""
    needs("psycopg")
    # Not in pytest's folder, which other users cannot enter.
    with tempfile.TemporaryDirectory(prefix="lumiere-postgresql-") as folder:
        server = PostgreSQL(Path(folder))
        server.start()
        try:
            yield server
        finally:
            server.stop()


@contextlib.contextmanager
def s3(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Start an S3 server with an empty bucket, yield its address, and set the credentials."""
    needs("moto", "boto3", "flask_cors")
    from moto.server import ThreadedMotoServer

    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", S3_SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):  # not those of this user
        (folder / name).touch()
        monkeypatch.setenv(name, str(folder / name))
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        endpoint = f"http://{host}:{port}"
        bucket(endpoint).create()
        yield endpoint
        # The next server of this process would have the same content.
        bucket(endpoint).objects.delete()
    finally:
        server.stop()


def bucket(endpoint: str) -> Any:
    """Return the bucket, as boto3 shows it."""
    import boto3

    return boto3.resource("s3", endpoint_url=endpoint).Bucket(BUCKET)


@dataclass(frozen=True)
class SSH:
    """Where an SSH server answers, and the key that it accepts."""

    address: str
    key: Path


@contextlib.contextmanager
def ssh(folder: Path) -> Iterator[SSH]:
    """Start an SSH server that lets this user in with a key of its own."""
    sshd, keygen = program("sshd"), program("ssh-keygen")
    if os.geteuid() == 0 and not Path("/run/sshd").is_dir():
        pytest.skip("sshd needs the folder /run/sshd to run as root")
    folder.mkdir()
    for name in ("host", "user"):
        words = ["-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run([keygen, *words], check=True)
    port = free_port()
    config = {
        "ListenAddress": "127.0.0.1",
        "Port": port,
        "HostKey": folder / "host",
        "AuthorizedKeysFile": folder / "user.pub",
        "PidFile": "none",
        "PasswordAuthentication": "no",
        "StrictModes": "no",  # the folder above may be anybody's
        "Subsystem": "sftp internal-sftp",
    }
    (folder / "config").write_text("".join(f"{key} {value}\n" for key, value in config.items()))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([sshd, "-D", "-e", "-f", folder / "config"], stderr=log)
    try:
        wait_for(lambda: listens(port) or process.poll() is not None)
        assert process.poll() is None, (folder / "log").read_text()
        user = pwd.getpwuid(os.geteuid()).pw_name
        yield SSH(f"ssh://{user}@127.0.0.1:{port}", folder / "user")
    finally:
        process.terminate()
        process.wait(30)
