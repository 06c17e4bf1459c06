"""A model describes the clips that nobody described: the same sentence each time, and only there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL
import pytest
import torch

import lumiere.compat  # noqa: F401  before transformers
from lumiere.curation.caption_cache import CaptionCache
from lumiere.curation.captioning import captioner as captioner_module
from lumiere.curation.captioning.captioner import (
    TransformersCaptioner,
    most_agreed,
    whole_sentences,
)
from lumiere.errors import DataError
from tests.curation import tiny_models


def pictures(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (4, 40, 60, 3), dtype=np.uint8)


@pytest.mark.parametrize("make", [tiny_models.blip, tiny_models.encoder_decoder, tiny_models.llava])
def test_each_kind_of_model_describes_a_clip_the_same_way_again(
    tmp_path: Path, make: Callable[[Path], Path]
) -> None:
    folder = make(tmp_path / "model")
    captioner = TransformersCaptioner(str(folder))
    caption = captioner.caption(pictures())
    assert caption and set(caption.split()) <= set(tiny_models.WORDS)
    captioner.caption(pictures(1))  # a clip beside it changes nothing
    assert captioner.caption(pictures()) == caption
    again = TransformersCaptioner(str(folder))
    assert again.identity == captioner.identity and again.caption(pictures()) == caption


def test_other_weights_and_another_vocabulary_are_another_model(tmp_path: Path) -> None:
    folder = tiny_models.blip(tmp_path / "model")
    identity = TransformersCaptioner(str(folder)).identity
    file = folder / "tokenizer.json"
    file.write_text(file.read_text().replace('"boat"', '"ship"'))
    assert TransformersCaptioner(str(folder)).identity != identity


def test_what_is_no_captioner_is_one_sentence_with_the_cure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        DataError, match=r"^/no/such/folder: no such folder; .*; name a transformers"
    ):
        TransformersCaptioner("/no/such/folder")
    tiny_models.bert(tmp_path / "bert")
    with pytest.raises(DataError, match=r"^bert: a model of type 'bert', which writes no text"):
        TransformersCaptioner("bert")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"^empty: no config\.json in the folder; name a"):
        TransformersCaptioner("empty")
    folder = tiny_models.blip(tmp_path / "blip")
    shutil.copytree(folder, tmp_path / "half")
    (tmp_path / "half" / "model.safetensors").unlink()
    with pytest.raises(DataError, match=r"^half: cannot be loaded as a captioner: .*get the whole"):
        TransformersCaptioner("half")
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] = 3
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        DataError, match=r"weights are missing or have another shape .*such as text_"
    ):
        TransformersCaptioner("blip")


def test_a_model_that_cannot_describe_a_picture_is_refused_when_it_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a chat template it gets no places for the pictures."""
    folder = tiny_models.llava(tmp_path / "model")
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(DataError, match=r"model: it cannot describe a clip: .*; name a transform"):
        TransformersCaptioner(str(folder))
    captioner = TransformersCaptioner(str(tiny_models.blip(tmp_path / "blip")))
    monkeypatch.setattr(captioner, "_images", None)
    with pytest.raises(DataError, match=r"blip: it cannot describe a clip: .*; name a transform"):
        captioner.caption(pictures())


def test_a_folder_that_asks_for_several_sentences_gives_one(tmp_path: Path) -> None:
    folder = tiny_models.llava(tmp_path / "model")
    caption = TransformersCaptioner(str(folder)).caption(pictures())
    file = folder / "generation_config.json"
    settings = {"num_return_sequences": 3, "num_beams": 4}
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))
    assert TransformersCaptioner(str(folder)).caption(pictures()) == caption


def test_a_sentence_that_the_limit_cuts_off_is_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    captioner = TransformersCaptioner(str(tiny_models.blip(tmp_path / "model")))
    end = captioner._words.eos_token_id
    said = "A dog runs. It is 2.5 m from the"
    monkeypatch.setattr(captioner._words, "decode", lambda ids, **_: said)
    for last, expected in ((end, said), (7, "A dog runs.")):
        monkeypatch.setattr(
            captioner, "_generate", lambda last=last, **_: torch.tensor([[6, last]])
        )
        assert captioner.caption(pictures()) == expected
    assert whole_sentences("a dog that") == "a dog that" and whole_sentences("") == ""


def test_other_code_and_another_pil_ask_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = str(tiny_models.blip(tmp_path / "model"))
    identities = [TransformersCaptioner(folder).identity]
    for target, name, value in (
        (captioner_module, "code_version", lambda *_: {"code": "other"}),
        (PIL, "__version__", "0.0"),
    ):
        with monkeypatch.context() as patches:
            patches.setattr(target, name, value)
            identities.append(TransformersCaptioner(folder).identity)
    assert len(set(identities)) == 3


def test_the_sentence_that_most_frames_share_is_the_clips() -> None:
    sentences = ["a man", "a dog runs", "a dog", "a dog sits", ""]
    assert most_agreed(sentences) == "a dog"
    assert most_agreed(["a cat", "a dog"]) == "a cat"
    assert most_agreed(["", "a dog"]) == "a dog"
    assert most_agreed(["", ""]) == ""


def test_a_killed_run_leaves_only_whole_captions(tmp_path: Path) -> None:
    path = tmp_path / "captions.jsonl"
    cache = CaptionCache(path)
    cache.add("a", "a red boat")
    cache.add("b", "ein grünes Boot\n\u2028")
    content = path.read_bytes()
    for size in range(len(content) + 1):
        path.write_bytes(content[:size])
        later = CaptionCache(path)
        assert ("a" in later) == (size >= content.index(b"\n") + 1)
        later.add("c", "a sea")
        final = CaptionCache(path)
        assert final["c"] == "a sea" and ("b" in final) == (size == len(content))
    assert CaptionCache(path)["b"] == "ein grünes Boot\n\u2028"


@pytest.mark.parametrize("damage", [b"\0" * 20, b"\0\n\xff\n", b"7\n", b'["b"]\n', b'["b", 1]\n'])
def test_captions_before_damage_count(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "captions.jsonl"
    path.write_bytes(b'["a", "a red boat"]\n' + damage + b'["c", "lost"]\n')
    cache = CaptionCache(path)
    assert cache["a"] == "a red boat" and "b" not in cache and "c" not in cache
    cache.add("b", "a sea")
    assert path.read_bytes() == b'["a", "a red boat"]\n["b", "a sea"]\n'
