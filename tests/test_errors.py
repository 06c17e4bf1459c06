"""The family of errors, and their messages on one line."""

from __future__ import annotations

import errno
import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lumiere import errors
from lumiere.errors import (
    DataError,
    LumiereError,
    ParamsError,
    first_line,
    one_line,
    run_program,
)
from lumiere.files import read_json
from lumiere.tensor_files import read_metadata, read_tensors
from lumiere.text_config import CONFIG_NAME, read_text_config, write_text_config
from lumiere.threads import THREADS, set_threads


def test_errors_about_values_are_value_errors_too() -> None:
    family = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, LumiereError)
    ]
    about_values = {kind.__name__ for kind in family if issubclass(kind, ValueError)}
    of_videos = {"VideoError", "DamagedVideoError", "FetchError"}
    assert about_values == {"ParamsError", "ModelError", "DataError"} | of_videos
    assert len(family) == 11


@pytest.mark.parametrize(
    ("message", "whole", "first"),
    [
        ("one\n  two\n", "one two", "one"),
        ("\n one", "one", "one"),
        ("", "RuntimeError", "RuntimeError"),
    ],
)
def test_messages_fit_on_one_line(message: str, whole: str, first: str) -> None:
    error = RuntimeError(message)
    assert one_line(error) == whole
    assert first_line(error) == first


def test_files_of_tensors_are_read_or_named(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    for read in (read_tensors, read_metadata):
        with pytest.raises(DataError, match=r"weights\.safetensors: no such file"):
            read(path)
    save_file({"a": torch.arange(3)}, path, {"about": "a test"})
    assert read_tensors(path)["a"].tolist() == [0, 1, 2]
    assert read_metadata(path) == {"about": "a test"}
    path.write_bytes(path.read_bytes()[:-1])
    for read in (read_tensors, read_metadata):
        with pytest.raises(DataError, match=r"weights\.safetensors: not a whole safetensors file"):
            read(path)


def test_another_cure_can_replace_the_one_of_a_data_error() -> None:
    error = DataError("a: no such file", cure="copy it")
    assert (str(error), error.problem) == ("a: no such file; copy it", "a: no such file")
    again = pickle.loads(pickle.dumps(error))  # as worker processes do
    assert str(again) == str(error)
    assert DataError("a: damaged").problem == str(DataError("a: damaged"))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "no such file"),
        (b"{", "not valid JSON"),
        (b"\xff", "not valid JSON"),
        (b"[1]", "not a JSON object"),
    ],
)
def test_json_files_are_read_or_named(content: bytes | None, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=rf"config\.json: {expected}"):
        read_json(path)
    path.write_text('{"a": 1}')
    assert read_json(path) == {"a": 1}


@pytest.mark.parametrize("content", ['{"name": "minilm"}', '{"name": 1, "max_tokens": 32}'])
def test_the_record_of_a_text_encoder_is_read_or_named(content: str, tmp_path: Path) -> None:
    write_text_config(tmp_path / "a", "minilm", 12)
    assert read_text_config(tmp_path / "a") == ("minilm", 12)
    (tmp_path / "a" / CONFIG_NAME).write_text(content)
    with pytest.raises(DataError, match=r"text_encoder\.json: expected the name"):
        read_text_config(tmp_path / "a")


@pytest.mark.parametrize("number", ["", "0", "-1", "two", "1.5"])
def test_a_number_of_threads_that_is_none_is_refused(
    number: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LUMIERE_NUM_THREADS", number)
    with pytest.raises(ParamsError, match=r"LUMIERE_NUM_THREADS: .*allowed: a whole number"):
        set_threads()


def test_the_number_of_threads_does_not_depend_on_the_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    try:
        for number, expected in ((None, THREADS), ("1", 1)):
            monkeypatch.delenv("LUMIERE_NUM_THREADS", raising=False)
            if number is not None:
                monkeypatch.setenv("LUMIERE_NUM_THREADS", number)
            set_threads()
            assert torch.get_num_threads() == int(os.environ["OMP_NUM_THREADS"]) == expected
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    "number, cure",
    [(errno.ENOSPC, "free some disk space"), (errno.EACCES, "check the path and its permissions")],
)
def test_an_error_about_a_file_names_it_and_its_cure(
    number: int, cure: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise OSError(number, os.strerror(number), "out/a.json")

    with pytest.raises(SystemExit) as ended:
        run_program(fail, OSError)
    assert ended.value.code == 1
    assert capsys.readouterr().err == f"error: out/a.json: {os.strerror(number)}; {cure}\n"
    with pytest.raises(OSError):
        run_program(fail)  # a bug, unless the program expects it


def test_only_failures_that_can_pass_ask_for_another_try() -> None:
    may_pass = [errors.LockError("busy"), errors.WorkerError("killed")]
    final = [
        errors.WorkerError("its own exit", may_pass=False),
        DataError("bad"),
        ParamsError("bad"),
    ]
    assert {errors.exit_code(error) for error in may_pass} == {errors.TRY_AGAIN}
    assert {errors.exit_code(error) for error in [*final, errors.DiskError("full")]} == {1}
    copy = pickle.loads(pickle.dumps(final[0]))
    assert not copy.may_pass and str(copy) == "its own exit"
