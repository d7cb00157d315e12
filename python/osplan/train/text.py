"""Captions to what a transformer reads: cleaned as the stage says, encoded once, remembered.

Shape letters: B captions, L tokens, D text channels, P pooled channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from osplan.data.captions import prepare_caption
from osplan.domain.errors import UserError
from osplan.domain.stage import Stage
from osplan.models.text_encoder import SHIPPED, TextEncoder, load_text_encoder
from osplan.train.architecture import pooled_channels

REMEMBERED = 100_000
"""Captions whose states are kept."""
CLIP_LENGTH = 77
"""Tokens a CLIP text encoder reads."""
MULTILINGUAL = ("mt5", SHIPPED)


@dataclass(frozen=True)
class TextStates:
    """A batch of captions."""

    states_B1LD: Tensor
    mask_B1L: Tensor
    """1 where a token stands."""
    pooled_B1P: Tensor | None
    """One vector a caption, for the models that read it."""

    def to(self, device: torch.device) -> "TextStates":
        """The same on a device."""
        pooled = None if self.pooled_B1P is None else self.pooled_B1P.to(device)
        return TextStates(self.states_B1LD.to(device), self.mask_B1L.to(device), pooled)


class Texts:
    """The text side of a stage."""

    def __init__(self, stage: Stage, device: torch.device) -> None:
        """Raises UserError TEXT_ENCODER where an encoder cannot be loaded or does not fit the model."""
        text = stage.text
        self.device, self.clean = device, text.clean
        self.quirk: Literal["mended", "upstream"] = stage.compat.captions
        self.keeps_chinese = any(name in text.encoder.lower() for name in MULTILINGUAL)
        self.reads_pooled = stage.model.class_ == "SparseUMMDiT"
        self.pooled_channels = pooled_channels(stage)
        self.encoder = load_text_encoder(text.encoder, channels=stage.model.text_channels, max_length=text.max_length, device=device)
        self.second: TextEncoder | None = None
        if self.reads_pooled and text.second_encoder is not None:
            self.second = load_text_encoder(text.second_encoder, channels=self.pooled_channels, max_length=CLIP_LENGTH, device=device)
        self._known: dict[str, TextStates] = {}

    def __call__(self, captions: Sequence[str]) -> TextStates:
        """States of captions, on the device."""
        new = [caption for caption in dict.fromkeys(captions) if caption not in self._known]
        if new:
            if len(self._known) + len(new) > REMEMBERED:
                self._known.clear()
                new = list(dict.fromkeys(captions))
            self._remember(new)
        found = [self._known[caption] for caption in captions]
        pooled = [one.pooled_B1P for one in found if one.pooled_B1P is not None]
        return TextStates(
            torch.cat([one.states_B1LD for one in found]),
            torch.cat([one.mask_B1L for one in found]),
            torch.cat(pooled) if pooled else None,
        ).to(self.device)

    @torch.no_grad()
    def _remember(self, captions: Sequence[str]) -> None:
        cleaned = [prepare_caption(caption, self.keeps_chinese, self.quirk) if self.clean and caption else caption for caption in captions]
        states, mask = self.encoder(cleaned)
        pooled = self._pooled(cleaned, states, mask)
        for row, caption in enumerate(captions):
            at = slice(row, row + 1)
            one = None if pooled is None else pooled[at].cpu()
            self._known[caption] = TextStates(states[at].cpu(), mask[at].cpu(), one)

    def _pooled(self, captions: Sequence[str], states_B1LD: Tensor, mask_B1L: Tensor) -> Tensor | None:
        """The second encoder's vector; without one the mean over the tokens that stand."""
        if not self.reads_pooled:
            return None
        if self.second is None:
            weight = mask_B1L[..., None].to(states_B1LD)
            return (states_B1LD * weight).sum(2) / weight.sum(2).clamp_min(1)
        pooled = self.second(captions)[0]
        pooled_B1P = pooled.flatten(1, -2).mean(1, keepdim=True) if pooled.dim() > 3 else pooled
        if pooled_B1P.shape[-1] != self.pooled_channels:
            raise UserError(
                "TEXT_ENCODER",
                f"text.secondEncoder: expected {self.pooled_channels} pooled channels, got {pooled_B1P.shape[-1]}",
                "use the CLIP encoder the weights were trained with",
            )
        return pooled_B1P
