import type { Call } from "./call.js";
import type { Clock } from "./clock.js";
import { tellOfFault } from "./emitter.js";
import { CallgateError } from "./errors.js";
import type { Request, Requests } from "./requests.js";
import type { CallResumed } from "./wire.js";

/** What an application says of a call of which the phone does not know whether its media are up. */
export type StillUp = (call: Call) => boolean | Promise<boolean>;

/**
 * The calls that are to be resumed before anything else is said of them.
 *
 * One that the phone knows to be up it resumes by itself. One in doubt waits for what the application says; if
 * it says no, or nobody is there to be asked, the call ended when it was last known up.
 *
 * @internal
 */
export class Resuming {
  #welcomed = false;
  #stopped = false;
  readonly #owed = new Map<Call, Request | null>();
  readonly #asked = new Map<Call, object>();

  constructor(
    private readonly requests: Requests,
    private readonly clock: Clock,
    private readonly stillUp: StillUp | null,
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
    } else if (this.stillUp === null) call.endAsOf(call.inDoubtSinceMs);
    else if (!this.#asked.has(call)) void this.#ask(call, this.stillUp);
  }

  #free(call: Call): void {
    this.#owed.delete(call);
    this.requests.free(call);
  }

  async #ask(call: Call, stillUp: StillUp): Promise<void> {
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
