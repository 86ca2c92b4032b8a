"""Where networks run, and whether that is to be had on this machine."""

from __future__ import annotations

import re

import torch

from teleop.errors import PolicyError


def check_device(name: str) -> None:
    """Refuse a device that no network can run on here.

    Args:
        name: ``cpu``, ``cuda``, or ``cuda:N`` for one of several GPUs.

    Raises:
        PolicyError: another name, or a GPU that torch does not see.
    """
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise PolicyError(f"device {name!r} is neither cpu nor cuda; give one of them")
    device = torch.device(name)
    seen = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= seen:
        raise PolicyError(
            f"device {name} was asked for, but torch sees {seen or 'no'} GPU{'s' * (seen > 1)}; "
            "give --device cpu" + (" or cuda" if seen else "")
        )


def check_training_device(name: str) -> None:
    """Refuse a device that the trainer cannot use.

    Raises:
        PolicyError: see ``check_device``; or one GPU by its number, which is not for us to choose.
    """
    check_device(name)
    if ":" in name:
        raise PolicyError(
            f"device {name}: each training process takes the GPU of its own number; give cuda, "
            "and choose among GPUs with CUDA_VISIBLE_DEVICES"
        )
