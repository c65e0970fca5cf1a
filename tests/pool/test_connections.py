"""Connections to one server: in step with their questions, or closed."""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError

from gateway.domain.errors import SettingsError
from gateway.pool.connections import CONNECTIONS, Server, TlsConnection
from gateway.pool.engine import Engine, connect
from tests.support.engines import EngineServer
from tests.support.proxy import FaultyProxy
from tests.support.topologies import Replicated, free_ports
from tests.support.waiting import wait_until


@pytest.fixture(params=["unix", "tcp"])
async def client(request: pytest.FixtureRequest, engine: EngineServer) -> AsyncIterator[Server]:
    url = engine.url
    if request.param == "tcp":
        (port,) = free_ports(1)
        engine.client.config_set("port", port)
        url = f"redis://127.0.0.1:{port}"
    reached = connect(url)
    assert isinstance(reached.client, Server)
    yield reached.client
    await reached.close()
    engine.client.config_set("port", 0)


async def test_no_cancellation_is_lost(client: Server) -> None:
    """Not even one that comes just as the command has been sent, or its answer arrives."""
    await client.ping()
    chance = random.Random(2026)
    lost = 0
    for number in range(2000):
        task = asyncio.create_task(client.execute_command("ECHO", str(number)))
        for _ in range(chance.randrange(12)):
            await asyncio.sleep(0)
        if task.cancel():
            try:
                await task
            except asyncio.CancelledError:
                continue
            lost += 1
    assert lost == 0


async def test_after_10000_cancelled_commands_every_answer_still_belongs_to_its_question(
    client: Server,
) -> None:
    chance = random.Random(2026)
    checked = 0

    async def ask(number: int) -> None:
        nonlocal checked
        if number % 3:
            assert await client.execute_command("ECHO", f"q-{number}") == f"q-{number}".encode()
        else:
            pipeline = client.pipeline(transaction=False)
            for part in range(3):
                pipeline.execute_command("ECHO", f"q-{number}-{part}")
            assert await pipeline.execute() == [f"q-{number}-{part}".encode() for part in range(3)]
        checked += 1

    asked = cancelled = 0
    while cancelled < 10_000:
        tasks = [asyncio.create_task(ask(number)) for number in range(asked, asked + 200)]
        asked += len(tasks)
        doomed = [task for task in tasks if chance.random() < 0.9]
        chance.shuffle(doomed)
        for task in doomed:
            for _ in range(chance.choice([0, 0, 0, 1, 2, 5])):
                await asyncio.sleep(0)
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [each for each in results if isinstance(each, Exception)] == []
        cancelled += sum(isinstance(each, asyncio.CancelledError) for each in results)
    assert checked >= 900
    # None has been lost either: as many can be had at once as ever.
    pool = client.connection_pool
    async with asyncio.timeout(5):
        held = await asyncio.gather(
            *(pool.get_connection() for _ in range(CONNECTIONS))  # type: ignore[no-untyped-call]
        )
    for connection in held:
        await pool.release(connection)


async def test_a_reply_that_breaks_off_closes_its_connection(
    engine: EngineServer, start_proxy: Callable[..., FaultyProxy]
) -> None:
    proxy = start_proxy(path=engine.socket)
    reached = connect(f"redis://127.0.0.1:{proxy.port}")
    await reached.client.execute_command("ECHO", "before")
    for length in range(1, 12):
        proxy.reset_in_reply(after_bytes=length)
        with pytest.raises((RedisError, OSError)):
            await reached.client.execute_command("ECHO", "broken off")
        assert await reached.client.execute_command("ECHO", "after") == b"after"
    await reached.close()


async def test_a_silent_server_costs_a_second_and_its_late_answer_reaches_nobody(
    engine: EngineServer, start_proxy: Callable[..., FaultyProxy]
) -> None:
    proxy = start_proxy(path=engine.socket)
    reached = connect(f"redis://127.0.0.1:{proxy.port}")
    await reached.client.execute_command("ECHO", "before")
    proxy.stall("to_client")
    async with asyncio.timeout(1.8):
        with pytest.raises(RedisError):
            await reached.client.execute_command("ECHO", "late")
    proxy.heal()
    for number in range(50):
        assert await reached.client.execute_command("ECHO", f"q-{number}") == f"q-{number}".encode()
    await reached.close()


async def test_a_primary_that_was_demoted_is_left(start_replicated: Callable[..., Replicated]) -> None:
    setup = start_replicated(replicas=1)
    server = setup.servers[0]
    reached = connect(f"redis://127.0.0.1:{server.port}")
    await reached.client.execute_command("SET", "a", "1")
    before = server.ask("CLIENT", "LIST", "TYPE", "NORMAL")
    assert len(before.splitlines()) == 2
    server.ask("REPLICAOF", "127.0.0.1", setup.servers[1].port)
    with pytest.raises(RedisConnectionError, match="primary"):
        await reached.client.execute_command("SET", "a", "2")

    def no_connection_is_left() -> bool:
        ids = {line.split()[0] for line in before.splitlines()}
        now = {line.split()[0] for line in server.ask("CLIENT", "LIST", "TYPE", "NORMAL").splitlines()}
        return len(ids & now) <= 1  # the test's own

    await wait_until(no_connection_is_left)
    server.ask("REPLICAOF", "NO", "ONE")
    assert await reached.client.execute_command("SET", "a", "3")
    await reached.close()


async def test_over_tls_too(engine: EngineServer, tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path)
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(certificate)

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        engine_reader, engine_writer = await asyncio.open_unix_connection(engine.socket)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(pump(reader, engine_writer))
                tasks.create_task(pump(engine_reader, writer))
        finally:
            writer.close()
            engine_writer.close()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async with await asyncio.start_server(pass_on, "127.0.0.1", 0, ssl=server) as listening:
        port = listening.sockets[0].getsockname()[1]
        reached = connect(f"rediss://localhost:{port}?ssl_ca_certs={certificate}")
        assert isinstance(reached.client, Server)
        assert isinstance(reached.client.make_connection(), TlsConnection)
        for number in range(200):
            task = asyncio.create_task(reached.client.execute_command("ECHO", f"lost-{number}"))
            for _ in range(number % 8):
                await asyncio.sleep(0)
            if task.cancel():
                with pytest.raises(asyncio.CancelledError):
                    await task
            assert await reached.client.execute_command("ECHO", f"q-{number}") == f"q-{number}".encode()
        await reached.close()
        untrusting = connect(f"rediss://localhost:{port}")
        with pytest.raises(RedisConnectionError, match="certificate"):
            await untrusting.client.execute_command("PING")
        await untrusting.close()


def make_certificate(directory: Path) -> Path:
    """A key and a certificate for localhost, signed by itself, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = directory / "localhost.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    return path


async def test_what_a_server_refuses_keeps_its_connection(client: Server, engine: EngineServer) -> None:
    await client.ping()
    before = engine.info("stats")["total_connections_received"]
    for _ in range(5):
        with pytest.raises(ResponseError):
            await client.execute_command("NO-SUCH-COMMAND")
    assert engine.info("stats")["total_connections_received"] == before


async def test_plain_commands_go_together(client: Server) -> None:
    reached = Engine(client, spans_shards=True)
    assert await reached.run_all([("SET", "a", 1), ("INCR", "a"), ("GET", "a")]) == [True, 2, b"2"]
    with pytest.raises(ResponseError):
        await reached.run_all([("SET", "a", "x"), ("INCR", "a")])


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost",
        "localhost:6379",
        "redis+cluster://",
        "redis+cluster://a:b",
        "redis+sentinel://a:1,/service",
        "redis://localhost?socket_timeout=soon",
        "redis://localhost?no_such_option=1",
    ],
)
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(SettingsError, match="redis_url"):
        connect(url)


def test_an_address_of_several_hosts_is_read() -> None:
    reached = connect("redis+sentinel://gate:p%40ss@s1,[::1]:26380/calls")
    assert reached.sentinels is not None
    asked = [each.connection_pool.connection_kwargs for each in reached.sentinels.clients]
    assert [(each["host"], each["port"]) for each in asked] == [("s1", 26379), ("::1", 26380)]
    assert isinstance(reached.client, Server)
    given = reached.client.connection_pool.connection_kwargs
    assert (given["username"], given["password"]) == ("gate", "p@ss")
