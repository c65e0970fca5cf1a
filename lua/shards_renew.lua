-- Gives shards a new epoch: their pools are made anew from SQL as they are met, and gateways tell again what they answered.
--
-- KEYS   meta of each shard
-- ARGV   for each shard, what SQL has of it: its epoch, and the number of its last item (0 nothing, or not asked)
-- Reply  how many shards have a new epoch; those that are not there have none
-- Rules  R28
-- @flags allow-oom
-- @include shard
-- @include codes

local renewed = 0
for i = 1, #KEYS do
  local m = open_shard(KEYS[i])
  if m then
    m.epoch = max(m.epoch + 1, tonumber(ARGV[2 * i - 1]) + 1, real_now_ms)
    m.records = max(m.records, tonumber(ARGV[2 * i]))
    m.steady_ms, renewed = real_now_ms, renewed + 1
    save_shard(m)
  end
end
return renewed
