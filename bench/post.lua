-- Copyright (C) The ngx_vd_module authors
--
-- For wrk: POSTs the file that follows "--" on the command line, and prints
-- what it saw as one line of JSON.

function init(args)
    local file = assert(io.open(args[1], "rb"))

    wrk.method = "POST"
    wrk.body = file:read("*a")
    wrk.headers["Content-Type"] = "application/json"
    wrk.headers["X-Case-Id"] = "C-2026-000123"

    file:close()
end


function done(summary, latency)
    local e = summary.errors

    io.write(string.format(
        '\n{"requests": %d, "seconds": %.6f, "errors": %d, ' ..
        '"p50_us": %d, "p99_us": %d}\n',
        summary.requests, summary.duration / 1e6,
        e.connect + e.read + e.write + e.status + e.timeout,
        latency:percentile(50), latency:percentile(99)))
end
