-- Gives a device's connection its number, greater than that of any connection before it: also than those that an engine has
-- lost, as it follows the real time.
--
-- KEYS   meta of the account's shard
-- ARGV   none
-- Reply  0 and the number; or SHARD_MISSING or SHARD_MOVED, and 0
-- Rules  R12
-- @flags allow-oom
-- @include shard
-- @include codes

local m, absent = open_shard(KEYS[1])
if not m then return { absent, 0 } end
m.connections = max(m.connections + 1, real_now_ms)
save_shard(m)
return { 0, m.connections }
