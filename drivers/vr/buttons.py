"""Buttons and axes of SteamVR's controllers, by what they are called on each.

OpenVR's own numbering is that of the first Vive wand, and every other controller is mapped onto
it by the "legacy binding" that SteamVR ships for it. Sources: these bindings
(``legacy_bindings_*.json`` in SteamVR's drivers), Valve's statements in issues 1151 and 1626 of
github.com/ValveSoftware/openvr, HTC's guidelines for the tracker's pogo pins.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from teleop.messages import FloatArray

MENU, GRIP, A, PAD, TRIGGER, AXIS2 = 1, 2, 7, 32, 33, 34
"""Bits: k_EButton_ApplicationMenu, _Grip, _A, _SteamVR_Touchpad, _SteamVR_Trigger and _Axis2."""
_STICK_CENTRED = 0.7
"""The Index's binding sets the stick's click bit when it is deflected by 0.8 and clears it at
0.7: a real click can be told only below."""


@dataclass(frozen=True, slots=True)
class Controls:
    """What a hand does to a controller besides moving it; ranges as in ``PoseInput``."""

    trigger: float
    squeeze: float
    stick: FloatArray
    buttons: frozenset[str]


@dataclass(frozen=True, slots=True)
class Layout:
    """The buttons of a kind of controller."""

    names: tuple[tuple[int, str], ...]
    """Bit and name."""
    analog_trigger: bool = True
    analog_squeeze: bool = True
    stick_presses: bool = False

    @property
    def buttons(self) -> tuple[str, ...]:
        """What its buttons are called."""
        return tuple(dict.fromkeys(name for _, name in self.names))

    def controls(self, pressed: int, axes: Sequence[Sequence[float]]) -> Controls:
        """From OpenVR's button mask and its axes: x and y of pad or stick, trigger, squeeze."""
        stick = np.clip(np.array(axes[0]), -1.0, 1.0)
        down = {name for bit, name in self.names if pressed >> bit & 1}
        if self.stick_presses and math.hypot(*stick) >= _STICK_CENTRED:
            down.discard("thumbstick")
        trigger = axes[1][0] if self.analog_trigger else float("trigger" in down)
        squeeze = axes[2][0] if self.analog_squeeze else 0.0
        return Controls(
            trigger=min(1.0, max(0.0, trigger)),
            # Some bindings tell the squeeze as a button alone.
            squeeze=min(1.0, max(0.0, squeeze or float("squeeze" in down))),
            stick=stick,
            buttons=frozenset(down),
        )


_COMMON = ((TRIGGER, "trigger"), (GRIP, "squeeze"))
_WAND = (*_COMMON, (PAD, "touchpad"), (MENU, "menu"))
_STICK = (*_COMMON, (PAD, "thumbstick"), (A, "a"), (MENU, "b"))
WAND = Layout(_WAND, analog_squeeze=False)
TRACKER = Layout(_WAND, analog_trigger=False, analog_squeeze=False)
"""Its buttons are the contacts on its back; SteamVR passes them on once it has a role."""
INDEX = Layout(_STICK, analog_squeeze=False, stick_presses=True)
"""A firm grip and the A button set the same bit, so both are ``squeeze``; ``a`` needs a binding of
one's own to "A". Axis 2 is not used: it may be the closed hand, which is no act of will."""
TOUCH = Layout((*_STICK, (AXIS2, "squeeze")))


def layout_of(controller_type: str) -> Layout:
    """The layout of a controller by SteamVR's name of its type; with stick, A and B if unknown."""
    if controller_type == "vive_controller":
        return WAND
    if controller_type.startswith("vive_tracker"):
        return TRACKER
    return INDEX if controller_type == "knuckles" else TOUCH
