"""One node under a supervisor: whatever goes wrong, it is closed and its words reach the operator.

The node is ``PROBE``; it leaves a file behind when it is closed.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from teleop.errors import NodeFailedError
from teleop.processes import NodeSpec, spec_as_json
from teleop.rig import Rig
from teleop.supervisor import Supervisor

ROOT = Path(__file__).parents[2]
PATIENCE_S = 30.0
PROBE = """
from pathlib import Path
from teleop.node import NodeHealth, NodePlan

class Probe:
    def __init__(self, name, context):
        self.name = name
        self.options = context.options
        self.plan = NodePlan(period_ns=10_000_000, publications=self.options.get("topics", ()))

    def step(self, inputs, now_ns):
        if self.options.get("breaks"):
            raise ValueError("the probe broke")
        return []

    def health(self, now_ns):
        return NodeHealth()

    def close(self):
        Path(self.options["closed"]).touch()
"""


@pytest.fixture
def probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Makes ``probe:Probe`` importable in children; the file that says it was closed."""
    (tmp_path / "probe.py").write_text(PROBE)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path / "closed"


def spec(closed: Path, **options: object) -> NodeSpec:
    return NodeSpec("commander", "probe:Probe", "input", {"closed": str(closed), **options})


@contextmanager
def child(**streams: int) -> Iterator[subprocess.Popen[bytes]]:
    """A node's process as the supervisor starts it, for breaking what the supervisor does."""
    process = subprocess.Popen(
        [sys.executable, "-m", "teleop.processes", "commander"],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])},
        **streams,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def check_until_dead(nodes: Supervisor) -> None:
    """Watch over a node that speaks to nobody."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        nodes.heard("commander")
        nodes.check()
        time.sleep(0.02)


def test_a_child_that_dies_before_it_reads_its_description_is_quoted(
    aloha: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broken pipe is told as the node's failure, with its last words."""
    interpreter = tmp_path / "python"
    interpreter.write_text("#!/bin/sh\necho 'no module named teleop' >&2\nexit 3\n")
    interpreter.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(interpreter))
    more_than_a_pipe_holds = "x" * 1_000_000
    nodes = Supervisor(aloha, [spec(tmp_path, text=more_than_a_pipe_holds)], tmp_path / "logs")
    words = "node commander died while starting: no module named teleop; see "
    with pytest.raises(NodeFailedError, match=words), nodes:
        pass


def test_an_unexpected_error_closes_the_node_and_leaves_a_traceback(
    aloha: Rig, probe: Path, tmp_path: Path
) -> None:
    """The supervisor quotes its last line; the whole of it is in the node's log."""
    words = "ended with code 1: ValueError: the probe broke"
    nodes = Supervisor(aloha, [spec(probe, breaks=True)], tmp_path / "logs")
    with pytest.raises(NodeFailedError, match=words), nodes:
        check_until_dead(nodes)
    assert "Traceback" in (tmp_path / "logs/commander.log").read_text()
    assert probe.exists()


@pytest.mark.parametrize("topics", [[], ["no/such/topic"]])
def test_a_node_is_closed_when_it_cannot_get_going(
    aloha: Rig, probe: Path, topics: list[str]
) -> None:
    """Nobody hears that it is ready, or its topics are unknown."""
    heard, said = os.pipe()
    os.close(heard)
    with child(stdout=said) as process:
        os.close(said)
        description = spec_as_json(spec(probe, topics=topics), aloha).encode()
        _, log = process.communicate(description, timeout=PATIENCE_S)
    assert process.returncode != 0
    assert b"Traceback" in log
    assert probe.exists()


def test_a_node_ends_by_itself_when_its_supervisor_died_before_it_was_made(
    aloha: Rig, probe: Path
) -> None:
    """Its parent is another process than the one that described it."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    description = json.loads(spec_as_json(spec(probe), aloha)) | {"parent": gone.pid}
    with child(stdout=subprocess.DEVNULL) as process:
        _, log = process.communicate(json.dumps(description).encode(), timeout=PATIENCE_S)
    assert b"the supervisor has gone" in log
    assert process.returncode == 0
    assert probe.exists()
