import { type Address, parseAddress } from "./addresses.js";
import { Call, type Surroundings } from "./call.js";
import { Clock } from "./clock.js";
import { EMERGENCY_NUMBERS, isEmergency } from "./emergency.js";
import { Emitter, tellOfFault } from "./emitter.js";
import { CallgateError, CallRefused, Ended } from "./errors.js";
import { Journal, type KeptStorage } from "./journal.js";
import { Link } from "./link.js";
import { type Request, Requests } from "./requests.js";
import { PHONE_TIMING, type Timing } from "./timing.js";
import { type TokenSource, Tokens } from "./tokens.js";
import type {
  AuthRefreshed,
  CallAdmitted,
  CallResumed,
  Heard,
  Notice,
  Pong,
  PoolCall,
  Welcome,
} from "./wire.js";

/** However JSON escapes so many characters, a frame of them is none that is too large (64 KiB). */
const LONGEST_TEXTS = 8192;
const LOOK_MS = 1000;
/** However short the grace: a page that was only busy for a moment did not sleep. */
const SHORTEST_SLEEP_MS = 2000;
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
  readonly stillUp?: (call: Call) => boolean | Promise<boolean>;
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

/**
 * The calls that are to be resumed before anything else is said of them.
 *
 * One that the phone knows to be up it resumes by itself. One in doubt waits for what the application says; if
 * it says no, or nobody is there to be asked, the call ended when it was last known up.
 */
class Resuming {
  #welcomed = false;
  #stopped = false;
  readonly #owed = new Map<Call, Request | null>();
  readonly #asked = new Map<Call, object>();

  constructor(
    private readonly requests: Requests,
    private readonly clock: Clock,
    private readonly stillUp: SoftphoneOptions["stillUp"] | null,
  ) {}

  /** Have a call resumed: at once, or with the next welcome. */
  owe(call: Call): void {
    if (!this.#owed.has(call)) {
      this.#owed.set(call, null);
      this.requests.hold(call);
    }
    if (this.#welcomed) this.#goOn(call);
  }

  welcomed(awaySinceMs: number | null): void {
    this.#welcomed = true;
    for (const call of [...this.#owed.keys()]) {
      if (awaySinceMs !== null && call.inDoubtSinceMs === null && !call.ended) call.doubt(awaySinceMs);
      this.#goOn(call);
    }
  }

  /** Nobody vouches for these any more, as the connection is gone. */
  lost(calls: Iterable<Call>): void {
    this.#welcomed = false;
    for (const [call, request] of [...this.#owed]) {
      if (request !== null) {
        this.#owed.set(call, null);
        this.requests.withdraw(request);
      }
      if (call.ended) this.#free(call);
    }
    for (const call of [...calls]) {
      call.connectionLost();
      if (call.admission !== null && !call.ended) this.owe(call);
    }
  }

  /** The end of a call needs no resume any more. (One under way is waited for.) */
  hungUp(call: Call): void {
    this.#asked.delete(call);
    if (this.#owed.get(call) === null) this.#free(call);
  }

  /** The application's word that a call is up. */
  vouch(call: Call): void {
    this.#asked.delete(call);
    if (call.inDoubtSinceMs !== null) call.doubt(null);
    this.owe(call);
  }

  stop(): void {
    this.#stopped = true;
    this.#asked.clear();
  }

  #goOn(call: Call): void {
    if (call.ended) this.#resume(call);
    else if (call.inDoubtSinceMs === null) {
      if (call.admission !== null) this.#resume(call);
      // An emergency that no gateway has heard of: it is asked for.
      else this.#free(call);
    } else if (this.stillUp === null || this.stillUp === undefined) call.endAsOf(call.inDoubtSinceMs);
    else if (!this.#asked.has(call)) void this.#ask(call, this.stillUp);
  }

  #free(call: Call): void {
    this.#owed.delete(call);
    this.requests.free(call);
  }

  async #ask(call: Call, stillUp: NonNullable<SoftphoneOptions["stillUp"]>): Promise<void> {
    const asking = {};
    this.#asked.set(call, asking);
    let isUp = false;
    try {
      isUp = await stillUp(call);
    } catch (error) {
      tellOfFault(error); // the application's fault; nobody vouches for the call
    }
    if (this.#stopped || this.#asked.get(call) !== asking) return;
    if (isUp) this.vouch(call);
    else void call.end();
  }

  #resume(call: Call): void {
    if (this.#owed.get(call) !== null) return;
    const request = call.askResume();
    this.#owed.set(call, request);
    request.whenDone((outcome) => {
      if (this.#owed.get(call) !== request || request.ended) return;
      if (!(outcome instanceof CallgateError)) call.resumed(outcome as CallResumed);
      else if (outcome.code === "call_id_conflict") call.leaveAlone();
      else if (outcome.code === "call_id_used" || outcome.code === "call_unknown") {
        // Settled for good, or nothing to make it again from: its end gives what it came to (R17).
        call.resumeFailed();
        if (!call.ended) call.endAsOf(this.clock.elapsedMs());
      }
      this.#free(call);
    });
  }
}

function randomId(): string {
  // `crypto.randomUUID` is there only on https and on loopback.
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
