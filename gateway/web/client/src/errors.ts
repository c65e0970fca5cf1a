/** What goes wrong: the gateway's own errors by their `code`, and a few that only a client meets. */

/** An error with a stable `code`: a gateway's (docs/http.md, Errors), or `no_answer`, `gateway_unreachable`, … */
export class CallgateError extends Error {
  constructor(
    readonly code: string,
    message: string,
  ) {
    super(message);
    this.name = new.target.name;
  }
}

/** The call may not be placed (R8). It changed nothing, and may be asked for again. */
export class CallRefused extends CallgateError {
  constructor(
    readonly reason: string,
    message: string,
    readonly remainingSeconds: number,
  ) {
    super("call_refused", message);
  }
}

/** Nothing connects any more by itself. `code` says why. */
export class Ended extends CallgateError {}

/** The gateway does not take the token: it is wrong, expired or revoked (401, 4401), and there is no other. */
export class TokenRefused extends Ended {
  constructor(message = "The gateway does not take this token: it is wrong, expired or revoked.") {
    super("token_refused", message);
  }
}

/** The token does not allow this (403). */
export class Forbidden extends Ended {
  constructor(message = "This token does not allow that.") {
    super("forbidden", message);
  }
}

/** The staff member was removed from the account (4403). */
export class StaffRemoved extends Ended {
  constructor() {
    super("staff_removed", "The staff member was removed from the account.");
  }
}

/** The same device connected again, somewhere else (4409). */
export class Replaced extends Ended {
  constructor() {
    super("replaced", "This device has connected from elsewhere, which ended this connection.");
  }
}

/** It was closed. */
export class Closed extends Ended {
  constructor() {
    super("closed", "This connection was closed.");
  }
}

/** What passes by itself: ask again, with the same call id. @internal */
export const PASSING: ReadonlySet<string> = new Set([
  "engine_unavailable",
  "database_unavailable",
  "too_fast",
  "going_away",
]);
