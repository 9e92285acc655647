# Copyright (C) The ngx_vd_module authors
#
# vd_pass: where a case goes, from which locations, and the request that the
# receiver sees.  The receiver of most blocks tells what it has seen as the
# ticket id.

use Test::Nginx::Socket 'no_plan';
use Test::VD;

use Digest::SHA;

add_block_preprocessor(sub {
    my ($block) = @_;

    # What is sent, byte by byte but for the time, with "\n" for "\r\n".
    if (my $sent = delete $block->{sent}) {
        my $query = $sent->[0] =~ s/\n\z//r =~ s/\n/\r\n/gr;

        $block->set_value(tcp_query_len => length $query);
        $query = join '[0-9]{10}', map {quotemeta} split /1234567890/, $query;
        $block->set_value(tcp_query => qr/\A$query\z/);
    }

    $block->set_value(http_config => <<'CONF' . ($block->http_config // ''));
vd_secret_file $TEST_NGINX_SECRET_FILE;
vd_signature github;
vd_ticket_id ticket_id max=4096;

server {
    listen unix:$TEST_NGINX_HTML_DIR/receiver.sock;
    access_log off;

    location / {
        return 200 '{"ticket_id":"$request_method $request_uri, host $http_host"}';
    }
    location ~ ^/[0-9]+-[0-9]+$ {
        client_max_body_size 30m;
        proxy_set_header X-Body $content_length;
        proxy_pass_request_body off;
        proxy_pass http://unix:$TEST_NGINX_HTML_DIR/echo.sock;
    }
    location = /body {
        client_body_buffer_size 1m;
        proxy_set_header X-Body $request_body;
        proxy_pass_request_body off;
        proxy_pass http://unix:$TEST_NGINX_HTML_DIR/echo.sock;
    }
    location = /redirect/301 { return 301 /elsewhere; }
    location = /redirect/302 { return 302 http://127.0.0.1:$server_port/; }
    location = /redirect/307 { return 307 /elsewhere; }
    location = /redirect/308 { return 308 /elsewhere; }
    location = /503          { return 503; }
    location = /close        { return 444; }
}
server {
    listen unix:$TEST_NGINX_HTML_DIR/echo.sock;
    access_log off;
    return 200 '{"ticket_id":"[$http_x_body]"}';
}
CONF

    return;
});

# What the app is told of a delivery with the id "case-1" to output 28.
sub answer {
    my ($ticket, $status, $reason) = @_;

    my $state = defined $reason ? 'failed' : 'delivered';
    $_ = defined $_ ? qq("$_") : 'null' for $ticket, $reason;
    $status //= 'null';

    return qq({"id":"case-1","output":"28","state":"$state","attempt":1,)
        . qq("status":$status,"ticket_id":$ticket,"ticket_error":null,)
        . qq("reason":$reason,"journaled":false}\n);
}

sub delivered {
    my ($ticket) = @_;
    return answer($ticket, 200);
}

sub failed {
    my ($reason, $status) = @_;
    return answer(undef, $status, $reason);
}

run_tests();

__DATA__

=== TEST 1: to an IPv4 and an IPv6 address, a name, a unix socket, an upstream
--- http_config
    server {
        listen 127.0.0.1:$TEST_NGINX_RAND_PORT_1;
        listen [::1]:$TEST_NGINX_RAND_PORT_2;
        access_log off;
        return 200 '{"ticket_id":"$server_addr $request_uri, host $http_host"}';
    }
    upstream crm.example {
        server 127.0.0.1:$TEST_NGINX_RAND_PORT_1;
    }
--- config
    location = /ipv4 {
        vd_pass http://127.0.0.1:$TEST_NGINX_RAND_PORT_1/in;
        vd_output 28;
    }
    location = /ipv6 {
        vd_pass http://[::1]:$TEST_NGINX_RAND_PORT_2/in;
        vd_output 28;
    }
    location = /localhost {
        vd_pass http://localhost:$TEST_NGINX_RAND_PORT_1/in;
        vd_output 28;
    }
    location = /unix {
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/receiver.sock:/in;
        vd_output 28;
    }
    location = /upstream {
        vd_pass http://crm.example/in;
        vd_output 28;
    }
    location = /scheme {
        vd_pass HTTP://crm.example/in;
        vd_output 28;
    }
--- request eval
[map {"POST /$_\n{}"} qw(ipv4 ipv6 localhost unix upstream scheme)]
--- more_headers
Idempotency-Key: case-1
--- response_body eval
[
    map { ::delivered($_) }
        '127.0.0.1 /in, host 127.0.0.1:$TEST_NGINX_RAND_PORT_1',
        '::1 /in, host [::1]:$TEST_NGINX_RAND_PORT_2',
        '127.0.0.1 /in, host localhost:$TEST_NGINX_RAND_PORT_1',
        'POST /in, host localhost',
        '127.0.0.1 /in, host crm.example',
        '127.0.0.1 /in, host crm.example',
]
--- no_error_log
[error]



=== TEST 2: path and query are sent as they stand, the app's own are not
--- http_config
    server {
        listen 127.0.0.1:$TEST_NGINX_RAND_PORT_1;
        access_log off;
        return 200 '{"ticket_id":"$request_uri"}';
    }
--- config
    location /none {
        vd_pass http://127.0.0.1:$TEST_NGINX_RAND_PORT_1;
        vd_output 28;
    }
    location /root {
        vd_pass http://127.0.0.1:$TEST_NGINX_RAND_PORT_1/;
        vd_output 28;
    }
    location /query {
        vd_pass http://127.0.0.1:$TEST_NGINX_RAND_PORT_1?only=query&a=/b;
        vd_output 28;
    }
    location /raw {
        vd_pass http://127.0.0.1:$TEST_NGINX_RAND_PORT_1/A%2fb/..//c%0d%0a/./~@:?x=%20&y=?;
        vd_output 28;
    }
--- request eval
[map {"POST /$_/app?case=1\n{}"} qw(none root query raw)]
--- more_headers
Idempotency-Key: case-1
--- response_body eval
[
    map { ::delivered($_) }
        '/', '/', '/?only=query&a=/b',
        '/A%2fb/..//c%0d%0a/./~@:?x=%20&y=?',
]
--- no_error_log
[error]



=== TEST 3: in every kind of location
--- config
    location = /exact {
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/receiver.sock:/exact;
        vd_output 28;
    }
    location /prefix {
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/receiver.sock:/prefix;
        vd_output 28;
        location /prefix/nested {
            vd_pass http://unix:$TEST_NGINX_HTML_DIR/receiver.sock:/nested;
            vd_output 28;
        }
    }
    location ~ ^/regex/(?<number>[0-9]+)$ {
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/receiver.sock:/regex;
        vd_output 28;
    }
    location ^~ /regex/prior {
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/receiver.sock:/prior;
        vd_output 28;
    }
    location @named {
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/receiver.sock:/named;
        vd_output 28;
    }
    location = /to-named {
        try_files /missing @named;
    }
    location = /internal {
        internal;
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/receiver.sock:/internal;
        vd_output 28;
    }
    location = /to-internal {
        rewrite ^ /internal last;
    }
--- request eval
[map {"POST /$_\n{}"} qw(exact prefix/any prefix/nested/1 regex/12 regex/prior to-named to-internal)]
--- more_headers
Idempotency-Key: case-1
--- response_body eval
[map { ::delivered("POST /$_, host localhost") } qw(exact prefix nested regex prior named internal)]
--- no_error_log
[error]



=== TEST 4: a nested location takes over nothing but what inherits
--- config
    location /prefix {
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/receiver.sock:/prefix;
        vd_output 28;
        location /prefix/none {
            return 200 "not delivered\n";
        }
        location /prefix/static {
            root $TEST_NGINX_HTML_DIR;
        }
    }
--- request eval
["POST /prefix/none\n{}", "GET /prefix/static"]
--- error_code eval
[200, 404]
--- response_body_like eval
["^not delivered\n\$", "404 Not Found"]



=== TEST 5: under "if" and "limit_except" inside the location
--- config
    location = /if {
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/receiver.sock:/if;
        vd_output 28;
        if ($arg_x) {
            add_header X-If $arg_x always;
        }
    }
    location = /denied {
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/receiver.sock:/denied;
        vd_output 28;
        limit_except POST {
            deny all;
        }
    }
    location = /limited {
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/receiver.sock:/limited;
        vd_output 28;
        limit_except PUT {
            allow all;
        }
    }
    location = /rewrite-if {
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/receiver.sock:/rewrite-if;
        vd_output 28;
        if ($request_method = DELETE) {
            return 403;
        }
    }
--- request eval
["POST /if?x=1\n{}", "POST /if\n{}", "POST /denied\n{}", "PUT /denied\n{}",
 "POST /limited\n{}", "POST /rewrite-if\n{}", "DELETE /rewrite-if"]
--- more_headers
Idempotency-Key: case-1
--- error_code eval
[200, 200, 200, 403, 200, 200, 403]
--- response_headers eval
["X-If: 1", "! X-If", "! X-If", "! X-If", "! X-If", "! X-If", "! X-If"]
--- response_body eval
[
    (map { ::delivered("POST /$_, host localhost") } qw(if if denied)), qr/403 Forbidden/,
    (map { ::delivered("POST /$_, host localhost") } qw(limited rewrite-if)), qr/403 Forbidden/,
]



=== TEST 6: the next server of an upstream is tried if one cannot be reached
--- http_config
    upstream crm {
        server 127.0.0.1:$TEST_NGINX_RAND_PORT_1 max_fails=0;
        server 127.0.0.1:$TEST_NGINX_RAND_PORT_1 max_fails=0;
        server unix:$TEST_NGINX_HTML_DIR/receiver.sock max_fails=0;
    }
--- config
    location = /vd {
        vd_validate off;
        vd_pass http://crm/body;
        vd_output 28;
        add_header X-Tries $upstream_status always;
    }
--- request
POST /vd
whole
--- more_headers
Idempotency-Key: case-1
--- response_headers
X-Tries: 502, 502, 200
--- response_body eval
::delivered('[whole]')
--- error_log
connect() failed (111: Connection refused)
--- no_error_log
delivery "case-1" to output "28" failed



=== TEST 7: once a request was sent, no other server is tried
--- http_config
    upstream close {
        server unix:$TEST_NGINX_HTML_DIR/receiver.sock max_fails=0;
        server unix:$TEST_NGINX_HTML_DIR/echo.sock max_fails=0;
    }
--- config
    location = /close {
        vd_pass http://close/close;
        vd_output 28;
        add_header X-Tries $upstream_status always;
    }
    location = /503 {
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/receiver.sock:/503;
        vd_output 28;
        add_header X-Tries $upstream_status always;
    }
--- request eval
["POST /close\n{}", "POST /503\n{}"]
--- more_headers
Idempotency-Key: case-1
--- error_code eval
[502, 502]
--- response_headers eval
["X-Tries: 502", "X-Tries: 503"]
--- response_body eval
[::failed('closed'), ::failed('status', 503)]



=== TEST 8: vd_next_upstream says what else is a reason to go on
--- http_config
    upstream failing {
        server unix:$TEST_NGINX_HTML_DIR/receiver.sock max_fails=0;
        server unix:$TEST_NGINX_HTML_DIR/echo.sock max_fails=0;
    }
--- config
    add_header X-Tries $upstream_status always;

    location = /503 {
        vd_pass http://failing/503;
        vd_output 28;
        vd_next_upstream http_503 non_idempotent;
    }
    location = /close {
        vd_pass http://failing/close;
        vd_output 28;
        vd_next_upstream error non_idempotent;
    }
--- request eval
[("POST /503\n{}") x 2, ("POST /close\n{}") x 2]
--- more_headers
Idempotency-Key: case-1
--- response_headers eval
["X-Tries: 503, 200", "X-Tries: 200", "X-Tries: 502, 200", "X-Tries: 200"]
--- response_body eval
[(::delivered('[]')) x 4]



=== TEST 9: without "non_idempotent" a case that was sent is not sent again
--- http_config
    upstream failing {
        server unix:$TEST_NGINX_HTML_DIR/receiver.sock max_fails=0;
        server unix:$TEST_NGINX_HTML_DIR/echo.sock backup;
    }
--- config
    location = /503 {
        vd_pass http://failing/503;
        vd_output 28;
        vd_next_upstream http_503;
        add_header X-Tries $upstream_status always;
    }
--- request
POST /503
{}
--- more_headers
Idempotency-Key: case-1
--- error_code: 502
--- response_headers
X-Tries: 503
--- response_body eval
::failed('status', 503)



=== TEST 10: vd_next_upstream off, and a limit of tries
--- http_config
    upstream refusing {
        server 127.0.0.1:$TEST_NGINX_RAND_PORT_1 max_fails=0;
        server 127.0.0.1:$TEST_NGINX_RAND_PORT_1 max_fails=0;
        server unix:$TEST_NGINX_HTML_DIR/echo.sock backup;
    }
--- config
    add_header X-Tries $upstream_status always;

    location = /off {
        vd_pass http://refusing;
        vd_output 28;
        vd_next_upstream off;
    }
    location = /2 {
        vd_pass http://refusing;
        vd_output 28;
        vd_next_upstream_tries 2;
    }
    location = /3 {
        vd_pass http://refusing;
        vd_output 28;
        vd_next_upstream_tries 3;
    }
--- request eval
["POST /off\n{}", "POST /2\n{}", "POST /3\n{}"]
--- more_headers
Idempotency-Key: case-1
--- error_code eval
[502, 502, 200]
--- response_headers eval
["X-Tries: 502", "X-Tries: 502, 502", "X-Tries: 502, 502, 200"]
--- response_body eval
[::failed('connect'), ::failed('connect'), ::delivered('[]')]



=== TEST 11: vd_next_upstream_timeout
--- http_config
    upstream silent {
        server 127.0.0.1:$TEST_NGINX_SILENT_PORT max_fails=0;
        server unix:$TEST_NGINX_HTML_DIR/echo.sock backup;
    }
--- config
    vd_read_timeout 100ms;
    vd_next_upstream timeout non_idempotent;
    add_header X-Tries $upstream_status always;

    location = /5s {
        vd_pass http://silent;
        vd_output 28;
        vd_next_upstream_timeout 5s;
    }
    location = /50ms {
        vd_pass http://silent;
        vd_output 28;
        vd_next_upstream_timeout 50ms;
    }
--- request eval
["POST /5s\n{}", "POST /50ms\n{}"]
--- more_headers
Idempotency-Key: case-1
--- error_code eval
[200, 502]
--- response_headers eval
["X-Tries: 504, 200", "X-Tries: 504"]
--- response_body eval
[::delivered('[]'), ::failed('timeout')]



=== TEST 12: the next server gets the same request, from a file too
--- http_config
    upstream crm {
        server unix:$TEST_NGINX_HTML_DIR/receiver.sock;
        server 127.0.0.1:$TEST_NGINX_RAND_PORT_1 backup;
    }
--- config
    location = /vd {
        client_body_buffer_size 1k;
        vd_validate off;
        vd_pass http://crm/503;
        vd_output 28;
        vd_next_upstream http_503 non_idempotent;
    }
--- request eval
"POST /vd\n@{[10_000 .. 15_000]}"
--- more_headers
Idempotency-Key: case-1
Content-Type: text/plain
--- tcp_listen: $TEST_NGINX_RAND_PORT_1
--- tcp_query_len eval
30_005 + length <<'HEAD' =~ s/\n/\r\n/gr
POST /503 HTTP/1.1
Host: crm
User-Agent: ngx_vd_module/0.1.0
Accept: application/json
Accept-Encoding: identity
Content-Type: text/plain
Content-Length: 30005
webhook-id: case-1
webhook-timestamp: 1234567890
X-Hub-Signature-256: sha256=1234567890123456789012345678901234567890123456789012345678901234

HEAD
--- tcp_reply eval
sub {
    my ($signature, $body) = $_[0] =~ /^X-Hub-Signature-256: (\S+)\r\n\r\n(.*)/ms;
    my $reply = sprintf '{"ticket_id":"%s %s"}', $signature, Digest::SHA::sha256_hex($body);
    return "HTTP/1.1 200 OK\r\nContent-Length: " . length($reply) . "\r\n\r\n$reply";
}
--- response_body eval
my $body = "@{[10_000 .. 15_000]}";
::delivered('sha256=' . Digest::SHA::hmac_sha256_hex($body, 'the secret of all the suites')
    . ' ' . Digest::SHA::sha256_hex($body))
--- error_log
a client request body is buffered to a temporary file



=== TEST 13: and from a file of which a part was sent to the one before
--- http_config
    upstream crm {
        server 127.0.0.1:$TEST_NGINX_RAW_PORT;
        server unix:$TEST_NGINX_HTML_DIR/receiver.sock backup;
    }
--- config
    location = /vd {
        client_max_body_size 30m;
        vd_validate off;
        vd_pass http://crm$SCRIPT;
        vd_output 28;
        vd_next_upstream http_503 non_idempotent;
        add_header X-Tries $upstream_status always;
    }
--- receiver
early
reply 503 {}
sleep 1
close
--- request eval
"POST /vd\n" . 'x' x 5_000_000
--- response_headers
X-Tries: 503, 200
--- response_body_like: "ticket_id":"\[5000000\]"



=== TEST 14: redirects are not followed
--- config
    add_header X-Tries $upstream_status always;

    location = /301 {
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/receiver.sock:/redirect/301;
        vd_output 28;
    }
    location = /302 {
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/receiver.sock:/redirect/302;
        vd_output 28;
    }
    location = /307 {
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/receiver.sock:/redirect/307;
        vd_output 28;
    }
    location = /308 {
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/receiver.sock:/redirect/308;
        vd_output 28;
    }
--- request eval
[map {"POST /$_\n{}"} 301, 302, 307, 308]
--- more_headers
Idempotency-Key: case-1
--- error_code eval
[(502) x 4]
--- response_headers eval
[map {"X-Tries: $_\n! Location"} 301, 302, 307, 308]
--- response_body eval
[map { ::failed('status', $_) } 301, 302, 307, 308]



=== TEST 15: the request in full
--- http_config
    upstream crm.example {
        server 127.0.0.1:$TEST_NGINX_RAND_PORT_1;
    }
--- config
    location = /vd {
        vd_pass http://crm.example/in/28?a=b;
        vd_output 28;
    }
--- request
POST /vd?c=d
{"n": 1}
--- more_headers
Idempotency-Key: case-1
Content-Type: application/case+json; v=1
--- tcp_listen: $TEST_NGINX_RAND_PORT_1
--- tcp_reply eval
"HTTP/1.1 204 No Content\r\n\r\n"
--- sent
POST /in/28?a=b HTTP/1.1
Host: crm.example
User-Agent: ngx_vd_module/0.1.0
Accept: application/json
Accept-Encoding: identity
Content-Type: application/case+json; v=1
Content-Length: 8
webhook-id: case-1
webhook-timestamp: 1234567890
X-Hub-Signature-256: sha256=f42a7305f5e007cc8253d5153a744edab66b30c7290493aab21d90d6e4e5b3c5

{"n": 1}
--- response_body_like: "state":"delivered","attempt":1,"status":204,



=== TEST 16: none of the app's other headers are passed on
--- http_config
    upstream crm.example {
        server 127.0.0.1:$TEST_NGINX_RAND_PORT_1;
    }
--- config
    location = /vd {
        vd_pass http://crm.example;
        vd_output 28;
    }
--- raw_request eval
"POST /vd HTTP/1.1\r
Host: app.example\r
Connection: close, X-Hop\r
Transfer-Encoding: chunked\r
Idempotency-Key: case-1\r
VD-Attempt: 3\r
X-Case-Id: 17\r
Accept: text/html\r
Accept-Encoding: gzip\r
Authorization: Bearer token\r
Cookie: session=1\r
Forwarded: for=192.0.2.1\r
Keep-Alive: timeout=5\r
Range: bytes=0-1\r
Referer: http://app.example/\r
TE: trailers\r
User-Agent: app/1\r
webhook-id: forged\r
webhook-timestamp: 1\r
X-Forwarded-For: 192.0.2.1\r
X-Hop: 1\r
X-Hub-Signature-256: forged\r
X-Real-IP: 192.0.2.1\r
\r
8\r
{\"n\": 1}\r
0\r
X-Trailer: 1\r
\r
"
--- tcp_listen: $TEST_NGINX_RAND_PORT_1
--- tcp_reply eval
"HTTP/1.1 204 No Content\r\n\r\n"
--- sent
POST / HTTP/1.1
Host: crm.example
User-Agent: ngx_vd_module/0.1.0
Accept: application/json
Accept-Encoding: identity
Content-Type: application/json
Content-Length: 8
webhook-id: case-1
webhook-timestamp: 1234567890
X-Hub-Signature-256: sha256=f42a7305f5e007cc8253d5153a744edab66b30c7290493aab21d90d6e4e5b3c5

{"n": 1}
--- response_body_like: "attempt":3,"status":204,



=== TEST 17: vd_set_header adds headers and replaces defaults
--- http_config
    upstream crm.example {
        server 127.0.0.1:$TEST_NGINX_RAND_PORT_1;
    }
--- config
    location = /vd {
        vd_pass http://crm.example;
        vd_output 28;
        vd_set_header X-Static "a value";
        vd_set_header X-Output "$vd_output/$vd_id/$vd_attempt";
        vd_set_header X-Tenant $http_x_tenant;
        vd_set_header X-Empty $http_x_missing;
        vd_set_header host "$http_x_tenant.example";
        vd_set_header User-Agent "app/1";
        vd_set_header Accept text/plain;
        vd_set_header Content-Type application/problem+json;
    }
--- request
POST /vd
{"n": 1}
--- more_headers
Idempotency-Key: case-1
Content-Type: text/html
X-Tenant: acme
--- tcp_listen: $TEST_NGINX_RAND_PORT_1
--- tcp_reply eval
"HTTP/1.1 204 No Content\r\n\r\n"
--- sent
POST / HTTP/1.1
Accept-Encoding: identity
Content-Length: 8
webhook-id: case-1
webhook-timestamp: 1234567890
X-Hub-Signature-256: sha256=f42a7305f5e007cc8253d5153a744edab66b30c7290493aab21d90d6e4e5b3c5
X-Static: a value
X-Output: 28/case-1/1
X-Tenant: acme
host: acme.example
User-Agent: app/1
Accept: text/plain
Content-Type: application/problem+json

{"n": 1}



=== TEST 18: a default that is set to nothing is not sent
--- http_config
    upstream crm.example {
        server 127.0.0.1:$TEST_NGINX_RAND_PORT_1;
    }
--- config
    location = /vd {
        vd_pass http://crm.example;
        vd_output 28;
        vd_set_header User-Agent "";
        vd_set_header Accept $http_x_missing;
        vd_set_header Content-Type "";
    }
--- request
POST /vd
{"n": 1}
--- more_headers
Idempotency-Key: case-1
--- tcp_listen: $TEST_NGINX_RAND_PORT_1
--- tcp_reply eval
"HTTP/1.1 204 No Content\r\n\r\n"
--- sent
POST / HTTP/1.1
Host: crm.example
Accept-Encoding: identity
Content-Length: 8
webhook-id: case-1
webhook-timestamp: 1234567890
X-Hub-Signature-256: sha256=f42a7305f5e007cc8253d5153a744edab66b30c7290493aab21d90d6e4e5b3c5

{"n": 1}



=== TEST 19: the headers of an outer level apply where a location sets none
--- http_config
    vd_set_header X-Tenant outer;
    server {
        listen unix:$TEST_NGINX_HTML_DIR/tenant.sock;
        access_log off;
        return 200 '{"ticket_id":"$http_x_tenant,$http_x_other"}';
    }
--- config
    location = /outer {
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/tenant.sock;
        vd_output 28;
    }
    location = /inner {
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/tenant.sock;
        vd_output 28;
        vd_set_header X-Other inner;
    }
--- request eval
["POST /outer\n{}", "POST /inner\n{}"]
--- more_headers
Idempotency-Key: case-1
--- response_body eval
[::delivered('outer,'), ::delivered(',inner')]



=== TEST 20: a value never begins another line
--- http_config
    server {
        listen unix:$TEST_NGINX_HTML_DIR/tenant.sock;
        access_log off;
        return 200 '{"ticket_id":"[$http_x_a,$http_x_evil]"}';
    }
--- config
    location ~ (?s)^/vd/(.*)$ {
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/tenant.sock;
        vd_output 28;
        vd_set_header X-A $1;
    }
--- request eval
["POST /vd/a%0d%0aX-Evil:1\n{}", "POST /vd/a%0aX-Evil:1\n{}", "POST /vd/a%0dX-Evil:1\n{}",
 "POST /vd/%01\n{}", "POST /vd/%7f\n{}", "POST /vd/a%09b\n{}"]
--- more_headers
Idempotency-Key: case-1
--- error_code eval
[(502) x 5, 200]
--- response_body eval
[
    (::failed('internal')) x 5,
    # a tab is let through, and makes no JSON of what is told
    ::delivered('[a,]') =~ s/"ticket_id":.*?"ticket_error":null/"ticket_id":null,"ticket_error":"not_json"/r,
]
--- no_error_log
[alert]
[crit]



=== TEST 21: what is refused because of a header's value says which
--- config
    location ~ (?s)^/vd/(.*)$ {
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/receiver.sock;
        vd_output 28;
        vd_set_header X-A $1;
    }
--- request
POST /vd/a%0d%0aX-Evil:1
{}
--- more_headers
Idempotency-Key: case-1
--- error_code: 502
--- response_body eval
::failed('internal')
--- error_log
control character in the value of "vd_set_header" "X-A"
delivery "case-1" to output "28" failed: attempt 1, reason internal



=== TEST 22: proxy directives around it have no effect
--- config
    proxy_intercept_errors on;
    proxy_method PUT;
    proxy_set_body other;
    proxy_set_header Host other;
    proxy_http_version 1.0;
    proxy_pass_request_body off;
    proxy_ignore_headers X-Accel-Redirect;
    proxy_redirect / /other;
    proxy_connect_timeout 1ms;
    location = /vd {
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/receiver.sock:/in;
        vd_output 28;
    }
--- request
POST /vd
{}
--- more_headers
Idempotency-Key: case-1
--- response_body eval
::delivered('POST /in, host localhost')
