-- A call's value in the `calls` hash (README.md, "calls"): in progress, ended, or an end that overtook its start.

-- The first byte.
local IN_PROGRESS = 76 -- L
local ENDED = 69 -- E
local OVERTAKEN = 84 -- T

local ENDED_BY_HANGUP = 1
local ENDED_BY_CONNECTION_LOST = 2
local ENDED_BY_LEASE_EXPIRED = 3

-- A call in progress: kind; whether it is an emergency, has lost its connection (lib/leases.lua), was admitted without the
-- engine; revision of its latest record (0 none); admitted at, answered at (0 not yet), start of its cycle; when it may be reaped
-- (real time); last known alive (real time, but billing time once its connection is lost); the connection that it
-- belongs to (0 none). Then who calls whom, "<staff>/<device>|<channel>|<to>".
local IN_PROGRESS_HEAD = '<BBBBI2dddddd'
local IN_PROGRESS_PAYLOAD = 55
-- One that ended: kind, ended by, revision, length of what follows this head, ended at, settled at, duration, billed
-- seconds; then its value as it was in progress.
local ENDED_HEAD = '<BBI2I2dddd'
local ENDED_VALUE = '<BBI2I2ddddc0'
local ENDED_PROGRESS = 39
local ENDED_PAYLOAD = 93
local OVERTAKEN_HEAD = '<Bd'

-- How long an end that overtook its start refuses that start (R17).
local OVERTAKEN_MS = 60000

-- How long before a gateway let a call through without the engine that may have carried out the same call, start, end and
-- all. It waits 2 s at most for an answer; the rest is for clocks apart, and a busy machine.
local UNHEARD_MS = 10000

local OVERTAKEN_SIZE = 9

local byte, find, sub = string.byte, string.find, string.sub

-- Is this a call's value, so that whatever is done with it can't break down in the midst of writing?
local function is_whole(blob)
  local kind = byte(blob, 1)
  if kind == IN_PROGRESS then return #blob >= IN_PROGRESS_PAYLOAD - 1 end
  if kind == ENDED then return #blob >= ENDED_PAYLOAD - 1 end
  return kind == OVERTAKEN and #blob >= OVERTAKEN_SIZE
end

local function kind_of(blob) return byte(blob, 1) end

-- Where a call's value as it is, or was, in progress begins within its value.
local function progress_at(blob) return kind_of(blob) == ENDED and ENDED_PROGRESS or 1 end

local function payload_of(blob)
  return sub(blob, kind_of(blob) == IN_PROGRESS and IN_PROGRESS_PAYLOAD or ENDED_PAYLOAD)
end

-- A call as it is in progress, or was before it ended: kind, then the fields in the order of the head. For what every end
-- goes through: a table of so many fields costs as much as deciding.
local function unpack_call(blob)
  return unpack_struct(IN_PROGRESS_HEAD, blob, progress_at(blob))
end

-- The same as a table.
local function decode_call(blob)
  local _, emergency, lost, offline, revision, admitted_at_ms, answered_at_ms, cycle_start_ms, reap_at_ms, alive_ms,
    owner = unpack_call(blob)
  return { emergency = emergency, lost = lost, offline = offline, revision = revision, admitted_at_ms = admitted_at_ms,
    answered_at_ms = answered_at_ms, cycle_start_ms = cycle_start_ms, reap_at_ms = reap_at_ms, alive_ms = alive_ms,
    owner = owner }
end

local function encode_call(c, payload)
  return pack(IN_PROGRESS_HEAD, IN_PROGRESS, c.emergency, c.lost, c.offline, c.revision, c.admitted_at_ms,
    c.answered_at_ms, c.cycle_start_ms, c.reap_at_ms, c.alive_ms, c.owner) .. payload
end

local function ended_value(blob, ended_by, revision, ended_at_ms, settled_at_ms, duration_ms, billed)
  return pack(ENDED_VALUE, ENDED, ended_by, revision, #blob, ended_at_ms, settled_at_ms, duration_ms, billed, blob)
end

local function with_revision(ended_blob, revision)
  return sub(ended_blob, 1, 2) .. pack('<I2', revision) .. sub(ended_blob, 5)
end

-- How a call ended: by whom, revision, ended at, settled at, billed seconds.
local function decode_end(blob)
  local _, ended_by, revision, _, ended_at_ms, settled_at_ms, _, billed = unpack_struct(ENDED_HEAD, blob)
  return ended_by, revision, ended_at_ms, settled_at_ms, billed
end

-- Did its client say that it ended? Then nobody has it any more, and it never comes back (R17).
local function has_hung_up(blob)
  return byte(blob, 1) == ENDED and byte(blob, 2) == ENDED_BY_HANGUP
end

local function settled_at(blob)
  local _, _, _, at_ms = decode_end(blob)
  return at_ms
end

local function overtaken_at(blob)
  local _, at_ms = unpack_struct(OVERTAKEN_HEAD, blob)
  return at_ms
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
