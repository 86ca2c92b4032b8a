"""Every error Tandem raises on purpose.

The message names the thing, what was seen, and what to do. The command line prints
that one sentence; ``--debug`` adds the traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class TandemError(Exception):
    """Base of all errors that a user is meant to read."""


class RigError(TandemError, ValueError):
    """The rig description is not usable; lists every fault with its path in the file."""

    def __init__(self, source: str, faults: Iterable[str]) -> None:
        self.source = source
        self.faults = tuple(faults)
        lines = "".join(f"\n  - {fault}" for fault in self.faults)
        super().__init__(f"{source}: {len(self.faults)} fault(s) in the rig description:{lines}")


class UnknownNameError(TandemError, LookupError):
    """A name (task, arm, camera, policy, topic ...) that nothing here bears."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        names = sorted(known)
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.4)
        known_names = f"known: {', '.join(names) or 'none'}"
        hint = f"did you mean {' or '.join(near)}?" if near else known_names
        super().__init__(f"unknown {kind} {name!r}; {hint}")


class MissingExtraError(TandemError, ImportError):
    """An optional dependency is needed and not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs {package}, which is not installed; "
            f"run: pip install 'tandem-rig[{extra}]'"
        )


class DeviceError(TandemError, OSError):
    """A device is absent, misconfigured, or answers wrongly."""


class DeviceLostError(DeviceError):
    """A device that was working has gone (unplugged, powered off, process killed)."""


class SafetyError(TandemError):
    """A request was refused because carrying it out could hurt someone or something."""


class WireError(TandemError, ValueError):
    """Bytes that are not one of our messages."""


class BusError(TandemError, OSError):
    """A topic endpoint cannot be bound, reached or secured."""


class NodeFailedError(TandemError, RuntimeError):
    """A node of the running rig died or stopped answering."""


class EpisodeError(TandemError, ValueError):
    """An episode file is missing, truncated, foreign, or of a newer version."""


class RecordingError(TandemError, RuntimeError):
    """Recording cannot start or go on (stream not alive, disk full, not writable)."""


class PolicyError(TandemError, ValueError):
    """A policy cannot be built, loaded, or does not fit the rig or the data."""
