"""Text states in place of sentences."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from lumiere.pipelines import LumierePipeline
from lumiere.pipelines.run_request import check_request, complete_request, run_request
from lumiere.requests import make_request
from tests.pipelines.conftest import WordHashEncoder
from tests.pipelines.test_modes import STEPS, seed

OPTIONS: dict[str, Any] = {"upscale": False, **STEPS}
STATES = torch.randn(1, 6, 8, generator=seed())


def test_states_give_what_their_sentences_give(pipe: LumierePipeline) -> None:
    encoder = pipe.text_encoder
    assert encoder is not None
    prompts = ["a cat", "a red dog runs"]
    by_text = pipe(
        prompts, negative_prompt="a fish", generator=seed(), num_videos_per_prompt=2, **OPTIONS
    ).frames
    (embeds, mask), (negative, negative_mask) = encoder.encode(prompts), encoder.encode(["a fish"])
    states = {"prompt_embeds": embeds, "prompt_attention_mask": mask}
    more = {"negative_prompt_embeds": negative, "negative_prompt_attention_mask": negative_mask}
    each = {"generator": None, "num_videos_per_prompt": 2, **OPTIONS}
    pipe.text_encoder = None
    alone = pipe(**states, **more, **{**each, "generator": seed()}).frames
    pipe.text_encoder = encoder
    mixed = [
        pipe(**states, negative_prompt="a fish", **{**each, "generator": seed()}).frames,
        pipe(prompts, **more, **{**each, "generator": seed()}).frames,
    ]
    for frames in (alone, *mixed):
        torch.testing.assert_close(frames, by_text, rtol=0, atol=1e-5)


def test_sentences_are_encoded_once(pipe: LumierePipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, calls = pipe.text_encoder, []
    assert encoder is not None
    plain = encoder.encode
    monkeypatch.setattr(encoder, "encode", lambda texts: calls.append(list(texts)) or plain(texts))
    options: dict[str, Any] = {
        "num_videos_per_prompt": 2,
        "num_inference_steps": 3,
        "ssr_steps": 2,
        "batch_size": 1,
    }
    pipe(["a cat", "a dog"], negative_prompt="a fish", num_frames=9, window_size=4, **options)
    assert calls == [["a cat", "a dog", "a fish", "a fish"]]


def test_negative_prompts_belong_to_their_prompts(pipe: LumierePipeline) -> None:
    prompts, negatives, options = (
        ["a cat", "a dog"],
        ["a fish", "a red bird"],
        {"guidance_scale": 4.0, **OPTIONS},
    )
    both = pipe(prompts, negative_prompt=negatives, generator=[seed(1), seed(2)], **options).frames
    for i in range(2):
        alone = pipe(
            prompts[i], negative_prompt=negatives[i], generator=seed(1 + i), **options
        ).frames
        torch.testing.assert_close(both[i : i + 1], alone, rtol=0, atol=5e-5)
        other = pipe(
            prompts[i], negative_prompt=negatives[1 - i], generator=seed(1 + i), **options
        ).frames
        assert not torch.allclose(alone, other, atol=1e-3)


def test_states_of_another_length_are_padded_and_padding_is_not_seen(pipe: LumierePipeline) -> None:
    encoder = pipe.text_encoder
    assert encoder is not None
    embeds, mask = encoder.encode(["a cat"])  # three tokens of six
    short = {"prompt_embeds": embeds[:, :3], "negative_prompt": "a fish"}
    assert mask.sum() == 3
    made = pipe(**short, generator=seed(), **OPTIONS).frames
    by_text = pipe("a cat", negative_prompt="a fish", generator=seed(), **OPTIONS).frames
    torch.testing.assert_close(made, by_text, rtol=0, atol=1e-4)


def test_without_guidance_no_negatives_are_needed(pipe: LumierePipeline) -> None:
    pipe.text_encoder = None
    frames = pipe(prompt_embeds=STATES, guidance_scale=1.0, generator=seed(), **OPTIONS).frames
    assert frames.shape == (1, 5, 3, 16, 16)
    with pytest.raises(
        ValueError, match="no text_encoder; pass negative_prompt_embeds too, or set guidance_scale"
    ):
        pipe(prompt_embeds=STATES, guidance_scale=2.0)
    with pytest.raises(
        ValueError, match=r"no text_encoder; set pipe\.text_encoder, or pass prompt_embeds"
    ):
        pipe("a cat")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompt": "a cat", "prompt_embeds": STATES}, "prompt or prompt_embeds: both are given"),
        ({}, "prompt or prompt_embeds: neither is given"),
        (
            {"prompt": "a", "negative_prompt": "b", "negative_prompt_embeds": STATES},
            "negative_prompt or negative_prompt_embeds: both are given",
        ),
        ({"prompt_embeds": STATES[0]}, r"prompt_embeds: expected a tensor \(b, n, d\)"),
        ({"prompt_embeds": "a cat"}, "prompt_embeds: expected a tensor"),
        ({"prompt_embeds": STATES[..., :4]}, "prompt_embeds is 4 wide; the model takes 8"),
        (
            {"prompt_embeds": STATES, "prompt_attention_mask": torch.ones(1, 5)},
            r"prompt_attention_mask: expected a te",
        ),
        (
            {"prompt_embeds": STATES, "prompt_attention_mask": torch.full((1, 6), -1.0)},
            r"prompt_attention_mask has values from -1 to -1; expected 1 = attend and 0",
        ),
        (
            {"prompt_embeds": STATES, "prompt_attention_mask": torch.full((1, 6), 0.5)},
            r"prompt_attention_mask has values from 0\.5 to 0\.5; expected 1",
        ),
        (
            {"prompt_embeds": STATES, "prompt_attention_mask": torch.zeros(1, 6)},
            "prompt_attention_mask attends to nothing; set 1",
        ),
        ({"prompt_embeds": STATES / 0}, "prompt_embeds are not finite; encode the prompt again"),
        ({"prompt": {"a cat": 1}}, r"prompt has .* in it; expected a sentence"),
        ({"prompt": {"a cat", "a dog"}}, r"prompt has .* in it; expected a sentence"),
        (
            {"prompt": "a", "prompt_attention_mask": torch.ones(1, 6)},
            "prompt_attention_mask belongs to prompt_embeds",
        ),
        (
            {"prompt_embeds": STATES, "negative_prompt_embeds": STATES.expand(3, -1, -1)},
            "has length 3 for 1 prompt",
        ),
    ],
)
def test_bad_states(pipe: LumierePipeline, arguments: dict[str, Any], message: str) -> None:
    pipe.unet.forward = None
    with pytest.raises(ValueError, match=message):
        pipe(**arguments)


def test_a_callback_sees_and_changes_the_tensors_that_it_asks_for(pipe: LumierePipeline) -> None:
    seen: list[set[str]] = []

    def callback(
        _: object, step: int, __: Tensor, tensors: dict[str, Tensor]
    ) -> dict[str, Tensor] | None:
        seen.append(set(tensors))
        return (
            {"prompt_embeds": torch.zeros_like(tensors["prompt_embeds"])}
            if step == 0 and len(seen) == 1
            else None
        )

    names = ["latents", "prompt_embeds", "conditioning"]
    plain = pipe("a cat", generator=seed(), **STEPS)
    made = pipe(
        "a cat",
        generator=seed(),
        callback_on_step_end=callback,
        callback_on_step_end_tensor_inputs=names,
        **STEPS,
    )
    assert seen == [set(names)] * 2  # super-resolution has not all of them
    assert not torch.equal(made.base_frames, plain.base_frames)
    for wrong in ("latents", ["x_t"]):
        with pytest.raises(
            ValueError,
            match=r"callback_on_step_end_tensor_inputs is .*; allowed: a list of latents, prompt",
        ):
            pipe("a cat", callback_on_step_end_tensor_inputs=wrong)
    with pytest.raises(
        ValueError, match=r"callback_on_step_end_tensor_inputs is .*; allowed: a list of latents$"
    ):
        pipe.upscaler()(
            torch.rand(2, 3, 16, 16), callback_on_step_end_tensor_inputs=["prompt_embeds"]
        )


def test_words_that_are_lost_are_told_as_in_diffusers(
    pipe: LumierePipeline, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(WordHashEncoder, "read_words", lambda _, text: (1 + len(text.split()), ()))
    pipe("a cat", **OPTIONS)
    assert caplog.messages == []
    long = "a cat that runs and runs"
    pipe(long, **OPTIONS)
    pipe.encode_prompt(long)
    note = f"1 sentence is longer than 6 tokens, and its end is not read: '{long}'"
    assert caplog.messages == [note] * 2
    caplog.clear()
    request = make_request({"prompt": long, "upscale": False, "steps": 1})
    assert check_request(pipe, request).notes == [note]
    run_request(pipe, complete_request(pipe, request, 2, 0), {})
    assert caplog.messages == []
