"""A second OpenVR program, without any of our drivers: ``python -m tests.drivers.openvr_client``.

Each line of its input is Python that may use ``openvr`` and ``time``; the answer is its value as
JSON.
"""

from __future__ import annotations

import ctypes
import json
import sys
import time
from typing import Any

import openvr


def plain(value: Any) -> Any:
    """As JSON has it: structures become objects, arrays lists."""
    if isinstance(value, ctypes.Structure):
        return {name: plain(getattr(value, name)) for name, *_ in value._fields_}
    if isinstance(value, ctypes.Array | tuple | list):
        return [plain(each) for each in value]
    if isinstance(value, ctypes.Union | openvr.IVRSystem):
        return type(value).__name__
    return value


def main() -> None:
    """Until the input ends."""
    space: dict[str, Any] = {"openvr": openvr, "time": time, "event": openvr.VREvent_t()}
    for line in sys.stdin:
        try:
            if " := " in line:
                name, _, line = line.partition(" := ")
                value = space[name.strip()] = eval(line, space)
            else:
                value = eval(line, space)
        except openvr.OpenVRError as error:
            value = f"raised {type(error).__name__}"
        print(json.dumps(plain(value)), flush=True)


if __name__ == "__main__":
    main()
