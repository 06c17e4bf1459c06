"""Finds the files of a backbone's weights and checks their hashes, before anything reads them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from lumiere.errors import DataError, first_line, one_line
from lumiere.files import check_readable, content_hash, is_file
from lumiere.plurals import shortened

ABSENT = "download it, and name the place where it lies: NAME=PATH"
ANOTHER = "get the file again, or give the hash that you expect: NAME=PATH@SHA256"


@dataclass(frozen=True)
class Weights:
    """The origin of a network's weights.

    Attributes:
        path: a file, or a folder with a configuration and safetensors files.
        sha256: of the file's bytes; of a folder, over the names and hashes of its files in use.
        published: whether this is the hash of the published weights. Only then may a score bear
            the name that it has in the literature (FID, FVD).
        expected: whether the user named this hash.
    """

    path: Path
    sha256: str
    published: bool = False
    expected: bool = False

    def describe(self) -> str:
        """Return a sentence with the name and the hash, to be shown beside a score."""
        origin = "not compared with a published hash"
        if self.published:
            origin = "the published weights"
        elif self.expected:
            origin = "the hash that was asked for"
        return f"Weights: {self.path.name}, sha256 {self.sha256} ({origin})."


def check_file(
    path: Path,
    expected: str | None,
    published: str | None = None,
    advice: str = "",
) -> Weights:
    """Hash a file of weights, and compare it with the expected hash or else the published one.

    Args:
        path: the file.
        expected: the hash that the user named.
        published: the hash of the published weights.
        advice: what to do if the file is missing or another; by default, to name the right path.

    Raises:
        DataError: if the file is missing or has another hash.
        DiskError: if a permission is missing, or the disk fails.
    """
    if not is_file(path):
        raise DataError(f"{path}: no such file of weights; {advice or ABSENT}")
    check_readable(path)
    return _compare(path, content_hash(path), expected, published, advice or ANOTHER)


def check_folder(path: Path, expected: str | None) -> Weights:
    """Hash a folder of transformers: config.json and the safetensors files.

    The folder's hash is that of the text `<sha256>  <name>\\n` for each file, sorted by name (what
    `sha256sum config.json *.safetensors | sha256sum` prints if the names are in that order).

    Raises:
        DataError: if a file is missing, or the hash is another.
        DiskError: if a permission is missing, or the disk fails.
    """
    has_config = is_file(path / "config.json")
    if has_config:
        check_readable(path)
    files = sorted(path.glob("*.safetensors"))
    if not has_config or not files:
        raise DataError(
            f"{path}: not a model folder; it needs config.json and at least one .safetensors file"
        )
    lines = [f"{content_hash(file)}  {file.name}\n" for file in [path / "config.json", *files]]
    digest = hashlib.sha256("".join(lines).encode()).hexdigest()
    return _compare(path, digest, expected, None, "get the folder again")


def _compare(
    path: Path, digest: str, expected: str | None, published: str | None, advice: str
) -> Weights:
    required = expected.lower() if expected is not None else published
    if required is not None and digest != required:
        raise DataError(f"{path}: has sha256 {digest}, expected {required}; {advice}")
    return Weights(path, digest, published=digest == published, expected=expected is not None)


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read a file of tensors that `torch.save` wrote, without running code from it.

    Raises:
        DataError: if the file is damaged, or holds anything but tensors by name.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file raises whatever its bytes lead to
        raise DataError(f"{path}: cannot be read as weights: {first_line(error)}") from None
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise DataError(f"{path}: holds something other than tensors by name")
    return state


def fill(network: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Load all tensors into a network.

    Raises:
        DataError: if a name or a shape does not fit.
    """
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        cause = shortened(one_line(error))
        raise DataError(f"{path}: weights of another network: {cause}") from None
