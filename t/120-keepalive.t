# Copyright (C) The ngx_vd_module authors
#
# Connections of an upstream{} that are kept: which are used again, and what
# happens when one proves to be closed.

use Test::Nginx::Socket 'no_plan';
use Test::VD;

add_block_preprocessor(sub {
    my ($block) = @_;

    $block->set_value(http_config => <<'CONFIG') if !defined $block->http_config;
    upstream receiver {
        server 127.0.0.1:$TEST_NGINX_RAW_PORT;
        keepalive 4;
    }
CONFIG

    my ($vd) = @{ delete $block->{vd} // [''] };

    $block->set_value(config => <<"CONFIG") if !defined $block->config;
    vd_secret_file \$TEST_NGINX_SECRET_FILE;

    location = /t {
        vd_pass http://receiver\$SCRIPT;
        vd_output 28;
        $vd
    }
CONFIG
});

run_tests();

__DATA__

=== TEST 1: a connection is used again
--- receiver
reply 200 {"ticket_id":"T-1"}
--- requests
deliver A -> delivered 200 T-1
deliver B -> delivered 200 T-1
deliver C -> delivered 200 T-1
open 1
seen -> 1.1 A, 1.2 B, 1.3 C


=== TEST 2: after every complete response
--- receiver
reply 500 {}
next request
send HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n13\r\n{"ticket_id":"T-1"}\r\n0\r\nX: y\r\n\r\n
next request
send HTTP/1.1 204 No Content\r\n\r\n
next request
send HTTP/1.1 100 Continue\r\n\r\n
reply 200 {}
next request
send HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n
next request
send HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n
next request
send HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n
fill 100000 x
next request
reply 200 {"ticket_id":"T-2"}
--- requests
deliver A -> failed 500 status
deliver B -> delivered 200 T-1
deliver C -> delivered 204 not_json
deliver D -> delivered 200 missing
deliver E -> failed 304 status
deliver F -> delivered 200 not_json
deliver G -> delivered 200 too_large
deliver H -> delivered 200 T-2
seen -> 1.1 A, 1.2 B, 1.3 C, 1.4 D, 1.5 E, 1.6 F, 1.7 G, 1.8 H


=== TEST 3: keepalive_requests of the upstream{}
--- http_config
    upstream receiver {
        server 127.0.0.1:$TEST_NGINX_RAW_PORT;
        keepalive 4;
        keepalive_requests 2;
    }
--- receiver
reply 200 {"ticket_id":"T-1"}
--- requests
deliver A -> delivered 200 T-1
deliver B -> delivered 200 T-1
deliver C -> delivered 200 T-1
seen -> 1.1 A, 1.2 B, 2.1 C


=== TEST 4: a kept connection that was closed is not used
--- receiver
reply 200 {"ticket_id":"T-1"}
close
--- requests
deliver A -> delivered 200 T-1
open 0
deliver B -> delivered 200 T-1
seen -> 1.1 A, 2.1 B


=== TEST 5: a kept connection that is closed under the request is replaced
--- receiver
reply 200 {"ticket_id":"T-1"}
next request
close
next connection
reply 200 {"ticket_id":"T-2"}
--- requests
deliver A -> delivered 200 T-1
deliver B -> delivered 200 T-2
seen -> 1.1 A, 1.2 B, 2.1 B


=== TEST 6: the same with a reset
--- receiver
reply 200 {"ticket_id":"T-1"}
next request
reset
next connection
reply 200 {"ticket_id":"T-2"}
--- requests
deliver A -> delivered 200 T-1
deliver B -> delivered 200 T-2
seen -> 1.1 A, 1.2 B, 2.1 B


=== TEST 7: each delivery has that one more try
--- receiver
reply 200 {"ticket_id":"T-1"}
next request
close
--- requests
deliver A -> delivered 200 T-1
deliver B -> delivered 200 T-1
deliver C -> delivered 200 T-1
deliver D -> delivered 200 T-1
seen -> 1.1 A, 1.2 B, 2.1 B, 2.2 C, 3.1 C, 3.2 D, 4.1 D


=== TEST 8: and no third
--- receiver
reply 200 {"ticket_id":"T-1"}
next request
close
next connection
close
next connection
reply 200 {"ticket_id":"T-3"}
--- requests
deliver A -> delivered 200 T-1
deliver B -> failed null closed
seen -> 1.1 A, 1.2 B, 2.1 B


=== TEST 9: no third, with resets
--- receiver
reply 200 {"ticket_id":"T-1"}
next request
reset
next connection
reset
next connection
reply 200 {"ticket_id":"T-3"}
--- requests
deliver A -> delivered 200 T-1
deliver B -> failed null closed
seen -> 1.1 A, 1.2 B, 2.1 B


=== TEST 10: a fresh connection that is closed is not replaced
--- receiver
close
next connection
reply 200 {"ticket_id":"T-1"}
--- requests
deliver A -> failed null closed
seen -> 1.1 A


=== TEST 11: one more try also with vd_next_upstream off
--- vd
vd_next_upstream off;
--- receiver
reply 200 {"ticket_id":"T-1"}
next request
close
next connection
close
next connection
reply 200 {"ticket_id":"T-3"}
--- requests
deliver A -> delivered 200 T-1
deliver B -> failed null closed
deliver C -> delivered 200 T-3
seen -> 1.1 A, 1.2 B, 2.1 B, 3.1 C


=== TEST 12: also with the least of tries and time
--- vd
vd_next_upstream_tries 1;
vd_next_upstream_timeout 1ms;
--- receiver
reply 200 {"ticket_id":"T-1"}
next request
sleep 0.05
close
next connection
reply 200 {"ticket_id":"T-2"}
--- requests
deliver A -> delivered 200 T-1
deliver B -> delivered 200 T-2
seen -> 1.1 A, 1.2 B, 2.1 B


=== TEST 13: with vd_next_upstream that would send anything anew, still no third
--- vd
vd_next_upstream error timeout invalid_header http_500 non_idempotent;
--- receiver
reply 200 {"ticket_id":"T-1"}
next request
close
next connection
close
next connection
reply 200 {"ticket_id":"T-3"}
--- requests
deliver A -> delivered 200 T-1
deliver B -> failed null closed
seen -> 1.1 A, 1.2 B, 2.1 B


=== TEST 14: a large request is sent again whole
--- receiver
reply 200 {"ticket_id":"T-1"}
next request
close
next connection
reply 200 {"ticket_id":"T-2"}
--- requests
deliver A -> delivered 200 T-1
deliver B 8m -> delivered 200 T-2
seen -> 1.1 A, 1.2 B, 2.1 B


=== TEST 15: also when the connection is reset amid the request
--- receiver
reply 200 {"ticket_id":"T-1"}
next request
early
sleep 0.05
reset
next connection
reply 200 {"ticket_id":"T-2"}
--- requests
deliver A -> delivered 200 T-1
deliver B 8m -> delivered 200 T-2
seen -> 1.1 A, 1.2 B, 2.1 B


=== TEST 16: no other try once a byte of the reply has come
--- receiver
reply 200 {"ticket_id":"T-1"}
next request
send H
close
next connection
reply 200 {"ticket_id":"T-2"}
--- requests
deliver A -> delivered 200 T-1
deliver B -> failed null closed
seen -> 1.1 A, 1.2 B


=== TEST 17: nor after an interim response
--- receiver
reply 200 {"ticket_id":"T-1"}
next request
send HTTP/1.1 100 Continue\r\n\r\n
sleep 0.05
reset
next connection
reply 200 {"ticket_id":"T-2"}
--- requests
deliver A -> delivered 200 T-1
deliver B -> failed null closed
seen -> 1.1 A, 1.2 B


=== TEST 18: nor in the middle of the reply
--- receiver
reply 200 {"ticket_id":"T-1"}
next request
send HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n{
close
next connection
reply 200 {"ticket_id":"T-2"}
--- requests
deliver A -> delivered 200 T-1
deliver B -> failed 200 closed
seen -> 1.1 A, 1.2 B


=== TEST 19: nor after a malformed reply
--- receiver
reply 200 {"ticket_id":"T-1"}
next request
send hello\r\n
next connection
reply 200 {"ticket_id":"T-2"}
--- requests
deliver A -> delivered 200 T-1
deliver B -> failed null protocol
seen -> 1.1 A, 1.2 B


=== TEST 20: nor after vd_read_timeout
--- vd
vd_read_timeout 200ms;
--- receiver
reply 200 {"ticket_id":"T-1"}
next request
hold
next connection
reply 200 {"ticket_id":"T-2"}
--- requests
deliver A -> delivered 200 T-1
deliver B -> failed null timeout
open 0
seen -> 1.1 A, 1.2 B


=== TEST 21: nor after vd_timeout
--- vd
vd_timeout 200ms;
--- receiver
reply 200 {"ticket_id":"T-1"}
next request
hold
next connection
reply 200 {"ticket_id":"T-2"}
--- requests
deliver A -> delivered 200 T-1
deliver B -> failed null timeout
open 0
seen -> 1.1 A, 1.2 B


=== TEST 22: vd_timeout holds for both connections together
--- vd
vd_timeout 1500ms;
--- receiver
reply 200 {"ticket_id":"T-1"}
next request
sleep 1
close
next connection
sleep 1
reply 200 {"ticket_id":"T-2"}
--- requests
deliver A -> delivered 200 T-1
deliver B -> failed null timeout
seen -> 1.1 A, 1.2 B, 2.1 B


=== TEST 23: of several closed connections one is found out, and none tried after it
Two deliveries at once, by means of a mirror, leave two connections.
--- config
    vd_secret_file $TEST_NGINX_SECRET_FILE;

    location = /t {
        vd_pass http://receiver$SCRIPT;
        vd_output 28;
    }

    location = /two {
        mirror /mirrored;
        proxy_pass http://127.0.0.1:$TEST_NGINX_SERVER_PORT/t;
    }

    location = /mirrored {
        proxy_pass http://127.0.0.1:$TEST_NGINX_SERVER_PORT/t;
    }
--- receiver
sleep 0.3
reply 200 {"ticket_id":"T-1"}
next request
close
next connection
sleep 0.1
reply 200 {"ticket_id":"T-1"}
next request
close
next connection
reply 200 {"ticket_id":"T-3"}
--- requests
deliver A /two -> delivered 200 T-1
open 2
deliver B -> delivered 200 T-3
deliver C -> delivered 200 T-3
seen -> 1.1 A, 2.1 A, 1.2 B, 3.1 B, 3.2 C


=== TEST 24: no use of a connection that the receiver does not keep
--- receiver
send HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}
next connection
send HTTP/1.1 200 OK\r\nCONNECTION: Close\r\nContent-Length: 2\r\n\r\n{}
next connection
send HTTP/1.1 200 OK\r\nConnection: x, close\r\nContent-Length: 2\r\n\r\n{}
next connection
send HTTP/1.1 200 OK\r\nConnection: close\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n
next connection
send HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}
next connection
send HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n
next connection
send HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}
next connection
send HTTP/1.1 200 OK\r\n\r\n{}
close
next connection
reply 200 {"ticket_id":"T-1"}
--- requests
deliver A -> delivered 200 missing
deliver B -> delivered 200 missing
deliver C -> delivered 200 missing
deliver D -> delivered 200 missing
deliver E -> delivered 200 missing
deliver F -> delivered 204 not_json
deliver G -> delivered 200 missing
deliver H -> delivered 200 missing
open 0
deliver I -> delivered 200 T-1
seen -> 1.1 A, 2.1 B, 3.1 C, 4.1 D, 5.1 E, 6.1 F, 7.1 G, 8.1 H, 9.1 I


=== TEST 25: nor of one with more on it than the response
--- receiver
send HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}{"ticket_id":"T-2"}
next connection
send HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n
next connection
send HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n{"ticket_id":"T-2"}
next connection
send HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\n{}
next connection
reply 200 {"ticket_id":"T-1"}
--- requests
deliver A -> delivered 200 missing
deliver B -> delivered 200 missing
deliver C -> delivered 200 not_json
deliver D -> delivered 204 not_json
open 0
deliver E -> delivered 200 T-1
seen -> 1.1 A, 2.1 B, 3.1 C, 4.1 D, 5.1 E


=== TEST 26: nor of one that goes on while nobody asks
--- receiver
reply 200 {"ticket_id":"T-1"}
sleep 0.02
reply 200 {"ticket_id":"T-2"}
--- requests
deliver A -> delivered 200 T-1
open 0
deliver B -> delivered 200 T-1
seen -> 1.1 A, 2.1 B


=== TEST 27: nor of one whose response was malformed or incomplete
--- receiver
send HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx
next connection
send HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n
next connection
send HTTP/1.1 101 Switching Protocols\r\n\r\n
next connection
reply 200 {"ticket_id":"T-1"}
--- requests
deliver A -> failed 200 protocol
deliver B -> failed null protocol
deliver C -> failed null protocol
open 0
deliver D -> delivered 200 T-1
seen -> 1.1 A, 2.1 B, 3.1 C, 4.1 D


=== TEST 28: nor of one that has not taken the whole request
--- receiver
early
reply 200 {"ticket_id":"T-1"}
hold
next connection
reply 200 {"ticket_id":"T-2"}
--- requests
deliver A 8m -> delivered 200 T-1
deliver B -> delivered 200 T-2
seen -> 1.1 A, 2.1 B


=== TEST 29: plain and TLS locations share no connection
--- config
    vd_secret_file $TEST_NGINX_SECRET_FILE;
    vd_ssl_verify off;

    location = /t {
        vd_pass http://receiver$SCRIPT;
        vd_output 28;
    }

    location = /tls {
        vd_pass https://receiver$SCRIPT;
        vd_output 28;
    }
--- receiver
reply 200 {"ticket_id":"T-1"}
--- requests
deliver A -> delivered 200 T-1
deliver B -> delivered 200 T-1
deliver C /tls -> delivered 200 T-1
deliver D /tls -> delivered 200 T-1
deliver E -> delivered 200 T-1
deliver F /tls -> delivered 200 T-1
seen -> 1.1 A, 1.2 B, 2.1 C tls, 2.2 D tls, 3.1 E, 4.1 F tls


=== TEST 30: TLS locations with different settings share no connection
--- config
    vd_secret_file $TEST_NGINX_SECRET_FILE;

    location = /any {
        vd_ssl_verify off;
        vd_pass https://receiver$SCRIPT;
        vd_output 28;
    }

    location = /named {
        vd_ssl_verify off;
        vd_ssl_name localhost;
        vd_pass https://receiver$SCRIPT;
        vd_output 28;
    }

    location = /verified {
        vd_pass https://receiver$SCRIPT;
        vd_output 28;
    }
--- receiver
reply 200 {"ticket_id":"T-1"}
--- requests
deliver A /any -> delivered 200 T-1
deliver B /named -> delivered 200 T-1
deliver C /named -> delivered 200 T-1
deliver D /verified -> failed null tls
deliver E /any -> delivered 200 T-1
deliver F /any -> delivered 200 T-1
seen -> 1.1 A tls, 2.1 B tls, 2.2 C tls, 3.1 E tls, 3.2 F tls


=== TEST 31: a kept TLS connection that is closed under the request is replaced
--- config
    location = /t {
        vd_secret_file $TEST_NGINX_SECRET_FILE;
        vd_ssl_verify off;
        vd_pass https://receiver$SCRIPT;
        vd_output 28;
    }
--- receiver
reply 200 {"ticket_id":"T-1"}
next request
close
next connection
reply 200 {"ticket_id":"T-2"}
next request
reset
next connection
reply 200 {"ticket_id":"T-3"}
--- requests
deliver A -> delivered 200 T-1
deliver B -> delivered 200 T-2
deliver C -> delivered 200 T-3
seen -> 1.1 A tls, 1.2 B tls, 2.1 B tls, 2.2 C tls, 3.1 C tls


=== TEST 32: no third try also where there are more servers
--- http_config
    upstream receiver {
        server 127.0.0.1:$TEST_NGINX_RAW_PORT;
        server 127.0.0.1:$TEST_NGINX_RAW_PORT;
        server 127.0.0.1:$TEST_NGINX_RAW_PORT;
        keepalive 4;
    }
--- receiver
reply 200 {"ticket_id":"T-1"}
next request
close
next connection
close
next connection
reply 200 {"ticket_id":"T-3"}
--- requests
deliver A -> delivered 200 T-1
deliver B -> failed null closed
seen -> 1.1 A, 1.2 B, 2.1 B


=== TEST 33: nor is a fresh connection that is closed replaced there
--- http_config
    upstream receiver {
        server 127.0.0.1:$TEST_NGINX_RAW_PORT;
        server 127.0.0.1:$TEST_NGINX_RAW_PORT;
        server 127.0.0.1:$TEST_NGINX_RAW_PORT;
        keepalive 4;
    }
--- receiver
close
next connection
reset
next connection
reply 200 {"ticket_id":"T-3"}
--- requests
deliver A -> failed null closed
deliver B -> failed null closed
deliver C -> delivered 200 T-3
seen -> 1.1 A, 2.1 B, 3.1 C


=== TEST 34: a fatal alert on a kept connection that proxy_pass has taken over
--- config
    vd_secret_file $TEST_NGINX_SECRET_FILE;

    location = /t {
        vd_ssl_verify off;
        vd_ssl_protocols TLSv1.3;
        vd_pass https://receiver$SCRIPT;
        vd_output 28;
    }

    location = /proxied {
        proxy_pass https://receiver$SCRIPT;
        proxy_http_version 1.1;
        proxy_set_header Connection "";
    }
--- receiver
reply 200 {"ticket_id":"T-1"}
next request
alert
close
next connection
reply 200 proxied
next request
alert
close
next connection
reply 200 {"ticket_id":"T-3"}
--- requests
deliver A -> delivered 200 T-1
get /proxied -> proxied
deliver B -> delivered 200 T-3
deliver C -> delivered 200 T-3
seen -> 1.1 A tls, 1.2 - tls, 2.1 - tls, 3.1 B tls, 3.2 C tls


=== TEST 35: the same with TLS 1.2
--- config
    vd_secret_file $TEST_NGINX_SECRET_FILE;

    location = /t {
        vd_ssl_verify off;
        vd_ssl_protocols TLSv1.2;
        vd_pass https://receiver$SCRIPT;
        vd_output 28;
    }

    location = /proxied {
        proxy_pass https://receiver$SCRIPT;
        proxy_http_version 1.1;
        proxy_set_header Connection "";
    }
--- receiver
reply 200 {"ticket_id":"T-1"}
next request
alert
close
next connection
reply 200 proxied
next request
alert
close
next connection
reply 200 {"ticket_id":"T-3"}
--- requests
deliver A -> delivered 200 T-1
get /proxied -> proxied
deliver B -> delivered 200 T-3
deliver C -> delivered 200 T-3
seen -> 1.1 A tls, 1.2 - tls, 2.1 - tls, 3.1 B tls, 3.2 C tls


=== TEST 36: a fatal alert on a kept connection under the request
--- config
    location = /t {
        vd_secret_file $TEST_NGINX_SECRET_FILE;
        vd_ssl_verify off;
        vd_pass https://receiver$SCRIPT;
        vd_output 28;
    }
--- receiver
reply 200 {"ticket_id":"T-1"}
next request
alert
close
next connection
alert
close
next connection
reply 200 {"ticket_id":"T-3"}
--- requests
deliver A -> delivered 200 T-1
deliver B -> failed null tls
deliver C -> delivered 200 T-3
seen -> 1.1 A tls, 1.2 B tls, 2.1 B tls, 3.1 C tls


=== TEST 37: a fatal alert while nobody asks
--- config
    location = /t {
        vd_secret_file $TEST_NGINX_SECRET_FILE;
        vd_ssl_verify off;
        vd_pass https://receiver$SCRIPT;
        vd_output 28;
    }
--- receiver
reply 200 {"ticket_id":"T-1"}
sleep 0.02
alert
hold
next connection
reply 200 {"ticket_id":"T-2"}
alert
hold
next connection
reply 200 {"ticket_id":"T-3"}
--- requests
deliver A -> delivered 200 T-1
open 0
deliver B -> delivered 200 T-2
deliver C -> delivered 200 T-3
seen -> 1.1 A tls, 2.1 B tls, 3.1 C tls


=== TEST 38: plain connections pass between proxy_pass and vd_pass, stale ones too
--- config
    vd_secret_file $TEST_NGINX_SECRET_FILE;

    location = /t {
        vd_pass http://receiver$SCRIPT;
        vd_output 28;
    }

    location = /proxied {
        proxy_pass http://receiver$SCRIPT;
        proxy_http_version 1.1;
        proxy_set_header Connection "";
    }
--- receiver
reply 200 proxied
next request
reply 200 {"ticket_id":"T-1"}
next request
reply 200 proxied
next request
close
next connection
reply 200 {"ticket_id":"T-2"}
next request
close
next connection
reply 200 proxied
--- requests
get /proxied -> proxied
deliver A -> delivered 200 T-1
get /proxied -> proxied
deliver B -> delivered 200 T-2
get /proxied -> proxied
seen -> 1.1 -, 1.2 A, 1.3 -, 1.4 B, 2.1 B, 2.2 -, 3.1 -
