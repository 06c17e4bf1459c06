"""open_clip's text towers: states before pooling, padding zero and masked, and no weights that
nobody trained.
"""

from __future__ import annotations

import json
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file

from lumiere.text import TextEncoder, load_text_encoder

WIDTH, LENGTH = 16, 12
TINY = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 16, "patch_size": 8, "head_width": 8},
    "text_cfg": {
        "context_length": LENGTH,
        "vocab_size": 49408,
        "width": WIDTH,
        "heads": 2,
        "layers": 3,
    },
}
TOWERS = {
    "tiny-plain": {},
    "tiny-custom": {"custom_text": True},
    "tiny-coca": {"text_cfg": TINY["text_cfg"] | {"embed_cls": True}, "custom_text": True},
    "tiny-both-ways": {"text_cfg": TINY["text_cfg"] | {"no_causal_mask": True}},
}


@pytest.fixture(scope="module", autouse=True)
def architectures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny architectures that open_clip knows, and the weights of each."""
    folder = tmp_path_factory.mktemp("open clip")
    for name, changes in TOWERS.items():
        (folder / f"{name}.json").write_text(json.dumps(TINY | changes))
        open_clip.add_model_config(folder / f"{name}.json")
        torch.manual_seed(0)
        save_file(open_clip.create_model(name).state_dict(), folder / f"{name}.safetensors")
    return folder


def encoder_of(folder: Path, name: str = "tiny-plain", max_tokens: int = LENGTH) -> TextEncoder:
    return load_text_encoder(f"open_clip:{name}/{folder / name}.safetensors", max_tokens)


def test_states_are_the_penultimate_layers_as_stable_diffusion_2_takes_them(
    architectures: Path,
) -> None:
    embeds, mask = encoder_of(architectures).encode(["a cat runs"])
    assert (
        embeds.shape == (1, LENGTH, WIDTH)
        and embeds.dtype == torch.float32
        and not embeds.requires_grad
    )
    model = open_clip.create_model(
        "tiny-plain", pretrained=str(architectures / "tiny-plain.safetensors")
    ).eval()
    with torch.no_grad():
        states = model.token_embedding(open_clip.get_tokenizer("tiny-plain")(["a cat runs"]))
        states = states + model.positional_embedding
        for block in model.transformer.resblocks[:-1]:
            states = block(states, attn_mask=model.attn_mask)
        expected = model.ln_final(states)
    torch.testing.assert_close(embeds[mask == 1], expected[mask == 1], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", TOWERS)
def test_padding_is_zero_and_masked(name: str, architectures: Path) -> None:
    # In this vocabulary, padding and "!" may share a number.
    texts = ["a cat runs", "", "!", "a !! b !!!"]
    embeds, mask = encoder_of(architectures, name).encode(texts)
    assert mask.sum(1).tolist()[:3] == [5, 2, 3] and (mask.diff(dim=1) <= 0).all()
    assert not embeds[mask == 0].any() and embeds[mask == 1].abs().sum(-1).min() > 0
    one_by_one, _ = encoder_of(architectures, name).encode(texts, batch_size=1)
    torch.testing.assert_close(embeds, one_by_one, atol=1e-5, rtol=1e-4)


def test_fewer_tokens_are_the_first_ones_and_a_cut_sentence_ends(architectures: Path) -> None:
    long, short = encoder_of(architectures), encoder_of(architectures, max_tokens=6)
    torch.testing.assert_close(
        short.encode(["a cat"])[0], long.encode(["a cat"])[0][:, :6], atol=1e-5, rtol=1e-4
    )
    embeds, mask = short.encode(["cat " * 20, "cat " * 4])
    assert mask.all() and torch.equal(embeds[0], embeds[1])


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("a red cat with a spiky back", "a red cat with a spi"),
        ("  A Cat  runs & hides behind it", "  A Cat  runs & hides behind"),
        ("a cat, a cat, a cat", "a cat, a cat,"),
        ("日本日本日本", None),
    ],
)
def test_the_part_that_is_read_has_the_first_tokens(
    text: str, read: str | None, architectures: Path
) -> None:
    encoder = encoder_of(architectures, max_tokens=8)
    end = encoder.num_read(text)
    if read is not None:
        assert text[:end] == read
    tokenizer = open_clip.get_tokenizer("tiny-plain")
    tokens, first = tokenizer.encode(text), tokenizer.encode(text[:end])
    assert 0 < end < len(text) and len(first) <= 6
    joined = [
        "".join(tokenizer.decoder[i] for i in ids).replace("</w>", "") for ids in (tokens, first)
    ]
    assert joined[0].startswith(joined[1])


def test_its_config_loads_the_same_encoder(
    architectures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(architectures)
    encoder = load_text_encoder("open_clip:tiny-plain/tiny-plain.safetensors", 7)
    encoder.save_pretrained(tmp_path)
    loaded = load_text_encoder(tmp_path)
    assert loaded.name == "open_clip:tiny-plain/tiny-plain.safetensors" and loaded.max_tokens == 7
    assert loaded.embed_dim == WIDTH and torch.equal(
        loaded.encode(["a cat"])[0], encoder.encode(["a cat"])[0]
    )


def test_loading_draws_nothing_from_the_callers_randomness(
    architectures: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes((architectures / "tiny-plain.safetensors").read_bytes())
    encoder, before = load_text_encoder(f"open_clip:tiny-plain/{copy}", 5), torch.get_rng_state()
    encoder.encode(["a cat"])
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("name, expected", [
    ("open_clip:ViT-B-23", "architecture 'ViT-B-23'; allowed: .*ViT-B-32"),
    ("open_clip:ViT-B-32", "open_clip:ViT-B-32: no weights; allowed: .*laion2b_s34b_b79k"),
    ("open_clip:ViT-B-32/laion", "weights 'laion'; allowed: .*laion2b_s34b_b79k"),
    ("open_clip:tiny-plain", r"no weights; allowed: open_clip:tiny-plain/ and a \.safetensors file$"),
    ("open_clip:tiny-plain/nowhere.safetensors", "weights 'nowhere.safetensors'; allowed"),
    ("open_clip:roberta-ViT-B-32/laion2b_s12b_b32k", "text tower roberta-base; allowed"),
    ("open_clip:", "unknown; allowed: minilm"),
])  # fmt: skip
def test_a_name_that_cannot_be_used_is_told(name: str, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        load_text_encoder(name)


def test_weights_that_cannot_be_used_are_told(architectures: Path, tmp_path: Path) -> None:
    state = load_file(architectures / "tiny-plain.safetensors")
    torch.save(state, tmp_path / "weights.pt")
    with pytest.raises(ValueError, match=r"weights .*weights\.pt'; allowed"):
        load_text_encoder(f"open_clip:tiny-plain/{tmp_path / 'weights.pt'}")
    (tmp_path / "half.safetensors").write_bytes(b"half")
    save_file(
        {k: v for k, v in state.items() if k != "ln_final.weight"}, tmp_path / "lacking.safetensors"
    )
    for name in ("half", "lacking"):
        encoder = load_text_encoder(f"open_clip:tiny-plain/{tmp_path / name}.safetensors", LENGTH)
        with pytest.raises(ValueError, match=rf"{name}\.safetensors: cannot be loaded") as error:
            encoder.encode(["a cat"])
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("max_tokens", [2, LENGTH + 1])
def test_a_length_it_cannot_do_is_told(max_tokens: int, architectures: Path) -> None:
    with pytest.raises(
        ValueError, match=f"max_tokens {max_tokens}; allowed: 3 to {LENGTH}, which tiny-plain takes"
    ):
        encoder_of(architectures, max_tokens=max_tokens)
