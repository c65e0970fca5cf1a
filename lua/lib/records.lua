-- What SQL will be told: items gathered over a script, appended to the shard's stream in one entry (R26).

local function new_items() return { count = 0 } end

local function add_item(items, item)
  items.count = items.count + 1
  items[#items + 1] = item
end

-- An ended call's item is "R<account>/<call id>\0" and its value, which tells its own length: in parts, as all of
-- these strings are there already.
local function add_record(items, field, value)
  local n = #items
  items[n + 1], items[n + 2], items[n + 3], items[n + 4] = 'R', field, '\0', value
  items.count = items.count + 1
end

-- A call whose latest record is taken back: "B<account>/<call id>\0", that record's revision and when it was admitted.
local function add_reopened(items, field, c)
  add_item(items, 'B' .. field .. '\0' .. pack('<I2d', c.revision, c.admitted_at_ms))
end

-- An entry's id tells which process of an engine gave it: `<real ms>-<number>`, where the number is made of the run and
-- the microseconds. A deposed primary and its successor write to one shard's stream in the same millisecond, and what was
-- saved of the one must never be taken for an entry of the other.
local RUNS = 4294967296
local IDS_OF_RUN = 1048576

local function add_entry(records_key, ...)
  local first = run % RUNS * IDS_OF_RUN
  local id = string.format('%.0f-%.0f', real_now_ms, first + server_time[2] % 1000)
  if type(redis.pcall('XADD', records_key, id, ...)) == 'string' then return end
  -- There was one in this very microsecond, or from a clock ahead of this one: the next that is this run's. What '*' gives
  -- may be another's.
  local found, last = call('XINFO', 'STREAM', records_key), nil
  for i = 1, #found, 2 do
    if found[i] == 'last-generated-id' then last = found[i + 1] end
  end
  local ms, number = string.match(last, '(%d+)-(%d+)')
  number = number + 1
  if floor(number / IDS_OF_RUN) ~= run % RUNS then ms, number = ms + 1, first end
  call('XADD', records_key, string.format('%.0f-%.0f', ms, number), ...)
end

-- `n` is the number of the entry's first item: items of a shard are numbered without a gap. Notices, which are not
-- numbered, stand in a field of their own, which gateways of the version before pass over.
local function append_items(m, records_key, items, notices)
  if items.count == 0 and notices.count == 0 then return end
  local policy = m.free_seconds .. '/' .. m.increment_seconds .. '/' .. m.hold_seconds .. '/' .. m.count_from
  local number, told = text(m.records + 1), table.concat(items)
  if notices.count == 0 then
    add_entry(records_key, 'n', number, 'p', policy, 'd', told)
  else
    add_entry(records_key, 'n', number, 'p', policy, 'd', told, 'q', table.concat(notices))
  end
  m.records = m.records + items.count
end
