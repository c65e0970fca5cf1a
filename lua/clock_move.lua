-- Moves the simulated clock of shards to an instant, and sets its speed from then on.
--
-- KEYS   meta of each shard
-- ARGV   instant (ms; '' where it is), speed, 1 if the clock may be set back (no account yet)
-- Reply  APPLIED, now, speed; or CLOCK_BACKWARDS and the instant of a shard that is later: nothing was moved
-- @flags allow-oom
-- @include shard
-- @include codes

local to_ms, speed, anywhere = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3] == '1'
local shards, latest_ms = {}, 0
for i = 1, #KEYS do
  local m = open_shard(KEYS[i])
  if not m or m.clock_mode ~= CLOCK_SIMULATED then return { SHARD_MISSING, 0 } end
  shards[i] = m
  latest_ms = max(latest_ms, m.now_ms)
end
local target_ms = to_ms or latest_ms
if target_ms < latest_ms and not anywhere then return { CLOCK_BACKWARDS, latest_ms } end
for i = 1, #shards do
  local m = shards[i]
  m.clock_base_ms, m.clock_real_ms, m.now_ms = target_ms, real_now_ms, target_ms
  m.clock_speed = speed
  save_shard(m)
end
return { APPLIED, target_ms, speed }
