# Copyright (C) The ngx_vd_module authors
#
# What other parts of nginx make of a location with vd_pass: subrequests, in
# which a case would be delivered and its answer lost, are refused; internal
# redirects of the app's own request are not.

use Test::Nginx::Socket 'no_plan';
use Test::VD;

add_block_preprocessor(sub {
    my ($block) = @_;

    $block->set_value(http_config => <<'CONF' . ($block->http_config // ''));
vd_secret_file $TEST_NGINX_SECRET_FILE;
log_format received '$http_webhook_id $request_method $content_length';

server {
    listen unix:$TEST_NGINX_HTML_DIR/receiver.sock;
    access_log logs/received.log received;

    location / {
        return 200 '{"ticket_id":"T-1"}';
    }
    location = /500 { return 500; }
}
CONF
    $block->set_value(config => <<'CONF' . ($block->config // ''));
    location = /vd {
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/receiver.sock;
        vd_output 28;
    }
    location @vd {
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/receiver.sock;
        vd_output 28;
    }
    location = /received {
        access_log off;
        alias $TEST_NGINX_SERVER_ROOT/logs/received.log;
    }
CONF
    return;
});

run_tests();

__DATA__

=== TEST 1: in a mirror nothing is delivered
--- config
    location = /mirrored {
        mirror /vd;
        proxy_method GET;
        proxy_pass http://127.0.0.1:$TEST_NGINX_SERVER_PORT/ok;
    }
    location = /ok {
        return 200 "ok\n";
    }
--- request eval
["POST /mirrored\n{}", "GET /received"]
--- response_body eval
["ok\n", ""]
--- no_error_log
[alert]
[crit]



=== TEST 2: each subrequest that is refused is logged
--- config
    root $TEST_NGINX_HTML_DIR;

    location = /mirrored {
        mirror /vd;
        try_files /page.html =404;
    }
    location = /guarded {
        auth_request /vd;
        try_files /page.html =404;
    }
    location = /page.html {
        ssi on;
        ssi_types *;
    }
    location = /added {
        addition_types *;
        add_after_body /vd;
        try_files /page.html =404;
    }
--- user_files
>>> page.html
before <!--#include virtual="/vd" --> after
--- request eval
["POST /mirrored", "GET /mirrored", "GET /guarded", "GET /page.html", "GET /added"]
--- error_code eval
[405, 200, 500, 200, 200]
--- error_log eval
[qr/\[error\] .*"vd_pass" does not work in a subrequest, nothing was delivered, client: .*subrequest: "\/vd"/]
--- no_error_log
[alert]
[crit]



=== TEST 3: as auth_request it denies, and nothing is delivered
--- config
    location = /guarded {
        auth_request /vd;
        root $TEST_NGINX_HTML_DIR;
        try_files /index.html =404;
    }
    location = /guarded-post {
        auth_request /vd;
        proxy_pass http://unix:$TEST_NGINX_HTML_DIR/receiver.sock:/never;
    }
--- request eval
["GET /guarded", "POST /guarded-post\n{}", "GET /received"]
--- error_code eval
[500, 500, 200]
--- response_body_like eval
['500 Internal Server Error', '500 Internal Server Error', '^$']



=== TEST 4: in an SSI include nothing is delivered
--- config
    location = /page.html {
        ssi on;
        default_type text/html;
        root $TEST_NGINX_HTML_DIR;
    }
    location = /page-stub.html {
        ssi on;
        default_type text/html;
        root $TEST_NGINX_HTML_DIR;
    }
--- user_files
>>> page.html
before <!--#include virtual="/vd" --> after
>>> page-stub.html
before <!--#include virtual="/vd" wait="yes" --> <!--#include virtual="/vd" set="x" --> after
--- request eval
["GET /page.html", "GET /page-stub.html", "GET /received"]
--- error_code eval
[200, 200, 200]
--- response_body_like eval
['^before .*after', '^before .*after', '^$']
--- no_error_log
[alert]
[crit]



=== TEST 5: in an addition to a page nothing is delivered
--- config
    location = /page {
        addition_types *;
        add_before_body /vd;
        add_after_body /vd;
        root $TEST_NGINX_HTML_DIR;
        try_files /index.html =404;
    }
--- request eval
["GET /page", "GET /received"]
--- error_code eval
[200, 200]
--- response_body_like eval
['It works', '^$']
--- no_error_log
[alert]



=== TEST 6: a subrequest that is redirected there is refused as well
--- config
    location = /page {
        addition_types *;
        add_after_body /redirected;
        root $TEST_NGINX_HTML_DIR;
        try_files /index.html =404;
    }
    location = /redirected {
        error_page 404 = @vd;
        return 404;
    }
--- request eval
["GET /page", "GET /received"]
--- error_code eval
[200, 200]
--- response_body_like eval
['It works', '^$']
--- no_error_log
[alert]



=== TEST 7: a mirror and an auth_request of the location itself; an addition has no effect
--- config
    location = /both {
        mirror /mirror;
        auth_request /auth;
        addition_types *;
        add_after_body /added;
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/receiver.sock;
        vd_output 28;
    }
    location = /mirror {
        internal;
        proxy_set_header Host mirror;
        proxy_set_header webhook-id mirror;
        proxy_pass http://unix:$TEST_NGINX_HTML_DIR/receiver.sock:/mirror;
    }
    location = /auth {
        internal;
        proxy_pass_request_body off;
        proxy_set_header Content-Length "";
        proxy_set_header webhook-id auth;
        proxy_pass http://unix:$TEST_NGINX_HTML_DIR/receiver.sock:/auth;
    }
    location = /added {
        internal;
        return 200 "added\n";
    }
--- request eval
["POST /both\n{}", "GET /received"]
--- more_headers
Idempotency-Key: case-1
--- response_body_like eval
['^\{"id":"case-1",.*"ticket_id":"T-1",[^{}]*\}\n$',
 '^auth GET -\n(?:mirror POST 2\ncase-1 POST 2|case-1 POST 2\nmirror POST 2)\n$']
--- no_error_log
[error]



=== TEST 8: denied by an auth_request nothing is delivered
--- config
    location = /guarded {
        auth_request /deny;
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/receiver.sock;
        vd_output 28;
    }
    location = /denied {
        deny all;
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/receiver.sock;
        vd_output 28;
    }
    location = /deny {
        return 403;
    }
--- request eval
["POST /guarded\n{}", "POST /denied\n{}", "GET /received"]
--- error_code eval
[403, 403, 200]
--- response_body_like eval
['403 Forbidden', '403 Forbidden', '^$']



=== TEST 9: by rewrite
--- config
    rewrite ^/from-server$ /internal last;

    location = /from-location {
        rewrite ^ /internal last;
    }
    location = /from-if {
        if ($request_method = POST) {
            rewrite ^ /internal last;
        }
    }
    location /break {
        rewrite ^ /elsewhere break;
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/receiver.sock;
        vd_output 28;
    }
    location = /internal {
        internal;
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/receiver.sock;
        vd_output 28;
    }
--- request eval
["POST /from-server\n{}", "POST /from-location\n{}", "POST /from-if\n{}", "POST /break\n{}", "POST /internal\n{}", "GET /received"]
--- more_headers eval
[map {"Idempotency-Key: case-$_"} 1 .. 6]
--- error_code eval
[200, 200, 200, 200, 404, 200]
--- response_body_like eval
[(map {qq(^\\{"id":"case-$_",.*"ticket_id":"T-1")} 1 .. 4), '404 Not Found',
 '^case-1 POST 2\ncase-2 POST 2\ncase-3 POST 2\ncase-4 POST 2\n$']
--- no_error_log
[alert]



=== TEST 10: by try_files
--- config
    location /named {
        try_files /missing @vd;
    }
    location /uri {
        try_files /missing /vd;
    }
    location /self {
        try_files /index.html =404;
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/receiver.sock;
        vd_output 28;
    }
--- request eval
["POST /named\n{}", "POST /uri\n{}", "POST /self\n{}", "GET /received"]
--- more_headers eval
[map {"Idempotency-Key: case-$_"} 1 .. 4]
--- response_body_like eval
[(map {qq(^\\{"id":"case-$_",.*"ticket_id":"T-1")} 1 .. 3), '^case-1 POST 2\ncase-2 POST 2\ncase-3 POST 2\n$']
--- no_error_log
[error]



=== TEST 11: by error_page, which keeps the method for a named location alone
--- config
    location = /named {
        error_page 404 = @vd;
        return 404;
    }
    location = /uri {
        error_page 404 = /vd;
        return 404;
    }
    location = /proxied {
        proxy_intercept_errors on;
        error_page 500 = @vd;
        proxy_set_header webhook-id proxied;
        proxy_pass http://unix:$TEST_NGINX_HTML_DIR/receiver.sock:/500;
    }
    location = /unreachable {
        error_page 502 = @vd;
        proxy_pass http://127.0.0.1:$TEST_NGINX_RAND_PORT_1;
    }
--- request eval
["POST /named\n{}", "POST /uri\n{}", "POST /proxied\n{}", "POST /unreachable\n{}", "GET /received"]
--- more_headers eval
[map {"Idempotency-Key: case-$_"} 1 .. 5]
--- error_code eval
[200, 405, 200, 200, 200]
--- response_body_like eval
['^\{"id":"case-1",.*"ticket_id":"T-1"', '^\{"error":"method is not POST"\}\n$', '^\{"id":"case-3",.*"ticket_id":"T-1"',
 '^\{"id":"case-4",.*"ticket_id":"T-1"', '^case-1 POST 2\nproxied POST 2\ncase-3 POST 2\ncase-4 POST 2\n$']
--- no_error_log
[alert]



=== TEST 12: $upstream_* are those of the delivery, not of what was tried before
--- config
    location = /proxied {
        proxy_intercept_errors on;
        error_page 500 = @traced;
        proxy_pass http://unix:$TEST_NGINX_HTML_DIR/receiver.sock:/500;
    }
    location @traced {
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/receiver.sock;
        vd_output 28;
        add_header X-Status $upstream_status;
    }
--- request
POST /proxied
{}
--- response_headers
X-Status: 200



=== TEST 13: by X-Accel-Redirect to a named location, with method and body
--- http_config
    server {
        listen unix:$TEST_NGINX_HTML_DIR/app.sock;
        access_log off;
        location = /named {
            add_header X-Accel-Redirect @vd;
            return 200 "the app's own";
        }
        location = /uri {
            add_header X-Accel-Redirect /vd;
            return 200 "the app's own";
        }
    }
--- config
    location /app/ {
        proxy_pass http://unix:$TEST_NGINX_HTML_DIR/app.sock:/;
    }
    location /in-file/ {
        client_body_in_file_only clean;
        proxy_pass http://unix:$TEST_NGINX_HTML_DIR/app.sock:/;
    }
--- request eval
["POST /app/named\n{}", "POST /in-file/named\n{}", "POST /app/uri\n{}", "GET /received"]
--- more_headers eval
[map {"Idempotency-Key: case-$_"} 1 .. 4]
--- error_code eval
[200, 200, 405, 200]
--- response_body_like eval
['^\{"id":"case-1",.*"ticket_id":"T-1"', '^\{"id":"case-2",.*"ticket_id":"T-1"', '^\{"error":"method is not POST"\}\n$',
 '^case-1 POST 2\ncase-2 POST 2\n$']
--- no_error_log
[alert]



=== TEST 14: by post_action, when the app has been answered by another handler
--- config
    location = /app {
        proxy_method GET;
        proxy_pass http://127.0.0.1:$TEST_NGINX_SERVER_PORT/first;
        post_action @vd;
    }
    location = /first {
        return 200 "first\n";
    }
--- request eval
["POST /app\n{}", "GET /received"]
--- more_headers eval
[map {"Idempotency-Key: case-$_"} 1 .. 2]
--- response_body eval
["first\n", "case-1 POST 2\n"]
--- wait: 0.05
--- no_error_log
[alert]
[crit]



=== TEST 15: filters of the location work on the answer alone
--- config
    location = /filtered {
        sub_filter_types *;
        sub_filter delivered DELIVERED;
        sub_filter T-1 ticket;
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/receiver.sock;
        vd_output 28;
        expires 1h;
    }
--- request
POST /filtered
{}
--- more_headers
Idempotency-Key: case-1
--- response_headers
Cache-Control: max-age=3600
--- response_body_like: "id":"case-1",.*"state":"DELIVERED".*"ticket_id":"ticket"
--- no_error_log
[error]
