"""Backbones by name, as users write them."""

from __future__ import annotations

import re

import pytest

from lumiere.errors import ParamsError
from lumiere.evaluation.backbones import (
    BACKBONES,
    EMBEDDED,
    BackboneSpec,
    load_backbone,
    parse_backbone,
)

DIGEST = "ab" * 32
WITH_FILES = sorted(name for name, entry in BACKBONES.items() if entry.files)


def test_the_embedded_backbone_needs_its_name_only() -> None:
    assert parse_backbone(EMBEDDED) == BackboneSpec(EMBEDDED)
    assert parse_backbone(EMBEDDED).load().name == EMBEDDED


@pytest.mark.parametrize("name", WITH_FILES)
def test_a_path_and_a_hash_are_read(name: str) -> None:
    assert parse_backbone(f"{name}=a/b.pt") == BackboneSpec(name, "a/b.pt")
    assert parse_backbone(f"{name}=a/b.pt@{DIGEST.upper()}") == BackboneSpec(name, "a/b.pt", DIGEST)
    assert parse_backbone(f"{name}=a=b@c.pt") == BackboneSpec(name, "a=b@c.pt")


@pytest.mark.parametrize("text", ["", "resnet", "I3D=x.pt", "efficientnet_lite=x"])
def test_an_unknown_name_lists_the_allowed_ones(text: str) -> None:
    with pytest.raises(ParamsError, match="unknown backbone") as error:
        parse_backbone(text)
    assert all(name in str(error.value) for name in BACKBONES)


def test_a_typing_error_is_guessed() -> None:
    with pytest.raises(ParamsError, match=re.escape(f"did you mean {EMBEDDED}?")):
        load_backbone("efficientnet_lite")


@pytest.mark.parametrize("name", WITH_FILES)
@pytest.mark.parametrize("rest", ["", "=", f"=@{DIGEST}"])
def test_a_missing_path_says_what_to_give(name: str, rest: str) -> None:
    with pytest.raises(ParamsError, match=f"{name}=PATH"):
        parse_backbone(name + rest)


@pytest.mark.parametrize("rest", ["=x.pth", "=", f"=@{DIGEST}"])
def test_the_embedded_backbone_takes_no_path(rest: str) -> None:
    with pytest.raises(ParamsError, match="without =PATH"):
        parse_backbone(EMBEDDED + rest)


def test_every_entry_says_what_it_is() -> None:
    for name, entry in BACKBONES.items():
        assert re.fullmatch("[a-z0-9_]+", name)
        assert entry.description and "\n" not in entry.description
