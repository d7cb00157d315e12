"""Captions to states: upstream's encoders through transformers, or the small one that ships.

Shape letters: B captions, L tokens, C text channels.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from osplan.domain.errors import UserError

SHIPPED = "bytes"
SHIPPED_SEED = 1_311


class TextEncoder(Protocol):
    """A frozen encoder."""

    def __call__(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """States (B, 1, L, C) and mask (B, 1, L), 1 where a token stands."""
        ...


class ByteEncoder(nn.Module):
    """Words as sums of their letters' random vectors, with their place: no weights to download, the same on every machine.

    A word's vector is a fixed random projection of its hash, so that different words are far apart and the same word is
    the same everywhere. Good for captions of a small vocabulary; it knows nothing of meaning.
    """

    def __init__(self, channels: int, max_length: int) -> None:
        super().__init__()
        self.channels, self.max_length = channels, max_length
        places = torch.arange(max_length)[:, None] / 10_000 ** (torch.arange(0, channels, 2)[None] / channels)
        self.register_buffer("places", torch.stack([places.sin(), places.cos()], dim=2).flatten(1)[:, :channels], persistent=False)
        self._vectors: dict[str, Tensor] = {}

    def _vector(self, word: str) -> Tensor:
        if word not in self._vectors:
            seed = int.from_bytes(hashlib.blake2b(f"{SHIPPED_SEED}/{word}".encode(), digest_size=8).digest(), "big") >> 1
            self._vectors[word] = torch.randn(self.channels, generator=torch.Generator().manual_seed(seed))
        return self._vectors[word]

    @torch.no_grad()
    def forward(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """States (B, 1, L, C) and mask (B, 1, L); every caption ends with an end token."""
        states = torch.zeros(len(captions), self.max_length, self.channels)
        mask = torch.zeros(len(captions), self.max_length, dtype=torch.long)
        for row, caption in enumerate(captions):
            words = [*caption.lower().split()[: self.max_length - 1], "</s>"]
            states[row, : len(words)] = torch.stack([self._vector(word) for word in words])
            mask[row, : len(words)] = 1
        places = self.get_buffer("places").to(states)
        return ((states + 0.5 * places) * mask[..., None])[:, None], mask[:, None]


class HubEncoder:
    """An encoder of the transformers package, from a local folder or the hub's cache."""

    def __init__(self, name: str, max_length: int, device: torch.device) -> None:
        from transformers import AutoTokenizer

        self.max_length, self.device = max_length, device
        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(name)
            self.model = _model_class(name).from_pretrained(name, dtype=torch.bfloat16 if device.type == "cuda" else torch.float32)
        except (OSError, ValueError) as cause:
            raise UserError(
                "TEXT_ENCODER",
                f"text.encoder: expected a local folder or a hub name with tokenizer and weights, got {name}: {str(cause).splitlines()[0]}",
                "download it first, or use `bytes`",
            ) from cause
        self.model.to(device).eval().requires_grad_(False)

    @torch.no_grad()
    def __call__(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """States (B, 1, L, C) and mask (B, 1, L), padded to the length upstream pads to."""
        tokens = self.tokenizer(
            list(captions),
            max_length=self.max_length,
            padding="max_length",
            truncation=True,
            add_special_tokens=True,
            return_attention_mask=True,
            return_tensors="pt",
        ).to(self.device)
        states = self.model(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask)[0]
        return states[:, None].float(), tokens.attention_mask[:, None]


def _model_class(name: str) -> Any:
    from transformers import CLIPTextModelWithProjection, T5EncoderModel, UMT5EncoderModel

    config = Path(name) / "config.json"
    kind = json.loads(config.read_text()).get("model_type", "") if config.is_file() else name.lower()
    if "umt5" in kind:
        return UMT5EncoderModel
    if "clip" in kind:
        return CLIPTextModelWithProjection
    return T5EncoderModel


def load_text_encoder(name: str, *, channels: int, max_length: int, device: torch.device) -> TextEncoder:
    """The encoder a stage names.

    Raises UserError TEXT_ENCODER where it cannot be loaded.
    """
    if name == SHIPPED:
        return ByteEncoder(channels, max_length)
    return HubEncoder(name, max_length, device)
