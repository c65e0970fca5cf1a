-- Calls that come back: R13 and R15; and what the engine has lost and is told again: R26, R28.

-- Puts a call among those in progress, where it was not: it held nothing, and billed `billed_before` until now. `earlier`
-- is the value of the call whose id it was, if any.
local function enter_progress(a, field, c, payload, billed_before, earlier)
  local m, p = a.m, a.p
  if earlier then write_earlier(field, earlier) end
  write_start(field, encode_call(c, payload), text(order_score(m, p, c.emergency, c.admitted_at_ms, c.answered_at_ms)))
  if c.emergency == 1 then
    if p then p.emergencies = p.emergencies + 1 end
    return pool_changed(a)
  end
  p.calls = p.calls + 1
  if c.admitted_at_ms < a.cycle_start_ms then return pool_changed(a) end
  local origin_ms = origin_of(m, c.admitted_at_ms, c.answered_at_ms)
  local live = origin_ms and billed_seconds(m, a.now_ms - origin_ms) or 0
  p.counting = p.counting + 1
  p.settled_seconds = p.settled_seconds - billed_before
  a.left = a.left + billed_before - live
  a.unheld = a.unheld + billed_before - held_seconds(m, live)
  if origin_ms and origin_ms < p.folded_to_ms then
    p.folded, p.folded_ticks = p.folded + 1, p.folded_ticks + floor(origin_ms / m.increment_ms)
    write_phase(field, text(origin_ms % m.increment_ms))
  end
  p.jumped = true
  pool_changed(a)
end

-- R15: its settlement is taken back, and it goes on from its original start.
local function take_back(a, field, blob, c, connection, earlier)
  if not (a.p or c.emergency == 1) then return answer_resumed(CALL_UNKNOWN, '') end
  local ended_by, revision, ended_at_ms, _, billed = decode_end(blob)
  if not may_return(a, ended_by, ended_at_ms) then return answer_resumed(CALL_ID_USED, '') end
  local payload = payload_of(blob)
  c.revision = revision
  vouch(c, connection, real_now_ms)
  enter_progress(a, field, c, payload, billed, earlier)
  add_reopened(items, field, c)
  return answer_resumed(TAKEN_BACK, encode_call(c, payload))
end

-- R28: a call that the engine has lost, or was not there to admit, made again by what its receipt or its gateway says,
-- unchecked. Of one that counts as lost it is not known whether it goes on: its gateway says when it was last known alive
-- (billing time, 0 not since it was admitted).
local function restore(a, field, found, connection, earlier)
  local c, payload = decode_call(found), payload_of(found)
  c.admitted_at_ms = min(c.admitted_at_ms, a.now_ms)
  c.answered_at_ms = min(c.answered_at_ms, a.now_ms)
  if c.admitted_at_ms >= a.cycle_start_ms then c.cycle_start_ms = a.cycle_start_ms end
  if c.lost == LOST then
    c.reap_at_ms = real_now_ms + lease_ms + grace_ms
    c.alive_ms = max(c.admitted_at_ms, min(c.alive_ms, a.now_ms))
  else
    vouch(c, connection, real_now_ms)
    if c.revision == 0 then c.lost = RETURNED end
  end
  enter_progress(a, field, c, payload, 0, earlier)
  return answer_resumed(RESUMED, encode_call(c, payload))
end

-- R9: is it another call than the one of which this tells, settled before that was admitted? Else it is the same one, though
-- a gateway that let it through without the engine may tell another instant of its admission than the engine knows: up to
-- UNHEARD_MS after its end.
local function is_an_earlier_call(blob, told)
  if kind_of(blob) ~= ENDED then return false end
  local c = decode_call(told)
  local unheard_ms = c.offline == 1 and payload_of(blob) == payload_of(told) and UNHEARD_MS or 0
  return settled_at(blob) + unheard_ms <= c.admitted_at_ms and decode_call(blob).admitted_at_ms ~= c.admitted_at_ms
end

-- R28: was SQL asked in another epoch than this (0 any)? The pool was made from what SQL has had since.
local function is_outdated(a, epoch) return epoch ~= 0 and epoch ~= a.m.epoch end

-- `found` is for a call that is not known here ('' nothing): what SQL has of it, or what its receipt says; `epoch` that in
-- which SQL was asked.
local function resume(a, field, blob, device, connection, found, epoch)
  if is_outdated(a, epoch) then return answer_resumed(ACCOUNT_UNREAD, '') end
  local earlier
  if blob and found ~= '' and is_an_earlier_call(blob, found) then blob, earlier = nil, blob end
  local is_known = blob and is_remembered(blob, a.now_ms, memory_ms)
  if found ~= '' and not (is_known and kind_of(blob) ~= OVERTAKEN) then
    if kind_of(found) == IN_PROGRESS then
      if not speaks_for(a, found, device) then return answer_resumed(CALL_UNKNOWN, '') end
      return restore(a, field, found, connection, earlier)
    end
    if not blob or kind_of(blob) == OVERTAKEN then blob = found end
  end
  if not blob then return answer_resumed(CALL_UNKNOWN, '') end
  if kind_of(blob) == OVERTAKEN then return answer_resumed(is_known and CALL_ID_USED or CALL_UNKNOWN, '') end
  if not speaks_for(a, blob, device) then return answer_resumed(CALL_UNKNOWN, '') end
  local c = decode_call(blob)
  if is_superseded(blob, c.owner, connection) then return answer_resumed(CALL_ID_CONFLICT, '') end
  -- A gateway that tells what it let through does not know whether it goes on: it vouches for nothing.
  local told = found ~= '' and kind_of(found) == IN_PROGRESS and decode_call(found)
  local is_told = told and told.lost == LOST
  if kind_of(blob) == ENDED then
    if is_told then return answer_resumed(CALL_ID_USED, '') end
    return take_back(a, field, blob, c, connection, earlier)
  end
  if told and c.answered_at_ms == 0 and told.answered_at_ms >= c.admitted_at_ms then
    -- All that the engine has lost of it is its answer (R3), which its client will not tell again.
    set_answered(a, field, c, payload_of(blob), told.answered_at_ms)
  end
  if not is_told and may_vouch(c, connection) then
    vouch(c, connection, real_now_ms)
    write_call(field, encode_call(c, payload_of(blob)))
  elseif is_told and c.lost == LOST and told.alive_ms > c.alive_ms then
    -- Another gateway told of it that has not heard of it for longer.
    c.alive_ms = min(told.alive_ms, a.now_ms)
    write_call(field, encode_call(c, payload_of(blob)))
  end
  return answer_resumed(RESUMED, encode_call(c, payload_of(blob)))
end

-- R17: did the call's client say in this settlement that it ended, before the call ended as it is known here, or was it
-- settled in its absence here? Its words came a second time after the first were lost, or nobody vouched for the call meanwhile.
-- What comes late ends later than it should have, never earlier: so the earliest end stands, whoever tells of it first.
local function is_earlier_end(value, blob)
  if kind_of(blob) ~= ENDED or not has_hung_up(value) then return false end
  return not has_hung_up(blob) or select(3, decode_end(value)) < select(3, decode_end(blob))
end

-- R26: a settlement that a gateway was answered, and that may have been lost since. `is_saved`: SQL has its record, or
-- another one of that revision. `billed_before` is what SQL's record of the call billed, and so what the pool, which was made
-- from SQL in the epoch `epoch`, has in its sum. `earlier_blob` is what is known of just that call if its id is a later one's by now (R9), under
-- `earlier_field`.
local function retell(a, name, blob, earlier_field, earlier_blob, value, is_saved, billed_before, epoch)
  if is_outdated(a, epoch) then return answer_code(ACCOUNT_UNREAD) end
  local told, field = decode_call(value), name
  local _, revision, _, _, billed = decode_end(value)
  local counts = a.p and told.emergency == 0 and told.admitted_at_ms >= a.cycle_start_ms
  if blob and kind_of(blob) == OVERTAKEN then blob = nil end
  if not blob or decode_call(blob).admitted_at_ms ~= told.admitted_at_ms then
    if earlier_blob or blob and is_an_earlier_call(value, blob) then
      field, blob = earlier_field, earlier_blob
    elseif blob and is_an_earlier_call(blob, value) then
      write_earlier(name, blob)
      blob = nil
    end
  end
  if blob then
    local c = decode_call(blob)
    local known = kind_of(blob) == ENDED and select(2, decode_end(blob)) or c.revision
    local is_first_end = known == revision and is_earlier_end(value, blob)
    -- It is known, or the same call with another instant of its admission is.
    if known >= revision and not is_first_end or c.admitted_at_ms ~= told.admitted_at_ms then
      return answer_code(NOTED)
    end
    if kind_of(blob) == ENDED then
      local before = is_saved and billed_before or select(5, decode_end(blob))
      if is_first_end then value, is_saved = with_revision(value, revision + 1), false end
      if counts and not is_saved then rebill(a, before, billed) end
      write_resettled(field, value, is_saved, name)
    elseif a.p or c.emergency == 1 then
      leave_progress(a, field, c.emergency, c.admitted_at_ms, origin_of(a.m, c.admitted_at_ms, c.answered_at_ms), billed)
      if counts and is_saved then rebill(a, billed, 0) end
      write_end(field, value, is_saved)
    end
  else
    if counts and not is_saved then rebill(a, billed_before, billed) end
    write_resettled(field, value, is_saved, name)
  end
  pool_changed(a)
  return answer_code(NOTED)
end
