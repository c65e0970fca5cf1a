/** What the pace so far comes to. */

export interface Pace {
  /** What an even pace would have used by now. */
  readonly evenSeconds: number;
  /** When all will be used up if it goes on as since `sinceMs`; null: not in this cycle. */
  readonly emptyAtMs: number | null;
  /** What will be used by the end of the cycle. */
  readonly atEndSeconds: number;
}

/** A pace that is taken from less time than this says nothing. */
const LEAST_MS = 15 * 60_000;

/** The pace of a cycle; null while it is too early to say, and when nothing was used yet. */
export function paceOf(
  usedSeconds: number,
  allocatedSeconds: number,
  sinceMs: number,
  nowMs: number,
  startMs: number,
  endMs: number,
): Pace | null {
  const passedMs = nowMs - Math.max(sinceMs, startMs);
  if (passedMs < LEAST_MS || usedSeconds <= 0) return null;
  const emptyAtMs = nowMs + ((allocatedSeconds - usedSeconds) * passedMs) / usedSeconds;
  return {
    evenSeconds: Math.round((allocatedSeconds * (nowMs - startMs)) / (endMs - startMs)),
    emptyAtMs: usedSeconds >= allocatedSeconds ? nowMs : emptyAtMs < endMs ? Math.round(emptyAtMs) : null,
    atEndSeconds: Math.round(usedSeconds + (usedSeconds * (endMs - nowMs)) / passedMs),
  };
}
