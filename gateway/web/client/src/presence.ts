import type { Clock } from "./clock.js";

/** However short the grace: a page that was only busy for a moment did not sleep. */
const SHORTEST_SLEEP_MS = 2000;

/**
 * Since when a phone can't say that its calls are up (R13, R15).
 *
 * It was there while it heard its gateway. It was not while its machine or its page was stopped, which shows
 * by a gap between the moments at which it looks at the clock, even if the connection outlived that.
 *
 * @internal
 */
export class Presence {
  #graceMs = 0;
  #connected = false;
  #slept = false;
  #awakeMs: number;
  #lastMs: number;

  constructor(private readonly clock: Clock) {
    this.#awakeMs = this.#lastMs = clock.elapsedMs();
  }

  /** Look at the clock, once a second or oftener. Whether it slept through the grace. */
  look(): boolean {
    const nowMs = this.clock.elapsedMs();
    if (this.#connected && nowMs - this.#awakeMs > Math.max(this.#graceMs, SHORTEST_SLEEP_MS)) {
      this.#connected = false;
      this.#slept = true;
      this.#lastMs = this.#awakeMs;
    }
    this.#awakeMs = nowMs;
    return this.#slept;
  }

  heard(): void {
    this.look();
    if (this.#connected) this.#lastMs = this.#awakeMs;
  }

  lost(): void {
    this.#connected = false;
  }

  /** It is connected again: since when it was away, if that is longer than the grace. */
  returned(graceMs: number): number | null {
    const nowMs = this.clock.elapsedMs();
    const sinceMs = this.#lastMs;
    this.#graceMs = graceMs;
    this.#connected = true;
    this.#slept = false;
    this.#awakeMs = this.#lastMs = nowMs;
    return nowMs - sinceMs > graceMs ? sinceMs : null;
  }
}
