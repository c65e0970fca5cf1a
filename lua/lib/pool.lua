-- A pool's packed state (README.md, "pool"), its cycles (R18-R23) and the message that tells of its change.

local POOL = '<BBBdddddddddddddddddI4I4BdI4I4I4I4dddI4I4ss'
local POOL_LAYOUT = 2
local SUSPENDED = 1
local UNLIMITED = -1

-- A pool with every field that it will ever have: a table that grows is laid out anew again and again.
--   turned   its cycle turned in this script        changed  something of it did: a new version, and readers are told
--   dirty    its sums moved, and nothing else did   made     it was made in this script
local function new_pool_table()
  return {
    status = 0, has_plan = 0, epoch = 0, version = 0, revision = 0, allocated_seconds = 0, settled_seconds = 0,
    cycle_index = 0, cycle_start_ms = 0, cycle_end_ms = 0, next_1_ms = 0, next_2_ms = 0, next_3_ms = 0, folded = 0,
    folded_ticks = 0, folded_to_ms = 0, counting = 0, calls = 0, emergencies = 0, free_seconds = 0,
    increment_seconds = 0, count_from = 0, max_concurrent_calls = 0, seats_used = 0, seats_limit = 0,
    channels_used = 0, channels_limit = 0, pending_from_ms = 0, pending_allocated_seconds = 0,
    pending_max_concurrent_calls = 0, pending_seats_limit = 0, pending_channels_limit = 0, plan = '',
    pending_plan = '', turned = false, changed = false, dirty = false, made = false,
  }
end

local function decode_pool(packed)
  local p, layout = new_pool_table(), nil
  layout, p.status, p.has_plan, p.epoch, p.version, p.revision, p.allocated_seconds, p.settled_seconds, p.cycle_index,
    p.cycle_start_ms, p.cycle_end_ms, p.next_1_ms, p.next_2_ms, p.next_3_ms, p.folded, p.folded_ticks,
    p.folded_to_ms, p.counting, p.calls, p.emergencies, p.free_seconds, p.increment_seconds, p.count_from,
    p.max_concurrent_calls, p.seats_used, p.seats_limit, p.channels_used, p.channels_limit, p.pending_from_ms,
    p.pending_allocated_seconds, p.pending_max_concurrent_calls, p.pending_seats_limit, p.pending_channels_limit,
    p.plan, p.pending_plan = unpack_struct(POOL, packed)
  assert(layout == POOL_LAYOUT, 'CALLGATE pool has another layout')
  return p
end

local function encode_pool(p)
  return pack(POOL, POOL_LAYOUT, p.status, p.has_plan, p.epoch, p.version, p.revision, p.allocated_seconds,
    p.settled_seconds, p.cycle_index, p.cycle_start_ms, p.cycle_end_ms, p.next_1_ms, p.next_2_ms, p.next_3_ms,
    p.folded, p.folded_ticks, p.folded_to_ms, p.counting, p.calls, p.emergencies, p.free_seconds,
    p.increment_seconds, p.count_from, p.max_concurrent_calls, p.seats_used, p.seats_limit, p.channels_used,
    p.channels_limit, p.pending_from_ms, p.pending_allocated_seconds, p.pending_max_concurrent_calls,
    p.pending_seats_limit, p.pending_channels_limit, p.plan, p.pending_plan)
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

-- R19, R20: turns the cycles that are over, one by one, in the decoded state only. Appends an item for each to
-- `items`. Answers false, with the state useless, where the next boundary is not known: the gateway supplies it.
local function turn_cycles(account, p, now_ms, items)
  while now_ms >= p.cycle_end_ms do
    if p.next_1_ms == 0 then return false end
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
  return true
end

-- Saves a pool. The channel that carries its changes is named as its key, so both live on one shard.
local function save_pool(key, p)
  local packed = encode_pool(p)
  call('SET', key, packed)
  if p.changed then call('SPUBLISH', key, packed) end
end
