"""Cross-checks of a rig's input devices and of the arms they guide."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from teleop.errors import UnknownNameError
from teleop.rig_inputs import BUTTONS, HUBS, FrankaPilot, OpenVrInput, SpaceMouse, WebXrInput

if TYPE_CHECKING:
    from teleop.rig import Rig


def input_faults(rig: Rig) -> Iterator[str]:
    """Every fault, each beginning with its path in the file."""
    for name, config in rig.inputs.items():
        path = f"inputs.{name}"
        if name in HUBS:
            yield f"{path}: the name of a driver cannot be the name of an input"
        if isinstance(config, OpenVrInput) and (config.hand is None) == (config.serial is None):
            yield f"{path}: give either hand or serial"
        if isinstance(config, FrankaPilot) and config.arm not in rig.arms:
            known = ", ".join(rig.arms) or "none"
            yield f"{path}.arm: no arm {config.arm!r}; arms: {known}"
        names, kind = BUTTONS[config.driver], f"{config.driver} button"
        for button in config.buttons:
            if button not in names:
                yield f"{path}.buttons: {UnknownNameError(kind, button, names)}"
    yield from _address_faults(rig)
    yield from _guiding_faults(rig)
    if rig.webxr.view is not None and rig.webxr.view not in rig.cameras:
        known = ", ".join(rig.cameras) or "none"
        yield f"webxr.view: no camera {rig.webxr.view!r}; known: {known}"
    if (rig.webxr.certificate is None) != (rig.webxr.key is None):
        yield "webxr: certificate and key belong together"


def _address_faults(rig: Rig) -> Iterator[str]:
    """Two inputs on one device."""
    users: dict[tuple[str, str], str] = {}
    pucks = [c for c in rig.inputs.values() if isinstance(c, SpaceMouse)]
    for name, config in rig.inputs.items():
        if isinstance(config, SpaceMouse):
            if config.path is None and len(pucks) > 1:
                yield f"inputs.{name}.path: needed, since there are {len(pucks)} SpaceMice"
            key = config.path or name
        elif isinstance(config, OpenVrInput):
            key = config.serial or str(config.hand)
        elif isinstance(config, WebXrInput):
            key = config.hand
        else:
            key = config.address
        first = users.setdefault((config.driver, key), name)
        if first != name:
            yield f"inputs.{first} and inputs.{name}: both use {key!r}"


def _guiding_faults(rig: Rig) -> Iterator[str]:
    guided_by: dict[str, str] = {}
    for name, arm in rig.arms.items():
        if arm.input is None:
            continue
        path = f"arms.{name}.input"
        if arm.role != "follower":
            yield f"{path}: {name} is a {arm.role} arm; an input guides a follower"
        if arm.leader is not None:
            yield f"{path}: {name} also follows the leader {arm.leader!r}; give one of them"
        config = rig.inputs.get(arm.input)
        if config is None or isinstance(config, FrankaPilot):
            known = ", ".join(n for n, c in rig.inputs.items() if not isinstance(c, FrankaPilot))
            yield f"{path}: no motion input {arm.input!r}; known: {known or 'none'}"
        model = rig.arm_models.get(arm.model)
        if model is not None and model.kinematics is None:
            yield f"{path}: arm model {arm.model!r} has no kinematics to guide its tool by"
        if model is not None and model.workspace is None:
            yield f"{path}: arm model {arm.model!r} has no workspace to keep its tool in"
        first = guided_by.setdefault(arm.input, name)
        if first != name:
            yield f"{path}: {arm.input!r} already guides {first}"
