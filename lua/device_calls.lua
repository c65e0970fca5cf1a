-- Looks through an account's calls in progress for those of some devices, a piece of them at a time.
--
-- KEYS   calls, order
-- ARGV   where the piece begins (a score of `order`, "(" before it excludes it), how many calls to look at; then the
--        devices, "<staff>/<device>|" each; none: those of all
-- Reply  where the next piece begins ('' this was the last), then field and value of each call that is theirs
-- @flags allow-oom
-- @include shard
-- @include codes
-- @include call

local from, limit, wanted, is_anybodys = ARGV[1], tonumber(ARGV[2]), {}, #ARGV == 2
for i = 3, #ARGV do wanted[ARGV[i]] = true end

local found = call('ZRANGEBYSCORE', KEYS[2], from, '+inf', 'WITHSCORES', 'LIMIT', 0, limit)
local fields, following = {}, ''
for i = 1, #found, 2 do fields[#fields + 1] = found[i] end
if #fields == limit then
  -- Calls of one instant must not be torn apart, as the next piece begins behind it.
  local last = found[#found]
  while #found > 0 and found[#found] == last do
    found[#found], found[#found - 1], fields[#fields] = nil, nil, nil
  end
  local together = call('ZRANGEBYSCORE', KEYS[2], last, last)
  for i = 1, #together do fields[#fields + 1] = together[i] end
  following = '(' .. last
end

local reply = { following }
for first = 1, #fields, PIECE do
  local blobs = call('HMGET', KEYS[1], unpack(fields, first, min(first + PIECE - 1, #fields)))
  for i = 1, #blobs do
    -- What stands in `order` and is no call in progress is told by `callgate check`.
    local is_call = blobs[i] and is_whole(blobs[i]) and kind_of(blobs[i]) == IN_PROGRESS
    if is_call and (is_anybodys or wanted[device_of(blobs[i])]) then
      reply[#reply + 1] = fields[first + i - 1]
      reply[#reply + 1] = blobs[i]
    end
  end
end
return reply
