"""Parity of what models are conditioned on: captions as text encoders read them, and the masks of inpainting.

Shape letters: B batch, C channels, T frames, H and W height and width.
"""

from typing import Literal

from osplan.data.captions import prepare_caption
from osplan.data.inpaint_masks import compressed_mask, frame_mask, known_bounds, masked_pixels
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


def masks_case(case: Case) -> Outputs:
    """Masks of every kind from the draws the case hands in, the pixels they leave, and masks on the latent grid."""
    params, outputs = case.spec["params"], Outputs()
    rows = []
    for name, kind, drawn in params["cases"]:
        pixels_TCHW = case.inputs["img" if drawn.get("image") else "pixels"]
        frames = len(pixels_TCHW)
        mask_T = frame_mask(kind, frames, drawn.get("frames", range(drawn.get("k", 0))))
        outputs |= {f"{name}.mask_frames": mask_T.long(), f"{name}.masked": masked_pixels(pixels_TCHW, mask_T)}
        shares = (params.get("min_clear_ratio", 0.0), params.get("max_clear_ratio", 1.0))
        bounds = [list(known_bounds(frames, *shares))] if kind in ("continuation", "random_temporal") else []
        rows.append({"name": name, "type": kind, "draw": drawn, "randint_bounds": bounds})
    for name in (name for name in case.inputs if name.startswith("mask")):
        for stride in params["strides"]:
            label = "x".join(map(str, stride))
            outputs[f"compressed.{name}.s{label}"] = compressed_mask(case.inputs[name], tuple(stride))
    return {**outputs, "table.masks": rows}


HANDLERS: dict[str, Handler] = {"text_preprocessing": captions_case, "MaskProcessor": masks_case}
"""Upstream's class or function to the handler of its cases."""
