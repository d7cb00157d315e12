"""Converting pickles and asking for the shapes of a model."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from osplan.domain.errors import UserError
from osplan.train.pickles import read_pickle
from osplan.weights_tool import convert, main, wanted_tensors


def saved(path: Path, value: object) -> Path:
    torch.save(value, path)
    return path


def test_the_moving_average_wins_and_loses_its_module_prefix(tmp_path: Path):
    ema = {"module.a.weight": torch.ones(2)}
    source = saved(tmp_path / "x.ckpt", {"ema_state_dict": ema, "state_dict": {"gen_model": {"a.weight": torch.zeros(2)}}})
    pickled = read_pickle(source)
    assert pickled.taken == "ema_state_dict"
    assert torch.equal(pickled.model["a.weight"], torch.ones(2))


def test_an_empty_moving_average_gives_the_generator_and_keeps_the_discriminator(tmp_path: Path):
    state = {"gen_model": {"a": torch.ones(1)}, "dics_model": {"d": torch.ones(3)}}
    source = saved(tmp_path / "x.ckpt", {"ema_state_dict": {}, "state_dict": state, "epoch": 1})
    answer = convert(source, tmp_path / "out.safetensors")
    assert answer["taken"] == "state_dict.gen_model"
    assert list(load_file(tmp_path / "out.safetensors")) == ["a"]
    assert list(load_file(tmp_path / "out.discriminator.safetensors")) == ["d"]


def test_a_plain_state_dict_with_a_config_becomes_a_diffusers_folder(tmp_path: Path):
    shared = torch.arange(4.0)
    source = saved(tmp_path / "x.pt", {"a": shared, "b": shared.view(2, 2)})
    (tmp_path / "config.json").write_text("{}")
    answer = convert(source, tmp_path / "out")
    assert answer["taken"] == "the whole file"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["config.json", "diffusion_pytorch_model.safetensors"]
    assert load_file(tmp_path / "out" / "diffusion_pytorch_model.safetensors")["b"].shape == (2, 2)
    with pytest.raises(UserError, match="exists"):
        convert(source, tmp_path / "out")


class Harmful:
    def __reduce__(self):
        return os.mkdir, (os.environ["HARMED"],)


def test_code_in_a_pickle_is_refused_and_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setenv("HARMED", str(tmp_path / "harmed"))
    source = saved(tmp_path / "x.ckpt", {"a": Harmful()})
    assert main(["convert", str(source), str(tmp_path / "out")]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "PICKLE_REFUSED"
    assert not (tmp_path / "harmed").exists()


def test_a_damaged_or_absent_pickle_is_refused(tmp_path: Path):
    (tmp_path / "x.ckpt").write_bytes(b"nothing")
    with pytest.raises(UserError, match="not read"):
        read_pickle(tmp_path / "x.ckpt")
    with pytest.raises(UserError, match="cannot be read"):
        read_pickle(tmp_path / "none.ckpt")
    with pytest.raises(UserError, match="expected tensors"):
        read_pickle(saved(tmp_path / "y.ckpt", {"epoch": 1}))


def test_the_shapes_of_a_named_model_come_without_its_numbers(tmp_path: Path):
    config = {"_class_name": "WFVAEModel", "base_channels": 32, "latent_dim": 4}
    (tmp_path / "config.json").write_text(json.dumps(config))
    wanted = wanted_tensors(tmp_path)
    assert sum(name.endswith("conv_out.weight") or name.endswith("conv_out.conv.weight") for name in wanted.shapes) == 2
    assert any(name.startswith("encoder.wavelet_transform_in.") for name in wanted.constants)
    with pytest.raises(UserError, match="cannot be read"):
        wanted_tensors(tmp_path / "none")
