"""Businesses at a real gateway, and their operator."""

from __future__ import annotations

from gateway.client import AdminClient
from tests.support.gateways import GatewayProcess


def client(gateway: GatewayProcess) -> AdminClient:
    return AdminClient(gateway.url, gateway.admin_key)


async def make_business(admin: AdminClient, account: str) -> None:
    await admin.put_plan("ten", name="Ten", minutes=10, connected_channels=1, staff_seats=2)
    await admin.put_account(account, name="A business", plan="ten")
    await admin.put_staff(account, "ana")
