/** Listeners, by what they listen to. */
export class Emitter<Events> {
  readonly #listeners = new Map<keyof Events, Set<(event: never) => void>>();

  /** Listen. What is returned stops that. */
  on<Kind extends keyof Events>(kind: Kind, listener: (event: Events[Kind]) => void): () => void {
    const listeners = this.#listeners.get(kind) ?? new Set();
    this.#listeners.set(kind, listeners.add(listener));
    return () => listeners.delete(listener);
  }

  /** @internal */
  protected emit<Kind extends keyof Events>(kind: Kind, event: Events[Kind]): void {
    for (const listener of this.#listeners.get(kind) ?? []) {
      try {
        (listener as (event: Events[Kind]) => void)(event);
      } catch (error) {
        // A listener's fault is no reason to lose the connection, and must not be lost either.
        tellOfFault(error);
      }
    }
  }
}

/** Have a fault of the application's reported as an uncaught one is. @internal */
export function tellOfFault(error: unknown): void {
  setTimeout(() => {
    throw error;
  });
}
