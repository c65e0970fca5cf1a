"""Engines with replicas, Sentinels or as a Cluster: real servers of the tests, to fail over.

Fixtures
    `start_replicated`   a factory `start_replicated(replicas=2, …)`: a primary and its replicas
    `start_sentinels`    a factory `start_sentinels(replicas=2, …)`: the same, watched by three Sentinels
    `start_cluster`      a factory `start_cluster(…)`: three primaries with a replica each

Each takes `persistent` and `options`, as `start_engine` does. They end with the test. Every single server is
an `EngineServer`: kill, pause, resume, start.
"""

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.crc import key_slot

from tests.support.engines import EngineServer, engine_binary
from tests.support.waiting import wait_until_sync

SERVICE = "callgate"
NODE_TIMEOUT_MS = 2000
DOWN_AFTER_MS = 1000
SLOTS = 16384
REPLICATING, WATCHING, ASKING, TESTING = "replicating", "watching", "asking", "testing"
"""Users, each with its name for a password: replicas, Sentinels, gateways and the tests. Who has a user of
its own can be shut out."""
_FAILURES = (redis.RedisError, OSError)


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on; all different."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


class Replicated:
    """A primary with replicas. Which is which is asked, not remembered."""

    users: tuple[str, ...] = ()
    """Who is let in; anybody if there are none."""

    def __init__(
        self,
        replicas: int = 2,
        *,
        persistent: bool = False,
        options: tuple[str, ...] = (),
        kind: str = "valkey",
    ) -> None:
        ports = free_ports(1 + replicas)
        common = (*options, "--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1")
        if self.users:
            common += ("--masteruser", REPLICATING, "--masterauth", REPLICATING, "--user", "default", "off")
        for user in self.users:
            common += ("--user", user, "on", f">{user}", "~*", "&*", "+@all")
        self.servers = [
            EngineServer(
                engine_binary(kind),
                persistent=persistent,
                options=common if port == ports[0] else (*common, "--replicaof", f"127.0.0.1 {ports[0]}"),
                port=port,
                user=TESTING if self.users else "",
            )
            for port in ports
        ]

    def start(self) -> None:
        """Start all, and wait until every replica follows."""
        for server in self.servers:
            server.start()
        wait_until_sync(self.in_step, 15)
        # A replica that has only just been filled takes up to a second to say so, and is sent nothing before.
        self.servers[0].ask("PUBLISH", "all are there", "")
        self.servers[0].ask("WAIT", len(self.servers) - 1, 5000)

    def in_step(self) -> bool:
        """Whether all replicas have all that the first server has, which is the primary at first."""
        primary = self.servers[0]
        offset = primary.info("replication")["master_repl_offset"]
        return self.is_followed(primary) and all(each["offset"] == offset for each in _followers(primary))

    def is_followed(self, primary: EngineServer) -> bool:
        """Whether all others follow this server, however far behind."""
        followers = _followers(primary)
        return len(followers) == len(self.servers) - 1 and all(
            each["state"] == "online" for each in followers
        )

    @property
    def primary(self) -> EngineServer:
        """The server that is the primary now; the first to say so."""

        def found() -> EngineServer | None:
            return next((server for server in self.servers if is_primary(server)), None)

        server = wait_until_sync(found, 15)
        assert server is not None
        return server

    @property
    def replicas(self) -> list[EngineServer]:
        """The others."""
        primary = self.primary
        return [server for server in self.servers if server is not primary]

    def discard(self) -> None:
        """Stop all and remove what they kept."""
        for server in self.servers:
            server.discard()


class SentinelServer(EngineServer):
    """A Sentinel. It rewrites its settings file, and finds there what it knew when it is started again."""

    def __init__(self, port: int, primary_port: int, quorum: int) -> None:
        super().__init__(engine_binary("valkey"), port=port)
        settings = self.directory / "sentinel.conf"
        settings.write_text(
            f"port {port}\nbind 127.0.0.1\ndir {self.directory}\nunixsocket {self.socket}\n"
            f"sentinel monitor {SERVICE} 127.0.0.1 {primary_port} {quorum}\n"
            f"sentinel down-after-milliseconds {SERVICE} {DOWN_AFTER_MS}\n"
            f"sentinel failover-timeout {SERVICE} 5000\n"
            f"sentinel auth-user {SERVICE} {WATCHING}\nsentinel auth-pass {SERVICE} {WATCHING}\n"
        )
        self._arguments = (str(settings), "--sentinel")


class SentinelSetup(Replicated):
    """A primary, replicas, and three Sentinels that watch them."""

    users = (REPLICATING, WATCHING, ASKING, TESTING)

    def __init__(self, replicas: int = 2, **given: Any) -> None:
        super().__init__(replicas, **given)
        self.sentinels = [SentinelServer(port, self.servers[0].port, 2) for port in free_ports(3)]

    @property
    def url(self) -> str:
        """What a gateway is given."""
        return self.url_by([sentinel.port for sentinel in self.sentinels])

    @staticmethod
    def url_by(ports: list[int]) -> str:
        """The same by Sentinels on other ports."""
        return (
            f"redis+sentinel://{ASKING}:{ASKING}@{','.join(f'127.0.0.1:{each}' for each in ports)}/{SERVICE}"
        )

    def start(self) -> None:
        """Start all, and wait until the Sentinels know of each other and of the replicas."""
        super().start()
        for sentinel in self.sentinels:
            sentinel.start()
        wait_until_sync(self._know_each_other, 20)

    def isolate(self, server: EngineServer) -> None:
        """Cut a server off from the others and from the Sentinels, as a partition does; clients reach it."""
        for user in (REPLICATING, WATCHING):
            server.ask("ACL", "SETUSER", user, "off")
            server.ask("CLIENT", "KILL", "USER", user)

    def rejoin(self, server: EngineServer) -> None:
        """End the partition."""
        for user in (REPLICATING, WATCHING):
            server.ask("ACL", "SETUSER", user, "on")

    def _know_each_other(self) -> bool:
        for sentinel in self.sentinels:
            fields: list[bytes] = sentinel.ask("SENTINEL", "MASTER", SERVICE)
            state = dict(zip(fields[::2], fields[1::2], strict=True))
            if int(state[b"num-other-sentinels"]) != len(self.sentinels) - 1:
                return False
            if int(state[b"num-slaves"]) != len(self.servers) - 1:
                return False
        return True

    @property
    def named(self) -> EngineServer:
        """The primary that the Sentinels name; those that are paused are not asked."""
        ports = [
            int(sentinel.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)[1])
            for sentinel in self.sentinels
            if not is_paused(sentinel) and sentinel.process.poll() is None
        ]
        port = max(set(ports), key=ports.count)
        return next(server for server in self.servers if server.port == port)

    def failover(self) -> None:
        """A planned failover, the primary in good health; returns when the Sentinels name the new one."""
        before = self.named
        wait_until_sync(self._takes_up_failover, 10)
        self.wait_for_failover(before)

    def _takes_up_failover(self) -> bool:
        try:
            self.sentinels[0].ask("SENTINEL", "FAILOVER", SERVICE)
        except redis.ResponseError:
            # NOGOODSLAVE, INPROG: not yet.
            return False
        return True

    def wait_for_failover(self, before: EngineServer, timeout_seconds: float = 15) -> EngineServer:
        """Wait until the Sentinels name another primary than this, and it is one."""

        def found() -> EngineServer | None:
            server = self.named
            return server if server is not before and is_primary(server) else None

        server = wait_until_sync(found, timeout_seconds)
        assert server is not None
        return server

    def discard(self) -> None:
        """Stop all and remove what they kept."""
        for sentinel in self.sentinels:
            sentinel.discard()
        super().discard()


class Cluster:
    """Three primaries, each with a replica: `servers[n]` and `servers[n + 3]` at first."""

    def __init__(
        self,
        primaries: int = 3,
        *,
        persistent: bool = False,
        full_coverage: bool = True,
        options: tuple[str, ...] = (),
        kind: str = "valkey",
    ) -> None:
        """With `full_coverage`, as it is by default in a Cluster, a shard that is away stops the others too;

        docs/operations.md says to do without.
        """
        self._primaries = primaries
        ports = free_ports(4 * primaries)
        self._bus_ports = dict(zip(ports[::2], ports[1::2], strict=True))
        self.servers = [
            EngineServer(
                engine_binary(kind),
                persistent=persistent,
                port=port,
                options=(
                    *("--cluster-enabled", "yes", "--cluster-port", str(bus_port)),
                    *(
                        "--cluster-node-timeout",
                        str(NODE_TIMEOUT_MS),
                        "--cluster-replica-validity-factor",
                        "0",
                    ),
                    *("--cluster-allow-replica-migration", "no", "--repl-diskless-sync-delay", "0"),
                    *("--cluster-require-full-coverage", "yes" if full_coverage else "no"),
                    *options,
                ),
            )
            for port, bus_port in self._bus_ports.items()
        ]

    @property
    def url(self) -> str:
        """What a gateway is given: three of the nodes."""
        return f"redis+cluster://{','.join(f'127.0.0.1:{each.port}' for each in self.servers[:3])}"

    def start(self) -> None:
        """Start all, make a Cluster of them, and wait until it is whole."""
        for server in self.servers:
            server.start()
        first, *others = self.servers
        for number, server in enumerate(self.servers):
            # By hand: nodes that meet with one epoch settle it by a collision, which takes its time.
            server.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for server in others:
            port, bus_port = server.port, self._bus_ports[server.port]
            first.ask("CLUSTER", "MEET", "127.0.0.1", port, bus_port)
        share = SLOTS // self._primaries
        for number, server in enumerate(self.servers[: self._primaries]):
            last = SLOTS - 1 if number == self._primaries - 1 else (number + 1) * share - 1
            server.ask("CLUSTER", "ADDSLOTSRANGE", number * share, last)
        wait_until_sync(lambda: all(_knows(each) == len(self.servers) for each in self.servers), 20)
        for number, server in enumerate(self.servers[self._primaries :]):
            server.ask("CLUSTER", "REPLICATE", node_id(self.servers[number]))
        wait_until_sync(self.is_whole, 20)

    def is_whole(self) -> bool:
        """Whether every node sees every slot served, each replica follows, and all agree on who is who."""
        try:
            for server in self.servers:
                if not sees_all(server):
                    return False
                replication = server.info("replication")
                if replication["role"] == "slave" and replication["master_link_status"] != "up":
                    return False
            owners = {tuple(sorted(_owners(server).items())) for server in self.servers}
            sizes = [len(self.replicas_of(server)) for server in self.servers if is_primary(server)]
        except _FAILURES:
            return False
        return len(owners) == 1 and sizes == [1] * self._primaries

    def owner_of(self, key: str) -> EngineServer:
        """The primary that a key is on, as those nodes see it that are not down."""
        slot = key_slot(key.encode())
        claims = [
            (int(line[6]), server)
            for server in self.servers
            if is_primary(server)
            for line in _nodes(server)
            if "myself" in line[2] and any(_covers(each, slot) for each in line[8:])
        ]
        return max(claims, key=lambda claim: claim[0])[1]

    def replicas_of(self, primary: EngineServer) -> list[EngineServer]:
        """The servers that follow this one, as they say themselves."""
        return [
            server
            for server in self.servers
            if not is_paused(server)
            and server.process.poll() is None
            and (found := server.info("replication"))["role"] == "slave"
            and found["master_port"] == primary.port
        ]

    def failover(self, primary: EngineServer) -> EngineServer:
        """A planned failover: the replica of a primary takes its place. Returns the new primary."""
        (replica,) = self.replicas_of(primary)
        replica.ask("CLUSTER", "FAILOVER")
        wait_until_sync(lambda: is_primary(replica), 10)
        return replica

    def wait_for_failover(self, replica: EngineServer, timeout_seconds: float = 15) -> None:
        """Wait until this replica is a primary and sees all slots served."""

        def took_over() -> bool:
            return is_primary(replica) and sees_all(replica)

        wait_until_sync(took_over, timeout_seconds)

    def isolate(self, server: EngineServer) -> None:
        """Have a node hear nothing of the others, as in a partition; clients and its replica reach it."""
        server.ask("DEBUG", "DROP-CLUSTER-PACKET-FILTER", -2)

    def rejoin(self, server: EngineServer) -> None:
        """End the partition."""
        server.ask("DEBUG", "DROP-CLUSTER-PACKET-FILTER", -1)

    def move_slot(self, slot: int, to: EngineServer, meanwhile: Callable[[], None] | None = None) -> None:
        """Move a slot with its keys; `meanwhile` is called when it is on its way, before any key is."""
        source = next(
            server
            for server in self.servers
            if is_primary(server)
            and any(
                "myself" in line[2] and any(_covers(r, slot) for r in line[8:]) for line in _nodes(server)
            )
        )
        to.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", node_id(source))
        source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", node_id(to))
        if meanwhile is not None:
            meanwhile()
        while keys := source.ask("CLUSTER", "GETKEYSINSLOT", slot, 100):
            for key in keys:
                source.ask("MIGRATE", "127.0.0.1", to.port, key, 0, 5000)
        for server in (to, source):
            server.ask("CLUSTER", "SETSLOT", slot, "NODE", node_id(to))

    def flush(self) -> None:
        """Empty all primaries."""
        for server in self.servers:
            if is_primary(server):
                server.flush()

    def discard(self) -> None:
        """Stop all and remove what they kept."""
        for server in self.servers:
            server.discard()


def is_paused(server: EngineServer) -> bool:
    """Whether a server is stopped by a signal (SIGSTOP)."""
    try:
        state = Path(f"/proc/{server.process.pid}/stat").read_text()
        return state.rpartition(")")[2].split()[0] == "T"
    except FileNotFoundError:
        return False


def is_primary(server: EngineServer) -> bool:
    """Whether a server runs and takes writes, as it sees itself."""
    if server.process.poll() is not None or is_paused(server):
        return False
    try:
        return bool(server.info("replication")["role"] == "master")
    except _FAILURES:
        return False


def node_id(server: EngineServer) -> str:
    """A node's id in its Cluster."""
    found: bytes = server.ask("CLUSTER", "MYID")
    return found.decode()


def sees_all(server: EngineServer) -> bool:
    """Whether a node of a Cluster sees every slot served."""
    found: bytes = server.ask("CLUSTER", "INFO")
    return b"cluster_state:ok" in found


def _followers(primary: EngineServer) -> list[dict[str, Any]]:
    found = primary.info("replication")
    return [value for name, value in found.items() if name.startswith("slave") and name != "slaves"]


def _nodes(server: EngineServer) -> list[list[str]]:
    found: bytes = server.ask("CLUSTER", "NODES")
    return [line.split() for line in found.decode().splitlines()]


def _knows(server: EngineServer) -> int:
    return sum("handshake" not in line[2] for line in _nodes(server))


def _owners(server: EngineServer) -> dict[str, str]:
    return {" ".join(line[8:]): line[0] for line in _nodes(server) if line[8:]}


def _covers(slots: str, slot: int) -> bool:
    if slots.startswith("["):
        return False
    first, _, last = slots.partition("-")
    return int(first) <= slot <= int(last or first)


def _factory(make: Callable[..., Any]) -> Iterator[Callable[..., Any]]:
    started: list[Any] = []

    def start(*given: Any, **named: Any) -> Any:
        setup = make(*given, **named)
        started.append(setup)
        setup.start()
        return setup

    yield start
    for setup in started:
        setup.discard()


@pytest.fixture
def start_replicated() -> Iterator[Callable[..., Replicated]]:
    """A factory `start_replicated(replicas=2, persistent=False, options=(), kind="valkey")`."""
    yield from _factory(Replicated)


@pytest.fixture
def start_sentinels() -> Iterator[Callable[..., SentinelSetup]]:
    """A factory `start_sentinels(replicas=2, persistent=False, options=(), kind="valkey")`."""
    yield from _factory(SentinelSetup)


@pytest.fixture
def start_cluster() -> Iterator[Callable[..., Cluster]]:
    """A factory `start_cluster(primaries=3, persistent=False, full_coverage=True, …)`."""
    yield from _factory(Cluster)
