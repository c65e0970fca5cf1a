"""Admissions a second of one gateway over WebSocket, against the bare script as fast as redis-benchmark can
ask.

redis-benchmark sends the gateway's own script with one start in each call, pipelined 16 deep on 4
connections, to the same kind of engine; each start is of a fresh call. The gateway's figure holds its whole
way: WebSocket, decoding, batching, the script, the answer.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

from tests.bench.engine_cost import ACCOUNT, PoolLoad
from tests.bench.websocket_cost import load, prepare
from tests.support.engines import EngineServer
from tests.support.gateways import GatewayProcess

REQUESTS: Final = 200_000


def bare_admissions(server: EngineServer) -> float:
    """Starts a second through redis-benchmark."""
    pool = PoolLoad(server.client, 100)
    sha, keys, given = pool.start_command("call-__rand_int__")
    arguments = [str(each) for each in given]
    done = subprocess.run(
        [
            *("redis-benchmark", "-s", str(server.socket), "-c", "4", "-P", "16", "-q", "--csv"),
            *("-n", str(REQUESTS), "-r", "1000000000"),
            *("EVALSHA", sha, str(len(keys)), *keys, *arguments),
        ],
        stdout=subprocess.PIPE,
        check=True,
    )
    line = done.stdout.decode().strip().splitlines()[-1]
    progressed = server.client.zcard(pool.order_key)
    assert progressed > REQUESTS // 2, f"only {progressed} calls of {ACCOUNT} are in progress"
    return float(line.rsplit('","', 7)[1].strip('"'))


def run() -> None:
    """Print both."""
    from gateway.embedded import valkey_binary

    with tempfile.TemporaryDirectory() as folder, GatewayProcess(Path(folder)) as gateway:
        tokens = prepare(gateway)
        url = f"{gateway.websocket_url}/v1/device"
        load(url, tokens)
        rows = [(in_flight, load(url, tokens, in_flight=in_flight)) for in_flight in (1, 4)]
    for in_flight, found in rows:
        print(
            f"gateway, 64 devices, {in_flight} in flight each: "
            f"{found['messages'] / 2 / found['seconds']:,.0f} admissions (and as many ends) a second; "
            f"p50 {found['p50_ms']:.1f} ms, p99 {found['p99_ms']:.1f} ms"
        )
    if shutil.which("redis-benchmark") is None:
        print("redis-benchmark is not installed (Debian: redis-tools): nothing to compare with")
        return
    server = EngineServer(valkey_binary(), persistent=True)
    server.start()
    try:
        print(f"redis-benchmark, the same script, one start a call: {bare_admissions(server):,.0f} a second")
    finally:
        server.stop()


if __name__ == "__main__":
    run()
