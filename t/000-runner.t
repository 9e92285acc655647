# Copyright (C) The ngx_vd_module authors
#
# The test runner itself, with directives of stock nginx alone.  What must make
# a suite fail is in t/lib/selftest.t.

use Test::Nginx::Socket;

repeat_each(2);
no_long_string();
no_shuffle();

# The two tests of the log at the end of nginx are not repeated.
plan tests => repeat_each() * 90 + 2;

add_block_preprocessor(sub {
    my ($block) = @_;

    my $answer = delete $block->{answer} or return;
    $block->set_value(config => "location = /t { return 200 \"$answer->[0]\"; }");
});

run_tests();

__DATA__

=== TEST 1: status, body, headers and logs
--- config
    location = /t {
        add_header X-Port $server_port;
        add_header X-Two 1;
        add_header X-Two 2;
        return 200 "hello\n";
    }
--- request
GET /t?logged
--- response_body
hello
--- response_headers
X-Port: $ServerPort
X-Two: 1, 2
Connection: close
! X-Three
--- raw_response_headers_like: ^HTTP/1\.1 200 OK\r\nServer: nginx
--- raw_response_headers_unlike: X-Three
--- error_log
http request line: "GET /t?logged HTTP/1.1"
Host: localhost
--- no_error_log
[error]
[alert]
--- access_log
"GET /t?logged HTTP/1.1" 200
--- no_access_log
" 500


=== TEST 2: the root location serves the files of the block
--- config
--- user_files
>>> a/b.txt 202001020304.05
port $TEST_NGINX_SERVER_PORT
>>> empty.txt
--- request
GET /a/b.txt
--- response_body
port $ServerPort
--- response_headers
Last-Modified: Thu, 02 Jan 2020 03:04:05 GMT
Content-Type: text/plain


=== TEST 3: several requests
--- config
    location /t {
        return 200 "$request_method $arg_n $http_x_n\n";
    }
--- request eval
["GET /t?n=1", "DELETE /t?n=2", "HEAD /t?n=3"]
--- more_headers eval
["X-N: one", "X-N: two", "X-N: three"]
--- response_body eval
["GET 1 one\n", "DELETE 2 two\n", ""]
--- response_headers_like eval
["Content-Length: 10", "Content-Length: \\d+", "Content-Length: 13"]
--- no_error_log
[error]


=== TEST 4: pipelined requests on one connection
--- config
    location /t {
        return 200 "$request_uri $connection_requests $http_connection\n";
    }
--- pipelined_requests eval
["GET /t?1", "GET /t?2", "GET /missing"]
--- response_body_like eval
["^/t\\?1 1 keep-alive\$", "^/t\\?2 2 keep-alive\$", "404 Not Found"]
--- error_code eval
[200, 200, 404]


=== TEST 5: the body of a request loses the white space around it
--- config
    location = /t {
        proxy_set_header Host receiver;
        proxy_pass http://127.0.0.1:$TEST_NGINX_RAND_PORT_1;
    }
--- request
POST /t

{"a": 1}

--- more_headers
Content-Type: application/json
# a comment
X-Tag: a: b
--- tcp_listen: $TEST_NGINX_RAND_PORT_1
--- tcp_query eval
"POST /t HTTP/1.0\r
Host: receiver\r
Connection: close\r
Content-Length: 8\r
Content-Type: application/json\r
X-Tag: a: b\r
\r
{\"a\": 1}"
--- tcp_query_len: 127
--- tcp_reply eval
["HTTP/1.0 201 Created\r\n", "Content-Length: 3\r\n\r\n", "ok\n"]
--- error_code: 201
--- response_body
ok


=== TEST 6: a length given by the block keeps the body as it is
--- config
    location = /t {
        proxy_set_header Host receiver;
        proxy_pass http://127.0.0.1:$TEST_NGINX_RAND_PORT_1;
    }
--- request eval
"POST /t
 x \n"
--- more_headers
Content-Length: 4
--- tcp_listen: $TEST_NGINX_RAND_PORT_1
--- tcp_query_len: 78
--- tcp_reply eval
sub {
    my ($query) = @_;
    my ($body) = $query =~ /\r\n\r\n(.*)/s;
    return "HTTP/1.0 200 OK\r\n\r\n[$body]";
}
--- response_body eval
"[ x \n]"


=== TEST 7: a chunked request and a chunked answer
--- config
    location = /t {
        proxy_pass http://127.0.0.1:$TEST_NGINX_RAND_PORT_1;
    }
--- request eval
"POST /t
3\r
abc\r
0\r
\r
"
--- more_headers
Transfer-Encoding: chunked
--- tcp_listen: $TEST_NGINX_RAND_PORT_1
--- tcp_reply eval
sub { "HTTP/1.0 200 OK\r\n\r\n" . "long" x 20_000 }
--- response_headers
Transfer-Encoding: chunked
--- response_body eval
"long" x 20_000


=== TEST 8: a raw request in pieces
--- config
    location = /t {
        return 200 "$request_time";
    }
--- raw_request eval
["GET /t HTTP/1.1\r\nHo", "st: localhost\r\nConnec", "tion: close\r\n\r\n"]
--- raw_request_middle_delay: 0.1
--- response_body_like: ^(?:0\.[1-9]\d\d|[1-9]\d*\.\d{3})$


=== TEST 9: not this body
--- config
    location = /t {
        return 503 "down";
    }
--- request
GET /t
--- error_code_like: ^50[0-9]$
--- response_body_unlike: up


=== TEST 10: a pattern in place of a body
--- config
    location = /t {
        return 200 "$msec";
    }
--- request
GET /t HTTP/1.0
--- response_body eval
qr/^\d+\.\d{3}$/


=== TEST 11: a client that goes away is none of the test's failures
--- config
    location = /t {
        proxy_pass http://127.0.0.1:$TEST_NGINX_RAND_PORT_1;
    }
--- request
GET /t
--- tcp_listen: $TEST_NGINX_RAND_PORT_1
--- tcp_no_close
--- tcp_reply eval
""
--- timeout: 200ms
--- abort
--- ignore_response
--- wait: 0.1
--- error_log
client prematurely closed connection
--- no_error_log
[alert]


=== TEST 12: a receiver that closes without a word
--- config
    location = /t {
        proxy_pass http://127.0.0.1:$TEST_NGINX_RAND_PORT_1;
    }
--- request
GET /t
--- tcp_listen: $TEST_NGINX_RAND_PORT_1
--- tcp_shutdown: 1
--- error_code: 502
--- error_log eval
[qr/upstream prematurely closed connection|Connection reset by peer/]


=== TEST 13: a receiver that is slow
--- config
    location = /t {
        proxy_pass http://unix:$TEST_NGINX_SERVER_ROOT/html/r.sock;
        add_header X-Time $upstream_header_time;
    }
--- request
GET /t
--- tcp_listen: $TEST_NGINX_SERVER_ROOT/html/r.sock
--- tcp_reply eval
"HTTP/1.0 200 OK\r\n\r\nlate"
--- tcp_reply_delay: 300ms
--- log_level: info
--- access_log eval
[qr/"GET \/t /]
--- response_body: late
--- response_headers_like
X-Time: 0\.[3-9]\d+
--- no_error_log
http request line: "GET /t


=== TEST 14: the client sends no more
--- config
    location = /t {
        return 200 "still here";
    }
--- request
GET /t
--- shutdown
--- response_body: still here


=== TEST 15: what a pattern matches in the log
--- config
    location = /t {
        return 200 "ok";
    }
--- request
GET /t
--- response_body: ok
--- grep_error_log eval
qr{http request line: "GET /t[^"]*"}
--- grep_error_log_out
http request line: "GET /t HTTP/1.1"


=== TEST 16: nginx refuses a configuration
--- config
    location = /t {
        no_such_directive;
    }
--- request
GET /t
--- must_die
--- suppress_stderr
--- error_log
[emerg]
unknown directive "no_such_directive"


=== TEST 17: the exit code of that
--- http_config
    server {
        listen 1:2:3:4;
    }
--- config
--- must_die: 1
--- suppress_stderr
--- error_log
[emerg]


=== TEST 18: the parts of the configuration
--- main_config
    worker_rlimit_nofile 1024;
--- http_config
    map $uri $where {
        default "http $TEST_NGINX_SERVER_PORT";
    }
--- config
    location = /t {
        return 200 "$where $server_name";
    }
--- init
system("touch '" . html_dir() . "/made'") == 0 or die;
--- request eval
["GET /t", "GET /made"]
--- response_body eval
["http \$ServerPort localhost", ""]


=== TEST 19: a block of a newer nginx
--- config
    no_such_directive;
--- request
GET /t
--- skip_nginx: 2: > 1.0.0: for the future
--- response_body: never


=== TEST 20: a block for versions in between
--- config
    location = /t {
        return 200 "ok";
    }
--- request
GET /t
--- skip_nginx2: 2: < 1.0.0 or > 99.0.0
--- skip_eval: 2: 0
--- response_body: ok


=== TEST 21: a section of a preprocessor
--- answer: made up
--- request
GET /t
--- response_body: made up


=== TEST 22: what nginx logs when it stops
--- config
    location = /t {
        return 200 "ok";
    }
--- request
GET /t
--- response_body: ok
--- shutdown_error_log
signal 3 (SIGQUIT)
--- no_shutdown_error_log
[alert]


=== TEST 23: no body for HEAD, none for 204
--- config
    location = /t {
        return 204;
    }
    location = /u {
        return 200 "body";
    }
--- request eval
["GET /t", "HEAD /u"]
--- error_code eval
[204, 200]
--- response_body eval
["", ""]
--- timeout: 2s


=== TEST 24: a receiver reads until it has the length it waits for
--- config
    location = /t {
        proxy_request_buffering off;
        proxy_set_header Host receiver;
        proxy_pass http://127.0.0.1:$TEST_NGINX_RAND_PORT_1;
    }
--- raw_request eval
["POST /t HTTP/1.0\r\nContent-Length: 4\r\n\r\nab", "cd"]
--- raw_request_middle_delay: 0.1
--- tcp_listen: $TEST_NGINX_RAND_PORT_1
--- tcp_query_len: 78
--- tcp_reply eval
sub { "HTTP/1.0 200 OK\r\n\r\n" . substr $_[0], -4 }
--- response_body: abcd


=== TEST 25: this one is left out
--- SKIP
--- config
    no_such_directive;
--- request
GET /t
