"""`python -m tests.once [--tcp] [--operations N] [--workers N] [--loss 2%] [--cut SECONDS] [--seed S] [--keep DIR]`"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.netlab import NetlabError, units
from tests.once.trial import Plan, run


def main() -> int:
    parser = argparse.ArgumentParser("python -m tests.once", description=__doc__)
    parser.add_argument("--operations", type=int, default=Plan.operations)
    parser.add_argument("--workers", type=int, default=Plan.workers)
    parser.add_argument("--tcp", action="store_true", help="in place of QUIC")
    parser.add_argument("--loss", type=units.fraction, default=Plan.loss)
    parser.add_argument("--delay", type=units.seconds, default=Plan.delay, help="one way")
    parser.add_argument(
        "--cut", type=float, default=Plan.cut_s, help="seconds between cuts at each end, about"
    )
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--keep", type=Path, help="a directory for logs and files")
    options = parser.parse_args()
    plan = Plan(
        options.operations,
        options.workers,
        options.loss,
        options.delay,
        options.cut,
        tcp=options.tcp,
        seed=options.seed,
    )
    print(f"seed {plan.seed}", flush=True)
    with tempfile.TemporaryDirectory() as directory:
        room = options.keep or Path(directory)
        room.mkdir(parents=True, exist_ok=True)
        try:
            verdict = run(plan, room)
        except NetlabError as error:
            print(error, file=sys.stderr)
            return 2
    print(verdict)
    for fault in verdict.faults[:50]:
        print("  " + fault)
    return 1 if verdict.faults else 0


if __name__ == "__main__":
    sys.exit(main())
