"""The doctor and input devices: pucks, SteamVR and the headset's page, each out of order."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from drivers.doctor import inputs as doctor_inputs
from drivers.doctor import webxr as doctor_webxr
from drivers.doctor.checks import Check
from drivers.emulated.vr.runtime import VrRuntime
from drivers.webxr import credentials as webxr_credentials
from teleop.addresses import free_base_port
from teleop.clock import MonotonicClock
from teleop.rig import Rig
from teleop.rig_inputs import WebXrInput
from tests.drivers.puck_bench import Bench
from tests.drivers.vr_bench import inputs_of, skip_without_openvr

CLOCK = MonotonicClock()


def with_inputs(rig: Rig, inputs: dict[str, Any], **webxr: Any) -> Rig:
    """The shipped rig with these inputs, which guide nothing."""
    page = rig.webxr.model_dump() | {"port": free_base_port(1)} | webxr
    return rig.replaced(inputs={n: c.model_dump() for n, c in inputs.items()}, webxr=page)


def findings(rig: Rig) -> list[Check]:
    """All that is said of the inputs."""
    return list(doctor_inputs.input_checks(rig, CLOCK))


def by_status(checks: list[Check], status: str) -> str:
    """All findings of one status, in words."""
    return "\n".join(str(check) for check in checks if check.status == status)


# SpaceMouse


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.close()


def test_two_pucks_of_which_one_is_shut_are_told_one_by_one(aloha: Rig, bench: Bench) -> None:
    """The shut one with the command that opens it; the other passes."""
    bench.puck("good")
    bench.puck("shut").refuse(True)
    rig = with_inputs(aloha, {name: bench.config(name) for name in ("good", "shut")})
    checks = findings(rig)
    assert "good: puck" in by_status(checks, "ok")
    assert "shut: " in by_status(checks, "fail")
    assert "doctor --install-udev, then plug it in anew" in by_status(checks, "fail")


def test_an_absent_puck_and_an_absent_library_are_told(aloha: Rig, bench: Bench) -> None:
    """With what to plug in, or to install."""
    bench.puck("puck").unplug()
    said = by_status(findings(with_inputs(aloha, {"puck": bench.config()})), "fail")
    assert "is not there; plug the puck in" in said
    config = bench.config(library="/no/such/library.so")
    said = by_status(findings(with_inputs(aloha, {"puck": config})), "fail")
    assert "hidapi does not load" in said


def test_a_missing_package_is_one_line_for_each_device(
    aloha: Rig, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the extra that brings it."""
    for package in ("pyspacemouse", "openvr"):
        monkeypatch.setitem(sys.modules, package, None)  # to import it fails
    bench.puck("puck")
    inputs = {"puck": bench.config(), **inputs_of(tmp_path, hand="left")}
    checks = findings(with_inputs(aloha, inputs))
    assert [check.status for check in checks] == ["fail", "fail"]
    remedies = {check.remedy for check in checks}
    assert remedies == {f"run: pip install 'tandem-rig[{e}]'" for e in ("spacemouse", "vr")}


# SteamVR


def test_steamvr_and_its_controllers_are_told_apart(aloha: Rig, tmp_path: Path) -> None:
    """A controller that is off is a warning, a SteamVR that does not run a failure."""
    skip_without_openvr()
    inputs = inputs_of(tmp_path, left_hand="left", right_hand="right")
    runtime = VrRuntime(inputs)
    runtime.start()
    try:
        runtime.unplug("left_hand")
        runtime.set_battery("right_hand", 0.42)
        checks = findings(with_inputs(aloha, inputs))
        assert "SteamVR: runs" in by_status(checks, "ok")
        assert "right_hand: on and tracked, battery 42%" in by_status(checks, "ok")
        assert "left_hand: no controller is on in the left hand" in by_status(checks, "warn")
        runtime.quit()
        runtime.fail_init(121)
        said = by_status(findings(with_inputs(aloha, inputs)), "fail")
    finally:
        runtime.close()
    assert "SteamVR is not running; start it" in said


# WebXR


@pytest.fixture
def page_rig(aloha: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rig:
    """One hand on a page, with credentials in the test's folder."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    hand = WebXrInput(hand="left")
    return with_inputs(aloha, {"left_hand": hand})


def test_the_page_is_opened_as_a_headset_does(page_rig: Rig) -> None:
    """And whoever reads it learns that loopback needs a cable."""
    checks = findings(page_rig)
    assert f"the page opens at https://127.0.0.1:{page_rig.webxr.port}/" in str(checks[0])
    assert "valid until" in by_status(checks, "ok")
    assert "self-signed" in by_status(checks, "ok")
    assert "the page is on loopback" in by_status(checks, "warn")
    code = webxr_credentials.code_file().read_text()
    assert code not in "\n".join(map(str, checks))


def test_a_port_that_is_taken_is_told(page_rig: Rig) -> None:
    """By another program, or a session."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", page_rig.webxr.port))
        other.listen()
        said = by_status(findings(page_rig), "fail")
    assert f"port {page_rig.webxr.port} of 127.0.0.1 cannot be bound" in said


def test_an_old_or_foreign_certificate_is_told(page_rig: Rig) -> None:
    """Before the headset refuses the page."""
    from cryptography import x509

    files = webxr_credentials.obtain(page_rig.webxr)
    certificate = x509.load_pem_x509_certificate(files.certificate.read_bytes())
    config = page_rig.webxr.model_copy(update={"host": "robot.lab"})
    today = datetime.now(UTC)
    check = doctor_webxr.certificate_check("webxr", config, certificate, today)
    assert check.status == "warn"
    assert "not made out to robot.lab" in check.seen
    for days, told in ((800, "warn"), (900, "fail")):  # of the 820 it is made for
        then = today + timedelta(days=days)
        late = doctor_webxr.certificate_check("webxr", page_rig.webxr, certificate, then)
        assert late.status == told
        assert "to have it made anew" in late.remedy


def test_a_look_that_breaks_hides_no_other(page_rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a vendor's package raises."""

    def broken(*_: object) -> Iterator[Check]:
        raise RuntimeError("nobody foresaw this")

    monkeypatch.setattr(doctor_inputs, "puck_checks", broken)
    inputs = {n: c.model_dump() for n, c in page_rig.inputs.items()}
    rig = page_rig.replaced(inputs=inputs | {"a_puck": {"driver": "spacemouse"}})
    checks = findings(rig)
    assert "a_puck: this look broke: RuntimeError: nobody foresaw this" in str(checks[0])
    assert "the page opens" in by_status(checks, "ok")
