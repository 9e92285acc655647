# Copyright (C) The ngx_vd_module authors
#
# An answer is ours to the byte, whatever the app's request asks of nginx and
# whatever the configuration has nginx do with answers: each header field that
# means something to somebody, and each directive of nginx's own modules that
# touches an answer, with each of our answers.

use v5.10.1;
use strict;
use warnings;

use Compress::Zlib qw(memGunzip);
use File::Path qw(remove_tree);
use File::Temp ();
use Test::More;

use Test::VD;
use Test::VD::Journal qw(raw refused);

use constant {
    ID     => 'case-1',
    TICKET => qq(<!--#include virtual="/page" -->\xd0\x96 &<b>),
    XSLT   => '<xsl:stylesheet version="1.0" xmlns:xsl="http://www.w3.org/1999/XSL/Transform"/>',
};

# Each way to answer: where, what with, the status, and the body.
my $OUTCOME = '{"id":"' . ID . '","output":"28","state":"%s","attempt":1,"status":%s,"ticket_id":%s,'
    . qq("ticket_error":null,"reason":%s,"journaled":%s}\n);
my @ANSWERS = (
    [200, 'ok', 'POST', '{}', sprintf $OUTCOME, 'delivered', 200,
        qq("\\u003c!--#include virtual=\\"/page\\" -->\xd0\x96 &\\u003cb>"), 'null', 'false'],
    [202, 'pending', 'POST', '{}', sprintf $OUTCOME, 'pending', 'null', 'null', '"connect"', 'true'],
    [400, 'ok',      'POST', '{bad', qq({"error":"body is not JSON in UTF-8: unexpected character at byte 2"}\n)],
    [405, 'ok',      'PUT',  '{}', qq({"error":"method is not POST"}\n)],
    [409, 'ok',      'POST', '{}', qq({"error":"this location delivers to output \\"28\\", not to \\"x\\""}\n),
        'VD-Attempt: 2', 'VD-Output: x'],
    [431, 'large',   'POST', '{}', qq({"error":"values to be kept for retries are over 6 KB"}\n), 'X-A: ' . 'x' x 7000],
    [502, 'failed',  'POST', '{}', sprintf $OUTCOME, 'failed', 'null', 'null', '"connect"', 'false'],
    [503, 'lost',    'POST', '{}', sprintf $OUTCOME, 'failed', 'null', 'null', '"connect"', 'false'],
);

my @STATUSES = grep { $_ != 499 } 300 .. 308, 400 .. 429, 494 .. 497, 500 .. 507;

my $DATE   = 'Sun, 06 Nov 1994 08:49:37 GMT';
my $LATER  = 'Fri, 06 Nov 2094 08:49:37 GMT';
my @FIELDS = (
    # conditions and ranges (RFC 9110, 13 and 14)
    'If-Match: "x"', 'If-Match: *', 'If-None-Match: *', 'If-None-Match: "x", W/"y"',
    (map { ("If-Modified-Since: $_", "If-Unmodified-Since: $_", "If-Range: $_") } $DATE, $LATER, '"x"'),
    'Range: bytes=0-0', 'Range: bytes=5-', 'Range: bytes=-5', 'Range: bytes=0-1,3-4', 'Range: bytes=100000-',
    'Range: x', "Range: bytes=0-0\r\nIf-Range: \"x\"", "Range: bytes=0-0\r\nIf-Range: $LATER",
    "If-Match: \"x\"\r\nIf-None-Match: *\r\nRange: bytes=9-\r\nIf-Unmodified-Since: $DATE\r\nIf-Modified-Since: $LATER",

    # negotiation (12), and what nginx would make of it
    'Accept: text/html', 'Accept: application/xml;q=0.9, */*;q=0', 'Accept-Charset: koi8-r', 'Accept-Encoding: identity;q=0',
    'Accept-Encoding: br', 'Accept-Encoding: *;q=0', 'Accept-Language: ru', 'Content-Encoding: gzip',
    'Content-Language: ru', 'Content-Location: /page', 'Content-Range: bytes 0-1/2', 'Content-Type: text/html; charset=koi8-r',

    # connection, context, authentication, routing (7, 10, 11)
    'Connection: upgrade', "Connection: upgrade, http2-settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA",
    "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x", 'TE: trailers, deflate', 'Trailer: X-A',
    'Via: 1.0 a, 1.1 b', 'Max-Forwards: 0', 'Keep-Alive: timeout=1', 'Authorization: Basic eDp5', 'Proxy-Authorization: Basic eDp5',
    "Date: $DATE", 'From: a@example.com', 'Referer: http://example.com/', 'User-Agent: MSIE 6.0', 'User-Agent: Mozilla/5.0 (compatible; MSIE 6.0; Windows)',
    'Expect: 100-continue', 'Expect: x',

    # caches (RFC 9111) and others
    'Cache-Control: no-cache', 'Cache-Control: only-if-cached', 'Pragma: no-cache', 'Cookie: a=b', 'Prefer: return=minimal', 'Forwarded: for=1',
    'X-Forwarded-For: 1.1.1.1', 'X-Real-IP: 1.1.1.1', 'X-HTTP-Method-Override: GET', 'X-Accel-Redirect: /page',
    'X-Accel-Buffering: no', 'X-Accel-Limit-Rate: 1', 'Origin: http://example.com', 'Access-Control-Request-Method: POST',
    'Sec-Fetch-Mode: cors', 'DNT: 1', 'Destination: /page', 'Depth: 0', 'Overwrite: F', 'If: (<x>)', 'Lock-Token: <x>',
    'Priority: u=0', 'Early-Data: 1', 'Digest: sha-256=x', 'Want-Digest: sha-256', 'Link: </page>; rel=preload',
    'Retry-After: 1', 'Allow: GET', 'ETag: "x"', "Last-Modified: $DATE", 'Vary: *', 'Location: /page', 'Server: x',
    'Age: 1', 'Accept-Ranges: bytes', "Expires: $DATE", 'Warning: 199 - x', 'Refresh: 0; url=/page', 'Status: 204',
);

# What has no effect but that the answer may have other headers beside ours.
my @DIRECTIVES = (
    'error_page 404 /nothing;',
    'error_page ' . join(' ', @STATUSES) . ' /nofile.html;',
    'error_page ' . join(' ', @STATUSES) . ' =200 /page;',
    'error_page ' . join(' ', @STATUSES) . ' = @page;',
    'error_page ' . join(' ', @STATUSES) . ' =200 @page; recursive_error_pages on;',
    'error_page ' . join(' ', @STATUSES) . ' http://example.com/;',
    'proxy_intercept_errors on; error_page 502 503 =200 /page;',
    'gzip on; gzip_types *; gzip_min_length 1; gzip_proxied any; gzip_vary on;',
    'gzip_static always;', 'gzip_http_version 1.0;',
    'charset koi8-r; source_charset utf-8; charset_types *; override_charset on;',
    'charset utf-8; charset_types application/json;',
    'ssi on; ssi_types *; ssi_silent_errors on;', 'ssi on; ssi_types application/json; ssi_last_modified on;',
    'add_before_body /page; addition_types *;', 'add_after_body /page; addition_types application/json;',
    'sub_filter state x;', 'sub_filter_types *;',
    'add_header X-A b always; add_header Last-Modified "' . $DATE . '" always; add_header ETag \'"x"\' always;',
    'add_header Cache-Control x; add_header Content-Range x; add_header Accept-Ranges bytes always;',
    'add_trailer X-A b always;', 'expires 1h;', 'expires max;', 'expires epoch;', 'expires @1h;',
    'limit_rate 10k;', 'limit_rate 10k; limit_rate_after 1;', 'postpone_output 0;', 'postpone_output 100000;',
    'post_action /page;', 'post_action @page;', 'auth_request /nothing;', 'auth_request /nothing; satisfy any;',
    'satisfy any; deny all; auth_request /nothing;', 'mirror /page;', 'mirror /page; mirror_request_body off;',
    'chunked_transfer_encoding off;', 'chunked_transfer_encoding off; gzip on; gzip_types *; gzip_min_length 1;',
    'etag off;', 'etag on;', map({"if_modified_since $_;"} qw(off exact before)), 'max_ranges 0;', 'max_ranges 10;',
    'keepalive_timeout 0;', 'keepalive_disable safari msie6;', 'keepalive_requests 1;', 'lingering_close always;', 'lingering_close off;',
    'sendfile on; tcp_nopush on; tcp_nodelay off;', 'output_buffers 1 1;', 'subrequest_output_buffer_size 1;', 'directio 1;', 'aio threads;',
    'send_lowat 1000;', 'reset_timedout_connection on;', 'client_body_in_file_only on;', 'client_body_in_single_buffer on;',
    'client_body_buffer_size 1;', 'msie_padding on; msie_refresh on;', 'server_tokens off;', 'default_type image/png;',
    'types { image/png json; }', 'userid on;', 'gunzip on;', 'autoindex on;', 'index page;',
    'dav_methods PUT DELETE;', 'proxy_force_ranges on; proxy_method GET; proxy_hide_header Content-Type;',
    'log_subrequest on;', 'log_not_found off;', 'port_in_redirect off;', 'absolute_redirect off;', 'allow all;',
    'limit_except POST PUT { deny all; }', 'set $a b;', 'if ($request_method) { set $a b; }',
    'if ($request_method) { error_page 415 =200 /page; add_header X-A b; }',
    'limit_req zone=many burst=10000 nodelay;', 'limit_conn per 1000;', 'open_file_cache max=10;',
    'secure_link x,1;', 'secure_link_md5 x;', 'image_filter test;', 'image_filter size;', 'image_filter resize 1 1; image_filter_buffer 1;',
    'xslt_stylesheet html/x.xslt; xslt_types *;', 'slice 1;', 'early_hints 1;', 'http2_push /page;',
);

# The loads that a directive is tried with.
my @LOADS = ('', $FIELDS[0] . "\r\nIf-None-Match: *\r\nRange: bytes=0-0", "Accept-Encoding: gzip\r\nRange: bytes=-1");

my $nginx_binary = Test::VD::Nginx::_binary();
my @usable = known(@DIRECTIVES);
cmp_ok(scalar @usable, '>', 80, 'most directives are known to this nginx');

# Some that go together, as each directive is there once.
my $seed   = $ENV{TEST_SEED} // int rand 1e9;
srand $seed;
my @random = map { several() } 1 .. 60;

my $nginx = start();

is(wrong('/plain', $_), '', "with $_" =~ s/\r\n/, /gr) for '', @FIELDS;
is(wrong('/pages', $_), '', "with $_, error pages" =~ s/\r\n/, /gr) for '', @FIELDS;

for my $i (0 .. $#usable) {
    is(wrong("/$i", $_), '', "$usable[$i] with $_" =~ s/\r\n/, /gr) for @LOADS;
}

for my $i (0 .. $#usable) {
    is(wrong_in_http2("/$i"), '', "$usable[$i], HTTP/2");
}

# ---- several at random ----

for my $i (0 .. $#random) {
    my $fields = join "\r\n", once(qr/^([\w-]+):/m, map { $FIELDS[rand @FIELDS] } 0 .. rand 4);
    is(wrong("/random$i", $fields), '', "seed $seed: $random[$i] with $fields" =~ s/\r\n/, /gr);
}

# ---- filters of another location that fail ----

for my $filter (grep {/filter|xslt/} known('image_filter test;', 'xslt_stylesheet html/x.xslt; xslt_types *;')) {
    my ($path, $name) = Test::VD::script('reply 200 {}');
    my $failing = Test::VD::Journal->start(server => '', journal => 'sync=off');

    $failing->make_dir("$failing->{dir}/html");
    $failing->write_file('html/x.xslt', XSLT);
    $failing->reload(journal => 'sync=off', server => <<"SERVER");
error_page 415 500 = \@vd;
location = /text { return 200 "text"; }
location = /filtered { $filter proxy_method GET; proxy_pass http://127.0.0.1:$failing->{port}/text; }
location \@vd { vd_pass http://127.0.0.1:$ENV{TEST_NGINX_RAW_PORT}$path; vd_output 28; }
SERVER

    like($failing->deliver('/filtered'), qr/^500 /, "$filter led to us: the answer");
    like($failing->log, qr/"vd_pass" does not work as the page for a filter's error, nothing was delivered/, 'the log says so');
    is($failing->receiver("seen/$name"), '', 'nothing was delivered');
    is(scalar $failing->records, 0, 'nor journaled');
    is($failing->trouble, '', 'nothing severe was logged');
}

is($nginx->trouble =~ s{^.*journal "\S+/gone": .* failed, .*\n}{}mgr, '', 'nothing severe was logged');


# ---- whether an answer is replaced by a filter that is not there: what warns ----

my %WARNINGS = (
    'sub_filter a b; sub_filter_types application/json;' => 'sub_filter',
    'sub_filter a b; sub_filter_types *;'                => 'sub_filter',
    'sub_filter a b;'                                    => '',
    'sub_filter a b; sub_filter_types text/plain;'       => '',
    'sub_filter_types *;'                                => '',
    'ssi on; ssi_types application/json;'                => 'ssi',
    'ssi on; ssi_types *;'                               => 'ssi',
    'ssi on;'                                            => '',
    'ssi_types *;'                                       => '',
    'add_before_body /x; addition_types application/json;' => 'add_before_body',
    'add_after_body /x; addition_types *;'               => 'add_after_body',
    'add_after_body /x;'                                 => '',
    'addition_types *;'                                  => '',
    'charset koi8-r; charset_types *;'                   => '',
    'image_filter test;'                                 => 'image_filter',
    'image_filter off;'                                  => '',
    'image_filter_buffer 1m;'                            => '',
    'xslt_stylesheet html/x.xslt; xslt_types *;'         => 'xslt_stylesheet',
    'xslt_stylesheet html/x.xslt;'                       => '',
);

for my $directive (sort(known(keys %WARNINGS))) {
    my $pass = 'vd_pass ' . refused() . '; vd_output 28;';
    my $expected = $WARNINGS{$directive};

    for (["location /a { $pass $directive }", 'in the location'],
         ["location /a { $directive location /a/b { $pass } }", 'above it'],
         ["location /a { $pass $directive if (\$arg_x) { set \$y 1; } limit_except POST { deny all; } }", 'with blocks'],
         $directive =~ /xslt|image/ ? () : ["$directive location /a { $pass }", 'in the server'])
    {
        my ($server, $where) = @{$_};
        my @warnings = grep {/vd_pass/} check($server) =~ /^nginx: \[warn\] (.*)$/mg;

        is(scalar @warnings, $expected ? 1 : 0, "$directive $where: warnings");
        like($warnings[0], qr/"$expected".* the answers of the "vd_pass" directive in \S+nginx\.conf:\d+$/, "$directive $where: what it says")
            if $expected;
    }
}

# the nearest level that lists types counts
is(scalar(grep {/vd_pass/} split /^/, check('sub_filter_types *; location /a { sub_filter_types text/css; sub_filter a b; vd_pass http://127.0.0.1:1; vd_output 28; }')),
    0, 'types of the location take the place of others');
is(scalar(grep {/vd_pass/} split /^/, check('sub_filter_types *; location /a { sub_filter a b; vd_pass http://127.0.0.1:1; vd_output 28; }')),
    1, 'types from above hold for the location');

done_testing();


# ---- configurations ----

# The journal of some locations is gone by the time that it is written to.
sub start {
    my $started = Test::VD::Journal->start(server => '');

    $started->make_dir("$started->{dir}/$_") for qw(gone html);
    $started->write_file('html/x.xslt', XSLT);
    $started->reload(http => http(), server => server($started->{dir}), journal => 'sync=off');
    remove_tree("$started->{dir}/gone");
    return $started;
}

sub http {
    return <<'HTTP';
vd_ticket_id ticket_id max=4096;
limit_req_zone $server_port zone=many:1m rate=10000r/s;
limit_conn_zone $server_port zone=per:1m;
charset_map koi8-r utf-8 { F6 D096; }
HTTP
}

sub server {
    my ($dir) = @_;

    return join "\n", "listen unix:$dir/h2.sock http2;", 'location = /page { return 200 "replaced"; }',
        'location = /nothing { return 204; }', 'location @page { return 200 "replaced"; }',
        map { locations(@{$_}) } ['/plain', ''], ['/pages', $DIRECTIVES[1]],
        (map { ["/$_", $usable[$_]] } 0 .. $#usable), map { ["/random$_", $random[$_]] } 0 .. $#random;
}

sub several {
    return join ' ', once(qr/(?:^|; )(\w+) /, grep { !/sub_filter/ } map { $usable[rand @usable] } 0 .. 5);
}

# Those whose names have not been there before.
sub once {
    my ($name, @all) = @_;

    my %seen;
    return grep { my @names = /$name/g; !grep { $seen{$_}++ } @names } @all;
}

# A location for each way to answer.
sub locations {
    my ($prefix, $directive) = @_;

    my $ticket = TICKET =~ s/"/\\\\"/gr =~ s/([\x80-\xff])/sprintf '\\x%02x', ord $1/egr;
    my ($ok)   = raw(qq(reply 200 {"ticket_id":"$ticket"}));
    my $bad    = refused();

    return <<"LOCATIONS";
location = $prefix/ok      { vd_pass $ok;  vd_output 28; vd_journal off;  $directive }
location = $prefix/large   { vd_pass $bad; vd_output 28; vd_set_header X-A \$http_x_a; $directive }
location = $prefix/pending { vd_pass $bad; vd_output 28; $directive }
location = $prefix/failed  { vd_pass $bad; vd_output 28; vd_journal off;  $directive }
location = $prefix/lost    { vd_pass $bad; vd_output 28; vd_journal gone sync=off; $directive }
LOCATIONS
}

# What "nginx -t" says of a server.
sub check {
    my ($server) = @_;

    state $dir = File::Temp->newdir;
    mkdir "$dir/$_" for qw(html logs journal gone);

    my $modules = join "\n", map {"load_module $_;"} split ' ', $ENV{TEST_NGINX_LOAD_MODULES} // '';
    my %file = (
        secret          => "secret\n",
        'html/x.xslt'   => XSLT,
        'nginx.conf'    => "$modules\npid logs/nginx.pid;\nevents {}\nhttp { vd_secret_file secret;\n${\ http()}\nserver {\n$server\n} }\n",
    );
    for my $name (keys %file) {
        open my $out, '>', "$dir/$name" or die "$dir/$name: $!\n";
        chmod 0600, "$dir/$name";
        print {$out} $file{$name};
        close $out;
    }
    return qx($nginx_binary -p $dir/ -c nginx.conf -e logs/error.log -t 2>&1);
}

# What of these is known to this nginx; all else that is wrong with them is wrong.
sub known {
    my (@directives) = @_;

    for (;;) {
        my $said = check(join "\n", map {"location /$_ { $directives[$_] }"} 0 .. $#directives);
        return @directives if $said =~ /test is successful/;

        my ($name) = $said =~ /unknown directive "(\w+)"/ or die $said;
        @directives = grep { !/\b$name\b/ } @directives;
    }
}


# ---- requests ----

# What is wrong with the answers of these locations; '' if nothing is.
sub wrong {
    my ($prefix, $fields) = @_;

    return join ', ', map { wrong_answer($_, request($prefix, $fields, @{$_})) } @ANSWERS;
}

sub request {
    my ($prefix, $fields, undef, $name, $method, $body, undef, @more) = @_;

    my $socket = $nginx->connect;
    $socket->autoflush;
    print {$socket} join "\r\n", "$method $prefix/$name HTTP/1.1", 'Host: localhost', 'Idempotency-Key: ' . ID,
        ($fields =~ /^Connection:/mi ? () : 'Connection: close'), 'Content-Length: ' . length $body, @more, $fields || (), '', $body;
    shutdown $socket, 1 if $fields =~ /^Connection:/mi;

    local $/;
    return <$socket> // '';
}

sub wrong_answer {
    my ($answer, $got) = @_;

    my ($status, undef, undef, undef, $expected) = @{$answer};

    $got =~ s{^HTTP/1\.1 100 .*?\r\n\r\n}{}s;
    my ($head, $body) = $got =~ /^(.*?\r\n)\r\n(.*)/s or return "$status: no answer";

    if ($head =~ /^Transfer-Encoding: chunked\r$/m) {
        my $chunks = $body;
        $body = '';
        while ($chunks =~ s/^([0-9a-f]+)\r\n//) {
            $body .= substr $chunks, 0, hex $1, '';
            $chunks =~ s/^\r\n//;
        }
    }
    $body = memGunzip($body) // '' if $head =~ /^Content-Encoding: gzip\r$/m;

    return "$status: " . $head =~ s/\r\n.*//sr if $head !~ /^HTTP\S+ $status /;
    return "$status: another type in $head" if $head !~ /^Content-Type: application\/json\r$/m;
    return "$status: $body" if $body ne $expected;
    return;
}

# The same by HTTP/2.  What is refused without its body is sent without one: curl
# may take a stream that ends early, after its answer, for an error.
sub wrong_in_http2 {
    my ($prefix) = @_;

    my @wrong;
    for my $answer (@ANSWERS) {
        my ($status, $name, $method, $body, $expected, @more) = @{$answer};

        open my $curl, '-|', qw(curl -sS --http2-prior-knowledge --max-time 30 --compressed -X), $method,
            '--unix-socket', "$nginx->{dir}/h2.sock", '-H', 'Idempotency-Key: ' . ID, ($status == 405 || $status == 409 ? () : ('-d', $body)),
            (map { ('-H', $_) } @more), '-H', 'If-Match: "x"', '-H', 'Range: bytes=0-0', '-w', '%{http_code} %{content_type}', "http://localhost$prefix/$name"
            or die "curl: $!\n";
        my $got = do { local $/; <$curl> };
        push @wrong, "$status: $got" if $got ne "$expected$status application/json";
    }
    return join ', ', @wrong;
}
