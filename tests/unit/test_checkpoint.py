"""Trained policies on disk, and the contract they carry."""

import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from policy_episodes import small_rig
from safetensors.torch import save_file
from toy_windows import CONTRACT, SETTINGS, STATISTICS, VIEW

from policies import checkpoint
from policies.bc import BcConfig, BcNet
from policies.card import read_card
from policies.deployment import DeployOptions
from policies.learned import LearnedPolicy, shapes_of
from policies.policy import ExtraInput, StartCheck, calibration_sha256
from policies.warm_up import rehearsal
from teleop.errors import PolicyError, UnknownNameError


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A saved, untrained network."""
    network = BcNet(shapes_of(CONTRACT), BcConfig(hidden=8, features=4))
    checkpoint.save(tmp_path / "run", "bc", network, CONTRACT, STATISTICS, {"steps": 0})
    return tmp_path / "run"


def edit(run: Path, **changes: object) -> None:
    card = json.loads((run / "policy.json").read_text())
    (run / "policy.json").write_text(json.dumps({**card, **changes}))


def test_a_checkpoint_comes_back_as_it_was_saved(run: Path) -> None:
    """Contract, statistics and config are equal, and so is every action."""
    card = read_card(run)
    assert card.contract == CONTRACT
    assert card.statistics == STATISTICS
    network = checkpoint.load_network(run, card)
    assert network.config == BcConfig(hidden=8, features=4)
    again = LearnedPolicy("bc", network, STATISTICS, CONTRACT).infer(rehearsal(CONTRACT))
    loaded = checkpoint.load_policy(run).infer(rehearsal(CONTRACT))
    assert (again.actions == loaded.actions).all()


def test_how_to_play_the_chunks_travels_with_the_policy(run: Path, tmp_path: Path) -> None:
    """The default for the chunk's length, or what training was told."""
    assert read_card(run).deployment == DeployOptions.for_chunk(5)
    asked = DeployOptions(chunk_mode="newest", execute_rows=3, noise="fresh")
    network = checkpoint.load_network(run, read_card(run))
    checkpoint.save(tmp_path / "b", "bc", network, CONTRACT, STATISTICS, {}, asked)
    assert read_card(tmp_path / "b").deployment == asked


def test_the_card_is_read_without_torch(run: Path) -> None:
    """The process that moves the arms loads neither torch nor a driver."""
    code = (
        "import sys; from pathlib import Path; import policies.deploy_node, policies.registry; "
        "from policies.card import read_card; read_card(Path(sys.argv[1])); "
        "print([m for m in sys.modules if m.split('.')[0] in ('torch', 'drivers')])"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code, str(run)], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "[]"


def test_a_folder_without_a_policy_is_named(tmp_path: Path) -> None:
    """The error says which folder is wanted."""
    with pytest.raises(PolicyError, match="holds no policy"):
        read_card(tmp_path)


def test_a_card_of_the_future_is_refused(run: Path) -> None:
    """Its version is told; an older one has to be trained again."""
    for version, todo in ((3, "update Tandem"), (1, "train it again")):
        edit(run, version=version)
        with pytest.raises(
            PolicyError, match=f"format version {version}.* reads version 2; {todo}"
        ):
            read_card(run)


def test_a_damaged_card_is_refused_with_its_place(run: Path) -> None:
    """A wrong type is named by its path in the file; half a file is no JSON."""
    edit(run, contract={**json.loads(json.dumps({})), "tasks": 3})
    with pytest.raises(PolicyError, match=r"not a policy card: contract\."):
        read_card(run)
    (run / "policy.json").write_text('{"format": "tan')
    with pytest.raises(PolicyError, match="cannot be read as JSON"):
        read_card(run)


def test_changed_weights_are_refused(run: Path) -> None:
    """The card knows its weights by hash."""
    path = run / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-4] + b"\x00\x01\x02\x03")
    with pytest.raises(PolicyError, match="not the file that policy"):
        checkpoint.load_policy(run)


def test_foreign_weights_and_options_are_refused_in_one_line(run: Path) -> None:
    """Weights of another network, no safetensors file, an option of another Tandem."""
    path = run / "model.safetensors"
    other = BcNet(shapes_of(CONTRACT), BcConfig(hidden=9, features=4))
    save_file(other.state_dict(), path)
    edit(run, weights_sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    with pytest.raises(PolicyError, match=r"does not fit its policy.json: [^\n]*$"):
        checkpoint.load_policy(run)
    path.write_bytes(b"PK a pickled checkpoint")
    edit(run, weights_sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    with pytest.raises(PolicyError, match=r"does not fit its policy\.json"):
        checkpoint.load_policy(run)
    edit(run, config={"hidden": "wide"})
    with pytest.raises(PolicyError, match="holds no options of bc: hidden: "):
        checkpoint.load_policy(run)


def test_missing_weights_and_unknown_families_are_named(run: Path) -> None:
    """Each in one sentence."""
    (run / "model.safetensors").rename(run / "elsewhere")
    with pytest.raises(PolicyError, match="copy the whole folder"):
        checkpoint.load_policy(run)
    edit(run, family="bd")
    with pytest.raises(UnknownNameError, match="did you mean bc"):
        checkpoint.load_policy(run)


def test_a_device_that_is_not_there_is_said_in_one_line(run: Path) -> None:
    """No GPU at all, or none of that number; nor does torch's own list of devices appear."""
    with pytest.raises(PolicyError, match=r"cuda:99 was asked for, but torch sees .*--device cpu"):
        checkpoint.load_policy(run, "cuda:99")
    for name in ("gpu", "meta"):
        with pytest.raises(PolicyError, match=f"'{name}' is neither cpu nor cuda"):
            checkpoint.load_policy(run, name)


def test_a_fitting_rig_gives_no_warning() -> None:
    """The rig of the data itself."""
    assert CONTRACT.check_rig(small_rig()) == []


def test_a_rig_with_other_joints_is_refused() -> None:
    """The first differing column is named."""
    turned = replace(CONTRACT, joint_names=("left_follower/hip", *CONTRACT.joint_names[1:]))
    with pytest.raises(PolicyError, match="column 0 is 'left_follower/waist' instead of"):
        turned.check_rig(small_rig())


def test_a_rig_without_the_camera_is_refused() -> None:
    """With the nearest name."""
    other = replace(CONTRACT, cameras=(replace(VIEW, name="cam_hgih"),))
    with pytest.raises(UnknownNameError, match="did you mean cam_high"):
        other.check_rig(small_rig())


def test_another_shape_of_image_is_refused_and_another_size_told() -> None:
    """Twice the size is the same picture; another width is not."""
    with pytest.raises(PolicyError, match="another shape of image"):
        replace(CONTRACT, cameras=(replace(VIEW, source_width=40),)).check_rig(small_rig())
    double = replace(VIEW, source_width=64, source_height=48, fps=60.0)
    warnings = replace(CONTRACT, cameras=(double,)).check_rig(small_rig())
    assert len(warnings) == 2
    assert "recorded at 64x48" in warnings[0]
    assert "25 fps, recorded at 60" in warnings[1]


def test_changed_camera_settings_are_told() -> None:
    """Another exposure than in the data."""
    dark = replace(VIEW, settings={**SETTINGS, "exposure": 0.1})
    assert replace(CONTRACT, cameras=(dark,)).check_rig(small_rig()) == [
        "camera cam_high has exposure None, recorded with 0.1"
    ]


def test_slow_arms_are_refused() -> None:
    """Arms cannot follow rows that come faster than their commands."""
    with pytest.raises(PolicyError, match="arms run at 50 Hz, the policy's actions come at 60"):
        replace(CONTRACT, row_hz=60.0).check_rig(small_rig())


def test_a_privileged_policy_is_refused_on_hardware() -> None:
    """Object poses exist on the emulated rig only."""
    privileged = replace(CONTRACT, extras=(ExtraInput("object_pose", 7),))
    assert privileged.check_rig(small_rig("lockstep")) == []
    with pytest.raises(PolicyError, match="only the emulated rig knows"):
        privileged.check_rig(small_rig("hardware"))
    cubes = replace(privileged, tasks=("transfer_cube",))
    assert cubes.check_rig(small_rig("lockstep"), task="transfer_cube") == []
    with pytest.raises(PolicyError, match="objects of transfer_cube, and insertion has others"):
        cubes.check_rig(small_rig("lockstep"), task="insertion")


def test_another_calibration_and_another_task_are_told() -> None:
    """Both can be meant; the operator should know."""
    calibrated = replace(CONTRACT, calibration_sha256=calibration_sha256({"left": {"waist": 0.1}}))
    assert calibrated.check_rig(small_rig(), {"left": {"waist": 0.1}}, "transfer_cube") == []
    warnings = calibrated.check_rig(small_rig(), {"left": {"waist": 0.2}}, "insertion")
    assert warnings == [
        "the rig's calibration is not that of the training episodes",
        "the policy was trained for transfer_cube, not for insertion",
    ]


def test_a_start_outside_the_training_range_is_told_or_refused() -> None:
    """The joint is named with its value and the range; a joint not measured is refused."""
    qpos = np.zeros(14)
    qpos[2] = 1.2
    told = "left_follower/elbow is at 1.20, training began at -1.00 to 1.00"
    assert CONTRACT.check_start(qpos) == StartCheck((told,), ())
    qpos[2] = 1.5
    assert CONTRACT.check_start(qpos).refusals == (told.replace("1.20", "1.50"),)
    qpos[2] = np.nan
    assert len(CONTRACT.check_start(qpos).refusals) == 1
