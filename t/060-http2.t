# Copyright (C) The ngx_vd_module authors
#
# The app as a client of HTTP/2, which connects to a socket of its own: curl where
# it will do, else frames made here.  They talk in "init", and the request looks at
# what was logged.

use Test::Nginx::Socket 'no_plan';
use Test::VD;
use Test::VD::HTTP2;

use IO::Select;
use IO::Socket::UNIX;
use Time::HiRes qw(sleep time);

add_block_preprocessor(sub {
    my ($block) = @_;

    $block->set_value(http_config => <<'CONF' . ($block->http_config // ''));
vd_secret_file $TEST_NGINX_SECRET_FILE;
vd_ticket_id ticket_id max=4096;
log_format vd '$vd_id $vd_outcome $vd_status $vd_reason $vd_ticket_id';

server {
    listen unix:$TEST_NGINX_HTML_DIR/receiver.sock;
    access_log off;
    client_max_body_size 30m;

    location / {
        client_body_buffer_size 1m;
        proxy_set_header X-Told "$content_length $request_body";
        proxy_pass_request_body off;
        proxy_pass http://unix:$TEST_NGINX_HTML_DIR/echo.sock;
    }
    location = /length {
        return 200 '{"ticket_id":"$content_length"}';
    }
}
server {
    listen unix:$TEST_NGINX_HTML_DIR/echo.sock;
    access_log off;
    return 200 '{"ticket_id":"$http_x_told"}';
}
CONF
    $block->set_value(config => <<'CONF' . ($block->config // ''));
    listen unix:$TEST_NGINX_HTML_DIR/h2.sock http2;

    location = /vd {
        access_log logs/vd.log vd;
        error_log logs/vd-error.log error;
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/receiver.sock;
        vd_output 28;
        vd_validate off;
    }
    location = /slow {
        access_log logs/vd.log vd;
        error_log logs/vd-error.log error;
        vd_pass http://127.0.0.1:$TEST_NGINX_RAW_PORT/http2?sleep%200.3&reply%20200%20%7B%22ticket_id%22:%22T-1%22%7D;
        vd_output 28;
    }
    location = /silent {
        access_log logs/vd.log vd;
        error_log logs/vd-error.log error;
        vd_pass http://127.0.0.1:$TEST_NGINX_SILENT_PORT;
        vd_output 28;
        vd_read_timeout 300ms;
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

sub open_connection {
    my $socket = IO::Socket::UNIX->new(html_dir() . '/h2.sock') // die "cannot connect: $!";
    syswrite $socket, preface();
    return $socket;
}

# Sends the pieces one after the other; a number is a pause in seconds.
sub talk {
    my ($socket, @pieces) = @_;

    for my $piece (@pieces) {
        if ($piece =~ /\A[0-9.]+\z/) {
            sleep $piece;
            next;
        }
        syswrite $socket, $piece;
    }
    return;
}

# The bodies of the answers on so many streams, as they come; a stream may be reset
# behind its answer (RFC 9113, 8.1).
sub answers {
    my ($socket, $streams) = @_;

    my ($bytes, $select, %body, @ended) = ('', IO::Select->new($socket));

    while (@ended < $streams && $select->can_read(5)) {
        sysread $socket, $bytes, 65536, length $bytes or last;

        while (length $bytes >= 9) {
            my ($length, $type, $flags, $stream) = unpack 'N C C N', "\0$bytes";
            last if length $bytes < 9 + $length;

            my $payload = substr $bytes, 9, $length;
            substr $bytes, 0, 9 + $length, '';

            $body{$stream} .= $payload if $type == DATA;
            push @ended, $stream if $type <= HEADERS && $flags & END_STREAM;
            push @ended, "$stream reset" if $type == RST_STREAM && !grep { $_ eq $stream } @ended;
            return "GOAWAY" if $type == GOAWAY;
        }
    }

    return CORE::join '', map { "$_: " . ($body{$_} // "\n") } @ended;
}

# What curl is answered, headers included, with "\n" for "\r\n".
sub curl {
    my ($uri, $body, @options) = @_;

    my $path = html_dir() . '/body';
    open my $file, '>', $path or die "$path: $!";
    print {$file} $body // '';
    close $file;

    open my $curl, '-|', qw(curl -isS --http2-prior-knowledge --max-time 5),
        '--unix-socket', html_dir() . '/h2.sock', (defined $body ? ('--data-binary', "\@$path") : ()),
        @options, "http://localhost$uri"
        or die "curl: $!";
    return do { local $/; <$curl> } =~ s/\r\n/\n/gr;
}

sub session {
    my ($streams, @pieces) = @_;

    my $socket = open_connection();
    talk($socket, @pieces);
    return $streams ? answers($socket, $streams) : '';
}

run_tests();

__DATA__

=== TEST 1: a delivery
--- init
Test::More::like(main::curl('/vd', 'hello', '-H', 'Idempotency-Key: case-1'), qr{\AHTTP/2\ 200\ *\n
    .*^content-type:\ application/json\n.*^content-length:\ 149\n\n
    \Q{"id":"case-1","output":"28","state":"delivered","attempt":1,"status":200,"ticket_id":"5 hello",\E
    \Q"ticket_error":null,"reason":null,"journaled":false}\E\n\z}msx, 'the answer');
--- request
GET /log
--- response_body
case-1 delivered 200  5 hello
--- no_error_log
[error]



=== TEST 2: what is refused
--- init
my %refused = (
    'GET'    => [main::curl('/vd'),                       405, qq({"error":"method is not POST"}\n)],
    'HEAD'   => [main::curl('/vd', undef, '-I'),          405, ''],
    'PUT'    => [main::curl('/vd', undef, '-X', 'PUT'),   405, qq({"error":"method is not POST"}\n)],
    'empty'  => [main::curl('/vd', ''),                   400, qq({"error":"empty body"}\n)],
    'JSON'   => [main::curl('/slow', '{'), 400, qq({"error":"body is not JSON in UTF-8: unexpected end at byte 2"}\n)],
);
for my $what (sort keys %refused) {
    my ($got, $status, $body) = @{ $refused{$what} };

    Test::More::like($got, qr{\AHTTP/2 $status *\n.*^content-type: application/json\n}ms, "$what: status and type");
    Test::More::is($got =~ /^allow: POST\n/m, $status == 405, "$what: allow");
    Test::More::is($got =~ s/\A.*?\n\n//sr, $body, "$what: body");
}
--- request
GET /errors
--- response_body
--- no_error_log
[error]



=== TEST 3: a megabyte
--- config
    location = /length {
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/receiver.sock:/length;
        vd_output 28;
    }
    location = /length-in-memory {
        client_body_buffer_size 2m;
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/receiver.sock:/length;
        vd_output 28;
    }
--- init
Test::More::like(main::curl("/$_", '["' . 'x' x 999_996 . '"]'), qr/"ticket_id":"1000000"/, $_)
    for qw(length length-in-memory);
--- request
GET /errors
--- response_body



=== TEST 4: a failed delivery
--- init
Test::More::like(main::curl('/silent', '{}', '-H', 'Idempotency-Key: case-1'),
    qr{\AHTTP/2 502 *\n.*\n\n\{"id":"case-1","output":"28","state":"failed",.*"reason":"timeout"}s, 'the answer');
--- request
GET /log
--- response_body
case-1 failed  timeout 



=== TEST 5: a body in several frames, with a length and without
--- init
Test::More::like(main::session(1, main::post(1, '/vd', 'case-1'), main::data(1, 'hel', 'lo', ' wor', 'ld')),
    qr/^1: .*"status":200,"ticket_id":"11 hello world",/, 'without a length');
Test::More::like(main::session(1, main::post(1, '/vd', 'case-2', ['content-length', 11]),
    main::data(1, 'hello', ' world')), qr/^1: .*"status":200,"ticket_id":"11 hello world",/, 'with a length');
Test::More::like(main::session(1, main::post(1, '/vd', 'case-3'), 0.05, map {($_, 0.005)} main::data(1, split //, 'hello world')),
    qr/^1: .*"status":200,"ticket_id":"11 hello world",/, 'byte by byte');
--- request
GET /log
--- response_body
case-1 delivered 200  11 hello world
case-2 delivered 200  11 hello world
case-3 delivered 200  11 hello world
--- no_error_log
[error]



=== TEST 6: an empty body, known late or early
--- init
Test::More::is(main::session(1, main::post(1, '/vd', 'case-1'), 0.05, main::data(1)),
    qq(1: {"error":"empty body"}\n), 'an empty frame');
Test::More::is(main::session(1, main::post(1, '/vd', 'case-2', ['content-length', 0]), main::data(1)),
    qq(1: {"error":"empty body"}\n), 'and a length');
--- request
GET /errors
--- response_body



=== TEST 7: streams in parallel on one connection
--- init
my $start = Time::HiRes::time();
my $got = main::session(8, map { (main::post($_, '/slow', "case-$_"), main::data($_, '{}')) } map { 2 * $_ - 1 } 1 .. 8);
my $took = Time::HiRes::time() - $start;
my %answer = map { /^([0-9]+): \{"id":"case-([0-9]+)",.*"ticket_id":"T-1"/ ? ($1 => $2) : () } split /^/, $got;
Test::More::is_deeply(\%answer, { map { $_ => $_ } 1, 3, 5, 7, 9, 11, 13, 15 }, 'each has its own answer');
Test::More::cmp_ok($took, '<', 8 * 0.3, 'none waits for another');
--- request
GET /log
--- response_body_like: ^(?:case-[0-9]+ delivered 200  T-1\n){8}$
--- no_error_log
[error]



=== TEST 8: a stream that waits for nothing is served while others wait
--- init
Test::More::like(main::session(2, main::post(1, '/slow', 'case-1'), main::data(1, '{}'), main::post(3, '/vd', 'case-3'), main::data(3, '{}')),
    qr/\A3: .*"id":"case-3".*\n1: .*"id":"case-1"/, 'answers');
--- request
GET /log
--- response_body
case-3 delivered 200  2 {}
case-1 delivered 200  T-1



=== TEST 9: a stream that is reset while the attempt waits
--- init
main::session(0, main::post(1, '/slow', 'case-1'), main::data(1, '{}'), 0.1, main::cancel(1), 1);
--- request eval
["GET /log", "GET /errors"]
--- response_body eval
["case-1 delivered 200  T-1\n", ""]



=== TEST 10: a stream that is reset does not disturb the others
--- init
Test::More::like(main::session(1, main::post(1, '/slow', 'case-1'), main::data(1, '{}'), main::post(3, '/slow', 'case-3'),
    main::data(3, '{}'), 0.1, main::cancel(1)), qr/^3: .*"id":"case-3",.*"ticket_id":"T-1"/, 'the other');
main::sleep(1);
--- request
GET /log
--- response_body_like: ^(?=.*case-1 delivered 200  T-1\n)(?=.*case-3 delivered 200  T-1\n)(?:[^\n]*\n){2}$



=== TEST 11: a connection that is closed while attempts wait and fail
--- init
main::session(0, (map { (main::post($_, '/silent', "case-$_"), main::data($_, '{}')) } 1, 3), 0.1);
main::sleep(1);
--- request eval
["GET /log", "GET /errors"]
--- response_body_like eval
['^(?=.*case-1 failed  timeout \n)(?=.*case-3 failed  timeout \n)(?:[^\n]*\n){2}$',
 '^(?=.*delivery "case-1" to output "28" failed)(?=.*delivery "case-3" to output "28" failed)(?:[^\n]*\n){4}$']



=== TEST 12: a stream that is reset before its body is there
--- init
main::session(0, main::post(1, '/vd', 'case-1'), main::frame(0, 0, 1, '{'), 0.05, main::cancel(1), 0.05);
main::session(0, main::post(1, '/vd', 'case-2', ['content-length', 5]), main::frame(0, 0, 1, '{'), 0.05);
main::sleep(0.05);
--- request eval
["GET /log", "GET /errors"]
--- response_body eval
["case-1    \ncase-2    \n", ""]



=== TEST 13: a body that is shorter than its length is not delivered
--- init
main::session(1, main::post(1, '/vd', 'case-1', ['content-length', 5]), main::data(1, '{}'));
--- request eval
["GET /log", "GET /errors"]
--- response_body eval
["case-1    \n", ""]



=== TEST 14: a refusal is answered before the body is there
--- init
Test::More::is(main::session(1, main::post(1, '/vd', 'a.b')),
    qq(1: {"error":"invalid Idempotency-Key, it must be 1 to 128 of A-Za-z0-9_-"}\n), 'at once');
Test::More::like(main::session(2, main::post(1, '/vd', 'a.b'), main::frame(0, 0, 1, '{'), 0.05, main::post(3, '/vd', 'case-3'),
    main::data(3, '{}')), qr/^3: .*"id":"case-3",.*"ticket_id":"2 \{\}"/m, 'and the connection goes on');
--- request
GET /log
--- response_body eval
"    \n    \ncase-3 delivered 200  2 {}\n"



=== TEST 15: a stale kept connection is replaced although the client is gone
--- http_config
    upstream receiver {
        server 127.0.0.1:$TEST_NGINX_RAW_PORT;
        keepalive 4;
    }
--- receiver
reply 200 {"ticket_id":"T-1"}
next request
sleep 0.3
close
next connection
reply 200 {"ticket_id":"T-2"}
--- config
    location = /kept {
        access_log logs/vd.log vd;
        error_log logs/vd-error.log error;
        vd_pass http://receiver$SCRIPT;
        vd_output 28;
    }
--- init
main::session(1, main::post(1, '/kept', 'case-1'), main::data(1, '{}'));
main::session(0, main::post(1, '/kept', 'case-2'), main::data(1, '{}'), 0.1, main::cancel(1), 1);
--- request eval
["GET /log", "GET /seen"]
--- response_body eval
["case-1 delivered 200  T-1\ncase-2 delivered 200  T-2\n", "1.1 case-1\n1.2 case-2\n2.1 case-2\n"]



=== TEST 16: and when its connection is
--- http_config
    upstream receiver {
        server 127.0.0.1:$TEST_NGINX_RAW_PORT;
        keepalive 4;
    }
--- receiver
reply 200 {"ticket_id":"T-1"}
next request
sleep 0.3
close
next connection
reply 200 {"ticket_id":"T-2"}
--- config
    location = /kept {
        access_log logs/vd.log vd;
        error_log logs/vd-error.log error;
        vd_pass http://receiver$SCRIPT;
        vd_output 28;
    }
--- init
main::session(1, main::post(1, '/kept', 'case-1'), main::data(1, '{}'));
main::session(0, main::post(1, '/kept', 'case-2'), main::data(1, '{}'), 0.1);
main::sleep(1);
--- request eval
["GET /log", "GET /seen"]
--- response_body eval
["case-1 delivered 200  T-1\ncase-2 delivered 200  T-2\n", "1.1 case-1\n1.2 case-2\n2.1 case-2\n"]



=== TEST 17: the next server is tried although the client is gone
--- http_config
    upstream receivers {
        server 127.0.0.1:$TEST_NGINX_FULL_PORT;
        server 127.0.0.1:$TEST_NGINX_RAW_PORT backup;
    }
--- receiver
reply 200 {"ticket_id":"T-1"}
--- config
    location = /next {
        access_log logs/vd.log vd;
        vd_pass http://receivers$SCRIPT;
        vd_output 28;
        vd_connect_timeout 300ms;
    }
--- init
main::session(0, main::post(1, '/next', 'case-1'), main::data(1, '{}'), 0.1, main::cancel(1), 1);
--- request eval
["GET /log", "GET /seen"]
--- response_body eval
["case-1 delivered 200  T-1\n", "1.1 case-1\n"]



=== TEST 18: post_action, by whoever has been answered or is gone
--- config
    location = /slow-then {
        access_log logs/vd.log vd;
        vd_pass http://127.0.0.1:$TEST_NGINX_RAW_PORT/http2?sleep%200.3&reply%20200%20%7B%22ticket_id%22:%22T-1%22%7D;
        vd_output 28;
        post_action /after;
    }
    location = /after {
        access_log logs/vd.log vd;
        return 204;
    }
--- init
main::session(1, main::post(1, '/slow-then', 'case-1'), main::data(1, '{}'));
main::session(0, main::post(1, '/slow-then', 'case-2'), main::data(1, '{}'), 0.1, main::cancel(1), 1);
main::session(0, main::post(1, '/slow-then', 'case-3'), main::data(1, '{}'), 0.1);
main::sleep(1);
--- request
GET /log
--- response_body_like: ^(?:[^\n]*\n){3}$
--- no_error_log
[alert]
[crit]
