import { Dashboard, type DashboardState, type LiveUse, type Notice } from "callgate";
import { html, LitElement, nothing } from "lit";
import { Api, ApiError, type CallRecord, type Profile, type Statement, type UsagePoint } from "./api.js";
import "./chart.js";
import type { ChartData } from "./chart.js";
import { paceOf } from "./forecast.js";
import { count, Dates, percent } from "./format.js";
import { nextTickMs } from "./ticking.js";
import * as views from "./views.js";

/** Records reach the lists through the recorder, usually within a second. */
const RECORDED_MS = 1_500;
/** Lists are not asked for oftener than this, however many calls end. */
const BETWEEN_MS = 5_000;
const HIDDEN_MS = 5_000;
const RECORDS_A_PAGE = 20;
const STATEMENTS_A_PAGE = 12;

/** Everything about one account, live. Tells by `signed-out` why it ended, if its credential did. */
export class Account extends LitElement {
  static override properties = {
    account: {},
    credential: { attribute: false },
    admin: { type: Boolean },
  };

  account = "";
  credential = "";
  /** Whether the credential is the admin key. */
  admin = false;

  #api: Api | null = null;
  #dashboard: Dashboard | null = null;
  #profile: Profile | null = null;
  #records: CallRecord[] | null = null;
  #recordsNext: string | null = null;
  #statements: Statement[] | null = null;
  #statementsNext: string | null = null;
  #points: readonly UsagePoint[] = [];
  #previous: readonly UsagePoint[] = [];
  #previousStartMs = 0;
  #hasUsage = true;
  #said = "";
  readonly #notices: Notice[] = [];
  #problem = "";
  #seen: LiveUse | null = null;
  #tick: ReturnType<typeof setTimeout> | undefined;
  #refresh: ReturnType<typeof setTimeout> | undefined;
  #refreshedAt = 0;
  #refreshing = false;
  readonly #onVisible = () => {
    if (document.visibilityState === "visible") this.#count();
  };

  protected override createRenderRoot(): HTMLElement {
    return this;
  }

  override connectedCallback(): void {
    super.connectedCallback();
    document.addEventListener("visibilitychange", this.#onVisible);
    void this.#start();
  }

  override disconnectedCallback(): void {
    super.disconnectedCallback();
    document.removeEventListener("visibilitychange", this.#onVisible);
    clearTimeout(this.#tick);
    clearTimeout(this.#refresh);
    this.#dashboard?.close();
    this.#dashboard = null;
  }

  async #start(): Promise<void> {
    // Whichever base the page was served under is the gateway's.
    const base = location.origin;
    this.#api = new Api(base, this.credential);
    const api = this.#api;
    // A key with characters that no subprotocol can have: a token of its making can.
    const subprotocol = /^[\w!#$%&'*+.^`|~-]+$/.test(this.credential);
    const token = subprotocol ? this.credential : () => api.watchToken(this.account);
    const dashboard = new Dashboard(base, token, this.admin ? { account: this.account } : {});
    this.#dashboard = dashboard;
    dashboard.on("pool", (use) => this.#pool(use));
    dashboard.on("notice", (notice) => this.#notice(notice));
    dashboard.on("state", (state) => this.#state(state));
    dashboard.start();
  }

  // What is heard

  #pool(use: LiveUse): void {
    const before = this.#seen?.pool;
    this.#seen = use;
    const { pool } = use;
    if (
      before === undefined ||
      before.plan !== pool.plan ||
      before.pending_plan !== pool.pending_plan ||
      before.seats.used !== pool.seats.used ||
      before.channels.used !== pool.channels.used
    )
      void this.#loadProfile();
    const moved =
      before === undefined ||
      before.cycle.start !== pool.cycle.start ||
      before.settled_seconds !== pool.settled_seconds ||
      before.calls.some((call) => !pool.calls.some((other) => other.call_id === call.call_id));
    if (moved) this.#refreshSoon(before === undefined ? 0 : RECORDED_MS);
    const shown = this.#shown(use);
    const texts = this.#notices.splice(0).map((each) => views.noticeText(each, shown));
    if (before !== undefined && before.remaining_seconds === 0 && pool.remaining_seconds > 0)
      texts.push("There are minutes again: calls can be placed.");
    this.#say(texts.filter((text) => text !== null).join(" "));
    this.#count();
  }

  /** It comes before the pool that shows what it tells of, and is said with that. */
  #notice(notice: Notice): void {
    this.#notices.push(notice);
  }

  #state(state: DashboardState): void {
    const ended = this.#dashboard?.endedBy;
    if (state === "ended" && ended?.code === "not_found" && this.admin) this.#problem = ended.message;
    else if (state === "ended" && ended && ended.code !== "closed") {
      this.dispatchEvent(new CustomEvent<string>("signed-out", { detail: ended.message, bubbles: true }));
      return;
    }
    if (state === "reconnecting") this.#say("The connection is lost. Reconnecting.");
    if (state === "connected" && this.#seen !== null) {
      this.#say("Connected again.");
      this.#refreshSoon(0);
    }
    this.requestUpdate();
  }

  #say(text: string): void {
    if (text === "") return;
    this.#said = text;
    this.requestUpdate();
  }

  // Counting on

  /** Show what is true now, and again when that changes. */
  #count(): void {
    clearTimeout(this.#tick);
    this.requestUpdate();
    const dashboard = this.#dashboard;
    if (dashboard?.live == null) return;
    const nowMs = dashboard.nowMs()!;
    const soonMs = nextTickMs(dashboard.live, nowMs, (atMs) => dashboard.untilMs(atMs));
    // Of a hidden tab only the title is seen, which tells minutes.
    const inMs = document.visibilityState === "hidden" ? Math.max(soonMs, HIDDEN_MS) : soonMs;
    // A timer may come a moment early; what it shows is computed anew then, so nothing is ever wrong.
    this.#tick = setTimeout(() => this.#count(), Math.ceil(inMs));
  }

  // What is asked for

  async #loadProfile(): Promise<void> {
    const api = this.#api;
    if (api === null) return;
    try {
      this.#profile = await api.profile(this.account);
      this.requestUpdate();
    } catch (error) {
      this.#failed(error);
    }
  }

  #refreshSoon(inMs: number): void {
    if (this.#refresh !== undefined) return;
    const waitMs = Math.max(inMs, this.#refreshedAt + BETWEEN_MS - performance.now());
    this.#refresh = setTimeout(
      () => {
        this.#refresh = undefined;
        void this.#loadLists();
      },
      this.#refreshedAt === 0 ? inMs : waitMs,
    );
  }

  async #loadLists(): Promise<void> {
    const api = this.#api;
    const use = this.#dashboard?.live;
    if (api === null || use == null || this.#refreshing) return;
    this.#refreshing = true;
    this.#refreshedAt = performance.now();
    try {
      const [records, statements] = await Promise.all([
        api.calls(this.account, null, Math.min(200, Math.max(RECORDS_A_PAGE, this.#records?.length ?? 0))),
        api.statements(
          this.account,
          null,
          Math.min(120, Math.max(STATEMENTS_A_PAGE, this.#statements?.length ?? 0)),
        ),
      ]);
      [this.#records, this.#recordsNext] = [[...records.items], records.next];
      [this.#statements, this.#statementsNext] = [[...statements.items], statements.next];
      this.#problem = "";
      await this.#loadUsage(api, use);
    } catch (error) {
      this.#failed(error);
    } finally {
      this.#refreshing = false;
      this.requestUpdate();
    }
  }

  async #loadUsage(api: Api, use: LiveUse): Promise<void> {
    const before = this.#statements?.find((each) => Date.parse(each.cycle.start) < use.cycleStartMs);
    try {
      this.#points = await api.usage(this.account, use.pool.cycle.start, "hour");
      if (before === undefined) this.#previous = [];
      else if (this.#previousStartMs !== Date.parse(before.cycle.start) || !before.closed) {
        this.#previous = await api.usage(this.account, before.cycle.start, "day");
        this.#previousStartMs = Date.parse(before.cycle.start);
      }
      this.#hasUsage = true;
    } catch (error) {
      if (error instanceof ApiError && error.status === 404) this.#hasUsage = false;
      else throw error;
    }
  }

  async #moreRecords(): Promise<void> {
    await this.#orTell(async (api) => {
      const page = await api.calls(this.account, this.#recordsNext, RECORDS_A_PAGE);
      this.#records = [...(this.#records ?? []), ...page.items];
      this.#recordsNext = page.next;
    });
  }

  async #moreStatements(): Promise<void> {
    await this.#orTell(async (api) => {
      const page = await api.statements(this.account, this.#statementsNext, STATEMENTS_A_PAGE);
      this.#statements = [...(this.#statements ?? []), ...page.items];
      this.#statementsNext = page.next;
    });
  }

  async #download(statement: Statement): Promise<void> {
    await this.#orTell(async (api) => {
      const url = URL.createObjectURL(await api.statementCsv(this.account, statement.cycle.start));
      const link = document.createElement("a");
      link.href = url;
      link.download = `calls-${this.account}-${statement.cycle.start.slice(0, 10)}.csv`;
      link.click();
      setTimeout(() => URL.revokeObjectURL(url), 60_000);
      this.#said = "The calls were downloaded.";
    });
  }

  async #orTell(what: (api: Api) => Promise<void>): Promise<void> {
    if (this.#api === null) return;
    try {
      await what(this.#api);
      this.#problem = "";
    } catch (error) {
      this.#failed(error);
    }
    this.requestUpdate();
  }

  #failed(error: unknown): void {
    if (!(error instanceof ApiError)) throw error;
    // The live connection tells of a token that is no good any more.
    if (error.status !== 401) this.#problem = error.message;
    this.requestUpdate();
  }

  // What is shown

  #shown(use: LiveUse): views.Shown {
    const nowMs = this.#dashboard?.nowMs() ?? use.pool.at_ms;
    return { use, nowMs, profile: this.#profile, dates: new Dates(this.#profile?.time_zone ?? "UTC") };
  }

  protected override render() {
    const dashboard = this.#dashboard;
    const use = dashboard?.live;
    const name = this.#profile?.name ?? this.account;
    const region = html`<p class="visually-hidden" role="status" aria-live="polite" id="said">${this.#said}</p>`;
    if (dashboard == null || use == null)
      return html`<header class="top">
          <h1>${name}</h1>
          ${views.liveView(dashboard?.state ?? "connecting", null, new Dates("UTC"))}
        </header>
        ${
          this.#problem === ""
            ? html`<p class="empty" aria-busy="true">Waiting for the gateway …</p>`
            : html`<p class="banner" data-kind="problem" role="alert">${this.#problem}</p>`
        }
        ${region}`;
    const shown = this.#shown(use);
    document.title = views.remainingTitle(use, shown.nowMs, name);
    return html`<header class="top">
        <h1>${name}</h1>
        ${views.liveView(dashboard.state, dashboard.staleSinceMs, new Dates(localZone()))}
      </header>
      ${views.exhaustedView(shown)}
      ${this.#problem === "" ? nothing : html`<p class="banner" data-kind="problem" role="alert">${this.#problem}</p>`}
      <div class="grid">
        ${views.figuresView(shown)} ${views.callsView(shown)} ${this.#chartView(shown)}
        ${views.forecastView(shown)} ${views.cycleView(shown)} ${views.planView(shown)}
        ${views.recordsView(this.#records, shown, this.#recordsNext === null ? null : () => void this.#moreRecords())}
        ${views.statementsView(
          this.#statements,
          shown,
          (statement) => void this.#download(statement),
          this.#statementsNext === null ? null : () => void this.#moreStatements(),
        )}
      </div>
      ${region}`;
  }

  #chartView(shown: views.Shown) {
    const { use, nowMs, dates, profile } = shown;
    if (!this.#hasUsage) return nothing;
    const data: ChartData = {
      startMs: use.cycleStartMs,
      endMs: use.cycleEndMs,
      nowMs,
      allocatedSeconds: use.pool.allocated_seconds,
      usedSeconds: use.usedSeconds(nowMs),
      points: this.#points,
      previous: this.#previous,
      previousStartMs: this.#previousStartMs,
      dates,
    };
    const pace = paceOf(
      data.usedSeconds,
      data.allocatedSeconds,
      profile?.created_at_ms ?? use.cycleStartMs,
      nowMs,
      use.cycleStartMs,
      use.cycleEndMs,
    );
    const before = this.#previous.at(-1);
    return html`<section class="card chart" aria-labelledby="chart-title">
      <h2 id="chart-title">Use over the cycle</h2>
      <cg-chart aria-hidden="true" .data=${data}></cg-chart>
      <ul class="legend" aria-hidden="true">
        <li data-series="used">This cycle</li>
        <li data-series="even">Even pace</li>
        ${this.#previous.length > 0 ? html`<li data-series="previous">Previous cycle</li>` : nothing}
      </ul>
      <p class="fine" id="chart-text">
        ${percent(data.usedSeconds, data.allocatedSeconds)} % of the minutes are used, and
        ${Math.round(((nowMs - use.cycleStartMs) * 100) / (use.cycleEndMs - use.cycleStartMs))} % of the cycle has
        passed.${
          pace === null
            ? nothing
            : html` An even pace would have used ${count(Math.round(pace.evenSeconds / 60))} minutes by now.`
        }${
          before === undefined
            ? nothing
            : html` The previous cycle came to ${count(Math.round(before.used_seconds / 60))} minutes.`
        }
      </p>
    </section>`;
  }
}

function localZone(): string {
  return Intl.DateTimeFormat().resolvedOptions().timeZone;
}

customElements.define("cg-account", Account);
