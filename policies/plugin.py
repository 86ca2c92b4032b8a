"""Parts that a user brings along: ``module:attribute`` on the import path."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from teleop.errors import PolicyError, TandemError


def load_plugin(what: str, reference: str) -> Any:
    """The attribute of a module.

    Args:
        what: What it is for, as errors call it.
        reference: ``module:attribute``.

    Raises:
        PolicyError: no such module or attribute.
    """
    module, colon, attribute = reference.partition(":")
    if not (module and colon and attribute):
        raise PolicyError(f"{what} {reference!r} is not of the form module:attribute")
    try:
        return getattr(importlib.import_module(module), attribute)
    except ImportError as error:
        raise PolicyError(
            f"{what} {reference!r} cannot be imported ({error}); install it, or run where "
            "Python finds it (PYTHONPATH)"
        ) from error
    except AttributeError as error:
        raise PolicyError(f"{what} {reference!r}: the module has no {attribute!r}") from error


@contextmanager
def plugin_faults(option: str, reference: str, episode: str = "") -> Iterator[None]:
    """Make one sentence of whatever a part that a user brought along raises.

    Args:
        option: That named it.
        reference: ``module:attribute``.
        episode: It is given; empty while it is loaded.

    Raises:
        PolicyError: names all of these and the error.
    """
    try:
        yield
    except TandemError:
        raise
    except Exception as error:  # foreign code may raise anything
        at = f" at {episode}" if episode else ""
        words = f"{type(error).__name__}: {error}".splitlines()[0]
        raise PolicyError(f"{option} {reference} failed{at} ({words}); mend it") from error
