"""The doctor's look at Desk, the web interface of a Franka: login, brakes, FCI, mode.

Only read, by the requests that franky's ``desk.py`` makes: the present interface (FR3), else the
older one. Tested against a protocol emulator only.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import json
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from drivers.doctor.checks import Check, refusal_of, told
from drivers.registry import open_input
from teleop.clock import Clock
from teleop.errors import DeviceError, TandemError
from teleop.rig import Rig
from teleop.rig_inputs import FrankaPilot

ANSWER_S = 5.0
NOT_FOUND = 404


@dataclass(frozen=True, slots=True)
class DeskState:
    """What Desk says of the robot."""

    brakes_open: bool
    operating_mode: str
    fci: str
    """``Active`` or ``Inactive``; empty where the older interface does not tell."""


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
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # the box's certificate is its own
    link = http.client.HTTPSConnection(address, timeout=ANSWER_S, context=context)
    try:
        with contextlib.closing(link):
            state = _present_state(link, username, password)
            return state or _older_state(link, username, password)
    except (OSError, http.client.HTTPException, KeyError, TypeError, ValueError) as error:
        raise DeviceError(
            f"{name}: Desk at {address} does not tell its state ({error}); open it in a browser"
        ) from None


def _present_state(
    link: http.client.HTTPSConnection, username: str, password: str
) -> DeskState | None:
    basic = base64.b64encode(f"{username}:{password}".encode()).decode()
    headers = {"Authorization": f"Basic {basic}"}
    status, joints = _get(link, "/api/arm/joints", headers)
    if status == NOT_FOUND:
        return None
    return DeskState(
        all(joint["brakeStatus"] == "Unlocked" for joint in joints),
        str(_get(link, "/api/system/operating-mode", headers)[1]["status"]),
        str(_get(link, "/api/fci", headers)[1]["status"]),
    )


def _older_state(link: http.client.HTTPSConnection, username: str, password: str) -> DeskState:
    digest = hashlib.sha256(f"{password}#{username}@franka".encode()).digest()
    secret = base64.encodebytes(",".join(map(str, digest)).encode()).decode()
    body = json.dumps({"login": username, "password": secret})
    link.request("POST", "/admin/api/login", body, {"Content-Type": "application/json"})
    token = link.getresponse().read().decode()
    headers = {"Cookie": f"authorization={token}"}
    status = _get(link, "/admin/api/system-status", headers)[1]
    return DeskState(
        all(brake == "Unlocked" for brake in status["safety"]["brakeState"]),
        str(status["derived"]["operatingMode"]),
        "",
    )


def _get(
    link: http.client.HTTPSConnection, path: str, headers: Mapping[str, str]
) -> tuple[int, Any]:
    link.request("GET", path, headers=dict(headers))
    answer = link.getresponse()
    body = answer.read()
    if answer.status not in (200, NOT_FOUND):
        raise ValueError(f"{path} answered {answer.status}")
    return answer.status, json.loads(body) if answer.status == 200 else None
