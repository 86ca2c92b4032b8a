"""The session: phases, operator's wishes, emergency stop, and what the recorder is told."""

import json
from dataclasses import replace

import numpy as np
import pytest

from teleop import messages as m
from teleop import topics
from teleop.clock import ns_from_s
from teleop.errors import NodeFailedError, RecordingError
from teleop.node import Inputs, Received
from teleop.rig import Rig
from teleop.session import SessionNode
from teleop.session_plan import Action, SessionPlan

PLAN = SessionPlan(
    task="transfer_cube",
    episodes=2,
    record=True,
    max_seconds=5.0,
    start="gripper",
    stop_when=frozenset({"operator"}),
    must_live=("commander", "recorder", "emulator"),
)


class Stage:
    """Feeds a session with what a rig would say, in steps of 20 ms."""

    def __init__(self, rig: Rig, plan: SessionPlan = PLAN) -> None:
        self.session = SessionNode(rig, plan)
        self.rig = rig
        self.now_ns = ns_from_s(100)
        self.commander = "homing"
        self.emulator = "ok"
        self.opening = 0.5
        self.task: tuple[int, bool] | None = None
        self.alive = {"commander", "recorder", "emulator"}
        self.answers: dict[str, str | None] = {"start": "started", "stop": "saved"}
        self.events: list[m.EpisodeEvent] = []
        self.stop: m.StopState | None = None
        self.pressed: list[tuple[str, str]] = []
        """Meanings of buttons that are pressed now, by input."""
        self._pending: list[m.EpisodeEvent] = []
        self._seq = 0

    def step(self, seconds: float = 0.02) -> None:
        """Step for this long."""
        for _ in range(max(1, round(seconds / 0.02))):
            self.now_ns += ns_from_s(0.02)
            for topic, message in self.session.step(self._inputs(), self.now_ns):
                if isinstance(message, m.EpisodeEvent):
                    self.events.append(message)
                    self._answer(message)
                if topic == topics.SESSION_STOP:
                    assert isinstance(message, m.StopState)
                    self.stop = message

    def until(self, phase: str, seconds: float = 10.0) -> None:
        """Step until the session is in a phase."""
        for _ in range(round(seconds / 0.02)):
            if self.session.phase == phase:
                return
            self.step()
        raise AssertionError(f"still in {self.session.phase}, never in {phase}")

    def to_running(self) -> None:
        """Through homing and ready by closing the grippers."""
        self.until("homing")
        self.commander = "home"
        self.until("ready")
        self.commander, self.opening = "ready", 0.1
        self.until("running")
        self.commander = "following"

    def _inputs(self) -> Inputs:
        states = {"commander": self.commander, "emulator": self.emulator, "recorder": "idle"}
        said: dict[str, list[m.Message]] = {
            topics.node_health(n): [m.Health(self.now_ns, 0, n, True, states[n], "", {})]
            for n in self.alive
        }
        for arm in self.rig.leaders:
            state = m.ArmState(self.now_ns, 0, np.zeros(6), None, None, self.opening, None, None)
            said[topics.arm_state(arm)] = [state]
        if self.task is not None:
            stage, success = self.task
            task = m.TaskState(self.now_ns, 0, "transfer_cube", stage, 4, success, np.zeros((1, 7)))
            said[topics.TASK_STATE] = [task]
        for name, meaning in self.pressed:
            pressed = m.OperatorAction(self.now_ns, 0, meaning)
            said.setdefault(topics.input_action(name), []).append(pressed)
        self.pressed = []
        said[topics.RECORDER_EVENT] = list(self._pending)
        self._pending = []
        return Inputs({t: [Received(x, self.now_ns) for x in xs] for t, xs in said.items() if xs})

    def _answer(self, event: m.EpisodeEvent) -> None:
        kind = self.answers.get(event.kind)
        if kind is not None:
            detail = json.dumps({"path": f"e{event.episode}", "verdict": "pass", "reasons": []})
            self._pending.append(replace(event, kind=kind, detail=detail))


def test_closing_the_leader_grippers_starts_an_episode(aloha: Rig) -> None:
    """Both closed, not before; the recorder is told at that moment."""
    stage = Stage(aloha)
    stage.until("homing")
    stage.commander = "home"
    stage.until("ready")
    stage.commander = "ready"
    stage.step(1.0)
    assert stage.session.phase == "ready"
    stage.opening = 0.1
    stage.until("running")
    assert [e.kind for e in stage.events] == ["start"]


def test_the_phase_waits_for_a_heartbeat_from_the_same_phase(aloha: Rig) -> None:
    """A commander that said "ready" in the episode before does not start the next one."""
    stage = Stage(aloha)
    stage.until("homing")
    stage.step(0.5)
    assert stage.session.phase == "homing"


def test_the_session_ends_after_its_episodes_are_saved(aloha: Rig) -> None:
    """Two episodes, both saved, then finished; outcomes come from the task's success."""
    stage = Stage(aloha)
    for success in (True, False):
        stage.task = (4 if success else 1, success)
        stage.to_running()
        stage.step(1.0)
        stage.emulator = "finished"
        stage.until("stopping")
        stage.emulator, stage.opening, stage.commander = "ok", 0.5, "homing"
    stage.until("done")
    stage.step(0.1)
    assert stage.session.finished
    results = [(r.outcome, r.path, r.verdict) for r in stage.session.results]
    assert results == [("success", "e0", "pass"), ("failure", "e1", "pass")]
    assert stage.session.results[0].stage == 4


def test_the_session_waits_for_a_slow_save(aloha: Rig) -> None:
    """Not finished while an episode is still being written."""
    stage = Stage(aloha, replace(PLAN, episodes=1))
    stage.answers["stop"] = "stopped"
    stage.to_running()
    stage.session.act(Action.SUCCESS)
    stage.until("done")
    stage.step(2.0)
    assert not stage.session.finished
    stage._answer(replace(stage.events[-1], kind="stop"))
    stage.answers["stop"] = "saved"
    stage._answer(stage.events[-1])
    stage.step(0.1)
    assert stage.session.finished


@pytest.mark.parametrize(
    ("action", "outcome"),
    [(Action.STOP, "unknown"), (Action.SUCCESS, "success"), (Action.FAILURE, "failure")],
)
def test_keys_end_an_episode_with_their_outcome(aloha: Rig, action: Action, outcome: str) -> None:
    """Stop, success and failure are the operator's word."""
    stage = Stage(aloha)
    stage.to_running()
    stage.session.act(action)
    stage.until("stopping")
    assert stage.events[-1].kind == "stop"
    assert stage.events[-1].outcome == outcome


def test_redo_discards_the_running_episode_and_goes_home(aloha: Rig) -> None:
    """The recorder is told to stop and to discard it; the count does not include it."""
    stage = Stage(aloha)
    stage.to_running()
    stage.session.act(Action.REDO)
    stage.step(0.2)
    assert [e.kind for e in stage.events] == ["start", "stop", "discard"]
    assert stage.session.phase == "homing"
    assert stage.session.results == []


def test_redo_pressed_twice_drops_one_attempt_and_no_saved_episode(aloha: Rig) -> None:
    """A nervous finger must not cost the good episode before; its number is not used again."""
    stage = Stage(aloha, replace(PLAN, episodes=3))
    stage.to_running()
    stage.session.act(Action.SUCCESS)
    stage.step(0.5)
    stage.commander, stage.opening = "homing", 0.5
    stage.to_running()
    for _ in range(2):
        stage.session.act(Action.REDO)
        stage.step(0.2)
    assert [r.index for r in stage.session.results] == [0]
    assert [e.episode for e in stage.events if e.kind == "discard"] == [1]
    assert "nothing to redo" in stage.session.notice
    stage.commander, stage.opening = "homing", 0.5
    stage.to_running()
    stage.step(0.1)
    assert [e.episode for e in stage.events if e.kind == "start"] == [0, 1, 2]


def test_a_stop_waits_until_the_start_has_been_heard(aloha: Rig) -> None:
    """A recorder that missed the start would not know what to stop."""
    stage = Stage(aloha)
    stage.answers["start"] = None
    stage.to_running()
    stage.session.act(Action.SUCCESS)
    stage.step(0.3)
    assert {e.kind for e in stage.events} == {"start"}
    stage.answers["start"] = "started"
    stage.step(1.0)
    assert stage.events[-1].kind == "stop"


def test_a_recorder_that_never_answers_is_an_error(aloha: Rig) -> None:
    """Better than an episode that nobody records."""
    stage = Stage(aloha, replace(PLAN, max_seconds=60.0))
    stage.answers["start"] = None
    stage.to_running()
    with pytest.raises(RecordingError, match="does not answer to the start of episode 0"):
        stage.step(12.0)


def test_a_refusal_does_not_release_an_emergency_stop(aloha: Rig) -> None:
    """Attended: the stop stays, its words stay, and no phantom episode is waited for."""
    stage = Stage(aloha, replace(PLAN, start="key", stop_when=frozenset()))
    stage.answers["start"] = "refused"
    stage.until("homing")
    stage.commander = "home"
    stage.until("ready")
    stage.commander = "ready"
    stage.step(0.1)
    stage.session.act(Action.START)
    stage.session.act(Action.EMERGENCY_STOP)
    stage.step(0.5)
    assert stage.session.phase == "stopped"
    assert "EMERGENCY STOP" in stage.session.notice
    assert stage.session.results == []
    stage.session.act(Action.QUIT)
    stage.step(0.1)
    assert stage.session.finished


def test_attended_a_refused_episode_sends_the_operator_home_again(aloha: Rig) -> None:
    """The reason is told, and the next try bears a new number."""
    stage = Stage(aloha, replace(PLAN, stop_when=frozenset()))
    stage.answers["start"] = "refused"
    stage.to_running()
    stage.until("homing")
    assert "recording refused" in stage.session.notice
    assert stage.session.episode == 1


def test_a_second_quit_does_not_wait_for_a_slow_save(aloha: Rig) -> None:
    """The journals stay for tandem recover."""
    stage = Stage(aloha)
    stage.answers["stop"] = "stopped"
    stage.to_running()
    stage.session.act(Action.QUIT)
    stage.until("done")
    stage.step(3.0)
    assert "saving episode(s) [0]" in stage.session.notice
    stage.session.act(Action.QUIT)
    stage.step(0.1)
    assert stage.session.finished


def test_an_emergency_stop_is_latched_and_takes_two_acts_to_clear(aloha: Rig) -> None:
    """Neither clear nor confirm alone nor start releases it; the episode so far is kept."""
    stage = Stage(aloha)
    stage.to_running()
    stage.session.act(Action.EMERGENCY_STOP)
    stage.step()
    assert stage.session.phase == "stopped"
    assert stage.events[-1].kind == "stop"
    for action in (Action.CONFIRM, Action.START, Action.CLEAR_STOP, Action.START):
        stage.session.act(action)
        stage.step(0.1)
        assert stage.stop is not None
        assert stage.stop.engaged
    stage.session.act(Action.CONFIRM)
    stage.step(0.1)
    assert not stage.stop.engaged
    assert stage.session.phase == "stopped"
    stage.session.act(Action.START)
    stage.until("homing", seconds=0.1)


def test_after_an_emergency_stop_the_next_episode_bears_a_new_number(aloha: Rig) -> None:
    """The one that was broken off is kept under its own; the session then ends as planned."""
    stage = Stage(aloha)
    stage.to_running()
    for action in (Action.EMERGENCY_STOP, Action.CLEAR_STOP, Action.CONFIRM, Action.START):
        stage.session.act(action)
        stage.step(0.1)
    stage.commander, stage.opening = "homing", 0.5
    stage.to_running()
    stage.session.act(Action.SUCCESS)
    stage.until("done")
    stage.step(0.1)
    assert stage.session.finished
    assert [(r.index, r.outcome) for r in stage.session.results] == [(0, "unknown"), (1, "success")]


def test_a_confirmation_that_comes_late_does_not_clear(aloha: Rig) -> None:
    """The two acts belong together."""
    stage = Stage(aloha)
    stage.until("homing")
    stage.session.act(Action.EMERGENCY_STOP)
    stage.session.act(Action.CLEAR_STOP)
    stage.step(6.0)
    stage.session.act(Action.CONFIRM)
    stage.step(0.1)
    assert stage.stop is not None
    assert stage.stop.engaged


def test_events_are_said_again_until_the_recorder_answers(aloha: Rig) -> None:
    """A start that was lost on the way does not lose the episode."""
    stage = Stage(aloha)
    stage.answers["start"] = None
    stage.to_running()
    stage.step(1.2)
    assert [e.kind for e in stage.events] == ["start"] * 3
    assert len({e.seq for e in stage.events}) == 1


def test_unattended_a_commander_that_never_gets_ready_ends_the_session(aloha: Rig) -> None:
    """With its own words; a person would be waited for."""
    stage = Stage(aloha, replace(PLAN, start="auto"))
    stage.until("homing")
    stage.commander = "home"
    stage.until("ready")
    stage.commander = "refused"
    with pytest.raises(NodeFailedError, match="not ready after"):
        stage.step(30.0)


def test_a_refusal_by_the_recorder_is_passed_on(aloha: Rig) -> None:
    """Unattended, the session ends with the recorder's reason."""
    stage = Stage(aloha)
    stage.answers["start"] = "refused"
    stage.until("homing")
    stage.commander = "home"
    stage.until("ready")
    stage.commander, stage.opening = "ready", 0.1
    with pytest.raises(RecordingError, match="refused"):
        stage.step(1.0)


def test_a_node_that_never_comes_alive_is_named(aloha: Rig) -> None:
    """Nothing moves before every node has been heard."""
    stage = Stage(aloha)
    stage.alive.remove("recorder")
    with pytest.raises(NodeFailedError, match="recorder"):
        stage.step(30.0)
    assert stage.session.phase == "starting"


def test_quit_while_running_keeps_the_episode(aloha: Rig) -> None:
    """Ctrl-C in the middle stops, saves, and ends."""
    stage = Stage(aloha)
    stage.to_running()
    stage.session.act(Action.QUIT)
    stage.until("done")
    stage.step(0.1)
    assert stage.session.finished
    assert stage.session.results[0].path == "e0"


def test_an_episode_does_not_outlast_its_limit(aloha: Rig) -> None:
    """The task's longest duration ends it."""
    stage = Stage(aloha)
    stage.to_running()
    stage.until("stopping", seconds=5.2)
    assert stage.session.results[0].seconds == pytest.approx(5.0, abs=0.1)


@pytest.fixture
def with_puck(aloha: Rig) -> Stage:
    """A session at whose rig an input device has buttons, and starts by them alone."""
    rig = aloha.replaced(inputs={"mouse": {"driver": "spacemouse"}})
    stage = Stage(rig, replace(PLAN, start="key", stop_when=frozenset()))
    stage.until("homing")
    stage.commander = "home"
    stage.until("ready")
    stage.commander = "ready"
    stage.step(0.5)
    return stage


def test_a_button_starts_an_episode_and_ends_it(with_puck: Stage) -> None:
    """The same button, by what the session is doing; what means nothing to it is left alone."""
    with_puck.pressed = [("mouse", "gripper")]
    with_puck.step(0.5)
    assert with_puck.session.phase == "ready"
    with_puck.pressed = [("mouse", "start_stop")]
    with_puck.step(0.1)
    assert with_puck.session.phase == "running"
    with_puck.commander = "following"
    with_puck.pressed = [("mouse", "start_stop")]
    with_puck.step(0.1)
    assert with_puck.session.phase == "stopping"
    assert [e.kind for e in with_puck.events] == ["start", "stop"]


def test_a_button_engages_the_emergency_stop_and_none_clears_it(with_puck: Stage) -> None:
    """Clearing takes two deliberate keys."""
    with_puck.pressed = [("mouse", "emergency_stop")]
    with_puck.step()
    assert with_puck.session.stop_engaged
    with_puck.pressed = [("mouse", "start_stop")]
    with_puck.step(0.5)
    assert with_puck.session.stop_engaged
