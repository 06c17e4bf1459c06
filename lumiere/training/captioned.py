"""Captioned clips and pictures in memory, as the base model's and the text-to-image model's trainings draw them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lumiere.data.clips import ClipStore, resize_video, to_model_range


@dataclass
class CaptionedClips:
    """Small clips, each with one or more captions; a picture is a clip of one frame."""

    videos: Tensor  # uint8 (n, 3, t, h, w)
    prompt_embeds: list[Tensor]  # per clip (k, l, d)
    prompt_masks: list[Tensor]  # per clip (k, l)
    null_embeds: Tensor  # (1, l, d), the empty sentence
    null_mask: Tensor  # (1, l)

    def __len__(self) -> int:
        """The number of clips."""
        return len(self.prompt_embeds)

    @classmethod
    def from_store(cls, store: ClipStore, size: int, null_text: tuple[Tensor, Tensor]) -> CaptionedClips:
        """All of a store's clips at `size` x `size` pixels."""
        videos, embeds, masks = [], [], []
        for i in range(len(store)):
            clip = store[i]
            small = resize_video(to_model_range(clip.frames).unsqueeze(0), size)[0]
            videos.append(((small + 1) * 127.5).round().clamp(0, 255).to(torch.uint8))
            embeds.append(torch.from_numpy(clip.prompt_embeds))
            masks.append(torch.from_numpy(clip.prompt_mask).long())
        empty = torch.zeros(0, 3, store.num_frames, size, size, dtype=torch.uint8)
        return cls(torch.stack(videos) if videos else empty, embeds, masks, *null_text)

    @classmethod
    def from_pictures(
        cls, pictures: np.ndarray, prompts: tuple[Tensor, Tensor], null_text: tuple[Tensor, Tensor]
    ) -> CaptionedClips:
        """Pictures uint8 (n, h, w, 3), each with the caption of its row: prompt_embeds (n, l, d) and mask (n, l)."""
        videos = torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous().unsqueeze(2)
        embeds, masks = prompts
        return cls(videos, list(embeds[:, None]), list(masks[:, None]), *null_text)

    def draw(
        self, clips: list[int], generator: torch.Generator, text_dropout: float = 0.0, one_frame: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        """A batch, each clip with one of its captions or, for a share of them, with the empty sentence.

        Args:
            clips: which clips, b of them.
            generator: what is drawn comes from it alone.
            text_dropout: probability of the empty sentence, for classifier-free guidance.
            one_frame: draw a frame of each clip.

        Returns:
            (b, 3, t, h, w), or (b, 3, h, w) where one frame is drawn, float32 in [-1, 1]; prompt_embeds (b, l, d)
            float32; mask (b, l).
        """

        def below(bound: int) -> int:
            return int(torch.randint(bound, (), generator=generator))

        pixels, embeds, masks = [], [], []
        for clip in clips:
            video = self.videos[clip]
            pixels.append(video[:, below(video.shape[1])] if one_frame else video)
            caption = below(len(self.prompt_embeds[clip]))
            embeds.append(self.prompt_embeds[clip][caption].float())
            masks.append(self.prompt_masks[clip][caption])
        dropped = torch.rand(len(clips), generator=generator) < text_dropout
        prompt_embeds = torch.where(dropped[:, None, None], self.null_embeds.float(), torch.stack(embeds))
        prompt_mask = torch.where(dropped[:, None], self.null_mask, torch.stack(masks))
        return torch.stack(pixels).float() / 127.5 - 1, prompt_embeds, prompt_mask
