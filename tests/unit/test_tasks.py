import numpy as np
import pytest

from drivers.emulated.operators.plans import PLANNERS
from drivers.emulated.plant import ARMS, Plant
from drivers.emulated.tasks import (
    HOLD_S,
    INSERTION,
    REACH,
    TASKS,
    TRANSFER_CUBE,
    Contacts,
    Referee,
    task_named,
)
from teleop.errors import UnknownNameError
from teleop.rig import Rig


class Touching(Contacts):
    """Contacts that are simply said."""

    def __init__(self, *pairs: tuple[str, str]) -> None:
        self._pairs = {frozenset(pair) for pair in pairs}

    def touch(self, one: str, other: str) -> bool:
        return frozenset((one, other)) in self._pairs


ON_TABLE = ("cube", "table")
RIGHT = ("right_pad_1", "cube")
LEFT = ("left_pad_2", "cube")


@pytest.mark.parametrize(
    ("contacts", "stage"),
    [
        ([ON_TABLE], 0),
        ([], 0),
        ([ON_TABLE, RIGHT], 1),
        ([RIGHT], 2),
        ([RIGHT, LEFT], 3),
        ([ON_TABLE, LEFT], 3),
        ([LEFT], 4),
    ],
)
def test_transfer_stages(contacts: list[tuple[str, str]], stage: int) -> None:
    """Touched, lifted, touched by the other hand, held by the other hand alone."""
    assert TRANSFER_CUBE.stage(Touching(*contacts)) == stage


TOUCH = [("left_pad_1", "socket"), ("right_pad_1", "peg")]
HOLD = [*TOUCH, ("left_pad_2", "socket"), ("right_pad_2", "peg")]


@pytest.mark.parametrize(
    ("contacts", "stage"),
    [
        ([], 0),
        ([TOUCH[0]], 0),
        ([*HOLD, ("socket", "table")], 1),
        ([*HOLD, ("peg", "table")], 1),
        (TOUCH, 1),
        (HOLD, 2),
        ([*HOLD, ("peg", "socket")], 3),
        ([*HOLD, ("peg", "socket"), ("peg", "pin")], 4),
        ([*HOLD, ("peg", "pin"), ("peg", "table")], 1),
    ],
)
def test_insertion_stages(contacts: list[tuple[str, str]], stage: int) -> None:
    """Touched, held in the air, peg at the socket, peg at the pin."""
    assert INSERTION.stage(Touching(*contacts)) == stage


def test_contacts_of_the_physics_bear_the_labels() -> None:
    """What lies on the table touches it and nothing else."""
    plant = Plant(ARMS, "insertion", seed=0)
    for _ in range(10):
        plant.step(np.zeros(28), np.zeros(28))
    contacts = Contacts(plant.model)
    contacts.update(plant.data)
    assert contacts.touch("peg", "table")
    assert contacts.touch("table", "socket")
    assert not contacts.touch("peg", "socket")
    assert not contacts.gripper_touches("left", "socket")


@pytest.mark.parametrize("task", [TRANSFER_CUBE, INSERTION], ids=lambda task: task.name)
def test_objects_lie_within_their_ranges(task) -> None:
    """A hundred episodes stay inside the box and use most of it."""
    poses = np.array([task.place(5, episode) for episode in range(100)])
    assert (poses[:, :, :3] >= task.low_m).all()
    assert (poses[:, :, :3] <= task.high_m).all()
    assert (np.ptp(poses[:, :, :2], axis=0) > 0.8 * (task.high_m - task.low_m)[:, :2]).all()
    assert (poses[:, :, 3:] == [1, 0, 0, 0]).all()


def test_an_unknown_task_is_refused_with_the_nearest_names() -> None:
    """The message names the task and a near one."""
    with pytest.raises(UnknownNameError, match=r"'transfer_cub'; did you mean transfer_cube"):
        task_named("transfer_cub", ARMS)


def test_every_task_of_the_shipped_rig_can_be_emulated_and_done(aloha: Rig) -> None:
    """``hardware.yaml``, the emulator and the scripted operator know the same tasks."""
    assert set(aloha.tasks) == set(TASKS)
    assert set(PLANNERS) == {*TASKS, REACH}


class Clockwork:
    """Just enough of MuJoCo's data for a referee whose contacts are said."""

    time = 0.0


def test_success_needs_the_last_stage_held_without_a_break(monkeypatch) -> None:
    """A touch of the last stage is not success; holding it is; losing it takes success back."""
    plant = Plant(ARMS, "transfer_cube", seed=0)
    referee, said = Referee(plant.task, plant.model), [LEFT]
    monkeypatch.setattr(Contacts, "update", lambda self, data: None)
    monkeypatch.setattr(Contacts, "touch", lambda self, *pair: pair in said)
    data = Clockwork()

    def judged_at(time_s: float) -> bool:
        data.time = time_s
        referee.judge(data)
        return referee.success

    assert not judged_at(0.0)
    assert not judged_at(0.9 * HOLD_S)
    assert judged_at(HOLD_S)
    said.append(RIGHT)
    assert not judged_at(2.0)
    said.remove(RIGHT)
    assert not judged_at(3.0)
    assert judged_at(3.1 + HOLD_S)
    referee.reset()
    assert not referee.success
