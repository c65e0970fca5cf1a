/**
 * How much time went by.
 *
 * `performance.now()` is set by nobody, but stands still while the machine sleeps; the time of day does not,
 * but people set it. So the former counts, and where the latter has run ahead of it by seconds between two
 * looks, the machine slept that long.
 *
 * @internal
 */
const LEAST_SLEEP_MS = 2000;

export class Clock {
  #sleptMs = 0;
  #lastMs: number;
  #lastWallMs: number;

  constructor(
    private readonly monotonicMs: () => number = () => performance.now(),
    private readonly timeOfDayMs: () => number = () => Date.now(),
  ) {
    this.#lastMs = monotonicMs();
    this.#lastWallMs = timeOfDayMs();
  }

  /** Milliseconds since some instant in the past, sleep included; only differences mean something. */
  elapsedMs(): number {
    const nowMs = this.monotonicMs();
    const wallMs = this.timeOfDayMs();
    const aheadMs = wallMs - this.#lastWallMs - (nowMs - this.#lastMs);
    if (aheadMs > LEAST_SLEEP_MS) this.#sleptMs += aheadMs;
    this.#lastMs = nowMs;
    this.#lastWallMs = wallMs;
    return nowMs + this.#sleptMs;
  }

  /** How long the machine slept; or how far the time of day was set ahead, which looks the same. */
  get sleptMs(): number {
    return this.#sleptMs;
  }

  /** The time of day, which alone means something to the page after a reload. */
  wallMs(): number {
    return Math.round(this.timeOfDayMs());
  }

  /** What time of day it was at an instant of `elapsedMs`. */
  wallAt(atMs: number): number {
    return Math.round(this.wallMs() - (this.elapsedMs() - atMs));
  }

  /** The instant of `elapsedMs` at a time of day; never one to come. */
  elapsedAt(wallAtMs: number): number {
    return this.elapsedMs() - Math.max(0, this.wallMs() - wallAtMs);
  }
}
