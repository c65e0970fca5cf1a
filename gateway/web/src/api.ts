/** The gateway's HTTP addresses, as far as the pages need them. */

export interface PlanSummary {
  readonly plan: string;
  readonly name: string;
  readonly minutes: number;
  readonly staff_seats: number;
  readonly connected_channels: number;
}

export interface Profile {
  readonly account: string;
  readonly name: string;
  readonly time_zone: string;
  readonly status: "active" | "suspended";
  readonly created_at_ms: number;
  readonly plan: PlanSummary | null;
  readonly pending_plan: PlanSummary | null;
  readonly pending_from: string | null;
  readonly staff: Readonly<Record<string, string>>;
  readonly channels: Readonly<Record<string, string>>;
}

export interface CallRecord {
  readonly call_id: string;
  readonly staff: string;
  readonly device: string;
  readonly channel: string | null;
  readonly to: string;
  readonly state: "in_progress" | "ended";
  readonly admitted_at_ms: number;
  readonly ended_at_ms: number | null;
  readonly duration_ms: number;
  readonly billed_seconds: number;
  readonly counted: boolean;
  readonly ended_by: string | null;
  readonly emergency: boolean;
  readonly revision: number;
}

export interface Statement {
  readonly plan: string | null;
  readonly cycle: { readonly start: string; readonly end: string };
  readonly closed: boolean;
  readonly allocated_seconds: number;
  readonly used_seconds: number;
  readonly overrun_seconds: number;
  readonly calls_counted: number;
  readonly calls_free: number;
}

export interface UsagePoint {
  readonly at_ms: number;
  readonly used_seconds: number;
}

export interface AccountItem {
  readonly account: string;
  readonly name: string;
  readonly plan: string | null;
  readonly status: "active" | "suspended";
  readonly allocated_seconds: number;
  readonly used_seconds: number;
  readonly calls_in_progress: number;
}

export interface Page<Item> {
  readonly items: readonly Item[];
  readonly next: string | null;
}

export interface Status {
  readonly gateways: readonly { gateway: string; connections: number; calls_in_progress: number }[];
  readonly engine: string;
  readonly database: string;
  readonly recorder: { readonly entries: number; readonly seconds: number };
  readonly warnings: readonly string[];
}

/** An answer that is an error; `status` 0 if there was none at all. */
export class ApiError extends Error {
  constructor(
    readonly status: number,
    message: string,
  ) {
    super(message);
  }
}

/** Asks with a token or the admin key, which goes nowhere but into the header. */
export class Api {
  constructor(
    readonly base: string,
    private readonly credential: string,
  ) {}

  profile(account: string): Promise<Profile> {
    return this.#json(path(account, "profile"));
  }

  async calls(account: string, after: string | null, limit: number): Promise<Page<CallRecord>> {
    return this.#page(path(account, "calls"), "calls", { limit, after });
  }

  async statements(account: string, after: string | null, limit: number): Promise<Page<Statement>> {
    return this.#page(path(account, "statements"), "statements", { limit, after });
  }

  async usage(account: string, cycle: string, step: "hour" | "day"): Promise<readonly UsagePoint[]> {
    const found = await this.#json<{ points: UsagePoint[] }>(path(account, "usage"), { cycle, step });
    return found.points;
  }

  accounts(q: string, after: string | null, limit: number): Promise<Page<AccountItem>> {
    return this.#page("/v1/accounts", "accounts", { q: q || null, sort: "used_percent", limit, after });
  }

  status(): Promise<Status> {
    return this.#json("/v1/status");
  }

  async watchToken(account: string): Promise<string> {
    const response = await this.#fetch(
      "/v1/tokens",
      {},
      {
        method: "POST",
        body: JSON.stringify({ account, scopes: ["watch", "numbers"], ttl_seconds: 3600 }),
      },
    );
    return ((await response.json()) as { token: string }).token;
  }

  /** A cycle's calls as CSV. A link would need the token in its address. */
  async statementCsv(account: string, cycleStart: string): Promise<Blob> {
    return (await this.#fetch(`${path(account, "statements")}/${cycleStart}.csv`)).blob();
  }

  async #page<Item>(address: string, name: string, query: Query): Promise<Page<Item>> {
    const found = await this.#json<Record<string, unknown>>(address, query);
    return { items: found[name] as Item[], next: found["next"] as string | null };
  }

  async #json<Shape>(address: string, query: Query = {}): Promise<Shape> {
    return (await this.#fetch(address, query)).json() as Promise<Shape>;
  }

  async #fetch(address: string, query: Query = {}, init: RequestInit = {}): Promise<Response> {
    const given = Object.entries(query).filter(([, value]) => value !== null);
    const search = new URLSearchParams(given.map(([name, value]) => [name, String(value)])).toString();
    // What no header can carry is no credential.
    if (!/^[\x21-\x7e]+$/.test(this.credential)) throw new ApiError(401, "This is no token and no key.");
    let response: Response;
    try {
      response = await fetch(`${this.base}${address}${search && `?${search}`}`, {
        ...init,
        cache: "no-store",
        headers: { Authorization: `Bearer ${this.credential}`, "Content-Type": "application/json" },
      });
    } catch {
      throw new ApiError(0, "The gateway cannot be reached.");
    }
    if (response.ok) return response;
    const problem = (await response.json().catch(() => ({}))) as { detail?: string };
    throw new ApiError(response.status, problem.detail ?? `The gateway answered ${response.status}.`);
  }
}

type Query = Record<string, string | number | null>;

function path(account: string, what: string): string {
  return `/v1/accounts/${encodeURIComponent(account)}/${what}`;
}
