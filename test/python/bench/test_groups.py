import json
import sys
from pathlib import Path

import pytest
import torch

from bench.__main__ import main
from bench.group import Bench, Group, Measured
from bench.groups import models
from bench.worker import Round


class Here:
    """A contestant in this process, for the wiring alone."""

    def __init__(self, make, *arguments):
        self.tasks = make(*arguments)

    def run(self, task):
        self.tasks[task]()
        return Round(1.0, 1.0)

    def peak_mib(self, task):
        self.tasks[task]()
        return 1.0

    def close(self):
        self.tasks = {}


@pytest.mark.skipif(torch.cuda.is_available(), reason="the GPU's share takes long")
def test_every_benchmark_of_the_models_is_measured_once_or_skipped_with_a_reason(monkeypatch):
    for name, value in {
        "Contestant": Here,
        "LATENTS": (1, 8, 2, 8, 8),
        "TOKENS": 32,
        "TEXT": (1, 1, 4, 32),
        "CLIP": (1, 3, 5, 32, 32),
        "WAVELETS": (1, 3, 3, 8, 8),
    }.items():
        monkeypatch.setattr(models, name, value)
    monkeypatch.setitem(models.OPENSORA, "caption_channels", 32)
    monkeypatch.setitem(models.OPENSORA, "num_attention_heads", 1)
    monkeypatch.setitem(models.OPENSORA, "num_layers", 4)
    monkeypatch.setitem(models.WFVAE_8, "base_channels", 8)
    monkeypatch.setitem(models.WFVAE_8, "decoder_energy_flow_hidden_size", 8)
    results = list(models.GROUP.measure(Bench(Path("unused"), quick=True)))
    assert sorted(each.name for each in results) == sorted(each.name for each in models.GROUP.benchmarks)
    assert all(each.skipped == "no GPU here" for each in results if each.name.startswith("gpu-"))
    assert all({"ours", "reference"} <= each.series.keys() for each in results if not each.name.startswith("gpu-"))


def test_what_a_measured_module_prints_is_no_answer(monkeypatch, capsys, tmp_path):
    def measure(_):
        print("8 of 32 clips")
        yield Measured(name="one", series={"ours": [1.0]})

    monkeypatch.setattr("bench.__main__.group_named", lambda _: Group([], measure))
    monkeypatch.setattr(sys, "argv", ["bench", "some", str(tmp_path)])
    main()
    said = capsys.readouterr()
    assert [json.loads(line)["name"] for line in said.out.splitlines()] == ["one"]
    assert "8 of 32 clips" in said.err
