"""What every address of the API works with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.api.auth import Authenticator
from gateway.api.origins import Origins
from gateway.api.receipts import Receipts
from gateway.api.starts import Numbering

if TYPE_CHECKING:
    from gateway.service import Callgate


@dataclass(frozen=True, slots=True)
class Api:
    """The service behind the API, and what the API needs of the settings."""

    service: Callgate
    authenticator: Authenticator
    origins: Origins
    numbering: Numbering
    receipts: Receipts
    grace_seconds: int
    lease_seconds: int
