# Copyright (C) The ngx_vd_module authors
#
# What makes a retry the delivery that it is: the same server{}, the same output,
# and the values that its record kept; and what is refused.

use v5.10.1;
use strict;
use warnings;

use File::Basename qw(dirname);
use IO::Socket::INET;
use JSON::PP qw(decode_json);
use MIME::Base64 qw(decode_base64url encode_base64url);
use Test::More;

use Test::VD;
use Test::VD::Again qw(location first_request again wire same_but_for_attempt exchange);
use Test::VD::Journal;

my $OK   = 'reply 200 {"ticket_id":"T-1"}';
my $MOST = 6144;


sub start {
    my ($server, %config) = @_;
    return Test::VD::Journal->start(journal => 'sync=off', server => $server, %config);
}

# Its status, and the output and the state, or the error.
sub told {
    my ($answer) = @_;

    my ($status, $json) = $answer =~ /^(\d+) .*?(\{[^\n]*\})\n\z/s or return $answer;
    my $keys = decode_json($json);
    return join ' ', $status, $keys->{error} // "$keys->{output} $keys->{state}";
}

sub told_is {
    my ($answer, $expected, $what) = @_;

    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return is(told($answer), $expected, $what);
}

# A first attempt that fails; its record.
sub failed {
    my ($nginx, $id, %request) = @_;

    local $Test::Builder::Level = $Test::Builder::Level + 1;
    like(told(exchange($nginx, first_request($id, uri => '/t', %request))), qr/^202 \S+ pending$/,
        "$id: the first attempt");
    return $nginx->record($id);
}

# As vd_kept_write() does it: kinds, names, values.
sub kept {
    my (@values) = @_;

    my $bytes = "\x01";
    while (my ($kind, $name, $value) = splice @values, 0, 3) {
        $bytes .= pack 'Anna*a*', $kind, length $name, length $value, $name, $value;
    }
    return encode_base64url($bytes);
}

sub header_of {
    my ($bytes, $name) = @_;
    return $bytes =~ /^\Q$name\E: (.*)\r$/mi ? $1 : undef;
}

sub attempts {
    my ($nginx) = @_;

    my $sum = 0;
    $sum += $_ for $nginx->get('/vd_status') =~ /^vd_attempts_total\{.*\} (\d+)$/mg;
    return $sum;
}

sub all_well {
    my ($nginx) = @_;

    local $Test::Builder::Level = $Test::Builder::Level + 1;
    is($nginx->wrong,   '', 'the journal is sound');
    is($nginx->trouble, '', 'nothing severe in the log');
    return $nginx->stop;
}


subtest 'several servers on one port' => sub {
    # /t of each server, by its output
    my $h2    = Test::VD::Nginx::_free_port();
    my $nginx = start('');
    my $server = sub {
        my ($output, $names, $default) = @_;
        my ($location) = location($output, '');
        return sprintf "server { listen 127.0.0.1:%d%s; listen 127.0.0.1:%d http2; %s vd_secret_file secret;\n%s }\n",
            $nginx->{port}, $default // '', $h2, defined $names ? "server_name $names;" : '',
            $location =~ s{location /\w+}{location /t}r;
    };
    $nginx->reload(
        journal => 'sync=off',
        server  => 'server_name unused.test;',
        http    => $server->('underscore', '_', ' default_server') . $server->('nameless', '""')
            . $server->('named', 'named.test www.named.test') . $server->('first', '.first.test')
            . $server->('second', '~^second[0-9]+\\.test$'),
    );

    # how the app came, the server that it reached, and what is in the record
    my %request = (
        named     => [ { host => 'named.test' },               'named',  'named.test' ],
        capitals  => [ { host => 'NAMED.Test' },               'named',  'named.test' ],
        port      => [ { host => 'named.test:8088' },          'named',  'named.test:8088' ],
        dot       => [ { host => 'www.named.test.' },          'named',  'www.named.test' ],
        wild      => [ { host => 'x.first.test' },             'first',  'x.first.test' ],
        regex     => [ { host => 'second42.test' },            'second', 'second42.test' ],
        unknown   => [ { host => 'elsewhere.test' },           'underscore', 'elsewhere.test' ],
        address   => [ { host => '127.0.0.1:8088' },           'underscore', '127.0.0.1:8088' ],
        ipv6      => [ { host => '[::1]:8088' },               'underscore', '[::1]:8088' ],
        absolute  => [ { target => 'http://named.test/t',      host => 'x.first.test' }, 'named', 'named.test' ],
        same      => [ { target => 'http://named.test:99/t',   host => 'named.test:99' }, 'named', 'named.test:99' ],
        latin1    => [ { host => "caf\xe9.test" },             'underscore', '_' ],
    );
    for my $id (sort keys %request) {
        my ($request, $output, $host) = @{ $request{$id} };
        my $record = failed($nginx, $id, %{$request});
        is($record->{output}, $output, "$id: its server");
        is($record->{host},   $host,   "$id: the host");
        told_is(exchange($nginx, again($record, 2)), "202 $output pending", "$id: found again");
    }

    # HTTP/1.0 without Host is for the server whose name is empty, if there is one
    my $old = first_request('old', uri => '/t', host => undef) =~ s{HTTP/1.1}{HTTP/1.0}r;
    told_is(exchange($nginx, $old), '202 nameless pending', 'no host');
    ok(!exists $nginx->record('old')->{host}, 'it has no name to go by');
    told_is(exchange($nginx, again($nginx->record('old'), 2)),
        '409 this location delivers to output "underscore", not to "nameless"',
        'what is not found again is not delivered elsewhere');

    open my $curl, '-|', qw(curl -sS --http2-prior-knowledge --max-time 20 -d {} -H), 'Host: named.test',
        '-H', 'Idempotency-Key: h2', "http://127.0.0.1:$h2/t" or die "curl: $!\n";
    like(join('', readline $curl), qr/"output":"named","state":"pending"/, 'HTTP/2');
    is($nginx->record('h2')->{host}, 'named.test', 'its authority');
    told_is(exchange($nginx, again($nginx->record('h2'), 2)), '202 named pending', 'found again');
    all_well($nginx);
};


subtest 'without a host, the server\'s own name' => sub {
    my ($config) = location('t', '');
    my $nginx = start("server_name only.test; $config");

    my $old = first_request('old', uri => '/t', host => undef) =~ s{HTTP/1.1}{HTTP/1.0}r;
    told_is(exchange($nginx, $old), '202 t pending', 'HTTP/1.0');
    is($nginx->record('old')->{host}, 'only.test', 'the name');
    all_well($nginx);

    # names that are none of a host, before the one that is

    $nginx = start("server_name \"\" .wild.test *.test ~^x named.test other.test; $config");
    told_is(exchange($nginx, $old), '202 t pending', 'HTTP/1.0');
    is($nginx->record('old')->{host}, 'named.test', 'the first name of a host');
    all_well($nginx);
};


subtest 'the uri leads to the location again' => sub {
    my ($config, $name) = location('t', '');
    my $nginx = start($config =~ s{location /t}{location ~ ^/}r);

    my %uri = (
        plain   => [ '/t?a=b&c=%20d',               '/t?a=b&c=%20d' ],
        encoded => [ '/t/%0d%22x',                  '/t/%0d%22x' ],
        quotes  => [ '/t/"\\',                      '/t/"\\' ],
        utf8    => [ "/t/stra\xc3\x9fe?x=\xc3\x9f", '/t/stra%C3%9Fe?x=%C3%9F' ],
        latin1  => [ "/t/stra\xdfe",                '/t/stra%DFe' ],
        bare    => [ 'http://localhost?a=b',        '/?a=b' ],
        root    => [ 'http://localhost',            '/' ],
    );
    for my $id (sort keys %uri) {
        my ($target, $expected) = @{ $uri{$id} };
        my $record = failed($nginx, $id, target => $target);
        is($record->{uri}, $expected, "$id: in the record");
        told_is(exchange($nginx, again($record, 2)), '202 t pending', "$id: found again");
    }
    all_well($nginx);
};


subtest 'VD-Output' => sub {
    my ($config, $name) = location('t', 'vd_output 28;');
    $config =~ s/vd_output t; //;
    my $nginx = start($config . (location('with.out', 'vd_journal off;'))[0]);
    my $post = sub {
        my ($uri, @headers) = @_;
        return exchange($nginx, first_request('x', uri => $uri, headers => \@headers));
    };
    my $record = failed($nginx, 'A');

    told_is(exchange($nginx, again($record, 2)), '202 28 pending', 'the same output');

    my $before = attempts($nginx);
    for my $other (qw(29 2 288 with.out), 'A' x 64) {
        told_is(exchange($nginx, again({ %{$record}, output => $other }, 3)),
            qq(409 this location delivers to output "28", not to "$other"), "another: $other");
    }
    told_is($post->('/t', 'VD-Output: 28'), '400 VD-Output without VD-Attempt', 'from an app');
    told_is($post->('/t', 'VD-Attempt: 1', 'VD-Output: 28', 'vd-output: 28'), '400 more than one VD-Output',
        'two');
    told_is($post->('/t', 'VD-Attempt: 1', "VD-Output: $_->[0]"),
        '400 invalid VD-Output, it must be 1 to 64 of A-Za-z0-9._-', "$_->[1]")
        for [ '', 'empty' ], [ 'a b', 'a blank' ], [ 'A' x 65, 'too long' ], [ "\xe9", 'not ASCII' ],
            [ '"', 'a quote' ];
    told_is($post->('/with.out', 'VD-Attempt: 2', 'VD-Output: 28'),
        '409 this location delivers to output "with.out", not to "28"', 'without a journal too');
    told_is($post->('/t', 'VD-Attempt: 2'), '202 28 pending', 'none is asked for');

    is(attempts($nginx), $before + 1, 'nothing was attempted');
    is(wire($name, 4), '', 'the receiver has heard nothing');
    is(scalar $nginx->records, 3, 'nor the journal');
    is($nginx->get('/vd_status') =~ /^vd_in_flight\{output="28".*\} 0$/m ? 1 : 0, 1, 'none is in flight');

    # the location has another output by now
    $nginx->reload(journal => 'sync=off', server => $config =~ s/vd_output 28/vd_output 29/r);
    told_is(exchange($nginx, again($record, 2)),
        '409 this location delivers to output "29", not to "28"', 'after a reload');
    is(wire($name, 4), '', 'the receiver has heard nothing');
    all_well($nginx);
};


subtest 'VD-Kept that is refused' => sub {
    my ($config, $name) = location('t', 'vd_set_header X-A $http_x_a; vd_set_header X-B b;');
    my $nginx = start($config);
    my $post = sub {
        my (@headers) = @_;
        return exchange($nginx, first_request('x', uri => '/t', headers => \@headers));
    };

    my $good = kept(C => '', 'C-1');
    told_is($post->('VD-Attempt: 2', "VD-Kept: $good"), '202 t pending', 'a good one');
    told_is($post->("VD-Kept: $good"), '400 VD-Kept without VD-Attempt', 'from an app');
    told_is($post->('VD-Attempt: 2', ("VD-Kept: $good") x 2), '400 more than one VD-Kept', 'two');
    told_is($post->('VD-Attempt: 2', "VD-Kept: $_->[0]"), '400 malformed VD-Kept', $_->[1])
        for [ '', 'empty' ], [ '=', 'padding' ], [ "$good==", 'padding after it' ], [ substr($good, 0, -2), 'cut' ],
            [ "$good!", 'another character' ], [ encode_base64url("\x02"), 'another version' ],
            [ kept(D => '', 'x'), 'another kind' ], [ kept(H => '', 'x'), 'a header without a name' ],
            [ kept(C => 'X', 'x'), 'a case with a name' ], [ kept(C => '', 'x' x 4603), 'too long' ];
    told_is($post->('VD-Attempt: 2', 'VD-Kept: ' . kept(T => '', "a\r\nX-Evil: 1")),
        '400 control character in Content-Type', 'a type with another header in it');
    is(wire($name, 2), '', 'nothing was sent');

    # header injection: the attempt fails, as that of an app's value does
    for my $evil ("a\r\nX-Evil: 1", "a\n", "\0", "\x01", "\x7f") {
        for my $kind ('H', $evil eq "\x01" ? () : 'N') {
            my $answer = $post->('VD-Attempt: 2', 'VD-Kept: ' . kept($kind => 'X-A', $evil));
            like($answer, qr/^202 .*"reason":"internal"/s, sprintf '%s %vd', $kind, $evil);
        }
    }
    is(wire($name, 2), '', 'nothing was sent');

    # a name that no header has is nobody's, nor is one of a header that is fixed
    $post->('VD-Attempt: 2', 'VD-Kept: ' . kept(H => 'X-Evil', '1', H => 'X-B', 'other', H => 'Content-Length', '0',
        H => 'x-a', 'good'));
    my $sent = wire($name, 2);
    is(header_of($sent, 'X-Evil'), undef, 'none is added');
    is(header_of($sent, 'X-B'), 'b', 'what the configuration says stands');
    is(header_of($sent, 'Content-Length'), 11, 'and what the module says');
    is(header_of($sent, 'X-A'), 'good', 'names are of any case');
    all_well($nginx);
};


# The byte 01 stands for the number where the value is kept.
subtest 'a control character beside the number of the attempt' => sub {
    my ($config, $name) = location('t', 'vd_set_header X-A "$http_x_a/$vd_attempt";');
    my $nginx = start($config);

    for my $byte (1, 2, 0x1f, 0x7f) {
        my $record = failed($nginx, "A$byte", headers => [ 'X-A: a' . chr $byte ]);
        is($record->{reason}, 'internal', "$byte: it is not sent");
        like(exchange($nginx, again($record, 2)), qr/^202 .*"reason":"internal"/s, "$byte: nor by a retry");
    }
    is(wire($name, 1), '', 'nothing was sent');
    failed($nginx, 'B', headers => ['X-A: a']);
    is(header_of(wire($name, 1), 'X-A'), 'a/1', 'without one, it is');
    all_well($nginx);
};


subtest 'the configuration has changed since' => sub {
    my $headers = sub {
        my (@names) = @_;
        return location('t', join '', map {"vd_set_header $_;"} @names);
    };
    my ($config, $name) = $headers->('X-A "a $http_x_a"', 'X-B "b $http_x_b"', 'X-C c', 'X-D "$http_x_d"');
    my $nginx = start("vd_case \"case \$http_x_case_id\"; $config");
    my $path = qr{vd_pass \S+};
    my ($url) = $config =~ /($path;)/;
    my $record = failed($nginx, 'A', headers => [ 'X-A: 1', 'X-B: 2', 'X-Case-Id: C-1' ]);

    my $number = 1;
    my $sent = sub {
        my ($what, $expected, $case, @names) = @_;
        $nginx->reload(journal => 'sync=off',
            server => "vd_case $case;" . (($headers->(@names))[0] =~ s/$path;/$url/r));
        like(told(exchange($nginx, again($record, 2, 'X-A: retry', 'X-New: n'))), qr/^202/, $what);
        my ($lines) = wire($name, ++$number) =~ /\r\n(X-.*?)\r\n\r\n/s;
        return is($lines // '', join("\r\n", @{$expected}), "$what: the headers");
    };
    $sent->('reordered', [ 'X-D: d', 'X-B: b 2', 'X-A: a 1' ], '$http_x_case_id',
        'X-D d', 'X-B "b $http_x_b"', 'X-A "a $http_x_a"');
    $sent->('removed', ['X-C: c'], '""', 'X-C c');
    $sent->('added', [ 'X-New: n', 'X-Case: case C-1', 'X-A: a 1' ], '$http_x_case_id',
        'X-New $http_x_new', 'X-Case $vd_case', 'X-A "other $http_x_a"');
    $sent->('fixed now', [ 'X-A: fixed', 'x-b: b 2' ], '$http_x_case_id', 'X-A fixed', 'x-b $http_x_b');
    $sent->('fixed before', [ 'X-C: retry', 'X-Case: fixed' ], 'fixed', 'X-C $http_x_a', 'X-Case $vd_case');
    $sent->('empty before', ['X-A: a 1'], '""', 'X-D $http_x_a', 'X-A "a $http_x_a"');
    all_well($nginx);
};


subtest 'vd_ack journal: the first attempt is the sidecar\'s' => sub {
    my ($config, $name) = location('t', 'vd_ack journal; vd_set_header X-Tenant $http_x_tenant; '
        . 'vd_set_header X-Try "try-$vd_attempt"; vd_set_header X-Id $request_id; '
        . 'vd_set_header X-Case-Id $vd_case; vd_set_header X-Body $request_body;');
    my $nginx = start($config);
    my $accepted = failed($nginx, 'A', headers => [ 'X-Tenant: acme', "X-Case-Id: caf\xe9\t1",
        "Content-Type: text/\xe9" ]);
    is($accepted->{outcome}, 'accepted', 'nothing was attempted');
    is(wire($name, 1), '', 'indeed');

    told_is(exchange($nginx, again($accepted, 1)), '202 t pending', 'the first attempt');
    my $first = wire($name, 1);
    is(header_of($first, 'X-Tenant'), 'acme', 'of the app\'s header');
    is(header_of($first, 'X-Try'), 'try-1', 'the number');
    is(header_of($first, 'X-Case-Id'), "caf\xe9\t1", 'the case');
    is(header_of($first, 'X-Body'), '{"case": 1}', 'the body');
    is(header_of($first, 'Content-Type'), "text/\xe9", 'the type');
    like(header_of($first, 'X-Id'), qr/^[0-9a-f]{32}$/, 'what was random when it was accepted');

    my ($record) = grep { $_->{outcome} eq 'failed' } $nginx->records;
    is($record->{$_}, $accepted->{$_}, "its record has the same $_") for qw(host kept digest body case uri);
    for my $attempt (2, 3) {
        told_is(exchange($nginx, again($record, $attempt)), '202 t pending', "attempt $attempt");
        is(same_but_for_attempt(wire($name, $attempt), $attempt), same_but_for_attempt($first, 1),
            'the same request');
    }
    all_well($nginx);
};


subtest 'the sixth kilobyte and the seventh' => sub {
    # the case, and the frame of a header; and no larger buffers than by default
    my $room = $MOST / 4 * 3 - 1 - 5 - 5 - length 'X-A';
    my ($config, $name) = location('t', 'vd_case "$arg_none"; vd_set_header X-A "$http_x_a$http_x_b";');
    my ($off, $off_name) = location('off', 'vd_journal off; vd_set_header X-A "$http_x_a$http_x_b";');
    my ($ack) = location('ack', 'vd_ack journal; vd_set_header X-A $http_x_a; vd_set_header X-B $http_x_a;');
    my $nginx = start("$config$off$ack");
    my $long = sub { [ 'X-A: ' . 'a' x ($_[0] - 10), 'X-B: ' . 'b' x 10 ] };

    my $record = failed($nginx, 'most', headers => $long->($room));
    is(length $record->{kept}, $MOST, 'as long as it may be');
    told_is(exchange($nginx, again($record, 2)), '202 t pending', 'which a retry can bring');
    is(same_but_for_attempt(wire($name, 2), 2), same_but_for_attempt(wire($name, 1), 1), 'the same');

    my $error = '431 values to be kept for retries are over 6 KB';
    my $count = attempts($nginx);
    my $post = sub { exchange($nginx, first_request('more', uri => $_[0], headers => $long->($_[1]))) };
    told_is($post->('/t', $room + 1), $error, 'one byte more');
    told_is($post->('/t', 7500), $error, 'many more');
    told_is($post->('/ack', 5000), $error, 'with vd_ack journal');
    is(attempts($nginx), $count, 'nothing was attempted');
    is(wire($name, 3), '', 'nothing was sent');
    is(scalar(grep { $_->{id} eq 'more' } $nginx->records), 0, 'nothing was recorded');

    my $typed = sub { exchange($nginx, first_request($_[0], uri => '/t', headers => ["Content-Type: $_[1]"])) };
    told_is($typed->('odd', "\xe9" x 2048), '202 t pending', 'a type that triples in JSON');
    told_is(exchange($nginx, again($nginx->record('odd'), 2)), '202 t pending', 'which a retry can bring');
    told_is($typed->('more', "\xe9" x 2049), $error, 'one byte more');
    told_is($typed->('plain', 'x' x 6144), '202 t pending', 'one that does not');
    told_is($typed->('more', 'x' x 6145), $error, 'one byte more');
    told_is(exchange($nginx, again($nginx->record('plain'), 2)), '202 t pending', 'which a retry can bring, too');

    # the request line's "POST ", "/t?x=", " HTTP/1.1" and its end
    my $asked = sub { exchange($nginx, first_request($_[0], uri => "$_[1]?x=$_[2]")) };
    my $fits = int((8192 - 5 - 5 - 9 - 2) / 3);
    my $uri_error = '414 URI is too long to be sent again';
    told_is($asked->('uri', '/t', "\xe9" x $fits), '202 t pending', 'a URI that triples in ASCII');
    told_is(exchange($nginx, again($nginx->record('uri'), 2)), '202 t pending', 'which a retry can bring');
    $count = attempts($nginx);
    told_is($asked->('more', '/t', "\xe9" x ($fits + 1)), $uri_error, 'one byte more');
    told_is($asked->('more', '/ack', "\xe9" x 3000), $uri_error, 'with vd_ack journal');
    is(attempts($nginx), $count, 'nothing was attempted');
    told_is($asked->('ascii', '/t', 'x' x 8000), '202 t pending', 'one that does not');
    told_is(exchange($nginx, again($nginx->record('ascii'), 2)), '202 t pending', 'which a retry can bring, too');
    told_is($asked->('off', '/off', "\xe9" x 3000), '502 off failed', 'where there is no journal');

    told_is($post->('/off', 7500), '502 off failed', 'where nothing is kept');
    is(length header_of(wire($off_name, 2), 'X-A'), 7500, 'it is sent');
    all_well($nginx);
};


subtest 'when it is there' => sub {
    my $vd = 'vd_set_header X-A $http_x_a;';
    my ($bad)   = location('bad', $vd);
    my ($good)  = location('good', $vd, $OK);
    my ($fixed) = location('fixed', 'vd_case ""; vd_set_header X-A "a $vd_attempt";');
    my ($all)   = location('all', 'vd_journal DIR; ' . $vd, $OK);
    my $nginx   = start("$bad$good$fixed");
    $nginx->reload(journal => 'sync=off', server => "$bad$good$fixed"
        . $all =~ s/DIR/$nginx->{dir} sync=off bodies=all/r);

    my $post = sub {
        my ($id, $uri, @headers) = @_;
        exchange($nginx, first_request($id, uri => $uri, headers => [ 'X-A: 1', @headers ]));
        my ($record) = grep { $_->{id} eq $id }
            $nginx->records($uri eq '/all' ? "$nginx->{dir}" : undef);
        return join ' ', grep { exists $record->{$_} } qw(host kept digest body);
    };
    # the directory has other files too
    my $all_keys = sub {
        my ($id) = @_;
        my ($segment) = glob "$nginx->{dir}/*.jsonl";
        open my $file, '<', $segment or die "cannot read $segment: $!\n";
        my ($line) = grep {/"id":"\Q$id\E"/} readline $file;
        return join ' ', grep { $line =~ /"$_":/ } qw(host kept digest body);
    };

    is($post->('b1', '/bad'), 'host kept digest body', 'a first attempt that failed');
    is($post->('g1', '/good'), 'digest', 'one that did not');
    is($post->('f1', '/fixed'), 'host digest body', 'no variables, nothing to keep');
    is($post->('b2', '/bad', 'VD-Attempt: 2'), '', 'a later one');
    exchange($nginx, first_request($_, uri => '/all', headers => [ 'X-A: 1',
        $_ eq 'a2' ? 'VD-Attempt: 2' : () ])) for qw(a1 a2);
    is($all_keys->('a1'), 'host kept digest body', 'with bodies=all, a first attempt');
    is($all_keys->('a2'), 'host kept body',        'with bodies=all, a later one');
    all_well($nginx);
};


subtest 'a record of before, which kept nothing' => sub {
    my ($config, $name) = location('t', 'vd_set_header X-Case-Id $vd_case; vd_set_header X-A $http_x_a;');
    my $nginx = start($config);
    my $record = failed($nginx, 'A', headers => [ 'X-Case-Id: C-1', 'X-A: 1' ]);

    delete @{$record}{qw(host kept digest)};
    told_is(exchange($nginx, again($record, 2, 'X-Case-Id: C-1')), '202 t pending', 'a retry of it');
    is(header_of(wire($name, 2), 'X-Case-Id'), 'C-1', 'takes the header that it came with');
    is(header_of(wire($name, 2), 'X-A'), undef, 'and has no other');
    all_well($nginx);
};


subtest 'a type with a control character' => sub {
    my ($config, $name) = location('t', '');
    my ($set) = location('set', 'vd_set_header Content-Type text/set;');
    my $nginx = start("$config$set");
    my $post = sub {
        my ($uri, $type) = @_;
        return exchange($nginx, first_request('x', uri => $uri, headers => ["Content-Type: $type"]));
    };
    told_is($post->('/t', "text/\x01plain"), '400 control character in Content-Type', 'is refused');
    told_is($post->('/t', "text/plain\x7f"), '400 control character in Content-Type', 'DEL too');
    told_is($post->('/t', "text/\x1bplain"), '400 control character in Content-Type', 'an escape');
    is(wire($name, 1), '', 'nothing was sent');
    told_is($post->('/set', "text/\x01plain"), '202 set pending', 'unless another is sent');
    is($nginx->record('x')->{content_type}, 'text/set', 'which is in the record');
    all_well($nginx);
};

subtest 'the log knows the case of what was refused' => sub {
    my ($config) = location('t', 'vd_set_header X-A $http_x_a;');
    my $nginx = start("access_log logs/access.log vd; $config",
        http => 'log_format vd "$status $request_method $vd_case $vd_attempt";');

    my %request = (
        400 => { body => '{bad' },
        409 => { headers => [ 'VD-Attempt: 2', 'VD-Output: x' ] },
        431 => { headers => [ 'X-A: ' . 'a' x 7000 ] },
    );
    for my $status (sort keys %request) {
        my %request = %{ $request{$status} };
        push @{ $request{headers} }, "X-Case-Id: C-$status";
        like(exchange($nginx, first_request('x', uri => '/t', %request)), qr/^$status /, "refused with $status");
    }
    exchange($nginx, first_request('x', uri => '/t', headers => ['X-Case-Id: C-405']) =~ s/^POST/PUT/r);

    my $log = '';
    ok($nginx->wait_until(sub {
        open my $file, '<', "$nginx->{dir}/logs/access.log" or return;
        $log = join '', readline $file;
        return $log =~ /^405/m;
    }), 'all are logged');
    my @expected = (map({"$_ POST C-$_ " . ($_ == 409 ? 2 : 1)} sort keys %request), '405 PUT C-405 ');
    is($log, join('', map {"$_\n"} @expected), 'with their cases');
    all_well($nginx);
};


# ---- what the README advises ----

# The block of code in which there is this.
sub readme {
    my ($pattern) = @_;

    open my $file, '<', dirname(__FILE__) . '/../README.md' or die "cannot read README.md: $!\n";
    my $text = do { local $/; <$file> };
    my @found = grep {/$pattern/} $text =~ /^ *```\w+\n(.*?)^ *```$/msg;
    die scalar @found, " such blocks in README.md\n" if @found != 1;
    return $found[0];
}

subtest 'only the sidecar may send VD-Attempt' => sub {
    my ($map, $if) = readme(qr/not_the_sidecar/) =~ /(map .*?\n  \})\n.*(if .*\})/s;
    my ($config) = location('t', $if);
    my $nginx = start($config, http => $map);

    for my $case ([ '127.0.0.1', 2, 202 ], [ '127.0.0.1', '', 202 ], [ '127.0.0.2', '', 202 ],
        [ '127.0.0.2', 1, 403 ], [ '127.0.0.11', 2, 403 ])
    {
        my ($address, $attempt, $status) = @{$case};
        my $socket = IO::Socket::INET->new(PeerAddr => "127.0.0.1:$nginx->{port}", LocalAddr => $address)
            or die "cannot connect: $@\n";
        print {$socket} first_request('x', uri => '/t',
            headers => [ $attempt ? "VD-Attempt: $attempt" : () ]);
        like($nginx->finish($socket), qr/^$status /, "$address, VD-Attempt '$attempt'");
    }
    all_well($nginx);
};


subtest 'replay' => sub {
    my ($config, $name) = location('t', 'vd_set_header X-Case-Id $vd_case; vd_validate off; '
        . 'vd_set_header X-A "$http_x_a try-$vd_attempt"; vd_set_header X-B "$http_x_b";');
    my $nginx = start('return 500;', http => '');
    $nginx->reload(
        journal => 'sync=off',
        server  => 'server_name unused.test;',
        http    => join '', map {"server { listen 127.0.0.1:$nginx->{port}$_ vd_secret_file secret; }"}
            ' default_server; server_name other.test;', "; server_name this.test; $config",
    );
    failed($nginx, 'A', host => 'this.test', body => "\xff\0\n", target => "/t?a='b'&c=\"\\",
        headers => [ 'X-A: 1', "X-Case-Id: caf\xe9\t1", "Content-Type: text/\xe9" ]);

    $nginx->write_file('replay', readme(qr/^# usage: replay /m));
    open my $replay, '-|', 'bash', "$nginx->{dir}/replay", $nginx->{journal}, "http://127.0.0.1:$nginx->{port}"
        or die "bash: $!\n";
    like(join('', readline $replay), qr/^\{"id":"A","output":"t","state":"pending","attempt":2,/, 'it is sent');
    is(same_but_for_attempt(wire($name, 2), 2), same_but_for_attempt(wire($name, 1), 1), 'the same again');
    all_well($nginx);
};

done_testing();
