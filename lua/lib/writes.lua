-- What the operations write, gathered so that each key is written with as few commands as possible. What is gathered
-- is kept in these locals, and not in tables of tables: they are met several times for every operation.

-- Of a section: arguments of HSET `calls`; calls that were given a lease, that ended, and that an end overtook; items
-- and notices of `records`.
local values, valued = {}, 0
local leased, leases_given = {}, 0
local ended, calls_ended = {}, 0
local calls_left = 0
local overtaken, calls_overtaken = {}, 0
local items, notices = new_items(), new_items()

-- Of an account: arguments of ZADD and ZREM `order` and `phase`.
local order_in, order_added = {}, 0
local order_out, order_removed = {}, 0
local phase_in, phase_added = {}, 0
local phase_out, phase_removed = {}, 0

local function write_call(field, value)
  values[valued + 1], values[valued + 2] = field, value
  valued = valued + 2
end

-- A call begins: its value, its place in `order` and its lease (R12).
local function write_start(field, value, score)
  write_call(field, value)
  order_in[order_added + 1], order_in[order_added + 2] = score, field
  order_added = order_added + 2
  leases_given = leases_given + 1
  leased[leases_given] = field
end

-- A call that is in progress no more has another settlement: its value and its record (if SQL does not have that), which
-- goes by the call's name where its value stands elsewhere.
local function write_resettled(field, value, is_saved, name)
  write_call(field, value)
  if not is_saved then add_record(items, name or field, value) end
  calls_ended = calls_ended + 1
  ended[calls_ended] = field
end

-- A call ends: the same, and its places in the indexes.
local function write_end(field, value, is_saved)
  write_resettled(field, value, is_saved)
  order_removed, calls_left = order_removed + 1, calls_left + 1
  order_out[order_removed] = field
end

-- Its id is a later call's from now on.
local function write_earlier(field, value)
  write_resettled(field .. '/' .. text(decode_call(value).admitted_at_ms), value, true)
end

-- An end came before its start.
local function write_overtaken(field, value)
  write_call(field, value)
  calls_overtaken = calls_overtaken + 1
  overtaken[calls_overtaken] = field
end

local function write_order(field, score)
  order_in[order_added + 1], order_in[order_added + 2] = score, field
  order_added = order_added + 2
end

local function write_phase(field, phase)
  phase_in[phase_added + 1], phase_in[phase_added + 2] = phase, field
  phase_added = phase_added + 2
end

local function remove_phase(field)
  phase_removed = phase_removed + 1
  phase_out[phase_removed] = field
end

-- What begins and ends in one batch is added first, and leaves nothing behind.
local function write_account(keys)
  call_variadic('ZADD', keys[ORDER_KEY], order_in, order_added)
  call_variadic('ZREM', keys[ORDER_KEY], order_out, order_removed)
  call_variadic('ZADD', keys[PHASE_KEY], phase_in, phase_added)
  call_variadic('ZREM', keys[PHASE_KEY], phase_out, phase_removed)
  order_added, order_removed, phase_added, phase_removed = 0, 0, 0, 0
end

-- `leases`, `ended` and `overtaken` take one entry for each script, which names all the calls: the first by the
-- instant at which they could be reaped, the others behind the instant of now.
local function write_section(m, keys)
  call_variadic('HSET', keys[CALLS_KEY], values, valued)
  if leases_given > 0 then
    call('ZADD', keys[LEASES_KEY], text(real_now_ms + lease_ms + grace_ms), table.concat(leased, ' ', 1, leases_given))
  end
  if calls_ended > 0 then
    call('RPUSH', keys[ENDED_KEY], text(m.now_ms) .. ' ' .. table.concat(ended, ' ', 1, calls_ended))
  end
  if calls_overtaken > 0 then
    call('RPUSH', keys[OVERTAKEN_KEY], text(m.now_ms) .. ' ' .. table.concat(overtaken, ' ', 1, calls_overtaken))
  end
  append_items(m, keys[RECORDS_KEY], items, notices)
  if valued > 0 then m.written = true end
  m.in_progress = m.in_progress + leases_given - calls_left
  valued, leases_given, calls_ended, calls_left, calls_overtaken = 0, 0, 0, 0, 0
  items, notices = new_items(), new_items()
end
