-- Sets the policy of shards, for all gateways at once and calls in progress included: a pool whose sums were built
-- under another policy builds them anew when it is next met.
--
-- KEYS   meta of each shard
-- ARGV   free, increment, hold (s), count from (0 admission, 1 answer)
-- Reply  the number of shards that had another policy
-- Rules  the policy is kept with the data
-- @flags allow-oom
-- @include shard
-- @include codes

local changed = 0
for i = 1, #KEYS do
  local m = open_shard(KEYS[i])
  if m then
    local before = encode_meta(m)
    m.free_seconds, m.increment_seconds = tonumber(ARGV[1]), tonumber(ARGV[2])
    m.hold_seconds, m.count_from = tonumber(ARGV[3]), tonumber(ARGV[4])
    if encode_meta(m) ~= before then
      changed = changed + 1
      save_shard(m)
    end
  end
end
return changed
