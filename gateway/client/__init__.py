"""The Python client: softphones and dashboards over WebSockets, and everything else over HTTP.

    async with Softphone("http://127.0.0.1:8080", token) as phone:
        call = await phone.start("+14155550100")     # CallRefused, with a reason, if it may not be placed
        call.answered()
        settlement = await call.end()
        print(settlement.billed_seconds, settlement.remaining_seconds)

    async with Dashboard("http://127.0.0.1:8080", token) as dashboard:
        async for pool in dashboard:                 # whenever it changes
            print(pool.remaining_seconds)

    async with AdminClient("http://127.0.0.1:8080", admin_key) as admin:
        await admin.put_account("acme", name="Acme", plan="team")

    async with CallsClient("http://127.0.0.1:8080", admin_key, account="acme") as calls:
        admitted = await calls.start("c-1", "+14155550100", staff="ana", device="pbx")

It needs nothing of the gateway's own inside: no engine, no database, no server.
"""

from gateway.client.admin import AdminClient
from gateway.client.call import Call, Settlement
from gateway.client.calls import AdmittedCall, CallsClient, ResumedCall
from gateway.client.dashboard import Dashboard
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
from gateway.client.live_frames import PoolNotice
from gateway.client.live_use import LiveUse
from gateway.client.softphone import Softphone
from gateway.client.timing import Timing

__all__ = [
    "AdminClient",
    "AdmittedCall",
    "Call",
    "CallRefused",
    "CallsClient",
    "ClientError",
    "Dashboard",
    "EndsUndelivered",
    "GatewayUnreachable",
    "JournalInUse",
    "JournalOfAnother",
    "LiveUse",
    "NoAnswer",
    "PhoneClosed",
    "PhoneEnded",
    "PoolNotice",
    "Replaced",
    "ResumedCall",
    "Settlement",
    "Softphone",
    "StaffRemoved",
    "Timing",
    "TokenRefused",
    "UnexpectedAnswer",
]
