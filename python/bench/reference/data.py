"""Upstream's way from annotations to the order of clips: a dict per entry through every rule, frame lists for all, nested batches.

Written from the rules of Open-Sora-Plan v1.3.1, shapes that keep their aspect. Each rank does all of it, at each start.
"""

import json
import math
import random
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from osplan.data.selection import Rules


@dataclass(frozen=True)
class ReferenceIndex:
    """Entries that are kept, and the shape of each as upstream writes it, `93x352x640`."""

    entries: list[dict[str, Any]]
    shapes: list[str]


def indexed(list_file: Path, rules: Rules) -> ReferenceIndex:
    """Reads every annotation of a list file and keeps what the rules keep."""
    random_state = random.Random(rules.seed)
    entries, shapes = [], []
    for line in list_file.read_text().splitlines():
        root, annotation = line.split(",")
        for entry in json.loads(Path(annotation).read_text()):
            entry["path"] = f"{root}/{entry['path']}"
            shape = _shape(entry, rules, random_state)
            if shape is not None:
                entries.append(entry)
                shapes.append(shape)
    counts = Counter(shapes)
    least = rules.min_bucket_batches * rules.global_batch
    kept = [(entry, shape) for entry, shape in zip(entries, shapes, strict=True) if counts[shape] >= least]
    by_shape: dict[str, list[int]] = {}
    for place, (_, shape) in enumerate(kept):
        by_shape.setdefault(shape, []).append(place)
    return ReferenceIndex([entry for entry, _ in kept], [shape for _, shape in kept])


def _shape(entry: dict[str, Any], rules: Rules, random_state: random.Random) -> str | None:
    if entry.get("cap") is None:
        return None
    resolution = entry.get("resolution") or {}
    height, width = resolution.get("height"), resolution.get("width")
    if not height or not width:
        return None
    if height * width > rules.largest_area:
        scale = math.sqrt(rules.largest_area / (height * width))
        height, width = int(height * scale), int(width * scale)
    height, width = height // rules.multiple_of * rules.multiple_of, width // rules.multiple_of * rules.multiple_of
    if height <= 0 or width <= 0 or height * width < rules.smallest_area or not 0.5 <= height / width <= 2:
        return None
    resolution.update(sample_height=height, sample_width=width)
    places = [0] if entry["path"].endswith(".jpg") else _frames(entry, rules, random_state)
    if places is None:
        return None
    entry["sample_frame_index"] = places
    return f"{len(places)}x{height}x{width}"


def _frames(entry: dict[str, Any], rules: Rules, random_state: random.Random) -> list[int] | None:
    rate, count = entry.get("fps", 24), entry["num_frames"]
    if count > rules.max_duration_ratio * (rules.frames * rate / rules.fps * rules.speed):
        return None
    every = 1.0 if abs(rate - rules.fps) < 0.1 else rate / rules.fps
    first = entry.get("cut", [0])[0]
    places = np.arange(first, first + count, every).astype(int)
    places = places[places < first + count]
    if len(places) < rules.frames and random_state.random() < rules.drop_short:
        return None
    if len(places) > rules.frames:
        begin = random_state.randrange(len(places) - rules.frames)
        places = places[begin : begin + rules.frames]
    length = len(places)
    while length >= rules.min_frames and (length - 1) % rules.time_stride:
        length -= 1
    return places[:length].tolist() if length >= rules.min_frames else None


def batches_of(shapes: list[str], global_batch: int, per_rank: int, seed: int) -> list[int]:
    """The order of an epoch: shuffled inside each shape, cut into batches over all ranks, batches shuffled."""
    generator, random_state = torch.Generator().manual_seed(seed), random.Random(seed)
    groups: dict[str, list[int]] = {}
    for place, shape in enumerate(shapes):
        groups.setdefault(shape, []).append(place)
    order: list[int] = []
    for group in sorted(groups.values(), key=len, reverse=True):
        order.extend(group[place] for place in torch.randperm(len(group), generator=generator).tolist())
    mega = [order[start : start + global_batch] for start in range(0, len(order), global_batch)]
    ranks = [_over_ranks(batch, global_batch // per_rank, per_rank, random_state) for batch in mega]
    ranks = [ranks[place] for place in torch.randperm(len(ranks), generator=generator).tolist()]
    ranks = [[_of_one_shape(batch, shapes, random_state) for batch in each] for each in ranks]
    return [place for each in ranks for batch in each for place in batch]


def _over_ranks(batch: list[int], ranks: int, per_rank: int, random_state: random.Random) -> list[list[int]]:
    chunks: list[list[int]] = []
    for rank in range(ranks):
        chunk = batch[rank::ranks]
        if not chunk:
            chunk = random_state.choice(chunks)
        chunks.append(chunk + [random_state.choice(chunk) for _ in range(per_rank - len(chunk))])
    return chunks


def _of_one_shape(batch: list[int], shapes: list[str], random_state: random.Random) -> list[int]:
    counts = Counter(shapes[place] for place in batch)
    if len(counts) > 1:
        most = counts.most_common(1)[0][0]
        same = [place for place in batch if shapes[place] == most]
        batch = same + [random_state.choice(same) for _ in range(len(batch) - len(same))]
    assert all(shapes[place] == shapes[batch[0]] for place in batch)
    return batch
