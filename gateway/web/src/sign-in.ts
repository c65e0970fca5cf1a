import { html, LitElement, nothing } from "lit";

/** Asks for a token or the admin key. Tells by `sign-in` with the credential as its detail. */
export class SignIn extends LitElement {
  static override properties = {
    heading: {},
    label: {},
    explanation: {},
    problem: {},
    busy: { type: Boolean },
  };

  heading = "";
  label = "";
  explanation = "";
  /** Why the last one was no good. */
  problem = "";
  busy = false;

  protected override createRenderRoot(): HTMLElement {
    return this;
  }

  protected override firstUpdated(): void {
    this.querySelector("input")?.focus();
  }

  protected override render() {
    const described = this.problem ? "sign-in-problem sign-in-help" : "sign-in-help";
    return html`<main class="sign-in card">
      <img src="/favicon.svg" alt="" width="40" height="40" />
      <h1>${this.heading}</h1>
      <p id="sign-in-help">${this.explanation}</p>
      <form @submit=${this.#submit}>
        <label for="credential">${this.label}</label>
        <input
          id="credential"
          type="password"
          autocomplete="off"
          autocapitalize="off"
          spellcheck="false"
          required
          aria-describedby=${described}
          aria-invalid=${this.problem ? "true" : nothing}
        />
        <p id="sign-in-problem" class="problem" role="alert">${this.problem}</p>
        <button type="submit" class="primary" ?disabled=${this.busy}>
          ${this.busy ? "Signing in …" : "Sign in"}
        </button>
      </form>
      <p class="fine">It stays in this tab, and is forgotten when the tab is closed.</p>
    </main>`;
  }

  #submit(event: Event): void {
    event.preventDefault();
    const input = this.querySelector("input")!;
    const credential = input.value.trim();
    input.value = "";
    if (credential !== "")
      this.dispatchEvent(new CustomEvent<string>("sign-in", { detail: credential, bubbles: true }));
  }
}

customElements.define("cg-sign-in", SignIn);
