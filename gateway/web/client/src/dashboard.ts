import { type Address, parseAddress } from "./addresses.js";
import { Clock } from "./clock.js";
import { Emitter } from "./emitter.js";
import type { Ended } from "./errors.js";
import { Link } from "./link.js";
import { LiveUse } from "./live-use.js";
import { DASHBOARD_TIMING, type Timing } from "./timing.js";
import { type TokenSource, Tokens } from "./tokens.js";
import type { Heard, Notice, Pool } from "./wire.js";

/** How a dashboard is connected. `connecting` is only until the first pool. */
export type DashboardState = "connecting" | "connected" | "reconnecting" | "ended";

export interface DashboardEvents {
  /** A pool was heard: the newest there is. `live` counts on from it. */
  pool: LiveUse;
  /** A threshold was passed, minutes are used up, the cycle began anew, the plan changed. */
  notice: Notice;
  /** `state` or `staleSinceMs` has changed. */
  state: DashboardState;
}

export interface DashboardOptions {
  /** Needed with the admin key: whose pool. */
  readonly account?: string;
  readonly timing?: Partial<Timing>;
  /** For tests. @internal */
  readonly clock?: Clock;
}

/**
 * A live view of one account's pool, over `/v1/live`.
 *
 * Reconnects by itself with growing delays, until the token is refused (`endedBy`) or it is closed. The pool
 * that was heard last stays, and counts on; since when it may be wrong is `staleSinceMs`.
 */
export class Dashboard extends Emitter<DashboardEvents> {
  state: DashboardState = "connecting";
  /** The newest pool, counting on; null before the first. */
  live: LiveUse | null = null;
  /** Since when nothing was heard (time of day, ms); null while connected. */
  staleSinceMs: number | null = null;
  /** Why it connects no more. */
  endedBy: Ended | null = null;

  readonly #clock: Clock;
  readonly #link: Link;
  #sleptMs = 0;

  constructor(url: string | URL, token: TokenSource, options: DashboardOptions = {}) {
    super();
    const address = parseAddress(url);
    this.#clock = options.clock ?? new Clock();
    const query = options.account === undefined ? "" : `?account=${encodeURIComponent(options.account)}`;
    this.#link = new Link(
      address,
      `/v1/live${query}`,
      new Tokens(token),
      { ...DASHBOARD_TIMING, ...options.timing },
      this.#clock,
      {
        opened: () => {},
        take: (frame) => this.#take(frame),
        lost: () => this.#lost(),
        ended: (error) => this.#ended(error),
        probe: (token) => probe(address, token, options.account),
      },
    );
  }

  /** Connect. */
  start(): this {
    this.#link.start();
    return this;
  }

  /** Connect no more. */
  close(): void {
    this.#link.close();
  }

  /** Try again now, if the next attempt is being waited for. */
  hurry(): void {
    this.#link.hurry();
  }

  /** The billing time now; null before the first pool. */
  nowMs(): number | null {
    const elapsedMs = this.#clock.elapsedMs();
    this.#lookForSleep();
    return this.live === null ? null : this.live.nowMs(elapsedMs);
  }

  /** How many ms of real time until a billing time. */
  untilMs(atMs: number): number {
    return this.live === null ? Number.POSITIVE_INFINITY : this.live.untilMs(atMs, this.#clock.elapsedMs());
  }

  /** After a sleep the connection may be dead, and a time of day that was only set ahead must not count. */
  #lookForSleep(): void {
    if (this.#clock.sleptMs === this.#sleptMs) return;
    this.#sleptMs = this.#clock.sleptMs;
    queueMicrotask(() => this.#link.drop());
  }

  #take(frame: Heard): boolean {
    if (frame.type === "notice") this.emit("notice", frame);
    if (frame.type !== "pool") return false;
    // Pools of one account come in order on one connection; another gateway may be a moment behind.
    if (this.live === null || isNewer(frame, this.live.pool) || this.state !== "connected") {
      this.live = new LiveUse(frame, this.#clock.elapsedMs());
      this.staleSinceMs = null;
      if (this.state !== "connected") {
        this.state = "connected";
        this.emit("state", this.state);
      }
      this.emit("pool", this.live);
    }
    return true;
  }

  #lost(): void {
    if (this.state === "connected") this.#setStale("reconnecting");
  }

  #ended(error: Ended): void {
    this.endedBy = error;
    this.#setStale("ended");
  }

  #setStale(state: DashboardState): void {
    if (this.live !== null && this.staleSinceMs === null)
      this.staleSinceMs = this.#clock.wallAt(this.#link.heardAtMs);
    this.state = state;
    this.emit("state", state);
  }
}

function isNewer(pool: Pool, than: Pool): boolean {
  return pool.version > than.version || (pool.version === than.version && pool.at_ms >= than.at_ms);
}

/** Ask what the token is good for: reading the pool asks for the same scope. */
async function probe(address: Address, token: string, account: string | undefined): Promise<Response> {
  const of = account ?? accountOf(token);
  if (of === null) throw new TypeError("This token names no account.");
  return fetch(`${address.http}/v1/accounts/${encodeURIComponent(of)}/pool`, {
    headers: { Authorization: `Bearer ${token}` },
    cache: "no-store",
  });
}

/** The account that a token is of; null if it is none. Only for what the gateway checks itself. */
export function accountOf(token: string): string | null {
  try {
    const claims = token.split(".")[1]!.replaceAll("-", "+").replaceAll("_", "/");
    const subject = (JSON.parse(decodeUtf8(atob(claims))) as { sub?: unknown }).sub;
    return typeof subject === "string" && subject !== "" ? subject : null;
  } catch {
    return null;
  }
}

function decodeUtf8(binary: string): string {
  return new TextDecoder().decode(Uint8Array.from(binary, (letter) => letter.charCodeAt(0)));
}
