"""Upstream's data rules rebuilt with our own: which clips are kept and at which size, frame counts, and resized pixels.

Two tables are not rules but plumbing that differs here by design, and are rebuilt from their definition: `collate` (padding and its
latent mask) and `sampler`, whose order upstream draws from torch's and Python's generators.
"""

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from osplan.data.annotations import ClipIndex
from osplan.data.columns import Place, columns_of
from osplan.data.decoding import Wanted, area_fitted, area_size, cropped_to_aspect, frame_places, resized
from osplan.data.selection import RULES, ChosenClips, Judged, Rules, area_fit, judge, whole_latents
from osplan.parity.case import Case, Handler, Outputs

UPSTREAM = Rules(
    needs_captions=True,
    frames=93,
    height=352,
    width=640,
    fixed=False,
    max_pixels=352 * 640,
    min_pixels=None,
    multiple_of=32,
    fps=24.0,
    speed=1.0,
    frame_stride=1,
    drop_short=0.0,
    min_frames=29,
    max_duration_ratio=5.0,
    min_bucket_batches=0,
    time_stride=4,
    sequence=1,
    global_batch=1,
    seed=42,
)
"""The arguments a case leaves out, and the two limits that are not arguments upstream."""
REASONS = {
    "no-caption": ("no_cap", "no_cap"),
    "no-resolution": ("no_resolution", "no_resolution"),
    "under-multiple": ("vid_res_mismatch_stride", "img_res_mismatch_stride"),
    "too-few-pixels": ("vid_res_too_small", "img_res_too_small"),
    "aspect": ("vid_aspect_mismatch", "img_aspect_mismatch"),
    "too-long": ("too_long", "too_long"),
    "too-short": ("too_short", "too_short"),
    "under-min-frames": ("too_short", "too_short"),
}
"""Our rules by upstream's counters: for videos, for images."""


def upstream_rules(arguments: Mapping[str, Any]) -> Rules:
    """Rules from upstream's arguments. Its speed factor (v1.3.1) widens the longest duration and speeds nothing up."""
    names = {
        "num_frames": "frames",
        "train_fps": "fps",
        "max_height": "height",
        "max_width": "width",
        "max_hxw": "max_pixels",
        "min_hxw": "min_pixels",
        "drop_short_ratio": "drop_short",
        "hw_stride": "multiple_of",
        "sp_size": "sequence",
        "ae_stride_t": "time_stride",
        "force_resolution": "fixed",
    }
    changed = {names[name]: value for name, value in arguments.items() if name in names}
    # Upstream draws once per short clip; a case runs one clip, so the first draw of its seed decides.
    draw = float(torch.rand(1, generator=torch.Generator().manual_seed(42)))
    changed["drop_short"] = float(draw < changed.get("drop_short", 0.0))
    return replace(UPSTREAM, **changed, max_duration_ratio=5.0 * arguments.get("speed_factor", 1.0))


def index_of(rows: Sequence[Mapping[str, Any]]) -> ClipIndex:
    """An index of rows in upstream's format."""
    columns = columns_of(rows, "", Place(Path("case"), 0, lambda row: row))
    lengths = {"path_at": columns.paths, "caption_at": columns.captions}
    offsets = {name: np.concatenate([[0], np.cumsum([len(text) for text in texts])]) for name, texts in lengths.items()}
    numbers = {**columns.numbers, **offsets, "root": np.zeros(len(rows), np.int32)}
    return ClipIndex([""], numbers, *(np.frombuffer(b"".join(texts), np.uint8) for texts in (columns.paths, columns.captions)))


def _item(item: Mapping[str, Any]) -> dict[str, Any]:
    meta, arguments = item["meta"], item["args"]
    index = index_of([meta])
    judged = judge(index.columns, upstream_rules(arguments))
    return {"meta": meta, "args": arguments, "result": _result(index, judged)}


def _result(index: ClipIndex, judged: Judged) -> dict[str, Any]:
    rule = RULES[judged.rule[0]]
    if rule != "kept":
        return {"kept": False, "reason": [REASONS[rule][int(index.columns["is_image"][0])]]}
    clip = ChosenClips(index, judged, np.zeros(1, np.int64))[0]
    places = frame_places(clip.entry, clip.every, 0, clip.bucket[0])
    frames, height, width = clip.bucket
    return {"kept": True, "frames": frames, "height": height, "width": width, "first_indices": list(places[:6]), "last_index": places[-1]}


def _frame_counts(table: Mapping[str, Any]) -> dict[str, Any]:
    rules = replace(UPSTREAM, time_stride=table["vae_stride_t"], sequence=table["sp_size"])
    asked = np.array([count for count, _ in table["counts"]])
    frames = whole_latents(asked, rules)
    kept = np.where(frames >= rules.min_frames, frames, -1)
    return {**table, "counts": [[int(count), int(frame)] for count, frame in zip(asked, kept, strict=True)]}


def _area_fit(table: Mapping[str, Any]) -> dict[str, Any]:
    height, width = (int(side[0]) for side in area_fit(np.array([table["height"]]), np.array([table["width"]]), table["max_hxw"]))
    stride = table["stride"]
    return {**table, "resized": [height, width], "sample": [height // stride * stride, width // stride * stride]}


def _collate(table: Mapping[str, Any]) -> dict[str, Any]:
    """Shapes after padding to whole patches, and the latent cells that hold a clip rather than padding."""
    sizes, arguments = table["sizes"], table["args"]
    stride, stride_t = arguments["ae_stride"], arguments["ae_stride_t"]
    is_one_shape = arguments["group_data"] or arguments["train_batch_size"] == 1
    largest = [max(size[side] for size in sizes) for side in range(3)]
    if not is_one_shape:
        largest = [arguments["num_frames"], arguments["max_height"], arguments["max_width"]]
    patch_t, patch = stride_t * arguments["patch_size_t"], stride * arguments["patch_size"]
    frames = math.ceil((largest[0] - 1 + stride_t) / patch_t) * patch_t + 1 - stride_t
    height, width = (math.ceil(side / patch) * patch for side in largest[1:])
    valid = [[math.ceil((t - 1) / stride_t) + 1, math.ceil(h / stride), math.ceil(w / stride)] for t, h, w in sizes]
    return {
        "sizes": sizes,
        "args": arguments,
        "pixel_shape": [len(sizes), 3, frames, height, width],
        "mask_shape": [len(sizes), (frames - 1) // stride_t + 1, height // stride, width // stride],
        "mask_valid": valid,
        "mask_sum": [math.prod(cells) for cells in valid],
    }


def _sampler(table: Mapping[str, Any]) -> dict[str, Any]:
    """Upstream's order from its two generators: shapes by falling size, mega-batches of all ranks, those shuffled."""
    torch_draws, draws = torch.Generator().manual_seed(42), random.Random(table["random_seed"])
    shapes = [name for name, count in table["lengths"] for _ in range(count)]
    size, world = table["batch_size"], table["world"]

    def permuted(items: Sequence[int]) -> list[int]:
        return [items[place] for place in torch.randperm(len(items), generator=torch_draws).tolist()]

    order = (
        permuted(range(len(shapes)))
        if not table["group"]
        else [
            place
            for name in sorted(dict.fromkeys(shapes), key=lambda name: -shapes.count(name))
            for place in permuted([place for place, shape in enumerate(shapes) if shape == name])
        ]
    )
    together = size * world
    batches = [_split(order[first : first + together], world, size, draws) for first in range(0, len(order), together)]
    batches = [batches[place] for place in permuted(range(len(batches)))]
    if table["group"]:
        batches = [[_of_one_shape(batch, shapes, draws) for batch in ranks] for ranks in batches]
    return {**table, "indices": [place for ranks in batches for batch in ranks for place in batch]}


def _split(places: Sequence[int], world: int, size: int, draws: random.Random) -> list[list[int]]:
    """Batches of every rank; a short one is filled with repeats of its own or of another rank's batch."""
    ranks: list[list[int]] = []
    for rank in range(world):
        batch = list(places[rank::world])
        if batch:
            batch += [draws.choice(batch) for _ in range(size - len(batch))] if len(batch) < size else []
        else:
            batch = draws.choice(ranks)
        ranks.append(batch)
    return ranks


def _of_one_shape(batch: Sequence[int], shapes: Sequence[str], draws: random.Random) -> list[int]:
    counts: dict[str, int] = {}
    for place in dict.fromkeys(batch):
        counts.setdefault(shapes[place], 0)
    for place in batch:
        counts[shapes[place]] += 1
    if len(counts) == 1:
        return list(batch)
    common = sorted(counts.items(), key=lambda item: item[1])[-1][0]
    kept = [place for place in dict.fromkeys(batch) if shapes[place] == common]
    return kept + [draws.choice(kept) for _ in range(len(batch) - len(kept))]


def _pixels(case: Case) -> dict[str, Tensor]:
    params = case.spec["params"]
    bytes_TCHW = case.inputs["pixels"].to(torch.uint8)
    pixels_TCHW = bytes_TCHW.float() / 255
    height, width = area_size(bytes_TCHW.shape[-2], bytes_TCHW.shape[-1], params["max_hxw"])
    stride, fixed = params["stride"], params["force"]
    wanted = Wanted("case", (0,), None, height // stride * stride, width // stride * stride, params["max_hxw"], None)
    return {
        "area_resized": resized(pixels_TCHW, height, width),
        "area_resized_cropped": area_fitted(pixels_TCHW, wanted) * 2 - 1,
        "force_resized": resized(cropped_to_aspect(pixels_TCHW, fixed[0], fixed[1]), fixed[0], fixed[1]) * 2 - 1,
        "inpaint_uint8_area": resized(bytes_TCHW, height, width),
    }


def data_rules_case(case: Case) -> Outputs:
    """Every table of the data rules, and the four resized clips."""
    tables = {f"table.{name}": [TABLES[name](row) for row in rows] for name, rows in case.spec["tables"].items() if name in TABLES}
    return {**tables, **(_pixels(case) if "pixels" in case.inputs else {})}


TABLES = {"items": _item, "frame_count": _frame_counts, "area_fit": _area_fit, "collate": _collate, "sampler": _sampler}
HANDLERS: dict[str, Handler] = {"T2V_dataset": data_rules_case}
"""By the class name that opens a case's `source.cls`."""
