"""The kinematic models that arms may name: files of MuJoCo, one per arm, without meshes."""

from __future__ import annotations

from pathlib import Path

from teleop.errors import UnknownNameError

_FOLDER = Path(__file__).parent / "models"


def kinematic_model_file(name: str) -> Path:
    """The MJCF file of a model.

    Args:
        name: A model of ``teleop/models``, or the path of an MJCF file.

    Raises:
        UnknownNameError: neither exists.
    """
    own = _FOLDER / f"{name}.xml"
    path = own if own.is_file() else Path(name)
    if not path.is_file():
        known = (file.stem for file in _FOLDER.glob("*.xml"))
        raise UnknownNameError("kinematic model or MJCF file", name, known)
    return path
