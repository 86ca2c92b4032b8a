"""Calibration results: one YAML file each, in a folder beside the rig file.

``hardware.yaml`` has ``hardware.calibration/``; results of the emulated rig lie in its folder
``emulated``, so that neither world is ever moved by the other's numbers. A result that is
measured again goes to the folder ``old``.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import Field, ValidationError, model_validator

from calibration.result_values import VALUES, Kind, Values
from teleop.errors import RigError
from teleop.rig_parts import Model, Name

RESULT_VERSION = 1
_HEADER = "# Written by `tandem calibrate`; measure again rather than edit.\n"
V = TypeVar("V")


class Result(Model):
    """One measured calibration."""

    schema_version: int = Field(default=RESULT_VERSION, ge=1, le=RESULT_VERSION)
    kind: Kind
    name: Name
    """The arm, camera or input that it is of."""
    made: str
    """Wall time, ISO 8601 with time zone."""
    made_by: str
    software: str
    """Version of the program that measured."""
    devices: dict[Name, dict[str, str]]
    """What it belongs to: for each device what tells it from another, see ``calibration.rules``."""
    based_on: dict[str, str] = Field(default_factory=dict)
    """SHA-256 of the results that it was computed with, by their file stem."""
    values: dict[str, Any]
    """See ``calibration.result_values``."""
    residuals: dict[str, Any]
    """How well the measurements agree, each with its unit in its name."""

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, content: Any) -> Any:
        """Check the values by their kind."""
        if isinstance(content, dict) and content.get("kind") in VALUES:
            kind_values = VALUES[content["kind"]].model_validate(content.get("values"))
            return {**content, "values": kind_values.model_dump(mode="json")}
        return content

    @property
    def stem(self) -> str:
        """File name without its suffix."""
        return f"{self.kind}_{self.name}"

    @property
    def sha256(self) -> str:
        """Tells one measurement from another."""
        return sha256_of(self.model_dump(mode="json"))

    def values_as(self, kind_values: type[V]) -> V:
        """The values, typed.

        Raises:
            TypeError: the result is of another kind.
        """
        typed: Values = VALUES[self.kind].model_validate(self.values)
        if not isinstance(typed, kind_values):
            raise TypeError(f"{self.stem} holds no {kind_values.__name__}")
        return typed


@dataclass(frozen=True, slots=True)
class Results:
    """All results of one rig."""

    folder: Path
    by_stem: Mapping[str, Result]

    def get(self, kind: Kind, name: str) -> Result | None:
        """One result, if it was measured."""
        return self.by_stem.get(f"{kind}_{name}")

    def snapshot(self) -> dict[str, Any]:
        """What is stored in every episode: the content of all files."""
        return {stem: result.model_dump(mode="json") for stem, result in self.by_stem.items()}

    @property
    def sha256(self) -> str:
        """Over all results; equal to ``recorder.episode.Episode.calibration_sha256``."""
        return sha256_of(self.snapshot())


def sha256_of(content: Mapping[str, Any]) -> str:
    """Of a mapping of plain values, whatever the order of its names."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def folder_of(rig_file: Path, backend: Literal["hardware", "emulated", "lockstep"]) -> Path:
    """Where the results of a rig lie."""
    folder = rig_file.with_name(f"{rig_file.stem}.calibration")
    return folder if backend == "hardware" else folder / "emulated"


def make_result(
    kind: Kind,
    name: str,
    values: Values,
    residuals: Mapping[str, Any],
    devices: Mapping[str, Mapping[str, str]],
    made_by: str,
    based_on: Mapping[str, str] | None = None,
) -> Result:
    """A result measured now by this program."""
    content = {
        "kind": kind,
        "name": name,
        "made": datetime.now(UTC).astimezone().isoformat(timespec="seconds"),
        "made_by": made_by,
        "software": _software(),
        "devices": {device: dict(identity) for device, identity in devices.items()},
        "based_on": dict(based_on or {}),
        "values": values.model_dump(mode="json"),
        # Through JSON: numpy numbers become plain ones, and NaN is refused.
        "residuals": json.loads(json.dumps(dict(residuals), allow_nan=False)),
    }
    return Result.model_validate(content)


def load_results(folder: Path) -> Results:
    """Read all results of a folder; none if there is no such folder.

    Raises:
        RigError: listing every file that is not a result, or of a newer program.
    """
    faults: list[str] = []
    found: dict[str, Result] = {}
    for path in sorted(folder.glob("*.yaml")):
        try:
            result = Result.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
        except ValidationError as error:
            faults += [f"{path.name}: {_words(item)}" for item in error.errors()]
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            faults.append(f"{path.name}: cannot be read: {' '.join(str(error).split())}")
        else:
            if path.stem != result.stem:
                faults.append(f"{path.name}: holds {result.stem}; give it that name")
            found[result.stem] = result
    if faults:
        raise RigError(
            str(folder), [f"{fault}; move it away and calibrate again" for fault in faults]
        )
    return Results(folder, found)


def write_result(result: Result, folder: Path) -> Path:
    """Write a result, whole or not at all; the one it replaces is kept in ``old``.

    Raises:
        OSError: the folder cannot be written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{result.stem}.yaml"
    text = yaml.safe_dump(result.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    temporary = path.with_suffix(".yaml.tmp")
    temporary.write_text(_HEADER + text, encoding="utf-8")
    if path.exists():
        old = folder / "old"
        old.mkdir(exist_ok=True)
        shutil.copy2(
            path, old / f"{result.stem}.{1 + len(list(old.glob(f'{result.stem}.*')))}.yaml"
        )
    temporary.replace(path)
    return path


def _words(item: Any) -> str:
    where = ".".join(str(part) for part in item["loc"])
    if where == "schema_version":
        return f"is of version {item['input']}, this program reads {RESULT_VERSION}"
    return f"{where or 'content'}: {item['msg']}"


def _software() -> str:
    try:
        return version("tandem-rig")
    except PackageNotFoundError:
        return "not installed"
