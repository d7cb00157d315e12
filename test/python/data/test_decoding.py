from fractions import Fraction

import av
import numpy as np
import pytest
import torch

from osplan.data.columns import Entry
from osplan.data.decoding import CENTRE, ClipError, Wanted, area_fitted, cropped_to_aspect, frame_places, pixels_of, resized
from osplan.data.synthetic import write_data_set


@pytest.fixture(scope="module")
def numbered(tmp_path_factory):
    """A clip of 120 frames whose brightness is twice the frame's number, with a key frame every 20."""
    path = tmp_path_factory.mktemp("numbered") / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=24, options={"crf": "4", "g": "20", "bf": "2"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(120):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 2 * number, np.uint8), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 24)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return str(path)


def entry(**changes):
    base = {"path": "a.mp4", "captions": (), "has_caption_list": False, "height": 48, "width": 64, "frames": 120, "fps": 24.0}
    return Entry(**{**base, "aesthetic": None, "first_frame": 0, "crop": None, **changes})


@pytest.mark.parametrize("places", [(0,), (3, 4, 5), (47, 60), (48, 49), (79, 80, 99), (119,)])
def test_the_frames_that_are_asked_for_come_also_after_seeking(numbered, places):
    pixels = pixels_of(Wanted(numbered, places, None, 48, 64, None, CENTRE), 9.0)
    assert pixels.shape == (3, len(places), 48, 64)
    brightness = pixels.float().mean(dim=(0, 2, 3))
    assert torch.allclose(brightness, torch.tensor([2.0 * place for place in places]), atol=1.01)


def test_a_frame_beyond_the_end_is_a_damaged_clip(numbered):
    with pytest.raises(ClipError, match="expected frame 120"):
        pixels_of(Wanted(numbered, (119, 120), None, 48, 64, None, CENTRE), 9.0)


def test_the_box_of_the_annotation_is_cut_out_first(numbered):
    assert pixels_of(Wanted(numbered, (0,), (8, 40, 0, 32), 16, 16, None, CENTRE), 9.0).shape == (3, 1, 16, 16)
    with pytest.raises(ClipError, match="for its crop"):
        pixels_of(Wanted(numbered, (0,), (8, 80, 0, 32), 16, 16, None, CENTRE), 9.0)


def test_windows_follow_the_rate_and_start_at_the_cut():
    assert frame_places(entry(first_frame=10, frames=30), 2.5, 1, 3) == (12, 15, 17)


def test_crops_lie_where_they_are_asked_for():
    frames = torch.arange(8).view(1, 1, 1, 8).expand(1, 1, 4, 8)
    crops = [cropped_to_aspect(frames, 4, 4, (0.5, place))[0, 0, 0].tolist() for place in (0.0, 0.5, 1.0)]
    assert crops == [[0, 1, 2, 3], [2, 3, 4, 5], [4, 5, 6, 7]]


def test_the_same_seed_writes_the_same_clips_and_a_complete_set_is_left_alone(tmp_path):
    listed = write_data_set(tmp_path / "a", 3, 5)
    write_data_set(tmp_path / "b", 3, 5)
    names = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file())
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in names)
    before = {name: (tmp_path / "a" / name).stat().st_mtime_ns for name in names}
    assert write_data_set(tmp_path / "a", 3, 5) == listed
    assert {name: (tmp_path / "a" / name).stat().st_mtime_ns for name in names} == before


def as_before(path, places, box, height, width, largest_area, crop_at):
    """Frames as packed red, green and blue, cut and resized one step after the other."""
    with av.open(path) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    frames_TCHW = torch.from_numpy(np.stack([frames[place] for place in places])).permute(0, 3, 1, 2)
    if box:
        frames_TCHW = frames_TCHW[..., box[2] : box[3], box[0] : box[1]]
    if largest_area:
        return area_fitted(frames_TCHW, Wanted(path, places, box, height, width, largest_area, crop_at)).transpose(0, 1)
    if crop_at:
        frames_TCHW = cropped_to_aspect(frames_TCHW, height, width, crop_at)
    return resized(frames_TCHW, height, width).transpose(0, 1)


def write_noise(path, codec, pixels, height, width, frames):
    rng = np.random.default_rng(width)
    with av.open(path, "w") as container:
        stream = container.add_stream(codec, rate=24)
        stream.width, stream.height, stream.pix_fmt = width, height, pixels
        for _ in range(frames):
            frame = av.VideoFrame.from_ndarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8), format="rgb24")
            container.mux(stream.encode(frame.reformat(format=pixels)))
        container.mux(stream.encode())


REQUESTS = [
    (None, 48, 64, None, CENTRE),
    (None, 48, 36, None, (0.2, 0.9)),
    (None, 24, 24, None, CENTRE),
    (None, 32, 16, None, None),
    (None, 90, 120, None, CENTRE),
    ((3, 36, 5, 38), 33, 33, None, CENTRE),
    (None, 32, 32, 10_000, CENTRE),
    (None, 16, 16, 1500, CENTRE),
]


@pytest.mark.parametrize(
    ("codec", "pixels"),
    [("ffv1", "yuv420p"), ("mjpeg", "yuvj420p"), ("ffv1", "yuv444p"), ("ffv1", "yuv420p10le"), ("ffv1", "gray")],
)
@pytest.mark.parametrize("size", [(48, 64), (50, 48), (50, 66), (62, 38)])
def test_every_way_to_the_wanted_size_gives_the_pixels_of_the_plain_way(tmp_path, codec, pixels, size):
    path = str(tmp_path / "clip.mkv")
    write_noise(path, codec, pixels, *size, frames=3)
    for box, height, width, largest_area, crop_at in REQUESTS:
        request = ((0, 2, 2), box, height, width, largest_area, crop_at)
        assert torch.equal(pixels_of(Wanted(path, *request), 9.0), as_before(path, *request)), request


@pytest.mark.parametrize("width", [*range(16, 272, 16), 854, 1080])
def test_no_column_of_any_width_is_left_as_memory_was(tmp_path, width):
    path = str(tmp_path / "clip.mkv")
    write_noise(path, "ffv1", "yuv420p", 32, width, frames=1)
    for shape in ((32, width), (24, width - 2)):
        request = ((0,), None, *shape, None, None)
        assert torch.equal(pixels_of(Wanted(path, *request), 9.0), as_before(path, *request))
