-- Answers and ends: R3, R16, R17, R20; what nobody vouches for is reaped: R13, R14.

-- May this asker speak of the call? Without a pool there are only emergencies (R30), which count from no pool.
local function speaks_for(a, blob, device)
  return is_callers(blob, device)
    and (a.p or kind_of(blob) == ENDED or decode_call(blob).emergency == 1)
end

-- R3: a call was answered. Where calls count from that, the call's place in the sums moves with it.
local function set_answered(a, field, c, payload, at_ms)
  local m, p = a.m, a.p
  c.answered_at_ms = max(c.admitted_at_ms, min(at_ms, a.now_ms))
  write_call(field, encode_call(c, payload))
  if m.count_from == COUNT_FROM_ANSWER and c.emergency == 0 and c.admitted_at_ms >= a.cycle_start_ms then
    p.jumped = true
    local billed = billed_seconds(m, a.now_ms - c.answered_at_ms)
    a.left = a.left - billed
    a.unheld = a.unheld - held_seconds(m, billed) + m.hold_seconds
    write_order(field, text(c.answered_at_ms))
    if c.answered_at_ms < p.folded_to_ms then
      p.folded, p.folded_ticks = p.folded + 1, p.folded_ticks + floor(c.answered_at_ms / m.increment_ms)
      write_phase(field, text(c.answered_at_ms % m.increment_ms))
    end
  end
  pool_changed(a)
end

-- The first answer reported stands.
local function note_answer(a, field, blob, device, ago_ms, connection)
  if not blob or kind_of(blob) == OVERTAKEN or not speaks_for(a, blob, device) then
    return answer_code(CALL_UNKNOWN)
  end
  local c = decode_call(blob)
  if is_superseded(blob, c.owner, connection) then return answer_code(CALL_ID_CONFLICT) end
  if kind_of(blob) == ENDED or c.answered_at_ms ~= 0 then return answer_code(NOTED) end
  set_answered(a, field, c, payload_of(blob), a.now_ms - ago_ms)
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

-- What a settlement billed is another amount now.
local function rebill(a, before, billed)
  a.left, a.unheld = a.left + before - billed, a.unheld + before - billed
  a.p.settled_seconds = a.p.settled_seconds - before + billed
  a.p.jumped = true
end

-- What a call bills that ended at that instant, how long it was, and what it is timed from.
local function bill(m, emergency, admitted_at_ms, answered_at_ms, ended_at_ms)
  local origin_ms = origin_of(m, admitted_at_ms, answered_at_ms)
  local duration_ms = origin_ms and ended_at_ms - origin_ms or 0
  return emergency == 1 and 0 or billed_seconds(m, duration_ms), duration_ms, origin_ms
end

-- Takes a call out of the calls in progress; `billed` is what it bills from now on.
local function leave_progress(a, field, emergency, admitted_at_ms, origin_ms, billed)
  local p = a.p
  if emergency == 1 then
    if p then p.emergencies = p.emergencies - 1 end
  else
    p.calls = p.calls - 1
    if admitted_at_ms >= a.cycle_start_ms then leave_sums(a, field, origin_ms, billed) end
  end
end

-- Settles a call in progress as ended so long ago, exactly once (R1-R3, R20), and answers with that; but not before it
-- was last known alive (R16), which is after it was admitted and answered. Without `ago_ms` it ended just then.
local function settle(a, field, blob, ago_ms, ended_by, emergency, lost, revision, admitted_at_ms, answered_at_ms, alive_ms)
  -- Of a call that has only just been made again it is lost when it was last known alive: its device says when it ended.
  local is_just_back = ago_ms and lost == RETURNED
  local ended_at_ms = is_just_back and max(admitted_at_ms, answered_at_ms)
    or last_alive_ms(a.m, lost, alive_ms, admitted_at_ms, answered_at_ms)
  if ago_ms then ended_at_ms = max(ended_at_ms, a.now_ms - ago_ms) end
  local billed, duration_ms, origin_ms = bill(a.m, emergency, admitted_at_ms, answered_at_ms, ended_at_ms)
  leave_progress(a, field, emergency, admitted_at_ms, origin_ms, billed)
  local value = ended_value(blob, ended_by, revision + 1, ended_at_ms, a.now_ms, duration_ms, billed)
  write_end(field, value)
  pool_changed(a)
  return answer_settled(SETTLED, value, remaining(a))
end

-- R15: could a call that was settled still come back?
local function may_return(a, ended_by, ended_at_ms)
  return ended_by ~= ENDED_BY_HANGUP and a.now_ms - ended_at_ms <= late_ms
end

-- R17: the client's first end of a call that was settled in its absence is a late return and an end in one.
local function settle_again(a, field, blob, ago_ms, revision, alive_ms, billed_before)
  local progress, c = sub(blob, ENDED_PROGRESS), decode_call(blob)
  local ended_at_ms = max(a.now_ms - ago_ms, alive_ms)
  local billed, duration_ms = bill(a.m, c.emergency, c.admitted_at_ms, c.answered_at_ms, ended_at_ms)
  if c.emergency == 0 and c.admitted_at_ms >= a.cycle_start_ms then rebill(a, billed_before, billed) end
  local value = ended_value(progress, ENDED_BY_HANGUP, revision + 1, ended_at_ms, a.now_ms, duration_ms, billed)
  write_resettled(field, value)
  pool_changed(a)
  return answer_settled(SETTLED, value, remaining(a))
end

-- An end that overtakes its start is kept, so that the start, when it comes, is refused. `found` is what SQL has of the
-- call ('' nothing), `told_ms` when it was answered (0 not), for an engine that has lost its answer (R3).
local function end_call(a, field, blob, device, told_ms, ago_ms, connection, found)
  if found ~= '' and (not blob or kind_of(blob) == OVERTAKEN) then blob = found end
  if not blob or kind_of(blob) == OVERTAKEN then
    write_overtaken(field, pack(OVERTAKEN_HEAD, OVERTAKEN, a.now_ms))
    return answer_nothing('X', CALL_UNKNOWN)
  end
  if not speaks_for(a, blob, device) then return answer_nothing('X', CALL_UNKNOWN) end
  local _, emergency, lost, _, revision, admitted_at_ms, answered_at_ms, _, _, alive_ms, owner = unpack_call(blob)
  if is_superseded(blob, owner, connection) then return answer_nothing('X', CALL_ID_CONFLICT) end
  if kind_of(blob) == ENDED then
    local ended_by, settled_revision, ended_at_ms, _, billed = decode_end(blob)
    if (a.p or emergency == 1) and may_return(a, ended_by, ended_at_ms) then
      return settle_again(a, field, blob, ago_ms, settled_revision, ended_at_ms, billed)
    end
    return answer_settled(SETTLED_BEFORE, blob, remaining(a))
  end
  if answered_at_ms == 0 and told_ms >= admitted_at_ms then
    local c, payload = decode_call(blob), payload_of(blob)
    set_answered(a, field, c, payload, told_ms)
    answered_at_ms, blob = c.answered_at_ms, encode_call(c, payload)
  end
  return settle(a, field, blob, ago_ms, ENDED_BY_HANGUP, emergency, lost, revision, admitted_at_ms, answered_at_ms,
    alive_ms)
end

-- R13, R14: settled as of when it was last known alive, and only if it is known that nobody vouches for it.
local function reap(a, field, blob)
  if not blob or kind_of(blob) ~= IN_PROGRESS then return answer_nothing('P', NOT_DUE) end
  local c = decode_call(blob)
  if real_now_ms < c.reap_at_ms or not is_steady(a.m) or not (a.p or c.emergency == 1) then
    return answer_nothing('P', NOT_DUE)
  end
  return settle(a, field, blob, nil, c.lost == LOST and ENDED_BY_CONNECTION_LOST or ENDED_BY_LEASE_EXPIRED, c.emergency,
    c.lost, c.revision, c.admitted_at_ms, c.answered_at_ms, c.alive_ms)
end
