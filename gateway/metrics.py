"""What a gateway counts and times, for Prometheus. Names are documented in docs/operations.md.

With workers any of them answers for all. A gauge says by its mode how theirs are put together; it is a `live`
one, as else it would say for ever what a worker said that is gone.
"""

from __future__ import annotations

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

ADMISSIONS: Final = Counter(
    "callgate_admissions", "Calls asked for, by decision and reason", ("decision", "reason")
)
SETTLED_SECONDS: Final = Counter("callgate_settled_seconds", "Seconds billed by calls that ended here")
CALLS_SETTLED: Final = Counter("callgate_calls_settled", "Calls that ended here", ("ended_by",))
CALLS_IN_PROGRESS: Final = Gauge(
    "callgate_calls_in_progress", "Calls in progress in all pools", multiprocess_mode="livemostrecent"
)
CONNECTIONS: Final = Gauge(
    "callgate_connections", "Open WebSocket connections", ("kind",), multiprocess_mode="livesum"
)
BATCH_SIZE: Final = Histogram(
    "callgate_batch_size",
    "Operations decided by one script call",
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512),
)
SCRIPT_SECONDS: Final = Histogram(
    "callgate_script_seconds",
    "Time from sending a script call to its reply",
    ("script",),
    buckets=(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5),
)
ENGINE_FAILURES: Final = Counter(
    "callgate_engine_failures",
    "Script calls with no usable reply: their outcome is unknown, or the engine had no memory left",
)
RECORDER_LAG_ENTRIES: Final = Gauge(
    "callgate_recorder_lag_entries",
    "Records, and cycles that began, not yet in SQL",
    multiprocess_mode="livemax",
)
RECORDER_LAG_SECONDS: Final = Gauge(
    "callgate_recorder_lag_seconds", "Age of the oldest of them", multiprocess_mode="livemax"
)
RECORDED: Final = Counter("callgate_recorded", "Call records written to SQL")
DEAD_LETTERS: Final = Counter("callgate_dead_letters", "Records that SQL refused")
ANSWERS_KEPT: Final = Gauge(
    "callgate_answers_kept", "Settlements kept until SQL has them", multiprocess_mode="livesum"
)
ANSWERS_DROPPED: Final = Counter(
    "callgate_answers_dropped", "Answers not kept any more although they may be needed: too many", ("kind",)
)
ENDS_KEPT: Final = Gauge(
    "callgate_ends_kept", "Calls whose answer or end is still to be delivered", multiprocess_mode="livesum"
)
WEBHOOKS_SENT: Final = Counter("callgate_webhooks_sent", "Events that the webhook's receiver took", ("type",))
WEBHOOKS_FAILED: Final = Counter(
    "callgate_webhooks_failed", "Attempts to send an event that failed", ("why",)
)
WEBHOOKS_GIVEN_UP: Final = Counter("callgate_webhooks_given_up", "Events that are not tried any more")
WEBHOOKS_WAITING: Final = Gauge(
    "callgate_webhooks_waiting", "Events that wait to be sent", multiprocess_mode="livemax"
)
TASK_LAST_TURN: Final = Gauge(
    "callgate_task_last_turn_timestamp_seconds",
    "When a background task last finished a turn, in seconds since 1970",
    ("task",),
    multiprocess_mode="livemin",
)
EMERGENCY_JOURNAL: Final = Gauge(
    "callgate_emergency_journal_entries",
    "Calls let through without the engine, kept in the data directory until it is told of them",
    multiprocess_mode="livesum",
)
