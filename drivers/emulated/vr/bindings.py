"""What SteamVR's legacy bindings make of each controller's buttons: the way a program reads them.

Sources: the legacy bindings that SteamVR's drivers ship (``legacy_bindings_*.json``), Valve's
statements on the Index in github.com/ValveSoftware/openvr issues 1151 and 1626, and HTC's
guidelines for the tracker's pogo pins.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from drivers.emulated.stand_in import HandPose
from teleop.errors import DeviceError
from teleop.messages import FloatArray

_MENU_BIT, _GRIP_BIT, _A_BIT, _PAD_BIT, _TRIGGER_BIT, _AXIS2_BIT = 1, 2, 7, 32, 33, 34
_TRIGGER_CLICK = 0.55
"""Pull at which the trigger also counts as pressed; the Index's binding."""
_STICK_CLICK = 0.8
"""Deflection at which the Index's stick counts as pressed."""


@dataclass(frozen=True, slots=True)
class Binding:
    """Where a controller's buttons end up."""

    bits: Mapping[str, tuple[int, ...]]
    squeeze_press: float
    """Squeeze at which the grip counts as pressed."""
    squeeze_axis: bool
    """Whether axis 2 tells the squeeze."""
    analog_trigger: bool = True
    stick_presses: bool = False


_WAND = {
    "trigger": (_TRIGGER_BIT,),
    "squeeze": (_GRIP_BIT,),
    "touchpad": (_PAD_BIT,),
    "menu": (_MENU_BIT,),
}
BINDINGS: Mapping[str, Binding] = {
    "oculus_touch": Binding(
        {
            "trigger": (_TRIGGER_BIT,),
            "squeeze": (_GRIP_BIT, _AXIS2_BIT),
            "thumbstick": (_PAD_BIT,),
            "a": (_A_BIT,),
            "b": (_MENU_BIT,),
        },
        squeeze_press=0.5,
        squeeze_axis=True,
    ),
    "vive_controller": Binding(_WAND, squeeze_press=0.5, squeeze_axis=False),
    "vive_tracker_handed": Binding(
        _WAND, squeeze_press=0.5, squeeze_axis=False, analog_trigger=False
    ),
    "knuckles": Binding(
        {
            "trigger": (_TRIGGER_BIT,),
            "squeeze": (_GRIP_BIT,),
            "touchpad": (_PAD_BIT,),
            "thumbstick": (_PAD_BIT,),
            "a": (_GRIP_BIT,),
            "b": (_MENU_BIT,),
        },
        squeeze_press=0.8,
        squeeze_axis=True,
        stick_presses=True,
    ),
}
"""By SteamVR's name for the type of controller."""


def pressed_of(controller_type: str, hand: HandPose) -> int:
    """The buttons as bits.

    Raises:
        DeviceError: the controller has no such button.
    """
    binding = BINDINGS[controller_type]
    down = set(hand.buttons)
    if missing := down - set(binding.bits):
        raise DeviceError(
            f"emulated SteamVR: a {controller_type} has no button {', '.join(sorted(missing))}; "
            f"it has {', '.join(binding.bits)}"
        )
    if hand.trigger >= _TRIGGER_CLICK:
        down.add("trigger")
    if hand.squeeze >= binding.squeeze_press:
        down.add("squeeze")
    if binding.stick_presses and math.hypot(*hand.stick) > _STICK_CLICK:
        down.add("thumbstick")
    return sum(1 << bit for bit in {bit for name in down for bit in binding.bits[name]})


def axes_of(controller_type: str, hand: HandPose) -> FloatArray:
    """The five axes, shape (5, 2): stick or pad, trigger, squeeze, unused."""
    binding = BINDINGS[controller_type]
    axes = np.zeros((5, 2))
    axes[0] = hand.stick
    axes[1, 0] = hand.trigger if binding.analog_trigger else 0.0
    axes[2, 0] = hand.squeeze if binding.squeeze_axis else 0.0
    return axes
