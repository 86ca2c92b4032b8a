"""A policy on another machine: two process trees that share nothing but sockets."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from policies.deployment import DeployOptions
from policies.provenance import plan_of_rows
from recorder.episode import Episode
from teleop import topics
from teleop.addresses import address_of, free_base_port
from teleop.assembly import Job, rig_for, specs_of
from teleop.clock import NS_PER_S
from teleop.console import Console
from teleop.errors import RigError
from teleop.remote_policy import seen_from_policy
from teleop.rig import Rig
from teleop.rig_files import load_rig
from teleop.runs import run_processes
from tests.system import scripted_policy as scripted
from tests.system.test_policy_faults import (
    RIG,
    assert_never_moved_wrongly,
    job_of,
    said,
    waist,
)

ROOT = Path(__file__).parents[2]
SECURITY = {"key_dir": "keys", "identity": "gpu", "peers": {"rig": "admin"}}
OWN = {
    topics.POLICY_CHUNK: {"address": "tcp://10.0.0.2:7001"},
    topics.node_health("policy"): {"address": "tcp://10.0.0.2:7002"},
}


@contextmanager
def policy_machine(folder: Path, rig: Rig, options: dict[str, Any]) -> Iterator[Path]:
    """The other process tree; the file in which it says how it is doing."""
    said_file = folder / "policy.txt"
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.system.remote_end", str(said_file)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
    )
    assert process.stdin is not None
    with process.stdin as stdin:
        told = {"rig": rig.model_dump(mode="json"), "options": options}
        stdin.write(json.dumps(told).encode())
    try:
        yield said_file
    finally:
        process.kill()
        process.wait()


def test_a_remote_policy_drives_the_arms_and_its_death_leads_to_a_hold(tmp_path: Path) -> None:
    """It plans over the bus; when it dies the commander holds, says so, and the episode goes on."""
    rig = load_rig(RIG).replaced(network={"base_port": free_base_port(64)})
    job = job_of(tmp_path, DeployOptions(chunk_mode="newest"), "death", rig)
    job = replace(
        job, options={**job.options, "remote_policy": True}, max_seconds=scripted.DEATH_S + 3.0
    )
    with (
        policy_machine(tmp_path, rig, dict(job.options)) as policy_said,
        Console(rig.operator) as console,
    ):
        results = run_processes(rig, job, console, emulate=True)
    assert "policy: ready" in policy_said.read_text()
    with Episode(results[0].path) as episode:
        assert_never_moved_wrongly(episode, ("command",))
        seconds, position = waist(episode)
        assert np.ptp(position[seconds < scripted.DEATH_S]) > 0.3
        holding = seconds > scripted.DEATH_S + 0.8
        assert np.ptp(position[holding]) == 0.0
        assert "the policy's node has been silent for" in said(episode, "commander")
        rows_s = (episode.rows_stamp_ns - episode.start_ns) / NS_PER_S
        commanded = plan_of_rows(episode).chunk_id >= 0
        assert commanded[(rows_s > 1.0) & (rows_s < 3.0)].mean() > 0.9


def test_without_the_policy_the_job_has_the_same_topics_at_the_same_ports() -> None:
    """Both machines come to the same endpoints from the same job."""
    rig = load_rig(RIG)
    job = Job("deploy", "transfer_cube", options={"remote_policy": True})
    assert "policy" not in {spec.name for spec in specs_of(rig_for(rig, job), job)}
    here = rig_for(rig, job)
    there = seen_from_policy(here)
    for topic in (topics.SESSION_PHASE, "arm/left_follower/state", topics.POLICY_CHUNK):
        assert address_of(there, topic) == address_of(here, topic)


def test_with_keys_every_topic_of_the_rig_is_expected_from_its_key() -> None:
    """The file names only this machine's own two addresses and the rig's host."""
    network = {"host": "10.0.0.1", "security": SECURITY, "endpoints": OWN}
    there = seen_from_policy(load_rig(RIG).replaced(network=network))
    arm = there.network.endpoints["arm/left_follower/state"]
    assert (arm.peer, arm.address.rsplit(":", 1)[0]) == ("rig", "tcp://10.0.0.1")
    own = there.network.endpoints[topics.POLICY_CHUNK]
    assert (own.peer, own.address) == (None, "tcp://10.0.0.2:7001")


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"endpoints": {}}, "policy/chunk: give the address of this machine"),
        ({"security": {**SECURITY, "peers": {"rig": "observer"}}}, "admin, the rig's; found: none"),
    ],
)
def test_a_policy_machine_that_is_not_described_is_refused(
    change: dict[str, Any], word: str
) -> None:
    """In words, before anything is bound."""
    network = {"host": "10.0.0.1", "security": SECURITY, "endpoints": OWN} | change
    with pytest.raises(RigError, match=word):
        seen_from_policy(load_rig(RIG).replaced(network=network))
