"""Says where a run comes from: its process and the state of the checkout, as tags."""

from __future__ import annotations

import contextlib
import functools
import os
import platform
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from lumiere.addresses import has_secret
from lumiere.errors import DataError
from lumiere.git import run_git

BOOT = Path("/proc/sys/kernel/random/boot_id")  # on Linux
AFTER_BOOT = " ticks after boot "
START_FIELD = 22 - 3  # of /proc/PID/stat, counted from its third, which follows the name
CLOCK_SECONDS = 2.0  # how far a small correction of the machine's clock moves a process's start
MAX_PATCH = 1_000_000  # characters
LEFT_OUT = "The patch is left out"
CODE = ("lumiere", "stages", "flows")
PACKAGES = (
    "av", "diffusers", "matplotlib", "numpy", "open_clip_torch", "opencv-python", "pillow", "pyarrow",
    "safetensors", "torch", "transformers",
)  # fmt: skip

SECRETS_LEFT_OUT = "Left out, because of secrets in them:"
_DVC_SETTINGS = re.compile(r'diff --git "?a/(?:.*/)?\.dvc/config"? ')
# A setting of a remote that is a secret, or an address with a password, a token or a signed query, in
# a line of a diff.
_SECRET_SETTING = re.compile(
    r"^[-+ ]\s*[\w-]*(?:passw|passphrase|secret|token|credential|connection_string|key(?!file|tab))"
    r"[\w-]*\s*=\s*(?!true\b|false\b)\S|://[^/\s:@]*:\S+@|https?://[^/\s@]+@"
    r"|[?&](?:sig|signature|sas|x-amz-)",
    re.MULTILINE | re.IGNORECASE,
)


def process_tags() -> dict[str, str]:
    """Return tags that identify this process.

    The start distinguishes it from a later process with the same id.
    """
    started = _start_of(psutil.Process())
    tags = {"host": socket.gethostname(), "pid": str(os.getpid()), "pid_started": started}
    return tags | {"pid_namespace": _pid_namespace()}


def _pid_namespace() -> str:
    """Return what the numbers of processes hold in: a container may share its host's name, and counts
    its own processes. Empty where there is nothing of the kind.
    """
    with contextlib.suppress(OSError):
        return os.readlink("/proc/self/ns/pid")
    return ""


def _start_of(process: psutil.Process) -> str:
    """Return what the start of a process is known by, for as long as it runs.

    On Linux it is the boot and the ticks since then. A time of day would not do: it moves for all
    processes when the machine's clock is set.
    """
    with contextlib.suppress(OSError):
        boot = BOOT.read_text().strip()
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        return f"{fields[START_FIELD]}{AFTER_BOOT}{boot}"
    return str(process.create_time())


def package_tags() -> dict[str, str]:
    """Return the versions that decide the last bits of what a stage writes. They make no stage stale,
    because DVC does not know them.
    """
    versions = {name: _version(name) for name in PACKAGES}
    installed = {name: number for name, number in versions.items() if number}
    return installed | {"python": platform.python_version()}


@functools.cache
def _version(package: str) -> str:
    """Return the version of a package; empty if it is not installed under this name."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def experiment_tags() -> dict[str, str]:
    """Return the name and the baseline of the DVC experiment that this process belongs to, if any."""
    variables = {"dvc_exp_name": "DVC_EXP_NAME", "dvc_exp_baseline": "DVC_EXP_BASELINE_REV"}
    return {tag: os.environ[name] for tag, name in variables.items() if os.environ.get(name)}


def has_lost_its_process(tags: Mapping[str, str]) -> bool:
    """Return whether a run's process was on this machine, in the same container, and has ended.

    Args:
        tags: the tags of the run, with those of `process_tags`.
    """
    here = _pid_namespace()
    is_here = tags.get("host") == socket.gethostname() and tags.get("pid_namespace", here) == here
    return is_here and not _is_alive(tags)


def _is_alive(tags: Mapping[str, str]) -> bool:
    try:
        process = psutil.Process(int(tags["pid"]))
        if AFTER_BOOT in tags["pid_started"]:
            return _start_of(process) == tags["pid_started"]
        # On another system, or by an older version.
        return abs(process.create_time() - float(tags["pid_started"])) < CLOCK_SECONDS
    except (KeyError, ValueError, psutil.NoSuchProcess):
        return False


def git_tags(root: Path) -> dict[str, str]:
    """Return the commit of the checkout, and whether code, params or data differ from it.

    `git_dirty` is "true", "false", or "unknown" if git fails. Outside a repository there are no
    tags.
    """
    commit = _git(root, "rev-parse", "HEAD")
    if not commit:
        return {}
    # dvc.lock does not count, because every run writes it. New files count if a run may read them.
    changed = _git(
        root, "status", "--porcelain", "--untracked-files=no", "--", ".", ":(exclude)dvc.lock"
    )
    added = _git(root, "ls-files", "--others", "--exclude-standard", "--", *CODE, "*.yaml")
    is_dirty = "true" if changed or added else "false"
    if changed is None or added is None:
        is_dirty = "unknown"
    return {"mlflow.source.git.commit": commit, "git_commit": commit, "git_dirty": is_dirty}


def git_patch(root: Path) -> str:
    """Return how tracked files differ from the commit; empty if they do not, or outside a repository.

    New files are not in it. A patch of more than `MAX_PATCH` characters, or one that is not UTF-8,
    is replaced by a sentence that begins with `LEFT_OUT`, and the list of files.

    The patch is stored where others read it. So it lacks DVC's settings if the diff shows a secret of
    theirs, and each file with a secret of the environment. A first line, which begins with
    `SECRETS_LEFT_OUT`, names them.
    """
    what = ("HEAD", "--", ".", ":(exclude)dvc.lock")
    # A person's settings of git must not change the form of the patch.
    form = ("--no-ext-diff", "--no-textconv", "--no-color", "--src-prefix=a/", "--dst-prefix=b/")
    diff = ("-c", "core.quotePath=false", "diff", *form, "--binary")
    content = _git_bytes(root, *diff, *what) or b""
    try:
        patch = content.decode("utf-8")  # to the byte: white space at line ends belongs to it
        problem = f"has {len(patch)} characters" if len(patch) > MAX_PATCH else ""
    except UnicodeDecodeError:
        problem = "is not UTF-8"
    if not problem:
        return _without_secrets(patch)
    files = _git(root, "diff", *form, "--stat", *what) or ""
    return f"{LEFT_OUT} because it {problem}.\n{files}\n"


def _without_secrets(patch: str) -> str:
    kept: list[str] = []
    left_out: list[str] = []
    for diff in re.split(r"^(?=diff --git )", patch, flags=re.MULTILINE):
        is_secret = has_secret(diff)
        if _DVC_SETTINGS.match(diff):
            is_secret = is_secret or bool(_SECRET_SETTING.search(diff))
        (left_out if is_secret else kept).append(diff)
    if not left_out:
        return patch
    names = ", ".join(diff.splitlines()[0].rpartition(" b/")[2] for diff in left_out)
    return "".join([f"{SECRETS_LEFT_OUT} {names}\n", *kept])


def _git(root: Path, *arguments: str) -> str | None:
    """Return what a git command prints, or None if it fails."""
    content = _git_bytes(root, *arguments)
    return None if content is None else content.decode("utf-8", "replace").strip()


def _git_bytes(root: Path, *arguments: str) -> bytes | None:
    try:
        with _git_environment(root) as env:
            return run_git(root, *arguments, env=env)
    except (OSError, DataError):
        return None


@contextlib.contextmanager
def _git_environment(root: Path) -> Iterator[dict[str, str]]:
    """Yield the environment of git. In an experiment of DVC, git reads the content of every file.

    Elsewhere it trusts sizes and times in whole seconds. DVC checks an experiment out and changes its
    params within a second, and `seed: 2` is as long as `seed: 1`.
    """
    env = os.environ | {"GIT_OPTIONAL_LOCKS": "0"}  # a reader must not disturb a person's git
    if not experiment_tags():
        yield env
        return
    answer = run_git(root, "rev-parse", "--git-path", "index", env=env)
    with tempfile.TemporaryDirectory() as folder:
        index = Path(folder, "index")
        shutil.copyfile(root / os.fsdecode(answer).rstrip("\n"), index)
        # Git reads files that seem to be newer than its index.
        os.utime(index, (1, 1))
        yield env | {"GIT_INDEX_FILE": str(index)}
