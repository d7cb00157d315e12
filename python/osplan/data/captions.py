"""Captions as the text encoders of published weights read them.

The rules are those of upstream's data pipeline; changing one changes what a prompt means to published weights.
"""

import html
import re
import warnings
from collections.abc import Sequence
from typing import Literal
from urllib.parse import unquote_plus

import ftfy
from bs4 import BeautifulSoup, MarkupResemblesLocatorWarning

from osplan.domain.errors import UserError

CLEANING = 1
"""Raised whenever the same caption comes out otherwise: encodings that are kept are then no longer found."""
_ADDRESS = r"\b((?:{scheme}:(?:\/{{1,3}}|[a-zA-Z0-9%])|[a-zA-Z0-9.\-]+[.](?:com|co|ru|net|org|edu|gov|it)[\w/-]*\b\/?(?!@)))"
_FILES = "png|jpg|jpeg|bmp|webp|eps|pdf|apk|mp4"
_DASHES = r"[\u002D\u058A\u05BE\u1400\u1806\u2010-\u2015\u2E17\u2E1A\u2E3A\u2E3B\u2E40\u301C\u3030\u30A0\uFE31\uFE32\uFE58\uFE63\uFF0D]+"

Rules = tuple[tuple[re.Pattern[str], str], ...]


def _compiled(*rules: tuple[str, str]) -> Rules:
    return tuple((re.compile(pattern), replacement) for pattern, replacement in rules)


_BEFORE_MARKUP = _compiled(("<person>", "person"), (_ADDRESS.format(scheme="https?"), ""), (_ADDRESS.format(scheme="www"), ""))
_AFTER_MARKUP = _compiled(
    (r"@[\w\d]+\b", ""),
    # Strokes, phonetic extensions, enclosed and compatibility forms, rare ideographs, hexagrams.
    (r"[\u31c0-\u4dff]+", ""),
)
_CHINESE = _compiled((r"[\u4e00-\u9fff]+", ""))
_MARKS_AND_NUMBERS = _compiled(
    (_DASHES, "-"),
    (r"[`´«»“”¨]", '"'),
    (r"[‘’]", "'"),
    (r"&quot;?", ""),
    (r"&amp", ""),
    (r"\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}", " "),
    (r"\d:\d\d\s+$", ""),
    (r"\\n", " "),
    (r"#\d{1,3}\b", ""),
    (r"#\d{5,}\b", ""),
    (r"\b\d{6,}\b", ""),
    (rf"[\S]+\.(?:{_FILES})", ""),
    (r"[\"\']{2,}", '"'),
    (r"[\.]{2,}", " "),
    (r"[#®•©™&@·º½¾¿¡§~)(\]\[}{|\\/*]+", " "),
    (r"\s+\.\s+", " "),
)
_JOINTS = re.compile(r"[-_]")
MAX_JOINTS = 3
"""With more hyphens and underscores than this a caption counts as words joined by them."""
_CODES_AND_SPAM = _compiled(
    (r"\b[a-zA-Z]{1,3}\d{3,15}\b", ""),
    (r"\b[a-zA-Z]+\d+[a-zA-Z]+\b", ""),
    (r"\b\d+[a-zA-Z]+\d+\b", ""),
    (r"(worldwide\s+)?(free\s+)?shipping", ""),
    (r"(free\s)?download(\sfree)?", ""),
    (r"\bclick\b\s(?:for|on)\s\w+", ""),
    (rf"\b(?:{_FILES})(\simage[s]?)?", ""),
    (r"\bpage\s+\d+\b", ""),
    (r"\b\d*[a-zA-Z]+\d+[a-zA-Z]+\d+[a-zA-Z\d]*\b", " "),
    # The middle letter is Cyrillic.
    (r"\b\d+\.?\d*[x\u0445×]\d+\.?\d*\b", ""),
    (r"\b\s+\:\s+", ": "),
    (r"(\D[,\./])\b", r"\1 "),
    (r"\s+", " "),
)
_ENDS = _compiled(
    (r"^[\"\']([\w\W]+)[\"\']$", r"\1"),
    (r"^[\'\_,\-\:;]", ""),
    (r"[\'\_,\-\:\-\+]$", ""),
    (r"^\.\S+$", ""),
)


def prepare_caption(text: str | Sequence[str], keep_chinese: bool, quirk: Literal["mended", "upstream"] = "mended") -> str:
    """A caption in lower case without addresses, markup, file names and decoration. `keep_chinese` is for multilingual encoders.

    A list holds the one caption drawn for a clip. `upstream` writes that list as Python prints it before cleaning, as upstream's
    training did: traces of brackets and escaped quotes stay in the caption.
    Raises UserError CAPTION_INVALID for a list of none or several.
    """
    if isinstance(text, str):
        return _cleaned(str([text]) if quirk == "upstream" else text, keep_chinese)
    if len(text) != 1 or not isinstance(text[0], str):
        raise UserError("CAPTION_INVALID", f"caption: expected a text or a list of one, got {text!r}", "draw one caption of the list first")
    return prepare_caption(text[0], keep_chinese, quirk)


def _cleaned(text: str, keep_chinese: bool) -> str:
    text = _applied(_BEFORE_MARKUP, unquote_plus(text).strip().lower())
    text = _applied(_AFTER_MARKUP, _without_markup(text))
    if not keep_chinese:
        text = _applied(_CHINESE, text)
    text = _applied(_MARKS_AND_NUMBERS, text)
    if len(_JOINTS.findall(text)) > MAX_JOINTS:
        text = _JOINTS.sub(" ", text)
    text = html.unescape(html.unescape(ftfy.fix_text(text))).strip()
    return _applied(_ENDS, _applied(_CODES_AND_SPAM, text)).strip()


def _applied(rules: Rules, text: str) -> str:
    for pattern, replacement in rules:
        text = pattern.sub(replacement, text)
    return text


def _without_markup(text: str) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MarkupResemblesLocatorWarning)
        return BeautifulSoup(text, features="html.parser").text
