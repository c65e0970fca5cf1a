-- R4 and R7 at a cost that does not grow with the calls in progress.
--
-- `order` holds every call in progress at its origin, the instant it is timed from. A call is *folded* once, when its
-- age passes the free length: from then on it bills ceil(age / increment), and for n such calls
--   sum ceil((now - o) / I) = n * floor(now / I) - sum floor(o / I) + #{o mod I < now mod I},
-- the last counted in `phase`. Calls that bill nothing in this cycle sort outside the range that is folded: those of
-- an older cycle before it, unanswered ones (under count_from = answer) and emergencies far behind every instant.

-- Where a call sorts in `order`.
local function order_score(m, p, emergency, admitted_at_ms, answered_at_ms)
  if emergency == 1 then return EMERGENCY_BASE + admitted_at_ms end
  if m.count_from == COUNT_FROM_ADMISSION then return admitted_at_ms end
  if answered_at_ms == 0 then return UNANSWERED_BASE + admitted_at_ms end
  -- Answered in a later cycle than it was admitted in: it must stay out of this cycle's sums (R20).
  if admitted_at_ms < p.cycle_start_ms then return admitted_at_ms end
  return answered_at_ms
end

local function fold(m, p, order_key, phase_key)
  local edge_ms = m.now_ms - m.free_ms
  if edge_ms <= p.folded_to_ms or p.counting == p.folded then return end
  local found = call('ZRANGEBYSCORE', order_key, text(p.folded_to_ms), '(' .. text(edge_ms), 'WITHSCORES')
  p.folded_to_ms = edge_ms
  if #found == 0 then return end
  local increment_ms, ticks, origin, tick, phase = m.increment_ms, 0, nil, nil, nil
  -- From (call, origin, ...) to (phase, call, ...) in place. Calls of one origin stand side by side.
  for i = 1, #found, 2 do
    if found[i + 1] ~= origin then
      origin = found[i + 1]
      tick, phase = floor(origin / increment_ms), text(origin % increment_ms)
    end
    ticks = ticks + tick
    found[i], found[i + 1] = phase, found[i]
  end
  p.folded, p.folded_ticks = p.folded + #found / 2, p.folded_ticks + ticks
  call_variadic('ZADD', phase_key, found)
  p.dirty = true
end

-- Calls in progress are counted from another instant than before: sort them anew, at a cost that grows with them.
local function sort_anew(m, p, order_key, calls_key)
  local fields = call('ZRANGE', order_key, 0, -1)
  for first = 1, #fields, 1000 do
    local blobs, scores = call('HMGET', calls_key, unpack(fields, first, min(first + 999, #fields))), {}
    for i = 1, #blobs do
      -- What stands in `order` and is no call is told by `callgate check`.
      if blobs[i] and is_whole(blobs[i]) then
        local c = decode_call(blobs[i])
        scores[#scores + 1] = text(order_score(m, p, c.emergency, c.admitted_at_ms, c.answered_at_ms))
        scores[#scores + 1] = fields[first + i - 1]
      end
    end
    call_variadic('ZADD', order_key, scores)
  end
end

-- The sums were built under another policy: build them anew, once, at a cost that does grow with the calls.
local function refold(m, p, order_key, phase_key, calls_key)
  if p.count_from ~= m.count_from then sort_anew(m, p, order_key, calls_key) end
  call('UNLINK', phase_key)
  p.folded, p.folded_ticks, p.folded_to_ms = 0, 0, p.cycle_start_ms
  p.free_seconds, p.increment_seconds, p.count_from = m.free_seconds, m.increment_seconds, m.count_from
  p.dirty, p.jumped = true, true
end

-- Were the sums built under the policy that is in force?
local function is_of_policy(m, p)
  return p.free_seconds == m.free_seconds and p.increment_seconds == m.increment_seconds and p.count_from == m.count_from
end

-- Sum of billed(age) over the calls in progress of this cycle, exactly (R4), in seconds.
local function live_billed_seconds(m, p, phase_key)
  if p.folded == 0 then return 0 end
  local into_tick = m.now_ms % m.increment_ms
  local later = into_tick > 0 and call('ZCOUNT', phase_key, 0, text(into_tick - 1)) or 0
  return m.increment_seconds * (p.folded * floor(m.now_ms / m.increment_ms) - p.folded_ticks + later)
end

-- Brings the sums, of the policy in force, up to `now`. After this, a call of this cycle is folded if its score is below
-- `folded_to_ms`.
local function bring_up(m, p, order_key, phase_key)
  if p.turned then call('UNLINK', phase_key) end
  fold(m, p, order_key, phase_key)
  p.live_billed = live_billed_seconds(m, p, phase_key)
end

-- Sum of max(hold, billed) over the same calls, exactly (R7). Folded calls younger than the hold still hold it whole;
-- what those bill is a sum of one ZCOUNT for each increment between the free length and the hold.
local function live_held_seconds(m, p, counting, folded, order_key, live_billed)
  local unfolded = counting - folded
  local held = live_billed + m.hold_seconds * unfolded
  local increment_ms = m.increment_ms
  local hold_ticks = floor(m.hold_seconds / m.increment_seconds)
  if folded == 0 or hold_ticks * increment_ms <= m.free_ms then return held end
  local oldest = text(max(m.now_ms - hold_ticks * increment_ms, p.cycle_start_ms))
  local below_hold = call('ZCOUNT', order_key, oldest, '(' .. text(p.folded_to_ms))
  if below_hold == 0 then return held end
  local free_ticks = floor(m.free_ms / increment_ms)
  local ticks = below_hold * (free_ticks + 1)
  for tick = free_ticks + 1, hold_ticks - 1 do
    ticks = ticks + call('ZCOUNT', order_key, oldest, '(' .. text(m.now_ms - tick * increment_ms))
  end
  return held + m.hold_seconds * below_hold - m.increment_seconds * ticks
end
