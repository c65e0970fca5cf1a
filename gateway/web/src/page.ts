import { accountOf } from "callgate";
import { html, LitElement } from "lit";
import "./account.js";
import { Session } from "./session.js";
import "./sign-in.js";

/** The page at `/`: one account's, for whoever has a token to watch it. */
class Page extends LitElement {
  readonly #session = new Session("callgate.token");
  #token: string | null = null;
  #problem = "";
  readonly #onHash = () => {
    // A link with a token that is opened in this tab.
    if (location.hash.startsWith("#token=")) this.#signIn(this.#session.take() ?? "");
  };

  protected override createRenderRoot(): HTMLElement {
    return this;
  }

  override connectedCallback(): void {
    super.connectedCallback();
    addEventListener("hashchange", this.#onHash);
    const token = this.#session.take();
    if (token !== null) this.#signIn(token);
  }

  override disconnectedCallback(): void {
    super.disconnectedCallback();
    removeEventListener("hashchange", this.#onHash);
  }

  protected override render() {
    const account = this.#token === null ? null : accountOf(this.#token);
    if (this.#token === null || account === null)
      return html`<cg-sign-in
        heading="Your calling minutes, live"
        label="Token"
        explanation="Paste the token that you were given. It needs the scope “watch”."
        problem=${this.#problem}
        @sign-in=${(event: CustomEvent<string>) => this.#signIn(event.detail)}
      ></cg-sign-in>`;
    return html`<div class="frame">
      <main>
        <cg-account
          .account=${account}
          .credential=${this.#token}
          @signed-out=${(event: CustomEvent<string>) => this.#signOut(event.detail)}
        ></cg-account>
      </main>
      <footer>
        <button type="button" class="quiet" @click=${() => this.#signOut("")}>Sign out</button>
      </footer>
    </div>`;
  }

  #signIn(token: string): void {
    if (accountOf(token) === null) {
      this.#signOut("This is not a token of a gateway.");
      return;
    }
    // Another token is another page: the element of the one before must go.
    this.#token = null;
    this.requestUpdate();
    void this.updateComplete.then(() => {
      this.#problem = "";
      this.#token = token;
      this.#session.keep(token);
      this.requestUpdate();
    });
  }

  #signOut(problem: string): void {
    this.#session.forget();
    this.#token = null;
    this.#problem = problem;
    document.title = "Callgate";
    this.requestUpdate();
  }
}

customElements.define("cg-page", Page);
