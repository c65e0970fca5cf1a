"""The Python client: softphones over the device WebSocket, and everything else over HTTP.

    async with Softphone("http://127.0.0.1:8080", token) as phone:
        call = await phone.start("+14155550100")     # CallRefused, with a reason, if it may not be placed
        call.answered()
        settlement = await call.end()
        print(settlement.billed_seconds, settlement.remaining_seconds)

    async with AdminClient("http://127.0.0.1:8080", admin_key) as admin:
        await admin.put_account("acme", name="Acme", plan="team")

It needs nothing of the gateway's own inside: no engine, no database, no server.
"""

from gateway.client.admin import AdminClient
from gateway.client.call import Call, Settlement
from gateway.client.errors import (
    CallRefused,
    ClientError,
    EndsUndelivered,
    GatewayUnreachable,
    JournalInUse,
    JournalOfAnother,
    NoAnswer,
    PhoneClosed,
    PhoneEnded,
    Replaced,
    StaffRemoved,
    TokenRefused,
    UnexpectedAnswer,
)
from gateway.client.softphone import Softphone
from gateway.client.timing import Timing

__all__ = [
    "AdminClient",
    "Call",
    "CallRefused",
    "ClientError",
    "EndsUndelivered",
    "GatewayUnreachable",
    "JournalInUse",
    "JournalOfAnother",
    "NoAnswer",
    "PhoneClosed",
    "PhoneEnded",
    "Replaced",
    "Settlement",
    "Softphone",
    "StaffRemoved",
    "Timing",
    "TokenRefused",
    "UnexpectedAnswer",
]
