-- A pool's packed state (README.md, "pool"), its cycles (R18-R23) and the message that tells of its change.

local POOL = '<BBBdddddddddddddddddI4I4BdI4I4I4I4dddI4I4ss'
local POOL_LAYOUT = 2
-- Behind it, as text, what a gateway of the version before does not know, and leaves out when it writes the pool: when
-- the thresholds were passed (0 not yet), and the alarm that is set. All of it is found again.
local POOL_TAIL = '^(%d+) (%d+) (%d+) (%d+)$'
local SUSPENDED = 1
local UNLIMITED = -1

-- A pool with every field that it will ever have: a table that grows is laid out anew again and again.
--   turned   its cycle turned in this script        changed  something of it did: a new version, and readers are told
--   dirty    its sums moved, and nothing else did   made     it was made in this script
-- and of lib/thresholds.lua:
--   next_used    how much is used when the next threshold is passed     live_billed   R4, at now, before any operation
--   jumped       live use may be higher in the next moment than it was to be when the alarm was set
--   announced    what is told to the devices of the account (R11)       since_ms      since when the policy holds
local function new_pool_table()
  return {
    status = 0, has_plan = 0, epoch = 0, version = 0, revision = 0, allocated_seconds = 0, settled_seconds = 0,
    cycle_index = 0, cycle_start_ms = 0, cycle_end_ms = 0, next_1_ms = 0, next_2_ms = 0, next_3_ms = 0, folded = 0,
    folded_ticks = 0, folded_to_ms = 0, counting = 0, calls = 0, emergencies = 0, free_seconds = 0,
    increment_seconds = 0, count_from = 0, max_concurrent_calls = 0, seats_used = 0, seats_limit = 0,
    channels_used = 0, channels_limit = 0, pending_from_ms = 0, pending_allocated_seconds = 0,
    pending_max_concurrent_calls = 0, pending_seats_limit = 0, pending_channels_limit = 0, plan = '',
    pending_plan = '', turned = false, changed = false, dirty = false, made = false,
    passed_50_ms = 0, passed_80_ms = 0, passed_100_ms = 0, alarm_ms = 0, next_used = math.huge, live_billed = 0,
    jumped = false, announced = false, since_ms = 0,
  }
end

local function decode_pool(packed)
  local p, layout, tail_at = new_pool_table(), nil, nil
  layout, p.status, p.has_plan, p.epoch, p.version, p.revision, p.allocated_seconds, p.settled_seconds, p.cycle_index,
    p.cycle_start_ms, p.cycle_end_ms, p.next_1_ms, p.next_2_ms, p.next_3_ms, p.folded, p.folded_ticks,
    p.folded_to_ms, p.counting, p.calls, p.emergencies, p.free_seconds, p.increment_seconds, p.count_from,
    p.max_concurrent_calls, p.seats_used, p.seats_limit, p.channels_used, p.channels_limit, p.pending_from_ms,
    p.pending_allocated_seconds, p.pending_max_concurrent_calls, p.pending_seats_limit, p.pending_channels_limit,
    p.plan, p.pending_plan, tail_at = unpack_struct(POOL, packed)
  assert(layout == POOL_LAYOUT, 'CALLGATE pool has another layout')
  if tail_at <= #packed then
    local passed_50, passed_80, passed_100, alarm = string.match(packed, POOL_TAIL, tail_at)
    assert(alarm, 'CALLGATE pool has another tail')
    p.passed_50_ms, p.passed_80_ms, p.passed_100_ms, p.alarm_ms =
      tonumber(passed_50), tonumber(passed_80), tonumber(passed_100), tonumber(alarm)
  end
  return p
end

-- The pool at a key: nil where there is none, false where it is not what this version writes. Nothing is written round
-- this, and what stands there is left as it is.
local function read_pool_at(key)
  local packed = redis.pcall('GET', key)
  if not packed then return nil end
  local is_decoded, p = pcall(decode_pool, packed)
  return is_decoded and p
end

local function encode_pool(p)
  return pack(POOL, POOL_LAYOUT, p.status, p.has_plan, p.epoch, p.version, p.revision, p.allocated_seconds,
    p.settled_seconds, p.cycle_index, p.cycle_start_ms, p.cycle_end_ms, p.next_1_ms, p.next_2_ms, p.next_3_ms,
    p.folded, p.folded_ticks, p.folded_to_ms, p.counting, p.calls, p.emergencies, p.free_seconds,
    p.increment_seconds, p.count_from, p.max_concurrent_calls, p.seats_used, p.seats_limit, p.channels_used,
    p.channels_limit, p.pending_from_ms, p.pending_allocated_seconds, p.pending_max_concurrent_calls,
    p.pending_seats_limit, p.pending_channels_limit, p.plan, p.pending_plan)
    .. string.format('%.0f %.0f %.0f %.0f', p.passed_50_ms, p.passed_80_ms, p.passed_100_ms, p.alarm_ms)
end

-- A pending plan that is due takes the plan's place (R23). Tells whether it did.
local function take_pending_plan(p)
  if p.pending_from_ms == 0 or p.pending_from_ms > p.cycle_start_ms then return false end
  p.plan, p.has_plan, p.allocated_seconds = p.pending_plan, 1, p.pending_allocated_seconds
  p.max_concurrent_calls = p.pending_max_concurrent_calls
  p.seats_limit, p.channels_limit = p.pending_seats_limit, p.pending_channels_limit
  p.pending_plan, p.pending_from_ms, p.pending_allocated_seconds = '', 0, 0
  p.pending_max_concurrent_calls, p.pending_seats_limit, p.pending_channels_limit = UNLIMITED, 0, 0
  return true
end

-- What SQL is told of a cycle: that it began, or that its allocation changed (R22).
local function cycle_item(account, p)
  return pack('<BI2c0I2c0Bdddd', 67, #account, account, #p.plan, p.plan, p.has_plan, p.cycle_index, -- C
    p.cycle_start_ms, p.cycle_end_ms, p.allocated_seconds)
end

-- Are all boundaries known that lie before `now`? Else the gateway supplies them, before anything is done.
local function can_turn(p, now_ms)
  if now_ms < p.cycle_end_ms then return true end
  for _, end_ms in ipairs({ p.next_1_ms, p.next_2_ms, p.next_3_ms }) do
    if now_ms < end_ms then return true end
  end
  return false
end

-- R19, R20: the next cycle begins. Appends its item to `items`.
local function turn_cycle(account, p, items)
  p.cycle_index = p.cycle_index + 1
  p.cycle_start_ms, p.cycle_end_ms = p.cycle_end_ms, p.next_1_ms
  p.next_1_ms, p.next_2_ms, p.next_3_ms = p.next_2_ms, p.next_3_ms, 0
  take_pending_plan(p)
  p.settled_seconds, p.counting = 0, 0
  p.folded, p.folded_ticks, p.folded_to_ms = 0, 0, p.cycle_start_ms
  p.version = p.version + 1
  p.turned, p.changed = true, true
  add_item(items, cycle_item(account, p))
end

-- Saves a pool. The channel on which it is told that it changed is named as its key, so both live on one shard; who
-- wants to know more reads it.
local function save_pool(key, p)
  call('SET', key, encode_pool(p))
  if p.changed then call('SPUBLISH', key, text(p.version)) end
end
