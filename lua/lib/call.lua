-- A call's value in the `calls` hash (README.md, "calls"): in progress, ended, or an end that overtook its start.

-- The first byte.
local IN_PROGRESS = 76 -- L
local ENDED = 69 -- E
local OVERTAKEN = 84 -- T

local EMERGENCY_FLAG = 1
local ENDED_BY_HANGUP = 1

-- A call in progress: kind, flags, admitted at, answered at (0 not yet), start of its cycle, end of its lease (real
-- time; R12); then who calls whom, "<staff>/<device>|<channel>|<to>".
local IN_PROGRESS_HEAD = '<BBdddd'
local IN_PROGRESS_PAYLOAD = 35
-- One that ended: kind, ended by, revision, length of what follows this head, ended at, settled at, duration, billed
-- seconds; then its value as it was in progress.
local ENDED_HEAD = '<BBI2I2dddd'
local ENDED_VALUE = '<BBI2I2ddddc0'
local ENDED_PROGRESS = 39
local ENDED_PAYLOAD = 73
local OVERTAKEN_HEAD = '<Bd'

-- How long an end that overtook its start refuses that start (R17).
local OVERTAKEN_MS = 60000

local byte, find, sub = string.byte, string.find, string.sub

local function kind_of(blob) return byte(blob, 1) end

-- flags, admitted at, answered at, start of its cycle, end of its lease; of a call in progress, or (`from`
-- ENDED_PROGRESS) of one that ended
local function decode_in_progress(blob, from)
  local _, flags, admitted_at_ms, answered_at_ms, cycle_start_ms, lease_until_ms =
    unpack_struct(IN_PROGRESS_HEAD, blob, from or 1)
  return flags, admitted_at_ms, answered_at_ms, cycle_start_ms, lease_until_ms
end

local function in_progress_head(flags, admitted_at_ms, answered_at_ms, cycle_start_ms, lease_until_ms)
  return pack(IN_PROGRESS_HEAD, IN_PROGRESS, flags, admitted_at_ms, answered_at_ms, cycle_start_ms, lease_until_ms)
end

local function ended_value(blob, ended_by, revision, ended_at_ms, settled_at_ms, duration_ms, billed)
  return pack(ENDED_VALUE, ENDED, ended_by, revision, #blob, ended_at_ms, settled_at_ms, duration_ms, billed, blob)
end

local function settled_at(blob)
  local _, _, _, _, _, at_ms = unpack_struct(ENDED_HEAD, blob)
  return at_ms
end

local function overtaken_at(blob)
  local _, at_ms = unpack_struct(OVERTAKEN_HEAD, blob)
  return at_ms
end

local function payload_of(blob)
  return sub(blob, kind_of(blob) == IN_PROGRESS and IN_PROGRESS_PAYLOAD or ENDED_PAYLOAD)
end

-- "<staff>/<device>|" of a call in progress.
local function device_of(blob)
  return sub(blob, IN_PROGRESS_PAYLOAD, find(blob, '|', IN_PROGRESS_PAYLOAD, true))
end

-- May this asker, "<staff>/<device>|", speak for the call? The administrator, '', may for every call.
local function is_callers(blob, device)
  if device == '' then return true end
  local first = kind_of(blob) == IN_PROGRESS and IN_PROGRESS_PAYLOAD or ENDED_PAYLOAD
  return sub(blob, first, first + #device - 1) == device
end
