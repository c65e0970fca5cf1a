-- One account under way in a batch, its pool in `a.p` (nil where there is none). What its calls bill and hold is
-- counted once, as it was before the operations; they move it by exact amounts, as all happen at one instant.

local function open_account(m, p, account, keys)
  return {
    m = m, p = p, keys = keys, prefix = account .. '/', now_ms = m.now_ms, cycle_start_ms = p and p.cycle_start_ms or 0,
    live_billed = p and live_billed_seconds(m, p, keys[PHASE_KEY]) or 0, live_change = 0, held_change = 0,
    live_held = false, members = false, fresh_head = false,
    -- The sums as the sorted sets have them: those are written only after the operations.
    before = p and { counting = p.counting, folded = p.folded, cycle_start_ms = p.cycle_start_ms,
      folded_to_ms = p.folded_to_ms },
    order_in = {}, order_out = {}, phase_in = {}, phase_out = {},
  }
end

-- R5.
local function remaining(a)
  local p = a.p
  if not p then return 0 end
  return max(0, p.allocated_seconds - p.settled_seconds - a.live_billed - a.live_change)
end

-- R7, with bounds first: the exact sum of holds is counted only where they don't decide.
local function is_held_up(a)
  local m, p, before = a.m, a.p, a.before
  local free = p.allocated_seconds - p.settled_seconds - a.held_change - a.live_billed
  if free - m.hold_seconds * before.counting > 0 then return false end
  if free - m.hold_seconds * (before.counting - before.folded) <= 0 then return true end
  a.live_held = a.live_held or live_held_seconds(m, before, a.keys[ORDER_KEY], a.live_billed)
  return free + a.live_billed - a.live_held <= 0
end

local function pool_changed(a)
  local p = a.p
  if p then p.version, p.changed = p.version + 1, true end
end

-- R9, R17: a call is known while it is in progress; ended, or overtaken by its end, it is remembered for a while.
local function is_remembered(blob, now_ms, memory_ms)
  local kind = kind_of(blob)
  if kind == IN_PROGRESS then return true end
  if kind == ENDED then return now_ms - settled_at(blob) <= memory_ms end
  return now_ms - overtaken_at(blob) <= OVERTAKEN_MS
end
