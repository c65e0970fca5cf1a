-- The next instant at which something happens to a pool with nobody asking (R19, R29): its cycle's end, or a threshold,
-- which is computed ahead. Far off, an instant that is surely not too late stands for it, and then it is looked again.

-- Nothing nearer than this is looked at a second time: the very instant is found.
local NEAR_MS = 1000

-- How long it takes at least until so much more is used. `young` calls have not passed the free length: at that each
-- adds its whole age at once, and the first does at `first_free_ms`.
local function least_wait_ms(m, need, folded, young, first_free_ms)
  local function ticks(calls) return ceil(need / (calls * m.increment_seconds)) end
  local by_folded = folded > 0 and (ticks(folded) - 1) * m.increment_ms + 1 or huge
  if young == 0 then return by_folded end
  local by_all = (ticks(folded + young) - 1) * m.increment_ms + 1 - m.free_ms
  return max(by_all, min(by_folded, first_free_ms - m.now_ms))
end

-- The next instant at which the next threshold may be passed.
local function threshold_due_ms(m, p, keys, used)
  local first = call('ZRANGEBYSCORE', keys[ORDER_KEY], text(p.folded_to_ms), '(' .. text(UNANSWERED_BASE), 'WITHSCORES',
    'LIMIT', 0, 1)
  local young = first[2] and p.counting - p.folded or 0
  local wait_ms = least_wait_ms(m, p.next_used - used, p.folded, young, first[2] and first[2] + m.free_ms + 1)
  if wait_ms == huge then return huge end
  local near_ms = max(NEAR_MS, m.increment_ms)
  -- With calls that begin meanwhile it would be earlier again and again: that is allowed for.
  if wait_ms > 10 * near_ms then return m.now_ms + floor(wait_ms * 0.75) end
  if wait_ms > near_ms then return m.now_ms + wait_ms end
  local until_ms = m.now_ms + near_ms
  if used_at(m, p, keys, until_ms) < p.next_used then return until_ms + 1 end
  return first_instant(m, p, keys, p.next_used, m.now_ms, until_ms)
end

-- Can what happened since have made the alarm that is set too late? A call that has begun adds nothing before it has
-- passed the free length, and one that has ended nothing at all.
local function is_alarm_early_enough(m, p, used)
  if p.alarm_ms <= m.now_ms or p.jumped or p.alarm_ms > p.cycle_end_ms then return false end
  if p.next_used == huge or p.counting == 0 or p.alarm_ms <= m.now_ms + m.free_ms then return true end
  return p.alarm_ms <= m.now_ms + least_wait_ms(m, p.next_used - used, p.folded, p.counting - p.folded, m.now_ms + 1)
end

-- Sets the alarm, if it has to be another; an earlier one is left: it only looks again.
local function set_alarm(m, account, p, shard_keys, keys, used)
  if is_alarm_early_enough(m, p, used) then return end
  local at_ms = p.cycle_end_ms
  if p.next_used ~= huge and p.counting > 0 then at_ms = min(at_ms, threshold_due_ms(m, p, keys, used)) end
  if at_ms == p.alarm_ms then return end
  p.alarm_ms, p.dirty = at_ms, true
  call('ZADD', shard_keys[ALARMS_KEY], text(at_ms), account)
end
