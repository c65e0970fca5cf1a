/**
 * The journal in which a phone keeps its calls, so that they outlive the page (`keepIn`).
 *
 * An item of the storage for each call, written before anything is sent of it. Instants are times of day, for
 * nothing else means anything to the page after a reload.
 */

/** A call that no gateway has settled. `admitted_at_ms` is billing time. @internal */
export interface KeptCall {
  readonly key: number;
  readonly call_id: string;
  readonly to: string;
  readonly channel: string | null;
  readonly emergency: boolean;
  readonly started_at_ms: number;
  readonly admitted_at_ms?: number;
  readonly receipt?: string;
  readonly answered_at_ms?: number;
  readonly ended_at_ms?: number;
  /** When it was last known up, if that is not known any more. */
  readonly doubtful_since_ms?: number | null;
}

/** @internal */
export interface Whose {
  readonly account: string;
  readonly staff: string;
  readonly device: string;
}

/** The part of `localStorage` that a journal needs. */
export type KeptStorage = Pick<Storage, "getItem" | "setItem" | "removeItem" | "key" | "length">;

/** @internal */
export class Journal {
  whose: Whose | null = null;
  /** When the page last ran with calls in progress, before this one. */
  readonly aliveAtMs: number | null;
  readonly #calls = new Map<number, KeptCall>();
  readonly #unwritten = new Set<string>();
  #nextKey = 1;

  constructor(
    private readonly storage: KeptStorage,
    private readonly name: string,
  ) {
    for (const item of this.#items()) {
      const read = this.#read(item);
      if (item.startsWith(`${name}/call/`) && isKept(read)) this.#calls.set(read.key, read);
    }
    this.#nextKey = Math.max(0, ...this.#calls.keys()) + 1;
    this.whose = this.#read(`${name}/whose`) as Whose | null;
    const alive = this.#read(`${name}/alive`);
    this.aliveAtMs = typeof alive === "number" ? alive : null;
  }

  /** What is kept, the oldest first. */
  get calls(): KeptCall[] {
    return [...this.#calls.values()].sort((one, other) => one.key - other.key);
  }

  newKey(): number {
    return this.#nextKey++;
  }

  /** Note whose it is; false if it is another device's. */
  belongsTo(whose: Whose): boolean {
    if (this.whose === null) {
      this.whose = whose;
      this.#write(`${this.name}/whose`, whose);
    }
    const { account, staff, device } = this.whose;
    return account === whose.account && staff === whose.staff && device === whose.device;
  }

  keep(call: KeptCall): void {
    this.#calls.set(call.key, call);
    this.#write(`${this.name}/call/${call.key}`, call);
  }

  over(key: number): void {
    if (!this.#calls.delete(key)) return;
    this.#unwritten.delete(`${this.name}/call/${key}`);
    this.storage.removeItem(`${this.name}/call/${key}`);
  }

  /** Note that the page runs, and write again what could not be written. */
  alive(atMs: number): void {
    this.#write(`${this.name}/alive`, atMs);
    for (const call of this.#calls.values())
      if (this.#unwritten.has(`${this.name}/call/${call.key}`)) this.keep(call);
  }

  *#items(): Generator<string> {
    const names = Array.from({ length: this.storage.length }, (_, index) => this.storage.key(index));
    for (const item of names) if (item?.startsWith(`${this.name}/`)) yield item;
  }

  #read(item: string): unknown {
    try {
      return JSON.parse(this.storage.getItem(item) ?? "null");
    } catch {
      return null;
    }
  }

  #write(item: string, value: unknown): void {
    try {
      this.storage.setItem(item, JSON.stringify(value));
      this.#unwritten.delete(item);
    } catch {
      // A full storage holds nothing up: that a gateway hears of the call is worth more.
      this.#unwritten.add(item);
    }
  }
}

function isKept(read: unknown): read is KeptCall {
  const kept = read as KeptCall | null;
  return typeof kept?.key === "number" && typeof kept.call_id === "string" && typeof kept.to === "string";
}
