import type { LiveUse } from "callgate";

/** However fast billing time goes, nobody reads more. */
const LEAST_MS = 80;
/** With nothing going on, what is told in minutes and days is told anew. */
const MOST_MS = 30_000;

/**
 * After how many ms of real time something on the page changes merely because time passes.
 *
 * The running time of each call, what it has left of its free seconds, and what is used all step at the
 * milliseconds that are told by the calls themselves: the page need not look oftener, and is never late.
 */
export function nextTickMs(live: LiveUse, nowMs: number, untilMs: (atMs: number) => number): number {
  let next = MOST_MS;
  const step = live.nextStepMs(nowMs);
  if (step !== null) next = Math.min(next, untilMs(step));
  for (const call of live.pool.calls) {
    const ageMs = nowMs - call.admitted_at_ms;
    next = Math.min(next, untilMs(nowMs + 1000 - (((ageMs % 1000) + 1000) % 1000)));
  }
  return Math.max(next, LEAST_MS);
}
