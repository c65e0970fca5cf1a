/**
 * Counting on by oneself: what a pool's live use is while nothing but time passes (R4, R5).
 *
 * A pool says what was used at `at_ms`, and which calls were in progress. From then on only the ages of those
 * calls change it, until something happens that a newer pool tells of.
 */

import { billedSeconds, durationMs, nextStepMs } from "./billing.js";
import type { Pool, PoolCall } from "./wire.js";

/**
 * A pool as it goes on from the moment it was heard.
 *
 * Exact as long as all calls that count are among the 100 that a pool shows; with more, those not shown stay
 * at what they had used, and the gateway sends the pool once a second.
 */
export class LiveUse {
  readonly cycleStartMs: number;
  readonly cycleEndMs: number;
  readonly #heardAtMs: number;

  /** Take a pool, and when it was heard, by the clock that `nowMs` is asked with later. */
  constructor(
    readonly pool: Pool,
    heardAtMs: number,
  ) {
    this.#heardAtMs = heardAtMs;
    this.cycleStartMs = Date.parse(pool.cycle.start);
    this.cycleEndMs = Date.parse(pool.cycle.end);
  }

  /** The billing time at an instant of the clock it was heard by; at most the cycle's end. */
  nowMs(clockMs: number): number {
    const passedMs = Math.floor(Math.max(0, clockMs - this.#heardAtMs) * this.pool.clock_speed);
    return Math.max(this.pool.at_ms, Math.min(this.pool.at_ms + passedMs, this.cycleEndMs));
  }

  /** How long from an instant of the clock until a billing time: Infinity if the clock stands still. */
  untilMs(atMs: number, clockMs: number): number {
    const left = atMs - this.pool.at_ms;
    if (left <= 0) return 0;
    if (this.pool.clock_speed === 0) return Number.POSITIVE_INFINITY;
    return Math.max(0, this.#heardAtMs + left / this.pool.clock_speed - clockMs);
  }

  /** What is used at a billing time (R4). */
  usedSeconds(atMs: number): number {
    let used = this.pool.used_seconds;
    for (const call of this.pool.calls)
      if (call.counts) used += this.billedSeconds(call, atMs) - this.billedSeconds(call, this.pool.at_ms);
    return used;
  }

  /** What is left at a billing time (R5). */
  remainingSeconds(atMs: number): number {
    return Math.max(0, this.pool.allocated_seconds - this.usedSeconds(atMs));
  }

  /** What is used beyond the allocation at a billing time (R5). */
  overrunSeconds(atMs: number): number {
    return Math.max(0, this.usedSeconds(atMs) - this.pool.allocated_seconds);
  }

  /** What a call would bill if it ended at a billing time (R1-R3); an emergency nothing (R30). */
  billedSeconds(call: PoolCall, atMs: number): number {
    return call.emergency ? 0 : billedSeconds(this.#durationMs(call, atMs), this.pool.policy);
  }

  /** The free seconds that a call has left at a billing time: 0 once it bills, or if it never will. */
  freeSecondsLeft(call: PoolCall, atMs: number): number {
    if (call.emergency) return 0;
    const leftMs = this.pool.policy.free_seconds * 1000 - this.#durationMs(call, atMs);
    return Math.max(0, Math.ceil(leftMs / 1000));
  }

  /** The next billing time after `atMs` at which what is used grows; null if nothing that is known grows it. */
  nextStepMs(atMs: number): number | null {
    let next: number | null = null;
    for (const call of this.pool.calls) {
      if (!call.counts || call.emergency) continue;
      const fromMs = this.pool.policy.count_from === "admission" ? call.admitted_at_ms : call.answered_at_ms;
      if (fromMs === null) continue;
      const stepMs = fromMs + nextStepMs(this.#durationMs(call, atMs), this.pool.policy);
      if (next === null || stepMs < next) next = stepMs;
    }
    return next === null || next > this.cycleEndMs ? null : next;
  }

  #durationMs(call: PoolCall, atMs: number): number {
    return durationMs(this.pool.policy, call.admitted_at_ms, call.answered_at_ms, atMs);
  }
}
