# Copyright (C) The ngx_vd_module authors
#
# What the app is answered, whatever comes of its case: the keys of the answer
# and their order, ids and numbers of attempts, and what is refused.

use Test::Nginx::Socket 'no_plan';
use Test::VD;

add_block_preprocessor(sub {
    my ($block) = @_;

    # Where there is none, Test::VD makes it.
    return if !defined $block->config;

    $block->set_value(http_config => <<'CONF' . ($block->http_config // ''));
vd_secret_file $TEST_NGINX_SECRET_FILE;
vd_ticket_id ticket_id max=4096;
proxy_intercept_errors on;
log_format vd '$vd_id $msec';

server {
    listen unix:$TEST_NGINX_HTML_DIR/receiver.sock;
    access_log off;

    location / {
        return 200 '{"ticket_id":"id $http_webhook_id"}';
    }
    location = /500 { return 500; }
}
CONF
    return;
});

# Answers are given here as they are read best, without the quotes.
sub json {
    my ($text) = @_;

    $text =~ s/([^,:]+)/"$1"/g;
    $text =~ s/(?<="(?:attempt|status)":)"([0-9]+)"|"(null|false)"/$1 \/\/ $2/eg;

    return "{$text}\n";
}

run_tests();

__DATA__

=== TEST 1: a delivery that was delivered
--- config
    location = /vd {
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/receiver.sock;
        vd_output Crm.28_a-b "Security Incident - Critical Alert";
    }
--- request
POST /vd
{}
--- more_headers
Idempotency-Key: case-1
--- response_headers
Content-Type: application/json
Content-Length: 159
! Transfer-Encoding
--- response_body eval
::json('id:case-1,output:Crm.28_a-b,state:delivered,attempt:1,status:200,'
    . 'ticket_id:id case-1,ticket_error:null,reason:null,journaled:false')
--- no_error_log
[error]



=== TEST 2: the status of the receiver decides
--- cases
delivered 200 T-1 <- reply 200 {"ticket_id":"T-1"}
delivered 201 T-1 <- reply 201 {"ticket_id":"T-1"}
delivered 202 T-1 <- reply 202 {"ticket_id":"T-1"}
delivered 204 not_json <- send HTTP/1.1 204 No Content\r\n\r\n
delivered 205 T-1 <- reply 205 {"ticket_id":"T-1"}
delivered 206 T-1 <- reply 206 {"ticket_id":"T-1"}
delivered 299 T-1 <- reply 299 {"ticket_id":"T-1"}
failed 300 status <- reply 300 {"ticket_id":"T-1"}
failed 303 status <- reply 303 {"ticket_id":"T-1"}
failed 304 status <- send HTTP/1.1 304 Not Modified\r\n\r\n
failed 400 status <- reply 400 {"ticket_id":"T-1"}
failed 401 status <- reply 401 {"ticket_id":"T-1"}
failed 404 status <- reply 404 {"ticket_id":"T-1"}
failed 409 status <- reply 409 {"ticket_id":"T-1"}
failed 410 status <- reply 410 {"ticket_id":"T-1"}
failed 429 status <- reply 429 {"ticket_id":"T-1"}
failed 500 status <- reply 500 {"ticket_id":"T-1"}
failed 502 status <- reply 502 {"ticket_id":"T-1"}
failed 503 status <- reply 503 {"ticket_id":"T-1"}
failed 504 status <- reply 504 {"ticket_id":"T-1"}



=== TEST 3: the replies that the receiver is known to send
--- cases
delivered 200 missing <- reply 200 {"message": "Workflow was started"}
delivered 200 missing <- reply 200 {"success": "Valid HMAC signature", "status": 200}
delivered 200 VD-12345 <- reply 200 {"success": true, "ticket_id": "VD-12345"}



=== TEST 4: every reason to fail
--- config
    vd_ssl_verify off;

    location = /connect {
        vd_pass http://127.0.0.1:$TEST_NGINX_RAND_PORT_1;
        vd_output 28;
    }
    location = /tls {
        vd_pass https://unix:$TEST_NGINX_HTML_DIR/receiver.sock;
        vd_output 28;
    }
    location = /timeout-connect {
        vd_connect_timeout 50ms;
        vd_pass http://127.0.0.1:$TEST_NGINX_FULL_PORT;
        vd_output 28;
    }
    location = /timeout-read {
        vd_read_timeout 50ms;
        vd_pass http://127.0.0.1:$TEST_NGINX_SILENT_PORT;
        vd_output 28;
    }
    location = /timeout {
        vd_timeout 50ms;
        vd_pass http://127.0.0.1:$TEST_NGINX_SILENT_PORT;
        vd_output 28;
    }
    location = /closed {
        vd_pass http://127.0.0.1:$TEST_NGINX_RAW_PORT/answer?close;
        vd_output 28;
    }
    location = /closed-after-status {
        vd_pass http://127.0.0.1:$TEST_NGINX_RAW_PORT/answer?send%20HTTP/1.1%20200%20OK%5Cr%5CnContent-Length:%203%5Cr%5Cn%5Cr%5Cnyo&close;
        vd_output 28;
    }
    location = /protocol {
        vd_pass http://127.0.0.1:$TEST_NGINX_RAW_PORT/answer?send%20SSH-2.0%5Cr%5Cn&close;
        vd_output 28;
    }
    location = /status {
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/receiver.sock:/500;
        vd_output 28;
    }
    location ~ (?s)^/internal/(.*) {
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/receiver.sock;
        vd_output 28;
        vd_set_header X-A $1;
    }
--- request eval
[map {"POST /$_\n{}"} qw(connect tls timeout-connect timeout-read timeout
    closed closed-after-status protocol status internal/%0a)]
--- more_headers
Idempotency-Key: case-1
--- error_code eval
[(502) x 10]
--- response_body eval
[map { ::json("id:case-1,output:28,state:failed,attempt:1,status:$_->[0],ticket_id:null,"
        . "ticket_error:null,reason:$_->[1],journaled:false") }
    [null => 'connect'], [null => 'tls'], [null => 'timeout'],
    [null => 'timeout'], [null => 'timeout'], [null => 'closed'], [200 => 'closed'],
    [null => 'protocol'], [500 => 'status'], [null => 'internal']]
--- error_log
delivery "case-1" to output "28" failed
--- no_error_log
[alert]
[emerg]



=== TEST 5: methods other than POST
--- config
    location = /vd {
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/receiver.sock;
        vd_output 28;
        add_header X-Peer $upstream_addr always;
    }
--- request eval
["GET /vd", "HEAD /vd", "PUT /vd\n{}", "DELETE /vd", "PATCH /vd\n{}", "OPTIONS /vd", "BREW /vd"]
--- error_code eval
[(405) x 7]
--- response_headers eval
[("Allow: POST\nContent-Type: application/json\nContent-Length: 31\n! X-Peer") x 7]
--- response_body eval
["{\"error\":\"method is not POST\"}\n", "", ("{\"error\":\"method is not POST\"}\n") x 5]
--- no_error_log
[error]



=== TEST 6: a body over client_max_body_size
--- config
    location = /vd {
        client_max_body_size 10;
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/receiver.sock;
        vd_output 28;
        add_header X-Peer $upstream_addr always;
    }
--- request eval
["POST /vd\n{\"n\": 100}", "POST /vd\n{\"n\": 1000}", "POST /vd\n5\r\n{\"n\":\r\n6\r\n 1000}\r\n0\r\n\r\n"]
--- more_headers eval
["Idempotency-Key: case-1", "", "Transfer-Encoding: chunked"]
--- error_code eval
[200, 413, 413]
--- response_headers eval
["Content-Type: application/json", "! X-Peer", "! X-Peer"]



=== TEST 7: an empty body
--- config
    location = /vd {
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/receiver.sock;
        vd_output 28;
        add_header X-Peer $upstream_addr always;
    }
    location = /any {
        vd_validate off;
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/receiver.sock;
        vd_output 28;
        add_header X-Peer $upstream_addr always;
    }
--- request eval
["POST /vd", "POST /vd", "POST /vd\n0\r\n\r\n", "POST /any", "POST /any\n0\r\n\r\n"]
--- more_headers eval
["", "Content-Length: 0", "Transfer-Encoding: chunked", "", "Transfer-Encoding: chunked"]
--- error_code eval
[(400) x 5]
--- response_headers eval
[("Content-Type: application/json\nContent-Length: 23\n! X-Peer") x 5]
--- response_body eval
[("{\"error\":\"empty body\"}\n") x 5]
--- no_error_log
[error]



=== TEST 8: the Idempotency-Key is the delivery's id
--- config
    location = /vd {
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/receiver.sock;
        vd_output 28;
    }
--- request eval
[("POST /vd\n{}") x 5]
--- more_headers eval
[map {"Idempotency-Key: $_"} 'a', '-', '_0', 'abcXYZ-019_', 'x' x 128]
--- response_body eval
[map { ::json("id:$_,output:28,state:delivered,attempt:1,status:200,ticket_id:id $_,"
        . "ticket_error:null,reason:null,journaled:false") }
    'a', '-', '_0', 'abcXYZ-019_', 'x' x 128]
--- no_error_log
[error]



=== TEST 9: an invalid Idempotency-Key
--- config
    location = /vd {
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/receiver.sock;
        vd_output 28;
        add_header X-Peer $upstream_addr always;
    }
--- request eval
[("POST /vd\n{}") x 10]
--- more_headers eval
[map {"Idempotency-Key: $_"} 'x' x 129, 'a b', 'a.b', 'a/b', "\xc3\xa9", '"a"', "a,b", "a\tb", "a\x01b", '']
--- error_code eval
[(400) x 10]
--- response_headers eval
[("Content-Type: application/json\n! X-Peer\n! Allow") x 10]
--- response_body eval
[("{\"error\":\"invalid Idempotency-Key, it must be 1 to 128 of A-Za-z0-9_-\"}\n") x 10]
--- no_error_log
[error]



=== TEST 10: more than one Idempotency-Key or VD-Attempt
--- config
    location = /vd {
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/receiver.sock;
        vd_output 28;
        add_header X-Peer $upstream_addr always;
    }
--- request eval
[("POST /vd\n{}") x 4]
--- more_headers eval
["Idempotency-Key: a\nIdempotency-Key: b", "idempotency-key: a\nIDEMPOTENCY-KEY: a",
 "VD-Attempt: 1\nVD-Attempt: 2", "VD-Attempt: 1\nvd-attempt: 1"]
--- error_code eval
[(400) x 4]
--- response_headers eval
[("Content-Type: application/json\n! X-Peer") x 4]
--- response_body eval
[("{\"error\":\"more than one Idempotency-Key\"}\n") x 2, ("{\"error\":\"more than one VD-Attempt\"}\n") x 2]



=== TEST 11: an underscore for a hyphen, which nginx's own variables take for the same
--- config
    underscores_in_headers on;
    location = /vd {
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/receiver.sock;
        vd_output 28;
        add_header X-Peer $upstream_addr always;
    }
--- request eval
[("POST /vd\n{}") x 4]
--- more_headers eval
["Idempotency-Key: a\nIdempotency_Key: b", "VD_Attempt: \nVD-Attempt: 2", "VD-Attempt: 2\nVD_Attempt: ",
 "VD_Output: 28"]
--- error_code eval
[(400) x 4]
--- response_headers eval
[("Content-Type: application/json\n! X-Peer") x 4]
--- response_body eval
["{\"error\":\"more than one Idempotency-Key\"}\n", ("{\"error\":\"more than one VD-Attempt\"}\n") x 2,
 "{\"error\":\"VD-Output without VD-Attempt\"}\n"]



=== TEST 12: without a key the id is a UUIDv7, as answered so sent
--- config
    location = /vd {
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/receiver.sock;
        vd_output 28;
    }
--- request
POST /vd
{}
--- response_body eval
qr/^\{"id":"([0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12})",.*"ticket_id":"id \1",/



=== TEST 13: such ids are in the order of their time, which is the present
--- config
    location = /vd {
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/receiver.sock;
        vd_output 28;
        access_log logs/vd.log vd;
    }
    location = /log {
        alias $TEST_NGINX_SERVER_ROOT/logs/vd.log;
    }
--- request eval
["POST /vd\n{}", "POST /vd\n{}", "GET /log"]
--- response_body eval
[qr//, qr//, qr/^(\S+)\ (\S+)\n(\S+)\ (\S+)\n$
    (?(?{ $1 lt $3 })|(?!))
    (?(?{ abs(hex(substr $1, 0, 8) * 65536 + hex(substr $1, 9, 4) - $2 * 1000) < 1000 })|(?!))/x]



=== TEST 14: ids that are made at once differ
--- config
    location = /vd {
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/receiver.sock;
        vd_output 28;
        access_log logs/vd.log vd;
    }
    location = /log {
        alias $TEST_NGINX_SERVER_ROOT/logs/vd.log;
    }
--- pipelined_requests eval
[("POST /vd\n{}") x 20, "GET /log"]
--- response_body eval
[(qr/"state":"delivered"/) x 20, qr/^(?:(\S{36}) \S+\n(?!.*\1)){20}$/s]



=== TEST 15: the number of the attempt
--- config
    location = /vd {
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/receiver.sock;
        vd_output 28;
    }
--- request eval
[("POST /vd\n{}") x 5]
--- more_headers eval
["", map {"VD-Attempt: $_"} 1, 2, 999, 1000]
--- response_body_like eval
[map {qr/"state":"delivered","attempt":$_,"status":200,/} 1, 1, 2, 999, 1000]



=== TEST 16: an invalid VD-Attempt
--- config
    location = /vd {
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/receiver.sock;
        vd_output 28;
        add_header X-Peer $upstream_addr always;
    }
--- request eval
[("POST /vd\n{}") x 11]
--- more_headers eval
[map {"VD-Attempt: $_"} 0, 1001, 'x', -1, '+1', '1.0', '1e2', '0x1', '1 2', '9' x 30, '']
--- error_code eval
[(400) x 11]
--- response_headers eval
[("Content-Type: application/json\n! X-Peer") x 11]
--- response_body eval
[("{\"error\":\"invalid VD-Attempt, it must be 1 to 1000\"}\n") x 11]



=== TEST 17: error_page replaces no answer
--- config
    error_page 400 405 500 502 503 504 /page;
    recursive_error_pages on;
    location = /page {
        return 418 "replaced";
    }
    location = /vd {
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/receiver.sock:/500;
        vd_output 28;
    }
    location = /refused {
        vd_pass http://127.0.0.1:$TEST_NGINX_RAND_PORT_1;
        vd_output 28;
    }
    location ~ (?s)^/internal/(.*) {
        vd_pass http://127.0.0.1:$TEST_NGINX_RAND_PORT_1;
        vd_output 28;
        vd_set_header X-A $1;
    }
--- request eval
["POST /vd\n{}", "POST /refused\n{}", "POST /internal/%0a\n{}", "POST /vd\n{", "POST /vd", "PUT /vd\n{}", "HEAD /vd"]
--- error_code eval
[502, 502, 502, 400, 400, 405, 405]
--- response_headers eval
[("Content-Type: application/json") x 7]
--- response_body_like eval
['"reason":"status"', '"reason":"connect"', '"reason":"internal"', '^\{"error":', '^\{"error":', '^\{"error":', '^$']



=== TEST 18: nor does one with "="
--- config
    error_page 400 405 500 502 503 504 = /page;
    location = /page {
        return 200 "replaced";
    }
    location = /vd {
        error_page 502 =200 /page;
        error_page 400 =200 @page;
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/receiver.sock:/500;
        vd_output 28;
    }
    location @page {
        return 200 "replaced";
    }
    location = /refused {
        vd_pass http://127.0.0.1:$TEST_NGINX_RAND_PORT_1;
        vd_output 28;
    }
--- request eval
["POST /vd\n{}", "POST /refused\n{}", "POST /vd\n{", "GET /refused"]
--- error_code eval
[502, 502, 400, 405]
--- response_headers eval
[("Content-Type: application/json") x 4]
--- response_body_like eval
['"reason":"status"', '"reason":"connect"', '^\{"error":', '^\{"error":']



=== TEST 19: reached through error_page, the status is that of the delivery
--- config
    location = /plain {
        error_page 404 @vd;
        return 404;
    }
    location = /equals {
        error_page 404 = @vd;
        return 404;
    }
    location = /201 {
        error_page 404 =201 @vd;
        return 404;
    }
    location = /failing {
        error_page 404 @failing;
        return 404;
    }
    location = /failing-200 {
        error_page 404 =200 @failing;
        return 404;
    }
    location @vd {
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/receiver.sock;
        vd_output 28;
    }
    location @failing {
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/receiver.sock:/500;
        vd_output 28;
    }
--- request eval
["POST /plain\n{}", "POST /equals\n{}", "POST /201\n{}", "POST /failing\n{}", "POST /failing-200\n{}",
 "POST /plain\n{", "POST /201\n{", "PUT /plain\n{}", "PUT /201\n{}"]
--- error_code eval
[200, 200, 200, 502, 502, 400, 400, 405, 405]
--- response_headers eval
[("Content-Type: application/json") x 9]
--- response_body_like eval
[('^\{"id":.*"state":"delivered"') x 3, ('"state":"failed"') x 2, ('^\{"error":') x 4]



=== TEST 20: a ticket id of any characters is JSON in the answer
--- cases
delivered 200 plain <- reply 200 {"ticket_id":"plain"}
delivered 200 a\"b <- reply 200 {"ticket_id":"a\\"b"}
delivered 200 \\ <- reply 200 {"ticket_id":"\\\\"}
delivered 200 \u003c/b> <- reply 200 {"ticket_id":"<\\/b>"}
