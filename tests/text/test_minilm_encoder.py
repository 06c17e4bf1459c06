"""The embedded text encoder: padding is zero and masked, long sentences are cut, the weights are
the expected ones.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lumiere.text import TextEncoder, load_text_encoder, minilm_encoder
from tests.conftest import REPOSITORY


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    return load_text_encoder("minilm", max_tokens=12)


def test_shapes_dtypes_and_zero_padding(encoder: TextEncoder) -> None:
    embeds, mask = encoder.encode(["a cat runs", "", "a much longer sentence about a dog"])
    assert embeds.shape == (3, 12, encoder.embed_dim) and embeds.dtype == torch.float32
    assert mask.shape == (3, 12) and mask.dtype == torch.int64
    # Words, a start and an end; the empty sentence has only the last two.
    assert mask.sum(1).tolist() == [5, 2, 9]
    assert (mask.diff(dim=1) <= 0).all()  # tokens first, then padding
    assert not embeds[mask == 0].any() and embeds[mask == 1].abs().sum(-1).min() > 0
    assert not embeds.requires_grad


def test_long_sentences_are_cut_and_still_end(encoder: TextEncoder) -> None:
    embeds, mask = encoder.encode(["word " * 40, "word " * 10])
    assert mask.all() and embeds.shape == (2, 12, 384)
    torch.testing.assert_close(embeds[0], embeds[1])


def test_a_sentence_does_not_depend_on_its_batch_or_its_padding(encoder: TextEncoder) -> None:
    texts = ["a cat runs", "a dog", "a rocket flies up"]
    together, _ = encoder.encode(texts)
    one_by_one, _ = encoder.encode(texts, batch_size=1)
    torch.testing.assert_close(together, one_by_one, atol=1e-5, rtol=1e-4)
    longer, _ = load_text_encoder("minilm", max_tokens=20).encode(texts)
    torch.testing.assert_close(longer[:, :12], together, atol=1e-5, rtol=1e-4)
    assert not longer[:, 12:].any()


def test_words_matter(encoder: TextEncoder) -> None:
    embeds, mask = encoder.encode(["a cat runs", "a kitten runs", "quarterly tax report"])
    pooled = torch.nn.functional.normalize(embeds.sum(1) / mask.sum(1, keepdim=True), dim=-1)
    assert pooled[0] @ pooled[1] > 0.6 > 0.3 > pooled[0] @ pooled[2]


def test_no_sentences(encoder: TextEncoder) -> None:
    embeds, mask = encoder.encode([])
    assert embeds.shape == (0, 12, 384) and mask.shape == (0, 12)


def test_a_string_is_not_a_list_of_sentences(encoder: TextEncoder) -> None:
    with pytest.raises(ValueError, match="'a cat'; expected a list"):
        encoder.encode("a cat")  # type: ignore[arg-type]


def test_saved_config_loads_the_same_encoder(encoder: TextEncoder, tmp_path: Path) -> None:
    encoder.save_pretrained(tmp_path / "text_encoder")
    loaded = load_text_encoder(tmp_path / "text_encoder")
    assert (loaded.name, loaded.max_tokens, loaded.embed_dim) == ("minilm", 12, 384)
    assert sum(path.stat().st_size for path in (tmp_path / "text_encoder").iterdir()) < 1000
    assert torch.equal(loaded.encode(["a cat"])[0], encoder.encode(["a cat"])[0])


@pytest.mark.parametrize("name", ["bert", "", "/nowhere"])
def test_an_unknown_name_is_told(name: str) -> None:
    with pytest.raises(ValueError, match="allowed: minilm"):
        load_text_encoder(name)


@pytest.mark.parametrize("max_tokens", [0, 2, 513])
def test_a_length_it_cannot_do_is_told(max_tokens: int) -> None:
    with pytest.raises(ValueError, match="allowed: 3 to 512"):
        load_text_encoder("minilm", max_tokens=max_tokens)


def test_other_weights_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minilm_encoder, "WEIGHTS_SHA256", "0" * 64)
    with pytest.raises(ValueError, match=r"model\.safetensors has sha256 53aa5117.*, not 0000"):
        minilm_encoder.model_folder.__wrapped__()


def test_loading_is_silent_and_draws_nothing_from_the_callers_randomness() -> None:
    code = (
        "import torch; from lumiere.text import load_text_encoder; before = torch.get_rng_state();"
        "load_text_encoder('minilm').encode(['a cat']); assert torch.equal(before, torch.get_rng_state())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
