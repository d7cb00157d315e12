"""Loss by time: where between data and noise a model is good or bad."""

import torch
from torch import Tensor


class LossBins:
    """Sums and counts of per-sample losses in equal bins of the noise share. Stays on the losses' device until read."""

    def __init__(self, count: int, device: torch.device | str = "cpu") -> None:
        self.sums = torch.zeros(count, dtype=torch.float64, device=device)
        self.counts = torch.zeros(count, dtype=torch.int64, device=device)

    def add(self, loss_B: Tensor, noise_share_B: Tensor) -> None:
        """Counts a batch's losses into the bins of their noise shares (0 data, 1 noise)."""
        bins = self.counts.numel()
        index_B = (noise_share_B.detach() * bins).long().clamp(0, bins - 1).to(self.sums.device)
        self.sums.index_add_(0, index_B, loss_B.detach().to(self.sums))
        self.counts.index_add_(0, index_B, torch.ones_like(index_B))

    def means_on_device(self) -> Tensor:
        """Mean loss of each bin, not a number where nothing fell."""
        return self.sums / self.counts

    def means(self) -> list[float | None]:
        """Mean loss of each bin; None where nothing fell. Waits for the device."""
        pairs = zip(self.sums.tolist(), self.counts.tolist(), strict=True)
        return [total / count if count else None for total, count in pairs]
