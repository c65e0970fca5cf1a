-- Sets the policy of shards, for all gateways at once and calls in progress included: a pool whose sums were built
-- under another policy builds them anew when it is next met. That is soon: their alarms are set to now, as thresholds may
-- be passed at other instants.
--
-- KEYS   for each shard: meta, alarms
-- ARGV   free, increment, hold (s), count from (0 admission, 1 answer)
-- Reply  the number of shards that had another policy, run of the engine; then for each shard its epoch and seq, 0 and 0 where
--        it is not there or has not been compared yet, and so keeps what it has
-- Rules  the policy is kept with the data; R29
-- @flags allow-oom
-- @include shard
-- @include codes

-- Every account's, to now.
local function set_alarms(alarms_key, now_ms)
  local accounts, alarms, now = call('ZRANGE', alarms_key, 0, -1), {}, text(now_ms)
  for i = 1, #accounts do alarms[2 * i - 1], alarms[2 * i] = now, accounts[i] end
  call_variadic('ZADD', alarms_key, alarms)
end

local changed, reply = 0, { 0, run }
for i = 1, #KEYS, 2 do
  local m = open_shard(KEYS[i])
  if m then
    local before, free_seconds, increment_seconds, count_from =
      encode_meta(m), m.free_seconds, m.increment_seconds, m.count_from
    m.free_seconds, m.increment_seconds = tonumber(ARGV[1]), tonumber(ARGV[2])
    m.hold_seconds, m.count_from = tonumber(ARGV[3]), tonumber(ARGV[4])
    if encode_meta(m) ~= before then
      changed = changed + 1
      if free_seconds ~= m.free_seconds or increment_seconds ~= m.increment_seconds or count_from ~= m.count_from then
        set_alarms(KEYS[i + 1], m.now_ms)
      end
      save_shard(m)
    end
  end
  reply[i + 2], reply[i + 3] = m and m.epoch or 0, m and m.seq or 0
end
reply[1] = changed
return reply
