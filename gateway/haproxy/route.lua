-- The decision for one request, in HAProxy (http-request lua.route) and in plain Lua 5.3, where a test holds it
-- against gateway/policies/{prompts,routing}.py. `P`, the parameters, stands above when this file is rendered.

local LONG_CHARACTERS, LENGTH_WEIGHT, MARKER_WEIGHT, MANY_LINES = 8000, 0.4, 0.45, 10
local READ_CHARACTERS, LEAST_SHARE, PREFIX_BYTES, DEPTH = 400, 0.3, 512, 500
local REASONING = { "step by step", "prove ", "derive ", "algorithm", "complexity of", "optimi", "debug", "refactor",
  "trade-off", "counterexample", "证明", "推导", "一步一步", "算法" }
local SCRIPTS = {
  { "han", { { 0x3400, 0x4DBF }, { 0x4E00, 0x9FFF } } }, { "kana", { { 0x3040, 0x30FF } } },
  { "ko", { { 0x1100, 0x11FF }, { 0xAC00, 0xD7AF } } }, { "ru", { { 0x0400, 0x04FF } } },
  { "ar", { { 0x0600, 0x06FF } } }, { "hi", { { 0x0900, 0x097F } } },
  { "latin", { { 0x41, 0x5A }, { 0x61, 0x7A }, { 0xC0, 0x24F } } },
}
local NAME_CHARACTERS = 200 -- of what a client may have made up
local NULL = {}
local ADAPTERS = core and Map.new(P.adapters, Map._str) -- name → model; changed while HAProxy runs

-- JSON, strictly; an error for anything else. Where the model's name stands is noted, so that it can be replaced.
local ESCAPES = { b = "\b", f = "\f", n = "\n", r = "\r", t = "\t", ['"'] = '"', ["\\"] = "\\", ["/"] = "/" }

local function string_at(s, i)
  local parts, n = {}, 0
  i = i + 1
  while true do
    local j = s:find('[%c"\\]', i)
    if not j then error("an open string") end
    n = n + 1
    parts[n] = s:sub(i, j - 1)
    local c = s:sub(j, j)
    if c == '"' then return table.concat(parts), j + 1 end
    if c == "\127" then -- the only control character that JSON lets stand
      parts[n], i = parts[n] .. c, j + 1
    elseif c ~= "\\" then
      error("a control character")
    else
      local e = s:sub(j + 1, j + 1)
      if e == "u" then
        local hex = s:match("^%x%x%x%x", j + 2)
        if not hex then error("a bad escape") end
        local code, after = tonumber(hex, 16), j + 6
        if code >= 0xD800 and code < 0xDC00 then
          local low = s:match("^\\u([dD][c-fC-F]%x%x)", after)
          if low then code, after = 0x10000 + (code - 0xD800) * 1024 + tonumber(low, 16) - 0xDC00, after + 6 end
        end
        if code >= 0xD800 and code < 0xE000 then code = 0xFFFD end -- half a pair is no character
        parts[n], i = parts[n] .. utf8.char(code), after
      else
        if not ESCAPES[e] then error("a bad escape") end
        parts[n], i = parts[n] .. ESCAPES[e], j + 2
      end
    end
  end
end

local value_at

local function list_at(s, i, depth)
  local found, n = {}, 0
  i = s:match("^[ \t\r\n]*()", i + 1)
  if s:sub(i, i) == "]" then return found, i + 1 end
  while true do
    n = n + 1
    found[n], i = value_at(s, i, depth)
    local c
    c, i = s:match("^[ \t\r\n]*([,%]])()", i)
    if c == "]" then return found, i end
    if not c then error("a list") end
  end
end

local function object_at(s, i, depth)
  local found, places = {}, {}
  i = s:match("^[ \t\r\n]*()", i + 1)
  if s:sub(i, i) == "}" then return found, i + 1, places end
  while true do
    local key, value, c, start
    i = s:match("^[ \t\r\n]*()", i)
    if s:sub(i, i) ~= '"' then error("a key") end
    key, i = string_at(s, i)
    start = s:match("^[ \t\r\n]*:[ \t\r\n]*()", i)
    if not start then error("a colon") end
    value, i = value_at(s, start, depth)
    found[key], places[key] = value, { start, i - 1 }
    c, i = s:match("^[ \t\r\n]*([,}])()", i)
    if c == "}" then return found, i, places end
    if not c then error("an object") end
  end
end

function value_at(s, i, depth)
  if depth > DEPTH then error("nested too deeply") end
  i = s:match("^[ \t\r\n]*()", i)
  local c = s:sub(i, i)
  if c == '"' then return string_at(s, i) end
  if c == "{" then return object_at(s, i, depth + 1) end
  if c == "[" then return list_at(s, i, depth + 1) end
  local word = s:match("^-?%w[%w.+-]*", i)
  if word == "true" then return true, i + 4 end
  if word == "false" then return false, i + 5 end
  if word == "null" or word == "NaN" or word == "Infinity" or word == "-Infinity" then return NULL, i + #word end
  if word and (word:match("^-?%d+%.?%d*[eE]?[+-]?%d*$")) and tonumber(word) then return tonumber(word), i + #word end
  error("a value")
end

local function decoded(body)
  if not utf8.len(body) then return nil end
  local ok, found, after, places = pcall(value_at, body, 1, 0)
  if ok and places and not body:find("[^ \t\r\n]", after) then return found, places end -- only an object has places
  return nil
end

local function word(value) return type(value) == "string" and value ~= "" and value or nil end

local function content(value)
  if type(value) == "string" then return value end
  local parts = {}
  if type(value) == "table" then
    for _, one in ipairs(value) do
      if type(one) == "table" and type(one.text) == "string" then parts[#parts + 1] = one.text end
    end
  end
  return table.concat(parts, "\n")
end

local function texts(document)
  local messages = document.messages
  if type(messages) == "table" and #messages > 0 then
    local known, asked = {}, nil
    for _, one in ipairs(messages) do
      if type(one) == "table" and one ~= NULL then known[#known + 1] = one end
    end
    for i = #known, 1, -1 do
      if known[i].role == "user" then asked = known[i] break end
    end
    asked = asked or known[#known] or {}
    return content(asked.content), content(known[1] and known[1].content)
  end
  for _, key in ipairs({ "prompt", "prompts", "input" }) do
    local value = document[key]
    if type(value) == "table" and #value > 0 then value = value[1] end
    if type(value) == "string" then return value, value end
  end
  return "", ""
end

local function read(body)
  local document, places = decoded(body)
  if not document then return nil end
  local text, prefix = texts(document)
  return { model = word(document.model), text = text, prefix = prefix, place = places.model,
    session = word(document.prompt_cache_key) or word(document.user) }
end

local function has_formula(raw)
  if raw:find("$$", 1, true) or raw:find("\\(", 1, true) or raw:find("\\[", 1, true) or raw:find("\\frac", 1, true) then
    return true
  end
  return raw:find("%$[^$\n]*[\\^_=][^$\n]*%$") ~= nil
end

local function complexity(text)
  local lowered, lines = text:lower(), 0
  for _ in text:gmatch("\n") do lines = lines + 1 end
  local reasons = false
  for _, one in ipairs(REASONING) do reasons = reasons or lowered:find(one, 1, true) ~= nil end
  local left = 1 - LENGTH_WEIGHT * math.min(utf8.len(text) / LONG_CHARACTERS, 1)
  for _, marker in ipairs({ text:find("```", 1, true) ~= nil, has_formula(text), lines >= MANY_LINES, reasons }) do
    if marker then left = left * (1 - MARKER_WEIGHT) end
  end
  return 1 - left
end

local function language(text)
  local counts, total, seen = { han = 0, kana = 0, ko = 0, ru = 0, ar = 0, hi = 0, latin = 0 }, 0, 0
  for _, code in utf8.codes(text) do
    if seen >= READ_CHARACTERS then break end
    seen = seen + 1
    for _, script in ipairs(SCRIPTS) do
      local hit = false
      for _, range in ipairs(script[2]) do hit = hit or (code >= range[1] and code <= range[2]) end
      if hit then
        counts[script[1]], total = counts[script[1]] + 1, total + 1
        break
      end
    end
  end
  if total == 0 then return nil end
  local east = counts.han + counts.kana
  if east >= LEAST_SHARE * total then return counts.kana >= 0.1 * east and "ja" or "zh" end
  for _, name in ipairs({ "ko", "ru", "ar", "hi" }) do
    if counts[name] >= LEAST_SHARE * total then return name end
  end
  return nil
end

local function affinity(ask, kind, session)
  local found = ""
  if kind == "session" then found = session or ask.session or "" end
  if kind == "prefix" then found = ask.prefix:sub(1, PREFIX_BYTES) end
  return found ~= "" and found or nil
end

local function capacity(load)
  local places = load.free + load.in_flight
  return load.up > 0 and places > 0 and load.free / places or 0.0
end

local function has_place(load) return load.up > 0 and load.waiting < P.queue_limit end

local function refused(name, load)
  if load.up == 0 then return { model = name, status = 503, reason = "No server of the model " .. name .. " is up." } end
  return { model = name, status = 429, reason = string.format(
    "%d requests wait for the model %s; the limit is %d.", load.waiting, name, P.queue_limit) }
end

local function shown(name)
  local cut = utf8.offset(name, NAME_CHARACTERS + 1)
  return cut and name:sub(1, cut - 1) or name
end

local function auto(ask, load, max_ttft_ms)
  local policy, ways = P.policy, {}
  local score, spoken = complexity(ask.text), language(ask.text)
  local function way(name, reason) ways[#ways + 1] = { name, reason } end
  if policy.fast and max_ttft_ms and max_ttft_ms < policy.fast_below_ms then way(policy.fast, "latency") end
  if policy.hard and score > policy.hard_above then way(policy.hard, string.format("complexity %.2f", score)) end
  if spoken and policy.languages[spoken] then way(policy.languages[spoken], "language " .. spoken) end
  local free = capacity(load(policy.default))
  local needed = score < policy.easy_below and policy.reserve_easy or policy.reserve
  if policy.overflow and free <= needed then way(policy.overflow, string.format("capacity %.2f", free)) end
  way(policy.default, "default")
  if policy.overflow then way(policy.overflow, "default has no place") end
  return ways
end

-- The model that an adapter is of.
local function adapted(name) return ADAPTERS and name and not P.models[name] and ADAPTERS:lookup(name) or nil end

-- `load(model)` → { up, free, in_flight, waiting }
local function decide(ask, load, max_ttft_ms)
  local named = ask and ask.model
  if named == "auto" and P.policy and not P.models.auto then
    local ways = auto(ask, load, max_ttft_ms)
    for _, one in ipairs(ways) do
      if has_place(load(one[1])) then return { model = one[1], reason = one[2], status = 200 } end
    end
    return refused(ways[1][1], load(ways[1][1]))
  end
  local name, reason
  if not named then
    name = P.policy and P.policy.default or P.only
    if not name then return { status = 400, reason = "The request names no model." } end
    reason = P.only and "the only model" or "no model named"
  else
    name, reason = P.aliases[named] or adapted(named) or named, "model"
  end
  if not P.models[name] then return { status = 404, reason = "The model " .. shown(named) .. " is not served here." } end
  local now = load(name)
  if not has_place(now) then return refused(name, now) end
  return { model = name, reason = reason, status = 200 }
end

if not core then
  return { read = read, complexity = complexity, language = language, affinity = affinity, decide = decide }
end

local TYPES = { [400] = "invalid_request_error", [404] = "invalid_request_error", [429] = "rate_limit_error",
  [503] = "service_unavailable" }
local CODES = { [400] = "model_required", [404] = "model_not_found", [429] = "queue_full", [503] = "no_server" }
local QUOTES = { ['"'] = '\\"', ["\\"] = "\\\\" }

local function quoted(text)
  return '"' .. text:gsub('["\\]', QUOTES):gsub("%c", function(c) return string.format("\\u%04x", c:byte()) end) .. '"'
end

local function header_safe(text) return (text:gsub("[^\32-\126]", "?"):sub(1, 200)) end

local function refuse(txn, status, reason, code, param)
  txn:set_var("txn.nb_status", status)
  txn:set_var("txn.nb_error", '{"error": {"message": ' .. quoted(reason) .. ', "type": ' .. quoted(TYPES[status]) ..
    ', "param": ' .. (param or "null") .. ', "code": ' .. quoted(code) .. "}}")
end

core.register_action("route", { "http-req" }, function(txn)
  local body = txn.sf:req_body() or ""
  local ask = read(body)
  local named = txn.sf:path():match("^/v1/models/(.+)$")
  -- What says that it is JSON and is none would be asked of one server after the other where that ends a server's answer.
  if not ask and body ~= "" and txn.sf:req_hdr("content-type"):lower():find("json", 1, true) and
    txn.sf:req_hdr("content-encoding") == "" then
    return refuse(txn, 400, "The body is no JSON object.", "bad_request")
  end
  if named then
    named = named:gsub("%%(%x%x)", function(hex) return string.char(tonumber(hex, 16)) end)
    ask = { model = named, text = "", prefix = "" }
  end
  local function load(model)
    local b = P.models[model]
    local up = txn.f:nbsrv(b)
    -- To a HAProxy that ends after a reload no server is up, yet it still serves the connections that it has.
    local stopping = txn.f:stopping() -- a number or a boolean, by version; and 0 is true in Lua
    if up == 0 and (stopping == 1 or stopping == true) then up = 1 end
    return { up = up, free = math.max(0, txn.f:be_conn_free(b)), in_flight = txn.f:be_conn(b),
      waiting = txn.f:queue(b) }
  end
  local said = decide(ask, load, tonumber(txn.sf:req_hdr("x-nbridge-max-ttft-ms")))
  txn:set_var("txn.nb_reason", header_safe(said.reason))
  if said.model then txn:set_var("txn.nb_model", header_safe(said.model)) end
  if said.status ~= 200 then
    txn:set_var("txn.nb_wanted", P.models[said.model] or "")
    return refuse(txn, said.status, said.reason, CODES[said.status], '"model"')
  end
  txn:set_var("txn.nb_backend", P.models[said.model])
  if adapted(ask and ask.model) then txn:set_var("txn.nb_adapter", ask.model) end
  local tie = ask and affinity(ask, P.affinity, word(txn.sf:req_hdr("x-nbridge-session")))
  if tie then txn:set_var("txn.nb_affinity", tie) end
  if ask and ask.place and ask.model == "auto" and said.model ~= "auto" then
    local new = body:sub(1, ask.place[1] - 1) .. quoted(said.model) .. body:sub(ask.place[2] + 1)
    txn:set_var("txn.nb_body", new)
    if txn.sf:req_hdr("content-length") ~= "" then txn.http:req_set_header("content-length", tostring(#new)) end
  end
end)

-- The body with the chosen model's name in place of "auto". Only such requests pass through the filter.
local Rename = { id = "name the chosen model", flags = filter.FLT_CFG_FL_HTX }
Rename.__index = Rename
function Rename:new() return setmetatable({}, Rename) end
function Rename:start_analyze(txn, channel)
  if not channel:is_resp() and txn:get_var("txn.nb_body") then filter.register_data_filter(self, channel) end
end
function Rename:http_payload(txn, message)
  local new = txn:get_var("txn.nb_body")
  if new then
    txn:unset_var("txn.nb_body")
    message:set(new)
  end
end
core.register_filter("rename", Rename, function(made) return made end)
