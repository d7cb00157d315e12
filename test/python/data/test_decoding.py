from fractions import Fraction

import av
import numpy as np
import pytest
import torch

from osplan.data.columns import Entry
from osplan.data.decoding import CENTRE, ClipError, Wanted, cropped_to_aspect, frame_places, pixels_of
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
