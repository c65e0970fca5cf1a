/**
 * How long to wait before the next attempt: exponential backoff with full jitter.
 *
 * A gateway that restarts loses everybody in one moment. Drawn from the whole range, they come back evenly.
 *
 * @internal
 */
export class Backoff {
  #boundMs: number;

  constructor(
    private readonly firstMs: number,
    private readonly mostMs: number,
    private readonly random: () => number = Math.random,
  ) {
    this.#boundMs = firstMs;
  }

  /** The next delay, in ms. */
  next(): number {
    const bound = this.#boundMs;
    this.#boundMs = Math.min(bound * 2, this.mostMs);
    return this.random() * bound;
  }

  /** Begin with short delays again. */
  reset(): void {
    this.#boundMs = this.firstMs;
  }
}
