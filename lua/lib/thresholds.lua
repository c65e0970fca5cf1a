-- R29: the thresholds that a pool's live use passes, each at its very instant. Live use rises by itself between two
-- events, in a way known from `order` and `phase` alone: so an instant that nobody looked at is found again.

-- What SQL is told of notices: what was passed in the cycle ("T", lib/pool.lua's tail), and what webhooks tell ("N").
local NOTICE_THRESHOLD = 1
local NOTICE_EXHAUSTED = 2
local NOTICE_RESTORED = 3
local NOTICE_PLAN_CHANGED = 4

local NOT_PASSED = 0
local huge = math.huge

local function add_passed(notices, account, p)
  add_item(notices, pack('<BI2c0dddd', 84, #account, account, p.cycle_start_ms, p.passed_50_ms, p.passed_80_ms, -- T
    p.passed_100_ms))
end

local function add_notice(notices, account, p, kind, percent, at_ms, used)
  add_item(notices, pack('<BI2c0BBdddddBI2c0', 78, #account, account, kind, percent, p.cycle_start_ms, -- N
    p.cycle_end_ms, at_ms, p.allocated_seconds, used, p.has_plan, #p.plan, p.plan))
end

-- How much is used when that part of the allocation is: used * 100 >= allocated * percent.
local function used_at_percent(p, percent)
  return ceil(p.allocated_seconds * percent / 100)
end

-- Looks for the threshold that is passed next; none of an allocation of 0.
local function find_next_threshold(p)
  if p.allocated_seconds == 0 or p.passed_100_ms ~= NOT_PASSED then
    p.next_used = huge
  elseif p.passed_80_ms ~= NOT_PASSED then
    p.next_used = p.allocated_seconds
  else
    p.next_used = used_at_percent(p, p.passed_50_ms ~= NOT_PASSED and 80 or 50)
  end
end

-- Live use at any instant of the cycle, by the calls there are, once the sums were built under the policy in force: the
-- folded calls, with those that are folded by then, or without those that were not yet.
local function used_at(m, p, keys, at_ms)
  local increment_ms, edge_ms, ticks = m.increment_ms, at_ms - m.free_ms, 0
  local function ticks_of(found, sign)
    for i = 2, #found, 2 do ticks = ticks + sign * ceil((at_ms - found[i]) / increment_ms) end
  end
  if p.folded > 0 then
    local into_tick = at_ms % increment_ms
    ticks = p.folded * floor(at_ms / increment_ms) - p.folded_ticks
      + (into_tick > 0 and call('ZCOUNT', keys[PHASE_KEY], 0, text(into_tick - 1)) or 0)
  end
  if edge_ms > p.folded_to_ms then
    ticks_of(call('ZRANGEBYSCORE', keys[ORDER_KEY], text(p.folded_to_ms), '(' .. text(edge_ms), 'WITHSCORES'), 1)
  elseif p.folded > 0 and edge_ms < p.folded_to_ms then
    ticks_of(call('ZRANGEBYSCORE', keys[ORDER_KEY], text(max(edge_ms, p.cycle_start_ms)), '(' .. text(p.folded_to_ms),
      'WITHSCORES'), -1)
  end
  return p.settled_seconds + m.increment_seconds * ticks
end

-- The first instant after `from_ms`, up to `until_ms`, at which so much is used; at `until_ms` it is. The nearer it is to
-- `until_ms`, the sooner it is found.
local function first_instant(m, p, keys, used, from_ms, until_ms)
  local low, high, step = until_ms, until_ms, 1
  repeat
    high, low, step = low, max(from_ms, low - step), 2 * step
  until low == from_ms or used_at(m, p, keys, low) < used
  while high - low > 1 do
    local middle = floor((low + high) / 2)
    if used_at(m, p, keys, middle) < used then low = middle else high = middle end
  end
  return high
end

-- The threshold that is next was passed.
local function pass_threshold(account, p, at_ms, used, notices)
  local percent = p.passed_50_ms == NOT_PASSED and 50 or p.passed_80_ms == NOT_PASSED and 80 or 100
  if percent == 50 then p.passed_50_ms = at_ms
  elseif percent == 80 then p.passed_80_ms = at_ms
  else p.passed_100_ms = at_ms end
  p.version, p.changed = p.version + 1, true
  add_notice(notices, account, p, NOTICE_THRESHOLD, percent, at_ms, used)
  if percent == 100 then
    add_notice(notices, account, p, NOTICE_EXHAUSTED, 100, at_ms, used)
    p.announced = 'minutes_exhausted'
  end
  add_passed(notices, account, p)
  find_next_threshold(p)
end

-- Something that happened made it so much that is used, just now.
local function pass_reached(account, p, used, now_ms, notices)
  while used >= p.next_used do pass_threshold(account, p, now_ms, used, notices) end
end

-- Time that passed made it so much, by `until_ms`. Nothing has happened since somebody looked last.
local function pass_in_time(m, account, p, keys, used, until_ms, notices)
  while used >= p.next_used do
    local from_ms = max(p.cycle_start_ms, p.since_ms) - 1
    local at_ms = first_instant(m, p, keys, p.next_used, from_ms, until_ms)
    pass_threshold(account, p, at_ms, used_at(m, p, keys, at_ms), notices)
  end
end

-- R29: another allocation. Those that live use is below again may be passed again; what they were told is over.
local function rearm_thresholds(account, p, used, was_exhausted, now_ms, notices)
  local function is_below(percent) return p.allocated_seconds == 0 or used < used_at_percent(p, percent) end
  if is_below(50) then p.passed_50_ms = NOT_PASSED end
  if is_below(80) then p.passed_80_ms = NOT_PASSED end
  if is_below(100) then p.passed_100_ms = NOT_PASSED end
  add_passed(notices, account, p)
  find_next_threshold(p)
  if was_exhausted and used < p.allocated_seconds then
    add_notice(notices, account, p, NOTICE_RESTORED, 0, now_ms, used)
    p.announced = 'minutes_restored'
  end
end

-- R19, R29: cycles that are over turn, one by one; what was passed in them was passed then. All boundaries are
-- known: `refill` puts those in the pool that it does not remember.
local function turn_cycles(m, account, p, keys, items, notices, refill)
  while m.now_ms >= p.cycle_end_ms do
    local used, plan = p.settled_seconds, p.plan
    if p.counting > 0 then
      used = used_at(m, p, keys, p.cycle_end_ms - 1)
      pass_in_time(m, account, p, keys, used, p.cycle_end_ms - 1, notices)
    end
    local was_exhausted = p.allocated_seconds > 0 and used >= p.allocated_seconds
    if p.next_1_ms == 0 then refill(p) end
    turn_cycle(account, p, items)
    p.passed_50_ms, p.passed_80_ms, p.passed_100_ms, p.since_ms = NOT_PASSED, NOT_PASSED, NOT_PASSED, 0
    if p.plan ~= plan then add_notice(notices, account, p, NOTICE_PLAN_CHANGED, 0, p.cycle_start_ms, 0) end
    if was_exhausted and p.allocated_seconds > 0 then
      add_notice(notices, account, p, NOTICE_RESTORED, 0, p.cycle_start_ms, 0)
      p.announced = 'minutes_restored'
    end
  end
  find_next_threshold(p)
end
