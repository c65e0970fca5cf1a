"""The policy that a deployment's data is kept under: the same for all its gateways, set while they run."""

from __future__ import annotations

from typing import Final

from gateway.domain.errors import NotFound
from gateway.domain.policy import Policy
from gateway.records.deployment import Deployment

_IN_FORCE: Final = "policy"
_COMING: Final = "policy_next"


class KeptPolicy:
    """The policy, as SQL has it. All of it raises DatabaseUnavailable.

    While one is being set it stands beside the one before: SQL and the engine cannot change at one instant,
    and a gateway may die in between. Whoever is started next finds what is coming, and sets it.
    """

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment

    async def settle(self, policy: Policy) -> Policy:
        """Keep a policy unless there is one, and return what is kept then: the same for all gateways."""
        return _unpacked(await self._deployment.settle(_IN_FORCE, _packed(policy)))

    async def coming(self) -> Policy | None:
        """Return the policy that is being set; None if none is."""
        packed = await self._deployment.get(_COMING)
        return _unpacked(packed) if packed else None

    async def read(self) -> Policy | None:
        """Return the policy that is being set, else the one in force; None if no gateway ever kept one."""
        coming = await self.coming()
        if coming is not None:
            return coming
        packed = await self._deployment.get(_IN_FORCE)
        return _unpacked(packed) if packed else None

    async def require(self) -> Policy:
        """Return what `read` does. Raises NotFound if no gateway ever kept one."""
        policy = await self.read()
        if policy is None:
            raise NotFound("The database was never used by a gateway.")
        return policy

    async def begin(self, policy: Policy) -> None:
        """Keep a policy as the coming one, before the engine goes by it."""
        await self._deployment.put(_COMING, _packed(policy))

    async def finish(self, policy: Policy) -> None:
        """Keep a policy as the one in force, now that the engine goes by it; none is coming any more."""
        await self._deployment.put(_IN_FORCE, _packed(policy))
        await self._deployment.put(_COMING, "")


def _packed(policy: Policy) -> str:
    return f"{policy.free_seconds}/{policy.increment_seconds}/{policy.hold_seconds}/{policy.count_from}"


def _unpacked(packed: str) -> Policy:
    free, increment, hold, count_from = packed.split("/")
    return Policy(int(free), int(increment), int(hold), "answer" if count_from == "answer" else "admission")
