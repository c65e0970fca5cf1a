/** The credential of this tab: in its session storage, and nowhere that outlives it or shows it. */

/** What a page signs in with. */
export class Session {
  constructor(private readonly name: string) {}

  /** The credential, also one that comes in the address, from which it is taken at once. */
  take(): string | null {
    const given = new URLSearchParams(location.hash.slice(1)).get("token");
    if (given === null) return this.#read();
    // Gone from the address and from the history before anything else happens.
    history.replaceState(null, "", location.pathname + location.search);
    this.keep(given.trim());
    return given.trim() || null;
  }

  keep(credential: string): void {
    try {
      sessionStorage.setItem(this.name, credential);
    } catch {
      // Without storage one has to sign in again after a reload.
    }
  }

  forget(): void {
    try {
      sessionStorage.removeItem(this.name);
    } catch {
      // There is none.
    }
  }

  #read(): string | null {
    try {
      return sessionStorage.getItem(this.name);
    } catch {
      return null;
    }
  }
}
