-- Finds the calls in progress that nobody has vouched for in time; whether they may be reaped is decided when they are. Those
-- that somebody did vouch for move to where they could be reaped now.
--
-- KEYS   for each shard: meta, calls, leases
-- ARGV   how many entries of `leases` to take at most of each shard
-- Reply  the next instant at which an entry falls due (real ms; 0 none), now (real ms), then the calls
--        ("<account>/<call id>")
-- Rules  R13, R14
-- @flags allow-oom
-- @include shard
-- @include codes
-- @include call

-- What could not be reaped yet is looked at again so much later.
local AGAIN_MS = 1000

local limit, reply, next_ms = tonumber(ARGV[1]), { 0, real_now_ms }, 0

local function fields_of(entry)
  local fields = {}
  for field in string.gmatch(entry, '%S+') do fields[#fields + 1] = field end
  return fields
end

-- Sorts an entry's calls into those that are due, and those that are vouched for; answers when the first of the latter is.
local function sort_out(calls_key, fields, due, vouched)
  local first_ms
  for from = 1, #fields, PIECE do
    local last = min(from + PIECE - 1, #fields)
    local blobs = call('HMGET', calls_key, unpack(fields, from, last))
    for i = from, last do
      local blob = blobs[i - from + 1]
      if blob and kind_of(blob) == IN_PROGRESS then
        -- What can't be decoded is due again and again, until somebody has seen to it: it must not break this down.
        local reap_at_ms = is_whole(blob) and decode_call(blob).reap_at_ms or 0
        if reap_at_ms <= real_now_ms then
          due[#due + 1] = fields[i]
        else
          vouched[#vouched + 1] = fields[i]
          first_ms = first_ms and min(first_ms, reap_at_ms) or reap_at_ms
        end
      end
    end
  end
  return first_ms
end

local function place(leases_key, at_ms, fields)
  if #fields > 0 then call('ZADD', leases_key, text(at_ms), table.concat(fields, ' ')) end
end

for shard = 1, #KEYS, 3 do
  local m = open_shard(KEYS[shard])
  local found = m and call('ZRANGEBYSCORE', KEYS[shard + 2], '-inf', text(real_now_ms), 'LIMIT', 0, limit) or {}
  if #found > 0 then
    call('ZREM', KEYS[shard + 2], unpack(found))
    for i = 1, #found do
      local due, vouched = {}, {}
      local first_ms = sort_out(KEYS[shard + 1], fields_of(found[i]), due, vouched)
      place(KEYS[shard + 2], real_now_ms + AGAIN_MS, due)
      if first_ms then place(KEYS[shard + 2], first_ms, vouched) end
      for k = 1, #due do reply[#reply + 1] = due[k] end
    end
    save_shard(m)
  end
  local following = m and call('ZRANGE', KEYS[shard + 2], 0, 0, 'WITHSCORES')[2]
  if following then next_ms = next_ms == 0 and tonumber(following) or min(next_ms, tonumber(following)) end
end
reply[1] = next_ms
return reply
