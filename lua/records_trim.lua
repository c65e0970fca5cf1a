-- Deletes what SQL has had for long enough from the records of shards, and of no other engine than the one that it has it of.
--
-- KEYS   meta and records of each shard
-- ARGV   for each shard: the run and the epoch in which its stream was found to be what SQL has, and the least id to keep
-- Reply  how many entries were deleted; none where the shard is of another run or epoch, which may tell what SQL lacks
-- Rules  R26
-- @flags allow-oom
-- @include shard
-- @include codes

local deleted = 0
for i = 1, #KEYS / 2 do
  local m, proven_run, proven_epoch = open_shard(KEYS[2 * i - 1]), tonumber(ARGV[3 * i - 2]), tonumber(ARGV[3 * i - 1])
  if m and run == proven_run and m.epoch == proven_epoch then
    deleted = deleted + call('XTRIM', KEYS[2 * i], 'MINID', ARGV[3 * i])
  end
end
return deleted
