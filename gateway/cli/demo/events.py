"""What happens in the demo, as its phones tell it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from rich.text import Text

from gateway.cli.output import minutes
from gateway.client import Call, CallRefused, Settlement
from gateway.domain.errors import CallgateError


@dataclass(slots=True)
class Story:
    """Says each event to `say`, in a line, and counts them."""

    say: Callable[[Text], None]
    admitted_calls: int = 0
    refused_calls: int = 0
    settled_calls: int = 0
    billed_seconds: int = 0
    refused_for: dict[str, int] = field(default_factory=dict)
    """How often each reason was given since the last change of plan."""

    def admitted(self, who: str, call: Call) -> None:
        """A call was admitted."""
        self.admitted_calls += 1
        left = "" if call.remaining_seconds is None else f"{minutes(call.remaining_seconds)} remaining"
        self._line("admitted", "green", who, f"to {call.to}", left)

    def refused(self, who: str, to: str, refusal: CallRefused) -> None:
        """A call was refused."""
        self.refused_calls += 1
        self.refused_for[refusal.reason] = self.refused_for.get(refusal.reason, 0) + 1
        left = f"{minutes(refusal.remaining_seconds)} remaining"
        self._line("refused", "red", who, f"to {to}", f"{refusal.reason}, {left}")

    def settled(self, who: str, settlement: Settlement) -> None:
        """A call was settled."""
        self.settled_calls += 1
        self.billed_seconds += settlement.billed_seconds
        billed = f"billed {settlement.billed_seconds} s" if settlement.counted else "free"
        seconds = settlement.remaining_seconds
        left = "" if seconds is None else f"{minutes(seconds)} remaining"
        self._line(
            "settled", "cyan", who, f"after {settlement.duration_ms / 1000:.1f} s", f"{billed}, {left}"
        )

    def failed(self, who: str, error: CallgateError) -> None:
        """Something could not be asked."""
        self._line("failed", "yellow", who, "", error.message)

    def plan_changed(self, name: str, allocated_minutes: int) -> None:
        """The account was upgraded."""
        self.refused_for.clear()
        self._line("upgraded", "bold magenta", "", "", f"to {name}: {allocated_minutes} minutes a cycle")

    def cycle_turned(self) -> None:
        """The next cycle began."""
        self.refused_for.clear()
        self._line("new cycle", "bold magenta", "", "", "all minutes are there again")

    def note(self, text: str) -> None:
        """Something else to know."""
        self._line("note", "dim", "", "", text)

    def _line(self, what: str, style: str, who: str, where: str, more: str) -> None:
        self.say(Text.assemble((f"{what:<9}", style), " ", f"{who:<13}", f"{where:<16}", " ", more))
