"""The doctor's look at the calibration results beside a rig file."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from calibration.results import folder_of, load_results
from calibration.rules import check_calibration, enforced
from drivers.doctor.checks import Check, Status, told
from drivers.identity import identities_found
from teleop.errors import RigError
from teleop.rig import Rig

THING = "calibration"
PAGE = "docs/calibration.md"


def calibrated(rig: Rig, hardware: Path) -> Rig:
    """The rig as a session would see it; as its file has it where the results do not fit."""
    try:
        return enforced(rig, load_results(folder_of(hardware, rig.backend)), str(hardware))
    except RigError:
        return rig


def calibration_checks(rig: Rig, hardware: Path, sysfs: Path = Path("/sys")) -> Iterator[Check]:
    """Whether the results are readable, of these devices, good, and complete.

    Args:
        rig: The rig; of an emulated one the emulation's results are looked at.
        hardware: Its file.
        sysfs: Where the kernel shows USB adapters.
    """
    folder = folder_of(hardware, rig.backend)
    try:
        results = load_results(folder)
    except RigError as error:
        for fault in error.faults:
            yield told("fail", THING, f"{folder}: {fault}")
        return
    found = identities_found(rig, sysfs)
    alike: dict[tuple[Status, str], list[str]] = defaultdict(list)
    for finding in check_calibration(rig, results, found):
        who, _, what = finding.words.partition(": ")
        alike[(finding.level, what or who)].append(who if what else "")
    for (level, words), named in alike.items():
        names = ", ".join(filter(None, named))
        sentence = f"{names}: {words}" if names else words
        if "; " not in sentence:
            sentence += f"; run tandem calibrate, see {PAGE}"
        yield told(level, THING, sentence)
    if all(level == "ok" for level, _ in alike):
        count = len(results.by_stem)
        seen = f"{count} results in {folder} are of these devices"
        yield Check("ok", THING, seen if count else f"no results in {folder}, and none needed")
