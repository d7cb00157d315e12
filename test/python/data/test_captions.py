import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from osplan.data.captions import prepare_caption
from osplan.data.quality_sentences import quality_sentences, with_quality
from osplan.domain.errors import UserError


def test_addresses_markup_handles_and_file_names_leave_a_caption():
    assert prepare_caption("<b>Cats</b> by @ann, see https://a.com/cats and IMG_1.jpg", False) == "cats by , see and"


def test_chinese_is_kept_for_multilingual_encoders_alone():
    assert prepare_caption("mixed 中文 and english", True) == "mixed 中文 and english"
    assert prepare_caption("mixed 中文 and english", False) == "mixed and english"


def test_many_hyphens_join_words_and_few_belong_to_them():
    assert prepare_caption("a-b-c-d-e", False) == "a b c d e"
    assert prepare_caption("a well-known cat", False) == "a well-known cat"


def test_a_list_of_one_reads_like_its_text():
    assert prepare_caption(["it's ''here''"], True) == prepare_caption("it's ''here''", True)


def test_the_unmended_way_leaves_traces_of_the_list():
    assert prepare_caption('it\'s raining; "cats"', True, "upstream") == "it 's raining; \"cats"
    assert prepare_caption('it\'s raining; "cats"', True) == 'it\'s raining; "cats"'


@pytest.mark.parametrize("text", [[], ["a", "b"], [3]])
def test_a_list_of_none_or_several_is_refused(text):
    with pytest.raises(UserError) as caught:
        prepare_caption(text, True)
    assert caught.value.code == "CAPTION_INVALID"


@settings(max_examples=100, deadline=None)
@given(st.text("aB c.,-_'\"#@&;<>/\\\n%2中文9:", max_size=60))
def test_any_text_gives_lower_case_without_outer_spaces_or_line_breaks(text):
    prepared = prepare_caption(text, keep_chinese=False)
    assert prepared == prepared.strip()
    assert "\n" not in prepared
    assert not any("\u4e00" <= letter <= "\u9fff" for letter in prepared)


@pytest.mark.parametrize("kind", ["video", "image"])
def test_only_low_and_high_scores_get_a_sentence(kind):
    assert quality_sentences(4.26, kind) == quality_sentences(5.74, kind) == ()
    assert len(set(quality_sentences(4.25, kind))) == len(set(quality_sentences(5.75, kind))) == 10
    assert with_quality("a cat", 5.0, kind, 3, 0.9) == "a cat"


def test_the_sentence_stands_behind_or_before_the_caption():
    assert with_quality("a cat", 7, "video", 0, 0.49) == "a cat This video has a high aesthetic quality."
    assert with_quality("a cat", 1, "image", 1, 0.5) == "The beauty of this image is minimal. a cat"
