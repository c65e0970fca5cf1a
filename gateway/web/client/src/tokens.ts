import { TokenRefused } from "./errors.js";

/** A token, or what gives a good one: called at first, and again whenever the gateway no longer takes it. */
export type TokenSource = string | (() => string | Promise<string>);

/** The token to go by. @internal */
export class Tokens {
  #current: string | null;
  #refused: string | null = null;
  #why: string | undefined;

  constructor(private readonly source: TokenSource) {
    this.#current = typeof source === "string" ? source : null;
  }

  replace(token: string): void {
    this.#current = token;
  }

  /** Note that the gateway does not take the present one. */
  refuse(why?: string): void {
    this.#refused = this.#current;
    this.#why = why;
    if (typeof this.source !== "string") this.#current = null;
  }

  /** Whether there is none but the one refused. */
  get exhausted(): boolean {
    return this.#current !== null && this.#current === this.#refused;
  }

  /** The token to connect with. Throws TokenRefused if there is none but the one refused. */
  async current(): Promise<string> {
    if (this.#current === null && typeof this.source !== "string") this.#current = await this.source();
    if (this.exhausted || this.#current === null) throw new TokenRefused(this.#why);
    return this.#current;
  }
}
