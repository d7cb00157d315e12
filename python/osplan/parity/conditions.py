"""Parity of what models are conditioned on: captions as text encoders read them, and the masks of inpainting.

Shape letters: B batch, C channels, T frames, H and W height and width.
"""

from typing import Literal

from osplan.data.captions import prepare_caption
from osplan.data.quality_sentences import with_quality
from osplan.parity.case import Case, Handler, Outputs

CAPTION = "a cat"
"""What the table of quality sentences adds to."""


def captions_case(case: Case) -> Outputs:
    """Every text cleaned in four ways, and quality sentences at the table's scores, choices and draws."""
    outputs: Outputs = {"table.cleaned": [_columns(text) for text in case.spec["params"]["texts"]]}
    notices = case.spec.get("tables", {}).get("aesthetic_notice", [])
    given = [{key: row[key] for key in ("kind", "aes", "choice_index", "random_value")} for row in notices]
    outputs["table.aesthetic_notice"] = [
        {**row, "text": with_quality(CAPTION, row["aes"], row["kind"], row["choice_index"], row["random_value"])} for row in given
    ]
    return outputs


def _columns(text: str) -> dict[str, str]:
    ways: dict[str, tuple[bool, Literal["mended", "upstream"]]] = {
        "zh": (True, "mended"),
        "no_zh": (False, "mended"),
        "as_list_zh": (True, "upstream"),
        "as_list_no_zh": (False, "upstream"),
    }
    return {"text": text, **{name: prepare_caption(text, keep, quirk) for name, (keep, quirk) in ways.items()}}


HANDLERS: dict[str, Handler] = {"text_preprocessing": captions_case}
"""Upstream's class or function to the handler of its cases."""
