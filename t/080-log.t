# Copyright (C) The ngx_vd_module authors
#
# The error log: one line for each failed attempt, which delivery every other
# line is about, and nothing that is confidential.

use Test::Nginx::Socket 'no_plan';
use Test::VD;

# Secrets are files that others cannot read.
umask 027;

add_block_preprocessor(sub {
    my ($block) = @_;

    $block->set_value(http_config => <<'CONF' . ($block->http_config // ''));
vd_secret_file $TEST_NGINX_SECRET_FILE;
vd_ssl_verify off;

server {
    listen unix:$TEST_NGINX_HTML_DIR/receiver.sock;
    listen 127.0.0.1:$TEST_NGINX_RAND_PORT_1;
    access_log off;
    error_log /dev/null;

    location = /    { return 200 '{"ticket_id":"T-1"}'; }
    location = /503 { return 503; }
    location = /444 { return 444; }
}
CONF
    $block->set_value(config => <<'CONF' . ($block->config // ''));
    error_log logs/error.log debug;
    error_log logs/vd-error.log error;

    location = /vd {
        vd_pass http://127.0.0.1:$TEST_NGINX_RAND_PORT_1/;
        vd_output 28;
    }
    location = /status {
        vd_pass http://127.0.0.1:$TEST_NGINX_RAND_PORT_1/503;
        vd_output 28;
    }
    location = /closed {
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/receiver.sock:/444;
        vd_output 28;
    }
    location = /connect {
        vd_pass http://127.0.0.1:$TEST_NGINX_RAND_PORT_2;
        vd_output 28;
    }
    location = /tls {
        vd_pass https://127.0.0.1:$TEST_NGINX_RAND_PORT_1;
        vd_output 28;
        vd_ssl_name receiver.test;
    }
    location = /timeout {
        vd_pass http://127.0.0.1:$TEST_NGINX_SILENT_PORT;
        vd_output 28;
        vd_read_timeout 50ms;
    }
    location = /protocol {
        vd_pass http://127.0.0.1:$TEST_NGINX_RAW_PORT/log?send%20SSH-2.0%5Cr%5Cn&close;
        vd_output 28;
    }
    location ~ (?s)^/internal/(.*) {
        vd_pass http://127.0.0.1:$TEST_NGINX_RAND_PORT_1;
        vd_output 28;
        vd_set_header X-A $1;
    }
    location = /errors {
        access_log off;
        error_log /dev/null;
        alias $TEST_NGINX_SERVER_ROOT/logs/vd-error.log;
    }
CONF
    return;
});

run_tests();

__DATA__

=== TEST 1: a failed attempt is a line
--- request eval
["POST /status\n{}", "GET /errors"]
--- more_headers
Idempotency-Key: case-1
VD-Attempt: 3
--- error_code eval
[502, 200]
--- response_body eval
[qr/"reason":"status"/, qr{^[0-9/]+\ [0-9:]+\ \[error\]\ [0-9#]+:\ \*[0-9]+\ delivery\ "case-1"\ to\ output\ "28"
    \ failed:\ attempt\ 3,\ reason\ status,\ status\ 503,\ peer\ "127\.0\.0\.1:[0-9]+"(?:\ while\ [a-z\ ]+)?,\ client:\ 127\.0\.0\.1,
    \ server:\ localhost,\ request:\ "POST\ /status\ HTTP/1\.1",[^\n]*\ host:\ "localhost",
    [^\n]*\ delivery:\ "case-1",\ output:\ "28"\n$}x]



=== TEST 2: a delivery is none
--- request eval
["POST /vd\n{}", "GET /errors"]
--- response_body_like eval
['"state":"delivered"', '^$']
--- no_error_log
[error]
[warn]



=== TEST 3: for each reason there is one line that names it
--- request eval
["POST /closed\n{}", "POST /connect\n{}", "POST /tls\n{}", "POST /timeout\n{}", "POST /protocol\n{}", "POST /internal/%0a\n{}"]
--- more_headers
Idempotency-Key: case-1
--- error_code eval
[(502) x 6]
--- grep_error_log eval
qr/delivery "case-1" to output "28" failed: attempt 1, reason .*?, peer/
--- grep_error_log_out eval
qr/^delivery "case-1" to output "28" failed: attempt 1, reason (?:closed|connect|tls|timeout|protocol|internal), status -, peer\n$/



=== TEST 4: whatever nginx says of an attempt names the delivery
--- request eval
["POST /closed\n{}", "POST /connect\n{}", "POST /tls\n{}", "POST /timeout\n{}", "POST /protocol\n{}", "POST /internal/%0a\n{}", "GET /errors"]
--- more_headers eval
[map {"Idempotency-Key: case-$_"} 1 .. 7]
--- error_code eval
[(502) x 6, 200]
--- response_body_like eval
[('failed') x 6, '^' . CORE::join '', map { my $id = $_;
    map { qq([^\\n]*$_ [^\\n]*, delivery: "case-$id", output: "28"[^\\n]*\\n)
        . qq([^\\n]*delivery "case-$id" to output "28" failed: [^\\n]*, delivery: "case-$id", output: "28"[^\\n]*\\n) }
        ('upstream prematurely closed connection', 'connect\(\) failed', 'SSL_do_handshake\(\) failed', 'upstream timed out',
         'upstream sent no valid HTTP/1\.x status line', 'control character in the value')[$id - 1] } 1 .. 6]



=== TEST 5: a try that failed before another one delivered is nginx's line alone
--- http_config
    upstream crm {
        server 127.0.0.1:$TEST_NGINX_RAND_PORT_2;
        server 127.0.0.1:$TEST_NGINX_RAND_PORT_1 backup;
    }
--- config
    location = /crm {
        vd_pass http://crm;
        vd_output 28;
    }
--- request eval
["POST /crm\n{}", "GET /errors"]
--- more_headers
Idempotency-Key: case-1
--- response_body_like eval
['"state":"delivered"', '^[^\n]* connect\(\) failed [^\n]*, delivery: "case-1", output: "28"\n$']



=== TEST 6: after two tries the line names the last peer
--- http_config
    upstream crm {
        server 127.0.0.1:$TEST_NGINX_RAND_PORT_2;
        server 127.0.0.1:$TEST_NGINX_RAND_PORT_1 backup;
    }
--- config
    location = /crm {
        vd_pass http://crm/503;
        vd_output 28;
    }
--- request
POST /crm
{}
--- more_headers
Idempotency-Key: case-1
--- error_code: 502
--- grep_error_log eval
qr/ failed: attempt 1, .*? peer "[^"]*"/
--- grep_error_log_out
 failed: attempt 1, reason status, status 503, peer "127.0.0.1:$TEST_NGINX_RAND_PORT_1"



=== TEST 7: what the app does wrong is information, not an error
--- request eval
["PUT /vd\n{}", "POST /vd", "POST /vd\n{", "POST /vd\n{}"]
--- more_headers eval
["", "", "", "Idempotency-Key: a.b"]
--- error_code eval
[405, 400, 400, 400]
--- error_log
[info]
client sent a case that is refused
--- no_error_log
[error]
[warn]



=== TEST 8: the log of the next request on the connection is its own
--- config
    location = /denied {
        deny all;
    }
--- pipelined_requests eval
["POST /status\n{}", "GET /denied", "GET /errors"]
--- more_headers eval
["Idempotency-Key: case-1", "", ""]
--- error_code eval
[502, 403, 200]
--- response_body_like eval
['"status":503', '403 Forbidden', '^[^\n]*failed[^\n]*delivery: "case-1"[^\n]*\n[^\n]*access forbidden by rule(?:(?!delivery)[^\n])*\n$']



=== TEST 9: what a path decodes to begins no line of the log
--- config
    location /decoded/ {
        vd_pass http://127.0.0.1:$TEST_NGINX_RAND_PORT_1/503;
        vd_output 28;
    }
--- request eval
["POST /decoded/%0aforged%0d%0a\n{}", "GET /errors"]
--- more_headers
Idempotency-Key: case-1
--- error_code eval
[502, 200]
--- response_body_like eval
['"status":503', '^[^\n]*delivery "case-1" to output "28" failed[^\n]*, delivery: "case-1", output: "28"\n$']



=== TEST 10: neither the secret nor the body is in the log, at any level
--- config
    vd_secret_file $TEST_NGINX_HTML_DIR/secret;
    vd_secret_file $TEST_NGINX_HTML_DIR/standard;
    vd_signature standard;
    vd_signature github;
    vd_signature hex;
    vd_signature stripe;
    vd_signature slack;

    location = /in-file {
        client_body_in_file_only clean;
        vd_pass http://127.0.0.1:$TEST_NGINX_RAND_PORT_1/503;
        vd_output 28;
    }
    location = /debug {
        vd_pass http://127.0.0.1:$TEST_NGINX_RAND_PORT_1/;
        vd_output 28;
    }
--- user_files
>>> secret
plain-SECRET-of-the-test
>>> standard
whsec_U0VDUkVULW9mLXRoZS10ZXN0
--- request eval
["POST /debug\n{\"a\": \"BODY-of-the-test\"}", "POST /in-file\n{\"a\": \"BODY-of-the-test\"}", "POST /debug\n{\"a\": \"BODY-of-the-test}",
 "POST /status\n{\"a\": \"BODY-of-the-test\"}", "PUT /debug\n{\"a\": \"BODY-of-the-test\"}"]
--- error_code eval
[200, 502, 400, 502, 405]
--- error_log
localhost
--- no_error_log
SECRET-of-the-test
U0VDUkVULW9mLXRoZS10ZXN0
BODY-of-the-test
[alert]



=== TEST 11: after another handler's try the line names the delivery's peer alone
--- config
    location = /proxied {
        error_page 502 = @vd;
        proxy_pass http://127.0.0.1:$TEST_NGINX_RAND_PORT_2/proxied;
    }
    location @vd {
        vd_pass http://127.0.0.1:$TEST_NGINX_RAND_PORT_2/delivered;
        vd_output 28;
    }
--- request eval
["POST /proxied\n{}", "GET /errors"]
--- more_headers
Idempotency-Key: case-1
--- error_code eval
[502, 200]
--- response_body_like eval
['"reason":"connect"', '^[^\n]*connect\(\) failed[^\n]*upstream: "http://[^"/]*/proxied"[^\n]*\n'
 . '(?:(?:(?!/proxied",)[^\n])*upstream: "http://[^"/]*/delivered"(?:(?!upstream: )[^\n])*\n){2}$']
