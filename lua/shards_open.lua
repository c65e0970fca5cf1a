-- Builds the shards that are not there, and compares those that are with what was seen of them before: another run of an
-- engine may lack what was written last, or be a restored older copy. A shard that lacks something gets a new epoch: its
-- pools are then made anew from SQL, and gateways tell again what they answered.
--
-- KEYS   meta of each shard
-- ARGV   1 to build what is missing; policy: free, increment, hold (s), count from (0 admission, 1 answer); clock (0 real,
--        1 simulated); where a simulated clock starts (ms; '' the real time), and its speed; then for each shard what was
--        seen of it last: run, how far the shard had come when that run began, seq, epoch (0 nothing yet), and the number
--        of the last item that SQL has
-- Reply  an array for each shard, empty where it is not there: 1 if it has a new epoch by this, epoch, seq, free, increment,
--        hold, count from, clock, number of its last item, run, how far the shard had come when that began
-- Rules  R26, R28; the policy is kept with the data
-- @flags allow-oom
-- @include shard
-- @include codes

local is_to_be_built, clock_mode = ARGV[1] == '1', tonumber(ARGV[6])
local SEEN_FROM = 9
local SEEN_FIELDS = 5

local function built(key)
  local m = {
    key = key, epoch = real_now_ms, seq = 0, records = 0, free_seconds = tonumber(ARGV[2]),
    increment_seconds = tonumber(ARGV[3]), hold_seconds = tonumber(ARGV[4]), count_from = tonumber(ARGV[5]),
    clock_mode = clock_mode, clock_base_ms = tonumber(ARGV[7]) or real_now_ms, clock_real_ms = real_now_ms,
    clock_speed = tonumber(ARGV[8]), latest_ms = 0, in_progress = 0, connections = 0, beat_ms = 0, steady_ms = real_now_ms, run = run,
    run_before = 0, run_seq = 0,
  }
  m.now_ms = shard_now_ms(m)
  return m
end

-- The first to meet another run notes how far the shard had come there.
local function follow_run(m)
  if m.run == run then return false end
  m.run_before, m.run, m.run_seq, m.steady_ms = m.run, run, m.seq, real_now_ms
  return true
end

-- Is anything missing that was seen there? Known from the numbers, without guessing: see lua/README.md, "meta".
local function lacks(m, seen_run, seen_run_seq, seen_seq, seen_epoch, saved_number)
  if saved_number > m.records then return true end
  if seen_epoch ~= m.epoch then return seen_epoch > m.epoch end
  if seen_run == run and seen_run_seq == m.run_seq then return seen_seq > m.seq end
  return seen_run ~= m.run_before or seen_seq > m.run_seq
end

local reply = {}
for i = 1, #KEYS do
  local at = SEEN_FROM + SEEN_FIELDS * (i - 1)
  local seen_run, seen_run_seq, seen_seq, seen_epoch, saved_number = tonumber(ARGV[at]), tonumber(ARGV[at + 1]),
    tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3]), tonumber(ARGV[at + 4])
  local m, is_new = peek_shard(KEYS[i]), 0
  if not m and is_to_be_built then
    m, is_new = built(KEYS[i]), 1
    m.seq, m.records, m.epoch = seen_seq, saved_number, max(m.epoch, seen_epoch + 1)
    save_shard(m)
  elseif m then
    local is_changed = follow_run(m)
    if lacks(m, seen_run, seen_run_seq, seen_seq, seen_epoch, saved_number) then
      is_new, is_changed = 1, true
      -- Never one that was there before, wherever clocks stand: what was read in that is not of this one.
      m.epoch = max(m.epoch + 1, seen_epoch + 1, real_now_ms)
      m.seq, m.records = max(m.seq, seen_seq), max(m.records, saved_number)
      m.steady_ms = real_now_ms
    end
    if is_changed then save_shard(m) end
  end
  reply[i] = m and { is_new, m.epoch, m.seq, m.free_seconds, m.increment_seconds, m.hold_seconds, m.count_from,
    m.clock_mode, m.records, m.run, m.run_seq } or {}
end
return reply
