"""What of an engine's settings may lose calls, in sentences for its operator."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any, Final

from redis.exceptions import RedisError, ResponseError

from gateway.pool.connections import Server
from gateway.pool.engine import Engine, Replicas

OLDEST_MAJOR: Final = 7
FULL_PERCENT: Final = 80
_SETTINGS: Final = (
    "appendfsync",
    "save",
    "min-replicas-to-write",
    "cluster-allow-replica-migration",
    "cluster-require-full-coverage",
)


async def engine_warnings(engine: Engine, wait_replicas: Replicas) -> list[str]:
    """What each primary's settings may lose, or do harm by. One that can't be reached is left out.

    `wait_replicas` is the setting of that name. Raises RedisError where no primary is known.
    """
    servers = await engine.primaries()
    found = await asyncio.gather(*(_look(server) for server in servers), return_exceptions=True)
    sentences: dict[str, list[str]] = {}
    for server, each in zip(servers, found, strict=True):
        if isinstance(each, RedisError | OSError):
            continue
        if isinstance(each, BaseException):
            raise each
        for sentence in _warnings(*each, wait_replicas):
            sentences.setdefault(sentence, []).append(_name(server))
    if len(servers) == 1:
        return list(sentences)
    return [f"{', '.join(sorted(names))}: {sentence}" for sentence, names in sentences.items()]


async def _look(server: Server) -> tuple[Mapping[str, Any], Mapping[str, str]]:
    settings: dict[str, str] = {}
    try:
        info: Mapping[str, Any] = await server.info()
    except ResponseError:
        return {}, settings
    for name in _SETTINGS:
        try:
            reply = await server.execute_command("CONFIG", "GET", name)
        except ResponseError:
            # Not allowed, or there is no such command: managed engines often have none.
            break
        if reply:
            settings[name] = reply[1].decode()
    return info, settings


def _warnings(info: Mapping[str, Any], settings: Mapping[str, str], wait: Replicas) -> Iterator[str]:
    if not info:
        yield "The engine does not say how it is (INFO): whether it is set up safely could not be checked."
        return
    yield from _version(info)
    yield from _disk(info, settings)
    yield from _memory(info)
    if info.get("cluster_enabled"):
        yield from _cluster(settings)
    yield from _replicas(info, settings, wait)
    if not settings:
        yield (
            "The engine does not say how it is set up (CONFIG GET): appendfsync, min-replicas-to-write, "
            "cluster-allow-replica-migration and cluster-require-full-coverage could not be checked."
        )


def _version(info: Mapping[str, Any]) -> Iterator[str]:
    # Valkey says a redis_version, too: the one that it is compatible with.
    version = str(info.get("redis_version", ""))
    major = version.split(".")[0]
    if major.isdigit() and int(major) < OLDEST_MAJOR:
        yield f"The engine is Redis {version}; Callgate needs Redis {OLDEST_MAJOR} or Valkey."


def _disk(info: Mapping[str, Any], settings: Mapping[str, str]) -> Iterator[str]:
    has_replicas = bool(info.get("connected_slaves"))
    if not info.get("aof_enabled"):
        if settings.get("save"):
            yield (
                "The engine has no AOF, only snapshots: a restart loses what calls did since the last one. "
                "Set appendonly yes and appendfsync always."
            )
        else:
            yield (
                "The engine has no AOF: a restart loses all calls that are not saved in SQL yet. "
                "Set appendonly yes and appendfsync always."
            )
            if has_replicas and "save" in settings:
                yield (
                    "The engine keeps nothing on disk and has replicas: restarted before one of them takes "
                    "its place, it comes back empty, and empties them."
                )
        return
    match settings.get("appendfsync"):
        case "everysec":
            yield (
                "appendfsync is everysec: a power failure loses what calls did in the last one or two "
                "seconds. appendfsync always loses nothing."
            )
        case "no":
            yield (
                "appendfsync is no: a power failure loses what calls did since the system last wrote, "
                "commonly up to half a minute. appendfsync always loses nothing."
            )


def _memory(info: Mapping[str, Any]) -> Iterator[str]:
    policy = info.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        yield (
            f"maxmemory-policy is {policy}: where memory runs short the engine deletes pools and calls. "
            "Set noeviction."
        )
    most, used = int(info.get("maxmemory", 0)), int(info.get("used_memory", 0))
    if most and used * 100 > most * FULL_PERCENT:
        yield (
            f"The engine has used over {FULL_PERCENT} % of its maxmemory: once that is full, no new "
            "call is admitted."
        )


def _cluster(settings: Mapping[str, str]) -> Iterator[str]:
    if settings.get("cluster-allow-replica-migration") == "yes":
        yield (
            "cluster-allow-replica-migration is yes: a primary that lost its slots may become a replica of "
            "another shard, and drop what it had. Set no."
        )
    if settings.get("cluster-require-full-coverage") == "yes":
        yield (
            "cluster-require-full-coverage is yes: a shard that is away, and that nobody takes over, "
            "stops all accounts, and not only its own. Set no."
        )


def _replicas(info: Mapping[str, Any], settings: Mapping[str, str], wait: Replicas) -> Iterator[str]:
    replicas = int(info.get("connected_slaves", 0))
    if wait == "all":
        if not replicas:
            yield (
                "wait_replicas is all, and no replica is connected: what is answered counts on this one "
                "server. A failover, or the loss of its disk, loses what no replica has."
            )
        return
    if wait > replicas:
        yield (
            f"wait_replicas is {wait}, and {_count(replicas)} connected: nothing is answered until there are "
            "enough."
        )
    elif wait and wait < replicas:
        yield (
            f"wait_replicas is {wait}, and {_count(replicas)} connected: a failover to another of them loses "
            "what that one does not have yet. Set all."
        )
    elif not wait and replicas and settings.get("min-replicas-to-write", "0") == "0":
        yield (
            f"{_count(replicas)} connected, and none is waited for: a failover loses what no replica has. "
            "Set wait_replicas to all, or min-replicas-to-write in the engine, which bounds the loss to "
            "min-replicas-max-lag seconds."
        )


def _count(replicas: int) -> str:
    return f"{replicas} replica is" if replicas == 1 else f"{replicas} replicas are"


def _name(server: Server) -> str:
    options = server.connection_pool.connection_kwargs
    return f"{options.get('host')}:{options.get('port')}"
