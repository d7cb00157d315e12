from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from osplan.data.columns import Entry
from osplan.data.quality_sentences import quality_sentences, training_caption

CLIP = Entry("a/clip.mp4", ("a dog runs", "a dog"), True, 480, 640, 93, 24.0, 6.0, 0, None)


def drawn(entry: Entry, count: int = 400, number: int = 0, with_sentences: bool = True) -> list[str]:
    rng = np.random.default_rng(3)
    return [training_caption(entry, number, with_sentences, rng) for _ in range(count)]


@pytest.mark.parametrize(
    ("score", "kind", "path"), [(6.0, "video", "c.mp4"), (2.0, "video", "c.mp4"), (5.75, "image", "c.JPG"), (4.25, "image", "c.png")]
)
def test_a_clip_with_a_score_gets_each_of_its_sentences_before_and_behind_its_caption(score, kind, path):
    found = Counter(drawn(replace(CLIP, path=path, aesthetic=score)))
    sentences = quality_sentences(score, kind)
    assert set(found) == {f"a dog runs {sentence}" for sentence in sentences} | {f"{sentence} a dog runs" for sentence in sentences}
    behind = sum(count for text, count in found.items() if text.startswith("a dog runs"))
    assert 150 < behind < 250


@pytest.mark.parametrize("change", [{"aesthetic": None}, {"aesthetic": 5.0}, {"captions": ()}])
def test_middling_scores_and_clips_without_score_or_caption_get_none(change):
    entry = replace(CLIP, **change)
    assert set(drawn(entry)) == {entry.captions[0] if entry.captions else ""}


def test_sentences_can_be_left_out_and_the_caption_is_the_one_asked_for():
    assert set(drawn(CLIP, with_sentences=False)) == {"a dog runs"}
    assert all("a dog" in text and "runs" not in text for text in drawn(CLIP, number=1))
