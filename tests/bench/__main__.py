"""`make bench`: all benchmarks, one after another, or those that are named (ARGS="engine websocket")."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Final

from tests.bench import admissions, engine_cost, live, recorder, thresholds, websocket_cost

BENCHMARKS: Final[dict[str, tuple[str, Callable[[], None]]]] = {
    "engine": ("what a start or an end costs the engine, by calls in progress", engine_cost.run),
    "websocket": ("what a device's message costs a gateway, against a bare echo", websocket_cost.run),
    "live": ("what dashboards cost a gateway, and how soon they have what is newest", live.run),
    "admissions": ("admissions a second of one gateway, against redis-benchmark", admissions.run),
    "recorder": ("whether the recorder keeps up (1,000,000 calls on each database)", recorder.run),
    "thresholds": ("how late a threshold in mid-call reaches dashboards, a gateway killed", thresholds.run),
}


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument(
        "benchmark",
        nargs="*",
        metavar="BENCHMARK",
        help="; ".join(f"{name}: {what}" for name, (what, _) in BENCHMARKS.items()),
    )
    named = parser.parse_args().benchmark or list(BENCHMARKS)
    for name in named:
        if name not in BENCHMARKS:
            parser.error(f"{name} is not one of {', '.join(BENCHMARKS)}")
    for name in named:
        what, run = BENCHMARKS[name]
        print(f"\n{name}: {what}", flush=True)
        run()


if __name__ == "__main__":
    main()
