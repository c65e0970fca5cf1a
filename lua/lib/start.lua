-- Starts: R6-R10 and R30. `payload` is "<staff>/<device>|<channel>|<to>".

local function admit(a, field, payload, connection)
  local p, m = a.p, a.m
  if a.fresh_connection ~= connection then
    -- Most calls that a batch admits begin alike, and all of them sort alike.
    a.fresh_connection = connection
    a.fresh_head = pack(IN_PROGRESS_HEAD, IN_PROGRESS, 0, 0, 0, 0, a.now_ms, 0, a.cycle_start_ms,
      real_now_ms + lease_ms + grace_ms, real_now_ms, connection)
    a.fresh_score = a.fresh_score or text(order_score(m, p, 0, a.now_ms, 0))
  end
  write_start(field, a.fresh_head .. payload, a.fresh_score)
  p.calls, p.counting = p.calls + 1, p.counting + 1
  a.unheld = a.unheld - m.hold_seconds
  pool_changed(a)
end

-- R8, in its order from `account_suspended` on: the code of the first reason that applies, or nil.
local function refusal(a, staff, channel, is_destination)
  local p = a.p
  if p.status == SUSPENDED then return ACCOUNT_SUSPENDED end
  if not a.members[staff] then return STAFF_UNKNOWN end
  if channel ~= '' and not a.members[channel] then return CHANNEL_UNKNOWN end
  if p.allocated_seconds == 0 then return NO_CALLING_PLAN end
  if not is_destination then return DESTINATION_INVALID end
  if p.max_concurrent_calls ~= UNLIMITED and p.calls >= p.max_concurrent_calls then return TOO_MANY_CALLS end
  if remaining(a) == 0 then return MINUTES_EXHAUSTED end
  if is_held_up(a) then return MINUTES_HELD end
  return nil
end

-- R9: the same admission again. Who asks vouches for the call, too.
local function replay(a, field, blob, payload, c, connection)
  if may_vouch(c, connection) and not is_superseded(blob, c.owner, connection) then
    vouch(c, connection, real_now_ms)
    write_call(field, encode_call(c, payload))
  end
  return answer_start(REPLAYED, c.admitted_at_ms, remaining(a), c.cycle_start_ms)
end

local function start(a, field, blob, payload, staff, channel, is_destination, connection)
  if blob then
    if kind_of(blob) == IN_PROGRESS then
      local c = decode_call(blob)
      if payload_of(blob) ~= payload or is_superseded(blob, c.owner, connection) then
        return answer_start(CALL_ID_CONFLICT, 0, 0, 0)
      end
      return replay(a, field, blob, payload, c, connection)
    end
    if is_remembered(blob, a.now_ms, memory_ms) then return answer_start(CALL_ID_USED, 0, 0, 0) end
  end
  local reason = refusal(a, staff, channel, is_destination)
  if reason then return answer_start(reason, 0, remaining(a), 0) end
  admit(a, field, payload, connection)
  return answer_start(ADMITTED, a.now_ms, remaining(a), a.cycle_start_ms)
end

-- R20: the cycle of an emergency that is told of late may be over. Where it is not known, it counts as the running one's.
local function cycle_of_told(a, admitted_at_ms, cycle_start)
  return admitted_at_ms < a.cycle_start_ms and tonumber(cycle_start) or a.cycle_start_ms
end

-- `is_told`: it was admitted without the engine, and whether it goes on is not known.
local function admit_emergency(a, field, payload, admitted_at_ms, cycle_start_ms, connection, is_told)
  local p = a.p
  write_start(field, pack(IN_PROGRESS_HEAD, IN_PROGRESS, 1, is_told and 1 or 0, is_told and 1 or 0, 0, admitted_at_ms, 0,
    cycle_start_ms, real_now_ms + lease_ms + grace_ms, is_told and admitted_at_ms or real_now_ms, connection) .. payload,
    text(EMERGENCY_BASE + admitted_at_ms))
  if p then p.emergencies = p.emergencies + 1 end
  pool_changed(a)
end

-- Is the ended one another than the one of which a gateway tells, with the instant it let it through at? One told of before
-- has that instant. The engine may have admitted it all the same, and have settled it since, or just before (UNHEARD_MS);
-- one settled earlier is another.
local function is_another_emergency(blob, c, told_at_ms)
  return c.admitted_at_ms ~= told_at_ms and settled_at(blob) + UNHEARD_MS <= (told_at_ms or math.huge)
end

-- This emergency call, if it was already recorded under that id. A gateway that could not reach the engine tells of it
-- later, with the instant it was admitted at, perhaps after it ended, perhaps twice.
local function told_before(blob, payload, told_at_ms)
  if not blob or kind_of(blob) == OVERTAKEN or payload_of(blob) ~= payload then return nil end
  local c = decode_call(blob)
  if kind_of(blob) == ENDED and is_another_emergency(blob, c, told_at_ms) then return nil end
  return c.emergency == 1 and c or nil
end

-- The engine has carried out after all, and too late, what a gateway then admitted without it: its caller was told this
-- instant.
local function admit_as_told(a, field, c, payload, told_at_ms, cycle_start)
  c.admitted_at_ms, c.cycle_start_ms = told_at_ms, cycle_of_told(a, told_at_ms, cycle_start)
  write_call(field, encode_call(c, payload))
  write_order(field, text(EMERGENCY_BASE + told_at_ms))
  pool_changed(a)
end

-- R30: admitted whatever there is. Only an id that names another call makes it go by the fresh one.
local function start_emergency(a, field, blob, fresh_field, fresh_blob, payload, told_at, cycle_start, connection)
  local told_at_ms, is_fresh, known_blob = tonumber(told_at), 0, blob
  local before = told_before(blob, payload, told_at_ms)
  if not before and blob and is_remembered(blob, a.now_ms, memory_ms) then
    field, is_fresh, known_blob = fresh_field, 1, fresh_blob
    before = told_before(fresh_blob, payload, told_at_ms)
  end
  if before then
    -- A gateway that tells of it once more does not know either whether it goes on.
    local is_in_progress = kind_of(known_blob) == IN_PROGRESS
    if is_in_progress and not told_at_ms then
      replay(a, field, known_blob, payload, before, connection)
    else
      if is_in_progress and told_at_ms < before.admitted_at_ms and before.revision == 0 then
        admit_as_told(a, field, before, payload, told_at_ms, cycle_start)
      end
      answer_start(REPLAYED, before.admitted_at_ms, remaining(a), before.cycle_start_ms)
    end
  else
    local admitted_at_ms = min(told_at_ms or a.now_ms, a.now_ms)
    local cycle_start_ms = cycle_of_told(a, admitted_at_ms, cycle_start)
    admit_emergency(a, field, payload, admitted_at_ms, cycle_start_ms, connection, told_at_ms)
    answer_start(ADMITTED, admitted_at_ms, remaining(a), cycle_start_ms)
  end
  return answer_code(is_fresh)
end
