import { expect, test } from "vitest";
import { paceOf } from "../src/forecast.js";
import { clock, Dates, percent, span, spoken } from "../src/format.js";

const DAY_MS = 86_400_000;
const START_MS = Date.parse("2026-11-15T05:00:00Z");
const END_MS = Date.parse("2026-12-15T05:00:00Z");

test("times are told in minutes and seconds", () => {
  expect(clock(0)).toBe("0:00");
  expect(clock(61)).toBe("1:01");
  expect(clock(60_000)).toBe("1,000:00");
  expect(spoken(60)).toBe("1 minute");
  expect(spoken(61)).toBe("1 minute 1 second");
  expect(spoken(0)).toBe("0 minutes");
  expect(spoken(45)).toBe("45 seconds");
});

test("a share is never told higher than it is", () => {
  expect(percent(599, 600)).toBe(99);
  expect(percent(600, 600)).toBe(100);
  expect(percent(5, 0)).toBe(0);
});

test("how long is told as people would", () => {
  expect([5_000, 200_000, 7_200_000, 7_800_000, 3 * DAY_MS].map(span)).toEqual([
    "5 s",
    "3 min",
    "2 h",
    "2 h 10 min",
    "3 days",
  ]);
});

test("days are those of the account, also where the reader's differ", () => {
  const dates = new Dates("America/New_York");
  expect(dates.cycle(START_MS, END_MS)).toBe("Nov 15, 2026 – Dec 14, 2026");
  expect(dates.daysLeft(Date.parse("2026-12-15T04:59:00Z"), END_MS)).toBe(1);
  expect(dates.daysLeft(Date.parse("2026-12-14T04:59:00Z"), END_MS)).toBe(2);
  expect(new Dates("Mars/Olympus").zone).toBe("UTC");
});

test("a pace tells when it will be used up, or what will be used by the end", () => {
  const now = START_MS + 10 * DAY_MS;
  // Half of it in ten days: the rest in ten more.
  expect(paceOf(3000, 6000, START_MS, now, START_MS, END_MS)).toEqual({
    evenSeconds: 2000,
    emptyAtMs: now + 10 * DAY_MS,
    atEndSeconds: 9000,
  });
  expect(paceOf(1000, 6000, START_MS, now, START_MS, END_MS)).toMatchObject({
    emptyAtMs: null,
    atEndSeconds: 3000,
  });
  expect(paceOf(7000, 6000, START_MS, now, START_MS, END_MS)?.emptyAtMs).toBe(now);
  expect(paceOf(0, 6000, START_MS, now, START_MS, END_MS)).toBeNull();
  // An account that is a day old has the pace of that day.
  expect(paceOf(1000, 6000, now - DAY_MS, now, START_MS, END_MS)?.emptyAtMs).toBe(now + 5 * DAY_MS);
  expect(paceOf(1000, 6000, now - 1000, now, START_MS, END_MS)).toBeNull();
});
