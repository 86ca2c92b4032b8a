"""The session: which episode, which phase, and what the operator wants.

``SessionNode`` is the one place that starts and stops episodes and holds the emergency stop.
Keys reach it as ``Action``; it never touches an arm itself.

Phases of an episode: ``homing`` (the commander moves the arms to where the job starts),
``ready`` (waiting for the operator), ``running``, ``stopping``. ``stopped`` is the latched
emergency stop, left only by CLEAR and then CONFIRM, which moves nothing.
"""

from __future__ import annotations

import json

from teleop import messages as m
from teleop import topics
from teleop.clock import NS_PER_S, Ticker, ns_from_s
from teleop.errors import NodeFailedError, RecordingError
from teleop.node import Inputs, NodeHealth, NodePlan, Outputs, Sequencer
from teleop.recorder_talk import RecorderTalk
from teleop.rig import Rig
from teleop.session_plan import Action, EpisodeResult, SessionPlan
from teleop.topics import Queue

PERIOD_S = 0.02
CONFIRM_WITHIN_S = 5.0
START_TIMEOUT_S = 20.0
HOMING_TIMEOUT_S = 40.0
"""Half a turn of every joint at the homing velocity takes 4 s; a blocked arm must not wait long."""
READY_TIMEOUT_S = 20.0
"""A policy plans its first chunk well within this."""
SAVE_TIMEOUT_S = 120.0
SAY_WAITING_S = 2.0
SETTLE_S = 0.3
"""Shortest stay in homing and stopping: heartbeats of the phase before must have passed."""


class SessionNode:
    """Runs the episodes of one session."""

    name = "session"

    def __init__(self, rig: Rig, plan: SessionPlan) -> None:
        self.results: list[EpisodeResult] = []
        self.phase = "starting"
        self.notice = ""
        """What the operator should know now."""
        self.finished = False
        self.session_plan = plan
        self._rig = rig
        self._session = plan
        self._actions: list[Action] = []
        self._seq = Sequencer()
        self._episode = 0
        self._phase_since_ns: int | None = None
        self._said: Ticker | None = None
        self._stop_reason = ""
        self._clear_asked_ns: int | None = None
        self._health: dict[str, m.Health] = {}
        self._gripper: dict[str, float] = {}
        self._task: m.TaskState | None = None
        self._best_stage = 0
        self._begun = False
        """Whether the present episode number has been used."""
        self._redoable: EpisodeResult | None = None
        self._recorder = RecorderTalk(plan.task)
        self._quit = False
        self.plan = NodePlan(
            period_ns=ns_from_s(PERIOD_S),
            subscriptions={
                **{topics.arm_state(arm): Queue.LATEST for arm in rig.leaders},
                **{topics.input_action(name): Queue.ALL for name in rig.inputs},
                **{topics.node_health(node): Queue.LATEST for node in plan.must_live},
                topics.RECORDER_EVENT: Queue.ALL,
                topics.TASK_STATE: Queue.LATEST,
            },
            publications=(topics.SESSION_PHASE, topics.SESSION_EVENT, topics.SESSION_STOP),
        )

    # -- what the runner and the console use ------------------------------------------

    def act(self, action: Action) -> None:
        """Ask for something; it is done at the next step."""
        self._actions.append(action)

    @property
    def episode(self) -> int:
        """Index of the present episode."""
        return self._episode

    @property
    def stop_engaged(self) -> bool:
        """Whether the emergency stop is latched."""
        return bool(self._stop_reason)

    @property
    def closed_results(self) -> list[EpisodeResult]:
        """Results of which nothing more will become known: saved, or not recorded."""
        return [result for result in self.results if result.index not in self._recorder.unsaved]

    def seconds_in_phase(self, now_ns: int) -> float:
        """Time since the present phase began."""
        return (now_ns - (self._phase_since_ns or now_ns)) / NS_PER_S

    def heard(self, node: str) -> m.Health | None:
        """The last heartbeat of a node."""
        return self._health.get(node)

    # -- node interface ---------------------------------------------------------------

    def step(self, inputs: Inputs, now_ns: int) -> Outputs:
        """Take in what the rig says and move the session on.

        Raises:
            NodeFailedError: a node never came alive, or homing got nowhere.
            RecordingError: the recorder refused to start and nobody is there to mend it.
        """
        if self._phase_since_ns is None:
            self._phase_since_ns = now_ns
        before = (self.phase, self._episode)
        self._listen(inputs, now_ns)
        # A signal handler may ask for more at any moment.
        actions, self._actions = self._actions, []
        for action in actions:
            self._do(action, now_ns)
        getattr(self, f"_in_{self.phase}")(now_ns)
        if self._said is None:
            self._said = Ticker(ns_from_s(1 / self._rig.rates.phase_hz), now_ns)
        due = self._said.due(now_ns)
        if due:
            self._said.advance(now_ns)
        outputs: Outputs = []
        if due or before != (self.phase, self._episode):
            outputs += self._state(now_ns)  # first: an emergency stop belongs to its episode
        return outputs + self._recorder.due(now_ns)

    def health(self, now_ns: int) -> NodeHealth:
        """The phase, for other nodes' logs."""
        return NodeHealth(not self.stop_engaged, self.phase, self.notice)

    def close(self) -> None:
        """Nothing to release."""

    # -- inputs -----------------------------------------------------------------------

    def _listen(self, inputs: Inputs, now_ns: int) -> None:
        for arm in self._rig.leaders:
            state = inputs.latest(topics.arm_state(arm), m.ArmState)
            if state is not None and state.gripper is not None:
                self._gripper[arm] = state.gripper
        for node in self._session.must_live:
            health = inputs.latest(topics.node_health(node), m.Health)
            if health is not None:
                self._health[node] = health
        for name in self._rig.inputs:
            for asked in inputs.all(topics.input_action(name), m.OperatorAction):
                self._press(asked.action)
        task = inputs.latest(topics.TASK_STATE, m.TaskState)
        if task is not None:
            self._task = task
            if self.phase == "running":
                self._best_stage = max(self._best_stage, task.stage)
        for event in inputs.all(topics.RECORDER_EVENT, m.EpisodeEvent):
            self._on_recorder(event, now_ns)

    def _press(self, meaning: str) -> None:
        """A button of an input device; what is not for the session is for the commander."""
        if meaning == "start_stop":
            meaning = "stop" if self.phase == "running" else "start"
        if meaning in (action.value for action in Action):
            self._actions.append(Action(meaning))

    def _on_recorder(self, event: m.EpisodeEvent, now_ns: int) -> None:
        asked = self._recorder.hear(event)
        result = next((r for r in self.results if r.index == event.episode), None)
        if event.kind == "failed":
            raise RecordingError(f"episode {event.episode}: {event.detail}")
        if event.kind == "refused" and asked:
            self._on_refusal(event, result, now_ns)
        elif event.kind == "saved" and result is not None:
            saved = json.loads(event.detail)
            result.path, result.verdict = saved["path"], saved["verdict"]
            result.saved_after_s = self._recorder.seconds_to_save(event)
            result.reasons = saved["reasons"]
            self.notice = f"episode {event.episode} saved, {result.verdict}: {result.path}"

    def _on_refusal(self, event: m.EpisodeEvent, result: EpisodeResult | None, now_ns: int) -> None:
        """Nothing of this episode was recorded: an operator mends the cause and starts again."""
        refusal = f"recording refused: {event.detail}"
        if self._session.start == "auto" or self._session.stop_when:
            raise RecordingError(refusal)
        if result is not None:
            self.results.remove(result)
        if not self.stop_engaged:
            self.notice = refusal
        if self.phase == "running" and event.episode == self._episode:
            self._go_home(now_ns)

    # -- operator ---------------------------------------------------------------------

    def _do(self, action: Action, now_ns: int) -> None:
        match action:
            case Action.EMERGENCY_STOP:
                self._engage_stop("operator", now_ns)
            case Action.CLEAR_STOP if self.stop_engaged:
                self._clear_asked_ns = now_ns
                self.notice = f"press {self._rig.operator.keys.confirm} to clear the emergency stop"
            case Action.CONFIRM if self._may_clear(now_ns):
                self._stop_reason = ""
                self.notice = "emergency stop cleared; press start to go home"
            case Action.START if self.phase == "stopped" and not self.stop_engaged:
                self._next_episode(now_ns)
            case Action.START if self.phase == "ready":
                commander = self._commander(now_ns)
                if commander is not None and commander.state == "ready":
                    self._begin(now_ns)
                else:
                    detail = commander.detail if commander is not None else "no heartbeat"
                    self.notice = f"cannot start yet: {detail}"
            case Action.STOP | Action.SUCCESS | Action.FAILURE if self.phase == "running":
                self._end(_OUTCOME[action], now_ns)
            case Action.REDO:
                self._redo(now_ns)
            case Action.QUIT:
                self._quit_now(now_ns)
            case _:
                pass

    def _quit_now(self, now_ns: int) -> None:
        """End after the present episode is saved; asked again, end without waiting."""
        if self._quit and self.phase in ("stopping", "done"):
            self.finished = True
            unsaved = sorted(self._recorder.unsaved)
            self.notice = f"not waiting for episode(s) {unsaved}" if unsaved else self.notice
        self._quit = True
        if self.phase == "running":
            self._end("unknown", now_ns)
        elif self.phase in ("homing", "ready", "starting", "stopped"):
            self._enter("done", now_ns)

    def _engage_stop(self, reason: str, now_ns: int) -> None:
        if self.phase == "running":
            self._end("unknown", now_ns)
        self._stop_reason = reason
        self._clear_asked_ns = None
        self.notice = f"EMERGENCY STOP; {self._rig.operator.keys.clear_stop} to clear"
        self._enter("stopped", now_ns)

    def _may_clear(self, now_ns: int) -> bool:
        asked = self._clear_asked_ns
        return asked is not None and now_ns - asked < ns_from_s(CONFIRM_WITHIN_S)

    def _redo(self, now_ns: int) -> None:
        """Drop the attempt that is running or ended last, and no other before it."""
        if self.phase == "running":
            self._end("unknown", now_ns)
        dropped, self._redoable = self._redoable, None
        if dropped is None or dropped not in self.results:
            self.notice = "nothing to redo: the last attempt is already discarded"
            return
        self.results.remove(dropped)
        self._recorder.say("discard", dropped.index, dropped.outcome, now_ns)
        self.notice = f"episode {dropped.index} discarded"
        if self.phase != "stopped":
            self._go_home(now_ns)

    # -- phases -----------------------------------------------------------------------

    def _in_starting(self, now_ns: int) -> None:
        silent = [node for node in self._session.must_live if node not in self._health]
        if not silent:
            self._enter("homing", now_ns)
        elif self.seconds_in_phase(now_ns) > START_TIMEOUT_S:
            raise NodeFailedError(f"no heartbeat from {', '.join(silent)}")

    def _in_homing(self, now_ns: int) -> None:
        seconds = self.seconds_in_phase(now_ns)
        commander = self._commander(now_ns)
        if commander is not None and commander.state in ("home", "ready"):
            self._enter("ready", now_ns)
        elif seconds > HOMING_TIMEOUT_S:
            detail = commander.detail if commander is not None else "no heartbeat"
            raise NodeFailedError(f"the arms did not arrive in {seconds:.0f} s: {detail}")

    def _in_ready(self, now_ns: int) -> None:
        commander = self._commander(now_ns)
        start = self._session.start
        if commander is None or commander.state != "ready":
            # Nobody is there to mend it; an operator may take as long as it needs.
            if start == "auto" and self.seconds_in_phase(now_ns) > READY_TIMEOUT_S:
                detail = commander.detail if commander is not None else "no heartbeat"
                raise NodeFailedError(f"not ready after {READY_TIMEOUT_S:g} s: {detail}")
            return
        closed = self._gripper and all(
            opening < self._rig.operator.gripper_closed for opening in self._gripper.values()
        )
        if start == "auto" or (start == "gripper" and closed):
            self._begin(now_ns)

    def _in_running(self, now_ns: int) -> None:
        seconds = self.seconds_in_phase(now_ns)
        commander = self._commander(now_ns)
        emulator = self._health.get("emulator")
        stop_when = self._session.stop_when
        success = self._task is not None and self._task.success
        if (
            ("success" in stop_when and success)
            or ("operator" in stop_when and emulator is not None and emulator.state == "finished")
            or (
                "commander" in stop_when and commander is not None and commander.state == "finished"
            )
            or seconds > self._session.max_seconds
        ):
            judged = bool(stop_when) and self._task is not None and self._task.max_stage > 0
            self._end(("success" if success else "failure") if judged else "unknown", now_ns)

    def _in_stopping(self, now_ns: int) -> None:
        if self.seconds_in_phase(now_ns) < SETTLE_S or self._recorder.busy:
            return
        self._next_episode(now_ns)

    def _in_stopped(self, now_ns: int) -> None:
        """Latched; only the operator leaves it."""

    def _in_done(self, now_ns: int) -> None:
        unsaved = sorted(self._recorder.unsaved)
        if not unsaved and not self._recorder.busy:
            self.finished = True
        elif self.seconds_in_phase(now_ns) > SAVE_TIMEOUT_S:
            raise RecordingError(
                f"episode(s) {unsaved} not saved after {SAVE_TIMEOUT_S:g} s; run: tandem recover"
            )
        elif self.seconds_in_phase(now_ns) > SAY_WAITING_S:
            quit_key = self._rig.operator.keys.quit
            self.notice = f"saving episode(s) {unsaved}; {quit_key} to leave without waiting"

    # -- steps between phases ---------------------------------------------------------

    def _commander(self, now_ns: int) -> m.Health | None:
        """The commander's heartbeat, once it is surely from the present phase."""
        health = self._health.get("commander")
        since = self._phase_since_ns or 0
        fresh = health is not None and health.stamp_ns > since + ns_from_s(2 * PERIOD_S)
        return health if fresh else None

    def _next_episode(self, now_ns: int) -> None:
        """Home for the next episode, or end when there are enough."""
        wanted = self._session.episodes
        if self._quit or (wanted is not None and len(self.results) >= wanted):
            self._enter("done", now_ns)
            return
        self._go_home(now_ns)

    def _go_home(self, now_ns: int) -> None:
        """To the start pose; a number that was begun is never used again."""
        if self._begun:
            self._episode += 1
            self._begun = False
        self._enter("homing", now_ns)

    def _begin(self, now_ns: int) -> None:
        self._best_stage = 0
        self._task = None
        self._begun = True
        if self._session.record:
            self._recorder.say("start", self._episode, "unknown", now_ns)
        self._enter("running", now_ns)

    def _end(self, outcome: str, now_ns: int) -> None:
        commander = self._health.get("commander")
        self._redoable = EpisodeResult(
            self._episode,
            outcome,
            self.seconds_in_phase(now_ns),
            self._best_stage,
            self._task.max_stage if self._task is not None else 0,
            commander=commander.detail if commander is not None else "",
            commander_state=commander.state if commander is not None else "",
        )
        self.results.append(self._redoable)
        if self._session.record:
            self._recorder.say("stop", self._episode, outcome, now_ns)
        self._enter("stopping", now_ns)

    def _enter(self, phase: str, now_ns: int) -> None:
        self.phase = phase
        self._phase_since_ns = now_ns

    # -- outputs ----------------------------------------------------------------------

    def _state(self, now_ns: int) -> Outputs:
        phase, stop = topics.SESSION_PHASE, topics.SESSION_STOP
        said = m.SessionPhase(now_ns, self._seq.next(phase), self.phase, self._episode, self.notice)
        held = m.StopState(now_ns, self._seq.next(stop), self.stop_engaged, self._stop_reason)
        return [(phase, said), (stop, held)]


_OUTCOME = {Action.STOP: "unknown", Action.SUCCESS: "success", Action.FAILURE: "failure"}
