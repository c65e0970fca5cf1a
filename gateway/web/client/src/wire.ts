/** What goes over the WebSockets, as TypeScript sees it. Unknown fields and types are passed over. */

/** How a call's length becomes billed seconds (R1-R3), and what a call in progress holds (R7). */
export interface Policy {
  readonly free_seconds: number;
  readonly increment_seconds: number;
  readonly hold_seconds: number;
  readonly count_from: "admission" | "answer";
}

/** A call in progress, as the pool shows it. `counts` is false for one of an older cycle, and an emergency. */
export interface PoolCall {
  readonly call_id: string;
  readonly staff: string;
  readonly device: string;
  readonly channel: string | null;
  readonly to: string;
  readonly admitted_at_ms: number;
  readonly answered_at_ms: number | null;
  readonly counts: boolean;
  readonly emergency: boolean;
}

/** A share of the allocation that live use has passed in this cycle (R29). */
export interface Threshold {
  readonly percent: number;
  readonly at_ms: number;
}

/** An account's pool at the instant `at_ms` (billing time). */
export interface Pool {
  readonly account: string;
  readonly version: number;
  readonly at_ms: number;
  readonly clock_speed: number;
  readonly plan: string | null;
  readonly pending_plan: string | null;
  readonly cycle: { readonly start: string; readonly end: string };
  readonly policy: Policy;
  readonly allocated_seconds: number;
  readonly settled_seconds: number;
  readonly used_seconds: number;
  readonly remaining_seconds: number;
  readonly overrun_seconds: number;
  readonly held_seconds: number;
  readonly calls_in_progress: number;
  readonly calls: readonly PoolCall[];
  readonly thresholds: readonly Threshold[];
  readonly empty_at_ms: number | null;
  readonly seats: { readonly used: number; readonly limit: number };
  readonly channels: { readonly used: number; readonly limit: number };
}

/** Something nobody asked for. A newer gateway may know other kinds. */
export interface Notice {
  readonly type: "notice";
  readonly kind: string;
  readonly message?: string;
  readonly percent?: number;
}

/** The first frame a device hears. Without its engine a gateway knows neither what is left nor its calls. */
export interface Welcome {
  readonly type: "welcome";
  readonly account: string;
  readonly staff: string;
  readonly device: string;
  readonly server_time_ms: number;
  readonly grace_seconds: number;
  readonly remaining_seconds: number | null;
  readonly calls: readonly PoolCall[];
}

/** @internal */
export interface CallAdmitted {
  readonly type: "call.admitted";
  readonly re: number;
  readonly call_id: string;
  readonly admitted_at_ms: number;
  readonly remaining_seconds: number | null;
  readonly receipt?: string;
  readonly replayed: boolean;
  readonly emergency?: boolean;
  readonly admitted_offline?: boolean;
}

/** @internal */
export interface CallRefused {
  readonly type: "call.refused";
  readonly re: number;
  readonly call_id: string;
  readonly reason: string;
  readonly message: string;
  readonly remaining_seconds: number;
}

/** @internal */
export interface CallNoted {
  readonly type: "call.noted";
  readonly re: number;
  readonly call_id: string;
}

/** @internal */
export interface CallSettled {
  readonly type: "call.settled";
  readonly re: number;
  readonly call_id: string;
  readonly duration_ms: number;
  readonly billed_seconds: number;
  readonly counted: boolean;
  readonly ended_by: "hangup" | "connection_lost" | "lease_expired";
  readonly revision: number;
  readonly replayed: boolean;
  readonly remaining_seconds: number | null;
}

/** @internal */
export interface CallResumed {
  readonly type: "call.resumed";
  readonly re: number;
  readonly call_id: string;
  readonly admitted_at_ms: number;
  readonly receipt?: string;
}

/** @internal */
export interface AuthRefreshed {
  readonly type: "auth.refreshed";
  readonly re: number;
  readonly expires_at_ms: number;
}

/** @internal */
export interface Pong {
  readonly type: "pong";
  readonly re: number | string;
  readonly server_time_ms: number;
}

/** @internal */
export interface ErrorFrame {
  readonly type: "error";
  readonly re: number | null;
  readonly code: string;
  readonly message: string;
  readonly errors?: readonly { readonly field: string; readonly message: string }[];
}

/** @internal */
export type Answer =
  | CallAdmitted
  | CallRefused
  | CallNoted
  | CallSettled
  | CallResumed
  | AuthRefreshed
  | Pong;
/** @internal */
export type Heard = Welcome | Answer | ErrorFrame | Notice | ({ readonly type: "pool" } & Pool);

/** @internal Read a frame; null for what is none. */
export function decode(data: unknown): Heard | null {
  if (typeof data !== "string") return null;
  try {
    const frame: unknown = JSON.parse(data);
    return typeof frame === "object" && frame !== null && "type" in frame ? (frame as Heard) : null;
  } catch {
    return null;
  }
}
