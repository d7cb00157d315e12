"""Short clips of moving, coloured shapes with captions, in upstream's format: real video files to try the trainer on.

python -m osplan.data.synthetic FOLDER [--clips 48] [--seed 0]
"""

import argparse
import json
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

SIDE = 128
FRAMES = 33
FPS = 16
COLOURS = {
    "red": (222, 46, 44),
    "green": (42, 178, 74),
    "blue": (52, 86, 224),
    "yellow": (240, 212, 58),
    "purple": (156, 66, 196),
    "orange": (244, 142, 44),
}
BACKGROUNDS = {"white": (236, 236, 236), "black": (22, 22, 22), "gray": (124, 124, 128), "teal": (26, 112, 112)}
SHAPES = ("square", "circle", "triangle")
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
COMPLETE = ".complete"


@dataclass(frozen=True)
class Scene:
    """What one clip shows; positions in sides of the frame, speed in sides per frame."""

    colour: str
    shape: str
    direction: str
    background: str
    radius: float
    start: tuple[float, float]
    speed: float

    @property
    def caption(self) -> str:
        """What is seen, in a fixed form."""
        return f"a {self.colour} {self.shape} moves {self.direction} on a {self.background} background"


def draw_scene(rng: np.random.Generator) -> Scene:
    """A random scene whose shape stays mostly in view."""
    direction = str(rng.choice(list(DIRECTIONS)))
    dx, dy = DIRECTIONS[direction]
    along, across = 0.2 + 0.06 * rng.random(), 0.5 + 0.24 * (rng.random() - 0.5)
    start = (0.5 - dx * (0.5 - along) if dx else across, 0.5 - dy * (0.5 - along) if dy else across)
    return Scene(
        colour=str(rng.choice(list(COLOURS))),
        shape=str(rng.choice(SHAPES)),
        direction=direction,
        background=str(rng.choice(list(BACKGROUNDS))),
        radius=0.17 + 0.05 * rng.random(),
        start=start,
        speed=0.014 + 0.006 * rng.random(),
    )


def render(scene: Scene) -> np.ndarray:
    """The frames of a scene, (T, H, W, 3) uint8, with smooth edges."""
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    dx, dy = DIRECTIONS[scene.direction]
    inside, outside = np.array(COLOURS[scene.colour], float), np.array(BACKGROUNDS[scene.background], float)
    frames = np.empty((FRAMES, SIDE, SIDE, 3), np.uint8)
    for number in range(FRAMES):
        distance = _distance(
            scene.shape, x - scene.start[0] - dx * scene.speed * number, y - scene.start[1] - dy * scene.speed * number, scene.radius
        )
        cover = np.clip(0.5 - distance * SIDE, 0, 1)[..., None]
        frames[number] = np.rint(cover * inside + (1 - cover) * outside)
    return frames


def _distance(shape: str, x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    """Signed distance to the outline, about one per side of the frame."""
    match shape:
        case "square":
            return np.maximum(np.abs(x), np.abs(y)) - 0.88 * radius
        case "circle":
            return np.hypot(x, y) - radius
        case _:
            return np.maximum(y - 0.72 * radius, np.abs(x) * 0.87 - y * 0.5 - 0.58 * radius)


def write_clip(path: Path, frames_THWC: np.ndarray) -> None:
    """Writes frames as H.264 in an mp4."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"crf": "12", "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = frames_THWC.shape[2], frames_THWC.shape[1], "yuv420p"
        for frame in frames_THWC:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def write_data_set(folder: Path, clips: int, seed: int) -> Path:
    """Writes the clips, their annotation and `merge_data.txt`; returns the latter. Does nothing where they are complete."""
    wanted = {"clips": clips, "seed": seed, "side": SIDE, "frames": FRAMES, "fps": FPS}
    listed = folder / "merge_data.txt"
    stamp = folder / COMPLETE
    if stamp.is_file() and json.loads(stamp.read_text()) == wanted:
        return listed
    shutil.rmtree(folder / "clips", ignore_errors=True)
    (folder / "clips").mkdir(parents=True)
    rng = np.random.default_rng(seed)
    entries = []
    for number in range(clips):
        scene = draw_scene(rng)
        name = f"{number:04d}-{scene.colour}-{scene.shape}-{scene.direction}.mp4"
        write_clip(folder / "clips" / name, render(scene))
        entries.append(
            {"path": name, "cap": [scene.caption], "num_frames": FRAMES, "fps": FPS, "resolution": {"height": SIDE, "width": SIDE}}
        )
        if (number + 1) % 8 == 0:
            print(f"{number + 1} of {clips} clips", flush=True)
    (folder / "clips" / "annotation.json").write_text(json.dumps(entries, indent=1))
    listed.write_text("clips,annotation.json\n")
    temporary = stamp.with_suffix(".tmp")
    temporary.write_text(json.dumps(wanted))
    os.replace(temporary, stamp)
    return listed


def main(arguments: list[str]) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m osplan.data.synthetic", description="Writes clips of moving shapes in upstream's format."
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--clips", type=int, default=48)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    print(write_data_set(options.folder, options.clips, options.seed))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
