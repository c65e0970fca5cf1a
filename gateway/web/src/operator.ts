import { html, LitElement, nothing } from "lit";
import "./account.js";
import { type AccountItem, Api, ApiError, type Status } from "./api.js";
import { clock, count, percent, plural } from "./format.js";
import { Session } from "./session.js";
import "./sign-in.js";
import { searchView } from "./views.js";

const A_PAGE = 50;
/** The list is at most 5 s old, and the health is looked at as often. */
const AGAIN_MS = 5_000;
const TYPED_MS = 250;

/** The page at `/operator`: all accounts, the nearest to exhaustion first, and how the deployment is. */
class Operator extends LitElement {
  readonly #session = new Session("callgate.admin");
  #key: string | null = null;
  #api: Api | null = null;
  #problem = "";
  #trouble = "";
  #status: Status | null = null;
  #items: readonly AccountItem[] | null = null;
  #next: string | null = null;
  #after: string | null = null;
  #before: (string | null)[] = [];
  #search = "";
  #account: string | null = null;
  #asked = 0;
  #again: ReturnType<typeof setTimeout> | undefined;
  #typing: ReturnType<typeof setTimeout> | undefined;
  readonly #onHash = () => {
    this.#show();
    // Another page: who reads by keyboard or by ear begins at its top.
    void this.updateComplete.then(() => this.querySelector("main")?.focus());
  };

  protected override createRenderRoot(): HTMLElement {
    return this;
  }

  override connectedCallback(): void {
    super.connectedCallback();
    addEventListener("hashchange", this.#onHash);
    const key = this.#session.take();
    this.#show();
    if (key !== null) this.#signIn(key);
  }

  override disconnectedCallback(): void {
    super.disconnectedCallback();
    removeEventListener("hashchange", this.#onHash);
    clearTimeout(this.#again);
  }

  /** Which account's page: the one after `#`. */
  #show(): void {
    try {
      this.#account = decodeURIComponent(location.hash.slice(1)) || null;
    } catch {
      this.#account = null;
    }
    if (this.#account === null) {
      document.title = "Callgate operator";
      void this.#load();
    }
    this.requestUpdate();
  }

  #signIn(key: string): void {
    this.#key = key;
    this.#api = new Api(location.origin, key);
    this.#problem = "";
    this.#session.keep(key);
    this.requestUpdate();
    void this.#load();
  }

  #signOut(problem: string): void {
    clearTimeout(this.#again);
    this.#session.forget();
    this.#key = this.#api = this.#status = this.#items = null;
    this.#problem = problem;
    this.requestUpdate();
  }

  async #load(): Promise<void> {
    clearTimeout(this.#again);
    const api = this.#api;
    if (api === null) return;
    const asked = ++this.#asked;
    try {
      const [status, page] = await Promise.all([
        api.status(),
        this.#account === null ? api.accounts(this.#search, this.#after, A_PAGE) : null,
      ]);
      if (asked !== this.#asked || api !== this.#api) return;
      this.#status = status;
      if (page !== null) [this.#items, this.#next] = [page.items, page.next];
      this.#trouble = "";
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      if (asked !== this.#asked || api !== this.#api) return;
      if (error.status === 401 || error.status === 403) {
        this.#signOut(
          error.status === 401 ? "This is not the admin key." : "This page needs the admin key, not a token.",
        );
        return;
      }
      this.#trouble = error.message;
    }
    this.requestUpdate();
    this.#again = setTimeout(() => void this.#load(), AGAIN_MS);
  }

  #find(text: string): void {
    this.#search = text.trim();
    clearTimeout(this.#typing);
    this.#typing = setTimeout(() => {
      this.#after = null;
      this.#before = [];
      void this.#load();
    }, TYPED_MS);
  }

  #turn(on: boolean): void {
    if (on) {
      this.#before.push(this.#after);
      this.#after = this.#next;
    } else this.#after = this.#before.pop() ?? null;
    void this.#load();
  }

  protected override render() {
    if (this.#key === null)
      return html`<cg-sign-in
        heading="Operator"
        label="Admin key"
        explanation="Paste the deployment’s admin key."
        problem=${this.#problem}
        @sign-in=${(event: CustomEvent<string>) => this.#signIn(event.detail)}
      ></cg-sign-in>`;
    return html`<div class="frame">
      <main tabindex="-1">
        ${this.#account === null ? this.#listView() : this.#accountView(this.#account, this.#key)}
      </main>
      <footer>
        <button type="button" class="quiet" @click=${() => this.#signOut("")}>Sign out</button>
      </footer>
    </div>`;
  }

  #accountView(account: string, key: string) {
    return html`<nav aria-label="Back"><a href="#">← All accounts</a></nav>
      <cg-account
        admin
        .account=${account}
        .credential=${key}
        @signed-out=${(event: CustomEvent<string>) => this.#signOut(event.detail)}
      ></cg-account>`;
  }

  #listView() {
    return html`<header class="top">
        <h1>Accounts</h1>
        ${searchView(this.#search, (text) => this.#find(text))}
      </header>
      ${this.#trouble === "" ? nothing : html`<p class="banner" data-kind="problem" role="alert">${this.#trouble}</p>`}
      <div class="grid">
        ${this.#healthView()}
        <section class="card wide" aria-labelledby="accounts-title">
          <h2 id="accounts-title">Nearest to exhaustion first</h2>
          ${this.#tableView()}
          <div class="pages">
            <button type="button" class="quiet" ?disabled=${this.#before.length === 0} @click=${() => this.#turn(false)}>
              Previous page
            </button>
            <button type="button" class="quiet" ?disabled=${this.#next === null} @click=${() => this.#turn(true)}>
              Next page
            </button>
          </div>
        </section>
      </div>`;
  }

  #tableView() {
    if (this.#items === null) return html`<p class="empty" aria-busy="true">Loading …</p>`;
    if (this.#items.length === 0) return html`<p class="empty">No account matches.</p>`;
    return html`<div class="scrolls" tabindex="0" role="group" aria-labelledby="accounts-title">
      <table id="accounts">
        <thead>
          <tr>
            <th scope="col">Account</th>
            <th scope="col">Plan</th>
            <th scope="col" class="right">Allocated</th>
            <th scope="col" class="right">Used</th>
            <th scope="col">Share</th>
            <th scope="col" class="right">Calls</th>
            <th scope="col">Status</th>
          </tr>
        </thead>
        <tbody>
          ${this.#items.map((item) => this.#rowView(item))}
        </tbody>
      </table>
    </div>`;
  }

  #rowView(item: AccountItem) {
    const share = percent(item.used_seconds, item.allocated_seconds);
    const label = `Used by ${item.name}`;
    return html`<tr data-account=${item.account} data-level=${share >= 100 ? "out" : share >= 80 ? "low" : "ok"}>
      <th scope="row"><a href=${`#${encodeURIComponent(item.account)}`}>${item.name}</a> <small>${item.account}</small></th>
      <td>${item.plan ?? "–"}</td>
      <td class="number right">${clock(item.allocated_seconds)}</td>
      <td class="number right">${clock(item.used_seconds)}</td>
      <td>
        <meter min="0" max="100" low="80" high="100" optimum="0" value=${Math.min(100, share)} aria-label=${label}></meter>
        <span class="number">${count(share)} %</span>
      </td>
      <td class="number right">${count(item.calls_in_progress)}</td>
      <td>${item.status}</td>
    </tr>`;
  }

  #healthView() {
    const status = this.#status;
    if (status === null) return nothing;
    const part = (name: string, state: string, text: string) =>
      html`<li data-state=${state === "ok" ? "ok" : "down"}>
        <span class="dot" aria-hidden="true"></span><strong>${name}</strong> <span>${text}</span>
      </li>`;
    const devices = status.gateways.reduce((sum, each) => sum + each.connections, 0);
    const lag = status.recorder;
    return html`<section class="card wide" aria-labelledby="health-title">
      <h2 id="health-title">Health</h2>
      <ul class="health" id="health">
        ${part("Engine", status.engine, status.engine)} ${part("Database", status.database, status.database)}
        ${part(
          "Recorder",
          lag.seconds > 30 ? "late" : "ok",
          lag.entries === 0
            ? "nothing waits"
            : `${count(lag.entries)} ${plural(lag.entries, "record")} for ${count(lag.seconds)} s`,
        )}
        ${part(
          "Gateways",
          status.gateways.length > 0 ? "ok" : "down",
          `${count(status.gateways.length)} alive, ${count(devices)} ${plural(devices, "device")} connected`,
        )}
      </ul>
      ${
        status.warnings.length === 0
          ? nothing
          : html`<ul class="warnings">
              ${status.warnings.map((warning) => html`<li>${warning}</li>`)}
            </ul>`
      }
      <details>
        <summary>Gateways</summary>
        <table>
          <thead>
            <tr>
              <th scope="col">Gateway</th>
              <th scope="col" class="right">Devices</th>
              <th scope="col" class="right">Calls</th>
            </tr>
          </thead>
          <tbody>
            ${status.gateways.map(
              (each) => html`<tr>
                <th scope="row">${each.gateway}</th>
                <td class="number right">${count(each.connections)}</td>
                <td class="number right">${count(each.calls_in_progress)}</td>
              </tr>`,
            )}
          </tbody>
        </table>
      </details>
    </section>`;
  }
}

customElements.define("cg-operator", Operator);
