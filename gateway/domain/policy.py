"""The policy: how a deployment turns a call's length into billed seconds, and how much a call holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, get_args

CountFrom = Literal["admission", "answer"]

MAX_FREE_SECONDS: Final = 3600
MAX_INCREMENT_SECONDS: Final = 3600
MAX_HOLD_SECONDS: Final = 3600
MAX_HOLD_STEPS: Final = 600
"""How many increments a hold may stretch past the free length. The live pool counts one step at a time."""


@dataclass(frozen=True, slots=True)
class Policy:
    """One policy for a deployment, not per plan; every call record keeps the one it was billed under.

    Raises ValueError, naming the field, where a value is no integer or out of its range.
    """

    free_seconds: int = 30
    """A call of this length or shorter is free (R1)."""
    increment_seconds: int = 1
    """A longer one bills in whole increments of this length (R2)."""
    hold_seconds: int = 60
    """What a call in progress holds of the pool at least (R7); 0 holds only what was used."""
    count_from: CountFrom = "admission"
    """Whether a call is timed from its admission or from its answer (R3)."""

    def __post_init__(self) -> None:
        _check_range("free_seconds", self.free_seconds, 0, MAX_FREE_SECONDS)
        _check_range("increment_seconds", self.increment_seconds, 1, MAX_INCREMENT_SECONDS)
        _check_range("hold_seconds", self.hold_seconds, 0, MAX_HOLD_SECONDS)
        if self.count_from not in get_args(CountFrom):
            raise ValueError(f'count_from must be "admission" or "answer", not {self.count_from!r}')
        if self.hold_seconds - self.free_seconds > MAX_HOLD_STEPS * self.increment_seconds:
            raise ValueError(
                f"hold_seconds must be at most {MAX_HOLD_STEPS} increments longer than free_seconds: "
                f"at most {self.free_seconds + MAX_HOLD_STEPS * self.increment_seconds} here"
            )


def _check_range(field: str, value: int, least: int, most: int) -> None:
    # A bool is an int, too, but `free_seconds = true` in a settings file is a mistake.
    if type(value) is not int:
        raise ValueError(f"{field} must be an integer, not {value!r}")
    if not least <= value <= most:
        raise ValueError(f"{field} must be from {least} to {most}, not {value}")
