/** How long to wait, and when a silent connection is taken for dead. Milliseconds. */
export interface Timing {
  /** What one attempt to connect may take, up to the first frame. */
  readonly connectMs: number;
  /** How long an answer is waited for, reconnecting meanwhile if need be. */
  readonly answerMs: number;
  /** After so long a silence the gateway is asked whether it is there. */
  readonly pingAfterMs: number;
  /** How long it has to answer that. */
  readonly pongMs: number;
  /** The longest wait before the first attempt to reconnect; it doubles with each that fails. */
  readonly backoffMs: number;
  /** Up to here it grows. */
  readonly backoffMostMs: number;
  /** How often a phone notes that it is alive, where it keeps its calls. */
  readonly beatMs: number;
}

/** A softphone's: short enough for a few attempts within the 30 s that a lost device's calls have. */
export const PHONE_TIMING: Timing = {
  connectMs: 10_000,
  answerMs: 10_000,
  pingAfterMs: 4_000,
  pongMs: 6_000,
  backoffMs: 500,
  backoffMostMs: 8_000,
  beatMs: 5_000,
};

/** A dashboard's: there may be thousands, of which no call depends. */
export const DASHBOARD_TIMING: Timing = { ...PHONE_TIMING, pingAfterMs: 25_000, pongMs: 8_000 };
