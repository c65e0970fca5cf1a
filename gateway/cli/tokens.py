"""`callgate token`: what a device, or somebody who watches, connects with."""

from __future__ import annotations

import click
from msgspec import UNSET

from gateway.cli.kinds import DURATION, ID
from gateway.cli.output import instant, say_json
from gateway.cli.remote import Remote, remote_options
from gateway.client.admin import Scope
from gateway.client.resources import Token

_EXAMPLES = """\b
Examples:
  callgate token acme --staff ana --device desk
      for Ana's softphone: it can place calls and watch its account's pool; good for a day
  callgate token acme --scope watch --ttl 30d
      for a dashboard
  export CALLGATE_TOKEN=$(callgate token acme --staff ana --device desk)
      for `callgate call`
  callgate token acme --staff ana --revoke
      refuse every token that Ana's devices were given until now
"""


@click.command(epilog=_EXAMPLES, short_help="Issue a token for a device, or revoke tokens.")
@click.argument("account", type=ID)
@click.option("--staff", type=ID, help="Whose device it is.")
@click.option("--device", type=ID, help="Which device; its id is unique within the staff member.")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    type=click.Choice(["call", "watch", "numbers"]),
    help="What it may do; several by repeating. (default: call and watch with a device, else watch)",
)
@click.option("--ttl", type=DURATION, help="How long it is good: 60s to 365d. (default: 1d)")
@click.option("--revoke", is_flag=True, help="Refuse those issued until now, instead of issuing one.")
@remote_options
def token(
    remote: Remote,
    account: str,
    staff: str | None,
    device: str | None,
    scopes: tuple[Scope, ...],
    ttl: int | None,
    revoke: bool,
) -> None:
    """Issue a token and print it, alone on standard output; or revoke those issued until now."""
    if device is not None and staff is None:
        raise click.UsageError("A --device is one of a staff member: give --staff, too.")
    if revoke:
        if scopes or ttl is not None:
            raise click.UsageError("--revoke goes with neither --scope nor --ttl.")
        _revoke(remote, account, staff, device)
        return
    wanted: tuple[Scope, ...] = scopes or (("call", "watch") if device is not None else ("watch",))

    async def work() -> Token:
        async with remote.admin() as admin:
            return await admin.issue_token(
                account,
                staff=staff,
                device=device,
                scopes=wanted,
                ttl_seconds=UNSET if ttl is None else ttl,
            )

    issued = remote.run(work())
    if remote.as_json:
        say_json(issued)
    else:
        click.echo(issued.token)
        click.echo(f"Good for {', '.join(wanted)}, until {instant(issued.expires_at_ms)}.", err=True)


def _revoke(remote: Remote, account: str, staff: str | None, device: str | None) -> None:
    async def work() -> None:
        async with remote.admin() as admin:
            await admin.revoke_tokens(account, staff=staff, device=device)

    remote.run(work())
    if not remote.as_json:
        whose = "/".join(part for part in (account, staff, device) if part is not None)
        click.echo(f"The tokens issued to {whose} until now are refused. Calls in progress go on.")
