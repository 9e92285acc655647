-- Copyright (C) The ngx_vd_module authors
--
-- What one would write by hand for lua-nginx-module to do what vd_pass does:
-- validate, sign, send, find the ticket.

local cjson = require "cjson.safe"
local ffi = require "ffi"

ffi.cdef [[
int RAND_bytes(unsigned char *buf, int num);
const void *EVP_sha256(void);
unsigned char *HMAC(const void *md, const void *key, int key_len,
    const char *data, size_t len, unsigned char *out, unsigned int *out_len);
]]

local random = ffi.new("unsigned char[16]")
local mac = ffi.new("unsigned char[32]")

local function uuid()
    ffi.C.RAND_bytes(random, 16)

    local hex = ffi.string(random, 16):gsub(".", function(byte)
        return string.format("%02x", byte:byte())
    end)

    return hex:gsub("^(........)(....)(....)(....)", "%1-%2-%3-%4-", 1)
end

local function sign(key, text)
    ffi.C.HMAC(ffi.C.EVP_sha256(), key, #key, text, #text, mac, nil)

    return "v1," .. ngx.encode_base64(ffi.string(mac, 32))
end

local function answer(status, object)
    ngx.status = status
    ngx.header["Content-Type"] = "application/json"
    ngx.print(cjson.encode(object))
end

local function deliver(target, key)
    ngx.req.read_body()

    local body = ngx.req.get_body_data()

    if body == nil or cjson.decode(body) == nil then
        return answer(400, { error = "body is not JSON" })
    end

    local id = uuid()
    local time = ngx.time()

    local reply = ngx.location.capture(target, {
        method = ngx.HTTP_POST,
        body = body,
        vars = {
            webhook_id = id,
            webhook_timestamp = time,
            webhook_signature = sign(key, id .. "." .. time .. "." .. body),
        },
    })

    if reply.truncated or reply.status < 200 or reply.status > 299 then
        return answer(502, { id = id, state = "failed", status = reply.status })
    end

    local value = cjson.decode(reply.body)

    answer(200, {
        id = id,
        state = "delivered",
        status = reply.status,
        ticket_id = type(value) == "table" and value.ticket_id or nil,
    })
end

return { deliver = deliver }
