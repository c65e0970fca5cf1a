import type { Clock } from "./clock.js";
import { CallgateError } from "./errors.js";
import type { Journal, KeptCall } from "./journal.js";
import type { Asking, Outcome, Request, Requests } from "./requests.js";
import type { Timing } from "./timing.js";
import type { CallResumed, CallSettled } from "./wire.js";

/** A gateway that takes a receipt and then knows no call is not asked for ever on one connection. */
const MOST_RECEIPT_USES = 3;

/** What a call came to (R17). `remainingSeconds` is what the pool has left now; null if not known. */
export interface Settlement {
  readonly callId: string;
  readonly durationMs: number;
  readonly billedSeconds: number;
  readonly counted: boolean;
  readonly endedBy: "hangup" | "connection_lost" | "lease_expired";
  readonly revision: number;
  readonly replayed: boolean;
  readonly remainingSeconds: number | null;
}

/** When a call was admitted (billing time), and what the pool had left then; null where that is not known. */
export interface Admission {
  readonly admittedAtMs: number;
  readonly remainingSeconds: number | null;
  readonly replayed: boolean;
  /** Let through while the engine was away. */
  readonly offline: boolean;
}

/** What the calls of one phone share. @internal */
export interface Surroundings {
  readonly requests: Requests;
  readonly timing: Timing;
  readonly clock: Clock;
  readonly journal: () => Journal | null;
  /** Told that a gateway admitted a call. */
  readonly admitted: (call: Call) => void;
  /** Told that no more is to be said of a call. */
  readonly over: (call: Call) => void;
  /** Told that a call ended. */
  readonly hungUp: (call: Call) => void;
  /** Has a call made again from its receipt, before anything else is said of it. */
  readonly bringBack: (call: Call) => void;
}

/**
 * A call that may be placed: admitted, or an emergency, which asks for no permission (R30).
 *
 * Nothing here waits for the gateway unless it is awaited, so that the network never holds up the media. What
 * is told of the call, `answered` and `end`, is kept until a gateway has it, over reconnects too.
 */
export class Call {
  admission: Admission | null = null;
  settlement: Settlement | null = null;
  /** With it the call can be resumed even where the live state was lost (R28). Opaque. */
  receipt: string | null = null;
  /** Whether a newer connection of this device goes on with it, so that this phone leaves it alone. */
  elsewhere = false;
  /** When it was last known up (`Clock.elapsedMs`), if that is not known now (R15). @internal */
  inDoubtSinceMs: number | null = null;

  readonly #around: Surroundings;
  #callId: string;
  #emergency: boolean;
  #kept: KeptCall | null = null;
  #start: Request | null = null;
  #last: Request | null = null;
  #end: Request | null = null;
  #forgotten = false;
  #receiptFailed = false;
  #receiptUses = 0;
  #resolveOver!: () => void;
  /** Resolves when it has ended (whoever said so), or goes on elsewhere. */
  readonly over: Promise<void>;

  /** @internal */
  constructor(
    callId: string,
    readonly to: string,
    readonly channel: string | null,
    emergency: boolean,
    around: Surroundings,
  ) {
    this.#callId = callId;
    this.#emergency = emergency;
    this.#around = around;
    this.over = new Promise((resolve) => {
      this.#resolveOver = resolve;
    });
  }

  /** Its id. The gateway may give an emergency call another, if that one was taken (R30). */
  get callId(): string {
    return this.#callId;
  }

  get emergency(): boolean {
    return this.#emergency;
  }

  /** Whether it was hung up: by `end`, or by the phone, as of when it was last known up (R15). */
  get ended(): boolean {
    return this.#end !== null;
  }

  /** The gateway's word that it is admitted: only an emergency call is up before that. */
  async admitted(): Promise<Admission> {
    if (this.admission === null && this.#start !== null)
      await this.#start.answer(this.#around.timing.answerMs, `the start of ${this.callId}`);
    if (this.admission === null) throw new CallgateError("no_answer", "This call was not admitted.");
    return this.admission;
  }

  /**
   * Say that the other side answered, now (R3).
   *
   * It is told whether the result is awaited or not; awaited it throws what the gateway answers.
   */
  answered(): Promise<void> {
    const request = this.answeredAsOf(this.#around.clock.elapsedMs());
    return quietly(
      request.answer(this.#around.timing.answerMs, `the answering of ${this.callId}`).then(() => {}),
    );
  }

  /**
   * Hang up: the call ended now (R16). The result is what it came to.
   *
   * It is told whether the result is awaited or not, until a gateway has settled it; asked again, the
   * settlement is the same (R17). A call that is not known to be up ended when it last was (R15).
   */
  end(): Promise<Settlement> {
    const request = this.endAsOf(this.inDoubtSinceMs ?? this.#around.clock.elapsedMs());
    return quietly(
      request
        .answer<CallSettled>(this.#around.timing.answerMs, `the end of ${this.callId}`)
        .then(settlementOf),
    );
  }

  // For the phone alone

  /** @internal */
  answeredAsOf(atMs: number): Request {
    const clock = this.#around.clock;
    this.keep({ answered_at_ms: clock.wallAt(atMs) });
    return this.#tell((id) => ({
      type: "call.answered",
      id,
      call_id: this.callId,
      answered_ago_ms: agoMs(clock, atMs),
    }));
  }

  /** @internal */
  endAsOf(atMs: number): Request {
    if (this.#end === null) {
      const clock = this.#around.clock;
      this.keep({ ended_at_ms: clock.wallAt(atMs) });
      const end = this.#tell((id) => ({
        type: "call.end",
        id,
        call_id: this.callId,
        ended_ago_ms: agoMs(clock, atMs),
      }));
      this.#end = end;
      end.whenDone((outcome) => {
        if (!(outcome instanceof CallgateError)) this.settlement = settlementOf(outcome as CallSettled);
        if (!end.ended) this.forget();
      });
      this.#resolveOver();
      this.#around.hungUp(this);
    }
    return this.#end;
  }

  /** @internal */
  askStart(): Request {
    this.keep({});
    const start = this.#around.requests.ask({
      make: (id) => ({ type: "call.start", id, call_id: this.callId, to: this.to, channel: this.channel }),
      of: this,
    });
    this.#start = this.#last = start;
    start.whenDone((outcome) => this.#started(start, outcome));
    return start;
  }

  /** Vouch for it on this connection (R13), ahead of what else there is to be said of it. @internal */
  askResume(): Request {
    return this.#around.requests.ask({
      make: (id) => ({
        type: "call.resume",
        id,
        call_id: this.callId,
        ...(this.receipt === null ? {} : { receipt: this.receipt }),
      }),
      of: this,
      ahead: true,
    });
  }

  /** @internal */
  resumed(answer: CallResumed): void {
    this.admission ??= admissionOf(answer.admitted_at_ms);
    if (answer.receipt !== undefined && answer.receipt !== this.receipt) {
      this.receipt = answer.receipt;
      this.keep({ receipt: answer.receipt, admitted_at_ms: answer.admitted_at_ms });
    }
  }

  /** No gateway knows it or takes its receipt. @internal */
  resumeFailed(): void {
    this.#receiptFailed = true;
  }

  /** Whoever knew it a moment ago need not know it any more. @internal */
  connectionLost(): void {
    this.#receiptUses = 0;
  }

  /** A newer connection goes on with it. @internal */
  leaveAlone(): void {
    this.elsewhere = true;
    this.#resolveOver();
    this.forget();
  }

  /** It is not known whether it is up, since when; or it is. @internal */
  doubt(sinceMs: number | null): void {
    this.inDoubtSinceMs = sinceMs;
    this.keep({ doubtful_since_ms: sinceMs === null ? null : this.#around.clock.wallAt(sinceMs) });
  }

  /** Take up what an earlier page kept of it; that was alive last then (times of day). @internal */
  restore(kept: KeptCall, lastAliveMs: number): void {
    this.#kept = kept;
    const clock = this.#around.clock;
    this.receipt = kept.receipt ?? null;
    if (kept.admitted_at_ms !== undefined) this.admission = admissionOf(kept.admitted_at_ms);
    else if (kept.emergency && kept.ended_at_ms === undefined) this.askStart();
    if (kept.ended_at_ms === undefined) this.doubt(clock.elapsedAt(kept.doubtful_since_ms ?? lastAliveMs));
    // Perhaps once more, which changes nothing.
    if (kept.answered_at_ms !== undefined) this.answeredAsOf(clock.elapsedAt(kept.answered_at_ms));
    if (kept.ended_at_ms !== undefined) this.endAsOf(clock.elapsedAt(kept.ended_at_ms));
    else if (this.admission === null && !kept.emergency)
      // Nobody was told that it may be placed.
      this.endAsOf(clock.elapsedAt(kept.started_at_ms));
  }

  /** Keep it in the journal, if there is one. @internal */
  keep(changes: Partial<KeptCall>): void {
    const journal = this.#around.journal();
    if (journal === null || this.#forgotten) return;
    this.#kept ??= {
      key: journal.newKey(),
      call_id: this.callId,
      to: this.to,
      channel: this.channel,
      emergency: this.emergency,
      started_at_ms: this.#around.clock.wallMs(),
    };
    this.#kept = { ...this.#kept, ...changes };
    journal.keep(this.#kept);
  }

  /** Let it be: nothing more is to be said of it. @internal */
  forget(): void {
    this.#forgotten = true;
    if (this.#kept !== null) this.#around.journal()?.over(this.#kept.key);
    this.#around.over(this);
  }

  // Answers

  #started(start: Request, outcome: Outcome): void {
    if (!(outcome instanceof CallgateError) && outcome.type === "call.admitted") {
      this.#callId = outcome.call_id;
      this.#emergency = outcome.emergency ?? false;
      this.receipt = outcome.receipt ?? null;
      this.admission = {
        admittedAtMs: outcome.admitted_at_ms,
        remainingSeconds: outcome.remaining_seconds,
        replayed: outcome.replayed,
        offline: outcome.admitted_offline ?? false,
      };
      this.keep({
        call_id: this.#callId,
        emergency: this.#emergency,
        admitted_at_ms: outcome.admitted_at_ms,
        ...(this.receipt === null ? {} : { receipt: this.receipt }),
      });
      this.#around.admitted(this);
    } else if (!this.emergency && !start.ended) this.forget();
  }

  #tell(make: Asking["make"]): Request {
    // One after the other: an answer that were told after the end would come too late for the record.
    this.#last = this.#around.requests.ask({
      make,
      after: this.#last,
      of: this,
      recover: (error) => this.#recover(error),
    });
    return this.#last;
  }

  /** Whether a call that nobody knows can be made again from its receipt, to say that of it (R28). */
  #recover(error: CallgateError): boolean {
    if (error.code !== "call_unknown" || this.receipt === null || this.#receiptFailed) return false;
    if (this.#receiptUses >= MOST_RECEIPT_USES) return false;
    this.#receiptUses += 1;
    this.#around.bringBack(this);
    return true;
  }
}

function agoMs(clock: Clock, atMs: number): number {
  return Math.max(0, Math.round(clock.elapsedMs() - atMs));
}

function admissionOf(admittedAtMs: number): Admission {
  return { admittedAtMs, remainingSeconds: null, replayed: true, offline: false };
}

function settlementOf(answer: CallSettled): Settlement {
  return {
    callId: answer.call_id,
    durationMs: answer.duration_ms,
    billedSeconds: answer.billed_seconds,
    counted: answer.counted,
    endedBy: answer.ended_by,
    revision: answer.revision,
    replayed: answer.replayed,
    remainingSeconds: answer.remaining_seconds,
  };
}

/** A result that nobody awaits is no unhandled rejection. */
function quietly<T>(result: Promise<T>): Promise<T> {
  result.catch(() => {});
  return result;
}
