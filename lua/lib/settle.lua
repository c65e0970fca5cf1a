-- Answers and ends: R3, R16, R17, R20.

-- May this asker speak of the call? Without a pool there are only emergencies (R30), which count from no pool.
local function speaks_for(a, blob, device)
  return blob and kind_of(blob) ~= OVERTAKEN and is_callers(blob, device)
    and (a.p or kind_of(blob) == ENDED or decode_in_progress(blob) == EMERGENCY_FLAG)
end

-- The first answer reported stands. Where calls count from it, the call's place in the sums moves with it.
local function note_answer(a, w, id, field, blob, device, ago_ms)
  if not speaks_for(a, blob, device) then return answer_code(CALL_UNKNOWN) end
  if kind_of(blob) == ENDED then return answer_code(NOTED) end
  local flags, admitted_at_ms, answered_at_ms, cycle_start_ms = decode_in_progress(blob)
  if answered_at_ms ~= 0 then return answer_code(NOTED) end
  local m, p = a.m, a.p
  answered_at_ms = max(admitted_at_ms, a.now_ms - ago_ms)
  write_call(w, field, in_progress_head(flags, admitted_at_ms, answered_at_ms, cycle_start_ms) .. payload_of(blob))
  pool_changed(a)
  if m.count_from == COUNT_FROM_ANSWER and flags ~= EMERGENCY_FLAG and admitted_at_ms >= a.cycle_start_ms then
    local billed = billed_seconds(m, a.now_ms - answered_at_ms)
    a.live_change = a.live_change + billed
    a.held_change = a.held_change + held_seconds(m, billed) - m.hold_seconds
    write_order(a, id, text(answered_at_ms))
    if answered_at_ms < p.folded_to_ms then
      p.folded, p.folded_ticks = p.folded + 1, p.folded_ticks + floor(answered_at_ms / m.increment_ms)
      local n = #a.phase_in
      a.phase_in[n + 1], a.phase_in[n + 2] = text(answered_at_ms % m.increment_ms), id
    end
  end
  return answer_code(NOTED)
end

-- Takes a call out of its pool's sums: it bills `billed` from now on, where it billed by its age so far.
local function leave_sums(a, id, origin_ms, billed)
  local m, p = a.m, a.p
  local live = origin_ms and billed_seconds(m, a.now_ms - origin_ms) or 0
  a.live_change = a.live_change - live
  a.held_change = a.held_change - held_seconds(m, live)
  p.settled_seconds = p.settled_seconds + billed
  p.counting = p.counting - 1
  if origin_ms and origin_ms < p.folded_to_ms then
    p.folded, p.folded_ticks = p.folded - 1, p.folded_ticks - floor(origin_ms / m.increment_ms)
    a.phase_out[#a.phase_out + 1] = id
  end
end

-- Settles a call in progress as ended at an instant, exactly once (R1-R3, R20), and answers with that.
local function settle(a, w, id, field, blob, ended_at_ms, ended_by)
  local m, p, now_ms = a.m, a.p, a.now_ms
  local flags, admitted_at_ms, answered_at_ms, cycle_start_ms = decode_in_progress(blob)
  local origin_ms, duration_ms, billed = origin_of(m, admitted_at_ms, answered_at_ms), 0, 0
  if origin_ms then duration_ms = max(0, ended_at_ms - origin_ms) end
  if flags == EMERGENCY_FLAG then
    if p then p.emergencies = p.emergencies - 1 end
  else
    billed = billed_seconds(m, duration_ms)
    p.calls = p.calls - 1
    if admitted_at_ms >= a.cycle_start_ms then leave_sums(a, id, origin_ms, billed) end
  end
  local ended = pack(ENDED_HEAD, ENDED, flags, ended_by, 1, admitted_at_ms, answered_at_ms, ended_at_ms, now_ms,
    cycle_start_ms, duration_ms, billed) .. sub(blob, IN_PROGRESS_PAYLOAD)
  write_call(w, field, ended)
  a.order_out[#a.order_out + 1] = id
  local n = #w.ended + 1
  w.ended[n], w.gone[n] = field, a.prefix .. device_of(blob) .. id
  w.items[#w.items + 1] = record_item(field, ended)
  pool_changed(a)
  return answer_settled(SETTLED, admitted_at_ms, ended_at_ms, duration_ms, billed, ended_by, 1, flags, remaining(a))
end

local function answer_settled_before(a, blob)
  local flags, ended_by, revision, admitted_at_ms, _, ended_at_ms, _, _, duration_ms, billed = decode_ended(blob)
  return answer_settled(SETTLED_BEFORE, admitted_at_ms, ended_at_ms, duration_ms, billed, ended_by, revision, flags,
    remaining(a))
end

-- An end that overtakes its start is kept, so that the start, when it comes, is refused.
local function end_call(a, w, id, field, blob, device, ago_ms)
  if not blob or kind_of(blob) == OVERTAKEN then
    write_call(w, field, pack(OVERTAKEN_HEAD, OVERTAKEN, a.now_ms))
    w.overtaken[#w.overtaken + 1] = field
    return answer_nothing('X', CALL_UNKNOWN)
  end
  if not speaks_for(a, blob, device) then return answer_nothing('X', CALL_UNKNOWN) end
  if kind_of(blob) == ENDED then return answer_settled_before(a, blob) end
  local _, admitted_at_ms, answered_at_ms = decode_in_progress(blob)
  return settle(a, w, id, field, blob, max(admitted_at_ms, answered_at_ms, a.now_ms - ago_ms), ENDED_BY_HANGUP)
end
