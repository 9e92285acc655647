# Copyright (C) The ngx_vd_module authors
#
# However slow the receiver is, and wherever it is, an attempt ends in time.

use Test::Nginx::Socket 'no_plan';
use Test::VD;

run_tests();

__DATA__

=== TEST 1: vd_connect_timeout
--- config
    vd_secret_file $TEST_NGINX_SECRET_FILE;
    vd_connect_timeout 200ms;

    location = /t {
        vd_pass http://127.0.0.1:$TEST_NGINX_FULL_PORT;
        vd_output 28;
    }

    location = /tls {
        vd_pass https://127.0.0.1:$TEST_NGINX_FULL_PORT;
        vd_output 28;
    }
--- requests
deliver A -> failed null timeout
deliver B /tls -> failed null timeout


=== TEST 2: vd_connect_timeout holds for the TLS handshake, as in stock nginx
--- config
    location = /t {
        vd_secret_file $TEST_NGINX_SECRET_FILE;
        vd_connect_timeout 200ms;
        vd_pass https://127.0.0.1:$TEST_NGINX_SILENT_PORT;
        vd_output 28;
    }
--- requests
deliver -> failed null timeout


=== TEST 3: after vd_connect_timeout the next server is tried, as nothing was sent
--- http_config
    upstream receivers {
        server 127.0.0.1:$TEST_NGINX_FULL_PORT;
        server 127.0.0.1:$TEST_NGINX_RAW_PORT;
    }
--- config
    location = /t {
        vd_secret_file $TEST_NGINX_SECRET_FILE;
        vd_connect_timeout 200ms;
        vd_pass http://receivers$SCRIPT;
        vd_output 28;
    }
--- receiver
reply 200 {"ticket_id":"T-1"}
--- requests
deliver A -> delivered 200 T-1
seen -> 1.1 A


=== TEST 4: vd_send_timeout
--- config
    location = /t {
        vd_secret_file $TEST_NGINX_SECRET_FILE;
        vd_send_timeout 200ms;
        vd_pass http://127.0.0.1:$TEST_NGINX_SILENT_PORT;
        vd_output 28;
    }
--- requests
deliver 8m -> failed null timeout


=== TEST 5: vd_read_timeout
--- vd
vd_read_timeout 200ms;
--- cases
failed null timeout <- hold
failed null timeout <- send HTTP/1.1 200 OK\r\nContent- | hold
failed null timeout <- send HTTP/1.1 100 Continue\r\n\r\n | hold
failed 200 timeout <- send HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n{ | hold
failed 500 timeout <- send HTTP/1.1 500 No\r\nContent-Length: 20\r\n\r\n{ | hold
failed 200 timeout <- send HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n | chunk { | hold
failed 200 timeout <- send HTTP/1.1 200 OK\r\n\r\n{"ticket_id":"T-1"} | hold


=== TEST 6: vd_read_timeout is for the header, then for each piece of the reply
In steps of more than 300 ms: nginx does not move a timer by less.
--- vd
vd_read_timeout 1500ms;
--- cases
delivered 200 T-1 <- sleep 0.8 | send HTTP/1.1 200 OK\r\nContent-Length: 19\r\n\r\n{"tick | sleep 0.8 | send et_id": | sleep 0.8 | send "T-1"}


=== TEST 7: nothing is sent anew after vd_read_timeout
--- http_config
    upstream receivers {
        server 127.0.0.1:$TEST_NGINX_RAW_PORT;
        server 127.0.0.1:$TEST_NGINX_RAW_PORT;
    }
--- config
    location = /t {
        vd_secret_file $TEST_NGINX_SECRET_FILE;
        vd_read_timeout 200ms;
        vd_pass http://receivers$SCRIPT;
        vd_output 28;
    }
--- receiver
hold
next connection
reply 200 {"ticket_id":"T-1"}
--- requests
deliver A -> failed null timeout
open 0
seen -> 1.1 A


=== TEST 8: vd_timeout while connecting
--- config
    location = /t {
        vd_secret_file $TEST_NGINX_SECRET_FILE;
        vd_timeout 200ms;
        vd_pass http://127.0.0.1:$TEST_NGINX_FULL_PORT;
        vd_output 28;
    }
--- requests
deliver -> failed null timeout


=== TEST 9: vd_timeout in the TLS handshake
--- config
    location = /t {
        vd_secret_file $TEST_NGINX_SECRET_FILE;
        vd_timeout 200ms;
        vd_pass https://127.0.0.1:$TEST_NGINX_SILENT_PORT;
        vd_output 28;
    }
--- requests
deliver A -> failed null timeout
deliver B -> failed null timeout


=== TEST 10: vd_timeout while the request is sent
--- config
    location = /t {
        vd_secret_file $TEST_NGINX_SECRET_FILE;
        vd_timeout 200ms;
        vd_pass http://127.0.0.1:$TEST_NGINX_SILENT_PORT;
        vd_output 28;
    }
--- requests
deliver 8m -> failed null timeout


=== TEST 11: vd_timeout after the request was sent, however the receiver drips
--- vd
vd_timeout 200ms;
--- cases
failed null timeout <- drip 0.03 HTTP/1.1 200 OK\r\nX-Long: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx
failed null timeout <- send HTTP/1.1 100 Continue\r\n\r\n | drip 0.03 HTTP/1.1 103 Early Hints\r\nLink: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx
failed 200 timeout <- send HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n | drip 0.03 xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx
failed 200 timeout <- send HTTP/1.1 200 OK\r\n\r\n | drip 0.03 {"ticket_id":"T-1"}xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx
failed 503 timeout <- send HTTP/1.1 503 No\r\n\r\n | drip 0.03 xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx
failed 200 timeout <- send HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n | drip 0.03 1\r\nx\r\n1\r\nx\r\n1\r\nx\r\n1\r\nx\r\n1\r\nx\r\n1\r\nx\r\n1\r\nx\r\n1\r\nx\r\n1\r\nx\r\n
failed 200 timeout <- send HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n13\r\n{"ticket_id":"T-1"}\r\n0\r\n | drip 0.03 X: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy


=== TEST 12: vd_timeout over an endless series of chunks
--- vd
vd_timeout 200ms;
--- receiver eval
"send HTTP/1.1 200 OK\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\n\n" . "sleep 0.05\nchunk x\n" x 40
--- requests
deliver -> failed 200 timeout
open 0


=== TEST 13: vd_timeout while the receiver says nothing; the connection is closed
--- vd
vd_timeout 200ms;
--- receiver
hold
next connection
reply 200 {"ticket_id":"T-1"}
--- requests
deliver A -> failed null timeout
open 0
deliver B -> delivered 200 T-1
seen -> 1.1 A, 2.1 B


=== TEST 14: vd_timeout in the middle of a reply; the connection is closed
--- vd
vd_timeout 200ms;
--- receiver
send HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n{
hold
next connection
reply 200 {"ticket_id":"T-1"}
--- requests
deliver A -> failed 200 timeout
open 0
deliver B -> delivered 200 T-1
seen -> 1.1 A, 2.1 B


=== TEST 15: no other server is tried after vd_timeout
--- http_config
    upstream receivers {
        server 127.0.0.1:$TEST_NGINX_FULL_PORT;
        server 127.0.0.1:$TEST_NGINX_RAW_PORT;
    }
--- config
    location = /t {
        vd_secret_file $TEST_NGINX_SECRET_FILE;
        vd_timeout 200ms;
        vd_pass http://receivers$SCRIPT;
        vd_output 28;
    }
--- receiver
reply 200 {"ticket_id":"T-1"}
--- requests
deliver A -> failed null timeout
seen ->


=== TEST 16: nor in the TLS handshake
--- http_config
    upstream receivers {
        server 127.0.0.1:$TEST_NGINX_SILENT_PORT;
        server 127.0.0.1:$TEST_NGINX_RAW_PORT;
    }
--- config
    location = /t {
        vd_secret_file $TEST_NGINX_SECRET_FILE;
        vd_ssl_verify off;
        vd_timeout 200ms;
        vd_pass https://receivers$SCRIPT;
        vd_output 28;
    }
--- receiver
reply 200 {"ticket_id":"T-1"}
--- requests
deliver A -> failed null timeout
seen ->


=== TEST 17: vd_timeout bounds all tries together
--- http_config
    upstream receivers {
        server 127.0.0.1:$TEST_NGINX_FULL_PORT;
        server 127.0.0.1:$TEST_NGINX_RAW_PORT;
    }

    log_format duration "duration $vd_duration reason $vd_reason";
--- config
    location = /t {
        vd_secret_file $TEST_NGINX_SECRET_FILE;
        vd_connect_timeout 250ms;
        vd_timeout 400ms;
        vd_pass http://receivers$SCRIPT;
        vd_output 28;
        access_log logs/access.log duration;
    }
--- receiver
hold
--- requests
deliver A -> failed null timeout
seen -> 1.1 A
--- access_log eval
qr/^duration (?:[4-9]\d\d|\d{4}) reason timeout$/


=== TEST 18: the first server's reply is not vd_timeout's excuse
--- http_config
    upstream receivers {
        server 127.0.0.1:$TEST_NGINX_RAW_PORT;
        server 127.0.0.1:$TEST_NGINX_FULL_PORT;
    }
--- config
    location = /t {
        vd_secret_file $TEST_NGINX_SECRET_FILE;
        vd_next_upstream http_503 non_idempotent;
        vd_timeout 300ms;
        vd_pass http://receivers$SCRIPT;
        vd_output 28;
    }
--- receiver
reply 503 {"ticket_id":"T-1"}
--- requests
deliver A -> failed null timeout


=== TEST 19: a delivery in time has its reply, though its connection stays open
--- vd
vd_timeout 2s;
--- cases
delivered 200 T-1 <- send HTTP/1.1 200 OK\r\nContent-Length: 19\r\n\r\n{"ticket_id":"T-1"} | hold
delivered 200 T-1 <- send HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n13\r\n{"ticket_id":"T-1"}\r\n0\r\n\r\n | hold
delivered 200 T-1 <- sleep 0.2 | reply 200 {"ticket_id":"T-1"}
