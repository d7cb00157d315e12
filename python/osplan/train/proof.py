"""Proof of freezing: what was frozen is bit for bit what it was, what was trainable has moved."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from osplan.parallel.sharding import whole


def fingerprints(model: nn.Module) -> dict[str, str]:
    """A hash of each parameter's bytes. Collective where the model is sharded."""
    return {name: _fingerprint(whole(parameter.detach())) for name, parameter in model.named_parameters()}


def _fingerprint(tensor: Tensor) -> str:
    flat = tensor.contiguous().flatten().view(torch.uint8).cpu().numpy()
    return hashlib.blake2b(flat.data, digest_size=16).hexdigest()


def compare(before: Mapping[str, str], model: nn.Module) -> dict[str, object]:
    """What a phase did: frozen parameters that changed (there should be none) and trainable ones that did not."""
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    trainable = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    now = fingerprints(model)
    return {
        "frozen": len(frozen),
        "frozen_changed": [name for name in frozen if before[name] != now[name]],
        "trainable": len(trainable),
        "trainable_unmoved": [name for name in trainable if before[name] == now[name]],
    }
