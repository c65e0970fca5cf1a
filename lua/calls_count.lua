-- Counts the calls in progress of a shard in two ways at one instant: by the number it keeps, and in `order`.
--
-- KEYS   meta of a shard, order of each of its accounts
-- ARGV   none
-- Reply  calls in progress by that number, and in `order`; empty where the shard is not there
-- @flags allow-oom
-- @include shard
-- @include codes

local m, listed = open_shard(KEYS[1]), 0
if not m then return {} end
for i = 2, #KEYS do listed = listed + call('ZCARD', KEYS[i]) end
return { m.in_progress, listed }
