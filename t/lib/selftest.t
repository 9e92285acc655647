# Copyright (C) The ngx_vd_module authors
#
# What must make a suite fail does: each case here is a small suite that is run
# by a process of its own, with stock nginx.  That good suites pass is shown in
# t/000-runner.t.

use v5.10.1;
use strict;
use warnings;

use Cwd qw(getcwd);
use File::Basename qw(dirname);
use File::Spec ();
use File::Temp ();
use Test::More;
use Time::HiRes qw(sleep time);

my $lib = File::Spec->rel2abs(dirname(__FILE__));
my $dir = File::Temp->newdir;
mkdir "$dir/t" or die "mkdir: $!";

# Blocks answer to GET /t with "hello\n" unless they say otherwise.
my $CONFIG  = qq{--- config\nlocation = /t { return 200 "hello\\n"; }\n};
my $REQUEST = "--- request\nGET /t\n";
my $GONE    = qq{--- config\nlocation = /t { return 444; }\n};
my $RECEIVER = <<'END';
--- config
location = /t { proxy_pass http://127.0.0.1:$TEST_NGINX_RAND_PORT_1; }
--- tcp_listen: $TEST_NGINX_RAND_PORT_1
END

sub suite {
    my ($blocks, $setup) = @_;
    return "use Test::Nginx::Socket 'no_plan';\n"
        . "no_shuffle();\n"
        . ($setup // '')
        . "run_tests();\n__DATA__\n$blocks";
}

sub spawn {
    my ($text) = @_;

    open my $file, '>', "$dir/t/case.t" or die $!;
    print {$file} $text;
    close $file or die $!;
    unlink "$dir/out";

    my $pid = fork // die "fork: $!";
    if ($pid == 0) {
        local $ENV{TEST_NGINX_RANDOMIZE} = $ENV{TEST_NGINX_USE_HUP} ? 0 : 1;
        local $ENV{TEST_NGINX_TIMEOUT}   = 3;    # for what never comes
        chdir $dir or die $!;
        open STDOUT, '>', "$dir/out" or die $!;
        open STDERR, '>&', \*STDOUT or die $!;
        exec $^X, "-I$lib", 't/case.t' or die $!;
    }
    return $pid;
}

sub output {
    open my $file, '<', "$dir/out" or return '';
    local $/;
    return <$file> // '';
}

# The exit status and all that was printed.
sub run {
    my ($text) = @_;

    waitpid spawn($text), 0;
    return ($?, output());
}

sub failures {
    my ($number, $output) = @_;
    return $output =~
        /^not ok \d+ - t\/case\.t TEST $number: \w+ (?:\(repeat 0\) )?- (.*)$/mg;
}


# ---- expectations that are not met ----

# The block's text and the failures that it must bring, no more and no less.
my @FAILING = (
    [ "$CONFIG$REQUEST--- error_code: 201\n",       qr/status code/ ],
    [ "$CONFIG$REQUEST--- error_code_like: ^3\n",   qr/status code/ ],
    [ "--- config\nlocation = /t { return 404; }\n$REQUEST", qr/status code/ ],
    [ "$CONFIG$REQUEST--- response_body\nhallo\n",  qr/response_body/ ],
    [ "$CONFIG$REQUEST--- response_body: hello\n",  qr/response_body/ ],
    [ "$CONFIG$REQUEST--- response_body eval\nqr/^x/\n", qr/response_body/ ],
    [ "$CONFIG$REQUEST--- response_body_like: ^ello\n",  qr/response_body/ ],
    [ "$CONFIG$REQUEST--- response_body_unlike: ell\n",  qr/response_body/ ],
    [ "$CONFIG$REQUEST--- response_headers\nContent-Length: 7\n", qr/header Content-Length/ ],
    [ "$CONFIG$REQUEST--- response_headers\nX-None: 1\n", qr/header X-None/ ],
    [ "$CONFIG$REQUEST--- response_headers\n! server\n", qr/header server is absent/ ],
    [ "$CONFIG$REQUEST--- response_headers_like\nServer: ngin\n", qr/header Server/ ],
    [ "$CONFIG$REQUEST--- raw_response_headers_like: X-None\n", qr/raw headers/ ],
    [ "$CONFIG$REQUEST--- raw_response_headers_unlike: Server\n", qr/raw headers, not/ ],
    [ "$CONFIG$REQUEST--- error_log\nGET /t\nnever said\n", qr/error_log.*never said/ ],
    [ "$CONFIG$REQUEST--- error_log eval\nqr/never said/\n", qr/error_log.*never said/ ],
    [ "$CONFIG$REQUEST--- no_error_log\n[alert]\nGET /t\n", qr/no_error_log.*GET/ ],
    [ "$CONFIG$REQUEST--- no_error_log eval\n[qr/GET/]\n", qr/no_error_log.*GET/ ],
    [ "$CONFIG$REQUEST--- access_log\nPOST\n", qr/access_log.*POST/ ],
    [ "$CONFIG$REQUEST--- no_access_log\nGET\n", qr/no_access_log.*GET/ ],
    [
        "$CONFIG$REQUEST--- grep_error_log: http request line\n--- grep_error_log_out\n",
        qr/grep_error_log_out/
    ],
    [ "$CONFIG--- must_die\n", qr/nginx refuses to start/ ],
    [
        "--- config\nno_such;\n--- must_die: 2\n--- suppress_stderr\n--- error_log\nnever\n",
        qr/nginx exits with 2/, qr/error_log.*never/
    ],
    [ "$GONE$REQUEST", qr/status code/ ],
    [
        "$RECEIVER$REQUEST--- tcp_reply\n--- tcp_no_close\n--- timeout: 0.1\n",
        qr/no answer within 0\.1 s/, qr/status code/
    ],
    [
        "$RECEIVER$REQUEST--- tcp_query: none\n--- tcp_query_len: 9\n--- tcp_reply eval\n"
            . qq{"HTTP/1.0 200 OK\\r\\n\\r\\n"\n},
        qr/tcp_query/, qr/tcp_query_len/
    ],
    [
        "$RECEIVER$REQUEST--- tcp_reply eval\n"
            . qq{"HTTP/1.0 200 OK\\r\\nContent-Length: 9\\r\\n\\r\\nshort"\n},
        qr/answer cut short: 5 bytes of 9/
    ],
    [
        "$CONFIG--- raw_request eval\n"
            . qq{"GET /t HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n" x 2\n--- timeout: 0.1\n},
        qr/no answer within/, qr/bytes after the end of the answer: HTTP/
    ],
    [
        "$CONFIG--- request eval\n" . qq{["GET /t", "GET /t"]\n}
            . qq{--- response_body eval\n["hello\\n", "hallo\\n"]\n},
        qr/response_body.*request 1/
    ],
    [
        "$CONFIG--- pipelined_requests eval\n" . qq{["GET /t", "GET /t"]\n}
            . qq{--- error_code eval\n[201, 200]\n},
        qr/status code/
    ],
    [
        "$CONFIG$REQUEST--- init\n"
            . q{system "echo ==1==ERROR: AddressSanitizer: x >> " . server_root() . "/logs/error.log"}
            . "\n",
        qr/ERROR: AddressSanitizer/
    ],
    [ "$CONFIG$REQUEST--- shutdown_error_log\nnever\n", qr/shutdown_error_log.*never/ ],
    [ "$CONFIG$REQUEST--- no_shutdown_error_log\nSIGQUIT\n", qr/no_shutdown_error_log.*QUIT/ ],
);

for my $body ('3\r\nabcXY0\r\n\r\n', '4\r\nabcd\r\n') {
    push @FAILING,
        [
        "--- config\nlocation = /t { add_header Transfer-Encoding chunked; "
            . "return 200 '$body'; }\n$REQUEST",
        qr/bad chunked body/, qr/status code/
        ];
}

my $http2 = `curl -V` =~ /HTTP2/ && `nginx -V 2>&1` =~ /http_v2/;
push @FAILING, [ "$CONFIG$REQUEST--- http2\n--- response_body: hello\n", qr/response_body/ ],
    [ "$GONE$REQUEST--- http2\n", qr/curl has got no answer/, qr/status code/ ]
    if $http2;

{
    my $number = 0;
    my ($status, $output) =
        run(suite(join "\n", map { "=== TEST " . ++$number . ": x\n$_->[0]\n" } @FAILING));

    isnt($status, 0, 'a suite with failures fails');

    $number = 0;
    for my $case (@FAILING) {
        my ($text, @expected) = @{$case};
        my @got = failures(++$number, $output);
        my $ok  = @got == @expected && !grep { $got[$_] !~ $expected[$_] } 0 .. $#got;
        ok($ok, "fails as it must: $expected[0]") or diag("$text\n", explain(\@got));
    }
}


# ---- suites that are wrong ----

my @WRONG = (
    [ "$CONFIG$REQUEST--- no_eror_log\n[error]\n", qr/unknown section "no_eror_log"/ ],
    [ "$CONFIG$REQUEST--- response-body\nx\n",     qr/unknown section "response"/ ],
    [ "$CONFIG$REQUEST---error_log\nx\n",          qr/hidden in "request": ---error_log/ ],
    [ "$CONFIG$REQUEST ---  error_log\nx\n",       qr/hidden in "request":  ---  error_log/ ],
    [ "why\n --- request\n$CONFIG$REQUEST",        qr/hidden in "description"/ ],
    [ "$CONFIG$REQUEST--- error_log\na\n--- error_log\nb\n", qr/"error_log" stands there twice/ ],
    [ "$CONFIG$REQUEST--- error_log\n",            qr/"error_log" has an empty pattern/ ],
    [ "$CONFIG$REQUEST--- no_error_log eval\n[]\n", qr/"no_error_log" has an empty pattern/ ],
    [
        "$CONFIG$REQUEST--- response_body\nhello\n--- response_body_like: x\n",
        qr/"response_body_like" has no effect beside "response_body"/
    ],
    [
        "$CONFIG$REQUEST--- ignore_response\n--- error_code: 404\n",
        qr/"error_code" has no effect beside "ignore_response"/
    ],
    [
        "$CONFIG$REQUEST--- must_die\n--- response_body: x\n",
        qr/"response_body" has no effect beside "must_die"/
    ],
    [ "$CONFIG$REQUEST--- raw_request: x\n", qr/"request" has no effect beside "raw_request"/ ],
    [ "$CONFIG$REQUEST--- tcp_query: x\n",   qr/"tcp_query" has no effect without "tcp_listen"/ ],
    [ "$CONFIG$REQUEST--- tcp_listen: 1\n",  qr/tcp_listen needs tcp_reply or tcp_shutdown/ ],
    [ "$CONFIG$REQUEST--- grep_error_log: x\n", qr/no effect without "grep_error_log_out"/ ],
    [ $CONFIG,                               qr/no request section/ ],
    [ "$CONFIG--- request\nGET /t HTTP/1.1 x\n", qr/not a request line/ ],
    [ "$CONFIG--- request eval\n[['GET /t']]\n", qr/a request must be a string/ ],
    [ "$CONFIG--- request eval\n['GET /t', 'GET /t']\n--- error_code: 200\n", qr/must be an array/ ],
    [ "$CONFIG$REQUEST--- response_body_like\n", qr/"response_body_like" has an empty/ ],
    [
        "$CONFIG--- request eval\n['GET /t', 'GET /t']\n--- error_code eval\n[200]\n",
        qr/error_code lacks a value for request 1/
    ],
    [ "$CONFIG$REQUEST--- skip_nginx: 2\n",  qr/bad skip_nginx/ ],
    [ "$CONFIG$REQUEST--- init: die 'so'\n", qr/init failed: so/ ],
    [ "$CONFIG$REQUEST--- timeout: soon\n",  qr/bad timeout: soon/ ],
    [ "$CONFIG$REQUEST--- response_headers\nServer\n", qr/not a header line: "Server"/ ],
    [ "--- config\n\$TEST_NGINX_NO_SUCH\n$REQUEST", qr/\$TEST_NGINX_NO_SUCH is not set/ ],
    [ "--- config\nno_such;\n$REQUEST",      qr/nginx does not start\n.*\[emerg\].*no_such/ ],
    [ $REQUEST,                              qr/no config section/ ],
);

for my $case (@WRONG) {
    my ($text, $message) = @{$case};
    my ($status, $output) = run(suite("=== TEST 1: x\n$text"));

    ok($status != 0 && $output =~ $message, "is refused: $message") or diag($output);
}

for my $mode (qw(USE_HTTP2 CHECK_LEAK NO_NGINX_MANAGER)) {
    local $ENV{"TEST_NGINX_$mode"} = 1;
    my ($status, $output) = run(suite("=== TEST 1: x\n$CONFIG$REQUEST"));
    ok($status != 0 && $output =~ /TEST_NGINX_$mode is not supported/, "$mode is refused");
}

{
    my $text = suite("=== TEST 1: x\n$CONFIG$REQUEST") =~ s/'no_plan'/tests => 2/r;
    my ($status) = run($text);
    isnt($status, 0, 'a plan that does not hold fails');
}

{
    my $late = <<'END';
--- init
if (!fork) {
    select undef, undef, undef, 0.5;
    for my $log (qw(error access)) {
        open my $out, '>>', server_root() . "/logs/$log.log" or die $!;
        print {$out} "said late\n";
        close $out;
    }
    POSIX::_exit(0);
}
--- error_log
said late
--- access_log
said late
END
    my ($status, $output) = run(suite("=== TEST 1: x\n$CONFIG$REQUEST$late"));
    is($status, 0, 'what is logged late is waited for') or diag($output);
}


# ---- processes ----

sub leftovers {
    my @found;
    for my $pid (map {/(\d+)$/} glob '/proc/[0-9]*') {
        open my $in, '<', "/proc/$pid/cmdline" or next;
        push @found, $pid if index(<$in> // '', "$dir") >= 0;
    }
    return @found;
}

{
    my $kill = 'add_test_cleanup_handler(sub { open my $in, "<", server_root() . '
        . '"/logs/nginx.pid"; kill KILL => scalar <$in>; sleep 1; });';
    my ($status, $output) = run(suite("=== TEST 1: x\n$CONFIG$REQUEST", $kill));

    ok($status != 0 && $output =~ /^not ok \d+ - nginx \(pid \d+\) was gone/m,
        'an nginx that has died fails the suite')
        or diag($output);
}

{
    my $log = 'add_test_cleanup_handler(sub { open my $out, ">>", server_root() . '
        . '"/logs/error.log"; print {$out} "worker process 1 exited on signal 11\n"; });';
    my ($status, $output) = run(suite("=== TEST 1: x\n$CONFIG$REQUEST", $log));

    ok($status != 0 && $output =~ /^not ok \d+ - worker process 1 exited on signal 11/m,
        'a crash that shows after the last check fails the suite')
        or diag($output);
}

for my $master (qw(master_off master_on)) {
    my $text  = suite("=== TEST 1: x\n$CONFIG$REQUEST--- wait: 60\n", "$master();\n");
    my $pid   = spawn($text);
    my $limit = time + 60;
    sleep 0.02 until output() =~ /^ok 1/m || time > $limit;
    isnt(scalar leftovers(), 0, "$master: a suite and its nginx are running");

    kill TERM => $pid;
    waitpid $pid, 0;
    isnt($?, 0, "$master: a suite that is interrupted fails");

    sleep 0.02 while leftovers() && time < $limit;
    is_deeply([ leftovers() ], [], "$master: it leaves no process behind");
    kill KILL => leftovers();
    is_deeply([ glob "$dir/t/servroot_*" ], [], "$master: it leaves no directory behind");
}

{
    my $text = suite("=== TEST 1: x\n$RECEIVER$REQUEST--- tcp_reply\n--- tcp_no_close\n"
            . "--- timeout: 0.1\n--- abort\n--- ignore_response\n--- no_error_log\n[alert]\n");
    my ($status, $output) = run($text);
    is($status, 0, 'a receiver that never closes is ended') or diag($output);
    is_deeply([ leftovers() ], [], 'it leaves no process behind');
    kill KILL => leftovers();
}

SKIP: {
    skip 'curl or nginx without HTTP/2', 1 if !$http2;
    my $text = suite(<<'END');
=== TEST 1: x
--- http_config
server {
    listen $TEST_NGINX_RAND_PORT_1;
    return 201 "$http_via $content_length $content_type";
}
--- config
location = /t {
    proxy_set_header Via $server_protocol;
    proxy_pass http://127.0.0.1:$TEST_NGINX_RAND_PORT_1;
}
--- http2
--- request
POST /t
abc
--- more_headers
Content-Type: a/b
--- error_code: 201
--- response_headers
! connection
--- response_body: HTTP/2.0 3 a/b

=== TEST 2: no type of curl's own
--- config
location = /t {
    proxy_pass http://$server_addr:$TEST_NGINX_RAND_PORT_1/;
}
--- http_config
server {
    listen $TEST_NGINX_RAND_PORT_1;
    return 200 "[$content_type]";
}
--- http2
--- request
POST /t
abc
--- response_body: []
END
    my ($status, $output) = run($text);
    is($status, 0, 'HTTP/2') or diag($output);
}

done_testing();
