import pytest
import torch
from safetensors.torch import save_file

from osplan.domain.errors import UserError
from osplan.models.lpips import LPIPS, load_lpips


@pytest.fixture(scope="module")
def weights():
    torch.manual_seed(0)
    state = LPIPS().state_dict()
    return {name: value.abs() if name.startswith("lin") else value for name, value in state.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, weights):
    folder = tmp_path_factory.mktemp("lpips")
    save_file(weights, folder / "whole.safetensors")
    torch.save({f"perceptual_loss.{name}": value for name, value in weights.items() if name.startswith("lin")}, folder / "lins.pth")
    vgg = {f"features.{name.split('.', 2)[2]}": value for name, value in weights.items() if name.startswith("net.")}
    torch.save(vgg | {"classifier.0.bias": torch.zeros(1)}, folder / "vgg16.pth")
    return folder


def test_equal_images_are_at_distance_zero_and_others_are_not(folder):
    metric = load_lpips(folder / "whole.safetensors")
    a, b = torch.rand(2, 2, 3, 32, 32).mul(2).sub(1)
    assert metric(a, b).shape == (2, 1, 1, 1)
    assert not metric(a, a).any()
    assert (metric(a, b) > 0).all()


def test_upstreams_file_beside_torchvisions_gives_the_same_metric(folder):
    a, b = torch.rand(2, 1, 3, 32, 32)
    assert torch.equal(load_lpips(folder / "vgg16.pth", folder / "lins.pth")(a, b), load_lpips(folder / "whole.safetensors")(a, b))


def test_the_metric_trains_nothing_and_still_passes_gradients_through_black_images(folder):
    metric = load_lpips(folder / "whole.safetensors").train()
    image = torch.zeros(1, 3, 32, 32, requires_grad=True)
    metric(torch.rand(1, 3, 32, 32), image).sum().backward()
    assert not metric.training
    assert not any(parameter.requires_grad for parameter in metric.parameters())
    assert image.grad is not None and image.grad.isfinite().all()


def test_missing_files_missing_tensors_and_pickled_code_are_refused(folder, tmp_path):
    (tmp_path / "other.pth").write_bytes(b"not weights")
    for paths in ([tmp_path / "none.pth"], [folder / "lins.pth"], [tmp_path / "other.pth"], []):
        with pytest.raises(UserError, match="expected") as refusal:
            load_lpips(*paths)
        assert refusal.value.code == "LPIPS_WEIGHTS"
        assert "perceptual weight" in refusal.value.hint
