/** What a call costs the pool: integer milliseconds in, integer seconds out (R1-R3, R5). */

import type { Policy } from "./wire.js";

const MS_A_SECOND = 1000;

/**
 * What a call of so many milliseconds bills: nothing up to the free length (R1), else all of it (R2).
 *
 * Exact: all numbers are integers far below 2^53, and what is left over is told by `%`, not by a fraction.
 */
export function billedSeconds(durationMs: number, policy: Policy): number {
  if (durationMs <= policy.free_seconds * MS_A_SECOND) return 0;
  const incrementMs = policy.increment_seconds * MS_A_SECOND;
  const over = durationMs % incrementMs;
  const increments = (durationMs - over) / incrementMs + (over === 0 ? 0 : 1);
  return increments * policy.increment_seconds;
}

/** How long a call was, or is at `endMs` if it goes on: from admission, or from the answer (R3). */
export function durationMs(
  policy: Policy,
  admittedAtMs: number,
  answeredAtMs: number | null,
  endMs: number,
): number {
  const fromMs = policy.count_from === "admission" ? admittedAtMs : answeredAtMs;
  return fromMs === null ? 0 : Math.max(0, endMs - fromMs);
}

/**
 * After how many milliseconds of its length a call that is `durationMs` long bills more than it does now.
 *
 * That is the first millisecond of the next increment, and the one after the free length (R1).
 */
export function nextStepMs(durationMs: number, policy: Policy): number {
  const freeMs = policy.free_seconds * MS_A_SECOND;
  if (durationMs <= freeMs) return freeMs + 1;
  const incrementMs = policy.increment_seconds * MS_A_SECOND;
  const over = durationMs % incrementMs;
  return (over === 0 ? durationMs : durationMs - over + incrementMs) + 1;
}
