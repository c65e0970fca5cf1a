import { describe, expect, test } from "vitest";
import { Backoff } from "../src/backoff.js";
import { billedSeconds, nextStepMs } from "../src/billing.js";
import { Clock } from "../src/clock.js";
import { accountOf, isEmergency, LiveUse, type Policy, type Pool, type PoolCall } from "../src/index.js";

const POLICY: Policy = { free_seconds: 30, increment_seconds: 1, hold_seconds: 60, count_from: "admission" };
const AT_MS = 1_795_392_000_000;

function callOf(ageMs: number, changes: Partial<PoolCall> = {}): PoolCall {
  return {
    call_id: "c-1",
    staff: "ana",
    device: "desk",
    channel: null,
    to: "+1•••••••0100",
    admitted_at_ms: AT_MS - ageMs,
    answered_at_ms: null,
    counts: true,
    emergency: false,
    ...changes,
  };
}

function poolOf(calls: PoolCall[], changes: Partial<Pool> = {}): Pool {
  const policy = changes.policy ?? POLICY;
  const used = calls.reduce(
    (sum, call) => sum + (call.counts ? billedSeconds(AT_MS - call.admitted_at_ms, policy) : 0),
    100,
  );
  return {
    account: "acme",
    version: 7,
    at_ms: AT_MS,
    clock_speed: 1,
    plan: "team",
    pending_plan: null,
    cycle: { start: "2026-11-15T05:00:00Z", end: "2026-12-15T05:00:00Z" },
    policy,
    allocated_seconds: 600,
    settled_seconds: 100,
    used_seconds: used,
    remaining_seconds: 600 - used,
    overrun_seconds: 0,
    held_seconds: 0,
    calls_in_progress: calls.length,
    calls,
    thresholds: [],
    empty_at_ms: null,
    seats: { used: 1, limit: 5 },
    channels: { used: 0, limit: 2 },
    ...changes,
  };
}

describe("billing (R1, R2)", () => {
  test.each([
    [30_000, 1, 0],
    [30_001, 1, 31],
    [31_000, 1, 31],
    [31_001, 1, 32],
    [30_001, 60, 60],
    [60_001, 60, 120],
    [30_001, 6, 36],
  ])("%i ms in increments of %i s bill %i s", (length, increment, billed) => {
    expect(billedSeconds(length, { ...POLICY, increment_seconds: increment })).toBe(billed);
  });

  test("the next step is the very millisecond at which more is billed, and none before", () => {
    for (const increment of [1, 6, 60]) {
      const policy = { ...POLICY, increment_seconds: increment };
      for (const length of [
        0, 1, 29_999, 30_000, 30_001, 31_000, 36_000, 59_999, 60_000, 60_001, 3_600_000,
      ]) {
        const step = nextStepMs(length, policy);
        expect(step).toBeGreaterThan(length);
        expect(billedSeconds(step, policy)).toBeGreaterThan(billedSeconds(length, policy));
        expect(billedSeconds(step - 1, policy)).toBe(billedSeconds(length, policy));
      }
    }
  });

  test("no rounding error at the length of a year", () => {
    const year = 365 * 86_400_000;
    expect(billedSeconds(year, POLICY)).toBe(365 * 86_400);
    expect(billedSeconds(year + 1, POLICY)).toBe(365 * 86_400 + 1);
  });
});

describe("counting on (R4, R5)", () => {
  test("a call that passes its free length steps from nothing to all of it", () => {
    const live = new LiveUse(poolOf([callOf(29_000)]), 0);
    expect(live.usedSeconds(live.nowMs(1_000))).toBe(100);
    expect(live.nextStepMs(live.nowMs(0))).toBe(AT_MS + 1_001);
    expect(live.usedSeconds(live.nowMs(1_001))).toBe(131);
    expect(live.freeSecondsLeft(live.pool.calls[0]!, AT_MS)).toBe(1);
  });

  test("two calls count at once, each with its own seconds", () => {
    const live = new LiveUse(poolOf([callOf(40_500), callOf(50_000)]), 0);
    expect(live.usedSeconds(AT_MS)).toBe(100 + 41 + 50);
    expect(live.usedSeconds(AT_MS + 1_000)).toBe(100 + 42 + 51);
    expect(live.nextStepMs(AT_MS)).toBe(AT_MS + 1);
  });

  test("an emergency and a call of an older cycle use nothing", () => {
    const live = new LiveUse(
      poolOf([callOf(90_000, { counts: false }), callOf(90_000, { counts: false, emergency: true })]),
      0,
    );
    expect(live.usedSeconds(AT_MS + 60_000)).toBe(100);
    expect(live.nextStepMs(AT_MS)).toBeNull();
  });

  test("from the answer, where the policy counts from there (R3)", () => {
    const policy: Policy = { ...POLICY, count_from: "answer" };
    const live = new LiveUse(
      {
        ...poolOf([callOf(90_000), callOf(90_000, { answered_at_ms: AT_MS - 10_000 })], { policy }),
        used_seconds: 100,
      },
      0,
    );
    expect(live.usedSeconds(AT_MS + 20_000)).toBe(100);
    expect(live.usedSeconds(AT_MS + 20_001)).toBe(131);
    expect(live.nextStepMs(AT_MS)).toBe(AT_MS + 20_001);
  });

  test("beyond the allocation nothing is left, and the overrun grows", () => {
    const live = new LiveUse(poolOf([callOf(400_000)], { allocated_seconds: 500 }), 0);
    expect(live.remainingSeconds(AT_MS + 10_000)).toBe(0);
    expect(live.overrunSeconds(AT_MS + 10_000)).toBe(10);
  });

  test("billing time goes at its own speed, stands still, and ends with the cycle", () => {
    expect(new LiveUse(poolOf([], { clock_speed: 3600 }), 1_000).nowMs(2_000)).toBe(AT_MS + 3_600_000);
    expect(new LiveUse(poolOf([], { clock_speed: 0 }), 1_000).nowMs(9_000)).toBe(AT_MS);
    const live = new LiveUse(poolOf([], { clock_speed: 100_000 }), 0);
    expect(live.nowMs(1e12)).toBe(live.cycleEndMs);
    expect(live.untilMs(AT_MS + 100_000, 0)).toBe(1);
    expect(new LiveUse(poolOf([], { clock_speed: 0 }), 0).untilMs(AT_MS + 1, 0)).toBe(Infinity);
  });
});

test("a clock counts on while the machine sleeps, but does not follow small corrections", () => {
  let monotonic = 0;
  let wall = 1_000_000;
  const clock = new Clock(
    () => monotonic,
    () => wall,
  );
  monotonic += 1_000;
  wall += 1_500;
  expect(clock.elapsedMs()).toBe(1_000);
  monotonic += 1_000;
  wall += 61_000;
  expect(clock.elapsedMs()).toBe(62_000);
  expect(clock.wallAt(62_000)).toBe(wall);
  expect(clock.elapsedAt(wall - 10_000)).toBe(52_000);
  expect(clock.elapsedAt(wall + 10_000)).toBe(62_000);
});

test("delays are drawn from a range that doubles up to its bound", () => {
  const backoff = new Backoff(500, 8_000, () => 1);
  expect(Array.from({ length: 6 }, () => backoff.next())).toEqual([500, 1_000, 2_000, 4_000, 8_000, 8_000]);
  backoff.reset();
  expect(backoff.next()).toBe(500);
});

test.each([
  ["112", true],
  ["tel:112;phone-context=+49", true],
  ["9-1-1", true],
  ["1120", false],
  ["+112", false],
  ["sip:112@example.com", true],
  ["SIP:112;x=1@EXAMPLE.com:5060;transport=tcp", true],
  ["sip:%31%31%32@example.com", true],
  ["sip:112@elsewhere.com", false],
  ["sip:example.com", false],
])("whether %s is an emergency number is %s (R30)", (to, is) => {
  expect(isEmergency(to, new Set(["112", "911"]), new Set(["example.com"]))).toBe(is);
});

test("the account of a token is read from it, and of anything else there is none", () => {
  const claims = Buffer.from(JSON.stringify({ sub: "acme~ö" })).toString("base64url");
  expect(accountOf(`e30.${claims}.x`)).toBe("acme~ö");
  expect(accountOf("nonsense")).toBeNull();
  expect(accountOf("a.b.c")).toBeNull();
});
