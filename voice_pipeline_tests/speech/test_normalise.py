"""The normaliser in alphabets with case and punctuation: words stay what they were, marks stand right behind them."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from voice_pipeline.schema.alphabet import CASED_PUNCTUATED, LOWERCASE, MARKS
from voice_pipeline.schema.labeling_policy import LabelingPolicy, load_labeling_policy
from voice_pipeline.schema.policy_file import PolicyError
from voice_pipeline.settings import PROJECT_ROOT
from voice_pipeline.speech import normalise as rules
from voice_pipeline.speech.normalise import NORMALISER_VERSION, label_form, normalise, plain, words_of
from voice_pipeline.speech.tokenizer import ALPHABET, CharTokenizer

ALPHABETS = (LOWERCASE, CASED_PUNCTUATED, LOWERCASE + MARKS, CASED_PUNCTUATED.replace("-", ""), LOWERCASE + "A,")
tricky = st.text("aB'’-.,?!;: 1290%&é\u0345\n", max_size=14)


@pytest.mark.parametrize("alphabet", ALPHABETS)
@given(text=st.one_of(st.text(), tricky))
def test_normalising_twice_changes_nothing_in_any_alphabet(alphabet: str, text: str) -> None:
    once = normalise(text, alphabet)
    assert normalise(once, alphabet) == once
    assert set(once) <= set(alphabet)


@given(st.one_of(st.text(), tricky))
@example("rock-'n'-roll")
@example("a'.b")
def test_the_words_do_not_depend_on_the_alphabet(text: str) -> None:
    assert plain(normalise(text, CASED_PUNCTUATED)) == normalise(text, LOWERCASE) == words_of(text)


@given(st.one_of(st.text(), tricky))
def test_no_mark_stands_alone_and_each_has_a_word_before_it(text: str) -> None:
    for word in normalise(text, CASED_PUNCTUATED).split():
        assert word[0].isalpha() or word[0] == "'"
        assert not any(mark in word[:-1] for mark in MARKS if mark != "-")
        assert not word.endswith("-")


@pytest.mark.parametrize(
    ("typed", "written"),
    [
        ("Hello , World !", "Hello, World!"),
        ("well...yes?!", "well. yes?"),
        ("—Twenty-one, he said - and left.", "Twenty-one, he said and left."),
        ("Zoë's Café: 21 & 5%", "Zoe's Cafe: twenty-one".replace("-", " ") + " and five percent"),
        ("at 10:30, $1,024.50", "at ten thirty, one zero two four fifty"),
        ("?! ...", ""),
        ("the dogs' 'bone'.", "the dogs bone."),
        ("STRASSE straße ẞ", "STRASSE strasse ss"),
    ],
)
def test_rules_of_the_cased_alphabet(typed: str, written: str) -> None:
    assert normalise(typed, CASED_PUNCTUATED) == written


def test_a_label_says_its_rules_and_its_alphabet() -> None:
    assert label_form(LOWERCASE) == NORMALISER_VERSION == "en-1"
    assert label_form(CASED_PUNCTUATED) != label_form(LOWERCASE + MARKS) != NORMALISER_VERSION
    assert label_form(CASED_PUNCTUATED) == label_form(CASED_PUNCTUATED[::-1])


def test_the_ground_floor_agrees_on_its_alphabets() -> None:
    assert ALPHABET == LOWERCASE
    assert rules.MARKS == MARKS
    assert CharTokenizer(CASED_PUNCTUATED).size == 62


def test_the_projects_labels_are_lowercase() -> None:
    assert load_labeling_policy(PROJECT_ROOT / "policy").alphabet == LOWERCASE == LabelingPolicy().alphabet


def test_an_alphabet_is_named_or_written_out() -> None:
    assert LabelingPolicy(alphabet="cased_punctuated").alphabet == CASED_PUNCTUATED
    assert LabelingPolicy(alphabet=LOWERCASE + ".").alphabet == LOWERCASE + "."


@pytest.mark.parametrize("wrong", ["upper", "", LOWERCASE + "1", LOWERCASE + "a", LOWERCASE[1:], LOWERCASE + "é", 3])
def test_an_alphabet_that_no_label_can_fill_is_refused(wrong: object) -> None:
    with pytest.raises(ValidationError, match="alphabet"):
        LabelingPolicy.model_validate({"alphabet": wrong})


def test_a_policy_file_with_a_wrong_alphabet_names_the_key(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("policy")
    (folder / "labeling.yaml").write_text("alphabet: shouting\n")
    with pytest.raises(PolicyError, match=r"labeling\.yaml is not valid: alphabet"):
        load_labeling_policy(folder)
