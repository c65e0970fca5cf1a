-- Finds the accounts for which something happens with nobody asking, and when the next such instant is.
--
-- KEYS   for each shard: meta, alarms
-- ARGV   how many accounts to name for each shard at most
-- Reply  now (ms; 0 no shard is there), clock speed, the next instant after those named (ms; 0 none), then the accounts
--        that are due, earliest first in each shard
-- Rules  R19, R29
-- @flags allow-oom
-- @include shard
-- @include codes

local limit, next_ms, due = tonumber(ARGV[1]), 0, {}
local reply = { 0, 0 }
for i = 1, #KEYS, 2 do
  local m = open_shard(KEYS[i])
  if m then
    reply[1], reply[2] = m.now_ms, m.clock_mode == CLOCK_SIMULATED and m.clock_speed or 1
    local found = call('ZRANGE', KEYS[i + 1], 0, limit, 'WITHSCORES')
    for at = 1, #found, 2 do
      local at_ms = tonumber(found[at + 1])
      if at_ms <= m.now_ms and (at - 1) / 2 < limit then
        due[#due + 1] = found[at]
      else
        next_ms = next_ms == 0 and at_ms or min(next_ms, at_ms)
        break
      end
    end
  end
end
reply[3] = next_ms
for i = 1, #due do reply[i + 3] = due[i] end
return reply
