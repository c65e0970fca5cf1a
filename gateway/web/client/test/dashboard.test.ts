import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { Dashboard, type DashboardState } from "../src/index.js";
import { type Frame, newest, ScriptedSocket, script } from "./scripted.js";

const TOKEN = `e30.${Buffer.from(JSON.stringify({ sub: "acme" })).toString("base64url")}.x`;

function pool(version: number, used: number): Frame {
  return {
    type: "pool",
    account: "acme",
    version,
    at_ms: 1_795_392_000_000,
    clock_speed: 1,
    plan: "team",
    pending_plan: null,
    cycle: { start: "2026-11-15T05:00:00Z", end: "2026-12-15T05:00:00Z" },
    policy: { free_seconds: 30, increment_seconds: 1, hold_seconds: 60, count_from: "admission" },
    allocated_seconds: 600,
    settled_seconds: used,
    used_seconds: used,
    remaining_seconds: 600 - used,
    overrun_seconds: 0,
    held_seconds: 0,
    calls_in_progress: 0,
    calls: [],
    thresholds: [],
    empty_at_ms: null,
    seats: { used: 1, limit: 5 },
    channels: { used: 0, limit: 2 },
  };
}

beforeEach(script);
afterEach(() => {
  vi.unstubAllGlobals();
  vi.useRealTimers();
});

async function connected(): Promise<[Dashboard, ScriptedSocket, DashboardState[]]> {
  const dashboard = new Dashboard("https://gateway/", TOKEN);
  const states: DashboardState[] = [];
  dashboard.on("state", (state) => states.push(state));
  dashboard.start();
  const socket = await newest();
  socket.open();
  socket.hear(pool(1, 100));
  return [dashboard, socket, states];
}

test("the newest pool counts on from when it was heard", async () => {
  const [dashboard, socket] = await connected();
  expect(socket.url).toBe("wss://gateway/v1/live");
  await vi.advanceTimersByTimeAsync(1_500);
  expect(dashboard.nowMs()).toBe(1_795_392_001_500);
  expect(dashboard.live?.remainingSeconds(dashboard.nowMs()!)).toBe(500);
});

test("with the admin key it says whose pool", async () => {
  new Dashboard("http://gateway", "key", { account: "a~b:c" }).start();
  expect((await newest()).url).toBe("ws://gateway/v1/live?account=a~b%3Ac");
});

test("an older pool does not take the place of a newer one", async () => {
  const [dashboard, socket] = await connected();
  socket.hear(pool(3, 300));
  socket.hear(pool(2, 200));
  expect(dashboard.live?.pool.used_seconds).toBe(300);
});

test("it says since when it is stale, comes back by itself, and takes whatever pool comes first", async () => {
  const [dashboard, socket, states] = await connected();
  const lost = Date.now();
  await vi.advanceTimersByTimeAsync(3_000);
  socket.drop();
  expect(dashboard.staleSinceMs).toBe(lost);
  expect(dashboard.live).not.toBeNull();

  const second = await newest(1);
  second.open();
  second.hear(pool(1, 50));
  expect(states).toEqual(["connected", "reconnecting", "connected"]);
  expect(dashboard.staleSinceMs).toBeNull();
  expect(dashboard.live?.pool.used_seconds).toBe(50);
});

test("nothing is sent while something is heard, and a silent line is asked after 25 s", async () => {
  const [dashboard, socket] = await connected();
  await vi.advanceTimersByTimeAsync(20_000);
  socket.hear(pool(2, 110));
  await vi.advanceTimersByTimeAsync(20_000);
  expect(socket.sent).toEqual([]);
  await vi.advanceTimersByTimeAsync(5_100);
  expect(socket.sent.map((frame) => frame["type"])).toEqual(["ping"]);
  await vi.advanceTimersByTimeAsync(8_100);
  expect(dashboard.state).toBe("reconnecting");
});

test.each([
  [401, "token_refused"],
  [403, "forbidden"],
])("a handshake that is refused with %i ends it, as a question over HTTP tells", async (status, code) => {
  const asked: string[] = [];
  vi.stubGlobal("fetch", async (url: string) => {
    asked.push(url);
    return Response.json({ detail: "no", code: "x" }, { status });
  });
  const dashboard = new Dashboard("http://gateway", TOKEN).start();
  (await newest()).drop();
  await vi.advanceTimersByTimeAsync(0);

  expect(dashboard.endedBy).toMatchObject({ code, message: "no" });
  expect(asked).toEqual(["http://gateway/v1/accounts/acme/pool"]);
});

test("a token that is good over HTTP, but not for a connection, is given up after a while", async () => {
  vi.stubGlobal("fetch", async () => Response.json(pool(1, 1)));
  const dashboard = new Dashboard("http://gateway", TOKEN).start();
  const began = Date.now();
  for (let tried = 0; dashboard.endedBy === null && tried < 100; tried += 1) {
    (await newest(tried)).drop();
    await vi.advanceTimersByTimeAsync(0);
  }
  expect(dashboard.endedBy?.code).toBe("forbidden");
  expect(Date.now() - began).toBeLessThan(15_000);
});

/** A gateway that shuts down: it answers over HTTP, and takes no connections; or a page may not ask whether. */
const shuttingDown = (mayAsk: boolean) => async (url: string) => {
  if (!url.endsWith("/readyz")) return Response.json(pool(1, 1));
  if (!mayAsk) throw new TypeError("another origin");
  return Response.json({ status: "draining" }, { status: 503 });
};

test.each([true, false])(
  "a page that is opened while its gateway shuts down connects after",
  async (mayAsk) => {
    vi.stubGlobal("fetch", shuttingDown(mayAsk));
    const dashboard = new Dashboard("http://gateway", TOKEN).start();
    const began = Date.now();
    let tried = 0;
    for (; Date.now() - began < 30_000; tried += 1) {
      (await newest(tried)).drop();
      await vi.advanceTimersByTimeAsync(0);
      expect(dashboard.endedBy).toBeNull();
    }
    expect(tried).toBeGreaterThanOrEqual(5);
    const next = await newest(tried);
    next.open();
    next.hear(pool(1, 1));
    expect(dashboard.state).toBe("connected");
  },
);

test("gateways that shut down one after the other, hours apart, send no page away", async () => {
  let probed: (url: string) => Promise<Response> = shuttingDown(false);
  vi.stubGlobal("fetch", async (url: string) => probed(url));
  const dashboard = new Dashboard("http://gateway", TOKEN).start();
  let tried = 0;
  const refuseFor = async (ms: number) => {
    for (const began = Date.now(); Date.now() - began < ms; tried += 1) {
      (await newest(tried)).drop();
      await vi.advanceTimersByTimeAsync(0);
    }
  };
  await refuseFor(30_000);
  probed = async () => Response.json({}, { status: 502 });
  await refuseFor(3_600_000);
  probed = shuttingDown(false);
  await refuseFor(30_000);
  expect(dashboard.endedBy).toBeNull();
});

test("a gateway that is not there is tried again and again, with growing delays", async () => {
  vi.stubGlobal("fetch", async () => {
    throw new TypeError("no network");
  });
  const dashboard = new Dashboard("http://gateway", TOKEN).start();
  for (let tried = 0; tried < 8; tried += 1) {
    (await newest(tried)).drop();
    await vi.advanceTimersByTimeAsync(0);
  }
  expect(dashboard.state).toBe("connecting");
  dashboard.close();
  await vi.advanceTimersByTimeAsync(60_000);
  expect(ScriptedSocket.all).toHaveLength(8);
  expect(dashboard.endedBy?.code).toBe("closed");
});

test("after a sleep it asks for the whole pool, on a connection of its own", async () => {
  const [dashboard] = await connected();
  vi.setSystemTime(Date.now() + 3_600_000);
  expect(dashboard.nowMs()).toBe(1_795_392_000_000 + 3_600_000);
  const second = await newest(1);
  second.open();
  second.hear(pool(9, 400));
  expect(dashboard.nowMs()).toBe(1_795_392_000_000);
  await vi.advanceTimersByTimeAsync(10_000);
  expect(ScriptedSocket.all).toHaveLength(2);
});
