-- A shard's meta: its epoch, its clock, the policy, and whether it can be relied on, one packed string (README.md,
-- "meta").

local call, floor, ceil, max, min = redis.call, math.floor, math.ceil, math.max, math.min
local pack, unpack_struct = struct.pack, struct.unpack

local META = '<BddddI4I4I4BBdddddddddd'
local META_LAYOUT = 2
local COUNT_FROM_ADMISSION = 0
local COUNT_FROM_ANSWER = 1
local CLOCK_SIMULATED = 1

local server_time = call('TIME')
-- Real time: leases and new simulated clocks run on it; everything billed runs on a shard's `now`.
local real_now_ms = server_time[1] * 1000 + floor(server_time[2] / 1000)

-- Which process of an engine this is, as a number. Another one (restarted, failed over to, restored) may lack what was
-- written last, and decides nothing before a gateway has compared it with what it saw (shards_open).
local run = tonumber(string.match(call('INFO', 'server'), 'run_id:(%x%x%x%x%x%x%x%x%x%x%x%x)'), 16)

local function decode_meta(packed)
  local m = { key = false, now_ms = 0, written = false, epoch = 0, seq = 0, latest_ms = 0, records = 0,
    free_seconds = 0, increment_seconds = 0, hold_seconds = 0, count_from = 0, clock_mode = 0, clock_base_ms = 0,
    clock_real_ms = 0, clock_speed = 0, in_progress = 0, connections = 0, beat_ms = 0, steady_ms = 0, run = 0,
    run_before = 0, run_seq = 0, free_ms = 0, increment_ms = 0 }
  local layout
  layout, m.epoch, m.seq, m.latest_ms, m.records, m.free_seconds, m.increment_seconds, m.hold_seconds,
    m.count_from, m.clock_mode, m.clock_base_ms, m.clock_real_ms, m.clock_speed, m.in_progress, m.connections, m.beat_ms,
    m.steady_ms, m.run, m.run_before, m.run_seq = unpack_struct(META, packed)
  assert(layout == META_LAYOUT, 'CALLGATE meta has another layout')
  m.free_ms, m.increment_ms = m.free_seconds * 1000, m.increment_seconds * 1000
  return m
end

local function encode_meta(m)
  return pack(META, META_LAYOUT, m.epoch, m.seq, m.latest_ms, m.records, m.free_seconds, m.increment_seconds,
    m.hold_seconds, m.count_from, m.clock_mode, m.clock_base_ms, m.clock_real_ms, m.clock_speed, m.in_progress,
    m.connections, m.beat_ms, m.steady_ms, m.run, m.run_before, m.run_seq)
end

-- What the billing clock shows at a real instant. What was before a simulated clock was last moved counts as of where
-- it was moved to: moving the clock ends no call.
local function billing_ms(m, real_ms)
  if m.clock_mode ~= CLOCK_SIMULATED then return real_ms end
  return m.clock_base_ms + max(0, real_ms - m.clock_real_ms) * m.clock_speed
end

-- The shard's billing time. A clock behind the latest instant used (after a failover) reads as that instant.
local function shard_now_ms(m)
  return max(billing_ms(m, real_now_ms), m.latest_ms)
end

-- The shard's meta with `now_ms` set, whichever process this is, or nil where the shard was never built (or was lost).
local function peek_shard(meta_key)
  local packed = call('GET', meta_key)
  if not packed then return nil end
  local m = decode_meta(packed)
  m.key, m.now_ms = meta_key, shard_now_ms(m)
  return m
end

-- The same to work with; or nil and SHARD_MISSING, or SHARD_MOVED where this process has not been compared yet.
local function open_shard(meta_key)
  local m = peek_shard(meta_key)
  if not m then return nil, SHARD_MISSING end
  if m.run ~= run then return nil, SHARD_MOVED end
  return m
end

-- Does this run so late that whoever sent it has long given up waiting, and may have sent it again? An engine that was
-- stopped, or a network, delivers such things when all that they say of "now" is wrong. `until_ms`: real time, 0 whenever.
local function is_too_late(until_ms)
  return until_ms ~= 0 and real_now_ms > until_ms
end

-- Every script that writes to a shard ends with this: it tells how far the shard has come.
local function save_shard(m)
  m.seq, m.latest_ms = m.seq + 1, m.now_ms
  call('SET', m.key, encode_meta(m))
end

-- A whole number as text; `tostring` would round from 1e14 on.
local function text(number)
  return string.format('%.0f', number)
end

-- Lua's `unpack` fails near 8,000 values; commands of many arguments go out in pieces of this many.
local PIECE = 4000

-- The first `count` arguments, all of them by default.
local function call_variadic(command, key, arguments, count)
  count = count or #arguments
  if count == 0 then return end
  for first = 1, count, PIECE do
    call(command, key, unpack(arguments, first, min(first + PIECE - 1, count)))
  end
end
