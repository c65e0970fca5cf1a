-- Reads the policy in force.
--
-- KEYS   meta of each shard asked for
-- ARGV   none
-- Reply  for each shard "free/increment/hold/count_from"; '' where it was never built, or has not been compared yet
-- Rules  the policy is kept with the data
-- @flags allow-oom
-- @include shard
-- @include codes

local reply = {}
for i = 1, #KEYS do
  local m = open_shard(KEYS[i])
  reply[i] = m and m.free_seconds .. '/' .. m.increment_seconds .. '/' .. m.hold_seconds .. '/' .. m.count_from or ''
end
return reply
