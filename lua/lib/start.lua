-- Starts: R6-R10 and R30. `payload` is "<staff>/<device>|<channel>|<to>".

local function admit(a, field, payload)
  local p, m = a.p, a.m
  if not a.fresh_head then
    -- All calls that a batch admits begin alike.
    a.fresh_head = in_progress_head(0, a.now_ms, 0, a.cycle_start_ms, lease_until_ms)
    a.fresh_score = text(order_score(m, p, 0, a.now_ms, 0))
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

local function start(a, field, blob, payload, staff, channel, is_destination)
  if blob then
    if kind_of(blob) == IN_PROGRESS then
      if payload_of(blob) ~= payload then return answer_start(CALL_ID_CONFLICT, 0, 0) end
      local _, admitted_at_ms = decode_in_progress(blob)
      return answer_start(REPLAYED, admitted_at_ms, remaining(a))
    end
    if is_remembered(blob, a.now_ms, memory_ms) then return answer_start(CALL_ID_USED, 0, 0) end
  end
  local reason = refusal(a, staff, channel, is_destination)
  if reason then return answer_start(reason, 0, remaining(a)) end
  admit(a, field, payload)
  return answer_start(ADMITTED, a.now_ms, remaining(a))
end

local function admit_emergency(a, field, payload, admitted_at_ms)
  local p = a.p
  write_start(field, in_progress_head(EMERGENCY_FLAG, admitted_at_ms, 0, a.cycle_start_ms, lease_until_ms) .. payload,
    text(EMERGENCY_BASE + admitted_at_ms))
  if p then p.emergencies = p.emergencies + 1 end
  pool_changed(a)
end

-- When this emergency call was admitted, if it was already recorded under that id. A gateway that could not reach the
-- engine tells of it later, with the instant it was admitted at, perhaps after it ended, perhaps twice.
local function told_before(blob, payload, told_at_ms)
  if not blob or kind_of(blob) == OVERTAKEN or payload_of(blob) ~= payload then return nil end
  local is_ended = kind_of(blob) == ENDED
  local flags, admitted_at_ms = decode_in_progress(blob, is_ended and ENDED_PROGRESS)
  if is_ended and admitted_at_ms ~= told_at_ms then return nil end
  return flags == EMERGENCY_FLAG and admitted_at_ms or nil
end

-- R30: admitted whatever there is. Only an id that names another call makes it go by the fresh one.
local function start_emergency(a, field, blob, fresh_field, fresh_blob, payload, told_at)
  local told_at_ms, is_fresh = tonumber(told_at), 0
  local before_ms = told_before(blob, payload, told_at_ms)
  if not before_ms and blob and is_remembered(blob, a.now_ms, memory_ms) then
    field, is_fresh = fresh_field, 1
    before_ms = told_before(fresh_blob, payload, told_at_ms)
  end
  if before_ms then
    answer_start(REPLAYED, before_ms, remaining(a))
  else
    local admitted_at_ms = min(told_at_ms or a.now_ms, a.now_ms)
    admit_emergency(a, field, payload, admitted_at_ms)
    answer_start(ADMITTED, admitted_at_ms, remaining(a))
  end
  return answer_code(is_fresh)
end
