# Copyright (C) The ngx_vd_module authors
#
# What is in the journal, and what the app is told of it.

use v5.10.1;
use strict;
use warnings;

use Compress::Zlib qw(crc32);
use Digest::SHA qw(sha256_hex);
use File::Temp ();
use IO::Socket::INET;
use MIME::Base64 qw(decode_base64 encode_base64url);
use Test::More;
use Time::HiRes qw(sleep time);

use Test::VD;
use Test::VD::Journal qw(output raw refused free_lock keys_of);

use constant SOON => 20;

my $OK   = 'reply 200 {"ticket_id":"T-1"}';
my $UUID = qr/[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}/;
my $KEYS = 'v time id output label case uri attempt outcome reason status upstream '
    . 'duration_ms ticket_id ticket_error response content_type';
my $BODY = 'host kept digest body';    # the keys that come with a body
my $RAW  = "127.0.0.1:$ENV{TEST_NGINX_RAW_PORT}";


# An answer: its status, and of its keys those that matter here.
sub answered {
    my ($answer, $expected, $what) = @_;

    my ($status) = $answer =~ /^(\d+) /;
    my ($state, $journaled) = $answer =~ /"state":"(\w+)".*"journaled":(\w+)\}\n\z/;

    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return is(join(' ', map { $_ // '-' } $status, $state, $journaled), $expected, $what);
}

# The record of a delivery is this, but for what differs from run to run.
sub record_is {
    my ($nginx, $id, $expected, $what) = @_;

    my $line = $nginx->record($id)->{line};
    $line =~ s/"time":"[^"]+"/"time":"T"/;
    $line =~ s/"duration_ms":\d+/"duration_ms":N/;
    $line =~ s/"crc":"[0-9a-f]+"/"crc":"C"/;

    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return is($line, $expected, $what);
}

# What is kept of the case and of headers, names and values.
sub kept {
    my ($case, @headers) = @_;

    my $bytes = pack 'CAnna*', 1, 'C', 0, length $case, $case;
    while (my ($name, $value) = splice @headers, 0, 2) {
        $bytes .= pack 'Anna*a*', 'H', length $name, length $value, $name, $value;
    }
    return encode_base64url($bytes);
}

# The access log, once it has this: a request is logged after its answer.
sub access_log {
    my ($nginx, $pattern) = @_;

    my $text;
    $nginx->wait_until(sub {
        open my $log, '<', "$nginx->{dir}/logs/access.log" or return;
        $text = join '', <$log>;
        return $text =~ $pattern;
    });
    return $text;
}

# What must hold whenever a test is done.
sub all_well {
    my ($nginx, @dirs) = @_;

    local $Test::Builder::Level = $Test::Builder::Level + 1;
    is($nginx->wrong($_), '', 'the journal is sound') for @dirs ? @dirs : undef;
    is($nginx->trouble, '', 'nothing severe in the log');
    return $nginx->stop;
}


subtest 'each kind of record, to the byte' => sub {
    my $nginx = Test::VD::Journal->start(
        journal => '',
        server  =>
            output('ok', raw($OK)) =~ s/vd_output ok;/vd_output 28 "Security \\"A\\"";/r
            . output('plain',    raw('reply 201 {"message": "Workflow was started"}'))
            . output('status',   raw('reply 503 {"error":"no"}'))
            . output('connect',  refused())
            . output('closed',   raw('close'))
            . output('protocol', raw('send hello'))
            . output('timeout',  raw('hold'), 'vd_timeout 50ms;')
            . output('tls',      raw($OK) =~ s/^http/https/r)
            . output('internal', raw($OK), qq{set \$x "a\nb"; vd_set_header X-A \$x;})
            . output('accept',   raw('hold'), 'vd_ack journal;')
    );

    my $digest = sha256_hex('{"case": 1}');
    my $end    = sub {
        my (%r) = @_;
        my $quoted = sub { defined $_[0] ? qq("$_[0]") : 'null' };
        return sprintf '"uri":"/%s","attempt":1,"outcome":"%s","reason":%s,"status":%s,'
            . '"upstream":%s,"duration_ms":%s,"ticket_id":%s,"ticket_error":%s,"response":%s,'
            . '"content_type":"application/json"%s,"digest":"%s"%s,"crc":"C"}',
            $r{uri}, $r{outcome}, $quoted->($r{reason}), $r{status} // 'null',
            $quoted->(exists $r{upstream} ? $r{upstream} : $RAW), $r{duration} // 'N',
            map({ $quoted->($r{$_}) } qw(ticket_id ticket_error response)),
            $r{outcome} eq 'delivered'
                ? ('', $digest, '')
                : (',"host":"localhost","kept":"' . kept('', @{ $r{headers} // [] }) . '"', $digest,
                ',"body":"{\\"case\\": 1}"');
    };
    my $begin = sub {
        my ($id, $output, $label, $case) = @_;
        return qq({"v":1,"time":"T","id":"$id","output":"$output","label":"$label",)
            . '"case":' . ($case ? qq("$case") : 'null') . ',';
    };

    answered($nginx->deliver('/ok', id => 'A', headers => ['X-Case-Id: C-1']),
        '200 delivered true', 'a ticket id');
    record_is($nginx, 'A', $begin->('A', 28, 'Security \\"A\\"', 'C-1')
        . $end->(uri => 'ok', outcome => 'delivered', status => 200,
            ticket_id => 'T-1', response => '{\\"ticket_id\\":\\"T-1\\"}'), 'its record');

    answered($nginx->deliver('/plain', id => 'B'), '200 delivered true', 'no ticket id');
    record_is($nginx, 'B', $begin->('B', 'plain', '')
        . $end->(uri => 'plain', outcome => 'delivered', status => 201, ticket_error => 'missing',
            response => '{\\"message\\": \\"Workflow was started\\"}'), 'its record');

    my %failed = (
        status   => { status => 503, response => '{\\"error\\":\\"no\\"}' },
        connect  => { upstream => '127.0.0.1:1' },
        internal => { upstream => undef, headers => [ 'X-A', "a\nb" ] },
        map { $_ => {} } qw(closed protocol timeout tls)
    );
    for my $reason (sort keys %failed) {
        answered($nginx->deliver("/$reason", id => "F-$reason"), '202 pending true', $reason);
        record_is($nginx, "F-$reason", $begin->("F-$reason", $reason, '')
            . $end->(uri => $reason, outcome => 'failed', reason => $reason,
                %{ $failed{$reason} }), 'its record');
    }

    my $start = time;
    answered($nginx->deliver('/accept', id => 'Z'), '202 pending true', 'accepted');
    cmp_ok(time - $start, '<', SOON, 'at once');
    record_is($nginx, 'Z', $begin->('Z', 'accept', '')
        . $end->(uri => 'accept', outcome => 'accepted', upstream => undef, duration => 'null'),
        'its record');

    is(keys_of($nginx->record('A')->{line}), "$KEYS digest crc", 'the keys without a body');
    is(keys_of($nginx->record('Z')->{line}), "$KEYS $BODY crc", 'the keys with a body');

    my ($segment) = $nginx->segments;
    is($segment->{header}{pid}, ($nginx->workers)[0], 'the writer\'s pid');
    all_well($nginx);
};


# README: CRC-32, as zlib and gzip have it, of the bytes before `,"crc":`.
subtest 'the checksum is that of zlib, Python has it too' => sub {
    my $nginx = Test::VD::Journal->start(journal => '', server => output(28, refused()));

    $nginx->deliver('/28', id => 'A', body => qq({"case":"caf\xc3\xa9 \xf0\x9f\x9a\x91"}));
    my $line = $nginx->record('A')->{line};
    my ($before, $crc) = $line =~ /^(.*),"crc":"([0-9a-f]{8})"\}$/;

    is($crc, sprintf('%08x', crc32($before)), 'zlib\'s');
    $nginx->write_file('line', $line);
    my $script = 'import sys, zlib; line = open(sys.argv[1], "rb").read(); '
        . 'print("%08x" % zlib.crc32(line[:line.rindex(b",\"crc\":")]))';
    open my $python, '-|', '/usr/bin/python3', '-c', $script, "$nginx->{dir}/line"
        or die "python3: $!\n";
    is(readline $python, "$crc\n", 'Python\'s');
    all_well($nginx);
};


subtest 'when the body is there' => sub {
    my $nginx = Test::VD::Journal->start(
        journal => '',
        server  => output('good', raw($OK)) . output('bad', raw('reply 500 {}'))
            . output('accept', raw($OK), 'vd_ack journal;')
    );
    my $has = sub { exists $nginx->record($_[0])->{body} ? 1 : 0 };

    answered($nginx->deliver('/good', id => 'g1'), '200 delivered true', 'delivered');
    answered($nginx->deliver('/bad',  id => 'b1'), '202 pending true',   'failed');
    answered($nginx->deliver('/bad', id => 'b2', attempt => 2), '202 pending true', 'again');
    answered($nginx->deliver('/bad', id => 'b3', attempt => 1), '202 pending true',
        'failed, by the sidecar\'s first attempt');
    answered($nginx->deliver('/accept', id => 'a1'), '202 pending true', 'accepted');
    answered($nginx->deliver('/accept', id => 'a2', attempt => 1), '200 delivered true',
        'attempted, since it says which attempt it is');
    answered($nginx->deliver('/accept', id => 'a3', attempt => 7), '200 delivered true',
        'attempted as the seventh');

    is($has->('g1'), 0, 'not of what was delivered');
    is($has->('b1'), 1, 'of what failed at first');
    is($has->('b2'), 0, 'not of what failed again');
    is($has->('b3'), 1, 'of what failed at first, with VD-Attempt');
    is($has->('a1'), 1, 'of what was accepted');
    is($has->('a2'), 0, 'not of what was delivered then');
    is($nginx->record('a1')->{outcome}, 'accepted',  'accepted');
    is($nginx->record('a2')->{outcome}, 'delivered', 'attempted');
    is($nginx->record('a3')->{attempt}, 7, 'the number of the attempt');
    all_well($nginx);
};


subtest 'bodies=all' => sub {
    my $nginx = Test::VD::Journal->start(
        journal => 'bodies=all',
        server  => output('good', raw($OK)) . output('bad', raw('reply 500 {}'))
    );
    $nginx->deliver('/good', id => 'g', body => '{"g":1}');
    $nginx->deliver('/good', id => 'h', body => '{"h":1}', attempt => 3);
    $nginx->deliver('/bad',  id => 'b', body => '{"b":1}', attempt => 2);
    is($nginx->record($_)->{body}, qq({"$_":1}), "there is that of $_") for qw(g h b);
    is(keys_of($nginx->record('g')->{line}), "$KEYS $BODY crc", 'where it always is');
    all_well($nginx);
};


subtest 'bodies of all kinds come back as they were' => sub {
    my $nginx = Test::VD::Journal->start(
        journal => '',
        server  => output('v', refused(), 'client_body_buffer_size 2k;')
            . output('n', refused(), 'vd_validate off; client_body_buffer_size 2k;')
            . output('file', refused(), 'client_body_in_file_only on; vd_validate off;')
            . output('buffers', refused(), 'client_body_buffer_size 64k; vd_validate off;')
            . output('big', refused(), 'client_body_buffer_size 2m;')
    );
    my $all  = join '', map chr, 0 .. 255;
    my $utf8 = "\"\\\b\f\n\r\t\x00\x1f\x7f\xc2\x80\xc3\xa9\xe2\x80\xa8\xf0\x9f\x9a\x91";
    my %body = (
        emoji     => [ v => qq({"case":"\xf0\x9f\x9a\x91 caf\xc3\xa9 \xe2\x80\xa8"}) ],
        escapes   => [ v => '{"a":"\\u0000\\ud83d\\ude91\\\\\\"\\n"}' ],
        space     => [ v => qq( \t\r\n{"a": 1}\n) ],
        control   => [ n => $utf8 ],
        newlines  => [ n => "a\n{\"v\":1,\"end\":\"x\",\"records\":0}\n" ],
        nul       => [ n => "\0" ],
        surrogate => [ n => "\xed\xa0\x80" ],
        binary    => [ n => $all ],
        almost    => [ n => ('x' x 4095) . "\xc3" ],
        one       => [ n => "\xff" ],
        two       => [ n => "\xff\xfe" ],
        three     => [ n => "\xff\xfe\xfd" ],
        in_file   => [ file => $utf8 x 100 ],
        file_b64  => [ file => $all x 100 ],
        spilled   => [ v => '{"case":"' . 'y' x 100_000 . '"}' ],
        buffers   => [ buffers => $utf8 x 1000 ],
        megabyte  => [ big => '{"case":"' . "\xc3\xa9" x 500_000 . '"}' ],
        mb_file   => [ file => $all x 4096 ],
    );

    for my $id (sort keys %body) {
        my ($uri, $body) = @{ $body{$id} };
        answered($nginx->deliver("/$uri", id => $id, body => $body), '202 pending true', $id);
    }
    # the head in one packet, the body in two: a part of it is read with the head
    my $socket = $nginx->begin('/buffers', id => 'parts', body => $all x 10, wait => 1);
    print {$socket} $all x 3;
    sleep 0.05;
    print {$socket} $all x 7;
    answered($nginx->finish($socket), '202 pending true', 'parts');
    $body{parts} = [ n => $all x 10 ];

    my %record = map { $_->{id} => $_ } $nginx->records;
    for my $id (sort keys %body) {
        my ($record, $body) = ($record{$id}, $body{$id}[1]);
        my $is_utf8 = utf8::decode(my $copy = $body) && $body !~ /\xed[\xa0-\xbf]/;
        my $key     = $is_utf8 ? 'body' : 'body_b64';

        is(keys_of($record->{line}), "$KEYS host kept digest $key crc", "$id: $key");
        is($record->{digest}, sha256_hex($body), "$id: the digest");
        my $got = $record->{$key};
        if   ($is_utf8) { utf8::encode($got) }
        else            { $got = decode_base64($got) }
        ok($got eq $body, "$id: the bytes");
    }
    all_well($nginx);
};


subtest 'the first 1,024 bytes of the response' => sub {
    my %reply = (
        all     => [ 'fill 1024 x',                        'x' x 1024 ],
        more    => [ 'fill 1025 x',                        'x' x 1024 ],
        much    => [ 'fill 60000 x',                       'x' x 1024 ],
        emoji   => [ "send y\nfill 300 \\xf0\\x9f\\x9a\\x91", 'y' . "\x{1f691}" x 255 ],
        accent  => [ "send y\nfill 600 \\xc3\\xa9",        'y' . "\x{e9}" x 511 ],
        invalid => [ 'fill 1030 \\xff',                    "\x{fffd}" x 1024 ],
        broken  => [ 'send a\\xffb\\xc3c\\x00\\r\\n"',     "a\x{fffd}b\x{fffd}c\0\r\n\"" ],
        html    => [ 'send <html>502</html>',              '<html>502</html>' ],
        limit   => [ 'fill 5000 z',                        'z' x 1024 ],
    );
    my $nginx = Test::VD::Journal->start(
        journal => '',
        server  => join '',
            map { output($_, raw("send HTTP/1.1 500 No\\r\\n\\r\\n\n$reply{$_}[0]\nclose"),
                $_ eq 'limit' ? 'vd_max_response_size 2k;' : ()) } sort keys %reply
    );
    for my $id (sort keys %reply) {
        answered($nginx->deliver("/$id", id => $id), '202 pending true', $id);
        is($nginx->record($id)->{response}, $reply{$id}[1], "$id: what is kept");
    }
    all_well($nginx);
};


subtest 'a response without a body' => sub {
    my $nginx = Test::VD::Journal->start(
        journal => '',
        server  => output('none', raw('send HTTP/1.1 204 No\\r\\n\\r\\n')) . output('cut',
            raw("send HTTP/1.1 200 OK\\r\\nContent-Length: 50\\r\\n\\r\\n{\"ticket\nclose"))
    );
    $nginx->deliver('/none', id => 'none');
    is($nginx->record('none')->{response}, '', 'empty, not null');
    $nginx->deliver('/cut', id => 'cut');
    is($nginx->record('cut')->{response}, '{"ticket', 'as much as came');
    is($nginx->record('cut')->{reason}, 'closed', 'why it failed');
    all_well($nginx);
};


subtest 'uri: where the delivery has to be sent again' => sub {
    my $nginx = Test::VD::Journal->start(
        journal => '',
        server  => output(28, refused()) . <<"CONFIG");
    location /prefix/ { vd_pass ${\ refused()}; vd_output p; }
    location = /old { rewrite ^ /28 last; }
    location = /named { error_page 404 = \@named; return 404; }
    location \@named { vd_pass ${\ refused()}; vd_output n; }
    location = /inner { internal; vd_pass ${\ refused()}; vd_output i; }
    location = /outer { rewrite ^ /inner last; }
CONFIG
    my %uri = (
        plain => '/28', args => '/28?a=b&c=%20d', encoded => '/prefix/%0d%0a%22x',
        rewritten => '/old?x=1', named => '/named', internal => '/outer', quoted => '/prefix/"\\',
    );
    for my $id (sort keys %uri) {
        answered($nginx->deliver($uri{$id}, id => $id), '202 pending true', $id);
        is($nginx->record($id)->{uri}, $uri{$id}, 'as the app sent it');
    }
    all_well($nginx);
};


subtest 'case, label and content type' => sub {
    my $nginx = Test::VD::Journal->start(
        journal => '',
        server  => output(28, refused()) =~ s/ vd_output 28;/ vd_output 28 "Incident \xe2\x80\x93 A\\\\B";/r
            . output(29, refused(), 'vd_case $arg_case;')
    );
    my $line = sub { $nginx->record($_[0])->{line} };

    $nginx->deliver('/28', id => 'a', headers => [ 'X-Case-Id: caf' . "\xc3\xa9" . '"\\' ]);
    like($line->('a'), qr/"label":"Incident \xe2\x80\x93 A\\\\B","case":"caf\xc3\xa9\\"\\\\",/, 'escaped');
    $nginx->deliver('/28', id => 'b', headers => [ "X-Case-Id: \xff" ]);
    like($line->('b'), qr/"case":"\xef\xbf\xbd",/, 'not UTF-8: replaced');
    $nginx->deliver('/28', id => 'c');
    like($line->('c'), qr/"case":null,/, 'no case');
    $nginx->deliver('/29?case=C-9', id => 'd');
    like($line->('d'), qr/"label":"","case":"C-9",/, 'vd_case; no label');
    $nginx->deliver('/29', id => 'e', headers => ['Content-Type: application/vnd.x+json; charset="utf-8"']);
    like($line->('e'), qr/"content_type":"application\/vnd\.x\+json; charset=\\"utf-8\\"",/, 'the app\'s content type');
    all_well($nginx);
};


subtest 'the id is made where the app has none' => sub {
    my $nginx = Test::VD::Journal->start(journal => '', server => output(28, refused()));
    my ($id) = $nginx->deliver('/28') =~ /"id":"($UUID)"/;
    ok($id && $nginx->record($id), 'answer and record have the same');
    all_well($nginx);
};


subtest 'the end of a segment' => sub {
    my $nginx = Test::VD::Journal->start(journal => '', server => output(28, raw($OK)));
    my @all = ($nginx->pid, $nginx->workers);

    is(scalar $nginx->files, 0, 'there is none before the first record');
    $nginx->deliver('/28', id => "a-$_") for 1 .. 5;
    my ($path, @more) = $nginx->files;
    is(scalar @more, 0, 'one segment');
    like($path, qr{/$UUID\.jsonl$}, 'its name');
    ok(!free_lock($path), 'its lock is held');
    ok(!(($nginx->segments)[0]{end}), 'it has no end yet');

    $nginx->signal('QUIT');
    ok($nginx->gone(SOON, @all), 'nginx is gone');
    is(($nginx->segments)[0]{end}{records}, 5, 'it has its end');
    ok($nginx->wait_until(sub { free_lock($path) }), 'its lock is free');
    is(scalar $nginx->files, 1, 'there is nothing else');
    all_well($nginx);
};


subtest 'a segment whose writer was killed' => sub {
    my $nginx = Test::VD::Journal->start(journal => '', server => output(28, raw($OK)));
    my ($worker) = $nginx->workers;

    $nginx->deliver('/28', id => 'a');
    my ($path) = $nginx->files;
    $nginx->signal('KILL', $worker);
    ok($nginx->gone(SOON, $worker), 'it is gone');
    ok($nginx->wait_until(sub { free_lock($path) }), 'the lock is free');
    ok($nginx->wait_until(sub { ($nginx->workers)[0] }), 'there is another worker');
    $nginx->deliver('/28', id => 'b');

    my @segments = $nginx->segments;
    is(scalar @segments, 2, 'it writes a segment of its own');
    my ($old) = grep { $_->{path} eq $path } @segments;
    is_deeply([ map { $_->{id} } @{ $old->{records} } ], ['a'], 'not into the old one');
    ok(!$old->{end}, 'which has no end');
    is($nginx->wrong, '', 'the journal is sound');
    $nginx->stop;
};


subtest 'rotation' => sub {
    my $nginx = Test::VD::Journal->start(
        journal => 'segment=4k',
        server  => output(28, refused())
    );
    my $body = '{"case":"' . 'x' x 1500 . '"}';
    answered($nginx->deliver('/28', id => "r-$_", body => $body), '202 pending true', "number $_")
        for 1 .. 10;

    my @segments = $nginx->segments;
    cmp_ok(scalar @segments, '>=', 4, 'there are several segments');
    is(scalar(grep { !$_->{end} && free_lock($_->{path}) } @segments), 0, 'all but the last are ended');
    is(scalar(grep { $_->{end} && !free_lock($_->{path}) } @segments), 0, 'and unlocked');
    is_deeply([ map { $_->{id} } $nginx->records ], [ map {"r-$_"} 1 .. 10 ],
        'by their names they are in order');
    is(scalar(grep { (-s $_->{path}) > 4096 + 2048 } @segments), 0, 'none is much larger than 4k');

    answered($nginx->deliver('/28', id => 'big', body => '{"case":"' . 'x' x 100_000 . '"}'),
        '202 pending true', 'a record larger than a segment');
    is($nginx->record('big')->{outcome}, 'failed', 'is in one');
    all_well($nginx);
};


subtest 'one segment a worker' => sub {
    my $nginx = Test::VD::Journal->start(
        journal => '',
        main    => 'worker_processes 2;',
        listen  => 'reuseport',
        server  => output(28, refused())
    );
    my %answers = $nginx->deliver_all('/28', [ 1 .. 60 ]);
    is(scalar(grep {/^202 /} values %answers), 60, 'all are on disk');

    my @segments = $nginx->segments;
    is(scalar @segments, 2, 'two segments');
    is_deeply([ sort map { $_->{header}{pid} } @segments ], [ sort $nginx->workers ],
        'of the two workers');
    is(scalar $nginx->records, 60, 'all records');
    all_well($nginx);
};


subtest 'two journals, and a location without' => sub {
    my $nginx = Test::VD::Journal->start(journal => '', server => 'location = /pre { return 200; }');
    my $other = $nginx->make_dir("$nginx->{dir}/other");
    $nginx->reload(
        journal => '',
        server  => output(1, refused())
            . output(2, refused(), "vd_journal $other/ sync=off;")
            . output(3, refused(), 'vd_journal off;')
            . output(4, raw($OK), 'vd_journal off;')
            . output(5, refused(), "vd_journal $other sync=off;")
    );
    answered($nginx->deliver('/1', id => 1), '202 pending true',    'in the first');
    answered($nginx->deliver('/2', id => 2), '202 pending true',    'in the second');
    answered($nginx->deliver('/3', id => 3), '502 failed false',    'in none, failed');
    answered($nginx->deliver('/4', id => 4), '200 delivered false', 'in none, delivered');
    answered($nginx->deliver('/5', id => 5), '202 pending true',    'in the second, named otherwise');
    is_deeply([ map { $_->{id} } $nginx->records ], [1], 'the first has its record');
    is_deeply([ map { $_->{id} } $nginx->records($other) ], [ 2, 5 ], 'the second has its two');
    is(scalar $nginx->files($other), 1, 'in one segment');
    all_well($nginx, undef, $other);
};


for my $sync (qw(on off)) {
    subtest "sync=$sync: what is done before the answer" => sub {
        my $nginx = Test::VD::Journal->start(
            journal => "sync=$sync",
            server  => output(28, refused()) . output('a', refused(), 'vd_ack journal;')
        );
        my $trace = $nginx->trace('-e', 'trace=pwrite64,fdatasync,fsync,writev,rename,unlink');

        for my $uri (qw(/28 /a)) {
            answered($nginx->deliver($uri, id => "x$uri" =~ s{/}{-}r), '202 pending true', $uri);
        }
        $nginx->wait_until(sub { $nginx->traced($trace) =~ /writev.*202 .*writev.*202 /s });

        my @calls;
        for my $line (split /\n/, $nginx->release($trace)) {
            next if $line =~ /unfinished/;
            my ($call) = $line =~ /(pwrite64|fdatasync|fsync|writev|rename)\b.*\) += \d/ or next;
            next if $call eq 'writev' && $line !~ /HTTP\/1\.1 202/;
            push @calls, $call;
        }
        is(join(' ', @calls), $sync eq 'on'
            ? 'pwrite64 fdatasync rename fsync pwrite64 fdatasync writev pwrite64 fdatasync writev'
            : 'pwrite64 rename pwrite64 writev pwrite64 writev', 'the calls, in order');

        is($nginx->counter('vd_journal_records_total'), 2, 'records are counted');
        is($nginx->counter('vd_journal_syncs_total'), $sync eq 'on' ? 2 : 0, 'so are syncs');
        is($nginx->counter('vd_journal_errors_total'), 0, 'no errors');
        my ($segment) = $nginx->files;
        cmp_ok($nginx->counter('vd_journal_bytes_total'), '<=', -s $segment, 'and bytes');
        all_well($nginx);
    };
}


subtest 'no answer while the disk is at it' => sub {
    my $nginx = Test::VD::Journal->start(
        journal => '',
        server  => output(28, refused()) . output('ok', raw($OK)) . output('a', raw('hold'), 'vd_ack journal;')
    );
    $nginx->deliver('/28', id => 'first');
    my $trace = $nginx->trace('-e', 'trace=fdatasync', '-e', 'inject=fdatasync:delay_enter=2000000');

    for my $uri (qw(/28 /ok /a)) {
        my $start = time;
        my $socket = $nginx->begin($uri, id => "slow$uri" =~ s{/}{-}r);
        sleep 0.1;
        like($nginx->get('/receiver'), qr/^200 /, 'other requests go on');
        cmp_ok(time - $start, '<', 2, 'before the sync is done');
        like($nginx->finish($socket), qr/"journaled":true/, "$uri has its answer");
        cmp_ok(time - $start, '>=', 2, 'after the sync');
    }
    $nginx->release($trace);
    all_well($nginx);
};


subtest 'vd_ack journal does not ask for the receiver' => sub {
    my $nginx = Test::VD::Journal->start(
        journal => '',
        http    => 'log_format vd "$vd_id $vd_state $vd_journaled $vd_outcome $vd_attempt'
            . ' [$vd_reason$vd_status$vd_ticket_id$vd_ticket_error$vd_duration$upstream_addr]";',
        server => 'access_log logs/access.log vd; vd_ack journal;'
            . output('down', refused()) . output('silent', raw('hold'))
            . output('full', "http://127.0.0.1:$ENV{TEST_NGINX_FULL_PORT}")
            . output('off', refused(), 'vd_ack delivery;')
    );
    for my $uri (qw(down silent full)) {
        my $start  = time;
        my $answer = $nginx->deliver("/$uri", id => $uri);
        cmp_ok(time - $start, '<', SOON, "$uri: at once");
        is($answer, qq(202 {"id":"$uri","output":"$uri","state":"pending","attempt":1,"status":null,)
            . qq("ticket_id":null,"ticket_error":null,"reason":null,"journaled":true}\n), 'the answer');
        is($nginx->record($uri)->{body}, $Test::VD::Nginx::BODY, 'the case is in the journal');
    }
    my $answer = $nginx->deliver('/down', id => 'again', attempt => 1);
    like($answer, qr/^202 .*"attempt":1,.*"reason":"connect","journaled":true/, 'VD-Attempt is attempted');
    $answer = $nginx->deliver('/off', id => 'off');
    like($answer, qr/^202 .*"reason":"connect","journaled":true/, 'vd_ack delivery in a location');

    my $text = access_log($nginx, qr/^again/m);
    like($text, qr/^\Q$_ pending true accepted 1 [-]\E$/m, "$_: the variables") for qw(down silent full);
    like($text, qr/^again pending true failed 1 \[connect\d+127\.0\.0\.1:1\]$/m, 'those of an attempt');
    all_well($nginx);
};


subtest 'the variables' => sub {
    my $nginx = Test::VD::Journal->start(
        journal => '',
        http    => 'log_format vd "$vd_id $vd_state $vd_journaled $vd_outcome";',
        server  => 'access_log logs/access.log vd;' . output('ok', raw($OK)) . output('bad', refused())
            . output('none', refused(), 'vd_journal off;')
    );
    $nginx->deliver("/$_", id => $_) for qw(ok bad none);
    $nginx->deliver('/ok', id => 'error', body => '{');
    is(access_log($nginx, qr/^error/m), "ok delivered true delivered\nbad pending true failed\n"
        . "none failed false failed\nerror   \n", 'in the access log');
    all_well($nginx);
};


subtest 'what is refused is not in the journal' => sub {
    my $nginx = Test::VD::Journal->start(
        journal => '',
        server  => output(28, raw($OK), 'client_max_body_size 1k;')
            . output('a', raw($OK), 'vd_ack journal; client_max_body_size 1k;')
    );
    for my $uri (qw(/28 /a)) {
        like($nginx->deliver($uri, body => ''),      qr/^400 /, 'an empty body');
        like($nginx->deliver($uri, body => '{'),     qr/^400 /, 'no JSON');
        like($nginx->deliver($uri, body => "\"\xff\""), qr/^400 /, 'no UTF-8');
        like($nginx->deliver($uri, id => 'a b'),     qr/^400 /, 'a bad id');
        like($nginx->deliver($uri, attempt => 1001), qr/^400 /, 'a bad attempt');
        like($nginx->deliver($uri, body => '"' . 'x' x 2000 . '"'), qr/^413 /, 'too large');
        like($nginx->get($uri), qr/^405 /, 'not POST');
    }
    is(scalar $nginx->files, 0, 'nothing at all');
    is($nginx->counter('vd_journal_records_total'), 0, 'nothing counted');
    all_well($nginx);
};


# Nobody hears the answer, but the case is there, once.
for my $case ([ delivery => raw("sleep 0.2\n$OK") ], [ journal => refused() ]) {
    my ($ack, $url) = @{$case};

    subtest "vd_ack $ack: the client goes before its record is written" => sub {
        my $nginx = Test::VD::Journal->start(
            journal => '',
            server  => output(28, $url, "vd_ack $ack;") . output('b', refused())
        );
        my $trace = $nginx->trace('-e', 'trace=fdatasync', '-e', 'inject=fdatasync:delay_enter=300000');
        my @sockets = map { $nginx->begin('/28', id => "g-$_") } 1 .. 5;
        sleep 0.1;
        close $_ for @sockets;

        ok($nginx->wait_until(sub { ($nginx->counter('vd_journal_records_total') // 0) == 5 }),
            'they are written');
        answered($nginx->deliver('/b', id => 'next'), '202 pending true', 'the next one');
        $nginx->release($trace);
        is(join(' ', sort map { $_->{id} } $nginx->records), 'g-1 g-2 g-3 g-4 g-5 next', 'each once');
        all_well($nginx);
    };
}


subtest 'keepalive and pipelined requests each wait for their own' => sub {
    my $nginx = Test::VD::Journal->start(
        journal => '',
        server  => output('ok', raw($OK)) . output('bad', refused()) . output('a', refused(), 'vd_ack journal;')
    );
    my @uris   = (qw(ok bad a)) x 4;
    my $socket = IO::Socket::INET->new("127.0.0.1:$nginx->{port}") or die "cannot connect: $@\n";
    my $n      = 0;
    print {$socket} map {
        $n++;
        "POST /$_ HTTP/1.1\r\nHost: a\r\nIdempotency-Key: p-$n\r\nContent-Length: 2\r\n"
            . ($n == @uris ? "Connection: close\r\n" : '') . "\r\n{}"
    } @uris;
    my $text = do { local $/; <$socket> };
    my @ids  = $text =~ /"id":"(p-\d+)".*"journaled":true/g;

    is_deeply(\@ids, [ map {"p-$_"} 1 .. @uris ], 'answered in order');
    is_deeply([ map { $_->{id} } $nginx->records ], \@ids, 'journaled in order');
    all_well($nginx);
};


# As a daemon nginx sets a umask of 0, but service managers start it without.
subtest 'a umask does not keep the reader out' => sub {
    my $script = File::Temp->new;
    print {$script} "#!/bin/sh\numask 077\n",
        $ENV{TEST_NGINX_BINARY} || 'nginx', qq( "\$@" > /dev/null 2>&1 &\n);
    close $script or die "cannot write a script: $!\n";
    chmod 0700, $script->filename;

    local $ENV{TEST_NGINX_BINARY} = $script->filename;
    my $nginx = Test::VD::Journal->start(
        main    => 'daemon off;',
        user    => 'nobody',
        journal => '',
        server  => output(28, refused())
    );
    answered($nginx->deliver('/28', id => 'a'), '202 pending true', 'written');
    is((stat +($nginx->files)[0])[4], (getpwnam 'nobody')[2], 'by the workers\' user');
    all_well($nginx);
};


done_testing();
