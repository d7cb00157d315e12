"""From annotations to batches, and from files to pixels, against upstream's way and a bare loop over PyAV.

A million entries as upstream's list and annotation files hold them: five shapes, some too long, short, small or without caption.
"""

import itertools
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import torch

from bench.group import Bench, Benchmark, Goal, Group, Measured
from bench.reference.data import batches_of, indexed
from bench.worker import Contestant, Task, contest, cpu_note, in_turns, walls
from osplan.data.annotations import open_index
from osplan.data.decoding import CENTRE, Wanted, pixels_of
from osplan.data.order import ClipOrder
from osplan.data.selection import select
from osplan.parity.datasets import UPSTREAM

ENTRIES = 1_000_000
QUICK_ENTRIES = 20_000
RANKS, PER_RANK = 64, 1
RULES = replace(UPSTREAM, min_bucket_batches=4, global_batch=RANKS * PER_RANK)
SIZES = ((720, 1280), (1080, 1920), (1280, 720), (480, 854), (1024, 1024), (200, 300))
FRAMES = (40, 61, 93, 150, 240, 900)
RATES = (24.0, 25.0, 30.0, 60.0)
CLIP_FRAMES = 29
CLIPS = {"720p": ((720, 1280), (352, 640)), "480p": ((480, 854), (256, 256))}
"""Size of the file, size wanted."""


def write_annotations(folder: Path, entries: int) -> Path:
    """A list file with one annotation of so many entries."""
    rng = np.random.default_rng(0)
    draws = zip(*(rng.integers(len(table), size=entries).tolist() for table in (SIZES, FRAMES, RATES)), strict=True)
    with open(folder / "clips.json", "w") as file:
        file.write("[")
        for number, (size, frames, rate) in enumerate(draws):
            height, width = SIZES[size]
            caption = "null" if number % 97 == 0 else f'"A red fox runs over fresh snow towards the camera, take {number}."'
            separator = "," if number else ""
            file.write(
                f'{separator}\n{{"path":"part{number % 100}/clip{number}.mp4","cap":{caption},"num_frames":{FRAMES[frames]},'
                f'"fps":{RATES[rate]},"resolution":{{"height":{height},"width":{width}}},"aesthetic":{4 + number % 30 / 10}}}'
            )
        file.write("]\n")
    listed = folder / "list.txt"
    listed.write_text(f"{folder},{folder / 'clips.json'}\n")
    return listed


def our_tasks(listed: Path) -> dict[str, Task]:
    """`index` builds, `reopen` is what every further rank does, `order` draws an epoch. Both ways end with the clips that are kept."""
    derived, epochs = listed.parent / "derived", itertools.count()

    def index() -> None:
        shutil.rmtree(derived, ignore_errors=True)
        select(open_index(listed, derived), RULES)

    def order() -> None:
        ClipOrder(buckets, RULES.global_batch, RULES.seed).batch(next(epochs), 0)

    buckets = select(open_index(listed, derived), RULES).chosen.buckets
    return {"index": index, "reopen": lambda: select(open_index(listed, derived), RULES), "order": order}


def reference_tasks(listed: Path) -> dict[str, Task]:
    """`index` and `order` as upstream does them, on every rank."""
    kept: list[list[str]] = []

    def index() -> None:
        kept[:] = [indexed(listed, RULES).shapes]

    return {"index": index, "order": lambda: batches_of(kept[0], RULES.global_batch, PER_RANK, RULES.seed)}


def write_clip(path: Path, size: tuple[int, int]) -> None:
    """Moving blocks as H.264, as many frames as a clip takes and some more."""
    height, width = size
    blocks = np.random.default_rng(0).integers(0, 255, (height // 8 + 20, width // 8 + 20, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=24)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(CLIP_FRAMES + 7):
            pixels = np.ascontiguousarray(blocks[2 * number : 2 * number + height, 3 * number : 3 * number + width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


def decoding_tasks(side: str, folder: Path) -> dict[str, Task]:
    """A task per clip: ours gives the wanted pixels, the bare loop arrays of whole frames, with nothing made of them."""
    torch.set_num_threads(1)

    def ours(path: str, size: tuple[int, int]) -> None:
        pixels_of(Wanted(path, tuple(range(CLIP_FRAMES)), None, *size, None, CENTRE), 60.0)

    def bare(path: str, _size: tuple[int, int]) -> None:
        with av.open(path) as container:
            for frame in itertools.islice(container.decode(video=0), CLIP_FRAMES):
                frame.to_ndarray(format="rgb24")

    way = ours if side == "ours" else bare
    return {name: lambda name=name, size=size: way(str(folder / f"{name}.mp4"), size) for name, (_, size) in CLIPS.items()}


def measure(bench: Bench) -> Iterator[Measured]:
    """Index, order, decoding."""
    yield from _index_and_order(bench)
    for name, (size, _) in CLIPS.items():
        write_clip(bench.scratch / f"{name}.mp4", size)
    sides = {side: Contestant(decoding_tasks, side, bench.scratch) for side in ("ours", "reference")}
    with contest(**sides):
        for name in CLIPS:
            series = in_turns(bench.rounds(15), sides, name)
            rates = {side: [1 / each.cpu for each in rounds] for side, rounds in series.items()}
            yield Measured(name=f"decode-{name}", series=rates, note="clips per second of processor time")


def _index_and_order(bench: Bench) -> Iterator[Measured]:
    folder = bench.scratch / "data"
    folder.mkdir()
    listed = write_annotations(folder, QUICK_ENTRIES if bench.quick else ENTRIES)
    sides = {"ours": Contestant(our_tasks, listed), "reference": Contestant(reference_tasks, listed)}
    with contest(**sides):
        # Once: upstream's takes long enough to tell.
        built = in_turns(1, sides, "index", warm=False)
        yield Measured(name="index", series=walls(built), note=f"seconds; {cpu_note(built)}")
        reopened = [sides["ours"].run("reopen") for _ in range(3)]
        reference = [each.wall for each in built["reference"]]
        yield Measured(
            name="index-reopened", series={"ours": [min(each.wall for each in reopened)], "reference": reference}, note="seconds"
        )
        ordered = in_turns(bench.rounds(2), sides, "order", warm=False)
        yield Measured(name="order", series=walls(ordered), note=f"seconds; {cpu_note(ordered)}")
    shutil.rmtree(folder)


GROUP = Group(
    [
        Benchmark(name="index", what="1 M entries read and judged, index written, against upstream's way", goal=Goal("most", 0.2)),
        Benchmark(name="index-reopened", what="the same by every further rank, against upstream's way", goal=Goal("most", 0.01)),
        Benchmark(name="order", what=f"order of an epoch of them for {RANKS} ranks, against upstream's", goal=Goal("most", 0.05)),
        *(
            Benchmark(
                name=f"decode-{name}",
                what=f"{CLIP_FRAMES} frames {size[1]}×{size[0]} to {wanted[1]}×{wanted[0]}, against a bare PyAV loop to whole frames",
                goal=Goal("least", 0.8),
            )
            for name, (size, wanted) in CLIPS.items()
        ),
    ],
    measure,
)
