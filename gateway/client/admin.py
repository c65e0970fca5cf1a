"""The admin API, typed: plans, accounts, members, tokens, pools, records, and the deployment."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import date
from typing import Literal

from msgspec import UNSET, UnsetType

from gateway.client import resources
from gateway.client.http import HttpClient, path_of
from gateway.domain.policy import CountFrom
from gateway.domain.usage import Step

Scope = Literal["call", "watch", "numbers"]


class AdminClient(HttpClient):
    """A gateway's HTTP addresses, with the admin key; what a token may read it can read with a token, too.

    On an existing resource a field that is left out (UNSET) keeps its value, and None takes it away. Lists
    are async iterators that fetch page after page.
    """

    # Plans

    async def put_plan(
        self,
        plan: str,
        *,
        name: str | UnsetType = UNSET,
        minutes: int | UnsetType = UNSET,
        connected_channels: int | UnsetType = UNSET,
        staff_seats: int | UnsetType = UNSET,
        max_concurrent_calls: int | UnsetType | None = UNSET,
        monthly_price: resources.Price | UnsetType | None = UNSET,
    ) -> resources.Plan:
        """Make a plan, or change it; once accounts are on it only name and price (PlanInUse)."""
        body = {
            "name": name,
            "minutes": minutes,
            "connected_channels": connected_channels,
            "staff_seats": staff_seats,
            "max_concurrent_calls": max_concurrent_calls,
            "monthly_price": monthly_price,
        }
        return await self.request("PUT", path_of("plans", plan), resources.Plan, body=body)

    async def get_plan(self, plan: str) -> resources.Plan:
        """Read a plan."""
        return await self.request("GET", path_of("plans", plan), resources.Plan)

    def plans(self) -> AsyncIterator[resources.Plan]:
        """Read all plans, by id."""
        return self.pages(path_of("plans"), "plans", resources.Plan)

    # Accounts

    async def put_account(
        self,
        account: str,
        *,
        name: str | UnsetType = UNSET,
        plan: str | UnsetType | None = UNSET,
        billing_date: date | UnsetType = UNSET,
        time_zone: str | UnsetType = UNSET,
        status: Literal["active", "suspended"] | UnsetType = UNSET,
    ) -> resources.Account:
        """Make an account, or change its name, time zone or status (ImmutableField for the others)."""
        body = {
            "name": name,
            "plan": plan,
            "billing_date": billing_date,
            "time_zone": time_zone,
            "status": status,
        }
        return await self.request("PUT", path_of("accounts", account), resources.Account, body=body)

    async def get_account(self, account: str) -> resources.Account:
        """Read an account."""
        return await self.request("GET", path_of("accounts", account), resources.Account)

    def accounts(
        self, *, q: str | UnsetType = UNSET, sort: Literal["used_percent"] | UnsetType = UNSET
    ) -> AsyncIterator[resources.AccountItem]:
        """Read accounts: those whose id or name holds `q`; by id, or the nearest to exhaustion first."""
        return self.pages(path_of("accounts"), "accounts", resources.AccountItem, {"q": q, "sort": sort})

    async def change_plan(self, account: str, plan: str) -> resources.PlanChange:
        """Move an account to another plan (R21-R23)."""
        path = path_of("accounts", account, "plan")
        return await self.request("PUT", path, resources.PlanChange, body={"plan": plan})

    async def withdraw_pending_plan(self, account: str) -> None:
        """Withdraw the plan that is pending (R23)."""
        await self.fetch("DELETE", path_of("accounts", account, "plan", "pending"))

    async def pool(self, account: str) -> resources.Pool:
        """Read an account's pool as it is now."""
        return await self.request("GET", path_of("accounts", account, "pool"), resources.Pool)

    # Staff and channels

    async def put_staff(
        self, account: str, staff: str, *, name: str | UnsetType | None = UNSET
    ) -> resources.StaffMember:
        """Make a staff member, who takes a seat (SeatLimit), or change one."""
        path = path_of("accounts", account, "staff", staff)
        return await self.request("PUT", path, resources.StaffMember, body={"name": name})

    async def remove_staff(self, account: str, staff: str) -> None:
        """Remove a staff member; calls in progress go on."""
        await self.fetch("DELETE", path_of("accounts", account, "staff", staff))

    def staff(self, account: str) -> AsyncIterator[resources.StaffMember]:
        """Read an account's staff members, by id."""
        return self.pages(path_of("accounts", account, "staff"), "staff", resources.StaffMember)

    async def put_channel(
        self,
        account: str,
        channel: str,
        *,
        label: str | UnsetType | None = UNSET,
        number: str | UnsetType | None = UNSET,
    ) -> resources.Channel:
        """Connect a channel (ChannelLimit), or change one."""
        path = path_of("accounts", account, "channels", channel)
        return await self.request("PUT", path, resources.Channel, body={"label": label, "number": number})

    async def remove_channel(self, account: str, channel: str) -> None:
        """Remove a channel; calls in progress go on."""
        await self.fetch("DELETE", path_of("accounts", account, "channels", channel))

    def channels(self, account: str) -> AsyncIterator[resources.Channel]:
        """Read an account's channels, by id."""
        return self.pages(path_of("accounts", account, "channels"), "channels", resources.Channel)

    # Tokens

    async def issue_token(
        self,
        account: str,
        *,
        staff: str | None = None,
        device: str | None = None,
        scopes: Sequence[Scope] = ("call", "watch"),
        ttl_seconds: int | UnsetType = UNSET,
    ) -> resources.Token:
        """Issue a token; the scope `call` needs staff and device."""
        body = {
            "account": account,
            "staff": UNSET if staff is None else staff,
            "device": UNSET if device is None else device,
            "scopes": list(scopes),
            "ttl_seconds": ttl_seconds,
        }
        return await self.request("POST", path_of("tokens"), resources.Token, body=body)

    async def revoke_tokens(
        self, account: str, *, staff: str | None = None, device: str | None = None
    ) -> None:
        """Refuse the tokens issued until now to an account, a staff member or one device."""
        body = {
            "account": account,
            "staff": UNSET if staff is None else staff,
            "device": UNSET if device is None else device,
        }
        await self.fetch("POST", path_of("tokens", "revoke"), body=body)

    # Records

    def calls(
        self, account: str, *, cycle: str | UnsetType = UNSET, staff: str | UnsetType = UNSET
    ) -> AsyncIterator[resources.CallRecord]:
        """Read call records, newest admitted first: of one cycle (by its start), of one staff member."""
        path = path_of("accounts", account, "calls")
        return self.pages(path, "calls", resources.CallRecord, {"cycle": cycle, "staff": staff})

    async def get_call(self, account: str, call_id: str) -> resources.CallRecord:
        """Read the newest call of an id, from its admission on."""
        path = path_of("accounts", account, "calls", call_id)
        return await self.request("GET", path, resources.CallRecord)

    def statements(self, account: str) -> AsyncIterator[resources.Statement]:
        """Read statements, newest first."""
        return self.pages(path_of("accounts", account, "statements"), "statements", resources.Statement)

    async def get_statement(self, account: str, cycle_start: str) -> resources.Statement:
        """Read the statement of one cycle."""
        path = path_of("accounts", account, "statements", cycle_start)
        return await self.request("GET", path, resources.Statement)

    async def get_statement_csv(self, account: str, cycle_start: str) -> bytes:
        """Read the calls of one cycle as CSV."""
        return await self.fetch("GET", path_of("accounts", account, "statements", f"{cycle_start}.csv"))

    async def usage(
        self, account: str, *, cycle: str | UnsetType = UNSET, step: Step | UnsetType = UNSET
    ) -> resources.Usage:
        """Read how a cycle's minutes (by its start; else the running one's) were used up, by day or hour."""
        path = path_of("accounts", account, "usage")
        return await self.request("GET", path, resources.Usage, query={"cycle": cycle, "step": step})

    # The deployment

    async def policy(self) -> resources.Policy:
        """Read the policy."""
        return await self.request("GET", path_of("policy"), resources.Policy)

    async def set_policy(
        self,
        *,
        free_seconds: int | UnsetType = UNSET,
        increment_seconds: int | UnsetType = UNSET,
        hold_seconds: int | UnsetType = UNSET,
        count_from: CountFrom | UnsetType = UNSET,
    ) -> resources.Policy:
        """Change the policy, for all gateways at once."""
        body = {
            "free_seconds": free_seconds,
            "increment_seconds": increment_seconds,
            "hold_seconds": hold_seconds,
            "count_from": count_from,
        }
        return await self.request("PUT", path_of("policy"), resources.Policy, body=body)

    async def clock(self) -> resources.Clock:
        """Read the billing clock of a simulation (NotFound without `--simulate`)."""
        return await self.request("GET", path_of("simulation", "clock"), resources.Clock)

    async def move_clock(
        self,
        *,
        at_ms: int | UnsetType = UNSET,
        advance_ms: int | UnsetType = UNSET,
        speed: int | UnsetType = UNSET,
    ) -> resources.Clock:
        """Move the billing clock of a simulation, and set its speed; what falls due happens first."""
        body = {"at_ms": at_ms, "advance_ms": advance_ms, "speed": speed}
        return await self.request("POST", path_of("simulation", "clock"), resources.Clock, body=body)

    async def status(self) -> resources.Status:
        """Read how the deployment is."""
        return await self.request("GET", path_of("status"), resources.Status)

    async def readiness(self) -> resources.Readiness:
        """Read whether the gateway takes requests; also where it answers 503. Needs no credential."""
        return self.read((await self._ask("GET", "/readyz")).content, resources.Readiness)
