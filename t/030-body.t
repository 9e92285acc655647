# Copyright (C) The ngx_vd_module authors
#
# The body of the app's request: however it comes and wherever nginx keeps it,
# the same bytes are checked, signed and sent.

use Test::Nginx::Socket 'no_plan';
use Test::VD;

use Digest::SHA qw(hmac_sha256_hex);

add_block_preprocessor(sub {
    my ($block) = @_;

    $block->set_value(http_config => <<'CONF' . ($block->http_config // ''));
vd_secret_file $TEST_NGINX_SECRET_FILE;
vd_signature github;
vd_ticket_id ticket_id max=4096;

server {
    listen unix:$TEST_NGINX_HTML_DIR/receiver.sock;
    access_log off;
    client_max_body_size 30m;

    proxy_pass_request_body off;

    location / {
        client_body_buffer_size 1m;
        proxy_set_header X-Told "$content_length $request_body";
        proxy_pass http://unix:$TEST_NGINX_HTML_DIR/echo.sock;
    }
    location = /keep {
        client_body_in_file_only on;
        client_body_temp_path $TEST_NGINX_SERVER_ROOT/received_temp;
        proxy_set_header X-Told $http_x_hub_signature_256;
        proxy_pass http://unix:$TEST_NGINX_HTML_DIR/echo.sock;
    }
}
server {
    listen unix:$TEST_NGINX_HTML_DIR/echo.sock;
    access_log off;
    return 200 '{"ticket_id":"$http_x_told"}';
}
CONF
    $block->set_value(config => <<'CONF' . ($block->config // ''));
    location = /vd {
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/receiver.sock;
        vd_output 28;
    }
    location = /any {
        vd_validate off;
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/receiver.sock;
        vd_output 28;
    }
    location = /received {
        root $TEST_NGINX_SERVER_ROOT/received_temp;
        try_files /0000000001 /0000000002 =404;
    }
CONF
    return;
});

# What is told of a body that arrived, without the quotes in it.
sub arrived {
    my ($body) = @_;
    my $length = length $body;
    $body =~ s/</\\u003c/g;
    return sprintf '"status":200,"ticket_id":"%d %s","ticket_error":null,', $length,
        quotemeta $body;
}

sub refused {
    my ($where) = @_;
    return qr/^\{"error":"body is not JSON in UTF-8: \Q$where\E"\}\n$/;
}

# What is told of a body whose bytes are kept.
sub signed {
    my ($body) = @_;
    return '"ticket_id":"sha256=' . hmac_sha256_hex($body, 'the secret of all the suites') . '"';
}

sub request {
    my ($uri, $body, @headers) = @_;
    return CORE::join("\r\n", "POST $uri HTTP/1.1", 'Host: localhost', 'Connection: close',
        'Content-Length: ' . length $body, @headers, '', $body);
}

# About a megabyte of JSON, with characters of all lengths, that no buffer's
# size divides.
our $megabyte = '["' . "x\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80-" x 95_000 . '"]';

run_tests();

__DATA__

=== TEST 1: a body that came together with the header
--- raw_request eval
"POST /any HTTP/1.1\r\nHost: localhost\r\nContent-Length: 11\r\nConnection: close\r\n\r\nhello world"
--- response_body_like eval
::arrived('hello world')
--- no_error_log
[error]



=== TEST 2: a body of which a part came with the header, the rest by and by
--- raw_request eval
["POST /any HTTP/1.1\r\nHost: localhost\r\nContent-Length: 11\r\nConnection: close\r\n\r\nhel", "lo", " wor", "ld"]
--- raw_request_middle_delay: 0.02
--- response_body_like eval
::arrived('hello world')
--- no_error_log
[error]



=== TEST 3: a body that came all by itself
--- raw_request eval
["POST /any HTTP/1.1\r\nHost: localhost\r\nContent-Length: 11\r\nConnection: close\r\n\r\n", "hello world"]
--- raw_request_middle_delay: 0.02
--- response_body_like eval
::arrived('hello world')



=== TEST 4: JSON in two buffers
--- config
    location = /two {
        client_body_buffer_size 16k;
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/receiver.sock;
        vd_output 28;
    }
--- raw_request eval
["POST /two HTTP/1.1\r\nHost: localhost\r\nContent-Length: 16\r\nConnection: close\r\n\r\n[1234, 5", "6, true]"]
--- raw_request_middle_delay: 0.02
--- response_body_like eval
::arrived('[1234, 56, true]')



=== TEST 5: 15,000 bytes in memory
--- config
    location = /keep {
        client_body_buffer_size 16k;
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/receiver.sock:/keep;
        vd_output 28;
        add_header X-File $request_body_file;
    }
--- request eval
["POST /keep\n" . '["' . 'x' x 14_996 . '"]', "GET /received"]
--- response_headers eval
["! X-File", "! X-File"]
--- response_body eval
[qr/${\ ::signed('["' . 'x' x 14_996 . '"]')}/, '["' . 'x' x 14_996 . '"]']
--- no_error_log
[error]



=== TEST 6: 15,000 bytes in a file, as they are too many for the buffer
--- config
    location = /keep {
        client_body_buffer_size 1k;
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/receiver.sock:/keep;
        vd_output 28;
        add_header X-File $request_body_file;
    }
--- request eval
["POST /keep\n" . '["' . 'x' x 14_996 . '"]', "GET /received"]
--- response_headers_like eval
["X-File: /.+/[0-9]+", "Content-Type: text/plain"]
--- response_body eval
[qr/${\ ::signed('["' . 'x' x 14_996 . '"]')}/, '["' . 'x' x 14_996 . '"]']
--- no_error_log
[error]



=== TEST 7: in a file, as it is told to be
--- config
    location = /keep {
        client_body_in_file_only clean;
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/receiver.sock:/keep;
        vd_output 28;
        add_header X-File $request_body_file;
    }
--- request eval
["POST /keep\n" . '{"a": 1}', "GET /received"]
--- response_headers_like eval
["X-File: /.+/[0-9]+", "Content-Type: text/plain"]
--- response_body eval
[qr/${\ ::signed('{"a": 1}')}/, '{"a": 1}']
--- no_error_log
[error]



=== TEST 8: in a single buffer, as it is told to be
--- config
    location = /single {
        client_body_in_single_buffer on;
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/receiver.sock;
        vd_output 28;
    }
--- raw_request eval
["POST /single HTTP/1.1\r\nHost: localhost\r\nContent-Length: 16\r\nConnection: close\r\n\r\n[1234, 5", "6, true]"]
--- raw_request_middle_delay: 0.02
--- response_body_like eval
::arrived('[1234, 56, true]')



=== TEST 9: a megabyte, in a file
--- config
    location = /keep {
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/receiver.sock:/keep;
        vd_output 28;
        add_header X-File $request_body_file;
    }
--- request eval
["POST /keep\n" . $::megabyte, "GET /received"]
--- response_headers_like eval
["X-File: /.+/[0-9]+", "Content-Type: text/plain"]
--- response_body eval
[qr/${\ ::signed($::megabyte)}/, $::megabyte]
--- no_error_log
[error]



=== TEST 10: a megabyte in memory
--- config
    location = /keep {
        client_body_buffer_size 2m;
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/receiver.sock:/keep;
        vd_output 28;
        add_header X-File $request_body_file;
    }
--- request eval
["POST /keep\n" . $::megabyte, "GET /received"]
--- response_headers eval
["! X-File", "! X-File"]
--- response_body eval
[qr/${\ ::signed($::megabyte)}/, $::megabyte]
--- no_error_log
[error]



=== TEST 11: a megabyte in chunks
--- config
    location = /keep {
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/receiver.sock:/keep;
        vd_output 28;
        add_header X-File $request_body_file;
    }
--- request eval
["POST /keep\n" . ($::megabyte =~ s/(.{1,4099})/sprintf "%x\r\n%s\r\n", length $1, $1/segr) . "0\r\n\r\n", "GET /received"]
--- more_headers eval
["Transfer-Encoding: chunked", ""]
--- response_headers_like eval
["X-File: /.+/[0-9]+", "Content-Type: text/plain"]
--- response_body eval
[qr/${\ ::signed($::megabyte)}/, $::megabyte]
--- no_error_log
[error]



=== TEST 12: in chunks, byte by byte
--- raw_request eval
[map {$_} split //, "POST /vd HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    . "4\r\n[1, \r\n2;x=y\r\n2]\r\n0\r\nA: b\r\n\r\n"]
--- raw_request_middle_delay: 0.002
--- response_body_like eval
::arrived('[1, 2]')
--- no_error_log
[error]



=== TEST 13: with a length, byte by byte
--- raw_request eval
[map {$_} split //, "POST /any HTTP/1.1\r\nHost: localhost\r\nContent-Length: 11\r\nConnection: close\r\n\r\nhello world"]
--- raw_request_middle_delay: 0.002
--- response_body_like eval
::arrived('hello world')



=== TEST 14: nothing but the body is sent, what follows it is the next request
--- raw_request eval
"POST /any HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello world"
--- response_body_like eval
::arrived('hello')



=== TEST 15: a client that waits for "100 Continue"
--- raw_request eval
["POST /any HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 5\r\nConnection: close\r\n\r\n", "hello"]
--- raw_request_middle_delay: 0.05
--- error_code: 100
--- response_body_like eval
'^HTTP/1\.1 200 OK\r\n.*' . ::arrived('hello')



=== TEST 16: every byte there is
--- config
    location = /keep {
        vd_validate off;
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/receiver.sock:/keep;
        vd_output 28;
        add_header X-File $request_body_file;
    }
--- request eval
["POST /keep\n" . pack('C*', 0 .. 255), "GET /received"]
--- more_headers eval
["Content-Length: 256", ""]
--- response_headers eval
["! X-File", "! X-File"]
--- response_body eval
[qr/${\ ::signed(pack('C*', 0 .. 255))}/, pack('C*', 0 .. 255)]
--- no_error_log
[error]



=== TEST 17: what is not JSON is refused, and where
--- request eval
[map {"POST /vd\n$_"} '{"a": 1,}', '[1 2]', '{"a" 1}', '{a: 1}', "{'a': 1}", '[01]', '[1.]', '[.5]', '[+1]',
    '[NaN]', '[1e]', '[-]', 'hello', '[1]]', '{} {}', '["\x"]', '["\u12g4"]', '[tru]', '[1,', '"abc', '{', '[1] x']
--- error_code eval
[(400) x 22]
--- response_body eval
[map { ::refused($_) }
    'unexpected character at byte 9', 'unexpected character at byte 4', 'unexpected character at byte 6',
    'unexpected character at byte 2', 'unexpected character at byte 2', 'unexpected character at byte 3',
    'unexpected character at byte 4', 'unexpected character at byte 2', 'unexpected character at byte 2',
    'unexpected character at byte 2', 'unexpected character at byte 4', 'unexpected character at byte 3',
    'unexpected character at byte 1', 'trailing data at byte 4', 'trailing data at byte 4',
    'invalid escape at byte 4', 'invalid escape at byte 7', 'unexpected character at byte 5',
    'unexpected end at byte 4', 'unexpected end at byte 5', 'unexpected end at byte 2', 'trailing data at byte 5']
--- no_error_log
[error]



=== TEST 18: what is not UTF-8 is refused, and where
--- request eval
[map {"POST /vd\n[\"a$_\"]"} "\xff", "\xc3", "\x80", "\xc0\xaf", "\xe0\x80\xaf", "\xed\xa0\x80",
    "\xf4\x90\x80\x80", "\xf8\x88\x80\x80\x80", "\xe2\x82", "\0", "\x1f"]
--- error_code eval
[(400) x 11]
--- response_body eval
[map { ::refused($_) } 'invalid UTF-8 at byte 4', 'invalid UTF-8 at byte 5', 'invalid UTF-8 at byte 4',
    'invalid UTF-8 at byte 4', 'invalid UTF-8 at byte 5', 'invalid UTF-8 at byte 5', 'invalid UTF-8 at byte 5',
    'invalid UTF-8 at byte 4', 'invalid UTF-8 at byte 6', 'control character in string at byte 4',
    'control character in string at byte 4']



=== TEST 19: a byte order mark, other encodings and white space of other kinds
--- request eval
[map {"POST /vd\n$_"} "\xef\xbb\xbf{}", "{\xc2\xa0}", "\xff\xfe{\0}\0", "{\0}", "{\x0c}"]
--- error_code eval
[(400) x 5]
--- response_body eval
[map { ::refused("unexpected character at byte $_") } 1, 2, 1, 2, 2]



=== TEST 20: the place is that in the whole body, in a file too
--- config
    location = /in-file {
        client_body_in_file_only clean;
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/receiver.sock;
        vd_output 28;
    }
--- request eval
["POST /vd\n[" . '1,' x 100_000 . 'x]', "POST /in-file\n[" . '1,' x 100_000 . 'x]', "POST /in-file\n[1"]
--- error_code eval
[400, 400, 400]
--- response_body eval
[::refused('unexpected character at byte 200002'), ::refused('unexpected character at byte 200002'),
 ::refused('unexpected end at byte 3')]
--- no_error_log
[error]



=== TEST 21: characters, escapes, numbers and words that buffers divide
--- raw_request eval
[map {$_} split //, ::request('/vd', "[\"\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80\\u20ac\", true, false, null, -1.5e+10]")]
--- raw_request_middle_delay: 0.002
--- response_body_like: "state":"delivered"



=== TEST 22: a character that is cut off between two buffers is refused
--- raw_request eval
["POST /vd HTTP/1.1\r\nHost: localhost\r\nContent-Length: 6\r\nConnection: close\r\n\r\n[\"\xe2\x82", "\"]"]
--- raw_request_middle_delay: 0.02
--- error_code: 400
--- response_body eval
::refused('invalid UTF-8 at byte 5')



=== TEST 23: JSON of every kind is delivered
--- request eval
[map {"POST /vd\n$_"} '0', '-0.0', 'true', 'null', '[]', '{}', "[\t\n1\r\n]", '{"a":1,"a":2}', '[1e400]',
    '[123456789012345678901234567890]', '["\ud800"]', '["\u0000"]', '"x"']
--- error_code eval
[(200) x 13]
--- response_body_like eval
['"ticket_id":"1 0"', '"ticket_id":"4 -0.0"', '"ticket_id":"4 true"', '"ticket_id":"4 null"',
 '"ticket_id":"2 \[\]"', '"ticket_id":"2 \{\}"', ('"state":"delivered"') x 2, '"ticket_id":"7 \[1e400\]"',
 '"ticket_id":"32 \[123456789012345678901234567890\]"', ('"state":"delivered"') x 3]



=== TEST 24: white space around it is no part of the JSON, but of what is sent
--- config
    location = /keep {
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/receiver.sock:/keep;
        vd_output 28;
        add_header X-File $request_body_file;
    }
--- request eval
["POST /keep\n" . " \r\n\t{} \n", "GET /received"]
--- more_headers eval
["Content-Length: 8", ""]
--- response_headers eval
["! X-File", "! X-File"]
--- response_body eval
[qr/${\ ::signed(" \r\n\t{} \n")}/, " \r\n\t{} \n"]
--- no_error_log
[error]



=== TEST 25: nested deeply, and too deeply
--- request eval
["POST /vd\n" . '[' x 512 . ']' x 512, "POST /vd\n" . '[' x 100_000]
--- error_code eval
[200, 400]
--- response_body_like eval
['"state":"delivered"', '^\{"error":"body is not JSON in UTF-8: nested too deeply at byte \d+"\}']



=== TEST 26: without vd_validate anything is delivered
--- request eval
[map {"POST /any\n$_"} '{', 'hello', '<xml/>', '[1 2]', 'a=b&c=d']
--- response_body_like eval
[map { ::arrived($_) } '{', 'hello', '<xml/>', '[1 2]', 'a=b&c=d']



=== TEST 27: vd_validate is inherited
--- config
    vd_validate off;
    location = /inherits {
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/receiver.sock;
        vd_output 28;
    }
    location = /overrides {
        vd_validate on;
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/receiver.sock;
        vd_output 28;
    }
--- request eval
["POST /inherits\n{", "POST /overrides\n{"]
--- error_code eval
[200, 400]



=== TEST 28: a body in chunks that are malformed is not delivered
--- raw_request eval
"POST /any HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n5\r\nhelloX\r\n0\r\n\r\n"
--- error_code: 400
--- response_body_unlike: delivered
--- error_log
client sent invalid chunked body



=== TEST 29: a body that ends before its length is not delivered
--- raw_request eval
"POST /any HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\nConnection: close\r\n\r\nhello"
--- shutdown
--- ignore_response
--- error_log
client prematurely closed connection
--- no_error_log
http upstream request



=== TEST 30: a body that another handler has begun to pass on is not delivered in part
--- config
    location = /unbuffered {
        proxy_request_buffering off;
        proxy_pass http://127.0.0.1:$TEST_NGINX_RAND_PORT_1;
        error_page 502 = @vd;
    }
    location @vd {
        vd_validate off;
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/receiver.sock;
        vd_output 28;
    }
--- raw_request eval
["POST /unbuffered HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\nConnection: close\r\n\r\nhello", "world"]
--- raw_request_middle_delay: 0.1
--- error_code: 500
--- response_body_unlike: "state"
--- error_log
nothing was delivered
--- no_error_log
[alert]



=== TEST 31: the body is still there for the access log
--- http_config
    log_format body '$request_body';
--- config
    location = /logged {
        access_log logs/body.log body;
        client_body_in_single_buffer on;
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/receiver.sock;
        vd_output 28;
    }
    location = /log {
        alias $TEST_NGINX_SERVER_ROOT/logs/body.log;
    }
--- request eval
["POST /logged\n[1, 2]", "GET /log"]
--- response_body_like eval
[::arrived('[1, 2]'), '^\[1, 2\]\n$']
