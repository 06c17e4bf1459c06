"""Tests which decoder reads which files, and which files are never opened."""

from __future__ import annotations

import os

import pytest

from lumiere.curation.probe import list_inputs, locate, probe
from lumiere.curation.reasons import Reason, Rejection
from lumiere.errors import DataError, VideoError
from tests.video_factory import audio_only, cut_by_edit_list, encode, numbered, open_gop, truncated


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("plain.mp4", "libx264", {"bf": "0"}),
        ("b-frames.mp4", "libx264", {"bf": "3", "g": "12"}),
        ("closed.mp4", "libx265", {"x265": "open-gop=0:keyint=12:scenecut=0"}),
        ("plain.mkv", "libx264", {}),
        ("vp9.webm", "libvpx-vp9", {"deadline": "realtime", "cpu-used": "8"}),
        ("motion.mov", "mjpeg", {}),
    ],
)
def test_ordinary_files_are_for_decord(tmp_path, name, codec, options):
    path = encode(tmp_path / name, numbered(30), codec=codec, **options)
    facts, _ = probe(path)
    assert (facts.decoder, facts.decoder_reason) == ("decord", "")
    assert (facts.width, facts.height, facts.frame_rate) == (96, 64, 16)


def test_open_gop_is_for_pyav(tmp_path):
    facts, _ = probe(open_gop(tmp_path / "a.mp4", numbered(48)))
    assert (facts.decoder, facts.decoder_reason) == ("pyav", "open GOP")
    assert facts.promised_frames == 48


def test_a_trimming_edit_list_is_for_pyav_and_no_truncation(tmp_path):
    whole = encode(tmp_path / "whole.mp4", numbered(48), bf="2", g="8")
    facts, _ = probe(cut_by_edit_list(tmp_path / "cut.mp4", whole, 20))
    assert facts.decoder == "pyav"
    assert facts.promised_frames <= 28


@pytest.mark.parametrize(
    ("name", "codec", "reason"),
    [
        ("a.ts", "libx264", "container mpegts"),
        ("a.avi", "libx264", "container avi"),
        ("a.mp4", "mpeg4", "codec mpeg4"),
    ],
)
def test_doubtful_containers_and_codecs_are_for_pyav(tmp_path, name, codec, reason):
    facts, _ = probe(encode(tmp_path / name, numbered(20), codec=codec))
    assert (facts.decoder, facts.decoder_reason) == ("pyav", reason)


def test_truncated_files_are_not_for_decord(tmp_path):
    whole = encode(tmp_path / "whole.mp4", numbered(48), crf="1")
    facts, _ = probe(truncated(tmp_path / "part.mp4", whole, 0.5))
    assert facts.decoder == "pyav"
    assert facts.promised_frames == 48


def test_sound_alone_is_no_video(tmp_path):
    with pytest.raises(VideoError, match="no video stream"):
        probe(audio_only(tmp_path / "a.mp4"))


def test_only_regular_files_inside_the_folder_are_opened(tmp_path):
    raw, outside = tmp_path / "raw", tmp_path / "outside.mp4"
    (raw / "sub" / ".hidden").mkdir(parents=True)
    outside.write_bytes(b"x")
    for name in ("real.mp4", "notes.txt", "sub/b.mp4", ".hidden.mp4", "sub/.hidden/c.mp4"):
        (raw / name).write_bytes(b"x")
    os.mkfifo(raw / "pipe.mp4")
    (raw / "inside.mp4").symlink_to("real.mp4")
    (raw / "leads-out.mp4").symlink_to(outside)
    (raw / "broken.mp4").symlink_to("nothing.mp4")
    (raw / "loop.mp4").symlink_to("loop.mp4")
    (raw / "folder.mp4").symlink_to("sub")
    verdicts = {}
    for name in list_inputs(raw):
        try:
            verdicts[name] = locate(raw, name).name
        except Rejection as rejection:
            verdicts[name] = rejection.reason
    assert verdicts == {
        ".hidden.mp4": Reason.HIDDEN,
        "broken.mp4": Reason.NOT_A_FILE,
        "folder.mp4": Reason.NOT_A_FILE,
        "inside.mp4": "real.mp4",
        "leads-out.mp4": Reason.OUTSIDE_FOLDER,
        "loop.mp4": Reason.NOT_A_FILE,
        "notes.txt": Reason.NOT_A_VIDEO,
        "pipe.mp4": Reason.NOT_A_FILE,
        "real.mp4": "real.mp4",
        "sub/.hidden": Reason.HIDDEN,
        "sub/b.mp4": "b.mp4",
    }


def test_links_may_lead_to_allowed_folders(tmp_path):
    raw, disk, other = (tmp_path / name for name in ("raw", "disk", "other"))
    for file in (disk / "deep" / "a.mp4", other / "b.mp4"):
        file.parent.mkdir(parents=True)
        file.write_bytes(b"x")
    raw.mkdir()
    (raw / "mounted").symlink_to(disk)
    (disk / "round").symlink_to(disk)
    (raw / "foreign").symlink_to(other)
    (raw / "b.mp4").symlink_to(other / "b.mp4")
    names = ["b.mp4", "foreign", "mounted/deep/a.mp4"]
    assert list(list_inputs(raw, [disk])) == names
    assert list(list_inputs(raw)) == ["b.mp4", "foreign", "mounted"]
    assert locate(raw, "mounted/deep/a.mp4", [disk]).read_bytes() == b"x"
    with pytest.raises(Rejection, match="outside_folder"):
        locate(raw, "b.mp4", [disk])


@pytest.mark.parametrize(
    ("config", "local", "cache"),
    [
        ("", "", "project/.dvc/cache"),
        (
            "[core]\n    autostage = false\n['remote \"a\"']\n    url = x\n",
            "",
            "project/.dvc/cache",
        ),
        ("[cache]\n    type = symlink\n    dir = ../../shared\n", "", "shared"),
        (
            "[cache]\n    dir = nowhere\n",
            "[cache]\n    dir = {tmp}/of this machine\n",
            "of this machine",
        ),
    ],
)
@pytest.mark.parametrize("layout", ["files/md5/", ""])
def test_links_may_lead_to_the_cache_of_the_own_dvc_project(tmp_path, config, local, cache, layout):
    raw, settings = tmp_path / "project" / "data" / "raw", tmp_path / "project" / ".dvc"
    raw.mkdir(parents=True)
    settings.mkdir()
    (settings / "config").write_text(config)
    (settings / "config.local").write_text(local.format(tmp=tmp_path))
    stored = f"{layout}0a/{'b' * 30}"
    for name, place in {
        "own.mp4": f"{cache}/{stored}",
        "foreign.mp4": f"another/.dvc/cache/{stored}",
        "loose.mp4": f"{cache}/notes.mp4",
    }.items():
        target = tmp_path / place
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(b"x")
        (raw / name).symlink_to(target)
    assert locate(raw, "own.mp4").read_bytes() == b"x"
    for name in ("foreign.mp4", "loose.mp4"):
        with pytest.raises(Rejection, match="outside_folder"):
            locate(raw, name)


def test_settings_of_dvc_that_cannot_be_read_are_an_error(tmp_path):
    (tmp_path / "raw").mkdir()
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text("no section = 1\n")
    (tmp_path / "a.mp4").write_bytes(b"x")
    (tmp_path / "raw" / "a.mp4").symlink_to(tmp_path / "a.mp4")
    with pytest.raises(DataError, match="not valid settings of DVC"):
        locate(tmp_path / "raw", "a.mp4")


def test_every_reason_has_a_sentence():
    assert all(reason.sentence.endswith(".") for reason in Reason)
