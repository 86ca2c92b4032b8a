"""Arms that an Interbotix ROS stack owns, as a rig description tells them."""

from __future__ import annotations

from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from teleop.rig_parts import Angle, ArmBase, Positive

RobotName = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*(/[A-Za-z][A-Za-z0-9_]*)*$")]
"""A ROS namespace without the leading slash."""

SCHEMES = {1: ("http",), "rosbridge": ("ws", "wss")}
"""Of ``master``, by ``ros``; ROS 2 has none."""


class InterbotixArm(ArmBase):
    """One arm whose serial bus belongs to an ``interbotix_xs_sdk`` node.

    Joint names, limits, servos and gripper angles come from the same arm model as on a bus of
    our own.
    """

    driver: Literal["interbotix"] = "interbotix"
    role: Literal["leader", "follower"]
    ros: Literal[1, 2, "rosbridge"] = 1
    """How the node is reached: ROS 1 directly, ROS 2 by ``rclpy``, either by a rosbridge."""
    master: str = "http://localhost:11311"
    """ROS 1: the master's address. Rosbridge: its address, ``ws://host:9090``. ROS 2: not used."""
    robot: RobotName
    """The node's namespace, Interbotix' ``robot_name``."""
    gripper_closed_rad: Angle | None = None
    """This arm's own gripper calibration, before the model's."""
    gripper_open_rad: Angle | None = None
    max_state_age_s: Positive = Field(default=0.1, le=1)
    """Age at which joint states are no longer believed; the node sends 100 a second, and none
    while it carries out a service."""

    @model_validator(mode="after")
    def _master_fits(self) -> Self:
        if self.ros == 2:
            return self
        url = urlsplit(self.master)
        schemes = SCHEMES[self.ros]
        if url.scheme not in schemes or not url.hostname or not _port(self.master):
            raise ValueError(
                f"master {self.master!r} is not {' or '.join(f'{s}://host:port' for s in schemes)}"
                f" as ros: {self.ros} needs"
            )
        return self

    @property
    def address(self) -> str:
        """Where the device is: used by one arm only."""
        where = "ros2" if self.ros == 2 else self.master.rstrip("/")
        return f"{where}/{self.robot}"


def _port(address: str) -> int | None:
    try:
        return urlsplit(address).port
    except ValueError:
        return None
