"""The service: the live pool, the records and this process's devices, tied together for the API."""

from gateway.service.callgate import (
    AccountListItem,
    Callgate,
    DeviceConnected,
    GatewayStatus,
    RecorderLag,
    Status,
)
from gateway.service.health import Health
from gateway.service.opening import open_callgate

__all__ = [
    "AccountListItem",
    "Callgate",
    "DeviceConnected",
    "GatewayStatus",
    "Health",
    "RecorderLag",
    "Status",
    "open_callgate",
]
