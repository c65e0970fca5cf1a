-- Builds the shards that are not there yet and tells under which policy and clock all of them run.
--
-- KEYS   meta of each shard
-- ARGV   epoch of those built now; policy: free, increment, hold (s), count from (0 admission, 1 answer);
--        clock (0 real, 1 simulated); where a simulated clock starts (ms; '' the real time)
-- Reply  an array for each shard: 1 if built now, epoch, seq, free, increment, hold, count from, clock, number of its
--        last item
-- Rules  the policy is kept with the data
-- @include shard

local epoch, clock_mode = tonumber(ARGV[1]), tonumber(ARGV[6])
local reply = {}
for i = 1, #KEYS do
  local m, is_new = open_shard(KEYS[i]), 0
  if not m then
    is_new = 1
    m = {
      key = KEYS[i], epoch = epoch, seq = 0, records = 0, free_seconds = tonumber(ARGV[2]),
      increment_seconds = tonumber(ARGV[3]), hold_seconds = tonumber(ARGV[4]), count_from = tonumber(ARGV[5]),
      clock_mode = clock_mode, clock_base_ms = tonumber(ARGV[7]) or real_now_ms, clock_real_ms = real_now_ms,
      clock_speed = 0, latest_ms = 0, in_progress = 0,
    }
    m.now_ms = shard_now_ms(m)
    save_shard(m)
  end
  reply[i] = { is_new, m.epoch, m.seq, m.free_seconds, m.increment_seconds, m.hold_seconds, m.count_from, m.clock_mode,
    m.records }
end
return reply
