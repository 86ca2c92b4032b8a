"""What an episode must know besides its messages, written first of all into its folder.

With ``meta.json`` and the journals a cut-off episode can be finished by a program that has
never seen the rig.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Self

from recorder.schema import META_NAME
from teleop.errors import EpisodeError
from teleop.rig import Rig

META_VERSION = 1


def calibration_sha256(calibration: Mapping[str, Any]) -> str:
    """Tells one set of calibration results from another, whatever the order of its names."""
    return hashlib.sha256(json.dumps(calibration, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class StreamPlan:
    """One recorded topic and what is expected of it."""

    topic: str
    nominal_hz: float | None
    required: bool
    """The episode makes no sense without it."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the episodes of a session come from."""

    job: str = ""
    """``record``, ``replay``, ``deploy`` ..."""
    seed: int | None = None
    """Places the objects of an emulated scene, together with the episode's index."""
    first_episode: int = 0
    tags: tuple[str, ...] = ()
    """Words that the operator gave the session, to choose episodes by."""

    def scene_of(self, episode: int) -> tuple[int, int] | None:
        """Seed and index that place the emulated scene of an episode."""
        return None if self.seed is None else (self.seed, self.first_episode + episode)


@dataclass(frozen=True, slots=True)
class Meta:
    """The content of ``meta.json``."""

    task: str
    instruction: str
    operator: str
    episode: int
    """Index within the session."""
    start_ns: int
    wall_start: str
    """ISO 8601 with time zone; the only wall time of an episode."""
    software_version: str
    rig: dict[str, Any]
    """``Rig.model_dump(mode="json")``."""
    calibration: dict[str, Any]
    job: str
    """What was run: ``record``, ``replay``, ``deploy`` ..."""
    scene: tuple[int, int] | None
    """Emulated rigs: seed and index that placed the objects."""
    streams: tuple[StreamPlan, ...]
    tags: tuple[str, ...] = ()
    meta_version: int = META_VERSION

    def write(self, folder: Path) -> None:
        """Write whole or not at all; ``sync`` makes it durable.

        Raises:
            OSError: the folder cannot be written to.
        """
        temporary = folder / (META_NAME + ".tmp")
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump(asdict(self), file, indent=1)
        temporary.replace(folder / META_NAME)

    @staticmethod
    def sync(folder: Path) -> None:
        """Force the file, its name and the folder's own name to the disk."""
        sync_path(folder / META_NAME)
        sync_path(folder)
        sync_path(folder.parent)

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read it back.

        Raises:
            EpisodeError: missing, damaged or of a newer version.
        """
        path = folder / META_NAME
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["meta_version"] > META_VERSION:
                raise EpisodeError(
                    f"{path} has version {content['meta_version']}, this program reads "
                    f"{META_VERSION}; use the program that recorded it"
                )
            streams = tuple(StreamPlan(**plan) for plan in content.pop("streams"))
            content["tags"] = tuple(content.get("tags", ()))  # older recorders wrote none
            scene = content.pop("scene")
            return cls(streams=streams, scene=None if scene is None else tuple(scene), **content)
        except FileNotFoundError as error:
            raise EpisodeError(f"{path} is missing: the recording never began") from error
        except (ValueError, KeyError, TypeError) as error:
            if isinstance(error, EpisodeError):
                raise
            raise EpisodeError(f"{path} is damaged ({error})") from error

    def load_rig(self) -> Rig:
        """The rig that recorded."""
        return Rig.model_validate(self.rig)


def software_version() -> str:
    """Version of the installed distribution."""
    try:
        return version("tandem-rig")
    except PackageNotFoundError:
        return "not installed"


def sync_path(path: Path) -> None:
    """Force a file's content, or the names in a folder, to the disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
