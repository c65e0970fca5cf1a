-- Reads the policy in force.
--
-- KEYS   meta of a shard
-- ARGV   none
-- Reply  "free/increment/hold/count_from"; '' where the shard was never built, or has not been compared yet
-- Rules  the policy is kept with the data
-- @flags allow-oom
-- @include shard
-- @include codes

local m = open_shard(KEYS[1])
return m and m.free_seconds .. '/' .. m.increment_seconds .. '/' .. m.hold_seconds .. '/' .. m.count_from or ''
