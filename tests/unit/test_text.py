"""Text encoders."""

import numpy as np
import pytest

from policies.text import embed, load_text_encoder
from teleop.errors import PolicyError


class LetterCount:
    """An encoder as a user brings it along."""

    size = 1

    def embed(self, text: str) -> np.ndarray:
        """How long the text is."""
        return np.array([len(text)], np.float32)


class Liar(LetterCount):
    """Says another size than it gives."""

    size = 2


NO_ENCODER = "text"


def cosine(one: str, other: str) -> float:
    encoder = load_text_encoder("words")
    a, b = encoder.embed(one), encoder.embed(other)
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_an_instruction_has_the_same_vector_on_every_machine() -> None:
    """The signs come out of a published hash, so they are a constant."""
    vector = load_text_encoder("words").embed("cube")
    assert vector.dtype == np.float32
    assert "".join("+" if x > 0 else "-" for x in vector[:16]) == "++++---++---++--"
    assert set(np.abs(vector)) == {1.0}


def test_case_and_punctuation_do_not_matter() -> None:
    """An operator types it one way or another."""
    assert cosine("Pick up the cube.", "pick up the CUBE") == pytest.approx(1.0)


def test_other_instructions_are_told_apart_and_shared_words_bring_them_closer() -> None:
    """Sums of nearly orthogonal directions."""
    shared = cosine("pick up the red cube", "pick up the blue cube")
    assert 0.5 < shared < 0.95
    assert abs(cosine("transfer cube", "insert peg")) < 0.4


def test_a_long_instruction_is_no_larger_than_a_short_one() -> None:
    """Entries have about unit size, as normalised states have."""
    vector = load_text_encoder("words").embed(" ".join(f"word{i}" for i in range(50)))
    assert vector.std() == pytest.approx(1.0, abs=0.3)


def test_no_words_give_zeros() -> None:
    """An episode without an instruction."""
    assert not load_text_encoder("words").embed(" ... ").any()


def test_an_encoder_of_ones_own_is_named_by_module_and_attribute() -> None:
    """A class without arguments, or an object."""
    assert embed(load_text_encoder("test_text:LetterCount"), "four").tolist() == [4.0]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("bert", "unknown text encoder 'bert'"),
        ("no_such_module:Encoder", "cannot be imported"),
        ("test_text:Missing", "no 'Missing'"),
        ("test_text:NO_ENCODER", "no 'size' and 'embed'"),
    ],
)
def test_an_encoder_that_is_none_is_refused(name: str, words: str) -> None:
    """One sentence each."""
    with pytest.raises(PolicyError, match=words):
        load_text_encoder(name)


def test_an_encoder_that_gives_another_shape_than_it_says_is_refused() -> None:
    """Found at the first text."""
    with pytest.raises(PolicyError, match=r"gave shape \(1,\) for 'four', not 2"):
        embed(load_text_encoder("test_text:Liar"), "four")
