"""Words that the text encoder does not read are named."""

from __future__ import annotations

import torch

from lumiere.text import load_text_encoder
from lumiere.text.lost_words import find_losses, notes


def test_cut_and_unknown_words_are_found_and_named():
    encoder = load_text_encoder("minilm", 8)
    plain, cut, odd = "a red fox runs", "a red fox runs over a hill and a brook", "a 🦄 and 鯨 swim"
    losses = find_losses([plain, cut, odd, cut], encoder)
    assert set(losses) == {cut, odd}
    assert losses[cut].num_cut == 12 - 8 and losses[cut].unknown == ()
    assert losses[odd].unknown == ("🦄", "鯨")
    long, strange = notes(losses, encoder)
    assert long.startswith("1 sentences are longer than 8 tokens") and cut in long
    assert "does not know (🦄 鯨)" in strange


def test_what_is_reported_is_what_the_encoder_ignores():
    encoder = load_text_encoder("minilm", 8)
    cut = "a red fox runs over a hill"
    states, _ = encoder.encode([cut + " and a brook", cut + " and a river"])
    assert torch.equal(states[0], states[1])
    assert not find_losses(["a red fox runs by"], encoder)
