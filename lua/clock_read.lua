-- Reads a shard's billing clock, how many calls are in progress in it, its epoch, which run of an engine this is,
-- the time there, and how far the shard has come.
--
-- KEYS   meta of each shard asked for
-- ARGV   none
-- Reply  an array for each shard: now (ms), speed (1 for a real clock), 1 if simulated, calls in progress, epoch, run,
--        real time (ms), seq; empty where it is not there, or its run has not been compared yet
-- @flags allow-oom
-- @include shard
-- @include codes

local reply = {}
for i = 1, #KEYS do
  local m = open_shard(KEYS[i])
  if m then
    local is_simulated = m.clock_mode == CLOCK_SIMULATED
    reply[i] = { m.now_ms, is_simulated and m.clock_speed or 1, is_simulated and 1 or 0, m.in_progress, m.epoch,
      run, real_now_ms, m.seq }
  else
    reply[i] = {}
  end
end
return reply
