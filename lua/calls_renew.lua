-- Renews the leases of calls that somebody vouches for, or starts the grace of those whose connection is lost.
--
-- KEYS   for each shard: meta, calls, leases
-- ARGV   lease (ms), grace (ms), until when to carry it out (real ms; 0 whenever); for each shard: its number of calls; then for each of them: the call
--        ("<account>/<call id>"), the connection that vouches (0: a keepalive), the asker ("<staff>/<device>|"; '' not
--        asked), how long ago its device was last heard (ms), 1 if its connection is lost
-- Reply  for each call: RENEWED; CALL_ID_CONFLICT a later connection has it; ABSENT it was settled in its absence;
--        CALL_ID_USED it was ended by its client; CALL_UNKNOWN; SHARD_MISSING, SHARD_MOVED or TOO_LATE
-- Rules  R12-R15
-- @flags allow-oom
-- @include shard
-- @include codes
-- @include call
-- @include renew_settings
-- @include leases

local FIELDS = 5
local at, reply = 4, {}

local function renew(m, blob, i, lost, values)
  if not blob or kind_of(blob) == OVERTAKEN then return CALL_UNKNOWN end
  local connection, heard_ms = ARGV[i + 1], real_now_ms - tonumber(ARGV[i + 3])
  if not is_callers(blob, ARGV[i + 2]) then return CALL_UNKNOWN end
  if kind_of(blob) == ENDED then
    return has_hung_up(blob) and CALL_ID_USED or ABSENT
  end
  local c = decode_call(blob)
  if is_superseded(blob, c.owner, connection) then return CALL_ID_CONFLICT end
  -- A keepalive has no connection to lose. A renewal that is overtaken by that loss brings nothing back.
  local is_loss = ARGV[i + 4] == '1' and connection ~= NO_CONNECTION
  local is_late = c.lost == LOST and not is_loss and connection ~= NO_CONNECTION and tonumber(connection) == c.owner
  if is_late or not may_vouch(c, connection) then return RENEWED end
  local alive_ms = last_alive_ms(m, c.lost, c.alive_ms, c.admitted_at_ms, c.answered_at_ms)
  vouch(c, connection, heard_ms)
  if is_loss then
    c.alive_ms = max(min(billing_ms(m, c.alive_ms), m.now_ms), alive_ms)
    c.lost, c.reap_at_ms = LOST, real_now_ms + grace_ms
    lost[#lost + 1] = ARGV[i]
  end
  values[#values + 1] = ARGV[i]
  values[#values + 1] = encode_call(c, payload_of(blob))
  return RENEWED
end

for shard = 1, #KEYS, 3 do
  local m, absent = open_shard(KEYS[shard])
  if is_too_late(until_ms) then m, absent = nil, TOO_LATE end
  local count, lost, values, fields = tonumber(ARGV[at]), {}, {}, {}
  for k = 1, count do fields[k] = ARGV[at + 1 + FIELDS * (k - 1)] end
  for first = 1, count, PIECE do
    local last = min(first + PIECE - 1, count)
    local blobs = m and call('HMGET', KEYS[shard + 1], unpack(fields, first, last))
    for k = first, last do
      reply[#reply + 1] = m and renew(m, blobs[k - first + 1], at + 1 + FIELDS * (k - 1), lost, values) or absent
    end
  end
  at = at + 1 + FIELDS * count
  if #values > 0 then
    call_variadic('HSET', KEYS[shard + 1], values)
    -- Their place among the leases is later than this; the others are looked at there, and move along.
    if #lost > 0 then call('ZADD', KEYS[shard + 2], text(real_now_ms + grace_ms), table.concat(lost, ' ')) end
    save_shard(m)
  end
end
return reply
