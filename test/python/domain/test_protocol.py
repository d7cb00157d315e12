import json
import math

from hypothesis import given
from hypothesis import strategies as st
from osplan.domain.protocol import MAX_LINE_BYTES, camel, encode_line, snake, tagged

HEAD = {"seq": 1, "ts": 2.0, "attempt": 1}


def test_a_number_json_cannot_hold_travels_as_a_tag():
    line = json.loads(encode_line(HEAD, "step", {"loss": math.nan, "split": {"data": math.inf}, "bins": [-math.inf, 1.0]}))
    assert line["loss"] == {"$f": "nan"}
    assert line["split"] == {"data": {"$f": "inf"}}
    assert line["bins"] == [{"$f": "-inf"}, 1.0]


def test_a_line_over_the_limit_keeps_its_head_and_names_what_was_left_out():
    line = encode_line(HEAD, "failed", {"code": "X", "traceback": "y" * (2 * MAX_LINE_BYTES)})
    assert len(line) <= MAX_LINE_BYTES
    body = json.loads(line)
    assert (body["seq"], body["code"], body["leftOut"]) == (1, "X", "traceback")


@given(st.from_regex(r"[a-z]+(_[a-z]+)*", fullmatch=True))
def test_names_survive_the_way_to_typescript_and_back(name: str):
    assert snake(camel(name)) == name


@given(st.recursive(st.none() | st.floats() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8))
def test_every_value_becomes_valid_json(value: object):
    json.dumps(tagged(value), allow_nan=False)
