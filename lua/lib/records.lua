-- What SQL will be told: items gathered over a script, appended to the shard's stream in one entry (R26).

-- `field` is "<account>/<call id>".
local function record_item(field, blob)
  return pack('<BI2c0I2c0', 82, #field, field, #blob, blob) -- R
end

-- `n` is the number of the entry's first item: items of a shard are numbered without a gap.
local function append_items(m, records_key, items)
  if #items == 0 then return end
  local policy = m.free_seconds .. '/' .. m.increment_seconds .. '/' .. m.hold_seconds .. '/' .. m.count_from
  call('XADD', records_key, '*', 'n', text(m.records + 1), 'p', policy, 'd', table.concat(items))
  m.records = m.records + #items
end
