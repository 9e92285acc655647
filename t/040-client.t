# Copyright (C) The ngx_vd_module authors
#
# The app as a client of HTTP/1.x: how it uses connections, and when it goes
# away.  An attempt that has begun is finished, and logged once, in any case.

use Test::Nginx::Socket 'no_plan';
use Test::VD;

use IO::Socket::INET;
use Socket qw(SOL_SOCKET SO_LINGER);
use Time::HiRes qw(sleep);

add_block_preprocessor(sub {
    my ($block) = @_;

    $block->set_value(http_config => <<'CONF' . ($block->http_config // ''));
vd_secret_file $TEST_NGINX_SECRET_FILE;
log_format vd '$vd_id $vd_attempt $vd_outcome $vd_status $vd_reason $vd_ticket_id';

server {
    listen unix:$TEST_NGINX_HTML_DIR/receiver.sock;
    access_log off;

    location / {
        return 200 '{"ticket_id":"$http_webhook_id"}';
    }
    location = /500 { return 500; }
}
CONF
    $block->set_value(config => <<'CONF' . ($block->config // ''));
    location = /vd {
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/receiver.sock;
        vd_output 28;
    }
    location = /500 {
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/receiver.sock:/500;
        vd_output 28;
    }
    location = /log {
        access_log off;
        alias $TEST_NGINX_SERVER_ROOT/logs/vd.log;
    }
    location = /errors {
        access_log off;
        alias $TEST_NGINX_SERVER_ROOT/logs/vd-error.log;
    }
CONF
    return;
});

# A client that resets its connection while it waits for the answer.
sub reset_while_waiting {
    my ($uri, $id, $seconds) = @_;

    my $socket = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => server_port())
        // die "cannot connect: $!";
    syswrite $socket, "POST $uri HTTP/1.1\r\nHost: localhost\r\nIdempotency-Key: $id\r\n"
        . "Content-Length: 2\r\n\r\n{}";
    sleep $seconds;
    setsockopt $socket, SOL_SOCKET, SO_LINGER, pack 'ii', 1, 0;
    close $socket;
    return;
}

run_tests();

__DATA__

=== TEST 1: deliveries in a row on one connection are answered in order
--- config
    add_header X-Number $connection_requests always;
--- pipelined_requests eval
["POST /vd\n{}", "POST /500\n{}", "POST /vd\n{", "PUT /vd\n{}", "POST /vd\n[2]", "GET /vd", "POST /vd", "POST /vd\n[3]"]
--- more_headers eval
[map {"Idempotency-Key: case-$_"} 1 .. 8]
--- error_code eval
[200, 502, 400, 405, 200, 405, 400, 200]
--- response_headers eval
[(map {"X-Number: $_\nConnection: keep-alive"} 1 .. 7), "X-Number: 8\nConnection: close"]
--- response_body_like eval
['"ticket_id":"case-1"', '"id":"case-2",.*"status":500', '^{"error":', '^{"error":', '"ticket_id":"case-5"',
 '^{"error":', '^{"error":', '"ticket_id":"case-8"']



=== TEST 2: a body that was refused does not disturb what follows it
--- config
    location = /limited {
        client_max_body_size 1k;
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/receiver.sock;
        vd_output 28;
    }
--- pipelined_requests eval
["PUT /vd\n" . 'POST /vd HTTP/1.1 ' x 10_000, "POST /vd\n{}", "POST /vd\n" . '[[' x 100_000, "POST /vd\n{}"]
--- more_headers eval
[map {"Idempotency-Key: case-$_"} 1 .. 4]
--- error_code eval
[405, 200, 400, 200]
--- response_body_like eval
['^{"error":', '"ticket_id":"case-2"', '^{"error":', '"ticket_id":"case-4"']



=== TEST 3: an invalid id or attempt with a body does not disturb what follows
--- pipelined_requests eval
["POST /vd\n{}", "POST /vd\n" . 'x' x 50_000, "POST /vd\n{}", "POST /vd\n{}"]
--- more_headers eval
["Idempotency-Key: a.b", "VD-Attempt: 0", "VD-Attempt: x\nIdempotency-Key: case-3", "Idempotency-Key: case-4"]
--- error_code eval
[400, 400, 400, 200]
--- response_body_like eval
['Idempotency-Key', 'VD-Attempt', 'VD-Attempt', '"ticket_id":"case-4"']



=== TEST 4: a client of HTTP/1.0
--- request eval
["POST /vd HTTP/1.0\n{}", "POST /vd HTTP/1.0\n{}"]
--- more_headers eval
["Idempotency-Key: case-1", "Idempotency-Key: case-2\nConnection: close"]
--- response_headers eval
[("Connection: close\nContent-Type: application/json\n! Transfer-Encoding") x 2]
--- response_body_like eval
[map {qq(^\\{"id":"case-$_",.*"ticket_id":"case-$_",.*\\}\n\$)} 1, 2]



=== TEST 5: a client of HTTP/1.0 that keeps its connection
--- pipelined_requests eval
["POST /vd HTTP/1.0\n{}", "GET /vd HTTP/1.0", "POST /500 HTTP/1.0\n{}"]
--- error_code eval
[200, 405, 502]
--- response_headers eval
["Connection: keep-alive", "Connection: keep-alive", "Connection: close"]



=== TEST 6: a client that closes its side once it has sent all
--- config
    location = /slow {
        vd_pass http://127.0.0.1:$TEST_NGINX_RAW_PORT/client?sleep%200.1&reply%20200%20%7B%22ticket_id%22:%22T-1%22%7D;
        vd_output 28;
    }
--- request
POST /slow
{}
--- shutdown
--- response_body_like: "state":"delivered".*"ticket_id":"T-1"



=== TEST 7: a client that goes away while the receiver is slow
--- config
    location = /slow {
        access_log logs/vd.log vd;
        error_log logs/vd-error.log error;
        vd_pass http://127.0.0.1:$TEST_NGINX_RAW_PORT/client?sleep%201.5&reply%20200%20%7B%22ticket_id%22:%22T-1%22%7D;
        vd_output 28;
    }
--- request eval
["POST /slow\n{}", "GET /log", "GET /errors"]
--- more_headers
Idempotency-Key: case-1
--- abort
--- timeout: 1s
--- wait: 1
--- error_code eval
['', 200, 200]
--- response_body eval
['', "case-1 1 delivered 200  T-1\n", '']



=== TEST 8: a client that goes away while there is no reply
--- config
    location = /slow {
        access_log logs/vd.log vd;
        error_log logs/vd-error.log error;
        vd_read_timeout 1500ms;
        vd_pass http://127.0.0.1:$TEST_NGINX_SILENT_PORT;
        vd_output 28;
    }
--- request eval
["POST /slow\n{}", "GET /log", "GET /errors"]
--- more_headers
Idempotency-Key: case-1
--- abort
--- timeout: 1s
--- wait: 1
--- error_code eval
['', 200, 200]
--- response_body eval
['', "case-1 1 failed  timeout \n",
 qr/^[^\n]* upstream timed out [^\n]*\n[^\n]*\[error\] [^\n]* delivery "case-1" to output "28" failed: attempt 1, reason timeout[^\n]*\n$/]



=== TEST 9: a client that goes away while nginx is connecting
--- config
    location = /slow {
        access_log logs/vd.log vd;
        error_log logs/vd-error.log error;
        vd_connect_timeout 1500ms;
        vd_pass http://127.0.0.1:$TEST_NGINX_FULL_PORT;
        vd_output 28;
    }
--- request eval
["POST /slow\n{}", "GET /log", "GET /errors"]
--- more_headers
Idempotency-Key: case-1
--- abort
--- timeout: 1s
--- wait: 1
--- error_code eval
['', 200, 200]
--- response_body eval
['', "case-1 1 failed  timeout \n",
 qr/^[^\n]* upstream timed out [^\n]*\n[^\n]*\[error\] [^\n]* delivery "case-1" to output "28" failed: attempt 1, reason timeout[^\n]*\n$/]



=== TEST 10: a client that goes away while its case is being sent
--- config
    location = /slow {
        access_log logs/vd.log vd;
        error_log logs/vd-error.log error;
        client_body_buffer_size 16m;
        vd_send_timeout 1500ms;
        vd_pass http://127.0.0.1:$TEST_NGINX_SILENT_PORT;
        vd_output 28;
    }
--- request eval
["POST /slow\n[\"" . 'x' x 12_000_000 . '"]', "GET /log", "GET /errors"]
--- more_headers
Idempotency-Key: case-1
--- abort
--- timeout: 1s
--- wait: 1
--- error_code eval
['', 200, 200]
--- response_body eval
['', "case-1 1 failed  timeout \n",
 qr/^[^\n]* upstream timed out [^\n]* while sending request [^\n]*\n[^\n]*\[error\] [^\n]* delivery "case-1" to output "28" failed: attempt 1, reason timeout[^\n]*\n$/]



=== TEST 11: a client that goes away before its case is there
--- config
    location = /slow {
        access_log logs/vd.log vd;
        client_body_timeout 2s;
        vd_pass http://127.0.0.1:$TEST_NGINX_SILENT_PORT;
        vd_output 28;
        vd_read_timeout 100ms;
    }
--- request eval
["POST /slow\n{}", "GET /log"]
--- more_headers eval
["Idempotency-Key: case-1\nContent-Length: 9", ""]
--- abort
--- timeout: 1s
--- wait: 1
--- error_code eval
['', 200]
--- response_body eval
['', "case-1 1    \n"]
--- no_error_log
[error]



=== TEST 12: a client that never sends the rest of its case
--- config
    location = /slow {
        client_body_timeout 100ms;
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/receiver.sock;
        vd_output 28;
    }
--- request
POST /slow
{}
--- more_headers
Content-Length: 9
--- error_code_like: ^$
--- access_log
"POST /slow HTTP/1.1" 408
--- no_error_log
[error]



=== TEST 13: others are served while an attempt waits
--- config
    location = /slow {
        vd_read_timeout 200ms;
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/waits.sock;
        vd_output 28;
    }
--- http_config
    server {
        listen unix:$TEST_NGINX_HTML_DIR/waits.sock;
        access_log off;
        location / {
            proxy_set_header Idempotency-Key inner;
            proxy_set_body "{}";
            proxy_method POST;
            proxy_pass http://127.0.0.1:$TEST_NGINX_SERVER_PORT/vd;
        }
    }
--- request
POST /slow
{}
--- more_headers
Idempotency-Key: outer
--- response_body_like: "id":"outer",.*"ticket_id":"inner"



=== TEST 14: a client that resets its connection while the receiver is slow
--- config
    location = /slow {
        access_log logs/vd.log vd;
        error_log logs/vd-error.log error;
        vd_pass http://127.0.0.1:$TEST_NGINX_RAW_PORT/client?sleep%201.5&reply%20200%20%7B%22ticket_id%22:%22T-1%22%7D;
        vd_output 28;
    }
--- init
main::reset_while_waiting('/slow', 'case-1', 0.5);
main::sleep(2);
--- request eval
["GET /log", "GET /errors"]
--- response_body eval
["case-1 1 delivered 200  T-1\n", ""]



=== TEST 15: or while there is no reply
--- config
    location = /slow {
        access_log logs/vd.log vd;
        vd_read_timeout 1500ms;
        vd_pass http://127.0.0.1:$TEST_NGINX_SILENT_PORT;
        vd_output 28;
    }
--- init
main::reset_while_waiting('/slow', 'case-1', 0.5);
main::sleep(2);
--- request
GET /log
--- response_body eval
"case-1 1 failed  timeout \n"
