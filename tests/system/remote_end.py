"""The policy's machine: reads the rig and the job from standard input, runs the policy alone."""

import json
import sys
from pathlib import Path

from teleop.assembly import Job
from teleop.remote_policy import run_policy
from teleop.rig import Rig


def main() -> None:
    """Until the policy dies or the test ends this process."""
    told = json.load(sys.stdin)
    job = Job("deploy", "transfer_cube", options=told["options"])
    run_policy(Rig.model_validate(told["rig"]), job, emulate=True, say=_say)


def _say(text: str) -> None:
    with Path(sys.argv[1]).open("a") as file:
        file.write(text + "\n")


if __name__ == "__main__":
    main()
