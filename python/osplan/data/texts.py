"""Encodings of captions, kept under the caption as it stands in the annotation.

What cleans and encodes is the store's folder, not the name. Shape letters: L tokens, D text channels, P pooled channels.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from osplan.data.quality_sentences import training_caption
from osplan.data.selection import Chosen, ChosenClips
from osplan.data.tensor_store import Coverage, TensorStore, evenly, lossless
from osplan.data.views import caption_generator
from osplan.domain.stage import Stage


@dataclass(frozen=True)
class KeptText:
    """One caption as an encoder reads it."""

    states_LD: Tensor
    """Zero where no token stands."""
    mask_L: Tensor
    """1 where a token stands, int64."""
    pooled_P: Tensor | None


def text_name(caption: str) -> str:
    """What a caption is kept under."""
    return hashlib.blake2b(caption.encode(), digest_size=16).hexdigest()


class TextCache:
    """The kept captions of one way of reading them."""

    def __init__(self, store: TensorStore) -> None:
        self.store = store

    def find(self, caption: str) -> KeptText | None:
        """A caption's states as float32, or None."""
        parts = self.store.get(text_name(caption))
        if parts is None:
            return None
        mask_L, kept_ND = parts["mask"].long(), parts["states"].float()
        states_LD = torch.zeros(len(mask_L), kept_ND.shape[1])
        states_LD[: len(kept_ND)] = kept_ND
        return KeptText(states_LD, mask_L, parts["pooled"].float() if "pooled" in parts else None)

    def keep(self, caption: str, text: KeptText) -> None:
        """Keeps a caption up to its last token."""
        standing = text.mask_L.nonzero()
        count = int(standing[-1]) + 1 if len(standing) else 0
        parts = {"states": lossless(text.states_LD[:count].cpu()), "mask": text.mask_L.to(torch.uint8)}
        if text.pooled_P is not None:
            parts["pooled"] = lossless(text.pooled_P.cpu())
        self.store.put(text_name(caption), parts)


def clip_texts(chosen: Chosen, stage: Stage) -> list[str]:
    """Every text training may read for a clip whose captions are kept."""
    numbers = range(max(1, len(chosen.entry.captions)))
    return [
        training_caption(chosen.entry, number, stage.text.aesthetic_phrases, caption_generator(chosen, stage.data.seed, number))
        for number in numbers
    ]


def stage_texts(stage: Stage) -> list[str]:
    """The texts every stage reads beside captions: those of dropped captions, and its sample prompts."""
    sentences = [f"The {kind} showcases a scene with coherent and clear visuals." for kind in ("image", "video")]
    return list(dict.fromkeys(["", *(sentences if stage.text.default_caption_share else []), *stage.samples.prompts]))


def all_texts(clips: ChosenClips, stage: Stage) -> Iterator[str]:
    """Every text a stage may read, each once."""
    seen: set[bytes] = set()
    for texts in (stage_texts(stage), *(clip_texts(clips[place], stage) for place in range(len(clips)))):
        for text in texts:
            name = hashlib.blake2b(text.encode(), digest_size=16).digest()
            if name not in seen:
                seen.add(name)
                yield text


def text_coverage(cache: TextCache, clips: ChosenClips, stage: Stage, limit: int) -> Coverage:
    """How many of the texts of clips are kept; at most `limit` clips are looked at. The same text counts once."""
    kept = cache.store.names()
    places = evenly(len(clips), limit)
    names = {text_name(text) for text in stage_texts(stage)}
    for place in places:
        names |= {text_name(text) for text in clip_texts(clips[int(place)], stage)}
    wanted = len(names) if len(places) == len(clips) else round(len(names) * len(clips) / len(places))
    return Coverage(wanted, len(names), len(names & kept), 0, ())
