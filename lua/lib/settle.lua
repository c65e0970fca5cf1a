-- Answers and ends: R3, R16, R17, R20.

-- May this asker speak of the call? Without a pool there are only emergencies (R30), which count from no pool.
local function speaks_for(a, blob, device)
  return is_callers(blob, device)
    and (a.p or kind_of(blob) == ENDED or decode_in_progress(blob) == EMERGENCY_FLAG)
end

-- The first answer reported stands. Where calls count from it, the call's place in the sums moves with it.
local function note_answer(a, field, blob, device, ago_ms)
  if not blob or kind_of(blob) == OVERTAKEN or not speaks_for(a, blob, device) then
    return answer_code(CALL_UNKNOWN)
  end
  if kind_of(blob) == ENDED then return answer_code(NOTED) end
  local flags, admitted_at_ms, answered_at_ms, cycle_start_ms, lease_until_ms = decode_in_progress(blob)
  if answered_at_ms ~= 0 then return answer_code(NOTED) end
  local m, p = a.m, a.p
  answered_at_ms = max(admitted_at_ms, a.now_ms - ago_ms)
  write_call(field, in_progress_head(flags, admitted_at_ms, answered_at_ms, cycle_start_ms, lease_until_ms)
    .. payload_of(blob))
  pool_changed(a)
  if m.count_from == COUNT_FROM_ANSWER and flags ~= EMERGENCY_FLAG and admitted_at_ms >= a.cycle_start_ms then
    local billed = billed_seconds(m, a.now_ms - answered_at_ms)
    a.left = a.left - billed
    a.unheld = a.unheld - held_seconds(m, billed) + m.hold_seconds
    write_order(field, text(answered_at_ms))
    if answered_at_ms < p.folded_to_ms then
      p.folded, p.folded_ticks = p.folded + 1, p.folded_ticks + floor(answered_at_ms / m.increment_ms)
      write_phase(field, text(answered_at_ms % m.increment_ms))
    end
  end
  return answer_code(NOTED)
end

-- Takes a call out of its pool's sums: it bills `billed` from now on, where it billed by its age so far.
local function leave_sums(a, field, origin_ms, billed)
  local m, p = a.m, a.p
  local live = origin_ms and billed_seconds(m, a.now_ms - origin_ms) or 0
  a.left = a.left + live - billed
  a.unheld = a.unheld + held_seconds(m, live) - billed
  p.settled_seconds = p.settled_seconds + billed
  p.counting = p.counting - 1
  if origin_ms and origin_ms < p.folded_to_ms then
    p.folded, p.folded_ticks = p.folded - 1, p.folded_ticks - floor(origin_ms / m.increment_ms)
    remove_phase(field)
  end
end

-- Settles a call in progress as ended at an instant, exactly once (R1-R3, R20), and answers with that. It ended after
-- it was admitted and answered, whatever is said (R16).
local function settle(a, field, blob, ended_at_ms, ended_by)
  local m, p = a.m, a.p
  local flags, admitted_at_ms, answered_at_ms = decode_in_progress(blob)
  ended_at_ms = max(ended_at_ms, admitted_at_ms, answered_at_ms)
  local origin_ms = origin_of(m, admitted_at_ms, answered_at_ms)
  local duration_ms, billed = origin_ms and ended_at_ms - origin_ms or 0, 0
  if flags == EMERGENCY_FLAG then
    if p then p.emergencies = p.emergencies - 1 end
  else
    billed = billed_seconds(m, duration_ms)
    p.calls = p.calls - 1
    if admitted_at_ms >= a.cycle_start_ms then leave_sums(a, field, origin_ms, billed) end
  end
  local value = ended_value(blob, ended_by, 1, ended_at_ms, a.now_ms, duration_ms, billed)
  write_end(field, value)
  pool_changed(a)
  return answer_settled(SETTLED, value, remaining(a))
end

-- An end that overtakes its start is kept, so that the start, when it comes, is refused.
local function end_call(a, field, blob, device, ago_ms)
  if not blob or kind_of(blob) == OVERTAKEN then
    write_overtaken(field, pack(OVERTAKEN_HEAD, OVERTAKEN, a.now_ms))
    return answer_nothing('X', CALL_UNKNOWN)
  end
  if not speaks_for(a, blob, device) then return answer_nothing('X', CALL_UNKNOWN) end
  if kind_of(blob) == ENDED then return answer_settled(SETTLED_BEFORE, blob, remaining(a)) end
  return settle(a, field, blob, a.now_ms - ago_ms, ENDED_BY_HANGUP)
end
