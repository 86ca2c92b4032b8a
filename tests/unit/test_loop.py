"""The training loop: what a run promises, on a made-up task without files."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_windows import TOY, TOY_IMAGES, toy_rows, toy_set

from policies.batches import shares
from policies.bc import BcConfig, BcNet
from policies.divergence import BadBatchError, Divergence
from policies.ema import Average, decay_at
from policies.family import Batch, Losses
from policies.loop import LoopOptions, fit
from policies.metrics import Metric, draw_curve, write_metrics
from policies.run_state import RunState
from policies.schedule import make_schedule
from policies.windows import WindowSet
from teleop.errors import PolicyError

QUICK = LoopOptions(
    steps=40, batch_size=16, learning_rate=3e-3, ema=False, log_every=10, save_every=10
)
TRAIN, HELD_BACK = toy_set(0, 1, 2), toy_set(3)
STATISTICS = TRAIN.statistics()


def network(dropout: float = 0.1) -> BcNet:
    """Small, and the same each time; dropout makes it use torch's randomness."""
    torch.manual_seed(0)
    return BcNet(TOY, BcConfig(hidden=16, layers=2, dropout=dropout))


def run(options: LoopOptions = QUICK, train: WindowSet = TRAIN, **more: object) -> list[Metric]:
    return fit(network(), train, HELD_BACK, STATISTICS, options, **more)


def weights(trained: BcNet) -> list[torch.Tensor]:
    return [value.detach().clone() for value in trained.state_dict().values()]


def test_training_makes_both_losses_smaller() -> None:
    """Rows of the curve come at the asked steps, and each is told."""
    told: list[Metric] = []
    curve = run(replace(QUICK, learning_rate=1e-2), on_log=told.append)
    assert [metric.step for metric in curve] == [10, 20, 30, 40]
    assert told == curve
    assert curve[-1].train_loss < 0.7 * curve[0].train_loss
    assert curve[-1].validation_loss < 0.8 * curve[0].validation_loss


def test_the_same_seed_gives_the_same_curve_and_another_seed_another() -> None:
    """Bit for bit, also with loading in a process of its own."""
    curve = run()
    assert run(replace(QUICK, workers=1)) == curve
    assert run(replace(QUICK, seed=1)) != curve


@pytest.mark.parametrize("schedule", ["cosine", "onecycle"])
def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(tmp_path: Path, schedule: str) -> None:
    """Stopped after 17 steps, in the middle of a row of the curve; EMA and dropout are on."""
    options = replace(QUICK, ema=True, schedule=schedule)
    whole, first, second = network(), network(), network()
    curve = fit(whole, TRAIN, HELD_BACK, STATISTICS, options)
    state = RunState(tmp_path / "run", {"options": 1})
    fit(first, TRAIN, HELD_BACK, STATISTICS, options, state=state, asked_to_stop=after(17))
    assert state.last_step() == 17
    assert [metric.step for metric in state.metrics()] == [10]
    again = fit(second, TRAIN, HELD_BACK, STATISTICS, options, state=state, resume=True)
    assert again == curve
    assert all(map(torch.equal, weights(whole), weights(second)))


def test_image_networks_resume_exactly_in_their_own_memory_order(tmp_path: Path) -> None:
    """Channels last in memory, which files do not keep."""
    train = toy_set(0, images=True)
    curves = []
    for stops, resume in (((), False), ((3,), False), ((), True)):
        torch.manual_seed(0)
        trained = BcNet(TOY_IMAGES, BcConfig(hidden=16, features=4))
        state = RunState(tmp_path, {}) if stops or resume else None
        asked = after(*stops) if stops else lambda: False
        options = replace(QUICK, steps=6, log_every=1)
        given = {"state": state, "resume": resume, "asked_to_stop": asked}
        curves.append(fit(trained, train, None, train.statistics(), options, **given))
    assert len(curves[1]) == 3
    assert curves[2] == curves[0]


def after(steps: int) -> Callable[[], bool]:
    """Asks to stop at the step with this number."""
    left = iter([False] * (steps - 1))
    return lambda: next(left, True)


def test_only_the_run_that_was_begun_can_be_resumed(tmp_path: Path) -> None:
    """What differs is named; so is a state that is missing or damaged."""
    state = RunState(tmp_path / "run", {"learning_rate": 0.1, "steps": 3})
    with pytest.raises(
        PolicyError, match=r"no saved state to resume .*train anew with --overwrite"
    ):
        run(state=state, resume=True)
    run(state=state)
    other = RunState(tmp_path / "run", {"learning_rate": 0.2, "steps": 3})
    with pytest.raises(PolicyError, match=r"begun with learning_rate 0.1, not 0.2"):
        run(state=other, resume=True)
    with pytest.raises(PolicyError, match=r"step-40.safetensors does not hold the state"):
        run(replace(QUICK, ema=True), state=state, resume=True)
    tensors = tmp_path / "run" / "step-40.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:1000])
    with pytest.raises(PolicyError, match=r"step-40.safetensors does not hold the state"):
        run(state=state, resume=True)
    (tmp_path / "run" / "state.json").write_text("{}")
    with pytest.raises(PolicyError, match="is not the state of a run"):
        run(state=state, resume=True)


def test_only_the_newest_state_is_kept(tmp_path: Path) -> None:
    """Two files, whatever the number of saves."""
    run(state=RunState(tmp_path, {}))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "state.json",
        "step-40.safetensors",
    ]


def test_a_batch_in_parts_gives_the_same_step() -> None:
    """Up to rounding; without dropout, whose noise is drawn part by part."""
    options = replace(QUICK, steps=5, log_every=1)
    whole = fit(network(0), TRAIN, None, STATISTICS, options)
    parts = fit(network(0), TRAIN, None, STATISTICS, replace(options, accumulate=3))
    for one, other in zip(whole, parts, strict=True):
        assert one.train_loss == pytest.approx(other.train_loss, rel=1e-4)
        assert one.gradient_norm == pytest.approx(other.gradient_norm, rel=1e-3)


def test_processes_share_the_samples_of_one() -> None:
    """The shares of three processes are together what one would train on."""
    (alone,) = shares(TRAIN, range(7, 8), 0, 12)
    others = [next(shares(TRAIN, range(7, 8), 0, 12, rank, 3)) for rank in range(3)]
    assert all(len(share.chosen) == 4 for share in others)
    together = np.sort(np.concatenate([share.chosen for share in others]))
    assert (together == np.sort(alone.chosen)).all()


def test_samples_of_weight_zero_teach_nothing() -> None:
    """Whatever their actions, the network becomes the same; with a weight it does not."""

    def trained_with(action: float, weight: float) -> Metric:
        other = toy_rows(9)
        actions = np.full_like(other.actions, action)
        other = replace(other, actions=actions, weight=np.full(len(actions), weight))
        return run(train=WindowSet([toy_rows(0), other], 6, 2))[-1]

    assert trained_with(3.0, 0.0) == trained_with(-3.0, 0.0)
    assert trained_with(3.0, 0.1) != trained_with(-3.0, 0.1)


def test_the_average_is_what_gets_deployed(tmp_path: Path) -> None:
    """Resuming has both: the average and the last weights, which differ."""
    trained = network()
    state = RunState(tmp_path, {})
    fit(trained, TRAIN, None, STATISTICS, replace(QUICK, ema=True), state=state)
    from safetensors.torch import load_file

    saved = load_file(tmp_path / "step-40.safetensors")
    for name, value in trained.state_dict().items():
        assert torch.equal(value, saved[f"average.module.{name}"])
    assert any(
        not torch.equal(value, saved[f"network.{name}"])
        for name, value in trained.state_dict().items()
    )


def test_the_average_follows_its_formula() -> None:
    """Weights 1, 2, 3 ... after a copy of the first two, with decays 1 - (1 + t)^-0.75."""
    layer = torch.nn.Linear(1, 1, bias=False)
    average = Average(layer, power=0.75, after=1)
    expected = 0.0
    for step in range(1, 7):
        with torch.no_grad():
            layer.weight.fill_(step)
        average.update(layer)
        decay = 0.0 if step <= 2 else decay_at(step - 2, 0.75, 0.0, 0.9999)
        expected = decay * expected + (1 - decay) * step
    assert average.network.weight.item() == pytest.approx(expected)
    assert decay_at(10_000, 0.75, 0.0, 0.9999) == pytest.approx(0.999, abs=1e-4)


def test_a_sample_that_is_no_number_stops_training_and_is_named(tmp_path: Path) -> None:
    """The weights stay finite, the batch comes along, and so does the place of the sample."""
    broken = toy_rows(8)
    broken.actions[25] = np.nan
    trained = network()
    with pytest.raises(BadBatchError, match=r"loss became nan at step \d+.* toy 8") as caught:
        fit(trained, WindowSet([toy_rows(0), broken], 6, 2), None, STATISTICS, QUICK)
    assert all(torch.isfinite(value).all() for value in weights(trained))
    caught.value.save(tmp_path / "batch.npz")
    with np.load(tmp_path / "batch.npz") as batch:
        worst = np.isnan(batch["loss"])
        assert worst.any()
        assert np.isnan(batch["actions"][worst]).any(axis=(1, 2)).all()
        assert all("toy 8" in place for place in batch["place"][worst])


class Runaway(BcNet):
    """Its loss doubles with each batch after the thirtieth."""

    seen = 0

    def loss(self, batch: Batch) -> Losses:
        self.seen += 1
        return {"loss": super().loss(batch)["loss"] * 2.0 ** max(0, self.seen - 30)}


def test_a_loss_that_runs_away_stops_training() -> None:
    """Not at the first large value, but long before it is no number any more."""
    with pytest.raises(BadBatchError, match="has grown to") as caught:
        fit(Runaway(TOY, BcConfig(hidden=4)), TRAIN, None, STATISTICS, replace(QUICK, steps=100))
    assert 40 < caught.value.step < 70


def test_single_outliers_and_falling_likelihoods_are_no_divergence() -> None:
    """A loss may pass through 0 to negative values, and jump for a few steps."""
    watch = Divergence()
    rng = np.random.default_rng(0)
    for step in range(500):
        loss = 2.0 - 0.01 * step + rng.normal(scale=0.1)
        assert not watch.add(loss + (1000.0 if step % 50 < 5 else 0.0))
    assert any(watch.add(1000.0) for _ in range(40))


@pytest.mark.parametrize("options", [{"precision": "bf16"}, {"channels_last": False}, {}])
def test_image_networks_train_in_either_precision_and_order(options: dict[str, object]) -> None:
    """16 bits come to about the same loss."""
    train = toy_set(0, images=True)
    losses = []
    for more in ({}, options):
        torch.manual_seed(0)
        trained = BcNet(TOY_IMAGES, BcConfig(hidden=16, features=4))
        quick = replace(QUICK, steps=6, log_every=6, **more)
        losses.append(fit(trained, train, None, train.statistics(), quick)[-1].train_loss)
    assert losses[0] == pytest.approx(losses[1], rel=0.03)


def test_the_schedules_begin_low_peak_and_end_low() -> None:
    """Warm-up takes at most a tenth of the run; constant stays at its peak."""
    for name, last in (("cosine", 0.0), ("constant", 1.0), ("onecycle", 0.0)):
        optimiser = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], 1.0)
        schedule = make_schedule(name, optimiser, 1.0, 200, 500)
        rates = []
        for _ in range(200):
            rates.append(schedule.get_last_lr()[0])
            optimiser.step()
            schedule.step()
        assert rates[0] < 0.1
        assert max(rates) == pytest.approx(1.0, rel=1e-2)
        assert rates[-1] == pytest.approx(last, abs=1e-3)
        if name != "onecycle":
            assert rates[20] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"batch_size": 4, "accumulate": 5}, r"batch_size 4 cannot be shared .* multiple of 5"),
        ({"threads": 0}, "threads is 0"),
        ({"learning_rate": -1.0}, r"learning_rate is -1.0; give 0 or more"),
        ({"weight_decay": math.nan}, "weight_decay is nan"),
        ({"betas": (0.9, 1.0)}, "betas are .0.9, 1.0.; give two numbers"),
        ({"ema_max": 1.5}, "ema_max is 1.5; give 0 to 1"),
        ({"ema_min": 0.9, "ema_max": 0.1}, "ema_min 0.9 is above ema_max 0.1"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_options_that_cannot_be_met_are_refused(changes: dict[str, object], words: str) -> None:
    """In one sentence with the option's name."""
    with pytest.raises(PolicyError, match=words):
        run(replace(QUICK, **changes))


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_said() -> None:
    """Not an error out of torch's depths."""
    with pytest.raises(PolicyError, match="torch sees no GPU; give --device cpu"):
        run(device="cuda")


def test_a_process_is_not_told_which_gpu_to_take() -> None:
    """Accelerate gives it one; a name that is no device is refused as well."""
    with pytest.raises(PolicyError, match=r"CUDA_VISIBLE_DEVICES|torch sees no GPU"):
        run(device="cuda:0")
    with pytest.raises(PolicyError, match="'gpu' is neither cpu nor cuda"):
        run(device="gpu")


def test_the_curve_is_written_with_every_loss_and_without_a_row(tmp_path: Path) -> None:
    """Negative losses get a linear axis; a run that failed at once still leaves its files."""
    row = Metric(10, -1.5, None, 1e-3, 0.2, {"kl": 0.3})
    write_metrics(tmp_path / "a.csv", [row])
    assert (tmp_path / "a.csv").read_text().splitlines() == [
        "step,train_loss,validation_loss,learning_rate,gradient_norm,kl",
        "10,-1.5,,0.001,0.2,0.3",
    ]
    draw_curve(tmp_path / "a.png", [row], "negative")
    write_metrics(tmp_path / "b.csv", [])
    draw_curve(tmp_path / "b.png", [], "nothing")
    assert (tmp_path / "a.png").stat().st_size > 1000
    assert len((tmp_path / "b.csv").read_text().splitlines()) == 1
