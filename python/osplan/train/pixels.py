"""Pixels between the data pipeline (uint8), the networks ([-1, 1]) and video files.

Shape letters: B batch, C channels (RGB), T frames, H and W height and width in pixels.
"""

import os
from pathlib import Path

import av
import torch
from torch import Tensor

PIXEL_RANGE = 2.0
"""Distance between black and white in the range the networks see."""


def normalised(pixels: Tensor, device: torch.device) -> Tensor:
    """uint8 pixels as float32 in [-1, 1] on a device; the move happens in uint8."""
    return pixels.to(device, non_blocking=True).float().mul_(2 / 255).sub_(1)


def psnr(difference_BCTHW: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each clip in dB for differences in the [-1, 1] range."""
    mse_B = difference_BCTHW.float().square().flatten(1).mean(1).clamp_min(1e-12)
    return 10 * torch.log10(PIXEL_RANGE**2 / mse_B)


def write_video(path: Path, pixels_CTHW: Tensor, fps: float) -> None:
    """Writes a clip in [-1, 1] as H.264, beside its place and then renamed. Sides are cut to even numbers of pixels."""
    frames_THWC = ((pixels_CTHW.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 3, 0).cpu().contiguous().numpy()
    height, width = frames_THWC.shape[1] // 2 * 2, frames_THWC.shape[2] // 2 * 2
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        with av.open(str(temporary), "w") as container:
            stream = container.add_stream("libx264", rate=max(1, round(fps)), options={"crf": "14", "preset": "veryfast"})
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            for frame in frames_THWC[:, :height, :width]:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
