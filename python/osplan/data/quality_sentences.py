"""Sentences on quality that captions of clips with an aesthetic score get, word for word as published weights read them."""

import os
from typing import Literal

import numpy as np

from osplan.data.columns import IMAGE_ENDINGS, Entry

LOW_SCORE, HIGH_SCORE = 4.25, 5.75
"""At or beyond these aesthetic scores a caption gets a sentence on quality."""

_VIDEO_HIGH = (
    "This video has a high aesthetic quality.",
    "The beauty of this video is exceptional.",
    "This video scores high in aesthetic value.",
    "With its harmonious colors and balanced composition.",
    "This video ranks highly for aesthetic quality",
    "The artistic quality of this video is excellent.",
    "This video is rated high for beauty.",
    "The aesthetic quality of this video is impressive.",
    "This video has a top aesthetic score.",
    "The visual appeal of this video is outstanding.",
)
_VIDEO_LOW = (
    "This video has a low aesthetic quality.",
    "The beauty of this video is minimal.",
    "This video scores low in aesthetic appeal.",
    "The aesthetic quality of this video is below average.",
    "This video ranks low for beauty.",
    "The artistic quality of this video is lacking.",
    "This video has a low score for aesthetic value.",
    "The visual appeal of this video is low.",
    "This video is rated low for beauty.",
    "The aesthetic quality of this video is poor.",
)
_IMAGE_HIGH = (
    "This image has a high aesthetic quality.",
    "The beauty of this image is exceptional",
    "This photo scores high in aesthetic value.",
    "With its harmonious colors and balanced composition.",
    "This image ranks highly for aesthetic quality.",
    "The artistic quality of this photo is excellent.",
    "This image is rated high for beauty.",
    "The aesthetic quality of this image is impressive.",
    "This photo has a top aesthetic score.",
    "The visual appeal of this image is outstanding.",
)
_IMAGE_LOW = tuple(sentence.replace("video", "image") for sentence in _VIDEO_LOW)


def quality_sentences(score: float, kind: Literal["video", "image"]) -> tuple[str, ...]:
    """The sentences published weights were trained with at an aesthetic score; none for a middling one."""
    if score <= LOW_SCORE:
        return _VIDEO_LOW if kind == "video" else _IMAGE_LOW
    if score >= HIGH_SCORE:
        return _VIDEO_HIGH if kind == "video" else _IMAGE_HIGH
    return ()


def with_quality(caption: str, score: float, kind: Literal["video", "image"], place: int, share: float) -> str:
    """A caption with the sentence at `place` of its score's list: behind it for a share in [0, 0.5), before it else."""
    sentences = quality_sentences(score, kind)
    if not sentences:
        return caption
    sentence = sentences[place % len(sentences)]
    return f"{caption} {sentence}" if share < 0.5 else f"{sentence} {caption}"


def training_caption(entry: Entry, number: int, with_sentences: bool, rng: np.random.Generator) -> str:
    """One of a clip's captions, with a sentence on quality drawn for its aesthetic score where sentences are wanted.

    Empty where the clip has no caption. Draws only for a score that has sentences.
    """
    caption = entry.captions[number] if entry.captions else ""
    if not with_sentences or entry.aesthetic is None or not caption:
        return caption
    kind = "image" if os.path.splitext(entry.path)[1].lower() in IMAGE_ENDINGS else "video"
    sentences = quality_sentences(entry.aesthetic, kind)
    return with_quality(caption, entry.aesthetic, kind, int(rng.integers(len(sentences))), rng.random()) if sentences else caption
