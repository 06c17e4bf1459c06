"""Writes captions of clips with an image-to-text model of transformers.

A model that chats (LLaVA, SmolVLM, Qwen-VL, ...) gets all frames of a clip in one question. A model
that describes single pictures (BLIP, GIT, ViT-GPT2, ...) describes each frame, and the sentence
that has most words in common with the others is the clip's.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
from PIL import Image

from lumiere.data.video_io import code_version
from lumiere.errors import DataError, one_line
from lumiere.files import content_hash, is_file
from lumiere.hub_folders import SUFFIXES, find_folder
from lumiere.loading.silence import silent_transformers
from lumiere.plurals import shortened

QUESTION = "Describe what this video shows and how it moves, in one short sentence."
MAX_TOKENS = 48  # of a caption; a sentence that they cut off is dropped if another is whole
FILES = (*SUFFIXES, ".jinja")  # a chat template may have a file of its own
CURE = (
    "name a transformers model that describes pictures, such as "
    "Salesforce/blip-image-captioning-base"
)
LOAD_CURE = "get the whole folder again, with safetensors, or delete the setting that is at fault"


class TransformersCaptioner:
    """A model that `AutoModelForImageTextToText` loads, with greedy decoding in float32.

    It runs on a GPU if torch finds one. The frames of a clip are one batch, so that a caption does
    not depend on the clips beside it.

    Attributes:
        name: as the user names the model.
        identity: a hash over all that decides the captions; the key of the cache.
    """

    def __init__(self, source: str) -> None:
        """
        Args:
            source: a folder with config.json, the preprocessor, the tokenizer and safetensors, or
                the hub name of one. With HF_HUB_OFFLINE=1 only the hub's cache is used.

        Raises:
            DataError: if there is no such model, or it is no captioner, or it lacks weights,
                or it cannot describe a black clip.
        """
        patterns = [f"*{suffix}" for suffix in FILES]
        try:
            folder = find_folder(source, "a folder of a transformers model", patterns)
        except ValueError as error:
            raise DataError(str(error), cure=CURE) from None
        _check_type(folder, source)
        self.name = source
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            with torch.random.fork_rng(devices=[]), silent_transformers():
                self._load(folder)
                # Some models load and then want a template or places for the pictures.
                self.caption(np.zeros((2, 64, 64, 3), np.uint8))
        except DataError:
            raise
        except Exception as error:  # transformers raises many kinds
            problem = f"{source}: cannot be loaded as a captioner: {shortened(one_line(error))}"
            raise DataError(problem, cure=LOAD_CURE) from None
        self.identity = _identity(folder, self._device)

    def _load(self, folder: Path) -> None:
        import transformers  # takes seconds

        local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        processor = transformers.AutoProcessor.from_pretrained(folder, **local)
        self._chats = bool(getattr(processor, "chat_template", None)) and hasattr(
            processor, "image_processor"
        )
        if not hasattr(processor, "image_processor"):  # two parts, saved without a whole
            self._images = transformers.AutoImageProcessor.from_pretrained(folder, **local)
            self._words = transformers.AutoTokenizer.from_pretrained(folder, **local)
        else:
            self._images, self._words = processor.image_processor, processor.tokenizer
        self._processor = processor
        model, loaded = transformers.AutoModelForImageTextToText.from_pretrained(
            folder, **local, use_safetensors=True, dtype=torch.float32, output_loading_info=True
        )
        lacking = sorted([*loaded["missing_keys"], *map(str, loaded["mismatched_keys"])])
        if lacking:
            raise DataError(
                f"{folder}: weights are missing or have another shape ({len(lacking)} in all, such as "
                f"{lacking[0]})",
                cure="get the folder again",
            )
        self._model = model.to(self._device).eval().requires_grad_(False)

    @torch.inference_mode()
    def caption(self, frames: np.ndarray) -> str:
        """Describe a clip in a sentence; empty if the model has nothing to say.

        Args:
            frames: uint8 (n, h, w, 3), RGB.

        Raises:
            DataError: if the model fails.
        """
        pictures = [Image.fromarray(frame) for frame in frames]
        try:
            ids = self._answers(pictures) if self._chats else self._descriptions(pictures)
            texts = [self._text(row) for row in ids]
        except Exception as error:  # transformers raises many kinds
            problem = f"{self.name}: it cannot describe a clip: {shortened(one_line(error))}"
            raise DataError(problem, cure=CURE) from None
        return most_agreed([" ".join(text.replace("\0", " ").split()) for text in texts])

    def _descriptions(self, pictures: list[Image.Image]) -> torch.Tensor:
        """Return the tokens (n, length) of a sentence for each picture."""
        inputs = self._images(images=pictures, return_tensors="pt")
        return self._generate(pixel_values=inputs["pixel_values"])

    def _answers(self, pictures: list[Image.Image]) -> torch.Tensor:
        """Return the tokens (1, length) of the answer to one question with all pictures."""
        content = [{"type": "image", "image": picture} for picture in pictures]
        question = {"role": "user", "content": [*content, {"type": "text", "text": QUESTION}]}
        inputs = self._processor.apply_chat_template(
            [question],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        )
        return self._generate(**inputs)[:, inputs["input_ids"].shape[1] :]

    def _text(self, ids: torch.Tensor) -> str:
        """Return what tokens (length,) say; without the sentence at which the model was stopped,
        if there is one before it.
        """
        text = str(self._words.decode(ids, skip_special_tokens=True))
        stops = {
            *self._words.all_special_ids,
            *_numbers(self._model.generation_config.eos_token_id),
        }
        return text if len(ids) == 0 or int(ids[-1]) in stops else whole_sentences(text)

    def _generate(self, **inputs: torch.Tensor) -> torch.Tensor:
        moved = {name: value.to(self._device) for name, value in inputs.items()}
        return self._model.generate(
            **moved,
            do_sample=False,
            num_beams=1,
            num_return_sequences=1,
            max_new_tokens=MAX_TOKENS,
        )


def most_agreed(sentences: Sequence[str]) -> str:
    """Return the sentence that has most words in common with the others; of equal ones the first.

    Sentences without a word do not count.
    """
    words = [set(sentence.casefold().split()) for sentence in sentences]

    def agreement(i: int) -> float:
        return sum(
            len(words[i] & other) / len(words[i] | other)
            for j, other in enumerate(words)
            if j != i and other
        )

    candidates = [i for i in range(len(sentences)) if words[i]]
    return sentences[max(candidates, key=agreement)] if candidates else ""


def whole_sentences(text: str) -> str:
    """Return a text up to the end of its last whole sentence; all of it if it has none."""
    ends = [match.end() for match in re.finditer(r"[.!?](?=\s|$)", text)]
    return text[: ends[-1]] if ends else text


def _check_type(folder: Path, source: str) -> None:
    """Raise DataError unless a folder holds a model that turns pictures into text."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as TYPES,
    )

    file = folder / "config.json"
    if not is_file(file):
        raise DataError(f"{source}: no config.json in the folder", cure=CURE)
    try:
        model_type = json.loads(file.read_text(encoding="utf-8"))["model_type"]
    except (ValueError, KeyError, TypeError):
        raise DataError(f"{file}: not a configuration of transformers", cure=CURE) from None
    if model_type not in TYPES:
        raise DataError(
            f"{source}: a model of type {model_type!r}, which writes no text about pictures",
            cure=CURE,
        )


def _numbers(tokens: int | list[int] | None) -> list[int]:
    if tokens is None:
        return []
    return tokens if isinstance(tokens, list) else [tokens]


def _identity(folder: Path, device: str) -> str:
    """Return a hash over the files of a model, this code and the versions of the libraries."""
    import transformers

    paths = [path for path in sorted(folder.iterdir()) if path.suffix in FILES]
    parts = [f"{path.name} {content_hash(path)}" for path in paths]
    parts += [json.dumps(code_version(__name__)), device]
    parts += [torch.__version__, transformers.__version__, PIL.__version__]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
