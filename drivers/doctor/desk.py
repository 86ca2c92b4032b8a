"""The doctor's look at Desk, the web interface of a Franka: login, brakes, FCI, mode.

Only read. Tested against a protocol emulator only.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from drivers.doctor.checks import Check, refusal_of, told
from drivers.franka.link import DeskState
from drivers.registry import open_input
from teleop.clock import Clock
from teleop.errors import DeviceError, TandemError
from teleop.rig import Rig
from teleop.rig_inputs import FrankaPilot


def desk_checks(name: str, rig: Rig, clock: Clock) -> Iterator[Check]:
    """The pilot's buttons, then the robot's state by Desk.

    Args:
        name: The input's name in the rig.
        rig: The rig.
        clock: Stamps the buttons.
    """
    config = rig.inputs[name]
    assert isinstance(config, FrankaPilot)
    try:
        device = open_input(name, rig, clock)
    except TandemError as error:
        yield told("fail", name, str(error))
        return
    refusal = refusal_of(device)
    device.close()
    if refusal is not None:
        check = told("fail", name, str(refusal))
        file = config.password_file
        remedy = check.remedy or f"write Desk's password into {file}, then run: chmod 600 {file}"
        yield Check("fail", name, check.seen, remedy)
        return
    seen = f"Desk at {config.address} knows {config.username} and tells the pilot's buttons"
    yield Check("ok", name, seen)
    password = config.password_file.expanduser().read_text(encoding="utf-8").strip()
    try:
        yield state_check(name, ask_desk(name, config.address, config.username, password))
    except DeviceError as error:
        yield told("warn", f"{name} desk", str(error))


def state_check(name: str, state: DeskState) -> Check:
    """Whether Desk would let a program control the robot now."""
    thing = f"{name} desk"
    brakes = "brakes open" if state.brakes_open else "brakes locked"
    seen = f"{brakes}, mode {state.operating_mode}, FCI {state.fci or 'not told'}"
    if not state.brakes_open:
        return Check("fail", thing, seen, "unlock the brakes in Desk")
    if state.operating_mode != "Execution":
        return Check("fail", thing, seen, "switch Desk to Execution")
    if state.fci == "Inactive":
        return Check("fail", thing, seen, "activate FCI in Desk")
    return Check("ok", thing, seen)


def ask_desk(name: str, address: str, username: str, password: str) -> DeskState:
    """Read the state.

    Raises:
        DeviceError: Desk does not answer, or not as expected.
    """
    from drivers.franka.franky_link import DeskButtons  # loads franky

    with contextlib.closing(DeskButtons(name, address, username, password)) as desk:
        return desk.state()
