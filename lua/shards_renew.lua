-- Gives shards a new epoch: their pools are made anew from SQL as they are met, and gateways tell again what they answered.
--
-- KEYS   meta of each shard
-- ARGV   none
-- Reply  how many shards have a new epoch; those that are not there have none
-- Rules  R28
-- @flags allow-oom
-- @include shard
-- @include codes

local renewed = 0
for i = 1, #KEYS do
  local m = open_shard(KEYS[i])
  if m then
    m.epoch, m.steady_ms, renewed = max(m.epoch + 1, real_now_ms), real_now_ms, renewed + 1
    save_shard(m)
  end
end
return renewed
