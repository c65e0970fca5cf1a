import { LitElement } from "lit";
import uPlot from "uplot";
import type { UsagePoint } from "./api.js";
import { count, type Dates } from "./format.js";

export interface ChartData {
  readonly startMs: number;
  readonly endMs: number;
  readonly nowMs: number;
  readonly allocatedSeconds: number;
  readonly usedSeconds: number;
  readonly points: readonly UsagePoint[];
  /** The cycle before, moved on to this one's start. */
  readonly previous: readonly UsagePoint[];
  readonly previousStartMs: number;
  readonly dates: Dates;
}

type Series = [number[], (number | null)[], (number | null)[], (number | null)[]];

/** Use over the cycle, against an even pace and the cycle before. Drawn; the page says the same in words. */
export class Chart extends LitElement {
  static override properties = { data: { attribute: false } };

  data: ChartData | null = null;
  #plot: uPlot | null = null;
  #drawnFor = "";
  readonly #scheme = matchMedia("(prefers-color-scheme: dark)");
  readonly #sizes = new ResizeObserver(() => this.#fit());
  readonly #redraw = () => {
    this.#drawnFor = "";
    this.requestUpdate();
  };

  protected override createRenderRoot(): HTMLElement {
    return this;
  }

  override connectedCallback(): void {
    super.connectedCallback();
    this.#scheme.addEventListener("change", this.#redraw);
    this.#sizes.observe(this);
  }

  override disconnectedCallback(): void {
    super.disconnectedCallback();
    this.#scheme.removeEventListener("change", this.#redraw);
    this.#sizes.disconnect();
    this.#plot?.destroy();
    this.#plot = null;
    this.#drawnFor = "";
  }

  protected override updated(): void {
    const data = this.data;
    if (data === null) return;
    const series = seriesOf(data);
    const frame = `${data.startMs} ${data.endMs} ${data.allocatedSeconds} ${data.dates.zone} ${data.previous.length > 0}`;
    if (this.#plot !== null && frame === this.#drawnFor) {
      this.#plot.setData(series);
      return;
    }
    this.#plot?.destroy();
    this.#plot = new uPlot(this.#options(data), series, this);
    this.#drawnFor = frame;
  }

  #fit(): void {
    if (this.#plot !== null && this.clientWidth > 0)
      this.#plot.setSize({ width: this.clientWidth, height: heightFor(this.clientWidth) });
  }

  #options(data: ChartData): uPlot.Options {
    const style = getComputedStyle(this);
    const color = (name: string) => style.getPropertyValue(name).trim();
    const axis = {
      stroke: color("--muted"),
      grid: { stroke: color("--line"), width: 1 },
      ticks: { stroke: color("--line"), width: 1, size: 4 },
      font: `12px ${style.fontFamily}`,
    };
    const width = Math.max(200, this.clientWidth);
    return {
      width,
      height: heightFor(width),
      legend: { show: false },
      cursor: { show: false },
      padding: [12, 28, 0, 0],
      scales: {
        x: { time: false, range: [data.startMs, data.endMs] },
        y: { range: (_, __, max) => [0, Math.max(data.allocatedSeconds, max) * 1.04 || 60] },
      },
      axes: [
        {
          ...axis,
          splits: (plot) => splitsOf(data, plot.width),
          values: (_, values) => values.map((each) => data.dates.shortDay(each)),
        },
        {
          ...axis,
          size: 58,
          incrs: [
            60, 300, 600, 1500, 3000, 6000, 15e3, 3e4, 6e4, 15e4, 3e5, 6e5, 15e5, 3e6, 6e6, 6e7, 6e8, 6e9,
          ],
          values: (_, values) => values.map((each) => count(each / 60)),
        },
      ],
      series: [
        {},
        {
          stroke: color("--accent"),
          fill: color("--accent-soft"),
          width: 2.5,
          points: { show: false },
          spanGaps: true,
        },
        { stroke: color("--muted"), width: 1.5, dash: [6, 5], points: { show: false }, spanGaps: true },
        { stroke: color("--previous"), width: 1.5, points: { show: false }, spanGaps: true },
      ],
    };
  }
}

function heightFor(width: number): number {
  return Math.round(Math.min(430, Math.max(190, width * 0.54)));
}

/** Local days, as many as there is room for. */
function splitsOf(data: ChartData, width: number): number[] {
  const room = Math.max(2, Math.floor(width / 90));
  const step = Math.max(1, Math.ceil((data.endMs - data.startMs) / 86_400_000 / room));
  const splits = [];
  for (let at = data.startMs; at <= data.endMs; at += step * 86_400_000) splits.push(at);
  return splits;
}

/** All series over the same instants: between two of its own points a series has none there. */
export function seriesOf(data: ChartData): Series {
  const shift = data.startMs - data.previousStartMs;
  const used = new Map<number, number>([[data.startMs, 0]]);
  for (const point of data.points)
    if (point.at_ms > data.startMs && point.at_ms < data.nowMs) used.set(point.at_ms, point.used_seconds);
  used.set(Math.min(data.nowMs, data.endMs), data.usedSeconds);
  const before = new Map<number, number>();
  if (data.previous.length > 0) before.set(data.startMs, 0);
  for (const point of data.previous) {
    const at = point.at_ms + shift;
    if (at >= data.startMs && at <= data.endMs) before.set(at, point.used_seconds);
  }
  const even = new Map<number, number>([
    [data.startMs, 0],
    [data.endMs, data.allocatedSeconds],
  ]);
  const instants = [...new Set([...used.keys(), ...before.keys(), ...even.keys()])].sort((a, b) => a - b);
  const along = (of: Map<number, number>) => instants.map((at) => of.get(at) ?? null);
  return [instants, along(used), along(even), along(before)];
}

customElements.define("cg-chart", Chart);
