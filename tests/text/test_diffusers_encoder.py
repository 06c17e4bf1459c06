"""The text encoder of a diffusers pipeline gives what that pipeline gives its U-Net; what it cannot
do is told.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import IFPipeline
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel

from lumiere import hub_folders
from lumiere.text import load_text_encoder
from lumiere.text.diffusers_encoder import _load_model
from tests.models.zoo import TEXT_DIM
from tests.text.pipelines import clip, save_clip_pipeline, save_if, t5, tokenizer


@pytest.fixture(scope="module")
def deepfloyd(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, IFPipeline]:
    folder = tmp_path_factory.mktemp("IF")
    return folder, save_if(folder)


def test_t5_states_are_those_of_the_pipeline(deepfloyd: tuple[Path, IFPipeline]) -> None:
    """All of them: IF's U-Net was trained with the states of padding and no mask."""
    folder, pipe = deepfloyd
    embeds, mask = load_text_encoder(f"diffusers:{folder}", 77).encode(["A cat runs ", ""])
    positive, negative = pipe.encode_prompt(
        "A cat runs ", do_classifier_free_guidance=True, device="cpu"
    )
    assert (
        embeds.shape == (2, 77, TEXT_DIM)
        and embeds.dtype == torch.float32
        and not embeds.requires_grad
    )
    torch.testing.assert_close(embeds, torch.cat([positive, negative]), atol=1e-5, rtol=1e-4)
    assert mask.dtype == torch.int64 and mask.all()


def test_clip_states_are_the_last_after_the_norm(tmp_path: Path) -> None:
    save_clip_pipeline(tmp_path, positions=8)
    embeds, mask = load_text_encoder(f"diffusers:{tmp_path}", 8).encode(
        ["a cat", "a red dog runs b c d e f g"]
    )
    ids = tokenizer(8, start="<s>")(
        ["a cat", "a red dog runs b c d e f g"], padding="max_length", truncation=True
    )
    expected = clip(8)(input_ids=torch.tensor(ids.input_ids)).last_hidden_state
    torch.testing.assert_close(embeds, expected.detach(), atol=1e-5, rtol=1e-4)
    # The first row ends with padding, the second with the end of a sentence that was cut.
    assert mask.all() and [row[-1] for row in ids.input_ids] == [0, 1]


def test_a_sentence_does_not_depend_on_its_batch_and_words_matter(
    deepfloyd: tuple[Path, IFPipeline],
) -> None:
    encoder = load_text_encoder(f"diffusers:{deepfloyd[0]}", 12)
    texts = ["a cat runs", "a dog", "a red dog"]
    together, _ = encoder.encode(texts)
    one_by_one, _ = encoder.encode(texts, batch_size=1)
    torch.testing.assert_close(together, one_by_one, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(together[1], together[2], atol=1e-3)


def test_its_config_loads_the_same_encoder(
    deepfloyd: tuple[Path, IFPipeline], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(deepfloyd[0].parent)
    encoder = load_text_encoder(f"diffusers:./{deepfloyd[0].name}/", 9)
    encoder.save_pretrained(tmp_path / "text_encoder")
    loaded = load_text_encoder(tmp_path / "text_encoder")
    assert (loaded.name, loaded.max_tokens) == (f"diffusers:{deepfloyd[0].name}", 9)
    assert loaded.embed_dim == TEXT_DIM and torch.equal(
        loaded.encode(["a cat"])[0], encoder.encode(["a cat"])[0]
    )


def test_weights_are_loaded_once_and_in_their_own_dtype(tmp_path: Path) -> None:
    save_if(tmp_path, text_encoder=t5().bfloat16())
    before = torch.get_rng_state()
    for length in (5, 6):
        embeds, _ = load_text_encoder(f"diffusers:{tmp_path}", length).encode(["a cat"])
    model = _load_model(str(tmp_path.resolve()), "T5EncoderModel")
    assert model.dtype == torch.bfloat16 and embeds.dtype == torch.float32
    assert not model.training and not any(p.requires_grad for p in model.parameters())
    assert _load_model.cache_info().hits and torch.equal(before, torch.get_rng_state())


def test_a_length_it_cannot_do_is_told(tmp_path: Path) -> None:
    save_if(tmp_path, tokenizer=tokenizer(max_length=512))
    load_text_encoder(f"diffusers:{tmp_path}", 77)
    for length in (2, 78):
        with pytest.raises(
            ValueError, match=f"max_tokens {length}; allowed: 3 to 77, which .* takes"
        ):
            load_text_encoder(f"diffusers:{tmp_path}", length)
    save_clip_pipeline(tmp_path / "clip", positions=16)
    with pytest.raises(ValueError, match="max_tokens 17; allowed: 3 to 16"):
        load_text_encoder(f"diffusers:{tmp_path / 'clip'}", 17)


def test_another_class_of_text_encoder_is_told(tmp_path: Path) -> None:
    save_if(tmp_path)
    small = BertConfig(
        vocab_size=64,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
    )
    BertModel(small).save_pretrained(tmp_path / "text_encoder")
    with pytest.raises(
        ValueError, match="class 'BertModel'; allowed: T5EncoderModel, CLIPTextModel"
    ):
        load_text_encoder(f"diffusers:{tmp_path}")


def test_what_is_missing_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"^nowhere/at-all: neither a folder .* nor a hub name"
    ) as error:
        load_text_encoder("diffusers:nowhere/at-all")
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=r"text_encoder/config\.json: no such file"):
        load_text_encoder(f"diffusers:{tmp_path}")
    t5().save_pretrained(tmp_path / "text_encoder")
    with pytest.raises(ValueError, match="tokenizer: no such folder"):
        load_text_encoder(f"diffusers:{tmp_path}")
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "T5Tokenizer"})
    )
    (tmp_path / "tokenizer" / "spiece.model").write_bytes(b"half")
    with pytest.raises(ValueError, match="tokenizer: no tokenizer can be read") as error:
        load_text_encoder(f"diffusers:{tmp_path}")
    assert "\n" not in str(error.value)


def test_weights_that_are_missing_are_not_made_up(tmp_path: Path) -> None:
    save_if(tmp_path)
    weights = tmp_path / "text_encoder" / "model.safetensors"
    state = load_file(weights)
    gone = next(name for name in state if name.endswith("wo.weight"))
    save_file(
        {name: value for name, value in state.items() if name != gone}, weights, {"format": "pt"}
    )
    with pytest.raises(ValueError, match=rf"no weights for '{gone}' \(1 missing\)"):
        load_text_encoder(f"diffusers:{tmp_path}").encode(["a cat"])
    weights.unlink()
    # A pickle, which is not read.
    torch.save(state, tmp_path / "text_encoder" / "pytorch_model.bin")
    with pytest.raises(ValueError, match="no T5EncoderModel can be read from safetensors") as error:
        load_text_encoder(f"diffusers:{tmp_path}").encode(["a cat"])
    assert "\n" not in str(error.value)


def test_a_hub_name_fetches_configs_first_and_never_pickles(
    deepfloyd: tuple[Path, IFPipeline], monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[list[str]] = []

    def download(name: str, allow_patterns: list[str], ignore_patterns: list[str]) -> str:
        assert name == "someone/tiny-if" and "*.fp16*" in ignore_patterns
        fetched.append(allow_patterns)
        return str(deepfloyd[0])

    monkeypatch.setattr(hub_folders, "snapshot_download", download)
    encoder = load_text_encoder("diffusers:someone/tiny-if", 9)
    assert fetched[0] == ["*.json"] and not any("safetensors" in p for p in fetched[0])
    expected = load_text_encoder(f"diffusers:{deepfloyd[0]}", 9).encode(["a cat"])[0]
    assert encoder.name == "diffusers:someone/tiny-if" and torch.equal(
        encoder.encode(["a cat"])[0], expected
    )
    assert "text_encoder/*.safetensors" in fetched[-1] and not any(
        p.endswith(".bin") for patterns in fetched for p in patterns
    )
    count = len(fetched)
    encoder.encode(["a dog"])
    assert len(fetched) == count  # the hub is not asked for every batch
