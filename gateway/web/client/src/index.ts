/**
 * callgate.js: softphones and live dashboards of a Callgate gateway, in a browser.
 *
 * Instants ending in `_ms` are billing time, unless said otherwise.
 */

export { billedSeconds, durationMs } from "./billing.js";
export { type Admission, Call, type Settlement } from "./call.js";
export {
  accountOf,
  Dashboard,
  type DashboardEvents,
  type DashboardOptions,
  type DashboardState,
} from "./dashboard.js";
export { EMERGENCY_NUMBERS, isEmergency } from "./emergency.js";
export {
  CallgateError,
  CallRefused,
  Closed,
  Ended,
  Forbidden,
  Replaced,
  StaffRemoved,
  TokenRefused,
} from "./errors.js";
export type { KeptStorage } from "./journal.js";
export { LiveUse } from "./live-use.js";
export { Softphone, type SoftphoneEvents, type SoftphoneOptions, type StartOptions } from "./softphone.js";
export { DASHBOARD_TIMING, PHONE_TIMING, type Timing } from "./timing.js";
export type { TokenSource } from "./tokens.js";
export type { Notice, Policy, Pool, PoolCall, Threshold, Welcome } from "./wire.js";
