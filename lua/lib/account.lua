-- One account under way in a batch, its pool in `a.p` (nil where there is none). What its calls bill and hold is
-- counted once, as it was before the operations; they move it by exact amounts, as all happen at one instant.

--   left         allocated less used, below zero where it is overrun
--   held_before  what the calls that were there before the batch hold beyond what they bill; false: not counted yet
--   unheld       what is left that no one holds, when `held_before` is taken from it
local function open_account(m, account, p, keys, members)
  local live_billed = p and p.live_billed or 0
  local left = p and p.allocated_seconds - p.settled_seconds - live_billed or 0
  return {
    m = m, account = account, p = p, keys = keys, members = members, now_ms = m.now_ms,
    cycle_start_ms = p and p.cycle_start_ms or 0, live_billed = live_billed, left = left, unheld = left, held_before = false, fresh_head = false, fresh_connection = false,
    fresh_score = false,
    -- The sums as the sorted sets have them: those are written only after the operations.
    counting_before = p and p.counting, folded_before = p and p.folded,
  }
end

-- R5.
local function remaining(a)
  local left = a.left
  return left > 0 and left or 0
end

-- R7, with bounds first: the exact sum of holds is counted only where they don't decide.
local function is_held_up(a)
  local m, p = a.m, a.p
  if a.unheld - m.hold_seconds * a.counting_before > 0 then return false end
  if a.unheld - m.hold_seconds * (a.counting_before - a.folded_before) <= 0 then return true end
  a.held_before = a.held_before
    or live_held_seconds(m, p, a.counting_before, a.folded_before, a.keys[ORDER_KEY], a.live_billed) - a.live_billed
  return a.unheld - a.held_before <= 0
end

-- What is used stands in `a` by then: it may have become so much that a threshold is passed (R29).
local function pool_changed(a)
  local p = a.p
  if not p then return end
  p.version, p.changed = p.version + 1, true
  local used = p.allocated_seconds - a.left
  if used >= p.next_used then pass_reached(a.account, p, used, a.now_ms, notices) end
end

-- R9, R17: a call is known while it is in progress; ended, or overtaken by its end, it is remembered for a while.
local function is_remembered(blob, now_ms, memory_ms)
  local kind = kind_of(blob)
  if kind == IN_PROGRESS then return true end
  if kind == ENDED then return now_ms - settled_at(blob) <= memory_ms end
  return now_ms - overtaken_at(blob) <= OVERTAKEN_MS
end
