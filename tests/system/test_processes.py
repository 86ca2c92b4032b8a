"""The rig as processes in real time: what happens when one of them, or all, are killed.

Each test runs ``tandem record --emulate`` as an operator would and breaks it from outside.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from recorder.episode import Episode, find_episodes
from recorder.recover import recover
from recorder.validate import validate
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]
PATIENCE_S = 60.0


def processes_under(pid: int) -> dict[str, int]:
    """Node name to process id of the nodes that a supervisor has started."""
    nodes = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
            parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
        except (OSError, IndexError):
            continue
        if parent == pid and b"teleop.processes" in words:
            nodes[words[words.index(b"teleop.processes") + 1].decode()] = int(entry.name)
    return nodes


def running(pid: int) -> bool:
    """Whether a process exists and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@contextmanager
def recording(out: Path) -> Iterator[subprocess.Popen[str]]:
    """A recording in progress, at least a second into its first episode."""
    command = [
        *(sys.executable, "-m", "teleop.cli", "record", "--emulate", "--task", "transfer_cube"),
        *("--hardware", str(ROOT / "docs/rigs/demo.yaml"), "--episodes", "1", "--out", str(out)),
    ]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    journal = out / "episode_000000.partial"
    try:
        wait_until(
            lambda: (
                sum(f.stat().st_size for f in journal.glob("**/*") if f.is_file()) > 300_000
                or process.poll() is not None
            ),
            "a second of journal",
            PATIENCE_S,
        )
        assert process.poll() is None, process.communicate()
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def the_episode(out: Path) -> Episode:
    """The only episode in a folder, valid, with more than half a second in it."""
    paths = find_episodes(out)
    assert len(paths) == 1, sorted(out.rglob("*"))
    assert validate(paths[0]) == []
    episode = Episode(paths[0])
    assert episode.length > 25
    return episode


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_polite_signal_keeps_the_episode_and_ends_every_process(
    tmp_path: Path, signum: signal.Signals
) -> None:
    """Ctrl-C, kill and a dropped connection end the session in order."""
    with recording(tmp_path) as process:
        nodes = processes_under(process.pid)
        # What a terminal sends on Ctrl-C goes to a whole process group: to the supervisor only.
        assert all(os.getpgid(pid) == pid for pid in nodes.values())
        process.send_signal(signum)
        process.wait(PATIENCE_S)
        assert not any(running(pid) for pid in nodes.values())
    assert the_episode(tmp_path).outcome == "unknown"


def test_a_killed_arm_process_ends_the_session_by_name_and_keeps_the_episode(
    tmp_path: Path,
) -> None:
    """One sentence names the dead node; nothing is restarted; the episode is saved."""
    with recording(tmp_path) as process:
        nodes = processes_under(process.pid)
        os.kill(nodes["left_follower"], signal.SIGKILL)
        _, said = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 1
        assert "node left_follower killed by signal 9" in said
        assert "Traceback" not in said
        assert not any(running(pid) for pid in nodes.values())
    the_episode(tmp_path)


def test_a_killed_recorder_loses_nothing_that_was_written(tmp_path: Path) -> None:
    """The journal is finished by tandem recover."""
    with recording(tmp_path) as process:
        os.kill(processes_under(process.pid)["recorder"], signal.SIGKILL)
        _, said = process.communicate(timeout=PATIENCE_S)
        assert "node recorder killed by signal 9" in said
    assert find_episodes(tmp_path) == []
    said = recover(tmp_path)
    assert said, said
    the_episode(tmp_path)


def test_when_the_supervisor_is_killed_every_node_stops_and_the_episode_is_kept(
    tmp_path: Path,
) -> None:
    """Nodes notice that their parent has gone; the recorder saves on its way out."""
    with recording(tmp_path) as process:
        nodes = processes_under(process.pid)
        process.kill()
        process.wait()
        wait_until(
            lambda: not any(running(pid) for pid in nodes.values()), "the nodes' end", PATIENCE_S
        )
    recover(tmp_path)
    the_episode(tmp_path)


def test_when_everything_is_killed_at_once_the_episode_is_recovered(tmp_path: Path) -> None:
    """kill -9 of the whole tree: what was in the journal is there."""
    with recording(tmp_path) as process:
        nodes = processes_under(process.pid)
        for pid in (process.pid, *nodes.values()):
            os.kill(pid, signal.SIGKILL)
        process.wait()
        wait_until(
            lambda: not any(running(pid) for pid in nodes.values()), "the nodes' end", PATIENCE_S
        )
    said = recover(tmp_path)
    assert said, said
    the_episode(tmp_path)


def test_a_second_session_on_the_same_rig_is_refused(tmp_path: Path) -> None:
    """Two commanders of one arm: the second fails when it binds, in words."""
    from teleop.addresses import free_base_port, topics_of
    from teleop.bus import Bus
    from teleop.rig_files import load_rig

    rig = load_rig(ROOT / "docs/rigs/demo.yaml")
    base = free_base_port(len(topics_of(rig)))
    taken = rig.replaced(network={"base_port": base})
    path = tmp_path / "rig.yaml"
    path.write_text(f"extends: {ROOT / 'docs/rigs/demo.yaml'}\nnetwork: {{base_port: {base}}}\n")
    with Bus(taken) as bus:
        publisher = bus.publisher(["session/phase"])
        done = subprocess.run(
            [*(sys.executable, "-m", "teleop.cli", "teleop", "--hardware", str(path))],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        publisher.close()
    assert done.returncode == 1
    assert "in use" in done.stderr
