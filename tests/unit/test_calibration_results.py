"""Result files: what is written comes back, what does not belong is told."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from calibration.result_values import (
    ArmValues,
    CameraValues,
    GripperValues,
    LatencyValues,
    Values,
    VrValues,
)
from calibration.results import (
    Result,
    Results,
    folder_of,
    load_results,
    make_result,
    write_result,
)
from calibration.rules import (
    ADAPTER,
    Finding,
    applied,
    arm_overrides,
    check_calibration,
    identities_of,
)
from recorder.meta import calibration_sha256
from teleop.errors import RigError
from teleop.rig import Rig
from teleop.rig_files import load_rig

RIGS = Path(__file__).parents[2] / "docs/rigs"
JOINTS = ("waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate")


def arm_values(**offsets: float) -> ArmValues:
    """Zeros, but for those given."""
    return ArmValues(
        offsets_rad=dict.fromkeys(JOINTS, 0.0) | offsets, reference="left_leader", poses=4
    )


def result_of(rig: Rig, kind: Any, name: str, values: Values, **more: Any) -> Result:
    """A result measured on this rig just now."""
    devices = {name: identities_of(rig).get(name, {})}
    return make_result(kind, name, values, more.pop("residuals", {}), devices, "Ada", **more)


def results_of(*results: Result) -> Results:
    """As if read from a folder."""
    return Results(Path("hardware.calibration"), {result.stem: result for result in results})


def levels(findings: list[Finding], about: str) -> list[str]:
    """Levels of the findings that mention something."""
    return [finding.level for finding in findings if about in finding.words]


def complete(rig: Rig) -> list[Result]:
    """Arms and grippers of the whole rig."""
    arms = [result_of(rig, "arm", name, arm_values()) for name in rig.arms]
    angles = GripperValues(closed_rad=-0.6, open_rad=1.4)
    return arms + [result_of(rig, "gripper", name, angles) for name in rig.arms]


def test_what_is_written_is_what_is_read(aloha: Rig, tmp_path: Path) -> None:
    """Values to the last bit, who and when, and the hash."""
    result = result_of(
        aloha, "arm", "left_follower", arm_values(waist=0.1 + 0.2), residuals={"worst_rad": 1 / 3}
    )
    path = write_result(result, tmp_path / "hardware.calibration")
    assert path.name == "arm_left_follower.yaml"
    back = load_results(path.parent)
    assert back.get("arm", "left_follower") == result
    assert back.by_stem[result.stem].sha256 == result.sha256
    assert result.made_by == "Ada"
    assert result.made[:2] == "20"
    assert "+" in result.made or result.made.endswith("Z")
    text = yaml.safe_load(path.read_text())
    assert text["values"]["offsets_rad"]["waist"] == 0.1 + 0.2
    assert text["schema_version"] == 1


def test_measuring_again_keeps_the_old_result(aloha: Rig, tmp_path: Path) -> None:
    """In the folder ``old``, which is not read."""
    for offset in (0.1, 0.2, 0.3):
        write_result(result_of(aloha, "arm", "left_leader", arm_values(waist=offset)), tmp_path)
    assert len(load_results(tmp_path).by_stem) == 1
    kept = [yaml.safe_load(p.read_text()) for p in sorted((tmp_path / "old").iterdir())]
    assert [k["values"]["offsets_rad"]["waist"] for k in kept] == [0.1, 0.2]


def test_the_hash_over_all_is_that_of_an_episode(aloha: Rig, tmp_path: Path) -> None:
    """The recorder stores the snapshot; another number in any file gives another hash."""
    for result in complete(aloha):
        write_result(result, tmp_path)
    first = load_results(tmp_path)
    assert first.sha256 == calibration_sha256(first.snapshot())
    write_result(result_of(aloha, "arm", "left_leader", arm_values(elbow=1e-9)), tmp_path)
    assert load_results(tmp_path).sha256 != first.sha256


def test_no_folder_is_no_calibration(tmp_path: Path) -> None:
    """Not an error: rigs begin so."""
    assert load_results(tmp_path / "absent").by_stem == {}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema_version": 2}, "is of version 2, this program reads 1"),
        ({"values": {"offsets_rad": {"waist": 99.0}, "reference": "", "poses": 1}}, "offsets_rad"),
        ({"values": {"closed_rad": 0.0}}, "offsets_rad"),
        ({"name": "right_leader"}, "give it that name"),
        ({"surplus": 1}, "surplus"),
    ],
)
def test_damaged_results_are_refused_with_their_fault(
    aloha: Rig, tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    """All of them at once, each with its file."""
    path = write_result(result_of(aloha, "arm", "left_leader", arm_values()), tmp_path)
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | change))
    (tmp_path / "camera_x.yaml").write_text("{not yaml")
    with pytest.raises(RigError) as caught:
        load_results(tmp_path)
    assert {fault.split(":")[0] for fault in caught.value.faults} == {path.name, "camera_x.yaml"}
    assert words in str(caught.value)


def test_the_two_worlds_have_folders_of_their_own() -> None:
    """Numbers of the emulated rig never move the real one."""
    rig_file = Path("/rigs/hardware.yaml")
    assert folder_of(rig_file, "hardware") == Path("/rigs/hardware.calibration")
    assert folder_of(rig_file, "lockstep") == folder_of(rig_file, "emulated")
    assert folder_of(rig_file, "emulated").parent == folder_of(rig_file, "hardware")


def test_a_calibrated_rig_has_nothing_to_say(aloha: Rig) -> None:
    """Arms and grippers are all that this rig needs."""
    assert check_calibration(aloha, results_of(*complete(aloha))) == []


def test_an_uncalibrated_rig_is_warned_and_runs(aloha: Rig) -> None:
    """Factory zero and the model's gripper angles are usable."""
    findings = check_calibration(aloha, results_of())
    assert {finding.level for finding in findings} == {"warn"}
    assert len(findings) == 2
    assert all(name in finding.words for name in aloha.arms for finding in findings)
    assert check_calibration(aloha.replaced(backend="lockstep"), results_of()) == []


def test_other_servos_than_those_calibrated_are_refused(aloha: Rig) -> None:
    """A motor that was exchanged, or another arm on the same port."""
    results = results_of(*complete(aloha))
    found = identities_of(aloha)["left_leader"] | {"servo 8": "XM430-W350"}
    findings = check_calibration(aloha, results, {"left_leader": found})
    assert findings[0].level == "fail"
    assert "servo 8 is XM430-W350, was XL430-W250" in findings[0].words
    assert levels(findings, "left_leader") == ["fail", "fail"]


def test_swapped_arms_are_refused_by_their_adapters(aloha: Rig) -> None:
    """Two arms of one kind differ by nothing else."""
    told = identities_of(aloha)["left_follower"]
    mine = make_result(
        "arm", "left_follower", arm_values(), {}, {"left_follower": told | {ADAPTER: "A1"}}, ""
    )
    others = [result for result in complete(aloha) if result.stem != mine.stem]
    results = results_of(mine, *others)
    assert check_calibration(aloha, results) == [], "nobody looked at the adapter"
    now = {"left_follower": told | {ADAPTER: "B2"}}
    findings = check_calibration(aloha, results, now)
    assert [finding.level for finding in findings] == ["fail"]
    assert "adapter is B2, was A1" in findings[0].words


def test_joints_or_offsets_that_cannot_be_are_refused(aloha: Rig) -> None:
    """Names of another arm, a horn on the wrong spline."""
    less = ArmValues(offsets_rad={"waist": 0.0}, reference="", poses=1)
    others = complete(aloha)[1:]
    first = next(iter(aloha.arms))
    findings = check_calibration(aloha, results_of(result_of(aloha, "arm", first, less), *others))
    assert levels(findings, "its joints are not the arm's") == ["fail"]
    off = result_of(aloha, "arm", first, arm_values(elbow=1.7))
    findings = check_calibration(aloha, results_of(off, *others))
    assert levels(findings, "its horn is on wrong") == ["fail"]


def test_a_result_of_a_device_that_is_gone_is_only_told(aloha: Rig) -> None:
    """It moves nothing."""
    result = make_result("arm", "old_arm", arm_values(), {}, {"old_arm": {}}, "")
    findings = check_calibration(aloha, results_of(result, *complete(aloha)))
    assert [finding.level for finding in findings] == ["warn"]
    assert "the rig has no old_arm" in findings[0].words


def test_what_rests_on_an_older_result_is_stale(aloha: Rig) -> None:
    """A latency measured with intrinsics that were measured again since."""
    lens = CameraValues(
        width=640,
        height=480,
        matrix=((500.0, 0.0, 320.0), (0.0, 500.0, 240.0), (0.0, 0.0, 1.0)),
        distortion=(0.0, 0.0, 0.0, 0.0, 0.0),
    )
    camera = result_of(aloha, "camera", "cam_high", lens)
    based = {camera.stem: camera.sha256}
    values = LatencyValues(command_to_motion_s=0.05)
    latency = result_of(aloha, "latency", "left_follower", values, based_on=based)
    whole = [*complete(aloha), camera, latency]
    assert check_calibration(aloha, results_of(*whole)) == []
    newer = result_of(aloha, "camera", "cam_high", lens.model_copy(update={"height": 479}))
    findings = check_calibration(aloha, results_of(*complete(aloha), newer, latency))
    assert levels(findings, "was measured again since") == ["warn"]
    findings = check_calibration(aloha, results_of(*complete(aloha), latency))
    assert levels(findings, "is gone") == ["warn"]


def test_a_camera_of_another_size_is_told(aloha: Rig) -> None:
    """Intrinsics are of one picture size; they move nothing, so the rig runs."""
    values = LatencyValues(command_to_motion_s=0.05)
    other = {"cam_high": identities_of(aloha)["cam_high"] | {"size": "1280x720"}}
    result = make_result("latency", "cam_high", values, {}, other, "")
    findings = check_calibration(aloha, results_of(result, *complete(aloha)))
    assert [finding.level for finding in findings] == ["warn"]
    assert "size is 640x480, was 1280x720" in findings[0].words


def test_results_of_an_emulated_rig_name_no_addresses(aloha: Rig) -> None:
    """They are others in every run; the rig file's own are not missed."""
    emulated = aloha.replaced(backend="emulated")
    assert "source" not in identities_of(emulated)["cam_high"]
    values = LatencyValues(command_to_motion_s=0.05)
    result = result_of(emulated, "latency", "cam_high", values)
    assert check_calibration(aloha, results_of(result, *complete(emulated))) == []


def test_poor_residuals_ask_for_another_measurement(aloha: Rig) -> None:
    """Three degrees between arms that were to be alike."""
    name = next(iter(aloha.arms))
    poor = result_of(aloha, "arm", name, arm_values(), residuals={"worst_rad": 0.06})
    findings = check_calibration(aloha, results_of(*complete(aloha)[1:], poor))
    assert levels(findings, "worst_rad is 0.06, good ones are below 0.0349") == ["warn"]


def test_results_fill_what_the_rig_file_leaves_open(aloha: Rig) -> None:
    """Gripper angles and joint offsets of the arms; what the file gives itself stays."""
    arms = {n: arm.model_dump() for n, arm in aloha.arms.items()}
    arms["left_leader"] |= {"gripper_closed_rad": 0.0, "gripper_open_rad": 1.0}
    rig = aloha.replaced(arms=arms)
    results = results_of(*complete(rig))
    fields = arm_overrides(rig, results)
    assert fields["left_follower"]["gripper_closed_rad"] == -0.6
    assert fields["left_follower"]["gripper_open_rad"] == 1.4
    assert "gripper_open_rad" not in fields["left_leader"]
    grippers = {s: r for s, r in results.by_stem.items() if r.kind == "gripper"}
    used = applied(rig, Results(results.folder, grippers))
    assert used.arms["right_follower"].gripper_open_rad == 1.4
    assert used.arms["left_leader"].gripper_open_rad == 1.0
    findings = check_calibration(rig, results)
    assert levels(findings, "gripper_left_leader is not used: the rig file itself") == ["warn"]


def test_a_vr_result_turns_the_arm_that_its_input_guides(aloha: Rig) -> None:
    """And no other."""
    arms = {n: arm.model_dump() for n, arm in aloha.arms.items()}
    arms["left_follower"] |= {"leader": None, "input": "left_hand"}
    rig = aloha.replaced(arms=arms, inputs={"left_hand": {"driver": "openvr", "hand": "left"}})
    frame = {"position_m": (0.0, 0.0, 0.0), "quaternion_wxyz": (1.0, 0.0, 0.0, 0.0)}
    for arm, expected in (("right_follower", None), ("left_follower", 1.2)):
        values = VrValues.model_validate(
            {"arm": arm, "frame_in_base": frame, "operator_yaw_rad": 1.2}
        )
        fields = arm_overrides(rig, results_of(result_of(rig, "vr", "left_hand", values)))
        assert fields.get(arm, {}).get("operator_yaw_rad") == expected
    given = rig.replaced(
        arms=arms | {"left_follower": arms["left_follower"] | {"operator_yaw_rad": 0.0}}
    )
    assert not arm_overrides(given, results_of(result_of(given, "vr", "left_hand", values)))
    said = check_calibration(given, results_of(result_of(given, "vr", "left_hand", values)))
    assert levels(said, "vr_left_hand is not used: the rig file itself gives operator_yaw") == [
        "warn"
    ]
    away = VrValues.model_validate(values.model_dump() | {"arm": "right_follower"})
    said = check_calibration(rig, results_of(result_of(rig, "vr", "left_hand", away)))
    assert levels(said, "is not used: it is of right_follower, not guided by it") == ["warn"]
    other = rig.replaced(inputs={"left_hand": {"driver": "webxr", "hand": "left"}})
    findings = check_calibration(other, results_of(result_of(rig, "vr", "left_hand", values)))
    assert levels(findings, "belongs to another left_hand: driver is webxr") == ["fail"]


@pytest.mark.parametrize(
    ("file", "arm", "kind", "words"),
    [
        ("interbotix_ros1", "right_follower", "arm", "takes no joint offsets; delete the file"),
        ("franka_kinesthetic", "franka", "arm", "takes no joint offsets; delete the file"),
        ("franka_kinesthetic", "franka", "gripper", "takes no gripper angles; delete the file"),
    ],
)
def test_a_result_that_an_arms_driver_does_not_take_is_refused_in_words(
    file: str, arm: str, kind: str, words: str
) -> None:
    """Commands say so and do not die of it, whether they look first or not."""
    rig = load_rig(RIGS / f"{file}.yaml")
    offsets = ArmValues(
        offsets_rad={joint.name: 0.1 for joint in rig.arm_model(arm).joints}, reference="", poses=6
    )
    values = offsets if kind == "arm" else GripperValues(closed_rad=0.0, open_rad=1.0)
    results = results_of(result_of(rig, kind, arm, values))
    findings = check_calibration(rig, results)
    assert [f.words for f in findings if f.level == "fail"] == [f"{kind}_{arm}: {arm} {words}"]
    assert arm_overrides(rig, results) == {}
    assert applied(rig, results) == rig


def test_the_gripper_of_an_interbotix_arm_takes_its_angles() -> None:
    """Its zero belongs to its node, its gripper's angles do not."""
    rig = load_rig(RIGS / "interbotix_ros1.yaml")
    angles = GripperValues(closed_rad=-0.6, open_rad=1.4)
    results = results_of(result_of(rig, "gripper", "right_follower", angles))
    assert check_calibration(rig, results) == []
    assert applied(rig, results).arms["right_follower"].gripper_open_rad == 1.4
