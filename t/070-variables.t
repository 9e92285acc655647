# Copyright (C) The ngx_vd_module authors
#
# $vd_* and the stock $upstream_*: in the access log, in headers of the answer
# and in conditions.

use Test::Nginx::Socket 'no_plan';
use Test::VD;

add_block_preprocessor(sub {
    my ($block) = @_;

    $block->set_value(http_config => <<'CONF' . ($block->http_config // ''));
vd_secret_file $TEST_NGINX_SECRET_FILE;

log_format vd '$vd_id|$vd_output|$vd_case|$vd_attempt|$vd_outcome|$vd_reason|$vd_status|'
              '$vd_ticket_id|$vd_ticket_error|$vd_duration|$vd_state|$vd_journaled';

server {
    listen unix:$TEST_NGINX_HTML_DIR/receiver.sock;
    access_log off;

    location = /    { return 200 '{"ticket_id":"T-1"}'; }
    location = /204 { return 200 '{}'; }
    location = /503 { return 503; }
}
CONF
    $block->set_value(config => <<'CONF' . ($block->config // ''));
    access_log logs/vd.log vd;

    location = /vd {
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/receiver.sock;
        vd_output 28;
    }
    location = /none {
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/receiver.sock:/204;
        vd_output 28;
    }
    location = /503 {
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/receiver.sock:/503;
        vd_output 29;
    }
    location = /refused {
        vd_pass http://127.0.0.1:$TEST_NGINX_RAND_PORT_1;
        vd_output 30;
    }
    location /log/ {
        access_log off;
        alias $TEST_NGINX_SERVER_ROOT/logs/;
    }
CONF
    return;
});

run_tests();

__DATA__

=== TEST 1: after a delivery and a failure
--- request eval
["POST /vd\n{}", "POST /none\n{}", "POST /503\n{}", "POST /refused\n{}", "GET /log/vd.log"]
--- more_headers eval
[map {"X-Case-Id: C-$_\nIdempotency-Key: case-$_\nVD-Attempt: $_"} 1 .. 5]
--- error_code eval
[200, 200, 502, 502, 200]
--- response_body_like eval
[('^\{') x 4, '^case-1\|28\|C-1\|1\|delivered\|\|200\|T-1\|\|[0-9]+\|delivered\|false
case-2\|28\|C-2\|2\|delivered\|\|200\|\|missing\|[0-9]+\|delivered\|false
case-3\|29\|C-3\|3\|failed\|status\|503\|\|\|[0-9]+\|failed\|false
case-4\|30\|C-4\|4\|failed\|connect\|\|\|\|[0-9]+\|failed\|false
$']



=== TEST 2: after a refusal they tell what is known
--- request eval
["POST /vd\n{}", "POST /vd\n{}", "POST /vd\n{}", "POST /vd", "POST /vd\n{", "GET /vd", "GET /log/vd.log"]
--- more_headers eval
["X-Case-Id: C", "Idempotency-Key: a.b\nX-Case-Id: C", "Idempotency-Key: case-1\nVD-Attempt: 0\nX-Case-Id: C",
 (map {"Idempotency-Key: case-$_\nVD-Attempt: 2\nX-Case-Id: C"} 3 .. 6)]
--- error_code eval
[200, 400, 400, 400, 400, 405, 200]
--- response_body_like eval
[('^\{') x 6, '^[0-9a-f-]{36}\|28\|C\|1\|delivered\|\|200\|T-1\|\|[0-9]+\|delivered\|false
\|28\|C\|\|\|\|\|\|\|\|\|
case-1\|28\|C\|\|\|\|\|\|\|\|\|
case-3\|28\|C\|2\|\|\|\|\|\|\|\|
case-4\|28\|C\|2\|\|\|\|\|\|\|\|
\|28\|C\|\|\|\|\|\|\|\|\|
$']



=== TEST 3: where there is no vd_pass they are empty
--- config
    location = /other {
        return 200 "[$vd_id$vd_output$vd_case$vd_attempt$vd_outcome$vd_reason$vd_status$vd_ticket_id$vd_ticket_error$vd_duration$vd_state$vd_journaled]";
    }
--- request eval
["POST /other\n{}", "GET /missing", "GET /log/vd.log"]
--- more_headers
X-Case-Id: C
Idempotency-Key: case-1
--- error_code eval
[200, 404, 200]
--- response_body eval
["[]", qr/404/, "|||||||||||\n" x 2]



=== TEST 4: the duration is in milliseconds
--- config
    location = /slow {
        vd_pass http://127.0.0.1:$TEST_NGINX_RAW_PORT/variables?sleep%200.2&reply%20200%20%7B%7D;
        vd_output 28;
        add_header X-Duration $vd_duration;
    }
--- request
POST /slow
{}
--- response_headers_like
X-Duration: (?:[2-9][0-9]{2}|19[0-9]|[0-9]{4})



=== TEST 5: it is that of the attempt, not of the request
--- config
    location = /quick {
        vd_pass http://127.0.0.1:$TEST_NGINX_RAW_PORT/variables?reply%20200%20%7B%7D;
        vd_output 28;
        add_header X-Duration $vd_duration;
    }
--- raw_request eval
["POST /quick HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{", "}"]
--- raw_request_middle_delay: 1.2
--- response_headers_like
X-Duration: (?:[0-9]{1,3}|1[01][0-9]{2})



=== TEST 6: in headers of the answer, whatever it is
--- config
    add_header X-VD "$vd_id/$vd_output/$vd_attempt/$vd_outcome/$vd_status/$vd_reason/$vd_ticket_id/$vd_state" always;
--- request eval
["POST /vd\n{}", "POST /503\n{}", "POST /refused\n{}", "POST /vd\n{", "PUT /vd\n{}"]
--- more_headers
Idempotency-Key: case-1
--- error_code eval
[200, 502, 502, 400, 405]
--- response_headers eval
["X-VD: case-1/28/1/delivered/200//T-1/delivered", "X-VD: case-1/29/1/failed/503/status//failed",
 "X-VD: case-1/30/1/failed//connect//failed", "X-VD: case-1/28/1/////", "X-VD: /28//////"]



=== TEST 7: before the attempt there is no outcome to tell the receiver, afterwards there is
--- http_config
    server {
        listen unix:$TEST_NGINX_HTML_DIR/tells.sock;
        access_log off;
        return 200 '{"ticket_id":"[$http_x_vd]"}';
    }
--- config
    location = /told {
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/tells.sock;
        vd_output 28;
        vd_set_header X-VD "$vd_id/$vd_output/$vd_case/$vd_attempt/$vd_outcome/$vd_reason/$vd_status/$vd_ticket_id/$vd_ticket_error/$vd_duration/$vd_state/$vd_journaled";
    }
--- request eval
["POST /told\n{}", "GET /log/vd.log"]
--- more_headers
Idempotency-Key: case-1
X-Case-Id: C-1
VD-Attempt: 7
--- response_body_like eval
['"ticket_id":"\[case-1/28/C-1/7////////\]"',
 '^case-1\|28\|C-1\|7\|delivered\|\|200\|\[case-1/28/C-1/7////////\]\|\|[0-9]+\|delivered\|false\n$']



=== TEST 8: as a condition
--- http_config
    map $vd_outcome $failed {
        default 0;
        failed  1;
    }
--- config
    access_log logs/own.log vd if=$failed;
--- request eval
["POST /503\n{}", "POST /vd\n{}", "GET /other", "GET /log/own.log"]
--- more_headers eval
[map {"Idempotency-Key: case-$_"} 1 .. 4]
--- error_code eval
[502, 200, 404, 200]
--- response_body_like eval
['failed', 'delivered', '404', '^case-1\|29\|[^\n]*\n$']



=== TEST 9: the case
--- config
    vd_case $http_x_ticket;

    location = /inherits {
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/receiver.sock;
        vd_output 28;
        add_header X-Case $vd_case always;
    }
    location = /argument {
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/receiver.sock;
        vd_output 28;
        vd_case $arg_case;
        add_header X-Case $vd_case always;
    }
    location ~ ^/composed/(?<number>[0-9]+)$ {
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/receiver.sock;
        vd_output 28;
        vd_case "case $number of $http_x_case_id";
        add_header X-Case $vd_case always;
    }
    location = /constant {
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/receiver.sock;
        vd_output 28;
        vd_case constant;
        add_header X-Case $vd_case always;
    }
    location = /nothing {
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/receiver.sock;
        vd_output 28;
        vd_case "";
        add_header X-Case $vd_case always;
    }
--- request eval
["POST /inherits\n{}", "POST /argument?case=17\n{}", "POST /composed/12\n{}", "POST /constant\n{}", "POST /nothing\n{}"]
--- more_headers
X-Case-Id: C-1
X-Ticket: T-1
--- response_headers eval
["X-Case: T-1", "X-Case: 17", "X-Case: case 12 of C-1", "X-Case: constant", "! X-Case"]



=== TEST 10: a log in JSON stays JSON whatever the app and the receiver say
--- http_config
    log_format json escape=json '{"id":"$vd_id","case":"$vd_case","ticket_id":"$vd_ticket_id","reason":"$vd_reason"}';
    server {
        listen unix:$TEST_NGINX_HTML_DIR/hostile.sock;
        access_log off;
        return 200 '{"ticket_id":"a\\"},{\\"b\\\\c</d>"}';
    }
--- config
    access_log logs/own.log json;

    location = /hostile {
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/hostile.sock;
        vd_output 28;
    }
--- request eval
["POST /hostile\n{}", "POST /hostile\n{}", "POST /hostile\n{}", "GET /log/own.log"]
--- more_headers eval
["Idempotency-Key: case-1\nX-Case-Id: \"},{\"id\":\"forged", "Idempotency-Key: a\"b\nX-Case-Id: \\\",\\n\t\x01\x1f",
 "Idempotency-Key: case-3\nX-Case-Id: \xe2\x82\xac </script>", ""]
--- error_code eval
[200, 400, 200, 200]
--- response_body eval
[qr/"ticket_id":"a\\"\},\{\\"b\\\\c\\u003c\/d>"/, qr/error/, qr/delivered/,
 q({"id":"case-1","case":"\"},{\"id\":\"forged","ticket_id":"a\"},{\"b\\\\c</d>","reason":""}) . "\n"
 . q({"id":"","case":"\\\\\",\\\\n\t\u0001\u001F","ticket_id":"","reason":""}) . "\n"
 . qq({"id":"case-3","case":"\xe2\x82\xac </script>",) . q("ticket_id":"a\"},{\"b\\\\c</d>","reason":""}) . "\n"]



=== TEST 11: $upstream_* tell of the attempt
--- http_config
    log_format upstream '$vd_id $upstream_addr $upstream_status $upstream_response_time $upstream_connect_time '
                        '$upstream_header_time $upstream_response_length $upstream_bytes_received';
--- config
    access_log logs/own.log upstream;
    location = /silent {
        vd_pass http://127.0.0.1:$TEST_NGINX_SILENT_PORT;
        vd_output 28;
        vd_read_timeout 100ms;
    }
--- request eval
["POST /vd\n{}", "POST /503\n{}", "POST /refused\n{}", "POST /silent\n{}", "POST /vd", "GET /log/own.log"]
--- more_headers eval
[map {"Idempotency-Key: case-$_"} 1 .. 6]
--- error_code eval
[200, 502, 502, 502, 400, 200]
--- response_body_like eval
[('^\{') x 5,
 '^case-1 unix:\S+receiver\.sock 200 0\.\d{3} 0\.\d{3} 0\.\d{3} 19 [1-9]\d+
case-2 unix:\S+receiver\.sock 503 0\.\d{3} 0\.\d{3} 0\.\d{3} \d+ [1-9]\d+
case-3 127\.0\.0\.1:\d+ 502 0\.\d{3} (?:-|0\.\d{3}) - 0 0
case-4 127\.0\.0\.1:\d+ 504 0\.1\d{2} 0\.\d{3} - 0 0
case-5 - - - - - - -
$']



=== TEST 12: with several tries they are lists
--- http_config
    log_format upstream '$vd_id $upstream_addr|$upstream_status|$upstream_response_time';
    upstream crm {
        server 127.0.0.1:$TEST_NGINX_RAND_PORT_1;
        server unix:$TEST_NGINX_HTML_DIR/receiver.sock backup;
    }
--- config
    access_log logs/own.log upstream;
    location = /crm {
        vd_pass http://crm;
        vd_output 28;
    }
--- request eval
["POST /crm\n{}", "GET /log/own.log"]
--- more_headers
Idempotency-Key: case-1
--- response_body_like eval
['"state":"delivered"', '^case-1 127\.0\.0\.1:\d+, unix:\S+receiver\.sock\|502, 200\|0\.\d{3}, 0\.\d{3}\n$']



=== TEST 13: the label of the output, where it has one
--- config
    location = /labelled {
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/receiver.sock;
        vd_output 31 "Security Incident - Critical Alert";
        add_header X-Label "[$vd_label]" always;
    }
    location = /other {
        add_header X-Label "[$vd_label]";
        return 200;
    }
    add_header X-Label "[$vd_label]" always;
--- request eval
["POST /labelled\n{}", "POST /labelled\n{", "POST /vd\n{}", "GET /other"]
--- error_code eval
[200, 400, 200, 200]
--- response_headers eval
[("X-Label: [Security Incident - Critical Alert]") x 2, ("X-Label: []") x 2]
