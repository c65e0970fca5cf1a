/** Keeping a WebSocket to a gateway: connecting, connecting again, and knowing when not to. */

import type { Address } from "./addresses.js";
import { Backoff } from "./backoff.js";
import type { Clock } from "./clock.js";
import { Closed, Ended, Forbidden, Replaced, StaffRemoved, TokenRefused } from "./errors.js";
import type { Timing } from "./timing.js";
import type { Tokens } from "./tokens.js";
import { decode, type Heard } from "./wire.js";

const SUBPROTOCOL = "callgate.v1";
const TOKEN_ENDED = 4401;
const STAFF_REMOVED = 4403;
const REPLACED = 4409;
/** After these no gateway comes upon the connection any more. */
const FINAL: ReadonlySet<number> = new Set([TOKEN_ENDED, STAFF_REMOVED, REPLACED]);
/** For so long a gateway may come upon an attempt that was given up, and take it for the newer one. */
const OWN_ATTEMPT_MS = 30_000;
/** So many handshakes refused in a row, though over HTTP the token is good, are no passing trouble. */
const MOST_REFUSALS = 5;
/** Longer than a gateway that shuts down answers over HTTP though it takes no connections any more: for pages of
 * another origin, which cannot ask whether it does. */
const REFUSED_MS = 60_000;

/** What the owner of a link hears of it. @internal */
export interface LinkHandlers {
  /** A connection is open: what is sent from now on goes over it. */
  opened(): void;
  /** A frame. True says that it is the greeting with which a connection counts as made. */
  take(frame: Heard): boolean;
  /** The connection is gone, if there was one; another is tried in so many ms. */
  lost(againInMs: number): void;
  /** There will be no other. */
  ended(error: Ended): void;
  /** After a handshake that failed, which tells a page nothing: ask over HTTP what the token is good for. */
  probe(token: string): Promise<Response>;
}

/** @internal */
export class Link {
  /** Whether there is a connection, and the gateway has greeted on it. */
  greeted = false;
  /** When anything was last heard (`Clock.elapsedMs`). */
  heardAtMs = 0;

  readonly #backoff: Backoff;
  #socket: WebSocket | null = null;
  #attempt = 0;
  #ended: Ended | null = null;
  #running = false;
  #pings = 0;
  #greetedAtMs = 0;
  #everGreeted = false;
  /** When the latest attempt was given up that a gateway may still come upon. */
  #attemptAtMs: number | null = null;
  #refusals = 0;
  #refusedSinceMs = 0;
  #pingedAtMs: number | null = null;
  #againTimer: ReturnType<typeof setTimeout> | undefined;
  #connectTimer: ReturnType<typeof setTimeout> | undefined;
  #watchTimer: ReturnType<typeof setTimeout> | undefined;

  constructor(
    private readonly address: Address,
    private readonly path: string,
    private readonly tokens: Tokens,
    private readonly timing: Timing,
    private readonly clock: Clock,
    private readonly handlers: LinkHandlers,
  ) {
    this.#backoff = new Backoff(timing.backoffMs, timing.backoffMostMs);
  }

  start(): void {
    if (this.#running || this.#ended !== null) return;
    this.#running = true;
    globalThis.addEventListener?.("online", this.#onOnline);
    globalThis.document?.addEventListener("visibilitychange", this.#onVisible);
    void this.#connect();
  }

  /** Send a frame; false if there is no connection to send it over. */
  send(frame: object): boolean {
    if (this.#socket?.readyState !== WebSocket.OPEN) return false;
    this.#socket.send(JSON.stringify(frame));
    return true;
  }

  /** Make the next attempt at once, if it is being waited for. */
  hurry(): void {
    if (this.#running && this.#againTimer !== undefined) {
      clearTimeout(this.#againTimer);
      void this.#connect();
    }
  }

  /** Break the connection off, if there is one, and make another. */
  drop(): void {
    if (this.#socket !== null) this.#gone(this.#socket, 1006);
  }

  /** Connect no more, and say why. */
  end(error: Ended): void {
    if (this.#ended !== null) return;
    this.#ended = error;
    this.#running = false;
    this.#attempt += 1;
    clearTimeout(this.#againTimer);
    globalThis.removeEventListener?.("online", this.#onOnline);
    globalThis.document?.removeEventListener("visibilitychange", this.#onVisible);
    this.#leave();
    this.handlers.ended(error);
  }

  close(): void {
    this.end(new Closed());
  }

  async #connect(): Promise<void> {
    this.#againTimer = undefined;
    const attempt = ++this.#attempt;
    let token: string;
    try {
      token = await this.tokens.current();
    } catch (error) {
      if (attempt !== this.#attempt) return;
      // A token source that fails may do better next time; one that gives the refused token again will not.
      if (error instanceof TokenRefused) this.end(error);
      else this.#again();
      return;
    }
    if (attempt !== this.#attempt) return;
    let socket: WebSocket;
    try {
      socket = new WebSocket(`${this.address.websocket}${this.path}`, [SUBPROTOCOL, `bearer.${token}`]);
    } catch {
      // Characters that no subprotocol can have.
      this.end(new TokenRefused());
      return;
    }
    this.#socket = socket;
    let opened = false;
    this.#connectTimer = setTimeout(() => this.#gone(socket, 1006), this.timing.connectMs);
    socket.onopen = () => {
      opened = true;
      this.#refusals = 0;
      this.#heard();
      this.#watch();
      this.handlers.opened();
    };
    socket.onmessage = (message) => {
      if (socket !== this.#socket) return;
      this.#heard();
      const frame = decode(message.data);
      if (frame !== null && this.handlers.take(frame)) {
        clearTimeout(this.#connectTimer);
        if (!this.greeted) this.#greetedAtMs = this.heardAtMs;
        this.greeted = this.#everGreeted = true;
      }
    };
    socket.onclose = (closed) => {
      if (socket !== this.#socket) return;
      if (opened) this.#gone(socket, closed.code);
      else void this.#refused(socket, token);
    };
  }

  /** A handshake that was refused looks to a page like a gateway that is not there: ask which it was. */
  async #refused(socket: WebSocket, token: string): Promise<void> {
    const attempt = this.#attempt;
    let status = 0;
    let problem: { code?: string; detail?: string } = {};
    try {
      const response = await this.handlers.probe(token);
      status = response.status;
      if (!response.ok) problem = (await response.json()) as typeof problem;
    } catch {
      // Nobody there, or no gateway.
    }
    const ready = status === 200 && !this.#everGreeted ? await this.#isReady() : null;
    if (attempt !== this.#attempt || socket !== this.#socket) return;
    if (status !== 200 || ready === false) this.#refusals = 0;
    if (status === 401) {
      this.#leave();
      this.#tokenRefused(problem.detail);
    } else if (status === 403) this.end(new Forbidden(problem.detail));
    // A gateway's word, not that of something between: accounts are never deleted.
    else if (problem.code === "not_found")
      this.end(new Ended("not_found", problem.detail ?? "There is no such account."));
    else if (status === 200 && !this.#everGreeted && ready !== false && this.#isRefusedForGood(ready))
      this.end(
        new Forbidden(
          "The gateway answers, but refuses this connection: the staff member of this token may have been " +
            "removed, or a proxy lets no WebSocket pass.",
        ),
      );
    else this.#gone(socket, 1006);
  }

  /** Whether the gateway takes connections now; null where a page cannot ask. */
  async #isReady(): Promise<boolean | null> {
    try {
      return (await fetch(`${this.address.http}/readyz`, { cache: "no-store" })).ok;
    } catch {
      return null;
    }
  }

  #isRefusedForGood(ready: boolean | null): boolean {
    const nowMs = this.clock.elapsedMs();
    if (this.#refusals === 0) this.#refusedSinceMs = nowMs;
    this.#refusals += 1;
    return this.#refusals >= MOST_REFUSALS && (ready === true || nowMs - this.#refusedSinceMs > REFUSED_MS);
  }

  #gone(socket: WebSocket, code: number): void {
    if (socket !== this.#socket) return;
    // A page can't see how a handshake broke: a gateway may have been told of it.
    if (!this.greeted && !FINAL.has(code)) this.#attemptAtMs = this.clock.elapsedMs();
    this.#leave();
    if (code === TOKEN_ENDED) this.#tokenRefused(undefined);
    else if (code === STAFF_REMOVED) this.end(new StaffRemoved());
    else if (code === REPLACED && !this.#mayBeItsOwn()) this.end(new Replaced());
    else this.#again();
  }

  /** Whether what replaced the connection may be the latest attempt that was given up; once for each. */
  #mayBeItsOwn(): boolean {
    const at = this.#attemptAtMs;
    this.#attemptAtMs = null;
    return at !== null && this.clock.elapsedMs() - at < OWN_ATTEMPT_MS;
  }

  #tokenRefused(message: string | undefined): void {
    this.tokens.refuse(message);
    if (this.tokens.exhausted) this.end(new TokenRefused(message));
    else this.#again();
  }

  /** Let go of the connection without waiting for the other side, which may be gone. */
  #leave(): void {
    const socket = this.#socket;
    // Not as soon as it is greeted: a gateway that greets and then falls over would be stormed.
    if (this.greeted && this.heardAtMs - this.#greetedAtMs > this.timing.backoffMostMs) this.#backoff.reset();
    this.#socket = null;
    this.greeted = false;
    this.#pingedAtMs = null;
    clearTimeout(this.#connectTimer);
    clearTimeout(this.#watchTimer);
    if (socket === null) return;
    socket.onopen = socket.onmessage = socket.onclose = null;
    socket.close();
  }

  #again(): void {
    if (!this.#running) return;
    const delayMs = this.#backoff.next();
    this.#againTimer = setTimeout(() => void this.#connect(), delayMs);
    this.handlers.lost(delayMs);
  }

  // A page can't see the gateway's WebSocket pings, so silence says nothing until it has asked.

  #heard(): void {
    this.heardAtMs = this.clock.elapsedMs();
    if (this.#pingedAtMs === null) return;
    this.#pingedAtMs = null;
    this.#watch();
  }

  #watch(): void {
    clearTimeout(this.#watchTimer);
    const nowMs = this.clock.elapsedMs();
    let nextMs = this.heardAtMs + this.timing.pingAfterMs - nowMs;
    if (this.#pingedAtMs !== null) {
      nextMs = this.#pingedAtMs + this.timing.pongMs - nowMs;
      if (nextMs <= 0) {
        this.drop();
        return;
      }
    } else if (nextMs <= 0) {
      this.#ping(nowMs);
      nextMs = this.timing.pongMs;
    }
    this.#watchTimer = setTimeout(() => this.#watch(), nextMs + 1);
  }

  #ping(nowMs: number): void {
    this.#pingedAtMs = nowMs;
    this.send({ type: "ping", id: `alive-${++this.#pings}` });
  }

  readonly #onOnline = (): void => {
    this.#backoff.reset();
    this.hurry();
    this.#askNow();
  };

  readonly #onVisible = (): void => {
    if (globalThis.document?.visibilityState !== "visible") return;
    this.hurry();
    this.#askNow();
  };

  /** Whatever happened, a line that was silent for a while is asked now. */
  #askNow(): void {
    if (!this.greeted || this.#pingedAtMs !== null) return;
    const nowMs = this.clock.elapsedMs();
    if (nowMs - this.heardAtMs < 1000) return;
    this.#ping(nowMs);
    this.#watch();
  }
}
