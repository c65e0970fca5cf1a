-- Reads one call, in progress or ended, and what is needed to say what it bills so far.
--
-- KEYS   meta, calls
-- ARGV   "<account>/<call id>"
-- Reply  now (ms), policy ("free/increment/hold/count_from"), packed call ('' none); empty where the shard was never
--        built
-- @flags allow-oom
-- @include shard
-- @include codes

local m = open_shard(KEYS[1])
if not m then return {} end
local policy = m.free_seconds .. '/' .. m.increment_seconds .. '/' .. m.hold_seconds .. '/' .. m.count_from
return { m.now_ms, policy, call('HGET', KEYS[2], ARGV[1]) or '' }
