/** How times, dates and numbers are shown. */

const DAY_MS = 86_400_000;
const numbers = new Intl.NumberFormat();

/** Minutes and seconds, as plans are sold by the minute: `1,000:05`. */
export function clock(seconds: number): string {
  const whole = Math.max(0, Math.floor(seconds));
  return `${numbers.format(Math.floor(whole / 60))}:${String(whole % 60).padStart(2, "0")}`;
}

/** Minutes and seconds for a voice: `1,000 minutes 5 seconds`. */
export function spoken(seconds: number): string {
  const whole = Math.max(0, Math.floor(seconds));
  const minutes = Math.floor(whole / 60);
  const rest = whole % 60;
  const parts = [];
  if (minutes > 0 || rest === 0) parts.push(`${numbers.format(minutes)} ${plural(minutes, "minute")}`);
  if (rest > 0) parts.push(`${rest} ${plural(rest, "second")}`);
  return parts.join(" ");
}

export function count(value: number): string {
  return numbers.format(value);
}

export function plural(value: number, one: string): string {
  return value === 1 ? one : `${one}s`;
}

/** Whole percents, rounded down: 99.9 % used is not yet 100 %. */
export function percent(part: number, whole: number): number {
  return whole <= 0 ? 0 : Math.floor((part * 100) / whole);
}

/** How long: `3 days`, `2 h 10 min`, `4 min`, `12 s`. */
export function span(ms: number): string {
  const seconds = Math.max(0, Math.round(ms / 1000));
  if (seconds < 60) return `${seconds} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 60) return `${minutes} min`;
  if (minutes < 48 * 60)
    return minutes % 60 === 0 ? `${minutes / 60} h` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
  return `${Math.round(minutes / 1440)} days`;
}

/** Formats instants in one time zone; UTC where the browser does not know it. */
export class Dates {
  readonly zone: string;
  readonly #formats = new Map<string, Intl.DateTimeFormat>();

  constructor(zone: string) {
    try {
      new Intl.DateTimeFormat(undefined, { timeZone: zone });
      this.zone = zone;
    } catch {
      this.zone = "UTC";
    }
  }

  /** `Nov 15, 2026` */
  day(atMs: number): string {
    return this.#format("day", { dateStyle: "medium" }).format(atMs);
  }

  /** `Nov 15` */
  shortDay(atMs: number): string {
    return this.#format("short", { month: "short", day: "numeric" }).format(atMs);
  }

  /** `14:03` or `2:03 PM` */
  time(atMs: number): string {
    return this.#format("time", { timeStyle: "short" }).format(atMs);
  }

  /** With seconds. */
  exactTime(atMs: number): string {
    return this.#format("exact", { timeStyle: "medium" }).format(atMs);
  }

  /** Day and time, as briefly as it can be told from `nowMs`. */
  moment(atMs: number, nowMs: number): string {
    if (this.day(atMs) === this.day(nowMs)) return this.time(atMs);
    const time = { hour: "numeric", minute: "2-digit" } as const;
    if (this.#year(atMs) === this.#year(nowMs))
      return this.#format("moment", { month: "short", day: "numeric", ...time }).format(atMs);
    return this.#format("long", { year: "numeric", month: "short", day: "numeric", ...time }).format(atMs);
  }

  /** From when to when: the last day is the one before the instant at which the cycle ends. */
  cycle(startMs: number, endMs: number): string {
    return `${this.day(startMs)} – ${this.day(endMs - 1)}`;
  }

  /** How many days until the one on which it ends, today included: 1 on the last day. */
  daysLeft(nowMs: number, endMs: number): number {
    return Math.max(0, Math.round((this.#dayNumber(endMs) - this.#dayNumber(nowMs)) / DAY_MS));
  }

  #year(atMs: number): string {
    return this.#format("year", { year: "numeric" }).format(atMs);
  }

  #dayNumber(atMs: number): number {
    const parts = this.#format("number", { year: "numeric", month: "numeric", day: "numeric" }).formatToParts(
      atMs,
    );
    const part = (type: string) => Number(parts.find((each) => each.type === type)?.value ?? 0);
    return Date.UTC(part("year"), part("month") - 1, part("day"));
  }

  #format(name: string, options: Intl.DateTimeFormatOptions): Intl.DateTimeFormat {
    let format = this.#formats.get(name);
    if (format === undefined) {
      const locale = name === "number" ? "en-US" : undefined;
      format = new Intl.DateTimeFormat(locale, { ...options, timeZone: this.zone });
      this.#formats.set(name, format);
    }
    return format;
  }
}
