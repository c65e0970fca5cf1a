-- Forgets ended calls whose ids are free again, and ends that overtook no start after all.
--
-- KEYS   for each shard: meta, calls, ended, overtaken
-- ARGV   call id memory (ms), how many entries to take at most of each list
-- Reply  how many calls were forgotten
-- Rules  R9, R17
-- @flags allow-oom
-- @include shard
-- @include codes
-- @include call

local memory_ms, limit = tonumber(ARGV[1]), tonumber(ARGV[2])

-- The id may have been used, or the call settled anew since: then its value is of a later instant, and stays. What was
-- told again was settled before that.
local function is_still(blob, at_ms)
  if not blob or not is_whole(blob) then return false end
  if kind_of(blob) == ENDED then return settled_at(blob) <= at_ms end
  return kind_of(blob) == OVERTAKEN and overtaken_at(blob) <= at_ms
end

-- A list's entry is "<instant> <field> <field> ...", in the order of the instants.
local function forget(m, calls_key, list_key, kept_ms)
  local forgotten, taken = 0, 0
  local entries = call('LRANGE', list_key, 0, limit - 1)
  for i = 1, #entries do
    local words = {}
    for word in string.gmatch(entries[i], '%S+') do words[#words + 1] = word end
    local at_ms = tonumber(words[1])
    if m.now_ms - at_ms <= kept_ms then break end
    taken = i
    local gone = {}
    for first = 2, #words, PIECE do
      local blobs = call('HMGET', calls_key, unpack(words, first, min(first + PIECE - 1, #words)))
      for k = 1, #blobs do
        if is_still(blobs[k], at_ms) then gone[#gone + 1] = words[first + k - 1] end
      end
    end
    call_variadic('HDEL', calls_key, gone)
    forgotten = forgotten + #gone
  end
  if taken > 0 then
    call('LTRIM', list_key, taken, -1)
    m.written = true
  end
  return forgotten
end

local forgotten = 0
for i = 1, #KEYS, 4 do
  local m = open_shard(KEYS[i])
  if m then
    forgotten = forgotten + forget(m, KEYS[i + 1], KEYS[i + 2], memory_ms)
      + forget(m, KEYS[i + 1], KEYS[i + 3], OVERTAKEN_MS)
    if m.written then save_shard(m) end
  end
end
return forgotten
