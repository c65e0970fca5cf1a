-- Opens an account's pool at the shard's now: its cycles turned, its sums brought up, what it passed meanwhile told.

-- Brings a pool up to now, of which all boundaries until then are known, to itself or to `refill`.
local function bring_up_pool(m, account, p, shard_keys, account_keys, items, notices, refill)
  if not is_of_policy(m, p) then
    -- Setting a policy sets every alarm: it holds since then.
    p.since_ms = tonumber(call('ZSCORE', shard_keys[ALARMS_KEY], account)) or 0
    p.since_ms, p.alarm_ms = p.since_ms <= m.now_ms and p.since_ms or 0, 0
    refold(m, p, account_keys[ORDER_KEY], account_keys[PHASE_KEY], shard_keys[CALLS_KEY])
  end
  find_next_threshold(p)
  turn_cycles(m, account, p, account_keys, items, notices, refill)
  bring_up(m, p, account_keys[ORDER_KEY], account_keys[PHASE_KEY])
  pass_in_time(m, account, p, account_keys, p.settled_seconds + p.live_billed, m.now_ms, notices)
end

-- Answers the pool, or nil and the code that says what is missing.
local function open_pool(m, account, shard_keys, account_keys, items, notices)
  local p = read_pool_at(account_keys[POOL_KEY])
  if p == nil then return nil, POOL_MISSING end
  -- Before anything is written: it stops itself, and no other account of this script.
  if not p then return nil, POOL_UNREADABLE end
  -- Writes were lost since it was made: it is made anew from what SQL has (R28).
  if p.epoch ~= m.epoch then return nil, POOL_MISSING end
  if not can_turn(p, m.now_ms) then return nil, CYCLES_MISSING end
  bring_up_pool(m, account, p, shard_keys, account_keys, items, notices)
  return p
end

-- Sets the alarm, and saves the pool where anything of it is to be kept. Folding alone raises no version and tells
-- nobody. `used` is how much is used now, after all that happened.
local function close_pool(m, account, p, shard_keys, account_keys, used)
  set_alarm(m, account, p, shard_keys, account_keys, used)
  if not (p.changed or p.dirty) then return end
  save_pool(account_keys[POOL_KEY], p)
  if p.announced then call('SPUBLISH', shard_keys[NOTICES_KEY], p.announced .. ' ' .. account) end
  m.written = true
end
