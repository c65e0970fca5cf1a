import { type Address, parseAddress } from "./addresses.js";
import { Call, type Surroundings } from "./call.js";
import { Clock } from "./clock.js";
import { EMERGENCY_NUMBERS, isEmergency } from "./emergency.js";
import { Emitter } from "./emitter.js";
import { CallgateError, CallRefused, Ended } from "./errors.js";
import { Journal, type KeptStorage } from "./journal.js";
import { Link } from "./link.js";
import { Presence } from "./presence.js";
import { type Request, Requests } from "./requests.js";
import { Resuming, type StillUp } from "./resuming.js";
import { PHONE_TIMING, type Timing } from "./timing.js";
import { type TokenSource, Tokens } from "./tokens.js";
import type { AuthRefreshed, CallAdmitted, Heard, Notice, Pong, PoolCall, Welcome } from "./wire.js";

/** However JSON escapes so many characters, a frame of them is none that is too large (64 KiB). */
const LONGEST_TEXTS = 8192;
const LOOK_MS = 1000;
/** A page that is being reloaded lets go of its journal in a moment. */
const LOCK_MS = 3000;

export interface SoftphoneEvents {
  /** Something nobody asked for: minutes are used up, or there again; the gateway goes away. */
  notice: Notice;
  /** Connected, or not any more. */
  connected: boolean;
  /** It connects no more by itself. */
  ended: Ended;
}

export interface SoftphoneOptions {
  readonly emergencyNumbers?: Iterable<string>;
  readonly sipDomains?: Iterable<string>;
  /**
   * Says whether the media of a call are up, of which the phone itself does not know: after a reload of the
   * page, or when it slept through the grace (R15). Without it such a call ended when it was last known up.
   */
  readonly stillUp?: StillUp;
  /**
   * The name under which calls and untold ends are kept in `localStorage`, so that they outlive the page. The
   * device's own: no other page may use it at the same time.
   */
  readonly keepIn?: string;
  /** Where `keepIn` is kept; by default `localStorage`. */
  readonly storage?: KeptStorage;
  readonly timing?: Partial<Timing>;
  /** For tests. @internal */
  readonly clock?: Clock;
}

export interface StartOptions {
  readonly channel?: string;
  /** Unique within the account; by default random. Ask again with the same one: asking twice is asking once. */
  readonly callId?: string;
  /** Gives it up: the call is not to be. */
  readonly signal?: AbortSignal;
}

/**
 * A device: connected from `connect` to `close`, reconnecting by itself with growing delays.
 *
 * Requests that a broken connection left without an answer are asked again after it, with the same call id;
 * what ended meanwhile is told then, with how long ago. Calls in progress go on, and are resumed on the next
 * connection (R13).
 */
export class Softphone extends Emitter<SoftphoneEvents> {
  /** The latest greeting: who this device is, its grace, and its calls that were in progress. */
  welcome: Welcome | null = null;
  /** What was left in the pool when the gateway last said. */
  remainingSeconds: number | null = null;
  /** The calls that an earlier page left in progress, as `keepIn` tells. */
  leftOver: readonly Call[] = [];
  /** Why it connects no more; null while it does. */
  endedBy: Ended | null = null;

  readonly #options: SoftphoneOptions;
  readonly #address: Address;
  readonly #timing: Timing;
  readonly #clock: Clock;
  readonly #tokens: Tokens;
  readonly #requests: Requests;
  readonly #link: Link;
  readonly #presence: Presence;
  readonly #resuming: Resuming;
  readonly #around: Surroundings;
  readonly #emergencyNumbers: ReadonlySet<string>;
  readonly #sipDomains: ReadonlySet<string>;
  readonly #calls = new Set<Call>();
  readonly #heldEnds: Call[] = [];
  #journal: Journal | null = null;
  #unlock: (() => void) | null = null;
  #look: ReturnType<typeof setInterval> | undefined;
  #beat: ReturnType<typeof setInterval> | undefined;
  #connecting: Promise<Welcome> | null = null;
  #wasConnected = false;
  #closing = false;

  /** `url` is the gateway's, `token` the device's, or a function that gives one. */
  constructor(url: string | URL, token: TokenSource, options: SoftphoneOptions = {}) {
    super();
    this.#options = options;
    this.#address = parseAddress(url);
    this.#timing = { ...PHONE_TIMING, ...options.timing };
    this.#clock = options.clock ?? new Clock();
    this.#tokens = new Tokens(token);
    this.#emergencyNumbers = new Set(options.emergencyNumbers ?? EMERGENCY_NUMBERS);
    this.#sipDomains = new Set(options.sipDomains ?? []);
    this.#requests = new Requests(this.#timing);
    this.#presence = new Presence(this.#clock);
    this.#resuming = new Resuming(this.#requests, this.#clock, options.stillUp ?? null);
    this.#link = new Link(this.#address, "/v1/device", this.#tokens, this.#timing, this.#clock, {
      opened: () => this.#requests.attach((frame) => this.#link.send(frame)),
      take: (frame) => this.#take(frame),
      lost: () => this.#lost(),
      ended: (error) => this.#end(error),
      probe: (token) => this.#probe(token),
    });
    this.#around = {
      requests: this.#requests,
      timing: this.#timing,
      clock: this.#clock,
      journal: () => this.#journal,
      admitted: (call) => this.#admitted(call),
      over: (call) => this.#calls.delete(call),
      hungUp: (call) => this.#resuming.hungUp(call),
      bringBack: (call) => this.#resuming.owe(call),
    };
  }

  /** Whether there is a connection just now, and the gateway has welcomed this device on it. */
  get connected(): boolean {
    return this.#link.greeted;
  }

  /** Its calls that no gateway has settled, the oldest first. */
  get calls(): readonly Call[] {
    return [...this.#calls];
  }

  /**
   * Connect, and wait for the gateway's welcome.
   *
   * A gateway that is not there is tried again and again; what was kept is told when it is. Throws TokenRefused,
   * Forbidden, and `journal_in_use` if another page keeps its calls under the same name.
   */
  connect(): Promise<Welcome> {
    this.#connecting ??= this.#connect();
    return this.#connecting;
  }

  /**
   * Ask for a call, and return it once it is admitted; an emergency call at once (R30).
   *
   * Throws CallRefused, and CallgateError by the gateway's codes, `no_answer`, or why the phone has ended. Given
   * up, the call is not to be: should a gateway have admitted it all the same, it is told that it ended.
   */
  async start(to: string, options: StartOptions = {}): Promise<Call> {
    if (isEmergency(to, this.#emergencyNumbers, this.#sipDomains)) return this.emergency(to, options);
    const call = this.#newCall(to, options.channel ?? null, options.callId, false);
    const request = call.askStart();
    try {
      const what = `the start of ${call.callId}`;
      const answer = await request.answer(this.#timing.answerMs, what, options.signal);
      if (answer.type === "call.refused")
        throw new CallRefused(answer.reason, answer.message, answer.remaining_seconds);
      return call;
    } catch (error) {
      if (!(error instanceof CallRefused)) this.#giveUp(call, request);
      throw error;
    }
  }

  /**
   * An emergency call, to be placed at once, without waiting for any answer (R30).
   *
   * The gateway is told as soon as it can be, connected or not; nothing that it says makes this throw.
   */
  emergency(to: string, options: StartOptions = {}): Call {
    const call = this.#newCall(to, options.channel ?? null, options.callId, true);
    this.#calls.add(call);
    call.askStart();
    this.#link.hurry();
    return call;
  }

  /**
   * A call of this device that is in progress, as `welcome.calls` lists it, begun by an earlier page.
   *
   * To adopt it is to say that it is up: from now on this phone vouches for it (R12).
   */
  adopt(found: PoolCall): Call {
    let call = [...this.#calls].find((each) => each.callId === found.call_id);
    if (call === undefined) {
      call = this.#newCall(found.to, found.channel, found.call_id, found.emergency);
      call.admission = {
        admittedAtMs: found.admitted_at_ms,
        remainingSeconds: null,
        replayed: true,
        offline: false,
      };
      call.keep({ admitted_at_ms: found.admitted_at_ms });
      this.#calls.add(call);
    }
    if (!call.ended) this.#resuming.vouch(call);
    return call;
  }

  /** Go on by a newer token of the same device, without reconnecting; when it expires (real time, ms). */
  async refresh(token: string): Promise<number> {
    const request = this.#requests.ask({ make: (id) => ({ type: "auth.refresh", id, token }) });
    const answer = await this.#answer<AuthRefreshed>(request, "the refreshing of the token");
    this.#tokens.replace(token);
    return answer.expires_at_ms;
  }

  /** Ask the gateway for its time (billing time, ms). */
  async ping(): Promise<number> {
    const request = this.#requests.ask({ make: (id) => ({ type: "ping", id }) });
    return (await this.#answer<Pong>(request, "a ping")).server_time_ms;
  }

  /**
   * Hang up what is up, tell what is to be told, and connect no more.
   *
   * With `hangUp: false` the calls stay up: another page, or with `keepIn` the next, goes on with them. Returns
   * the ids of calls of whose end no gateway has heard (`keepIn` keeps them for next time).
   */
  async close({ hangUp = true }: { hangUp?: boolean } = {}): Promise<readonly string[]> {
    if (hangUp) await Promise.allSettled([...this.#calls].map((call) => call.end()));
    this.#closing = true;
    const undelivered = [...this.#calls].filter((call) => call.ended).map((call) => call.callId);
    this.#link.close();
    return undelivered;
  }

  // Connecting

  async #connect(): Promise<Welcome> {
    if (this.#options.keepIn !== undefined) {
      await this.#lock(this.#options.keepIn);
      const storage = this.#options.storage ?? globalThis.localStorage;
      this.#journal = new Journal(storage, this.#options.keepIn);
      this.#restore(this.#journal);
      this.#beat = setInterval(() => this.#alive(), this.#timing.beatMs);
      globalThis.addEventListener?.("pagehide", this.#onPageHide);
    }
    this.#look = setInterval(() => this.#lookAtClock(), LOOK_MS);
    const welcomed = new Promise<Welcome>((resolve, reject) => {
      const offs = [
        this.on("connected", (connected) => {
          if (connected) settle(() => resolve(this.welcome!));
        }),
        this.on("ended", (error) => settle(() => reject(error))),
      ];
      const settle = (how: () => void) => {
        for (const off of offs) off();
        how();
      };
    });
    this.#link.start();
    return welcomed;
  }

  /** Have the journal alone, if the browser can see to that. */
  async #lock(name: string): Promise<void> {
    const locks = globalThis.navigator?.locks;
    if (locks === undefined || this.#options.storage !== undefined) return;
    const taken = new Promise<void>((resolve, reject) => {
      locks
        .request(
          `callgate ${name}`,
          { signal: AbortSignal.timeout(LOCK_MS) },
          () =>
            new Promise<void>((unlock) => {
              this.#unlock = unlock;
              resolve();
            }),
        )
        .catch(reject);
    });
    try {
      await taken;
    } catch {
      const error = new Ended("journal_in_use", `Another page keeps its calls under the name ${name}.`);
      this.#end(error);
      throw error;
    }
  }

  /** Ask what the token is good for, by vouching for a call that nobody has. */
  #probe(token: string): Promise<Response> {
    return fetch(`${this.#address.http}/v1/calls/keepalive`, {
      method: "POST",
      headers: { Authorization: `Bearer ${token}`, "Content-Type": "application/json" },
      body: JSON.stringify({ call_ids: ["~"] }),
      cache: "no-store",
    });
  }

  #take(heard: Heard): boolean {
    this.#presence.heard();
    if ("remaining_seconds" in heard && heard.type !== "pool" && heard.remaining_seconds !== null)
      this.remainingSeconds = heard.remaining_seconds;
    switch (heard.type) {
      case "welcome":
        this.#welcomed(heard);
        return true;
      case "notice":
        this.emit("notice", heard);
        break;
      case "pool":
        break;
      default:
        this.#requests.take(heard);
    }
    return false;
  }

  #welcomed(welcome: Welcome): void {
    this.welcome = welcome;
    if (this.#journal !== null) {
      if (!this.#journal.belongsTo(welcome)) {
        this.#link.end(new Ended("journal_of_another", "What is kept is another device's."));
        return;
      }
      while (this.#heldEnds.length > 0) this.#requests.free(this.#heldEnds.shift()!);
    }
    // The link counts this frame as its greeting only after it was taken.
    queueMicrotask(() => {
      if (!this.#link.greeted) return;
      this.#resuming.welcomed(this.#presence.returned(1000 * welcome.grace_seconds));
      this.#wasConnected = true;
      this.emit("connected", true);
    });
  }

  #lost(): void {
    this.#requests.detach();
    this.#presence.lost();
    this.#resuming.lost(this.#calls);
    if (this.#wasConnected) this.emit("connected", false);
    this.#wasConnected = false;
  }

  #end(error: Ended): void {
    if (this.endedBy !== null) return;
    this.endedBy = error;
    clearInterval(this.#look);
    clearInterval(this.#beat);
    globalThis.removeEventListener?.("pagehide", this.#onPageHide);
    this.#alive();
    this.#resuming.stop();
    this.#requests.end(error);
    this.#unlock?.();
    this.emit("ended", error);
  }

  #lookAtClock(): void {
    if (this.#presence.look() && this.#link.greeted) this.#link.drop();
  }

  // What outlives the page

  #restore(journal: Journal): void {
    const leftOver: Call[] = [];
    for (const kept of journal.calls) {
      const call = new Call(kept.call_id, kept.to, kept.channel, kept.emergency, this.#around);
      this.#calls.add(call);
      if (kept.ended_at_ms === undefined) this.#resuming.owe(call);
      call.restore(kept, journal.aliveAtMs ?? kept.started_at_ms);
      if (call.ended) {
        // Not before it is known that they are this device's.
        this.#requests.hold(call);
        this.#heldEnds.push(call);
      } else leftOver.push(call);
    }
    this.leftOver = leftOver;
  }

  #alive(): void {
    if (this.#journal === null) return;
    if ([...this.#calls].some((call) => !call.ended)) this.#journal.alive(this.#clock.wallMs());
  }

  readonly #onPageHide = (): void => this.#alive();

  // Calls

  #newCall(to: string, channel: string | null, callId: string | undefined, emergency: boolean): Call {
    const chosen = callId ?? `call-${randomId()}`;
    if (to.length + (channel ?? "").length + chosen.length > LONGEST_TEXTS)
      throw new CallgateError("too_large", `A request has at most ${LONGEST_TEXTS} characters.`);
    return new Call(chosen, to, channel, emergency, this.#around);
  }

  #admitted(call: Call): void {
    this.#calls.add(call);
    if (!this.#link.greeted && !this.#closing) this.#resuming.owe(call);
  }

  /** See to it that a start nobody waits for any more leaves no call in progress. */
  #giveUp(call: Call, request: Request): void {
    if (!request.sent) call.forget();
    if (request.outcome === null) this.#requests.withdraw(request);
    else if (
      request.outcome instanceof CallgateError ||
      (request.outcome as CallAdmitted).type !== "call.admitted"
    )
      return;
    if (request.sent) {
      this.#calls.add(call);
      void call.end();
    }
  }

  async #answer<Kind extends Pong | AuthRefreshed>(request: Request, what: string): Promise<Kind> {
    try {
      return await request.answer<Kind>(this.#timing.answerMs, what);
    } catch (error) {
      this.#requests.withdraw(request);
      throw error;
    }
  }
}

function randomId(): string {
  // `crypto.randomUUID` is there only on https and on loopback.
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
