/** The worked examples that bind whatever computes minutes: counting on from a pool comes to what they say. */

import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { billedSeconds, durationMs, LiveUse, type Policy, type Pool, type PoolCall } from "../src/index.js";

interface Step {
  readonly at_ms: number;
  readonly do: string;
  readonly call_id?: string;
  readonly expect?: Record<string, unknown>;
}
interface History {
  readonly name?: string;
  readonly policy: Policy;
  readonly cycle_boundaries_ms: readonly number[];
  readonly steps: readonly Step[];
}

const folder = new URL("../../../../tests/vectors/", import.meta.url);
const histories = (name: string): History[] => JSON.parse(readFileSync(new URL(name, folder), "utf-8"));

/** The calls in progress as the steps make them, and what has been settled of the running cycle. */
class Book {
  readonly calls = new Map<string, PoolCall>();
  answered = new Map<string, number>();

  constructor(private readonly history: History) {}

  take(step: Step): void {
    const id = step.call_id;
    if (id === undefined) return;
    if (step.do === "start" && step.expect?.["decision"] === "admitted" && !this.calls.has(id)) {
      this.calls.set(id, {
        call_id: id,
        staff: "ana",
        device: "desk",
        channel: null,
        to: "+14155550100",
        admitted_at_ms: step.expect["admitted_at_ms"] as number,
        answered_at_ms: null,
        counts: true,
        emergency: false,
      });
    } else if (step.do === "answered" && step.expect?.["error"] === undefined) {
      const call = this.calls.get(id);
      if (call !== undefined && call.answered_at_ms === null)
        this.calls.set(id, { ...call, answered_at_ms: step.at_ms });
    } else if (step.do === "end" && step.expect?.["error"] === undefined) this.calls.delete(id);
  }

  /** The pool at an instant, from what the steps say of a later one. */
  pool(atMs: number, expected: Record<string, unknown>): Pool {
    const [start, end] = this.#cycle(atMs);
    const calls = [...this.calls.values()].map((call) => ({ ...call, counts: call.admitted_at_ms >= start }));
    const { policy } = this.history;
    const billed = (call: PoolCall) =>
      call.counts
        ? billedSeconds(durationMs(policy, call.admitted_at_ms, call.answered_at_ms, atMs), policy)
        : 0;
    const settled = expected["settled_seconds"] as number;
    return {
      account: "acme",
      version: 1,
      at_ms: atMs,
      clock_speed: 1,
      plan: "team",
      pending_plan: null,
      cycle: { start: new Date(start).toISOString(), end: new Date(end).toISOString() },
      policy,
      allocated_seconds: expected["allocated_seconds"] as number,
      settled_seconds: settled,
      used_seconds: settled + calls.reduce((sum, call) => sum + billed(call), 0),
      remaining_seconds: 0,
      overrun_seconds: 0,
      held_seconds: 0,
      calls_in_progress: calls.length,
      calls,
      thresholds: [],
      empty_at_ms: null,
      seats: { used: 1, limit: 1 },
      channels: { used: 0, limit: 0 },
    };
  }

  #cycle(atMs: number): [number, number] {
    const bounds = this.history.cycle_boundaries_ms;
    const index = bounds.findLastIndex((bound) => bound <= atMs);
    return [bounds[index]!, bounds[index + 1]!];
  }
}

describe.each(["pool_worked.json", "pool_random.json"])("%s", (name) => {
  test.each(histories(name).map((history, index) => [history.name ?? `history ${index}`, history] as const))(
    "%s",
    (_, history) => {
      const book = new Book(history);
      let before = history.steps[0]!.at_ms;
      for (const step of history.steps) {
        if (step.do === "pool" && step.expect !== undefined) {
          // Counted on from the step before, where that lies in the same cycle, and from this very instant.
          const bounds = history.cycle_boundaries_ms;
          const cycle = (atMs: number) => bounds.findLastIndex((bound) => bound <= atMs);
          const from = cycle(before) === cycle(step.at_ms) ? before : step.at_ms;
          const live = new LiveUse(book.pool(from, step.expect), 5_000);
          const atMs = live.nowMs(5_000 + step.at_ms - from);
          expect(atMs).toBe(step.at_ms);
          expect(live.usedSeconds(atMs)).toBe(step.expect["used_seconds"]);
          expect(live.remainingSeconds(atMs)).toBe(step.expect["remaining_seconds"]);
          expect(live.overrunSeconds(atMs)).toBe(step.expect["overrun_seconds"]);
        }
        book.take(step);
        before = step.at_ms;
      }
    },
  );
});
