"""The end of the day: all arms at their sleep pose, torque off, and words when one is not."""

from collections.abc import Iterator

import numpy as np
import pytest

from drivers.dynamixel import table
from teleop import cli, runs
from teleop.assembly import Job
from teleop.clock import ns_from_s
from teleop.node import Inputs, NodeHealth, NodePlan, Outputs
from teleop.rig import Rig
from teleop.runs import LockstepReport, LockstepRig
from teleop.session_plan import EpisodeResult

ELBOW = 4


class LooseCable:
    """Takes a servo off its bus as soon as the arms are to let go."""

    name = "loose_cable"

    def __init__(self) -> None:
        self.run: LockstepRig | None = None
        self.plan = NodePlan(period_ns=ns_from_s(0.02))

    def step(self, inputs: Inputs, now_ns: int) -> Outputs:
        if self.run is not None and self.run.session.phase == "ready":
            self.run.world.chains["left_follower"].faults.servo_absent.add(ELBOW)
        return []

    def health(self, now_ns: int) -> NodeHealth:
        return NodeHealth()

    def close(self) -> None:
        """Nothing to release."""


def powered(run: LockstepRig, arm: str) -> list[int]:
    """Servos of an arm that have torque."""
    servos = run.world.chains[arm]
    address = table.TORQUE_ENABLE.address
    return [i for i in range(1, 10) if servos.servo(i).registers.table[address]]


def away_rad(run: LockstepRig, rig: Rig, arm: str) -> float:
    """The largest distance of a joint from its sleep pose."""
    angles = run.world.plant.axis_angle_rad[run.world.plant.axes_of(arm)][:6]
    return float(np.abs(angles - np.array(rig.arm_model(arm).sleep_rad)).max())


@pytest.fixture
def cable() -> LooseCable:
    return LooseCable()


@pytest.fixture
def rest(aloha: Rig, cable: LooseCable) -> Iterator[LockstepRig]:
    """A rest that begins with all arms up and their grippers open."""
    with LockstepRig(aloha, Job("rest"), [cable]) as run:
        for arm in aloha.arms:
            run.world.plant.set_arm(arm, np.array(aloha.arm_model(arm).start_rad), 1.0)
        yield run


def test_after_a_rest_all_arms_stand_at_their_sleep_pose_without_torque(
    rest: LockstepRig, aloha: Rig
) -> None:
    """Leaders and followers, all servos; a second later still."""
    rest.run(lambda: rest.session.phase == "ready", limit_s=30)
    assert all(powered(rest, arm) == list(range(1, 10)) for arm in aloha.arms)
    rest.run(lambda: rest.session.finished, limit_s=30)
    end_ns = rest.clock.now_ns() + ns_from_s(1.0)
    rest.run(lambda: rest.clock.now_ns() >= end_ns, limit_s=2)
    assert {arm: powered(rest, arm) for arm in aloha.arms} == {arm: [] for arm in aloha.arms}
    assert max(away_rad(rest, aloha, arm) for arm in aloha.arms) < 0.15
    result = rest.session.results[0]
    assert result.commander_state == "finished"
    assert result.seconds < 2.0
    assert not [name for name in rest.nodes if name.startswith(("cam", "recorder"))]


def test_an_arm_that_cannot_be_measured_keeps_its_torque_and_is_named(
    rest: LockstepRig, aloha: Rig, cable: LooseCable
) -> None:
    """The other three rest; the run ends by itself and does not say that it is done."""
    cable.run = rest
    rest.run(lambda: rest.session.finished, limit_s=60)
    held = {arm: bool(powered(rest, arm)) for arm in aloha.arms}
    assert [arm for arm in held if held[arm]] == ["left_follower"]
    result = rest.session.results[0]
    assert result.commander_state != "finished"
    assert "left_follower" in result.commander
    assert "elbow (id 4)" in result.commander


@pytest.mark.parametrize(
    ("results", "code", "words"),
    [
        ([EpisodeResult(0, "unknown", 1.0, commander="torque off: a", commander_state="finished")],
         0, "all arms are at rest, torque off: a"),
        ([EpisodeResult(0, "unknown", 9.0, commander="a: elbow failed", commander_state="refused")],
         1, "not all arms are at rest: a: elbow failed"),
        ([], 1, "ended before the arms were at rest"),
    ],
    ids=["at rest", "not at rest", "quit"],
)  # fmt: skip
def test_the_exit_code_says_whether_all_arms_rest(
    results: list[EpisodeResult],
    code: int,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A script that switches the power off afterwards relies on it."""
    report = LockstepReport(results, 1.0, 1.0)
    monkeypatch.setattr(runs, "run_lockstep", lambda *_: report)
    assert cli.main(["rest", "--lockstep"]) == code
    said = capsys.readouterr()
    assert words in (said.err if code else said.out)
