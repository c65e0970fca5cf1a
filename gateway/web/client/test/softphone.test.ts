import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { type Call, Softphone, type SoftphoneOptions } from "../src/index.js";
import { type Frame, newest, ScriptedSocket, ScriptedStorage, script } from "./scripted.js";

const WELCOME = {
  type: "welcome",
  account: "acme",
  staff: "ana",
  device: "desk",
  server_time_ms: 1_795_392_000_000,
  grace_seconds: 30,
  remaining_seconds: 600,
  calls: [],
};
const ADMITTED = {
  type: "call.admitted",
  admitted_at_ms: 1_795_392_000_000,
  remaining_seconds: 600,
  receipt: "r1.x",
  replayed: false,
};
const SETTLED = {
  type: "call.settled",
  duration_ms: 1000,
  billed_seconds: 0,
  counted: false,
  ended_by: "hangup",
  revision: 1,
  replayed: false,
  remaining_seconds: 600,
};

beforeEach(script);
afterEach(() => {
  vi.unstubAllGlobals();
  vi.useRealTimers();
});

async function connected(options: SoftphoneOptions = {}): Promise<[Softphone, ScriptedSocket]> {
  const phone = new Softphone("http://gateway", "token", options);
  const before = ScriptedSocket.all.length;
  const welcomed = phone.connect();
  const socket = await greeted(before);
  await welcomed;
  return [phone, socket];
}

async function inCall(phone: Softphone, socket: ScriptedSocket, callId = "c-1"): Promise<Call> {
  const starting = phone.start("+14155550100", { callId });
  socket.answer("call.start", ADMITTED);
  return starting;
}

/** The connection that was made after so many, once it is greeted. */
async function greeted(after: number, welcome: Frame = WELCOME): Promise<ScriptedSocket> {
  const socket = await newest(after);
  socket.open();
  socket.hear(welcome);
  return socket;
}

/** Lose the connection, and make another. */
async function again(socket: ScriptedSocket, welcome: Frame = WELCOME): Promise<ScriptedSocket> {
  const before = ScriptedSocket.all.length;
  socket.drop();
  const next = await greeted(before, welcome);
  await vi.advanceTimersByTimeAsync(0);
  return next;
}

test("the token goes as a subprotocol, and not into the address", async () => {
  const [, socket] = await connected();
  expect(socket.url).toBe("ws://gateway/v1/device");
  expect(socket.protocols).toEqual(["callgate.v1", "bearer.token"]);
});

test("a start that a broken connection left without an answer is asked again, with the same call id", async () => {
  const [phone, first] = await connected();
  const starting = phone.start("+14155550100");
  const second = await again(first);

  expect(second.of("call.start")).toEqual(first.of("call.start"));
  second.answer("call.start", { ...ADMITTED, replayed: true });
  expect((await starting).admission?.replayed).toBe(true);
});

test("a call is resumed before anything else is said of it, and ended with how long ago", async () => {
  const [phone, first] = await connected();
  const call = await inCall(phone, first);
  void call.answered();
  const second = await again(first);

  expect(second.sent.map((frame) => frame["type"])).toEqual(["call.resume"]);
  expect(second.sent[0]).toMatchObject({ call_id: "c-1", receipt: "r1.x" });
  second.answer("call.resume", { type: "call.resumed", admitted_at_ms: 1_795_392_000_000, receipt: "r1.y" });
  expect(second.of("call.answered")).toHaveLength(1);
  expect(call.receipt).toBe("r1.y");
});

test("what ended while there was no connection is told on the next, without a resume", async () => {
  const [phone, first] = await connected();
  const call = await inCall(phone, first);
  first.drop();
  const ending = call.end();
  const second = await newest(1);
  await vi.advanceTimersByTimeAsync(5_000);
  second.open();
  second.hear(WELCOME);
  await vi.advanceTimersByTimeAsync(0);

  expect(second.of("call.resume")).toEqual([]);
  const [end] = second.of("call.end");
  expect(end!["ended_ago_ms"]).toBeGreaterThanOrEqual(5_000);
  second.answer("call.end", SETTLED);
  expect((await ending).revision).toBe(1);
  expect(phone.calls).toEqual([]);
});

test("an end told twice is one end", async () => {
  const [phone, socket] = await connected();
  const call = await inCall(phone, socket);
  const endings = [call.end(), call.end()];
  socket.answer("call.end", SETTLED);

  expect(socket.of("call.end")).toHaveLength(1);
  const [one, other] = await Promise.all(endings);
  expect(one).toEqual(other);
});

test("what passes by itself is asked again with the same id", async () => {
  const [phone, socket] = await connected();
  const starting = phone.start("+14155550100");
  socket.answer("call.start", { type: "error", code: "engine_unavailable", message: "away" });
  await vi.advanceTimersByTimeAsync(600);

  const asked = socket.of("call.start");
  expect(asked).toHaveLength(2);
  expect(asked[1]).toEqual(asked[0]);
  socket.answer("call.start", ADMITTED);
  await starting;
});

test("a start that is given up is ended, should it have been admitted all the same", async () => {
  const [phone, socket] = await connected();
  const aborting = new AbortController();
  const starting = phone.start("+14155550100", { signal: aborting.signal });
  const failed = expect(starting).rejects.toThrow("enough");
  aborting.abort(new Error("enough"));
  await failed;
  await vi.advanceTimersByTimeAsync(0);

  // Whatever the start is answered with now, nobody waits for it.
  socket.answer("call.start", ADMITTED);
  expect(socket.of("call.end")[0]?.["call_id"]).toBe(socket.of("call.start")[0]!["call_id"]);
});

test("a call that the gateway has lost is made again from its receipt, to be ended (R28)", async () => {
  const [phone, socket] = await connected();
  const call = await inCall(phone, socket);
  const ending = call.end();
  socket.answer("call.end", { type: "error", code: "call_unknown", message: "none" });
  expect(socket.of("call.resume")).toHaveLength(1);
  socket.answer("call.resume", { type: "call.resumed", admitted_at_ms: 1_795_392_000_000, receipt: "r1.x" });

  expect(socket.of("call.end")).toHaveLength(2);
  socket.answer("call.end", SETTLED);
  expect((await ending).revision).toBe(1);
});

test("a silent line is asked, and given up if it does not answer", async () => {
  const [phone, socket] = await connected();
  await vi.advanceTimersByTimeAsync(4_100);
  expect(socket.of("ping")).toHaveLength(1);
  socket.answer("ping", { type: "pong", server_time_ms: 1 });
  await vi.advanceTimersByTimeAsync(4_100);
  expect(socket.of("ping")).toHaveLength(2);
  expect(phone.connected).toBe(true);

  await vi.advanceTimersByTimeAsync(6_100);
  expect(phone.connected).toBe(false);
  await newest(1);
});

test("a phone that slept through the grace ends its calls as of when it was awake (R15)", async () => {
  const [phone, first] = await connected();
  await inCall(phone, first);
  // The machine's lid was shut for ten minutes: no timer ran.
  vi.setSystemTime(Date.now() + 600_000);
  await vi.advanceTimersByTimeAsync(1_100);
  const second = await greeted(1);
  await vi.advanceTimersByTimeAsync(0);

  expect(second.of("call.resume")).toEqual([]);
  const ago = second.of("call.end")[0]!["ended_ago_ms"] as number;
  expect(ago).toBeGreaterThanOrEqual(600_000);
  expect(ago).toBeLessThan(610_000);
});

test("or asks the application, and resumes those that are up", async () => {
  const asked: string[] = [];
  const [phone, first] = await connected({ stillUp: (call) => asked.push(call.callId) > 0 });
  await inCall(phone, first);
  vi.setSystemTime(Date.now() + 600_000);
  await vi.advanceTimersByTimeAsync(1_100);
  const second = await greeted(1);
  await vi.advanceTimersByTimeAsync(0);

  expect(asked).toEqual(["c-1"]);
  expect(second.of("call.resume")).toHaveLength(1);
});

test.each([4401, 4403, 4409])("after %i with the same token it does not come back", async (code) => {
  const [phone, socket] = await connected();
  socket.drop(code);
  await vi.advanceTimersByTimeAsync(60_000);

  expect(ScriptedSocket.all).toHaveLength(1);
  expect(phone.endedBy?.code).toBe({ 4401: "token_refused", 4403: "staff_removed", 4409: "replaced" }[code]);
  await expect(phone.start("+14155550100")).rejects.toBe(phone.endedBy);
});

test("an attempt of its own that a gateway came upon late does not send it away", async () => {
  const [phone, first] = await connected();
  first.drop();
  await newest(1); // no answer to this one, which is given up
  await vi.advanceTimersByTimeAsync(10_000);
  const third = await greeted(2);
  third.drop(4409);
  const fourth = await greeted(3);
  expect(phone.endedBy).toBeNull();

  fourth.drop(4409);
  expect(phone.endedBy?.code).toBe("replaced");
});

test.each([
  ["was opened and broke before the welcome", (socket: ScriptedSocket) => socket.open()],
  ["broke in its handshake", () => undefined],
])("nor does one that %s", async (_, begin) => {
  vi.stubGlobal("fetch", async () => {
    throw new TypeError("no network");
  });
  const [phone, first] = await connected();
  first.drop();
  const second = await newest(1);
  begin(second);
  second.drop();
  const third = await greeted(2);
  third.drop(4409);
  const fourth = await greeted(3);
  expect(phone.endedBy).toBeNull();

  fourth.drop(4409);
  expect(phone.endedBy?.code).toBe("replaced");
});

test("nor does one that went silent before the welcome", async () => {
  const [phone, first] = await connected();
  first.drop();
  (await newest(1)).open();
  await vi.advanceTimersByTimeAsync(10_000);
  const third = await greeted(2);
  third.drop(4409);
  await newest(3);
  expect(phone.endedBy).toBeNull();
});

test("one that broke longer than 30 s ago was not what replaced it", async () => {
  const [phone, first] = await connected();
  first.drop();
  const second = await newest(1);
  second.open();
  second.drop();
  const third = await greeted(2);
  for (let passed = 0; passed < 31_000; passed += 1_000) {
    await vi.advanceTimersByTimeAsync(1_000);
    third.hear({ type: "pong", server_time_ms: 1 });
  }
  third.drop(4409);
  expect(phone.endedBy?.code).toBe("replaced");
});

test("nor was one whose handshake the gateway refused", async () => {
  vi.stubGlobal("fetch", async () => Response.json({ detail: "expired" }, { status: 401 }));
  const tokens = ["first", "second"];
  const phone = new Softphone("http://gateway", () => tokens.shift() ?? "none");
  const welcomed = phone.connect();
  (await newest()).drop();
  const second = await greeted(1);
  await welcomed;
  second.drop(4409);
  expect(phone.endedBy?.code).toBe("replaced");
});

test("every call is written down before anything is sent of it", async () => {
  const storage = new ScriptedStorage();
  const [phone, socket] = await connected({ keepIn: "phone", storage });
  const written: boolean[] = [];
  ScriptedSocket.onSend = (frame) => {
    const kept = [...storage.items.values()].join();
    if (frame["type"] === "call.start") written.push(kept.includes('"c-1"'));
    if (frame["type"] === "call.end") written.push(kept.includes("ended_at_ms"));
  };
  const call = await inCall(phone, socket);
  void call.end();
  socket.answer("call.end", SETTLED);

  expect(written).toEqual([true, true]);
  expect([...storage.items.keys()].filter((key) => key.includes("/call/"))).toEqual([]);
});

test("what an earlier page could not tell is told, once it is known to be this device's", async () => {
  const storage = new ScriptedStorage();
  const [phone, socket] = await connected({ keepIn: "phone", storage });
  const call = await inCall(phone, socket);
  socket.drop();
  void call.end();
  await phone.close({ hangUp: false });
  await vi.advanceTimersByTimeAsync(90_000);

  const later = new Softphone("http://gateway", "token", { keepIn: "phone", storage });
  void later.connect();
  const second = await newest(ScriptedSocket.all.length);
  second.open();
  expect(second.of("call.end")).toEqual([]);
  second.hear(WELCOME);
  await vi.advanceTimersByTimeAsync(0);
  const [end] = second.of("call.end");
  expect(end).toMatchObject({ call_id: "c-1" });
  expect(end!["ended_ago_ms"]).toBeGreaterThanOrEqual(90_000);
});

test("another device's journal is left alone", async () => {
  const storage = new ScriptedStorage();
  const [phone] = await connected({ keepIn: "phone", storage });
  await phone.close();
  const kept = new Map(storage.items);

  const other = new Softphone("http://gateway", "token", { keepIn: "phone", storage });
  const failed = expect(other.connect()).rejects.toMatchObject({ code: "journal_of_another" });
  const socket = await newest(1);
  socket.open();
  socket.hear({ ...WELCOME, device: "cell" });
  await failed;
  expect(storage.items).toEqual(kept);
});

test("a full storage holds no call up", async () => {
  const storage = new ScriptedStorage();
  storage.full = true;
  const [phone, socket] = await connected({ keepIn: "phone", storage });
  const call = await inCall(phone, socket);
  storage.full = false;
  // Written with the next beat.
  await vi.advanceTimersByTimeAsync(5_100);
  expect([...storage.items.keys()].some((key) => key.includes("/call/"))).toBe(true);
  void call.end();
  expect(socket.of("call.end")).toHaveLength(1);
});

test("frames that a newer gateway sends are passed over", async () => {
  const [phone, socket] = await connected();
  const kinds: string[] = [];
  phone.on("notice", (notice) => kinds.push(notice.kind));
  socket.hear({ type: "call.held", re: 99 });
  socket.hear({ type: "notice", kind: "minutes_exhausted", message: "none left" });
  socket.onmessage?.({ data: "no json" });
  expect(kinds).toEqual(["minutes_exhausted"]);
  expect(phone.connected).toBe(true);
});
