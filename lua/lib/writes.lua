-- What a section's accounts write, gathered so that each key is written with as few commands as possible.

local function new_writes(m, lease_until_ms)
  return { now = text(m.now_ms), lease_until = text(lease_until_ms), calls = {}, leases = {}, devices = {}, ended = {},
    gone = {}, overtaken = {}, items = {} }
end

-- A call's value.
local function write_call(w, field, blob)
  local calls = w.calls
  local n = #calls
  calls[n + 1], calls[n + 2] = field, blob
end

-- A call's place in `order`.
local function write_order(a, id, score)
  local order_in = a.order_in
  local n = #order_in
  order_in[n + 1], order_in[n + 2] = score, id
end

-- The lease of a call that begins, written whole by the script that admits it (R12), and its place in `devices`.
local function write_lease(w, field, device_member)
  local leases, devices = w.leases, w.devices
  local n = #leases
  leases[n + 1], leases[n + 2] = w.lease_until, field
  devices[n + 1], devices[n + 2] = '0', device_member
end

local function write_account(a)
  local keys = a.keys
  call_variadic('ZADD', keys[ORDER_KEY], a.order_in)
  call_variadic('ZREM', keys[ORDER_KEY], a.order_out)
  call_variadic('ZADD', keys[PHASE_KEY], a.phase_in)
  call_variadic('ZREM', keys[PHASE_KEY], a.phase_out)
end

-- `ended` and `overtaken` take one entry for each script: the instant, then all fields.
local function write_section(m, keys, w)
  call_variadic('HSET', keys[CALLS_KEY], w.calls)
  call_variadic('ZADD', keys[LEASES_KEY], w.leases)
  call_variadic('ZADD', keys[DEVICES_KEY], w.devices)
  call_variadic('ZREM', keys[LEASES_KEY], w.ended)
  call_variadic('ZREM', keys[DEVICES_KEY], w.gone)
  if #w.ended > 0 then call('RPUSH', keys[ENDED_KEY], w.now .. ' ' .. table.concat(w.ended, ' ')) end
  if #w.overtaken > 0 then call('RPUSH', keys[OVERTAKEN_KEY], w.now .. ' ' .. table.concat(w.overtaken, ' ')) end
  append_items(m, keys[RECORDS_KEY], w.items)
  if #w.calls > 0 then m.written = true end
end
