"""Words that the text encoder does not read are named."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import Unigram
from tokenizers.pre_tokenizers import Metaspace
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from lumiere.text import TextEncoder, load_text_encoder
from lumiere.text.encoder import read_with_tokenizer
from lumiere.text.lost_words import find_losses, notes
from tests.text.pipelines import save_if


def test_cut_and_unknown_words_are_found_and_named():
    encoder = load_text_encoder("minilm", 8)
    plain, cut, odd = "a red fox runs", "a red fox runs over a hill and a brook", "a 🦄 and 鯨 swim"
    losses = find_losses([plain, cut, odd, cut], encoder)
    assert set(losses) == {cut, odd}
    assert losses[cut].num_cut == 12 - 8 and losses[cut].unknown == ()
    assert losses[odd].unknown == ("🦄", "鯨")
    long, strange = notes(losses, encoder)
    assert (
        long.startswith("1 sentence is longer than 8 tokens, and its end is not read:")
        and cut in long
    )
    assert strange.startswith("1 sentence holds words") and "does not know (🦄 鯨)" in strange
    other = "a red fox runs over a hill and a river"
    both = notes(find_losses([cut, other], encoder), encoder)
    assert both[0].startswith("2 sentences are longer than 8 tokens, and their ends are not read:")


def test_what_is_reported_is_what_the_encoder_ignores():
    encoder = load_text_encoder("minilm", 8)
    cut = "a red fox runs over a hill"
    states, _ = encoder.encode([cut + " and a brook", cut + " and a river"])
    assert torch.equal(states[0], states[1])
    assert not find_losses(["a red fox runs by"], encoder)


def test_words_are_counted_as_the_encoder_reads_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """T5's pipeline lowers sentences, and a relative folder is that of the current folder."""
    save_if(tmp_path / "IF")
    encoder = load_text_encoder(f"diffusers:{tmp_path / 'IF'}", 4)
    assert not find_losses([" A Cat runs "], encoder)
    assert set(find_losses(["A Cat sleeps", "a cat runs a"], encoder)) == {
        "A Cat sleeps", "a cat runs a",
    }  # fmt: skip
    for name, absent in (("IF", None), ("other/IF", "cat")):
        folder = tmp_path / name
        if absent is not None:
            save_if(folder)
            words = folder / "tokenizer" / "tokenizer.json"
            words.write_text(words.read_text().replace(f'"{absent}"', '"whale"'))
        monkeypatch.chdir(folder.parent)
        found = find_losses(["a cat"], load_text_encoder("diffusers:IF", 4))
        assert [loss.unknown for loss in found.values()] == ([(absent,)] if absent else [])


def test_a_tokenizer_of_pieces_names_what_it_does_not_know() -> None:
    """T5's is one: it returns an unknown piece by its own characters."""
    pieces = [("<unk>", 0.0), ("▁", -5.0), ("▁a", -1.0), ("▁cat", -1.0), ("c", -5.0)]
    plain = Tokenizer(Unigram(pieces, unk_id=0))
    plain.pre_tokenizer = Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, unk_token="<unk>")
    assert tokenizer.tokenize("鯨") == ["▁", "鯨"]
    assert read_with_tokenizer(tokenizer, "a 鯨 cat a 鯨") == (7, ("鯨",))


class Nameless(TextEncoder):
    """A user's own, with what a pipeline needs of it alone."""

    embed_dim = 8

    def _token_states(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        shape = (len(texts), self.max_tokens)
        return torch.zeros(*shape, self.embed_dim), torch.ones(shape)


def test_an_encoder_of_another_kind_loses_nothing_that_is_found() -> None:
    encoder = Nameless(4)
    assert notes(find_losses(["a cat that runs and runs"], encoder), encoder) == []


LONG = "a red  fox runs over a hill and a brook"


@pytest.mark.parametrize(
    ("text", "read"),
    [
        (LONG, "a red  fox runs over a"),
        ("a red fox runs", "a red fox runs"),
        ("a fox runs over the hill.", "a fox runs over the hill"),
        ("hello,world,hello,world,hello", "hello,world,hello,"),
        ("犬が走る日本海の山の上", "犬が走る日本"),
        ("  ", "  "),
    ],
)
def test_the_part_that_is_read_gives_the_same_states(text: str, read: str) -> None:
    encoder = load_text_encoder("minilm", 8)
    assert text[: encoder.num_read(text)] == read
    states, _ = encoder.encode([text, read])
    assert torch.equal(states[0], states[1])


def test_a_word_may_be_cut_in_two() -> None:
    encoder, word = load_text_encoder("minilm", 8), "antidisestablishmentarianistically"
    read = word[: encoder.num_read(word)]
    assert read and read != word and find_losses([word], encoder)
    assert not find_losses([read], encoder)


def test_what_is_read_is_found_with_other_tokenizers(tmp_path: Path) -> None:
    """T5's pipeline strips the sentence; some tokenizers do not say where their tokens lie."""
    save_if(tmp_path / "IF")
    encoder = load_text_encoder(f"diffusers:{tmp_path / 'IF'}", 4)
    assert encoder.num_read("  A Cat runs a dog") == len("  A Cat runs")
    # In lower case, "İ" has two characters.
    assert encoder.num_read("İ A Cat runs a dog") == len("İ A Cat ")
    assert encoder._search_cut("A Cat runs a dog") == len("A Cat runs ")
    assert Nameless(4).num_read(LONG) == len(LONG)
