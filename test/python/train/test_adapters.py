import json

import pytest
import torch
from safetensors.torch import load_file

from osplan.domain.errors import UserError
from osplan.domain.stage import decode_stage
from osplan.models.registry import build_model
from osplan.train.adapters import add_adapters, planned_adapters, targets_of, weights_of
from osplan.train.architecture import transformer_config
from osplan.train.checkpoint import folder_of, latest_checkpoint, read_checkpoint
from osplan.train.merging import merged
from osplan.train.plan import ever_trainable, memory, parameters

LORA = {"rank": 4, "alpha": 8}


@pytest.fixture
def lora_loop(loop_of):
    """A loop whose model has adapters beside a random base, which is the same for the same seed."""

    def build(lora=None, **sections):
        return loop_of(lora={**LORA, **(lora or {})}, **sections)

    return build


def base_of(loop):
    return {name: value.clone() for name, value in loop.trained.source.named_parameters() if ".lora_" not in name}


def test_adapters_train_and_the_base_stays_bit_for_bit(lora_loop):
    loop, recorder = lora_loop(steps=4)
    before = base_of(loop)
    assert loop.train().reason == "completed"
    after = dict(loop.trained.source.named_parameters())
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    proof = recorder.of("phaseProof")[-1]
    assert proof["frozen"] == len(before) and proof["frozen_changed"] == [] and proof["trainable_unmoved"] == []


def test_new_adapters_change_nothing_the_model_predicts(stage_json):
    stage = decode_stage(stage_json(lora=LORA))
    torch.manual_seed(3)
    model = build_model(transformer_config(stage)).eval()
    torch.nn.init.normal_(model.get_parameter("proj_out.weight"))
    x, text = torch.randn(1, 4, 2, 4, 4), torch.randn(1, 1, 3, 16)
    before = model(x, torch.tensor([3]), text)
    add_adapters(model, stage.lora, 5)
    torch.testing.assert_close(model(x, torch.tensor([3]), text), before)


def test_going_on_from_a_checkpoint_repeats_the_unbroken_losses_bit_for_bit(lora_loop):
    settings = {"steps": 6, "lora": {"dropout": 0.25}}
    unbroken, recorder = lora_loop(**settings)
    unbroken.train()
    stopped, first = lora_loop(**settings)
    first.due[3] = [{"id": "a", "name": "stop"}]
    assert stopped.train().reason == "stopped"
    torch.manual_seed(99)
    going_on, second = lora_loop(**settings)
    going_on.restore(read_checkpoint(folder_of(going_on.attempt.run, 3), 0), [], same_run=True)
    going_on.train()
    assert second.losses() == {step: loss for step, loss in recorder.losses().items() if step > 3}
    assert all(torch.equal(value, weights_of(going_on.trained.source)[name]) for name, value in weights_of(unbroken.trained.source).items())
    averages = going_on.trained.ema.shadow
    assert averages and all(torch.equal(value, averages[name]) for name, value in unbroken.trained.ema.shadow.items())


@pytest.mark.parametrize(("weights", "adapter"), [("model", "adapter"), ("model_ema", "adapter_ema")])
def test_the_files_are_pefts_and_merged_they_predict_what_was_trained(lora_loop, stage_json, weights, adapter):
    from peft import PeftModel

    loop, _ = lora_loop(steps=3, ema={"decay": 0.5})
    base = {name.replace(".base_layer.", "."): value for name, value in base_of(loop).items()}
    loop.train()
    folder = latest_checkpoint(loop.attempt.run)
    config = transformer_config(loop.attempt.stage)
    merged, bare = build_model(config), build_model(config)
    merged.load_state_dict(load_file(folder / weights / "diffusion_pytorch_model.safetensors"))
    bare.load_state_dict(base)
    with_adapters = PeftModel.from_pretrained(bare, str(folder / adapter)).eval()
    x, text = torch.randn(1, 4, 2, 4, 4), torch.randn(1, 1, 3, 16)
    expected = with_adapters(x, torch.tensor([3]), text)
    torch.testing.assert_close(merged.eval()(x, torch.tensor([3]), text), expected, rtol=1e-5, atol=1e-6)
    assert json.loads((folder / adapter / "adapter_config.json").read_text())["peft_type"] == "LORA"
    assert any(not torch.equal(value, merged.state_dict()[name]) for name, value in base.items())


def test_a_base_that_was_exchanged_is_refused(lora_loop):
    loop, _ = lora_loop(steps=2)
    loop.train()
    other, _ = lora_loop(steps=4)
    with torch.no_grad():
        other.trained.source.get_parameter("proj_out.weight").add_(1)
    other.trained.enter_phase(0, announce=False)
    with pytest.raises(UserError, match=r"BASE_CHANGED|proj_out.weight"):
        other.restore(read_checkpoint(folder_of(other.attempt.run, 2), 0), [], same_run=True)


def test_a_branch_with_another_rank_says_how_to_go_on(lora_loop):
    loop, _ = lora_loop(steps=2)
    loop.train()
    other, _ = lora_loop(lora={"rank": 8}, steps=2)
    with pytest.raises(UserError) as caught:
        other.restore(read_checkpoint(folder_of(other.attempt.run, 2), 0), [], same_run=False)
    assert caught.value.code == "LORA_MISMATCH" and "advance" in caught.value.hint


def test_blocks_choose_among_the_adapters(lora_loop):
    loop, _ = lora_loop(trainable=["lora", "-blocks[0]"], steps=1)
    trained = [name for name, parameter in loop.trained.source.named_parameters() if parameter.requires_grad]
    assert trained and all("transformer_blocks.1." in name and ".lora_" in name for name in trained)


def test_without_a_rank_there_are_no_adapters_to_choose(loop_of):
    with pytest.raises(UserError) as caught:
        loop_of(trainable=["lora"])
    assert caught.value.code == "TRAINABLE_UNKNOWN" and "rank" in caught.value.hint


def test_a_target_that_names_no_layer_is_refused_with_those_there_are(stage_json):
    stage = decode_stage(stage_json(lora={**LORA, "targets": ["to_q", "qkv"]}))
    with pytest.raises(UserError) as caught:
        targets_of(build_model(transformer_config(stage)), stage.lora)
    assert caught.value.code == "LORA_TARGETS" and "qkv" in caught.value.message and "to_q" in caught.value.hint


@pytest.mark.parametrize(
    ("model", "targets"),
    [({}, ["to_q", "to_out.0"]), ({"class": "OpenSoraT2V", "sparse": False}, ["to_k", "net.0.proj"]), ({"class": "LatteT2V"}, ["to_v"])],
)
def test_the_plan_names_the_adapters_that_are_made(stage_json, model, targets):
    stage = decode_stage(stage_json(lora={**LORA, "targets": targets}, model=model))
    network = build_model(transformer_config(stage))
    planned = planned_adapters(network, stage.lora)
    add_adapters(network, stage.lora, 0)
    made = {name: tuple(value.shape) for name, value in network.named_parameters() if ".lora_" in name}
    assert made == planned
    found = parameters(stage)
    assert found["adapters"] == found["phases"][0]["trainable"] == sum(rows * columns for rows, columns in made.values())
    assert not any("lora" in name for name in found["shapes"])


def test_what_adapters_change_is_what_they_are_merged_into(stage_json):
    stage = decode_stage(stage_json(lora={**LORA, "targets": ["to_q"]}, trainable=["blocks[1]"]))
    assert ever_trainable(stage) == [f"transformer_blocks.1.attn{number}.to_q.weight" for number in (1, 2)]


def test_optimiser_and_average_need_memory_for_adapters_alone(stage_json):
    whole, adapters = memory(decode_stage(stage_json())), memory(decode_stage(stage_json(lora=LORA)))
    assert adapters["parts"]["optimizer"] < whole["parts"]["optimizer"] / 5
    assert adapters["parts"]["ema"] < whole["parts"]["ema"] / 5


def test_a_file_of_adapters_merges_into_what_the_checkpoint_holds(lora_loop, tmp_path):
    loop, _ = lora_loop(steps=3)
    base = {name.replace(".base_layer.", "."): value for name, value in base_of(loop).items()}
    loop.train()
    folder = latest_checkpoint(loop.attempt.run)
    found, changed = merged(base, folder / "adapter")
    expected = load_file(folder / "model" / "diffusion_pytorch_model.safetensors")
    assert changed == 16
    assert all(torch.allclose(value, expected[name], atol=1e-7) for name, value in found.items())


@pytest.mark.parametrize(
    ("code", "change"),
    [
        ("LORA_UNSUPPORTED", {"use_dora": True}),
        ("LORA_UNSUPPORTED", {"peft_type": "IA3"}),
        ("LORA_MISMATCH", {"base": "transformer_blocks.0.attn1.to_q.weight"}),
        ("LORA_MISSING", {"folder": "nowhere"}),
    ],
)
def test_adapters_that_do_not_fit_are_refused(lora_loop, code, change):
    loop, _ = lora_loop(steps=1)
    base = {name.replace(".base_layer.", "."): value for name, value in base_of(loop).items() if name != change.get("base")}
    base.pop(change.get("base"), None)
    loop.train()
    folder = latest_checkpoint(loop.attempt.run) / change.get("folder", "adapter")
    path = folder / "adapter_config.json"
    if path.is_file():
        path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(UserError) as caught:
        merged(base, folder)
    assert caught.value.code == code
