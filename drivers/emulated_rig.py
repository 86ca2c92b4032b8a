"""The emulated rig, running beside whoever opens its devices without a session."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from teleop.errors import MissingExtraError
from teleop.processes import NodeSpec
from teleop.rig import Rig
from teleop.supervisor import Supervisor


@contextlib.contextmanager
def emulated_rig(
    rig: Rig, options: Mapping[str, object] | None = None
) -> Iterator[tuple[Rig, int]]:
    """The rig at emulated addresses, running, and the emulator's process id.

    Args:
        rig: As read from its file.
        options: Further ones of the emulator's node.

    Raises:
        MissingExtraError: the emulator's packages are not installed.
        NodeFailedError: the emulator does not start.
    """
    try:
        from drivers.emulated.addresses import process_rig
        from drivers.emulated.tasks import FREE
    except ImportError as error:
        raise MissingExtraError(error.name or str(error), "sim", "--emulate") from error

    with tempfile.TemporaryDirectory(prefix="tandem-") as folder:
        emulated = process_rig(rig, Path(folder))
        scene = {"task": FREE.name, "hands": False, "runtime_dir": folder, **(options or {})}
        spec = NodeSpec("emulator", "drivers.emulated.emulator_node:build", "world", scene)
        with Supervisor(emulated, [spec], Path(folder)) as supervisor:
            yield emulated, supervisor.pid(spec.name)
