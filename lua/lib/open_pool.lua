-- Opens an account's pool at the shard's now: its cycles turned, its sums brought up, its next alarm set.

-- Answers the pool, or nil and the code that says what is missing.
local function open_pool(m, account, shard_keys, account_keys, items)
  local packed = call('GET', account_keys[POOL_KEY])
  if not packed then return nil, POOL_MISSING end
  local p, turned = decode_pool(packed), new_items()
  -- Writes were lost since it was made: it is made anew from what SQL has (R28).
  if p.epoch ~= m.epoch then return nil, POOL_MISSING end
  if not turn_cycles(account, p, m.now_ms, turned) then return nil, CYCLES_MISSING end
  if p.turned then
    call('ZADD', shard_keys[ALARMS_KEY], text(p.cycle_end_ms), account)
    for i = 1, #turned do add_item(items, turned[i]) end
  end
  bring_up(m, p, account_keys[ORDER_KEY], account_keys[PHASE_KEY], shard_keys[CALLS_KEY])
  return p
end

-- Saves the pool where anything of it is to be kept. Folding alone raises no version and tells nobody.
local function close_pool(m, p, account_keys)
  if not (p.changed or p.dirty) then return end
  save_pool(account_keys[POOL_KEY], p)
  m.written = true
end
