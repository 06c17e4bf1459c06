"""Raw videos behind a glob or in an object store give the rows and clips that a local folder gives."""

from __future__ import annotations

import errno
import shutil
import sys
import threading
from collections.abc import Iterator
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from unittest.mock import Mock

import pytest

import stages
from lumiere.config import CurateConfig
from lumiere.curation.captions import Caption
from lumiere.curation.curate import LATE_CAPTIONS, curate, measure_all
from lumiere.curation.manifest import read_manifest, write_manifest
from lumiere.curation.measurement import measure_video
from lumiere.curation.reasons import Reason, Rejection
from lumiere.data import remote
from lumiere.data.extract import extract_video
from lumiere.data.prepare import cut_all
from lumiere.data.remote import RemoteFolder, file_in, matching, split_source
from lumiere.data.window_choice import Source, WindowSettings
from lumiere.data.workers import Failure
from lumiere.errors import DataError, FetchError, VideoError
from tests.video_factory import encode, numbered

CONFIG = CurateConfig(timeout_s=60.0, workers=1, min_side=48)
SETTINGS = WindowSettings(fps=16, num_frames=16, size=32, clips_per_video=1)


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    """Make three videos with captions, a hidden file, and a file that is no video."""
    folder = tmp_path_factory.mktemp("remote")
    for i, name in enumerate(("a.mp4", "in/b.mp4", "in/deep/c.mkv")):
        encode(folder / "raw" / name, numbered(20, i + 1))
    (folder / "raw" / "in" / "b.txt").write_text("from the file beside it\n")
    (folder / "raw" / ".hidden.mp4").write_bytes(b"x")
    (folder / "raw" / "notes.md").write_text("nothing")
    (folder / "captions.csv").write_text("video,caption\na.mp4,one\nin/deep/c.mkv,three\n")
    return folder


def test_addresses_are_divided_into_folder_and_pattern(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "odd[1]").mkdir()
    cache = tmp_path / "cache"
    cases = {
        "data/raw": (Path("data/raw"), ""),
        "odd[1]": (Path("odd[1]"), ""),
        "data/raw/*/x-?.mp4": (Path("data/raw"), "*/x-?.mp4"),
        "*.mp4": (Path("."), "*.mp4"),
        "/raw/**/*.mp4": (Path("/raw"), "**/*.mp4"),
        "/*.mp4": (Path("/"), "*.mp4"),
        "file:///raw/*.mp4": (Path("/raw"), "*.mp4"),
        "s3://bucket/videos": (RemoteFolder("s3://bucket/videos", cache), ""),
        "s3://bucket/v/2024-*/*.mp4": (RemoteFolder("s3://bucket/v", cache), "2024-*/*.mp4"),
    }
    assert {text: split_source(text, cache) for text in cases} == cases
    names = ["a.mp4", "in/b.mp4", "in/deep/c.mp4", "in/deep/c.mkv"]
    assert matching(names, "*.mp4") == ["a.mp4"]
    assert matching(names, "**/*.mp4") == ["a.mp4", "in/b.mp4", "in/deep/c.mp4"]
    assert matching(names, "in/**") == names[1:]
    assert matching(names, "") == names


def test_a_glob_takes_what_it_matches(videos, tmp_path):
    raw, pattern = split_source(f"{videos / 'raw'}/in/**/*.mp4", tmp_path)
    rows, _ = curate(raw, videos / "captions.csv", CONFIG, tmp_path / "s", pattern=pattern)
    found = {row["video"]: row["reason"] for row in rows}
    missing = dict.fromkeys(("a.mp4", "in/deep/c.mkv"), "caption_without_video")
    assert found == {"b.mp4": ""} | missing
    # A text beside a video that the pattern leaves out is no caption of a missing video.
    rows, _ = curate(videos / "raw", videos / "captions.csv", CONFIG, tmp_path / "s", pattern="a*")
    assert {row["video"] for row in rows} == {"a.mp4", "in/deep/c.mkv"}
    with pytest.raises(DataError, match=r"raw: holds no file that matches \*\.webm"):
        curate(videos / "raw", videos / "captions.csv", CONFIG, tmp_path / "s", pattern="*.webm")


def results(raw: Path | RemoteFolder, videos: Path, folder: Path) -> dict[str, bytes]:
    """Curate and decode, and return what is written."""
    rows, _ = curate(raw, videos / "captions.csv", CONFIG, folder / "scratch")
    write_manifest(folder / "manifest.parquet", rows)
    accepted = [row for row in rows if row["verdict"] == "accepted"]
    captions = [row["captions"] for row in accepted]
    assert captions == [["one"], ["from the file beside it"], ["three"]]
    files, failures = cut_all(accepted, raw, SETTINGS, 1, 60.0, folder / "cut")
    assert not failures and len(files) == 3
    paths = [folder / "manifest.parquet", *files.values()]
    return {path.name: path.read_bytes() for path in paths}


@pytest.fixture(scope="module")
def of_the_folder(videos, tmp_path_factory) -> dict[str, bytes]:
    return results(videos / "raw", videos, tmp_path_factory.mktemp("local"))


def of_the_address(url: str, videos: Path, folder: Path) -> tuple[RemoteFolder, dict[str, bytes]]:
    raw = RemoteFolder(url, folder / "cache")
    found = results(raw, videos, folder)
    # The videos and the captions beside one of them; nothing else is fetched.
    assert len([path for path in (folder / "cache").rglob("*") if path.is_file()]) == 4
    return raw, found


def test_an_address_gives_what_the_folder_gives(videos, of_the_folder, tmp_path, monkeypatch):
    shutil.copytree(videos / "raw", tmp_path / "store")
    raw, found = of_the_address(f"file://{tmp_path}/store", videos, tmp_path)
    assert found == of_the_folder
    # What is in the cache is not fetched again, and what has changed is.
    copies = {name: raw.fetch(name) for name in ("a.mp4", "in/b.mp4")}
    monkeypatch.setattr(remote, "_fetch", lambda *_: pytest.fail("fetched again"))
    assert raw.fetch("a.mp4") == copies["a.mp4"]
    monkeypatch.undo()
    encode(tmp_path / "store" / "a.mp4", numbered(20, 7))
    assert raw.fetch("a.mp4") != copies["a.mp4"]
    row = read_manifest(tmp_path / "manifest.parquet", verdict="accepted")[0]
    source = Source(file_in(raw, row["video"]), row["sha256"], Fraction(0), Fraction(1), "pyav")
    with pytest.raises(VideoError, match="changed since it was curated"):
        extract_video((source,), (SETTINGS,), tmp_path / "cut")


def test_a_store_that_fails_is_named(videos, tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"nostore://x: cannot be listed: .*; check the address"):
        RemoteFolder("nostore://x", tmp_path).names()
    shutil.copytree(videos / "raw", tmp_path / "store")
    raw = RemoteFolder(f"file://{tmp_path}/store", tmp_path / "cache")
    with pytest.raises(OSError):
        raw.fetch("gone.mp4")
    monkeypatch.setattr(remote, "PAUSE_S", 0.0)
    tries: list[int] = []
    monkeypatch.setattr(remote, "_chunks", lambda source: tries.append(1) or [source.read(100)])
    with pytest.raises(OSError, match=r"100 of .* bytes came"):
        raw.fetch("a.mp4")
    assert len(tries) == remote.TRIES
    # Clips that are missing for the network's sake would be missing without a word.
    rows, _ = curate(videos / "raw", videos / "captions.csv", CONFIG, tmp_path / "s")
    accepted = [row for row in rows if row["verdict"] == "accepted"]
    gone = RemoteFolder(f"file://{tmp_path}/nowhere", tmp_path / "cache")
    with pytest.raises(DataError, match=r"3 videos, such as a\.mp4: cannot be fetched") as raised:
        cut_all(accepted, gone, SETTINGS, 1, 60.0, tmp_path / "cut")
    assert "check the network" in str(raised.value)
    monkeypatch.setattr(remote, "TRIES", 1)
    names = {"a.mp4": [Caption("one")]}
    with pytest.raises(DataError, match=r"^a\.mp4: cannot be fetched"):
        measure_all(gone, ["a.mp4"], names, CONFIG, tmp_path / "m")

    # A full disk says nothing about a video either.
    def full(*_: object) -> list[tuple[int, Failure]]:
        error = OSError(errno.ENOSPC, "No space left on device", "/scratch/x")
        return [(0, Failure("error", str(error), error))]

    with pytest.raises(DataError, match=r"a\.mp4: /scratch/x: No space left.*free some disk space"):
        cut_all(accepted[:1], videos / "raw", SETTINGS, 1, 60.0, tmp_path / "cut2", run=full)
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_a_local_s3_server_gives_what_the_folder_gives(
    videos, of_the_folder, tmp_path, monkeypatch
):
    boto3 = pytest.importorskip("boto3", reason="pip install s3fs 'moto[server]' to test S3")
    pytest.importorskip("s3fs", reason="pip install s3fs 'moto[server]' to test S3")
    server_module = pytest.importorskip("moto.server", reason="pip install 'moto[server]'")
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        settings = {"AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_DEFAULT_REGION": "us-east-1"}
        settings |= {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "NO_PROXY": host}
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        client = boto3.client("s3")
        client.create_bucket(Bucket="bucket")
        for path in (videos / "raw").rglob("*"):
            if path.is_file():
                key = f"videos/{path.relative_to(videos / 'raw').as_posix()}"
                client.upload_file(str(path), "bucket", key)
        raw, found = of_the_address("s3://bucket/videos", videos, tmp_path)
        assert found == of_the_folder
        first = raw.fetch("a.mp4")
        client.upload_file(str(videos / "raw" / "in" / "b.mp4"), "bucket", "videos/a.mp4")
        second = raw.fetch("a.mp4")
        assert second != first
        assert second.read_bytes() == (videos / "raw" / "in" / "b.mp4").read_bytes()
        with pytest.raises(DataError, match="s3://none/x: cannot be listed"):
            RemoteFolder("s3://none/x", tmp_path).names()
    finally:
        server.stop()


class Store(BaseHTTPRequestHandler):
    """Serves a folder; of the files in `hanging` it sends a part, and then nothing more."""

    folder: Path
    hanging: tuple[str, ...]
    end: threading.Event

    def do_HEAD(self) -> None:
        self._answer(is_whole=False)

    def do_GET(self) -> None:
        self._answer(is_whole=True)

    def _answer(self, is_whole: bool) -> None:
        path = self.folder / self.path.strip("/")
        names = sorted(member.name for member in self.folder.iterdir())
        links = "".join(f'<a href="{name}">{name}</a>' for name in names)
        content = path.read_bytes() if path.is_file() else links.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Content-Type", "video/mp4" if path.is_file() else "text/html")
        self.end_headers()
        if is_whole and path.name in self.hanging:
            self.wfile.write(content[:3])
            self.wfile.flush()
            self.end.wait()
        elif is_whole:
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def store(tmp_path, monkeypatch) -> Iterator[tuple[str, type[Store]]]:
    handler = type("Own", (Store,), {"end": threading.Event(), "folder": tmp_path / "store"})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield f"http://127.0.0.1:{server.server_port}", handler
    handler.end.set()
    server.shutdown()
    server.server_close()


def test_a_store_that_stops_sending_costs_its_videos_and_not_the_run(store, videos, tmp_path):
    pytest.importorskip("aiohttp", reason="pip install aiohttp to test addresses of HTTP")
    url, handler = store
    handler.hanging = ("a.mp4", "b.txt")
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        encode(tmp_path / "store" / name, numbered(20, ord(name[0])))
    (tmp_path / "store" / "b.txt").write_text("never comes\n")
    (tmp_path / "c.csv").write_text("video,caption\na.mp4,one\nc.mp4,three\n")
    config = CurateConfig(timeout_s=4.0, workers=1, min_side=48)
    raw = RemoteFolder(url, tmp_path / "cache")
    rows, _ = curate(raw, tmp_path / "c.csv", config, tmp_path / "scratch")
    found = {row["clip_id"]: (row["reason"], row["detail"]) for row in rows}
    again = "`dvc repro -f curate` tries again."
    assert found == {
        "a": ("timeout", f"Reading it failed: no progress for 4 s; {again}"),
        "b": ("timeout", LATE_CAPTIONS),
        "c": ("", ""),
    }


def test_a_store_that_hangs_while_it_is_listed_is_one_error(store, tmp_path):
    pytest.importorskip("aiohttp", reason="pip install aiohttp to test addresses of HTTP")
    url, handler = store
    handler.hanging = ("store",)  # the list of its files
    encode(tmp_path / "store" / "a.mp4", numbered(4, 1))
    (tmp_path / "c.csv").write_text("video,caption\na.mp4,one\n")
    config = CurateConfig(timeout_s=2.0, workers=1)
    raw = RemoteFolder(url, tmp_path / "cache")
    with pytest.raises(DataError, match=r"within 2 s; .* raise curate\.timeout_s") as e:
        curate(raw, tmp_path / "c.csv", config, tmp_path / "scratch")
    assert str(e.value).startswith(f"{url}: the list of its files")
    gone = RemoteFolder("nostore://x", tmp_path)
    with pytest.raises(DataError, match=r"^nostore://x: cannot be listed: .*; check the address"):
        curate(gone, tmp_path / "c.csv", config, tmp_path / "scratch")


class ReadTimeoutError(Exception):
    """Like that of a store's client."""


class ReadTimeout(OSError):
    """Like that of requests, which is no TimeoutError."""


class BrokenAnswer(OSError):
    """Like requests' error of an answer that breaks off."""

    def __init__(self, cause: Exception) -> None:
        super().__init__("broken")
        self.__cause__ = cause


@pytest.mark.parametrize(
    "error",
    [
        TimeoutError(),
        ReadTimeoutError("x"),
        ReadTimeout("x"),
        BrokenAnswer(ReadTimeoutError("x")),
    ],
)
def test_a_client_that_gives_up_waiting_is_a_timeout_too(videos, tmp_path, monkeypatch, error):
    raw = RemoteFolder(f"file://{videos}/raw", tmp_path / "cache")
    tries: list[str] = []

    def hang(*_: object) -> None:
        tries.append("")
        raise error

    monkeypatch.setattr(remote, "_fetch", hang)
    monkeypatch.setattr(remote, "PAUSE_S", 0.0)
    monkeypatch.setattr(remote, "report_progress", lambda: pytest.fail("that is no progress"))
    with pytest.raises(Rejection, match="sent nothing for too long") as raised:
        measure_video(raw, "a.mp4", (), 27.0, tmp_path)
    assert (raised.value.reason, len(tries)) == (Reason.TIMEOUT, remote.TRIES)
    source = Source(file_in(raw, "a.mp4"), "", Fraction(0), Fraction(1), "pyav")
    with pytest.raises(VideoError, match="sent nothing for too long") as raised:
        extract_video((source,), (SETTINGS,), tmp_path / "cut")
    assert not isinstance(raised.value, FetchError)  # which would end the run


class ConnectTimeoutError(Exception):
    """Like that of a store's client whose network is down."""


class ServiceRequestTimeoutError(Exception):
    """Like that of Azure: the request could not be sent."""


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ETIMEDOUT, "x"),
        ConnectTimeoutError("x"),
        ServiceRequestTimeoutError("x"),
        BrokenAnswer(ConnectTimeoutError("x")),
    ],
)
def test_a_store_that_cannot_be_reached_ends_the_run(videos, tmp_path, monkeypatch, error):
    raw = RemoteFolder(f"file://{videos}/raw", tmp_path / "cache")
    monkeypatch.setattr(remote, "_fetch", Mock(side_effect=error))
    monkeypatch.setattr(remote, "PAUSE_S", 0.0)
    with pytest.raises(FetchError, match="cannot be fetched"):
        measure_video(raw, "a.mp4", (), 27.0, tmp_path)
    source = Source(file_in(raw, "a.mp4"), "", Fraction(0), Fraction(1), "pyav")
    with pytest.raises(FetchError, match="cannot be fetched"):
        extract_video((source,), (SETTINGS,), tmp_path / "cut")


def test_stages_take_addresses_and_globs_but_no_folder_that_is_missing(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    for text in ("s3://bucket/x", "videos/*.mp4"):
        monkeypatch.setattr(sys, "argv", ["curate", "--raw", text])
        assert stages.parse_arguments("x", raw="videos").raw == text
    monkeypatch.setattr(sys, "argv", ["curate", "--raw", "videos"])
    with pytest.raises(SystemExit):
        stages.parse_arguments("x", raw="videos")
    assert "error: --raw videos: no such file or folder" in capsys.readouterr().err
