"""The service: the live pool, the records and this process's devices, tied together for the API."""

from gateway.service.callgate import AccountListItem, Callgate, Greeting
from gateway.service.health import Health
from gateway.service.opening import open_callgate
from gateway.service.status import GatewayStatus, RecorderLag, Status

__all__ = [
    "AccountListItem",
    "Callgate",
    "GatewayStatus",
    "Greeting",
    "Health",
    "RecorderLag",
    "Status",
    "open_callgate",
]
