/** The parts of an account's page, each a function of what is known to what is shown. */

import type { DashboardState, LiveUse, Notice, PoolCall } from "callgate";
import { html, nothing, svg, type TemplateResult } from "lit";
import { live as liveValue } from "lit/directives/live.js";
import type { CallRecord, PlanSummary, Profile, Statement } from "./api.js";
import { paceOf } from "./forecast.js";
import { clock, count, type Dates, percent, plural, span, spoken } from "./format.js";

export interface Shown {
  readonly use: LiveUse;
  readonly nowMs: number;
  readonly profile: Profile | null;
  readonly dates: Dates;
}

const MARKS = [50, 80, 100];

/** The state of an allocation: `none`, `ok`, `low` (80 % and more), `out`. */
export function levelOf(use: LiveUse, atMs: number): "none" | "ok" | "low" | "out" {
  const allocated = use.pool.allocated_seconds;
  const used = use.usedSeconds(atMs);
  if (allocated === 0) return "none";
  if (used >= allocated) return "out";
  return used * 100 >= allocated * 80 ? "low" : "ok";
}

export function figuresView({ use, nowMs, dates }: Shown): TemplateResult {
  const allocated = use.pool.allocated_seconds;
  const used = use.usedSeconds(nowMs);
  const remaining = use.remainingSeconds(nowMs);
  const overrun = use.overrunSeconds(nowMs);
  const share = percent(used, allocated);
  const figure = (id: string, label: string, seconds: number, note: string | typeof nothing = nothing) =>
    html`<div class="figure" id=${id}>
      <dt>${label}</dt>
      <dd>
        <span class="number" data-seconds=${seconds} aria-hidden="true">${clock(seconds)}</span>
        <span class="visually-hidden">${spoken(seconds)}</span>
        <span class="unit" aria-hidden="true">min</span>
        ${note === nothing ? nothing : html`<span class="note">${note}</span>`}
      </dd>
    </div>`;
  return html`<section class="card hero" data-level=${levelOf(use, nowMs)} aria-labelledby="minutes-title">
    <h2 id="minutes-title" class="visually-hidden">Minutes of this billing cycle</h2>
    <dl class="figures">
      ${figure("allocated", "Time Allocated", allocated)} ${figure("used", "Currently Used", used)}
      ${figure(
        "remaining",
        "Time Remaining",
        remaining,
        overrun > 0 ? `${clock(overrun)} min beyond the plan` : nothing,
      )}
    </dl>
    <div
      class="gauge"
      role="meter"
      aria-label="Used of the allocation"
      aria-valuemin="0"
      aria-valuemax="100"
      aria-valuenow=${Math.min(100, share)}
      aria-valuetext=${`${share} % used`}
    >
      ${gaugeView(share)}
    </div>
    <ol class="marks" aria-label="Marks passed in this cycle">
      ${MARKS.map((mark) => {
        const passed = use.pool.thresholds.find((each) => each.percent === mark);
        return html`<li data-percent=${mark} ?data-passed=${passed !== undefined}>
          <span>${mark} %</span>
          <small class=${passed === undefined ? "visually-hidden" : ""}
            >${passed === undefined ? "not passed" : `passed ${dates.moment(passed.at_ms, nowMs)}`}</small
          >
        </li>`;
      })}
    </ol>
  </section>`;
}

function gaugeView(share: number): TemplateResult {
  const filled = Math.min(1000, share * 10);
  return html`<svg viewBox="0 0 1000 24" preserveAspectRatio="none" aria-hidden="true" focusable="false">
    <rect class="track" x="0" y="4" width="1000" height="16" />
    <rect class="fill" x="0" y="4" width=${filled} height="16" />
    ${MARKS.map((mark) => svg`<rect class="mark" x=${mark * 10 - (mark === 100 ? 4 : 2)} y="0" width="4" height="24" />`)}
  </svg>`;
}

/** What having none left means. */
export function exhaustedView({ use, nowMs, dates, profile }: Shown): TemplateResult | typeof nothing {
  const level = levelOf(use, nowMs);
  if (profile?.status === "suspended")
    return bannerView(
      "suspended",
      "This account is suspended.",
      "No new calls can be placed. Calls in progress go on.",
    );
  if (level === "none")
    return bannerView(
      "none",
      use.pool.plan === null ? "There is no plan yet." : "This plan has no calling minutes.",
      "Calls can be placed once the account moves to a plan with minutes.",
    );
  if (level !== "out") return nothing;
  const running = use.pool.calls_in_progress;
  const goesOn =
    running === 0
      ? "Calls already in progress would have gone on as long as they like."
      : `${running === 1 ? "The call" : `The ${count(running)} calls`} in progress ${running === 1 ? "goes" : "go"} on as long as you like.`;
  return bannerView(
    "out",
    "All minutes of this billing cycle are used.",
    `${goesOn} New calls are refused until you move to a bigger plan, which brings calls back at once, or until ` +
      `the minutes reset on ${dates.day(use.cycleEndMs)}.`,
  );
}

function bannerView(kind: string, title: string, text: string): TemplateResult {
  return html`<section class="banner" data-kind=${kind} aria-label="What this means">
    <p><strong>${title}</strong> ${text}</p>
  </section>`;
}

export function cycleView({ use, nowMs, profile, dates }: Shown): TemplateResult {
  const days = dates.daysLeft(nowMs, use.cycleEndMs);
  const whole = use.cycleEndMs - use.cycleStartMs;
  const passed = Math.round(((nowMs - use.cycleStartMs) * 100) / whole);
  return html`<section class="card" aria-labelledby="cycle-title">
    <h2 id="cycle-title">Billing cycle</h2>
    <p class="strong" id="cycle-dates">${dates.cycle(use.cycleStartMs, use.cycleEndMs)}</p>
    <progress max="100" value=${passed} aria-label="How much of the cycle has passed"></progress>
    <p>
      <span id="days-left">${days === 1 ? "Last day" : `${days} days left`}</span>, minutes reset on
      ${dates.day(use.cycleEndMs)}.
    </p>
    <p class="fine" id="time-zone">
      ${profile === null ? "Dates are in UTC." : `Dates are in the account’s time zone, ${dates.zone}.`}
    </p>
  </section>`;
}

export function planView({ use, profile, dates }: Shown): TemplateResult {
  const named = (plan: PlanSummary | null | undefined, id: string | null) =>
    plan?.plan === id && plan !== null && plan !== undefined
      ? html`<strong>${plan.name}</strong>, ${count(plan.minutes)} minutes a cycle`
      : html`<strong>${id ?? "none"}</strong>`;
  const from = profile?.pending_from ?? use.pool.cycle.end;
  return html`<section class="card" aria-labelledby="plan-title">
    <h2 id="plan-title">Plan</h2>
    <p id="plan">${named(profile?.plan, use.pool.plan)}</p>
    ${
      use.pool.pending_plan === null
        ? nothing
        : html`<p id="pending-plan" class="pending">
            From ${dates.day(Date.parse(from))}: ${named(profile?.pending_plan, use.pool.pending_plan)}
          </p>`
    }
    <dl class="limits">
      ${limitView("seats", "Staff seats", use.pool.seats)}
      ${limitView("channels", "Channels", use.pool.channels)}
    </dl>
  </section>`;
}

function limitView(id: string, label: string, of: { used: number; limit: number }): TemplateResult {
  return html`<div id=${id}>
    <dt>${label}</dt>
    <dd>
      <meter min="0" max=${Math.max(1, of.limit)} value=${of.used} aria-label=${`${label} in use`}></meter>
      ${count(of.used)} of ${count(of.limit)}
    </dd>
  </div>`;
}

export function forecastView({ use, nowMs, profile, dates }: Shown): TemplateResult {
  const allocated = use.pool.allocated_seconds;
  const used = use.usedSeconds(nowMs);
  const pace = paceOf(
    used,
    allocated,
    profile?.created_at_ms ?? use.cycleStartMs,
    nowMs,
    use.cycleStartMs,
    use.cycleEndMs,
  );
  const emptyAtMs = use.pool.empty_at_ms;
  const calls = use.pool.calls.filter((call) => call.counts).length;
  let byPace: string;
  if (allocated === 0) byPace = "There are no minutes to use up.";
  else if (used >= allocated) byPace = "All minutes are used up.";
  else if (pace === null) byPace = used === 0 ? "Nothing was used yet." : "It is too early to say.";
  else if (pace.emptyAtMs !== null)
    byPace = `Used up on ${dates.moment(pace.emptyAtMs, nowMs)}, in ${span(pace.emptyAtMs - nowMs)}.`;
  else
    byPace = `Lasts for the whole cycle: some ${count(Math.round(pace.atEndSeconds / 60))} of ${count(Math.round(allocated / 60))} minutes by its end.`;
  return html`<section class="card" aria-labelledby="forecast-title">
    <h2 id="forecast-title">When it will be used up</h2>
    <dl class="stacked">
      <div>
        <dt>At this cycle’s pace</dt>
        <dd id="by-pace">${byPace}</dd>
      </div>
      <div>
        <dt>By the calls in progress alone</dt>
        <dd id="by-calls" data-empty-at-ms=${emptyAtMs ?? nothing}>
          ${
            calls === 0
              ? "No call is counting."
              : used >= allocated
                ? "Used up; calls in progress go on."
                : emptyAtMs === null
                  ? "Not in this cycle."
                  : `${dates.moment(emptyAtMs, nowMs)}, in ${span(emptyAtMs - nowMs)}, if they go on that long.`
          }
        </dd>
      </div>
    </dl>
  </section>`;
}

export function callsView(shown: Shown): TemplateResult {
  const { use } = shown;
  const all = use.pool.calls_in_progress;
  const listed = use.pool.calls;
  return html`<section class="card wide" aria-labelledby="calls-title">
    <h2 id="calls-title">Calls in progress <span class="badge" id="calls-count">${count(all)}</span></h2>
    ${
      listed.length === 0
        ? html`<p class="empty">No call is in progress.</p>`
        : html`<div class="scrolls" tabindex="0" role="group" aria-labelledby="calls-title">
            <table id="calls">
              <thead>
                <tr>
                  <th scope="col">Who</th>
                  <th scope="col" class="roomy">Device</th>
                  <th scope="col" class="roomy">To</th>
                  <th scope="col" class="roomy">From</th>
                  <th scope="col" class="right">Running</th>
                  <th scope="col">Counts</th>
                </tr>
              </thead>
              <tbody>
                ${listed.map((call) => callView(call, shown))}
              </tbody>
            </table>
          </div>`
    }
    ${
      all > listed.length
        ? html`<p class="fine">The newest ${count(listed.length)} of ${count(all)} are shown.</p>`
        : nothing
    }
  </section>`;
}

function callView(call: PoolCall, { use, nowMs, profile }: Shown): TemplateResult {
  const seconds = Math.floor(Math.max(0, nowMs - call.admitted_at_ms) / 1000);
  return html`<tr data-call=${call.call_id}>
    <th scope="row">
      ${profile?.staff[call.staff] ?? call.staff}<small class="tight number">${call.to}</small>
    </th>
    <td class="roomy">${call.device}</td>
    <td class="number roomy">${call.to}</td>
    <td class="roomy">${call.channel === null ? "–" : (profile?.channels[call.channel] ?? call.channel)}</td>
    <td class="number right" data-running=${seconds}>${clock(seconds)}</td>
    <td>${countsView(call, use, nowMs)}</td>
  </tr>`;
}

function countsView(call: PoolCall, use: LiveUse, nowMs: number): TemplateResult {
  if (call.emergency) return html`<span class="tag" data-counts="never">Emergency, never counts</span>`;
  if (!call.counts) return html`<span class="tag" data-counts="older">Counts in the last cycle</span>`;
  const policy = use.pool.policy;
  if (policy.count_from === "answer" && call.answered_at_ms === null)
    return html`<span class="tag" data-counts="free">Free until answered</span>`;
  const left = use.freeSecondsLeft(call, nowMs);
  const billed = use.billedSeconds(call, nowMs);
  if (billed === 0) return html`<span class="tag" data-counts="free">Free, ${left} s left</span>`;
  return html`<span class="tag" data-counts="counting" data-billed=${billed}>Counting, ${clock(billed)}</span>`;
}

export function recordsView(
  records: readonly CallRecord[] | null,
  { nowMs, profile, dates }: Shown,
  more: (() => void) | null,
): TemplateResult {
  return html`<section class="card wide" aria-labelledby="records-title">
    <h2 id="records-title">Recent calls</h2>
    ${
      records === null
        ? html`<p class="empty">Loading …</p>`
        : records.length === 0
          ? html`<p class="empty">No call has ended yet.</p>`
          : html`<div class="scrolls" tabindex="0" role="group" aria-labelledby="records-title">
              <table id="records">
                <thead>
                  <tr>
                    <th scope="col">When</th>
                    <th scope="col">Who</th>
                    <th scope="col" class="roomy">To</th>
                    <th scope="col" class="right">Length</th>
                    <th scope="col" class="right">Used</th>
                    <th scope="col" class="roomy">Ended by</th>
                  </tr>
                </thead>
                <tbody>
                  ${records.map(
                    (record) => html`<tr data-call=${record.call_id}>
                      <th scope="row">${dates.moment(record.admitted_at_ms, nowMs)}</th>
                      <td>${profile?.staff[record.staff] ?? record.staff} <small class="roomy">${record.device}</small
                        ><small class="tight number">${record.to}</small>
                      </td>
                      <td class="number roomy">${record.to}</td>
                      <td class="number right">${clock(record.duration_ms / 1000)}</td>
                      <td class="number right">${usedByView(record)}</td>
                      <td class="roomy">${endedByView(record)}</td>
                    </tr>`,
                  )}
                </tbody>
              </table>
            </div>`
    }
    ${more === null ? nothing : html`<button type="button" class="quiet" @click=${more}>Show more calls</button>`}
  </section>`;
}

function usedByView(record: CallRecord): string {
  if (record.emergency) return "emergency";
  return record.counted ? clock(record.billed_seconds) : "free";
}

function endedByView(record: CallRecord): string {
  if (record.state === "in_progress") return "goes on";
  const reasons: Record<string, string> = {
    hangup: "hung up",
    connection_lost: "connection lost",
    lease_expired: "device went silent",
  };
  return reasons[record.ended_by ?? ""] ?? record.ended_by ?? "–";
}

export function statementsView(
  statements: readonly Statement[] | null,
  { dates }: Shown,
  download: (statement: Statement) => void,
  more: (() => void) | null,
): TemplateResult {
  return html`<section class="card wide" aria-labelledby="statements-title">
    <h2 id="statements-title">Statements</h2>
    ${
      statements === null
        ? html`<p class="empty">Loading …</p>`
        : statements.length === 0
          ? html`<p class="empty">There is none yet.</p>`
          : html`<div class="scrolls" tabindex="0" role="group" aria-labelledby="statements-title">
              <table id="statements">
                <thead>
                  <tr>
                    <th scope="col">Cycle</th>
                    <th scope="col" class="right roomy">Allocated</th>
                    <th scope="col" class="right">Used</th>
                    <th scope="col" class="right roomy">Calls counted</th>
                    <th scope="col" class="right roomy">Free calls</th>
                    <th scope="col" class="roomy">State</th>
                    <th scope="col"><span class="visually-hidden">Download</span></th>
                  </tr>
                </thead>
                <tbody>
                  ${statements.map((statement) => {
                    const cycle = dates.cycle(
                      Date.parse(statement.cycle.start),
                      Date.parse(statement.cycle.end),
                    );
                    return html`<tr data-cycle=${statement.cycle.start}>
                      <th scope="row">${cycle}</th>
                      <td class="number right roomy">${clock(statement.allocated_seconds)}</td>
                      <td class="number right">${clock(statement.used_seconds)}</td>
                      <td class="number right roomy">${count(statement.calls_counted)}</td>
                      <td class="number right roomy">${count(statement.calls_free)}</td>
                      <td class="roomy">${statement.closed ? "closed" : "open"}</td>
                      <td class="right">
                        <button
                          type="button"
                          class="quiet"
                          aria-label=${`Download the calls of ${cycle} as CSV`}
                          @click=${() => download(statement)}
                        >
                          CSV
                        </button>
                      </td>
                    </tr>`;
                  })}
                </tbody>
              </table>
            </div>`
    }
    ${
      more === null
        ? nothing
        : html`<button type="button" class="quiet" @click=${more}>Show older statements</button>`
    }
  </section>`;
}

/** Connected, reconnecting, or since when what is shown may be wrong. */
export function liveView(state: DashboardState, staleSinceMs: number | null, dates: Dates): TemplateResult {
  const texts: Record<DashboardState, string> = {
    connecting: "Connecting …",
    connected: "Live",
    reconnecting:
      staleSinceMs === null ? "Reconnecting …" : `Reconnecting, stale since ${dates.exactTime(staleSinceMs)}`,
    ended: "Not connected",
  };
  return html`<p class="live" id="live" data-state=${state}>
    <span class="dot" aria-hidden="true"></span>${texts[state]}
  </p>`;
}

export function searchView(value: string, search: (text: string) => void): TemplateResult {
  return html`<label class="search">
    <span>Search</span>
    <input
      type="search"
      placeholder="Id or name"
      .value=${liveValue(value)}
      @input=${(event: Event) => search((event.target as HTMLInputElement).value)}
    />
  </label>`;
}

/** A notice, as a sentence for the live region; null for one that the page shows otherwise. */
export function noticeText(notice: Notice, { use, dates }: Shown): string | null {
  switch (notice.kind) {
    case "threshold":
      // At 100 another notice says what that means.
      return notice.percent === 100 ? null : `${notice.percent} percent of the minutes are used.`;
    case "minutes_exhausted":
      return "All minutes are used. Calls in progress go on; new calls are refused.";
    case "cycle_reset":
      return `A new billing cycle began. Minutes reset on ${dates.day(use.cycleEndMs)}.`;
    case "plan_changed":
      return `The plan changed. ${spoken(use.pool.allocated_seconds)} are allocated.`;
    default:
      return null;
  }
}

export function remainingTitle(use: LiveUse, atMs: number, name: string): string {
  const minutes = Math.floor(use.remainingSeconds(atMs) / 60);
  return `${count(minutes)} ${plural(minutes, "minute")} left · ${name}`;
}
