# Copyright (C) The ngx_vd_module authors
#
# The page of counters: what is on it, and whether it counts what happens.

use v5.10.1;
use strict;
use warnings;
use utf8;

use File::Temp ();
use HTTP::Tiny;
use IO::Socket::UNIX;
use IO::Uncompress::Gunzip qw(gunzip);
use IPC::Open2 qw(open2);
use JSON::PP qw(decode_json);
use Test::More;
use Time::HiRes qw(sleep time);

use Test::VD;
use Test::VD::Nginx;

binmode $_, ':utf8' for map { Test::More->builder->$_ } qw(output failure_output);

my @REASONS = qw(connect resolve tls timeout closed protocol status internal);
my @BUCKETS = qw(0.005 0.01 0.025 0.05 0.1 0.25 0.5 1 2.5 5 10 30 60 +Inf);
my $TYPE    = 'text/plain; version=0.0.4; charset=utf-8';
my $TICKET  = 'reply 200 {"ticket_id":"T-1"}';
my $STATUS  = 'location = /status { vd_status; }';
my $ZONE    = 'vd_zone vd 1m;';


# A location that delivers to the raw receiver.
sub output {
    my ($id, $steps, $more, $label) = @_;

    my ($path) = Test::VD::script($steps);
    return location($id, "http://127.0.0.1:$ENV{TEST_NGINX_RAW_PORT}$path", $more, $label);
}

sub location {
    my ($id, $url, $more, $label) = @_;

    return <<"CONFIG";
    location = /$id {
        vd_pass $url;
        vd_output $id${\ (defined $label ? " '$label'" : '')};
        ${\ ($more // '')}
    }
CONFIG
}

sub start {
    my ($server, %more) = @_;

    utf8::encode $server;
    return Test::VD::Nginx->start(%more, server => "$STATUS $server",
        http => $ZONE . ($more{http} // ''));
}

sub request {
    my ($nginx, $method, $uri, $headers) = @_;

    return HTTP::Tiny->new(timeout => 10)->request($method,
        "http://127.0.0.1:$nginx->{port}$uri", { headers => $headers // {} });
}

# The page's series and their values.
sub counters {
    my ($nginx) = @_;

    my $answer = request($nginx, GET => '/status');
    return { map { /^([^#].*) (\S+)$/ ? ($1 => $2) : () } split /\n/, $answer->{content} };
}

# Those whose values are not what is given; others are not looked at.
sub counted {
    my ($nginx, $expected, $what) = @_;

    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $got = counters($nginx);
    is_deeply({ map { $_ => $got->{$_} } keys %{$expected} }, $expected, $what);
    return $got;
}

sub in_flight_becomes {
    my ($nginx, $number, $what) = @_;

    local $Test::Builder::Level = $Test::Builder::Level + 1;
    $nginx->wait_until(
        sub { counters($nginx)->{'vd_in_flight{output="28"}'} == $number }, 5);
    return is(counters($nginx)->{'vd_in_flight{output="28"}'}, $number, $what);
}

# What promtool has to say about the page: nothing.
sub promtool {
    my ($page) = @_;

    my $pid = open2(my $out, my $in, 'exec promtool check metrics 2>&1');
    print {$in} $page;
    close $in;
    local $/;
    my $said = <$out>;
    waitpid $pid, 0;
    return "$said" . ($? ? "status $?" : '');
}

sub histogram {
    my ($name, $labels) = @_;

    my $comma  = $labels ? "$labels," : '';
    my $braces = $labels ? "{$labels}" : '';
    return ((map {qq(${name}_bucket{${comma}le="$_"})} @BUCKETS),
        "${name}_sum$braces", "${name}_count$braces");
}

# All series of an output; the label is as the page has it.
sub series {
    my ($id, $label) = @_;

    my $output = qq(output="$id");
    return (
        qq(vd_attempts_total{$output,label="$label",outcome="delivered",reason=""}),
        (map {qq(vd_attempts_total{$output,label="$label",outcome="failed",reason="$_"})}
            @REASONS),
        (map {qq(vd_responses_total{$output,class="${_}xx"})} 2 .. 5),
        (map {qq(vd_ticket_ids_total{$output,result="$_"})} qw(found none rejected)),
        (map {"${_}{$output}"} qw(vd_in_flight vd_request_bytes_total
            vd_last_delivered_timestamp_seconds)),
        histogram('vd_attempt_duration_seconds', $output),
    );
}

sub journal_series {
    return ((map {"vd_journal_${_}_total"} qw(records bytes syncs errors)),
        histogram('vd_journal_sync_duration_seconds', ''));
}

sub failed {
    my ($id, $reason) = @_;
    return qq(vd_attempts_total{output="$id",label="",outcome="failed",reason="$reason"});
}

sub delivered {
    my ($id) = @_;
    return qq(vd_attempts_total{output="$id",label="",outcome="delivered",reason=""});
}

sub journal {
    my ($more) = @_;

    my $dir = File::Temp->newdir;
    return ($dir, "vd_journal $dir $more;");
}

sub finished {
    my ($nginx) = @_;

    local $Test::Builder::Level = $Test::Builder::Level + 1;
    is($nginx->trouble, '', 'nothing severe in the log');
    $nginx->stop;
    return;
}


subtest 'every series is there from the start' => sub {
    my ($dir, $journal) = journal('');
    my $nginx = start("$journal\n" . output(28, $TICKET, '', 'An alert')
        . output('a.b-c_D', $TICKET));
    my $answer = request($nginx, GET => '/status');

    is($answer->{status}, 200, 'status');
    is($answer->{headers}{'content-type'}, $TYPE, 'Content-Type');
    is(promtool($answer->{content}), '', 'promtool has no complaints');

    my $got  = counters($nginx);
    my $free = delete $got->{vd_journal_free_bytes};
    my ($build) = grep {/^vd_build_info/} keys %{$got};

    is(delete $got->{ $build // '' }, 1, 'vd_build_info');
    like($build, qr/^vd_build_info\{version="\d+\.\d+\.\d+",nginx="\d+\.\d+\.\d+"\}$/,
        'with the versions');
    my ($expected) = qx(df -B1 --output=avail $dir) =~ /(\d+)/;
    cmp_ok(abs($free - $expected), '<', 0.1 * $expected + 1e8, 'what df says is free');

    is_deeply(
        [ sort keys %{$got} ],
        [ sort +series(28, 'An alert'), series('a.b-c_D', ''), journal_series() ],
        'all the others'
    );
    is(join(' ', grep { $got->{$_} != 0 } keys %{$got}), '', 'at 0');

    my %families = map { s/_(?:bucket|sum|count)$//r => 1 }
        map { /^(\w+)/ } keys %{$got}, 'vd_journal_free_bytes', 'vd_build_info';
    for my $word (qw(HELP TYPE)) {
        is_deeply([ sort $answer->{content} =~ /^# $word (\S+) \S/mg ],
            [ sort keys %families ], "$word of each family, once");
    }
    finished($nginx);
};


subtest 'without journal and outputs' => sub {
    my $nginx  = start('');
    my $answer = request($nginx, GET => '/status');

    is(promtool($answer->{content}), '', 'promtool has no complaints');
    is_deeply([ sort +grep { !/^vd_build_info/ } keys %{ counters($nginx) } ],
        [ sort +journal_series() ], 'the series');
    is_deeply(decode_json(request($nginx, GET => '/status?format=json')->{content})->{outputs},
        [], 'no outputs as JSON');
    finished($nginx);
};


subtest 'each outcome and reason is counted' => sub {
    my %cases = (
        found       => [ $TICKET, delivered('found'), '2xx', 'found' ],
        none        => [ 'reply 201 {"message":"Workflow was started"}',
            delivered('none'), '2xx', 'none' ],
        'not-json'  => [ 'reply 202 hello', delivered('not-json'), '2xx', 'rejected' ],
        null        => [ 'reply 200 {"ticket_id":null}', delivered('null'), '2xx', 'rejected' ],
        redirect    => [ 'reply 302 {}',           failed(redirect   => 'status'), '3xx' ],
        gone        => [ "reply 410 {\"ticket_id\":1}", failed(gone  => 'status'), '4xx' ],
        unavailable => [ 'reply 503 {}',           failed(unavailable => 'status'), '5xx' ],
        strange     => [ 'reply 600 {}',           failed(strange    => 'protocol'), undef ],
        closed      => [ 'close',                  failed(closed     => 'closed'), undef ],
        truncated   => [ 'send HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nyo' . "\nclose",
            failed(truncated => 'closed'), '2xx' ],
        garbage     => [ 'send SSH-2.0\r\n' . "\nclose", failed(garbage => 'protocol'), undef ],
        silent      => [ 'hold',                   failed(silent     => 'timeout'), undef ],
    );
    my $raw   = $ENV{TEST_NGINX_RAW_PORT};
    my $nginx = start(join '',
        'vd_timeout 2s;',
        (map { output($_, $cases{$_}[0], $_ eq 'silent' ? 'vd_timeout 100ms;' : '') }
            sort keys %cases),
        location(connect  => 'http://127.0.0.1:1'),
        location(tls      => "https://127.0.0.1:$raw"),
        location(internal => "http://127.0.0.1:$raw", 'vd_set_header X-A $http_x_case_id$uri;')
            =~ s{= /internal}{~ (?s)^/internal}r,
    );

    @cases{qw(connect tls internal)} = ([ '', failed(connect => 'connect') ],
        [ '', failed(tls => 'tls') ], [ '', failed(internal => 'internal') ]);

    my $bytes = 20;
    for my $id (sort keys %cases) {
        my (undef, $series, $class, $ticket) = @{ $cases{$id} };
        my $body = '{"case": "' . 'x' x $bytes++ . '"}';
        my $uri  = $id eq 'internal' ? '/internal/%0a' : "/$id";
        my $before = time;

        $nginx->deliver($uri, body => $body) for 1 .. 2;

        my $got = counters($nginx);
        my %got = map { $_ => $got->{$_} } grep { /output="\Q$id\E"/ && $got->{$_} != 0 }
            keys %{$got};
        my $last  = delete $got{qq(vd_last_delivered_timestamp_seconds{output="$id"})} // 0;
        my $time  = delete $got{qq(vd_attempt_duration_seconds_sum{output="$id"})};

        if (defined $ticket) {
            cmp_ok($last, '>=', int $before - 1, "$id: last delivered not before");
            cmp_ok($last, '<=', time + 1, "$id: last delivered just now");
        }
        else {
            is($last, 0, "$id: never delivered");
        }

        delete @got{ grep {/_bucket/} keys %got };
        is_deeply(
            \%got,
            {   $series => 2,
                qq(vd_request_bytes_total{output="$id"})             => 2 * length $body,
                qq(vd_attempt_duration_seconds_count{output="$id"}) => 2,
                (   $class ? (qq(vd_responses_total{output="$id",class="$class"}) => 2) : ()
                ),
                (   $ticket ? (qq(vd_ticket_ids_total{output="$id",result="$ticket"}) => 2) : ()
                ),
            },
            "$id: the others"
        );
    }

    is(promtool(request($nginx, GET => '/status')->{content}), '',
        'promtool has no complaints');
    finished($nginx);
};


subtest 'a histogram of the durations' => sub {
    my $nginx = start(output(28, $TICKET) . output(29, "sleep 0.13\n$TICKET"));

    $nginx->deliver('/28') for 1 .. 3;
    $nginx->deliver('/29') for 1 .. 2;

    my $got     = counters($nginx);
    my $name    = 'vd_attempt_duration_seconds';
    my @buckets = map { $got->{qq(${name}_bucket{output="29",le="$_"})} } @BUCKETS;
    my $sum     = $got->{qq(${name}_sum{output="29"})};

    is_deeply([ @buckets[ 0 .. 4 ] ], [ (0) x 5 ], 'none took 100 ms or less');
    is_deeply(\@buckets, [ sort { $a <=> $b } @buckets ], 'cumulative');
    is_deeply([ @buckets[ 8 .. 13 ] ], [ (2) x 6 ], 'both took less than 2.5 s');
    is($got->{qq(${name}_count{output="29"})}, 2, 'count');
    cmp_ok($sum, '>=', 0.25, 'the sum is at least that of both');
    cmp_ok($sum, '<', 60,    'and not more than it can be');
    like($sum, qr/^\d+\.\d{6}$/, 'in seconds');

    is($got->{qq(${name}_bucket{output="28",le="+Inf"})}, 3, 'the other output has its own');
    cmp_ok($got->{qq(${name}_bucket{output="28",le="0.1"})}, '>', 0, 'of shorter times');
    finished($nginx);
};


subtest 'a label with quotes, backslashes and umlauts' => sub {
    my $nginx  = start(output(28, $TICKET, '', 'a"b\\\\c ü {x="y"}, €'));
    my $answer = request($nginx, GET => '/status');
    my $page   = $answer->{content};

    utf8::decode $page;
    like($page, qr/,label="a\\"b\\\\c ü \{x=\\"y\\"\}, €",outcome=/, 'escaped');
    is(promtool($answer->{content}), '', 'promtool has no complaints');

    my $json = decode_json(request($nginx, GET => '/status?format=json')->{content});
    is($json->{outputs}[0]{label}, 'a"b\\c ü {x="y"}, €', 'as JSON');
    finished($nginx);
};


subtest 'locations that share an output share its counters' => sub {
    my $nginx = start(output(28, $TICKET) . output(28, 'reply 500 {}') =~ s{/28}{/other}r);

    $nginx->deliver('/28') for 1 .. 2;
    $nginx->deliver('/other');
    counted($nginx, { delivered(28) => 2, failed(28 => 'status') => 1,
        'vd_request_bytes_total{output="28"}' => 3 * length $Test::VD::Nginx::BODY },
        'both are counted');
    is(scalar(grep {/^vd_in_flight/} keys %{ counters($nginx) }), 1, 'there is one output');
    finished($nginx);
};


subtest 'in flight' => sub {
    my $slow   = "sleep 1.5\n$TICKET";
    my $nginx  = start(output(28, $slow) . output(29, 'hold', 'vd_timeout 1500ms;')
        =~ s/vd_output 29/vd_output 28/r);

    my @sockets = map { $nginx->begin('/28') } 1 .. 3;
    in_flight_becomes($nginx, 3, 'three while the receiver thinks');
    $nginx->finish($_) for @sockets;
    counted($nginx, { 'vd_in_flight{output="28"}' => 0, delivered(28) => 3 }, 'none after that');

    my $socket = $nginx->begin('/28');
    in_flight_becomes($nginx, 1, 'one');
    close $socket;
    sleep 0.05;
    counted($nginx, { 'vd_in_flight{output="28"}' => 1, delivered(28) => 3 },
        'still, though the client is gone');
    in_flight_becomes($nginx, 0, 'it has ended');
    counted($nginx, { delivered(28) => 4 }, 'delivered');

    $socket = $nginx->begin('/29');
    in_flight_becomes($nginx, 1, 'one that will time out');
    $nginx->finish($socket);
    counted($nginx, { 'vd_in_flight{output="28"}' => 0, failed(28 => 'timeout') => 1 },
        'it has timed out');

    $socket = $nginx->begin('/28', wait => 1);
    counted($nginx, { 'vd_in_flight{output="28"}' => 0 }, 'none while the body is awaited');
    close $socket;
    finished($nginx);
};


# Frames of HTTP/2: the preface with settings, a POST with its body, its reset.
sub http2_post {
    my ($uri, $path) = @_;

    my $frame = sub {
        my ($type, $flags, $stream, $payload) = @_;
        return substr(pack('N', length $payload), 1)
            . pack('CCN', $type, $flags, $stream) . $payload;
    };
    my $literal = sub { return pack 'C/a C/a', @_ };
    my $head    = join '', map { "\0" . $literal->(@{$_}) } [ ':method', 'POST' ],
        [ ':scheme', 'http' ], [ ':path', $uri ], [ ':authority', 'localhost' ];
    my $socket = IO::Socket::UNIX->new($path) or die "cannot connect: $@\n";

    syswrite $socket, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" . $frame->(4, 0, 0, '')
        . $frame->(1, 4, 1, $head) . $frame->(0, 1, 1, $Test::VD::Nginx::BODY);
    return ($socket, $frame->(3, 0, 1, pack 'N', 8));
}


subtest 'in flight, with HTTP/2' => sub {
    my $dir   = File::Temp->newdir;
    my $slow  = output(28, "sleep 1.5\n$TICKET");
    my $nginx = start($slow,
        http => "server { listen unix:$dir/h2 http2; vd_secret_file secret; $slow }");

    my ($socket, $reset) = http2_post('/28', "$dir/h2");
    in_flight_becomes($nginx, 1, 'one');
    syswrite $socket, $reset;
    in_flight_becomes($nginx, 0, 'none when the stream was reset and the attempt is done');
    counted($nginx, { delivered(28) => 1 }, 'it was delivered');

    ($socket) = http2_post('/28', "$dir/h2");
    in_flight_becomes($nginx, 1, 'one more');
    close $socket;
    in_flight_becomes($nginx, 0, 'none when the connection was closed');
    counted($nginx, { delivered(28) => 2 }, 'it was delivered');
    finished($nginx);
};


# The records of a journal: their number and bytes, first and last lines left out.
sub records {
    my ($dir) = @_;

    my ($number, $bytes) = (0, 0);
    for my $path (glob "$dir/*.jsonl") {
        open my $file, '<', $path or die "$path: $!\n";
        for my $line (grep {/^\{"v":1,"time"/} <$file>) {
            $number++;
            $bytes += length $line;
        }
    }
    return ($number, $bytes);
}


subtest 'the journal is counted' => sub {
    my ($dir, $journal) = journal('bodies=all');
    my $nginx = start("$journal\n" . output(28, $TICKET) . output(29, 'reply 500 {}'));

    like($nginx->deliver('/28'), qr/^200 .*"journaled":true/, 'delivered') for 1 .. 3;
    like($nginx->deliver('/29'), qr/^202 .*"state":"pending"/, 'failed') for 1 .. 2;

    my ($records, $bytes) = records($dir);
    my $got = counted($nginx, { vd_journal_records_total => 5, vd_journal_syncs_total => 5,
        vd_journal_bytes_total => $bytes, vd_journal_errors_total => 0,
        'vd_journal_sync_duration_seconds_bucket{le="+Inf"}' => 5,
        vd_journal_sync_duration_seconds_count => 5 }, 'as in the files');
    is($records, 5, 'that many are there');
    cmp_ok($got->{vd_journal_sync_duration_seconds_sum}, '>', 0, 'a sync takes time');
    cmp_ok($got->{vd_journal_sync_duration_seconds_sum}, '<', 10, 'but not that much');

    my @sockets = map { $nginx->begin('/29') } 1 .. 20;
    $nginx->finish($_) for @sockets;
    $got = counted($nginx, { vd_journal_records_total => 25 }, 'many at once');
    my $syncs = $got->{vd_journal_syncs_total};
    cmp_ok($syncs, '<=', 25, 'no more syncs than records');
    cmp_ok($syncs, '>',  5,  'but some');
    is($got->{vd_journal_sync_duration_seconds_count}, $syncs, 'each in the histogram');
    is($got->{vd_journal_bytes_total}, (records($dir))[1], 'all their bytes');
    finished($nginx);
};


subtest 'errors of the journal are counted' => sub {
    my ($dir, $journal) = journal('');
    my $nginx = start("$journal\n" . output(28, $TICKET) . output(29, 'reply 500 {}'));

    rename $dir, "$dir.gone" or die "rename: $!\n";
    like($nginx->deliver('/29'), qr/^503 .*"state":"failed"/,      'failed');
    like($nginx->deliver('/28'), qr/^200 .*"journaled":false/, 'delivered');
    my $got = counted($nginx, { vd_journal_records_total => 0, vd_journal_bytes_total => 0,
        vd_journal_syncs_total => 0, vd_journal_errors_total => 2,
        failed(29 => 'status') => 1, delivered(28) => 1 }, 'two errors');
    ok(!exists $got->{vd_journal_free_bytes}, 'how much is free is not known');
    is(promtool(request($nginx, GET => '/status')->{content}), '',
        'promtool has no complaints');

    rename "$dir.gone", $dir or die "rename: $!\n";
    like($nginx->deliver('/29'), qr/^202 /, 'it is back');
    counted($nginx, { vd_journal_records_total => 1, vd_journal_errors_total => 2 },
        'and counted');
    $nginx->stop;
};


subtest 'without sync there are no syncs' => sub {
    my ($dir, $journal) = journal('sync=off');
    my $nginx = start("$journal\n" . output(28, $TICKET));

    $nginx->deliver('/28') for 1 .. 3;
    counted($nginx, { vd_journal_records_total => 3, vd_journal_syncs_total => 0,
        vd_journal_bytes_total => (records($dir))[1],
        vd_journal_sync_duration_seconds_count => 0 }, 'records only');
    finished($nginx);
};


subtest 'an accepted case is no attempt' => sub {
    my ($dir, $journal) = journal('');
    my $nginx = start("$journal vd_ack journal;\n" . output(28, $TICKET));

    like($nginx->deliver('/28'), qr/^202 .*"state":"pending"/, 'accepted');
    my $got = counters($nginx);
    is(join(' ', grep { m{output="28"} && $got->{$_} != 0 } keys %{$got}), '', 'no attempt');
    is($got->{vd_journal_records_total}, 1, 'but a record');

    is(request($nginx, POST => '/28', { 'VD-Attempt' => 1 })->{status}, 400, 'refused');
    counted($nginx, { delivered(28) => 0, 'vd_request_bytes_total{output="28"}' => 0 },
        'a request that is refused is none');

    my $answer = HTTP::Tiny->new->post("http://127.0.0.1:$nginx->{port}/28",
        { headers => { 'VD-Attempt' => 1 }, content => '{}' });
    is($answer->{status}, 200, 'attempted');
    counted($nginx, { delivered(28) => 1, 'vd_request_bytes_total{output="28"}' => 2,
        'vd_ticket_ids_total{output="28",result="found"}' => 1,
        vd_journal_records_total => 2 }, 'and counted');
    finished($nginx);
};


subtest 'as JSON' => sub {
    my ($dir, $journal) = journal('');
    my $nginx = start("$journal\n" . output(28, $TICKET, '', 'An alert')
        . output(29, 'reply 404 {}'));

    $nginx->deliver('/28') for 1 .. 3;
    $nginx->deliver('/29');

    my $answer = request($nginx, GET => '/status?format=json');
    my $got    = counters($nginx);
    my $json   = decode_json($answer->{content});
    my ($first, $second) = @{ $json->{outputs} };

    is($answer->{headers}{'content-type'}, 'application/json', 'Content-Type');
    is("$json->{version} $json->{nginx}",
        join(' ', (grep {/^vd_build/} keys %{$got})[0] =~ /"([^"]+)"/g), 'versions');
    is_deeply([ map { "$_->{output} $_->{label}" } $first, $second ],
        [ '28 An alert', '29 ' ], 'outputs');
    is($first->{attempts}{delivered}, 3, 'delivered');
    is_deeply($second->{attempts}{failed}, { (map { $_ => 0 } @REASONS), status => 1 },
        'failed by reason');
    is_deeply($second->{responses}, { '2xx' => 0, '3xx' => 0, '4xx' => 1, '5xx' => 0 },
        'responses');
    is_deeply($first->{ticket_ids}, { found => 3, none => 0, rejected => 0 }, 'ticket ids');

    my %same = (in_flight => 'vd_in_flight', request_bytes => 'vd_request_bytes_total',
        last_delivered_timestamp_seconds => 'vd_last_delivered_timestamp_seconds');
    is($first->{$_}, $got->{ $same{$_} . '{output="28"}' }, "$_ as in text")
        for sort keys %same;
    is($first->{attempt_duration_seconds}{count}, 3, 'histogram');
    cmp_ok(abs $first->{attempt_duration_seconds}{sum}
            - $got->{'vd_attempt_duration_seconds_sum{output="28"}'}, '<', 1e-5, 'its sum');

    is($json->{journal}{$_}, $got->{"vd_journal_${_}_total"}, "journal: $_")
        for qw(records bytes syncs errors);
    cmp_ok($json->{journal}{free_bytes}, '>', 0, 'journal: free bytes');
    finished($nginx);
};


subtest 'which format is wanted' => sub {
    my $nginx = start(output(28, $TICKET));
    my $json  = 'application/json';
    my $prometheus = 'application/openmetrics-text;version=1.0.0,'
        . 'application/openmetrics-text;version=0.0.1;q=0.75,'
        . 'text/plain;version=0.0.4;q=0.5,*/*;q=0.1';

    for (
        [ '/status',                   undef,         $TYPE ],
        [ '/status',                   '*/*',         $TYPE ],
        [ '/status',                   $prometheus,   $TYPE ],
        [ '/status',                   $json,         $json ],
        [ '/status',                   'Application/JSON; charset=utf-8, */*', $json ],
        [ '/status?format=json',       undef,         $json ],
        [ '/status?x=1&format=json',   'text/plain',  $json ],
        [ '/status?format=prometheus', $json,         $TYPE ],
        [ '/status?format=jsonx',      undef,         $TYPE ],
        )
    {
        my ($uri, $accept, $expected) = @{$_};
        my $answer = request($nginx, GET => $uri, { $accept ? (Accept => $accept) : () });
        is($answer->{headers}{'content-type'}, $expected,
            "$uri, Accept: " . ($accept // 'none'));
        like($answer->{content}, $expected eq $json ? qr/^\{.*\}\n$/s : qr/^# HELP /,
            'and so is the page');
    }
    finished($nginx);
};


subtest 'GET and HEAD only' => sub {
    my $nginx = start(output(28, $TICKET));

    for my $uri ('/status', '/status?format=json') {
        my ($get, $head) = map { request($nginx, $_ => $uri) } qw(GET HEAD);
        is($head->{status},  200, "HEAD $uri: status");
        is($head->{content} // '', '', 'no body');
        is($head->{headers}{$_}, $get->{headers}{$_}, "the same $_")
            for qw(content-type content-length);
        is($get->{headers}{'content-length'}, length $get->{content},
            'which is the length of the page');
    }

    for my $method (qw(POST PUT DELETE OPTIONS PATCH)) {
        my $answer = request($nginx, $method => '/status');
        is($answer->{status}, 405, "$method is refused");
        is($answer->{headers}{allow}, 'GET, HEAD', 'what is allowed is told');
    }

    is($nginx->finish($nginx->begin('/status', body => 'x' x 100_000)) =~ /^405 /, 1,
        'with a long body, too');
    finished($nginx);
};


subtest 'compressed where nginx compresses' => sub {
    my $nginx = start("gzip on; gzip_types text/plain application/json; gzip_min_length 1;\n"
        . output(28, $TICKET));

    for my $uri ('/status', '/status?format=json') {
        my $plain  = request($nginx, GET => $uri);
        my $zipped = request($nginx, GET => $uri, { 'Accept-Encoding' => 'gzip' });
        my $head   = request($nginx, HEAD => $uri, { 'Accept-Encoding' => 'gzip' });

        is($zipped->{headers}{'content-encoding'}, 'gzip', "$uri is compressed");
        is($zipped->{headers}{'content-type'}, $plain->{headers}{'content-type'},
            'Content-Type');
        gunzip(\$zipped->{content} => \my $page);
        is($page, $plain->{content}, 'it is the same page');
        is($head->{status}, 200, 'HEAD');
    }
    finished($nginx);
};


subtest 'a page of many outputs with long labels is complete' => sub {
    my $label  = '"\\\\' x 50;
    my @ids    = map { sprintf '%03d', $_ . '' } 1 .. 200;
    $_ .= '-' x (64 - length) for @ids;
    my $nginx  = start(join '', map { location($_, 'http://127.0.0.1:1', '', $label) } @ids);
    my $answer = request($nginx, GET => '/status');
    my @series = $answer->{content} =~ /^([^#].*) \d\S*$/mg;

    is_deeply(
        [ sort @series ],
        [   sort +(grep {/^vd_build_info/} @series), journal_series(),
            map { series($_, '\\"\\\\' x 50) } @ids
        ],
        'every series of every output'
    );
    like($answer->{content}, qr/\nvd_build_info\{[^\n]+\} 1\n\z/, 'to the last line');
    is(promtool($answer->{content}), '', 'promtool has no complaints');
    is(scalar @{ decode_json(request($nginx, GET => '/status?format=json')->{content})
                ->{outputs} }, 200, 'as JSON');
    finished($nginx);
};


done_testing();
