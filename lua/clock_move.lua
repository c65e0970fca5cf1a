-- Moves the simulated clock of shards: to an instant, or by a span, and sets its speed from then on.
--
-- KEYS   meta of each shard
-- ARGV   instant (ms; '' none), span (ms; '' none), speed ('' as it is), 1 if the clock may be set back (no account yet)
-- Reply  APPLIED, now, speed; or CLOCK_BACKWARDS and the instant of a shard that is later: nothing was moved
-- @flags allow-oom
-- @include shard
-- @include codes

local to_ms, by_ms, speed, anywhere = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4] == '1'
local shards, latest_ms = {}, 0
for i = 1, #KEYS do
  local m = open_shard(KEYS[i])
  if not m or m.clock_mode ~= CLOCK_SIMULATED then return { SHARD_MISSING, 0 } end
  shards[i] = m
  latest_ms = max(latest_ms, m.now_ms)
end
local target_ms = to_ms or latest_ms + (by_ms or 0)
if target_ms < latest_ms and not anywhere then return { CLOCK_BACKWARDS, latest_ms } end
for i = 1, #shards do
  local m = shards[i]
  m.clock_base_ms, m.clock_real_ms, m.now_ms = target_ms, real_now_ms, target_ms
  m.clock_speed = speed or m.clock_speed
  save_shard(m)
end
return { APPLIED, target_ms, shards[1].clock_speed }
