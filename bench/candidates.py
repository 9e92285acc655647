# Copyright (C) The ngx_vd_module authors

"""What is compared, and how each is configured."""

import base64
import secrets
import subprocess
from dataclasses import dataclass
from pathlib import Path

from rig import HERE, Failed, Site

MODULE = HERE.parent / "build" / "ngx_http_vd_module.so"
TICKET = "VD-12345"


@dataclass(frozen=True)
class Candidate:
    """A location of the edge.  Each has an upstream{} of its own, of its name."""

    name: str
    title: str
    baseline: str  # the candidate that its cost is compared with
    location: str
    tls: bool = False
    lua: bool = False
    vd: bool = False  # has an output, of its name
    journaled: bool = False  # has a journal, in a directory of its name
    accepts: bool = False  # answers before it has delivered


PROXY = """\
            proxy_pass http://proxy/;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
"""

PROXY_LOG = (
    PROXY.replace("//proxy/", "//proxy-log/")
    + """\
            access_log access.log body;
"""
)

PROXY_TLS = """\
            proxy_pass https://proxy-tls/;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_ssl_protocols TLSv1.2 TLSv1.3;
            proxy_ssl_verify on;
            proxy_ssl_trusted_certificate receiver.crt;
            proxy_ssl_server_name on;
            proxy_ssl_name receiver;
"""

VD = """\
            vd_pass http://vd/;
            vd_output vd "Security Incident";
"""

VD_BLIND = """\
            vd_pass http://vd-blind/;
            vd_output vd-blind "Security Incident";
            vd_validate off;
"""

VD_TLS = """\
            vd_pass https://vd-tls/;
            vd_output vd-tls "Security Incident";
            vd_ssl_trusted_certificate receiver.crt;
            vd_ssl_name receiver;
"""

VD_JOURNAL = """\
            vd_pass http://vd-journal/;
            vd_output vd-journal "Security Incident";
            vd_journal journal/vd-journal segment=16m;
"""

VD_NOSYNC = """\
            vd_pass http://vd-nosync/;
            vd_output vd-nosync "Security Incident";
            vd_journal journal/vd-nosync segment=16m sync=off;
"""

VD_ACK = """\
            vd_pass http://vd-ack/;
            vd_output vd-ack "Security Incident";
            vd_journal journal/vd-ack segment=16m;
            vd_ack journal;
"""

LUA = """\
            set $webhook_id "";
            set $webhook_timestamp "";
            set $webhook_signature "";
            content_by_lua_block { sign.deliver("/lua-send", key) }
        }

        location = /lua-send {
            internal;
            proxy_pass http://lua/;
            proxy_http_version 1.1;
            proxy_pass_request_headers off;
            proxy_set_header Connection "";
            proxy_set_header Content-Type application/json;
            proxy_set_header webhook-id $webhook_id;
            proxy_set_header webhook-timestamp $webhook_timestamp;
            proxy_set_header webhook-signature $webhook_signature;
"""

CANDIDATES = (
    Candidate("proxy", "proxy_pass", "proxy", PROXY),
    Candidate("proxy-log", "proxy_pass, body in access_log", "proxy", PROXY_LOG),
    Candidate("vd-blind", "vd_pass, vd_validate off", "proxy", VD_BLIND, vd=True),
    Candidate("vd", "vd_pass", "proxy", VD, vd=True),
    Candidate(
        "vd-nosync",
        "vd_pass, vd_journal sync=off",
        "proxy",
        VD_NOSYNC,
        vd=True,
        journaled=True,
    ),
    Candidate(
        "vd-journal",
        "vd_pass, vd_journal",
        "proxy",
        VD_JOURNAL,
        vd=True,
        journaled=True,
    ),
    Candidate(
        "vd-ack",
        "vd_ack journal: accepted only",
        "proxy",
        VD_ACK,
        vd=True,
        journaled=True,
        accepts=True,
    ),
    Candidate("lua", "lua: the same by hand, no log", "proxy", LUA, lua=True),
    Candidate("proxy-tls", "proxy_pass, TLS", "proxy-tls", PROXY_TLS, tls=True),
    Candidate("vd-tls", "vd_pass, TLS", "proxy-tls", VD_TLS, tls=True, vd=True),
)

EDGE = """\
    log_format body escape=json
        '{{"time":"$time_iso8601","id":"$request_id","case":"$http_x_case_id",'
        '"uri":"$uri","status":"$status","upstream":"$upstream_addr",'
        '"duration":"$upstream_response_time","body":"$request_body"}}';

    vd_secret_file secret;
    vd_zone bench 256k;
{patience}
{lua}{upstreams}
    server {{
        listen 127.0.0.1:{port} backlog=4096;

{locations}        location = /status {{
            stub_status;
        }}

        location = /counters {{
            vd_status;
        }}
    }}
"""

UPSTREAM = """\
    upstream {name} {{
        server 127.0.0.1:{port};
        keepalive 1024;
        keepalive_requests 1000000000;
    }}

"""

# Nothing times out while a silent receiver is waited for.

PATIENCE = """\
    vd_timeout 1h;
    vd_read_timeout 1h;
    proxy_read_timeout 1h;
"""

LOCATION = """\
        location = /{name} {{
{location}        }}

"""

LUA_INIT = """\
    lua_package_path "{here}/?.lua;;";

    init_by_lua_block {{
        sign = require "sign"

        local file = assert(io.open("{prefix}/secret"))
        key = ngx.decode_base64(file:read("*l"):sub(#"whsec_" + 1))
        file:close()
    }}

"""

RECEIVER = """\
    ssl_certificate receiver.crt;
    ssl_certificate_key receiver.key;
    ssl_protocols TLSv1.2 TLSv1.3;
    default_type application/json;

    limit_req_zone $server_addr zone=silent:32k rate=1r/m;

    server {{
        listen 127.0.0.1:{port} backlog=4096;
        listen 127.0.0.1:{tls_port} ssl backlog=4096;

        location / {{
            {answer}
        }}

        location = /status {{
            stub_status;
        }}
    }}
"""

ANSWER = f"""return 200 '{{"success": true, "ticket_id": "{TICKET}"}}';"""

# Each request but the first is held back a minute longer than the one before.

SILENCE = "limit_req zone=silent burst=1000000; empty_gif;"


def lua_modules(site: Site) -> list[Path]:
    """Debian's modules that the Lua candidate needs, in the order of loading."""
    names = ("ndk_http_module.so", "ngx_http_lua_module.so")
    return [site.modules_dir / name for name in names]


def missing_for_lua(site: Site) -> str:
    """Why the Lua candidate cannot run, or nothing."""
    for path in [*lua_modules(site), Path("/usr/share/lua/5.1/resty/core.lua")]:
        if not path.exists():
            return f"{path} is missing (Debian's libnginx-mod-http-lua)"
    if not list(Path("/usr/lib").glob("*/lua/5.1/cjson.so")):
        return "Debian's lua-cjson is missing"
    return ""


def journal_dir(site: Site, candidate: Candidate) -> Path:
    return site.prefix / "journal" / candidate.name


def write_keys(site: Site) -> None:
    key = base64.b64encode(secrets.token_bytes(32)).decode()
    (site.prefix / "secret").touch(mode=0o600)
    (site.prefix / "secret").write_text(f"whsec_{key}\n")
    made = subprocess.run(
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes "
        "-keyout receiver.key -out receiver.crt -days 2 -subj /CN=receiver "
        "-addext subjectAltName=DNS:receiver".split(),
        cwd=site.prefix,
        capture_output=True,
        text=True,
    )
    if made.returncode != 0:
        raise Failed(f"no certificate:\n{made.stderr}")


def start_receiver(site: Site, answer: str) -> int:
    http = RECEIVER.format(
        port=site.receiver_port, tls_port=site.receiver_tls_port, answer=answer
    )
    return site.start("receiver", [], http)


def start_edge(
    site: Site, module: Path, candidates: list[Candidate], patience: str = ""
) -> int:
    lua = any(candidate.lua for candidate in candidates)
    modules = [*lua_modules(site), module] if lua else [module]
    for candidate in candidates:
        if candidate.journaled:
            journal_dir(site, candidate).mkdir(parents=True)
    ports = {False: site.receiver_port, True: site.receiver_tls_port}
    http = EDGE.format(
        port=site.port,
        patience=patience,
        lua=LUA_INIT.format(here=HERE, prefix=site.prefix) if lua else "",
        upstreams="".join(
            UPSTREAM.format(name=candidate.name, port=ports[candidate.tls])
            for candidate in candidates
        ),
        locations="".join(
            LOCATION.format(name=candidate.name, location=candidate.location)
            for candidate in candidates
        ),
    )
    return site.start("edge", modules, http)
