"""From annotations to batches, and from files to pixels, against upstream's way and a bare loop over PyAV; the check of a data set.

A million entries as upstream's list and annotation files hold them: five shapes, some too long, short, small or without caption.
"""

import itertools
import os
import shutil
import subprocess
import time
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
from osplan.data.decoders import Decoders
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
ROOT = Path(__file__).parents[3]
CHECKED_STAGE = "v1.3/t2v-3"
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
    """A task per clip: ours gives the wanted pixels, the bare loop arrays of whole frames, with nothing made of them.

    `process` is ours by a decoding process, as training has it.
    """
    torch.set_num_threads(1)
    decoders = Decoders(1, 60.0)

    def wanted(path: str, size: tuple[int, int]) -> Wanted:
        return Wanted(path, tuple(range(CLIP_FRAMES)), None, *size, None, CENTRE)

    def ours(path: str, size: tuple[int, int]) -> None:
        pixels_of(wanted(path, size), 60.0)

    def process(path: str, size: tuple[int, int]) -> None:
        decoders.decode(wanted(path, size))

    def bare(path: str, _size: tuple[int, int]) -> None:
        with av.open(path) as container:
            for frame in itertools.islice(container.decode(video=0), CLIP_FRAMES):
                frame.to_ndarray(format="rgb24")

    way = {"ours": ours, "process": process, "reference": bare}[side]
    return {name: lambda name=name, size=size: way(str(folder / f"{name}.mp4"), size) for name, (_, size) in CLIPS.items()}


def measure(bench: Bench) -> Iterator[Measured]:
    """Index, order, check, decoding."""
    yield from _index_and_order(bench)
    yield from _decoding(bench)


def _decoding(bench: Bench) -> Iterator[Measured]:
    for name, (size, _) in CLIPS.items():
        write_clip(bench.scratch / f"{name}.mp4", size)
    sides = {side: Contestant(decoding_tasks, side, bench.scratch) for side in ("ours", "process", "reference")}
    with contest(**sides):
        for name in CLIPS:
            series = in_turns(bench.rounds(25), sides, name)
            rates = {side: [1 / each.cpu for each in rounds] for side, rounds in series.items()}
            process, note = rates.pop("process"), "clips per second of processor time"
            yield Measured(name=f"decode-{name}", series=rates, note=note)
            yield Measured(name=f"decode-{name}-process", series={**rates, "ours": process}, note=f"{note} of both processes")


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
    yield from _check(bench, listed)
    shutil.rmtree(folder)


def _check(bench: Bench, listed: Path) -> Iterator[Measured]:
    """The command, on one core, with nothing built before."""
    command = ["node", str(ROOT / "bin" / "stagewright.mjs"), "data", "check", CHECKED_STAGE, "--data", str(listed), "--json"]
    rounds = [_on_one_core(command) for _ in range(bench.rounds(3))]
    megabytes = (listed.parent / "clips.json").stat().st_size / 1e6
    yield Measured(name="check", series={"ours": [seconds for seconds, _ in rounds]}, note="the whole command, by the clock")
    peaks = [peak for _, peak in rounds]
    yield Measured(name="check-memory", series={"ours": peaks, "reference": [megabytes] * len(peaks)}, note="MB of its largest process")


def _on_one_core(command: list[str]) -> tuple[float, float]:
    """Seconds a command takes on one core, and the most megabytes that one of its processes held."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    finally:
        os.sched_setaffinity(0, cores)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
    return time.perf_counter() - started, used.ru_maxrss * 1024 / 1e6


GROUP = Group(
    [
        Benchmark(name="index", what="1 M entries read and judged, index written, against upstream's way", goal=Goal("most", 0.2)),
        Benchmark(name="index-reopened", what="the same by every further rank, against upstream's way", goal=Goal("most", 0.01)),
        Benchmark(name="order", what=f"order of an epoch of them for {RANKS} ranks, against upstream's", goal=Goal("most", 0.05)),
        Benchmark(
            name="check",
            what="`data check` of 1 M entries on one core, with nothing built before",
            figure="value",
            unit="s",
            goal=Goal("most", 5),
        ),
        Benchmark(
            name="check-memory",
            what="memory of the same beyond the size of the annotation",
            figure="difference",
            unit="MB",
            goal=Goal("most", 400),
        ),
        *(
            Benchmark(
                name=f"decode-{name}{way}",
                what=f"{CLIP_FRAMES} frames {size[1]}×{size[0]} to {wanted[1]}×{wanted[0]}{how}, against a bare PyAV loop to whole frames",
                goal=goal,
            )
            for name, (size, wanted) in CLIPS.items()
            for way, how, goal in (("", "", Goal("least", 0.8)), ("-process", " in a process of their own", None))
        ),
    ],
    measure,
)
