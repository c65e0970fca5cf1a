-- Says that gateways are there, so that the shards know that leases could be renewed, and tells how far the shards are.
--
-- KEYS   meta of each shard
-- ARGV   lease (ms)
-- Reply  run of the engine, its time (real ms); then for each shard its epoch, its seq before this, and its seq when that
--        run began: 0, 0 and 0 where it is not there, -1, 0 and 0 where its run has not been compared yet
-- Rules  R14
-- @flags allow-oom
-- @include shard
-- @include codes

local lease_ms = tonumber(ARGV[1])
local reply = { run, real_now_ms }
for i = 1, #KEYS do
  local m, absent = open_shard(KEYS[i])
  if m then
    reply[3 * i], reply[3 * i + 1], reply[3 * i + 2] = m.epoch, m.seq, m.run_seq
    local since_ms = real_now_ms - m.beat_ms
    -- Any gateway will do, and one is enough: the others find that it was said. It speaks each sixth of a lease at the latest,
    -- and must not find that of its own last words: two of its pauses leave nothing for one that is a little late.
    if since_ms < 0 or since_ms >= lease_ms / 12 then
      if since_ms < 0 or since_ms > lease_ms / 3 then m.steady_ms = real_now_ms end
      m.beat_ms = real_now_ms
      save_shard(m)
    end
  else
    reply[3 * i], reply[3 * i + 1], reply[3 * i + 2] = absent == SHARD_MOVED and -1 or 0, 0, 0
  end
end
return reply
