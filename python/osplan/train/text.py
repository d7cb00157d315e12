"""Captions to what a transformer reads: cleaned as the stage says, encoded once, remembered.

Shape letters: B captions, L tokens, D text channels, P pooled channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from osplan.data.captions import prepare_caption
from osplan.data.texts import KeptText, TextCache
from osplan.domain.errors import UserError
from osplan.domain.stage import Stage
from osplan.models.text_encoder import SHIPPED, TextEncoder, load_text_encoder
from osplan.train.architecture import pooled_channels

REMEMBERED_BYTES = 2 << 30
"""States of captions held in memory at once; over that all are let go."""
CLIP_LENGTH = 77
"""Tokens a CLIP text encoder reads."""
MULTILINGUAL = ("mt5", SHIPPED)


def keeps_chinese(encoder: str) -> bool:
    """Whether captions for an encoder keep their Chinese characters."""
    return any(name in encoder.lower() for name in MULTILINGUAL)


@dataclass(frozen=True)
class TextStates:
    """A batch of captions."""

    states_B1LD: Tensor
    mask_B1L: Tensor
    """1 where a token stands."""
    pooled_B1P: Tensor | None
    """One vector a caption, for the models that read it."""

    def joined(self, texts: int) -> "TextStates":
        """Captions that follow each other in groups of `texts` as one sample's texts: states (B, texts, L, D), mask (B, texts, L)."""
        return TextStates(
            self.states_B1LD.flatten(0, 1).unflatten(0, (-1, texts)), self.mask_B1L.flatten(0, 1).unflatten(0, (-1, texts)), None
        )

    def to(self, device: torch.device) -> "TextStates":
        """The same on a device."""
        pooled = None if self.pooled_B1P is None else self.pooled_B1P.to(device)
        return TextStates(self.states_B1LD.to(device), self.mask_B1L.to(device), pooled)


class Texts:
    """The text side of a stage."""

    def __init__(self, stage: Stage, device: torch.device, kept: TextCache | None = None) -> None:
        """With `kept`, encoders are loaded when the first caption is missing there, which may be never.

        Raises UserError TEXT_ENCODER where an encoder cannot be loaded or does not fit the model.
        """
        text = stage.text
        self.stage, self.device, self.clean, self.kept = stage, device, text.clean, kept
        self.quirk: Literal["mended", "upstream"] = stage.compat.captions
        self.keeps_chinese = keeps_chinese(text.encoder)
        self.reads_pooled = stage.model.class_ == "SparseUMMDiT"
        self.pooled_channels = pooled_channels(stage)
        self.encoder: TextEncoder | None = None
        self.second: TextEncoder | None = None
        if kept is None:
            self._load()
        self._known: dict[str, TextStates] = {}
        self._known_bytes = 0

    def _load(self) -> TextEncoder:
        text, device = self.stage.text, self.device
        encoder = load_text_encoder(text.encoder, channels=self.stage.model.text_channels, max_length=text.max_length, device=device)
        if self.reads_pooled and text.second_encoder is not None:
            self.second = load_text_encoder(text.second_encoder, channels=self.pooled_channels, max_length=CLIP_LENGTH, device=device)
        self.encoder = encoder
        return encoder

    def __call__(self, captions: Sequence[str]) -> TextStates:
        """States of captions, on the device."""
        if self._known_bytes > REMEMBERED_BYTES:
            self._known.clear()
            self._known_bytes = 0
        for caption in captions:
            if caption not in self._known:
                self._known[caption] = text = self._read(caption)
                self._known_bytes += text.states_B1LD.nbytes
        found = [self._known[caption] for caption in captions]
        pooled = [one.pooled_B1P for one in found if one.pooled_B1P is not None]
        return TextStates(
            torch.cat([one.states_B1LD for one in found]),
            torch.cat([one.mask_B1L for one in found]),
            torch.cat(pooled) if pooled else None,
        ).to(self.device)

    def _read(self, caption: str) -> TextStates:
        found = None if self.kept is None else self.kept.find(caption)
        if found is not None:
            pooled = None if found.pooled_P is None else found.pooled_P[None, None]
            return TextStates(found.states_LD[None, None], found.mask_L[None, None], pooled)
        text = self._encoded(caption)
        if self.kept is not None:
            pooled = None if text.pooled_B1P is None else text.pooled_B1P[0, 0]
            self.kept.keep(caption, KeptText(text.states_B1LD[0, 0], text.mask_B1L[0, 0], pooled))
        return text

    @torch.no_grad()
    def _encoded(self, caption: str) -> TextStates:
        """One caption alone, so that its last bits do not depend on which captions came together. Where no token stands states are zero."""
        encoder = self.encoder or self._load()
        cleaned = [prepare_caption(caption, self.keeps_chinese, self.quirk) if self.clean and caption else caption]
        states, mask = encoder(cleaned)
        pooled = self._pooled(cleaned, states, mask)
        standing = states * mask[..., None].to(states)
        return TextStates(standing.cpu(), mask.cpu(), None if pooled is None else pooled.cpu())

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
