import pytest
import torch

from osplan.domain.errors import UserError
from osplan.domain.stage import decode_stage
from osplan.models.text_encoder import ByteEncoder
from osplan.train.text import Texts

CPU = torch.device("cpu")


def test_the_shipped_encoder_says_the_same_on_every_machine():
    first, mask = ByteEncoder(8, 6)(["a red square", ""])
    second, _ = ByteEncoder(8, 6)(["a red square", ""])
    assert torch.equal(first, second) and first.shape == (2, 1, 6, 8)
    assert mask.sum(-1).flatten().tolist() == [4, 1]
    other, _ = ByteEncoder(8, 6)(["a red circle"])
    assert torch.equal(first[0, 0, :2], other[0, 0, :2]) and not torch.equal(first[0, 0, 2], other[0, 0, 2])


def test_captions_are_cleaned_once_and_remembered_by_what_they_were(stage_json):
    texts = Texts(decode_stage(stage_json()), CPU)
    both = texts(["A  RED square https://x.org", "a red square"])
    assert torch.equal(both.states_B1LD[0], both.states_B1LD[1])
    raw = Texts(decode_stage(stage_json(text={"clean": False})), CPU)(["see https://x.org", "see"])
    assert not torch.equal(raw.states_B1LD[0], raw.states_B1LD[1])


def test_the_mean_over_tokens_stands_for_a_missing_second_encoder(stage_json):
    suv = {"class": "SparseUMMDiT", "headDim": 32, "stageLayers": [2, 2, 2], "stageSparseN": [1, 2, 1]}
    text = Texts(decode_stage(stage_json(model=suv)), CPU)(["a red square", "blue"])
    assert text.pooled_B1P is not None and text.pooled_B1P.shape == (2, 1, 16)
    torch.testing.assert_close(text.pooled_B1P[1, 0], text.states_B1LD[1, 0, :2].mean(0))


def test_an_encoder_that_is_not_there_is_named(stage_json, tmp_path):
    with pytest.raises(UserError, match="TEXT_ENCODER"):
        Texts(decode_stage(stage_json(text={"encoder": str(tmp_path / "none")})), CPU)
