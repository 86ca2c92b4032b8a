"""How an operator's hand or a puck guides the tool of a follower."""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from teleop.rig_inputs import SPACEMOUSE_BUTTONS, VR_BUTTONS
from teleop.rig_parts import Model, Positive

ToolSpeed = Annotated[float, Field(gt=0, le=1.0)]
"""m/s. Faster than any of these arms is demonstrated with; above that a cap caps nothing."""
ToolTurn = Annotated[float, Field(gt=0, le=math.pi)]
"""rad/s: at most half a turn in a second."""
Scale = Annotated[float, Field(gt=0, le=2.0)]

HandButton = Literal["trigger", "squeeze", "touchpad", "thumbstick", "a", "b", "menu"]
"""One of ``VR_BUTTONS``."""


class PoseFilter(Model):
    """The One-Euro filter of a tracked hand."""

    min_cutoff_hz: Positive = 1.0
    """Cutoff for a hand at rest."""
    beta_1_m: float = Field(default=20.0, ge=0)
    """Rise of the cutoff with speed, Hz per m/s: 16 ms lag in a reach of 0.9 m/s."""
    beta_1_rad: float = Field(default=5.0, ge=0)
    """Hz per rad/s: the lag of a turn of 3 rad/s is then that of a reach."""


class HandSettings(Model):
    """A tracked controller or hand."""

    clutch: HandButton = "squeeze"
    """The arm follows while this is held, and only then."""
    fine: HandButton | None = "thumbstick"
    """While this is held the hand is scaled by ``fine_scale`` instead."""
    gripper: Literal["trigger", "button"] = "trigger"
    """The trigger closes the gripper as far as it is pulled, while the clutch is held; or a button
    whose meaning is ``gripper`` opens and closes it."""
    scale: Scale = 1.0
    """The tool's displacement for the hand's, and its turn for the hand's."""
    fine_scale: Scale = 0.4
    jump_m: Positive = Field(default=0.06, le=0.3)
    """A hand that moves this far from one sample to the next was lost and found again: the
    clutch is latched anew, and the arm stays. At 90 Hz a real hand would move at 5 m/s."""
    jump_rad: Positive = Field(default=0.436, le=math.pi)
    """25 degrees."""
    filter: PoseFilter = PoseFilter()

    @model_validator(mode="after")
    def _buttons_do_one_thing(self) -> Self:
        used = [self.clutch] + ([self.fine] if self.fine else [])
        used += ["trigger"] if self.gripper == "trigger" else []
        twice = sorted({button for button in used if used.count(button) > 1})
        if twice:
            raise ValueError(f"{', '.join(twice)}: one button for two of clutch, fine and gripper")
        return self


class PuckSettings(Model):
    """A rate device such as a SpaceMouse."""

    full_m_s: ToolSpeed = 0.25
    """Speed of the tool at full deflection; as in UMI and diffusion_policy."""
    full_rad_s: ToolTurn = 0.6
    axes: Literal["both", "translate", "rotate"] = "both"
    """Which part of a push counts; the other is ignored."""
    enable: str | None = None
    """A button that must be held for the tool to move; none, when not given."""
    fine: str | None = None
    """While this button is held the push is scaled by ``fine_scale``."""
    fine_scale: Scale = 0.4

    @model_validator(mode="after")
    def _buttons_exist(self) -> Self:
        for button in (self.enable, self.fine):
            if button is not None and button not in SPACEMOUSE_BUTTONS:
                raise ValueError(
                    f"no button {button!r}; known: {SPACEMOUSE_BUTTONS[0]} ... "
                    f"{SPACEMOUSE_BUTTONS[-1]}"
                )
        if self.enable is not None and self.enable == self.fine:
            raise ValueError(f"{self.enable}: one button for both enable and fine")
        return self


class CartesianSettings(Model):
    """Cartesian teleoperation: caps, ages and the two kinds of input."""

    speed_m_s: ToolSpeed = 0.5
    """Cap on the tool's speed; 0.25 for beginners."""
    rotation_rad_s: ToolTurn = 1.5
    """Cap on the tool's turning; 0.6 for beginners."""
    acceleration_m_s2: Positive = Field(default=3.0, le=10.0)
    """How quickly the tool gains and loses speed. More follows a hand's reach closer, until the
    joints' own limits overshoot: an FR3 of 10 rad/s^2 by 8 mm at this value, 22 mm at 4.0."""
    rotation_rad_s2: Positive = Field(default=10.0, le=50.0)
    hold_s: Positive = Field(default=0.1, le=0.5)
    """Age of the newest input beyond which the arm holds, until the input is back."""
    open_s: Positive = Field(default=0.25, le=1.0)
    """Age beyond which the clutch opens: a new press, or a centred puck, is then needed."""
    gripper_rate_1_s: Positive = Field(default=2.0, le=10.0)
    """Full strokes per second of a gripper worked by a button."""
    hand: HandSettings = HandSettings()
    puck: PuckSettings = PuckSettings()

    @model_validator(mode="after")
    def _ages_are_ordered(self) -> Self:
        if self.open_s < self.hold_s:
            raise ValueError(f"open_s {self.open_s} is below hold_s {self.hold_s}")
        return self


def button_held(buttons: int, names: tuple[str, ...], name: str | None) -> bool:
    """Whether the bit of a named button is set; never for None."""
    return name is not None and bool(buttons >> names.index(name) & 1)


def hand_button(buttons: int, name: str | None) -> bool:
    """Whether a button of a VR controller is held."""
    return button_held(buttons, VR_BUTTONS, name)


def puck_button(buttons: int, name: str | None) -> bool:
    """Whether a button of a SpaceMouse is held."""
    return button_held(buttons, SPACEMOUSE_BUTTONS, name)
