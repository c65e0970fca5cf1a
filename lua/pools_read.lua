-- Reads pools as they are now, cycles turned and sums exact; it is also how a pool resets with nobody calling.
--
-- KEYS   for each shard: meta, calls, ended, overtaken, leases, alarms, records, notices;
--        then for each of its accounts: pool, order, phase, members
-- ARGV   number of shards, how many calls to list for each pool (0 to 100), 1 if this is what their alarms are for; for
--        each shard: its number of accounts, then their ids
-- Reply  an array with one array for each account:
--          READ, now, clock speed, policy ("free/increment/hold/count_from"), packed pool, live billed seconds,
--          live held seconds, when live use will have reached the allocation if just these calls go on (ms; 0 not in
--          this cycle, or no calls were to be listed), then id and packed call of each call in progress listed, newest
--          first;
--          or SHARD_MISSING, SHARD_MOVED, POOL_MISSING, CYCLES_MISSING or POOL_UNREADABLE alone
-- Rules  R4, R5, R7, R19, R20, R29
-- @flags allow-oom
-- @include shard
-- @include call
-- @include records
-- @include pool
-- @include order
-- @include live_use
-- @include keys
-- @include thresholds
-- @include alarm
-- @include codes
-- @include open_pool

local listed, is_alarm = tonumber(ARGV[2]), ARGV[3] == '1'
local at = 4

-- The newest calls in progress. Emergencies and unanswered calls sort behind the others: each kind's newest are
-- taken, and the newest of those.
local function newest_calls(m, account, order_key, calls_key)
  local ids, fields = {}, {}
  for _, range in ipairs({ { '+inf', text(EMERGENCY_BASE) }, { '(' .. text(EMERGENCY_BASE), text(UNANSWERED_BASE) },
    { '(' .. text(UNANSWERED_BASE), '-inf' } }) do
    local found = call('ZREVRANGEBYSCORE', order_key, range[1], range[2], 'LIMIT', 0, listed)
    for i = 1, #found do
      fields[#fields + 1] = found[i]
      ids[#ids + 1] = string.sub(found[i], #account + 2)
    end
  end
  if #ids == 0 then return {} end
  local blobs, calls = call('HMGET', calls_key, unpack(fields)), {}
  for i = 1, #ids do
    -- What stands in `order` and is no call is told by `callgate check`.
    if blobs[i] and is_whole(blobs[i]) and kind_of(blobs[i]) == IN_PROGRESS then
      calls[#calls + 1] = { id = ids[i], blob = blobs[i], admitted_at_ms = decode_call(blobs[i]).admitted_at_ms }
    end
  end
  table.sort(calls, function(one, other)
    if one.admitted_at_ms ~= other.admitted_at_ms then return one.admitted_at_ms > other.admitted_at_ms end
    return one.id > other.id
  end)
  return calls
end

-- R4: when the calls that are in progress now will have used up what is left. That it is, has been passed.
local function empty_at_ms(m, p, keys, used)
  if p.allocated_seconds == 0 then return 0 end
  if used >= p.allocated_seconds then return p.passed_100_ms end
  local last_ms = p.cycle_end_ms - 1
  if p.counting == 0 or used_at(m, p, keys, last_ms) < p.allocated_seconds then return 0 end
  return first_instant(m, p, keys, p.allocated_seconds, m.now_ms, last_ms)
end

local function read_pool(m, account, shard_keys, keys, items, notices)
  -- It must not break down when others' pools are written, and what SQL is to be told of them is not.
  local is_read, p, missing = pcall(open_pool, m, account, shard_keys, keys, items, notices)
  if not is_read then return { POOL_UNREADABLE } end
  if not p then return { missing } end
  local live_billed = p.live_billed
  local used = p.settled_seconds + live_billed
  if is_alarm then p.alarm_ms = 0 end
  close_pool(m, account, p, shard_keys, keys, used)
  local policy = m.free_seconds .. '/' .. m.increment_seconds .. '/' .. m.hold_seconds .. '/' .. m.count_from
  local speed = m.clock_mode == CLOCK_SIMULATED and m.clock_speed or 1
  local found = { READ, m.now_ms, speed, policy, encode_pool(p), live_billed,
    live_held_seconds(m, p, p.counting, p.folded, keys[ORDER_KEY], live_billed),
    listed > 0 and empty_at_ms(m, p, keys, used) or 0 }
  if listed > 0 then
    local calls = newest_calls(m, account, keys[ORDER_KEY], shard_keys[CALLS_KEY])
    for i = 1, min(listed, #calls) do
      found[#found + 1] = calls[i].id
      found[#found + 1] = calls[i].blob
    end
  end
  return found
end

local reply = {}
for _ = 1, tonumber(ARGV[1]) do
  local shard_keys = take_keys(SHARD_KEYS)
  local accounts = tonumber(ARGV[at])
  local m, absent = open_shard(shard_keys[META_KEY])
  local items, notices = new_items(), new_items()
  for i = 1, accounts do
    local keys = take_keys(ACCOUNT_KEYS)
    if m then
      reply[#reply + 1] = read_pool(m, ARGV[at + i], shard_keys, keys, items, notices)
    else
      reply[#reply + 1] = { absent }
    end
  end
  at = at + accounts + 1
  if m and m.written then
    append_items(m, shard_keys[RECORDS_KEY], items, notices)
    save_shard(m)
  end
end
return reply
