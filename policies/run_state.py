"""What a run needs to go on exactly where it was: ``RUN/run``.

``state.json`` holds plain values and names a ``.safetensors`` file with all tensors; it is
replaced last and in one go, so a kill at any instant leaves one whole state. No random state is
kept: the trainer derives every step's randomness from the seed and the step's number.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from policies.ema import Average
from policies.metrics import Metric
from teleop.errors import PolicyError

STATE = "state.json"
KEYS = ("step", "tensors", "identity", "groups", "schedule", "metrics", "recent")


@dataclass
class Training:
    """All that changes from step to step."""

    network: nn.Module
    optimiser: Optimizer
    schedule: LRScheduler
    average: Average | None
    step: int = 0
    """Steps done."""
    metrics: list[Metric] = field(default_factory=list)
    recent: list[dict[str, float]] = field(default_factory=list)
    """Losses of the steps since the last metric."""


@dataclass(frozen=True)
class RunState:
    """The state folder of one run."""

    folder: Path
    identity: Mapping[str, Any]
    """What must be equal for a run to go on: family, options, data; plain JSON values."""

    def last_step(self) -> int | None:
        """Steps that the saved state has behind it; None when nothing was saved yet."""
        return int(self._read()["step"]) if (self.folder / STATE).exists() else None

    def metrics(self) -> list[Metric]:
        """The curve up to the saved state.

        Raises:
            PolicyError: nothing was saved, or it is damaged.
        """
        return [Metric(**metric) for metric in self._read()["metrics"]]

    def save(self, training: Training) -> None:
        """Write the state; the one before it is deleted after that."""
        self.folder.mkdir(parents=True, exist_ok=True)
        optimiser = training.optimiser.state_dict()
        average = training.average.state_dict() if training.average else {}
        tensors = {
            **_prefixed("network", training.network.state_dict()),
            **_prefixed("average", average),
            **{
                f"optimiser.{number}.{name}": value
                for number, values in optimiser["state"].items()
                for name, value in values.items()
            },
        }
        file = self.folder / f"step-{training.step}.safetensors"
        partial = file.with_suffix(".partial")
        save_file({name: t.detach().contiguous() for name, t in tensors.items()}, partial)
        partial.replace(file)
        state = {
            "step": training.step,
            "tensors": file.name,
            "identity": dict(self.identity),
            "groups": optimiser["param_groups"],
            "schedule": training.schedule.state_dict(),
            "metrics": [asdict(metric) for metric in training.metrics],
            "recent": training.recent,
        }
        partial = self.folder / (STATE + ".partial")
        partial.write_text(json.dumps(state, indent=1) + "\n")
        partial.replace(self.folder / STATE)
        for old in self.folder.glob("step-*"):
            if old != file:
                old.unlink()

    def restore(self, training: Training) -> None:
        """Bring a training just begun to the saved state.

        Raises:
            PolicyError: no state, damaged, or of a run with other options or data.
        """
        state = self._read()
        self.check_identity(state["identity"])
        path = self.folder / state["tensors"]
        try:
            tensors = load_file(path)
            training.network.load_state_dict(_part("network", tensors))
            if training.average:
                training.average.load_state_dict(_part("average", tensors))
            moments = _by_number(tensors, [*training.network.parameters()])
            training.optimiser.load_state_dict({"state": moments, "param_groups": state["groups"]})
            training.schedule.load_state_dict(state["schedule"])
        except (OSError, SafetensorError, RuntimeError, ValueError, KeyError, IndexError) as error:
            raise PolicyError(
                f"{path} does not hold the state that {STATE} tells of ({_first_line(error)}); "
                "train anew with --overwrite"
            ) from error
        training.step = state["step"]
        training.metrics = [Metric(**metric) for metric in state["metrics"]]
        training.recent = state["recent"]

    def check_identity(self, saved: Mapping[str, Any]) -> None:
        """Refuse to go on with a run that was begun differently.

        Raises:
            PolicyError: names the first value that differs.
        """
        for name in [*self.identity, *saved]:
            was, now = saved.get(name), self.identity.get(name)
            if was != now:
                raise PolicyError(
                    f"{self.folder.parent} was begun with {name} {_brief(was)}, not "
                    f"{_brief(now)}; resume it unchanged, or train into another folder"
                )

    def _read(self) -> dict[str, Any]:
        path = self.folder / STATE
        try:
            state = json.loads(path.read_text())
            missing = set(KEYS) - set(state)
        except FileNotFoundError as error:
            raise PolicyError(
                f"{self.folder.parent} holds no saved state to resume ({path} is missing); "
                "train anew with --overwrite"
            ) from error
        except (OSError, ValueError, TypeError) as error:
            raise PolicyError(f"{path} cannot be read: {_first_line(error)}") from error
        if missing:
            raise PolicyError(f"{path} is not the state of a run: it lacks {sorted(missing)[0]}")
        return dict(state)


def _prefixed(what: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{what}.{name}": tensor for name, tensor in tensors.items()}


def _part(what: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix(what + "."): tensor
        for name, tensor in tensors.items()
        if name.startswith(what + ".")
    }


def _by_number(
    tensors: Mapping[str, Tensor], parameters: Sequence[Tensor]
) -> dict[int, dict[str, Tensor]]:
    """The optimiser's tensors by parameter, in the memory order of that parameter.

    Files know one order only; fused optimisers walk through memory without looking at it.
    """
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in _part("optimiser", tensors).items():
        number, _, key = name.partition(".")
        like = parameters[int(number)]
        if tensor.shape == like.shape:
            tensor = torch.empty_like(like, dtype=tensor.dtype).copy_(tensor)
        state.setdefault(int(number), {})[key] = tensor
    return state


def _brief(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
