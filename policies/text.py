"""Text encoders: an instruction as a vector.

``words`` is built in: each word has a fixed random direction and an instruction is the sum of
its words', so that different instructions are far apart and shared words bring them closer. It
needs no download and no training, and knows nothing of meaning. An encoder that does is
brought along as ``module:attribute``.
"""

from __future__ import annotations

import hashlib
import re
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray

from policies.plugin import load_plugin
from teleop.errors import PolicyError

WORDS = "words"
WORDS_SIZE = 64
"""Enough that two words out of thousands are nearly at right angles."""


class TextEncoder(Protocol):
    """Turns an instruction into a vector, always the same."""

    @property
    def size(self) -> int:
        """Columns of an embedding, E."""

    def embed(self, text: str) -> NDArray[np.float32]:
        """Shape (E,), with entries of about unit size."""


class WordHashes:
    """The built-in encoder: signs out of a hash per word, as in random projections
    (Achlioptas 2003)."""

    size = WORDS_SIZE

    def embed(self, text: str) -> NDArray[np.float32]:
        """Sum over words, each entry of unit deviation; zeros when there are none."""
        words = re.findall(r"\w+", text.casefold())
        total = sum((_signs(word) for word in words), np.zeros(self.size))
        vector: NDArray[np.float32] = (total / max(1, len(words)) ** 0.5).astype(np.float32)
        return vector


def load_text_encoder(name: str) -> TextEncoder:
    """An encoder by its name.

    Args:
        name: ``words``, or ``module:attribute`` of an encoder or of a class without arguments.

    Raises:
        PolicyError: there is no such encoder, or it is none.
    """
    if name == WORDS:
        return WordHashes()
    if ":" not in name:
        raise PolicyError(f"unknown text encoder {name!r}; name {WORDS!r} or module:attribute")
    found = load_plugin("text encoder", name)
    encoder = found() if isinstance(found, type) else found
    if not (hasattr(encoder, "size") and hasattr(encoder, "embed")):
        raise PolicyError(f"text encoder {name!r} has no 'size' and 'embed'")
    return cast(TextEncoder, encoder)


def embed(encoder: TextEncoder, text: str) -> NDArray[np.float32]:
    """An instruction's embedding, checked.

    Raises:
        PolicyError: the encoder does not keep its word about shape, or gives no numbers.
    """
    vector = np.asarray(encoder.embed(text), np.float32)
    if vector.shape != (encoder.size,) or not np.isfinite(vector).all():
        raise PolicyError(
            f"the text encoder gave shape {vector.shape} for {text!r}, "
            f"not {encoder.size} finite numbers"
        )
    return vector


def _signs(word: str) -> NDArray[np.float64]:
    """The word's direction, entries -1 or 1; (E,)."""
    digest = hashlib.shake_256(word.encode()).digest(WORDS_SIZE // 8)
    bits = np.unpackbits(np.frombuffer(digest, np.uint8)).astype(np.float64)
    return 2 * bits - 1
