/**
 * What a phone has asked and has no answer to yet, over however many connections it takes.
 *
 * A request is made into a frame anew each time it is sent, for how long ago something was is counted up to
 * its sending. Asking again is safe: a start or an end asked twice is asked once (R9, R17).
 */

import { Backoff } from "./backoff.js";
import { CallgateError, Ended, PASSING } from "./errors.js";
import type { Timing } from "./timing.js";
import type { Answer, ErrorFrame } from "./wire.js";

/** @internal */
export type Outcome = Answer | CallgateError;

export interface Asking {
  /** Makes the frame from its id. */
  readonly make: (id: number) => object;
  /** What it is about, if that can be held. */
  readonly of?: object;
  /** It is not held with what it is about. */
  readonly ahead?: boolean;
  /** It is sent once this one is waited for no more. */
  readonly after?: Request | null;
  /** Told of the error it was answered with; true if it is to be asked again after all. */
  readonly recover?: (error: CallgateError) => boolean;
}

/** One request. @internal */
export class Request {
  sent = false;
  /** Its answer, or the error it was answered with. */
  outcome: Outcome | null = null;
  withdrawn = false;
  failedWith: CallgateError | null = null;
  retry: ReturnType<typeof setTimeout> | undefined;
  readonly attempts: Backoff;
  readonly #done: ((outcome: Outcome) => void)[] = [];
  readonly #over: (() => void)[] = [];

  constructor(
    readonly id: number,
    readonly asking: Asking,
    timing: Timing,
  ) {
    this.attempts = new Backoff(timing.backoffMs, timing.backoffMostMs);
  }

  /** Whether the error is none of a gateway's, but why the phone asks no more. */
  get ended(): boolean {
    return this.outcome instanceof Ended;
  }

  /** Be told of the outcome: in the order of asking for it, before anything else is heard. */
  whenDone(done: (outcome: Outcome) => void): void {
    if (this.outcome !== null) done(this.outcome);
    else this.#done.push(done);
  }

  /** Be told when it is waited for no more: it has its outcome, or was withdrawn. */
  whenOver(over: () => void): void {
    if (this.outcome !== null || this.withdrawn) over();
    else this.#over.push(over);
  }

  settle(outcome: Outcome): void {
    if (this.outcome !== null || this.withdrawn) return;
    this.outcome = outcome;
    for (const done of this.#done) done(outcome);
    for (const over of this.#over) over();
  }

  withdraw(): void {
    if (this.outcome !== null || this.withdrawn) return;
    this.withdrawn = true;
    clearTimeout(this.retry);
    for (const over of this.#over) over();
  }

  /** The answer; after so many ms throws what the gateway last said of it, or `no_answer`. */
  answer<Kind extends Answer>(withinMs: number, what: string, signal?: AbortSignal): Promise<Kind> {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        const seconds = withinMs / 1000;
        reject(
          this.failedWith ??
            new CallgateError("no_answer", `There was no answer to ${what} within ${seconds} s.`),
        );
      }, withinMs);
      const abort = () => {
        clearTimeout(timer);
        reject(signal?.reason);
      };
      if (signal?.aborted) {
        abort();
        return;
      }
      signal?.addEventListener("abort", abort, { once: true });
      this.whenDone((outcome) => {
        clearTimeout(timer);
        signal?.removeEventListener("abort", abort);
        if (outcome instanceof CallgateError) reject(outcome);
        else resolve(outcome as Kind);
      });
    });
  }
}

/** A phone's unanswered requests, the oldest first. What passes by itself is asked again here. @internal */
export class Requests {
  #next = 1;
  #send: ((frame: object) => boolean) | null = null;
  #ended: Ended | null = null;
  readonly #released = new Map<number, Request>();
  readonly #held = new Set<object>();

  constructor(private readonly timing: Timing) {}

  ask(asking: Asking): Request {
    const request = new Request(this.#next++, asking, this.timing);
    if (asking.after) asking.after.whenOver(() => this.#release(request));
    else this.#release(request);
    return request;
  }

  /** Send nothing that is asked of this, but for what goes ahead. */
  hold(of: object): void {
    this.#held.add(of);
  }

  /** Send what was held, in the order it was asked. */
  free(of: object): void {
    if (!this.#held.delete(of)) return;
    for (const request of [...this.#released.values()])
      if (request.asking.of === of && request.retry === undefined) this.#sendOne(request);
  }

  /** Ask this no more. Whether it was carried out is unknown if it was `sent`. */
  withdraw(request: Request): void {
    this.#released.delete(request.id);
    request.withdraw();
  }

  /** Send what has no answer, in the order it was asked, over this connection from now on. */
  attach(send: (frame: object) => boolean): void {
    this.#send = send;
    for (const request of [...this.#released.values()]) {
      clearTimeout(request.retry);
      request.retry = undefined;
      this.#sendOne(request);
    }
  }

  detach(): void {
    this.#send = null;
  }

  /** Give an answer to the request that it answers, if that is still wanted. */
  take(heard: Answer | ErrorFrame): void {
    const request = typeof heard.re === "number" ? this.#released.get(heard.re) : undefined;
    if (request === undefined) return;
    if (heard.type !== "error") {
      this.#settle(request, heard);
      return;
    }
    const error = new CallgateError(heard.code, heard.message);
    if (PASSING.has(heard.code)) {
      request.failedWith = error;
      request.retry = setTimeout(() => {
        request.retry = undefined;
        this.#sendOne(request);
      }, request.attempts.next());
    } else if (request.asking.recover?.(error)) this.#sendOne(request);
    else this.#settle(request, error);
  }

  /** Fail everything that has no answer, and whatever is asked from now on. */
  end(error: Ended): void {
    this.#ended = error;
    this.#send = null;
    for (const request of [...this.#released.values()]) {
      clearTimeout(request.retry);
      this.#settle(request, error);
    }
  }

  #release(request: Request): void {
    if (request.withdrawn) return;
    if (this.#ended !== null) {
      request.settle(this.#ended);
      return;
    }
    this.#released.set(request.id, request);
    this.#sendOne(request);
  }

  #settle(request: Request, outcome: Outcome): void {
    this.#released.delete(request.id);
    request.settle(outcome);
  }

  #sendOne(request: Request): void {
    const { of, ahead, make } = request.asking;
    if (this.#send === null || (of !== undefined && !ahead && this.#held.has(of))) return;
    if (this.#send(make(request.id))) request.sent = true;
  }
}
