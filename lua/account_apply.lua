-- Makes an account's pool, or brings it in line with what SQL says of the account: status, plan and pending plan,
-- limits, members, the boundaries of its coming cycles. Told twice, or late, it changes nothing.
--
-- KEYS   of the account's shard: meta, calls, ended, overtaken, leases, alarms, records, notices;
--        of the account: pool, order, phase, members
-- ARGV   account, revision, status (0 active, 1 suspended); has a plan (0, 1), plan, allocated seconds, most concurrent
--        calls (-1: no limit), seats limit, channels limit; the same five of the pending plan, and the instant from
--        which it holds (ms; 0 none pending); seats used, channels used; seconds settled in the cycle that holds now,
--        that cycle's start (ms), and when 50, 80 and 100 % were passed in it (ms; 0 not), for a pool made anew; index of the first boundary, number of boundaries, the
--        boundaries (ms, ascending); the shard's epoch in which all this was read in SQL, after all that waited was saved there,
--        and calls were looked up (0 none: good for a pool that is there), number of those in progress that have ended there and
--        of those that were settled again, and these ("<account>/<call id>", the ended call's value); how long a call may
--        be in progress that nobody vouches for (ms), number of calls that came back since they had ended, and these in the same way; then the members
--        ("s/<staff>", "c/<channel>")
-- Reply  APPLIED or UNCHANGED, and the version; or SHARD_MISSING or SHARD_MOVED; or CYCLES_MISSING and the index of the cycle
--        from which on the boundaries are needed; or POOL_UNREADABLE; or ACCOUNT_UNREAD: the pool is to be made anew, and all that it is made from
--        must be read in this epoch first. Behind these two: run of the engine, epoch and seq of the shard
-- Rules  R9, R15, R18, R19, R21-R25, R28, R29
-- @flags allow-oom
-- @include shard
-- @include call
-- @include records
-- @include pool
-- @include order
-- @include live_use
-- @include leases
-- @include keys
-- @include thresholds
-- @include alarm
-- @include codes
-- @include open_pool

local shard_keys, keys = take_keys(SHARD_KEYS), take_keys(ACCOUNT_KEYS)
local taken = 0

local function take() taken = taken + 1 return ARGV[taken] end
local function take_number() return tonumber(take()) end
local function take_plan()
  return { plan = take(), allocated_seconds = take_number(), max_concurrent_calls = take_number(),
    seats_limit = take_number(), channels_limit = take_number() }
end

local account, revision, status, has_plan = take(), take_number(), take_number(), take_number()
local plan, pending = take_plan(), take_plan()
local pending_from_ms, seats_used, channels_used = take_number(), take_number(), take_number()
local settled_seconds, settled_cycle_start_ms = take_number(), take_number()
local passed_50_ms, passed_80_ms, passed_100_ms = take_number(), take_number(), take_number()
local first_index, boundaries = take_number(), {}
for i = 1, take_number() do boundaries[i] = take_number() end

local read_in_epoch, ended_calls = take_number(), {}
for i = 1, 2 * take_number() do ended_calls[i] = take() end
local unvouched_ms, reopened_calls = take_number(), {}
for i = 1, 2 * take_number() do reopened_calls[i] = take() end

local function boundary(index) return boundaries[index - first_index + 1] or 0 end

-- R18: the end of the running cycle stays as it is, whatever the time zone has become; later ones follow SQL.
local function set_coming_boundaries(p)
  p.next_1_ms, p.next_2_ms, p.next_3_ms =
    boundary(p.cycle_index + 2), boundary(p.cycle_index + 3), boundary(p.cycle_index + 4)
end

-- They are forgotten once they have been known for long enough.
local function note_ended(m, fields)
  if #fields == 0 then return end
  call('RPUSH', shard_keys[ENDED_KEY], text(m.now_ms) .. ' ' .. table.concat(fields, ' '))
end

-- What SQL knows to have ended does not go on, whatever the engine has forgotten of it, nor is it settled again from an
-- earlier settlement than SQL has. It is in the sum already. One that came back since that settlement goes on.
local function end_calls(m)
  local ended, left = {}, 0
  for i = 1, #ended_calls, 2 do
    local field, value = ended_calls[i], ended_calls[i + 1]
    local blob = call('HGET', shard_keys[CALLS_KEY], field)
    if blob and kind_of(blob) ~= OVERTAKEN then
      local c = decode_call(blob)
      local known = kind_of(blob) == ENDED and select(2, decode_end(blob)) or c.revision
      local _, revision = decode_end(value)
      if c.admitted_at_ms == decode_call(value).admitted_at_ms and known < revision then
        call('HSET', shard_keys[CALLS_KEY], field, value)
        ended[#ended + 1] = field
        left = left + call('ZREM', keys[ORDER_KEY], field)
      end
    end
  end
  note_ended(m, ended)
  m.in_progress = m.in_progress - left
end

-- What SQL knows to have come back goes on (R15), whatever the engine has forgotten of it: the sum is without it, and its next
-- record needs a higher revision than the one taken back. If its device comes no more, it ends as it had before.
local function let_go_on(m, p)
  local earlier = {}
  for i = 1, #reopened_calls, 2 do
    local field, value = reopened_calls[i], reopened_calls[i + 1]
    local blob = call('HGET', shard_keys[CALLS_KEY], field)
    if not blob or kind_of(blob) == OVERTAKEN then blob = value end
    local c, admitted_at_ms = decode_call(blob), decode_call(value).admitted_at_ms
    if kind_of(blob) == ENDED and c.admitted_at_ms ~= admitted_at_ms and settled_at(blob) <= admitted_at_ms then
      -- R9: it is what an older copy has of the call that had this id before.
      local name = field .. '/' .. text(c.admitted_at_ms)
      call('HSET', shard_keys[CALLS_KEY], name, blob)
      earlier[#earlier + 1], blob, c = name, value, decode_call(value)
    end
    local known = kind_of(blob) == ENDED and select(2, decode_end(blob))
    local _, revision, ended_at_ms = decode_end(value)
    -- The id may be another call's by now.
    local is_the_call = c.admitted_at_ms == admitted_at_ms
    if is_the_call and known and known <= revision then
      c.revision, c.lost, c.alive_ms, c.reap_at_ms = revision, LOST, ended_at_ms, real_now_ms + unvouched_ms
      c.owner = 0 -- it may be this connection that took it back: then it vouches for it again
      call('HSET', shard_keys[CALLS_KEY], field, encode_call(c, payload_of(blob)))
      call('ZADD', keys[ORDER_KEY], text(order_score(m, p, c.emergency, c.admitted_at_ms, c.answered_at_ms)), field)
      call('ZADD', shard_keys[LEASES_KEY], text(c.reap_at_ms), field)
      m.in_progress = m.in_progress + 1
    elseif is_the_call and not known and c.revision < revision then
      c.revision = revision
      call('HSET', shard_keys[CALLS_KEY], field, encode_call(c, payload_of(blob)))
    end
  end
  note_ended(m, earlier)
end

-- A pool made anew stands in the cycle that holds now. Calls in progress that outlived the pool are counted in, by the policy
-- in force, which need not be the one of the pool that was there (`before`, or nil).
local function new_pool(m, before)
  local index = first_index
  while boundary(index + 1) ~= 0 and boundary(index + 1) <= m.now_ms do index = index + 1 end
  if boundary(index) == 0 or boundary(index) > m.now_ms or boundary(index + 1) == 0 then return nil, first_index end
  local p = new_pool_table()
  p.made, p.epoch, p.version = true, m.epoch, m.now_ms
  p.cycle_index, p.cycle_start_ms, p.cycle_end_ms = index, boundary(index), boundary(index + 1)
  if p.cycle_start_ms == settled_cycle_start_ms then
    p.settled_seconds = settled_seconds
    p.passed_50_ms, p.passed_80_ms, p.passed_100_ms = passed_50_ms, passed_80_ms, passed_100_ms
  end
  p.folded_to_ms = p.cycle_start_ms
  p.free_seconds, p.increment_seconds, p.count_from = m.free_seconds, m.increment_seconds, m.count_from
  local order_key, start_ms = keys[ORDER_KEY], p.cycle_start_ms
  if before and before.count_from ~= p.count_from then sort_anew(m, p, order_key, shard_keys[CALLS_KEY]) end
  end_calls(m)
  let_go_on(m, p)
  local function count(from, to) return call('ZCOUNT', order_key, from, to) end
  p.emergencies = count(text(EMERGENCY_BASE), '+inf')
  p.calls = count('-inf', '(' .. text(EMERGENCY_BASE))
  p.counting = count(text(start_ms), '(' .. text(UNANSWERED_BASE))
    + count(text(UNANSWERED_BASE + start_ms), '(' .. text(EMERGENCY_BASE))
  call('UNLINK', keys[PHASE_KEY])
  return p
end

local function set_plan(p, from)
  p.plan, p.allocated_seconds, p.max_concurrent_calls = from.plan, from.allocated_seconds, from.max_concurrent_calls
  p.seats_limit, p.channels_limit = from.seats_limit, from.channels_limit
end

local function configure(p)
  p.revision, p.status, p.has_plan = revision, status, has_plan
  set_plan(p, plan)
  p.pending_plan, p.pending_from_ms, p.pending_allocated_seconds = pending.plan, pending_from_ms,
    pending.allocated_seconds
  p.pending_max_concurrent_calls = pending.max_concurrent_calls
  p.pending_seats_limit, p.pending_channels_limit = pending.seats_limit, pending.channels_limit
  take_pending_plan(p)
  p.seats_used, p.channels_used = seats_used, channels_used
end

local function replace_members()
  local members = {}
  for i = taken + 1, #ARGV do members[#members + 1] = ARGV[i] end
  call('UNLINK', keys[MEMBERS_KEY])
  call_variadic('SADD', keys[MEMBERS_KEY], members)
end

-- Cycles that are over turn by the boundaries that the pool remembers: whatever the time zone has become since, a cycle
-- that had begun keeps its end. The pool remembers three; where more cycles are over, SQL says the others. Are they all known?
local function can_turn_all(p, now_ms)
  local index, end_ms, remembered = p.cycle_index + 1, p.cycle_end_ms, { p.next_1_ms, p.next_2_ms, p.next_3_ms }
  while end_ms <= now_ms do
    index = index + 1
    end_ms = remembered[index - p.cycle_index - 1] or 0
    if end_ms == 0 then end_ms = boundary(index) end
    if end_ms == 0 then return false end
  end
  return true
end

local m, absent = open_shard(shard_keys[META_KEY])
local items, notices = new_items(), new_items()
if not m then return { absent, 0, run, 0, 0 } end

local p, missing_index = read_pool_at(keys[POOL_KEY]), nil
if p == false then return { POOL_UNREADABLE, 0, run, m.epoch, m.seq } end
local version_before = p and p.version or 0
if p and p.epoch == m.epoch then
  if not can_turn_all(p, m.now_ms) then return { CYCLES_MISSING, p.cycle_index, run, m.epoch, m.seq } end
  bring_up_pool(m, account, p, shard_keys, keys, items, notices, set_coming_boundaries)
  if revision >= p.revision then set_coming_boundaries(p) end
else
  -- What was read before lacks what was answered until then and is saved later.
  if read_in_epoch ~= m.epoch then return { ACCOUNT_UNREAD, 0, run, m.epoch, m.seq } end
  p, missing_index = new_pool(m, p)
  if not p then return { CYCLES_MISSING, missing_index, run, m.epoch, m.seq } end
  p.version = max(p.version, version_before)
  set_coming_boundaries(p)
  bring_up(m, p, keys[ORDER_KEY], keys[PHASE_KEY])
end

local used, is_newer = p.settled_seconds + p.live_billed, p.made or revision > p.revision
if is_newer then
  local plan_before, allocated_before = p.plan, p.allocated_seconds
  configure(p)
  replace_members()
  p.version, p.changed, p.jumped = p.version + 1, true, true
  if p.made or p.plan ~= plan_before or p.allocated_seconds ~= allocated_before then
    add_item(items, cycle_item(account, p))
  end
  if p.made then
    find_next_threshold(p)
  else
    if p.plan ~= plan_before then add_notice(notices, account, p, NOTICE_PLAN_CHANGED, 0, m.now_ms, used) end
    if p.allocated_seconds ~= allocated_before then
      rearm_thresholds(account, p, used, allocated_before > 0 and used >= allocated_before, m.now_ms, notices)
    end
  end
  pass_reached(account, p, used, m.now_ms, notices)
end
p.dirty = true
close_pool(m, account, p, shard_keys, keys, used)
append_items(m, shard_keys[RECORDS_KEY], items, notices)
save_shard(m)
return { is_newer and APPLIED or UNCHANGED, p.version, run, m.epoch, m.seq }
