"""The folder that a training writes into: what lies there, and whether it may."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from policies.card import CARD
from policies.checkpoint import WEIGHTS
from teleop.errors import PolicyError

STATE_FOLDER, TENSORBOARD_FOLDER = "run", "tensorboard"
METRICS, CURVE, BAD_BATCH = "metrics.csv", "curve.png", "bad_batch.npz"
MADE_HERE = (CARD, WEIGHTS, METRICS, CURVE, BAD_BATCH, STATE_FOLDER, TENSORBOARD_FOLDER)
"""What training leaves in the folder, and --overwrite replaces."""


def check_folder(out: Path, in_use: bool) -> None:
    """Refuse a folder that a training cannot write into; nothing is made yet.

    Args:
        out: The folder.
        in_use: Whether it may hold something already.

    Raises:
        PolicyError: says what is in the way.
    """
    places = (out, *out.absolute().parents)
    # Path.exists raises where one may not look.
    place = next(place for place in places if os.path.exists(place))  # noqa: PTH110
    if not place.is_dir():
        raise PolicyError(f"--out {out}: {place} is a file; name a folder")
    if not os.access(place, os.W_OK | os.X_OK):
        raise PolicyError(f"--out {out}: {place} may not be written to; name another folder")
    if place == out and not in_use and any(out.iterdir()):
        raise PolicyError(
            f"{out} is not empty; name another folder with --out, replace what training "
            "left there with --overwrite, or go on with --resume"
        )


def make_folder(out: Path) -> None:
    """Make the folder with those above it.

    Raises:
        PolicyError: it cannot be made.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PolicyError(
            f"--out {out} cannot be made: {error.strerror}; name another folder"
        ) from error


def clear_folder(out: Path) -> None:
    """Delete what training leaves in a folder, and nothing else."""
    for name in MADE_HERE:
        if (out / name).is_dir():
            shutil.rmtree(out / name)
        else:
            (out / name).unlink(missing_ok=True)


def undo_folder(out: Path) -> None:
    """Clear the folder, and delete it when nothing else lies there."""
    clear_folder(out)
    if not any(out.iterdir()):
        out.rmdir()
