"""Metrics of several workers: one that dies takes with it what it said of its state, and no more."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from gateway import metrics

WORKER = """
import sys
from prometheus_client import Counter, Gauge
from gateway import metrics

for metric in vars(metrics).values():
    if isinstance(metric, Counter | Gauge):
        labelled = metric.labels(*metric._labelnames) if metric._labelnames else metric
        (labelled.set if isinstance(metric, Gauge) else labelled.inc)(int(sys.argv[1]))
print("said", flush=True)
sys.stdin.read()
"""


class Workers:
    """Processes that each say so much by every counter and gauge, and are killed."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._processes: list[subprocess.Popen[str]] = []

    def start(self, amount: int) -> subprocess.Popen[str]:
        worker = subprocess.Popen(
            [sys.executable, "-c", WORKER, str(amount)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(self._directory)},
        )
        self._processes.append(worker)
        assert worker.stdout is not None
        assert worker.stdout.readline() == "said\n"
        return worker

    def kill(self, worker: subprocess.Popen[str]) -> None:
        """End it with SIGKILL, and have it marked dead, as the supervisor does."""
        worker.kill()
        worker.communicate()
        mark_process_dead(worker.pid, str(self._directory))  # type: ignore[no-untyped-call]  # untyped there

    def told(self) -> dict[str, float]:
        """What any worker answers for all, each metric's samples added up."""
        registry = CollectorRegistry()
        MultiProcessCollector(registry, str(self._directory))  # type: ignore[no-untyped-call]  # untyped there
        found: dict[str, float] = {}
        for family in registry.collect():
            for sample in family.samples:
                assert "pid" not in sample.labels, "whoever reads it would have to put workers together"
                found[family.name] = found.get(family.name, 0) + sample.value
        return found

    def end(self) -> None:
        for worker in self._processes:
            worker.kill()
            worker.communicate()


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[Workers]:
    workers = Workers(tmp_path)
    yield workers
    workers.end()


def names(kind: type[MetricWrapperBase]) -> set[str]:
    return {
        family.name
        for metric in vars(metrics).values()
        if isinstance(metric, kind)
        for family in metric.describe()
    }


def test_what_a_worker_said_of_its_state_goes_with_it_and_what_it_counted_stays(workers: Workers) -> None:
    """Else an alert would go on until the gateway is restarted."""
    worker = workers.start(3)
    before = workers.told()
    assert before.keys() >= names(Gauge)
    workers.kill(worker)
    assert workers.told() == {name: value for name, value in before.items() if name not in names(Gauge)}


def test_gauges_of_workers_are_put_together_as_they_are_meant(workers: Workers) -> None:
    for amount in (3, 5, 4):
        workers.start(amount)
    assert {name: value for name, value in workers.told().items() if name in names(Gauge)} == {
        "callgate_calls_in_progress": 4,  # of the whole deployment, counted last
        "callgate_connections": 12,
        "callgate_recorder_lag_entries": 5,
        "callgate_recorder_lag_seconds": 5,
        "callgate_answers_kept": 12,
        "callgate_ends_kept": 12,
        "callgate_webhooks_waiting": 5,
        "callgate_task_last_turn_timestamp_seconds": 3,
        "callgate_emergency_journal_entries": 12,
    }
