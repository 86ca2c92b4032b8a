"""What the doctor's looks share: a finding, errors and warnings as findings, drivers' warnings."""

from __future__ import annotations

import contextlib
import logging
import shutil
import sys
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from drivers.base import DeviceHealth
from teleop.errors import TandemError

log = logging.getLogger(__name__)

Status = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Check:
    """One finding."""

    status: Status
    thing: str
    seen: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.status:<4}  {self.thing}: {self.seen}" + (
            f"; {self.remedy}" if self.remedy else ""
        )


def failed(thing: str, error: TandemError) -> Check:
    """An error as a finding; errors are one sentence "thing: seen; remedy"."""
    return told("fail", thing, str(error))


def told(status: Status, thing: str, sentence: str) -> Check:
    """A sentence "thing: seen; remedy" as a finding."""
    sentence = " ".join(sentence.split()).removeprefix(f"{thing}: ")
    seen, _, remedy = sentence.rpartition("; ")
    return Check(status, thing, seen, remedy) if seen else Check(status, thing, sentence)


def install_udev() -> str:
    """The command that installs our udev rules; sudo does not search a virtual environment."""
    running = sys.argv[0] if Path(sys.argv[0]).name == "tandem" else "tandem"
    found = shutil.which(running)
    return f"sudo {Path(found).absolute() if found else 'tandem'} doctor --install-udev"


class Connectable(Protocol):
    """Whatever can be opened and closed again."""

    def connect(self) -> None:
        """Open it.

        Raises:
            TandemError: it does not open; says why.
        """

    def close(self) -> None:
        """Let go of it. Never raises."""


def refusal_of(device: Connectable) -> TandemError | None:
    """Connect; returns why it did not."""
    try:
        device.connect()
    except TandemError as error:
        return error
    return None


def health_check(thing: str, health: DeviceHealth, fine: str, trouble: Status = "fail") -> Check:
    """What a device says of itself, or ``fine`` when it is well."""
    if health.ok:
        return Check("ok", thing, f"{fine}; {health.detail}" if health.detail else fine)
    return told(trouble, thing, health.detail)


def guarded(thing: str, look: Callable[[], Iterator[Check]]) -> Iterator[Check]:
    """The findings of one look; one that breaks is a finding too, and the others go on."""
    try:
        yield from look()
    except TandemError as error:
        yield failed(thing, error)
    except Exception as error:  # the doctor is wanted most where things are as nobody foresaw
        log.debug("%s: unforeseen", thing, exc_info=True)
        seen = f"this look broke: {type(error).__name__}: {error}"
        yield Check("fail", thing, seen, "report it with the output of tandem doctor --debug")


@contextlib.contextmanager
def driver_warnings() -> Iterator[list[str]]:
    """Collect the drivers' warnings, which become findings instead of lines in between."""
    told: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.levelno < logging.WARNING:
                logging.getLogger().handle(record)
            else:
                told.append(record.getMessage())

    logger, collector = logging.getLogger("drivers"), Collector()
    logger.addHandler(collector)
    propagated, logger.propagate = logger.propagate, False
    try:
        yield told
    finally:
        logger.propagate = propagated
        logger.removeHandler(collector)


def warnings(sentences: Collection[str], remedy: str) -> Iterator[Check]:
    """Warnings as findings; they begin with "thing: " as errors do."""
    for sentence in sentences:
        thing, _, seen = sentence.partition(": ")
        yield Check("warn", thing, seen, remedy)
