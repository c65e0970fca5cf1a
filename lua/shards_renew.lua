-- Gives shards a new epoch: their pools are made anew from SQL as they are met, and gateways tell again what they answered.
--
-- KEYS   meta of each shard
-- ARGV   for each shard, what SQL has of it: its epoch, and the number of its last item ('' not asked). A shard that
--        is of a newer epoch than that has got one meanwhile
-- Reply  how many shards have a new epoch; those that are not there have none
-- Rules  R28
-- @flags allow-oom
-- @include shard
-- @include codes

local renewed = 0
for i = 1, #KEYS do
  local m, saved_epoch, saved_number = open_shard(KEYS[i]), tonumber(ARGV[2 * i - 1]), tonumber(ARGV[2 * i])
  if m and m.epoch <= (saved_epoch or m.epoch) then
    m.epoch = max(m.epoch + 1, (saved_epoch or 0) + 1, real_now_ms)
    m.records = max(m.records, saved_number or 0)
    m.steady_ms, renewed = real_now_ms, renewed + 1
    save_shard(m)
  end
end
return renewed
