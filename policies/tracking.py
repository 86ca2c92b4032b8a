"""The training curve in TensorBoard and other trackers, by Accelerate's plug-ins."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

from policies.metrics import Metric
from teleop.errors import PolicyError, UnknownNameError

TENSORBOARD = "tensorboard"
PROJECT = "tandem"
"""What trackers call the project; TensorBoard calls the run's folder so."""


class Trackers:
    """Passes each row of the curve on; in the first of several processes only.

    Args:
        names: Of Accelerate's trackers, for example ``tensorboard`` or ``wandb``.
        folder: Of the run; trackers that write files write into its ``tensorboard``.
        device: As the training's.
        after_step: A resumed run's last step: what was logged beyond it is taken back where
            the tracker can (TensorBoard).

    Raises:
        UnknownNameError: no tracker bears this name.
        PolicyError: its package is not installed.
    """

    def __init__(
        self, names: Sequence[str], folder: Path, device: str = "cpu", after_step: int = 0
    ) -> None:
        check_names(names)
        self._accelerator = Accelerator(
            cpu=device == "cpu", log_with=list(names) or None, project_dir=folder / TENSORBOARD
        )
        options = {TENSORBOARD: {"purge_step": after_step + 1}} if after_step else {}
        self._accelerator.init_trackers(PROJECT, init_kwargs=options)

    @property
    def writes(self) -> bool:
        """Whether this process is the one that writes."""
        return bool(self._accelerator.is_main_process)

    def log(self, metric: Metric) -> None:
        """Pass one row on."""
        values = {
            "loss/training": metric.train_loss,
            "loss/validation": metric.validation_loss,
            **{f"loss/{name}": value for name, value in metric.parts.items()},
            "learning_rate": metric.learning_rate,
            "gradient_norm": metric.gradient_norm,
        }
        present = {name: value for name, value in values.items() if value is not None}
        self._accelerator.log(present, step=metric.step)

    def close(self) -> None:
        """Write what is still held back."""
        for tracker in self._accelerator.trackers:
            tracker.finish()


def check_names(names: Sequence[str]) -> None:
    """Refuse trackers that are not to be had.

    Raises:
        UnknownNameError: no tracker bears this name.
        PolicyError: its package is not installed.
    """
    have = {str(name) for name in get_available_trackers()}
    for name in names:
        if name not in LOGGER_TYPE_TO_CLASS:
            raise UnknownNameError("tracker", name, LOGGER_TYPE_TO_CLASS)
        if name not in have:
            raise PolicyError(
                f"tracker {name} needs its package, which is not installed; run: pip install {name}"
            )
