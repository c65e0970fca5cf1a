-- R12-R15: who vouches for a call, and when nobody has for too long. `lease_ms` and `grace_ms` are the gateway's.

-- What `lost` of a call in progress says beside 0, that somebody vouches for it: that its connection is lost; or that it was
-- made again for a device that came back with it, and nothing was heard of that since (R28).
local LOST = 1
local RETURNED = 2

-- A connection is its number as text, as it was given: most are never looked at.
local NO_CONNECTION = '0'

-- Has a later connection of the device taken the call over from this one? Words over HTTP (0) are always heard.
local function is_superseded(blob, owner, connection)
  return connection ~= NO_CONNECTION and tonumber(connection) < owner and not has_hung_up(blob)
end

-- Does this voice vouch for the call? Keepalives (0) do while no connection does.
local function may_vouch(c, connection)
  return connection ~= NO_CONNECTION or c.owner == 0 or c.lost == LOST
end

-- A full lease from `heard_ms` (real time), the instant at which something was last heard of the device.
local function vouch(c, connection, heard_ms)
  if c.lost == LOST or heard_ms > c.alive_ms then c.alive_ms = heard_ms end
  c.owner, c.lost = tonumber(connection), 0
  c.reap_at_ms = real_now_ms + lease_ms + grace_ms
end

-- When it was last known alive, in billing time: never after now, nor before it was admitted and answered.
local function last_alive_ms(m, lost, alive_ms, admitted_at_ms, answered_at_ms)
  if lost ~= LOST then alive_ms = billing_ms(m, alive_ms) end
  return max(min(alive_ms, m.now_ms), admitted_at_ms, answered_at_ms)
end

-- May what nobody vouches for be reaped in this shard? Gateways have been heard of without a gap for long enough that
-- each of them could have renewed: else it was the engine that was away (stopped, failed over, its clock moved).
local function is_steady(m)
  local since_beat_ms = real_now_ms - m.beat_ms
  return since_beat_ms >= 0 and since_beat_ms <= lease_ms / 3 and real_now_ms >= m.steady_ms + lease_ms + grace_ms
end
