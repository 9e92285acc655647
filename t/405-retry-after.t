# Copyright (C) The ngx_vd_module authors
#
# When a receiver wants to be asked again: "retry_after" in the journal.

use v5.10.1;
use strict;
use warnings;

use POSIX qw(setlocale strftime LC_TIME);
use Test::More;
use Time::Local qw(timegm);

use Test::VD;
use Test::VD::Journal qw(output raw keys_of);

use constant {
    HOUR => 3600,
    WEEK => 604_800,
};

my $KEYS = 'v time id output label case uri attempt outcome reason status upstream '
    . 'duration_ms ticket_id ticket_error response';
my $END  = 'content_type host kept digest body crc';
my $RAW  = "127.0.0.1:$ENV{TEST_NGINX_RAW_PORT}";

setlocale(LC_TIME, 'C');


# A response with these header lines.
sub reply {
    my ($status, @headers) = @_;
    return 'send ' . join '\r\n', "HTTP/1.1 $status Status", @headers, 'Content-Length: 2', '', '{}';
}

# A date of RFC 9110, as all are to send it unless another form is given.
sub date {
    my ($time, $format) = @_;
    return strftime($format // '%a, %d %b %Y %H:%M:%S GMT', gmtime $time);
}

# The second of a record.
sub time_of {
    my ($record) = @_;

    my ($year, $month, @rest) = $record->{time} =~ /\d+/g;
    return timegm(reverse(@rest[0 .. 3]), $month - 1, $year);
}

# A delivery for each of these, by id: what the receiver does, and the expected
# seconds, which may be told by the record; undef: the key is absent.
sub deliveries {
    my (%case) = @_;

    my $nginx = Test::VD::Journal->start(
        journal => '',
        server  => join '', map { output($_, raw($case{$_}[0])) } sort keys %case
    );
    for my $id (sort keys %case) {
        $nginx->deliver("/$id", id => $id);

        my $record   = $nginx->record($id);
        my $expected = $case{$id}[1];
        $expected = $expected->($record) if ref $expected;

        is($record->{retry_after}, $expected, "$id: the seconds");
        is(keys_of($record->{line}), join(' ', $KEYS, defined $expected ? 'retry_after' : (), $END),
            "$id: the keys") if $record->{outcome} eq 'failed';
    }
    return all_well($nginx);
}

sub all_well {
    my ($nginx) = @_;

    local $Test::Builder::Level = $Test::Builder::Level + 1;
    is($nginx->wrong,   '', 'the journal is sound');
    is($nginx->trouble, '', 'nothing severe in the log');
    return $nginx->stop;
}


subtest 'to the byte' => sub {
    my $nginx = Test::VD::Journal->start(
        journal => '',
        server  => output(28, raw(reply(503, 'Retry-After: 120')))
    );
    is($nginx->deliver('/28', id => 'A'), '202 {"id":"A","output":"28","state":"pending","attempt":1,'
        . '"status":503,"ticket_id":null,"ticket_error":null,"reason":"status","journaled":true}' . "\n",
        'the app\'s answer is as ever');
    like($nginx->record('A')->{line}, qr/,"response":"\{\}","retry_after":120,"content_type":"/,
        'a number, behind the response');
    all_well($nginx);
};


subtest 'seconds' => sub {
    deliveries(
        zero       => [ reply(503, 'Retry-After: 0'),        0 ],
        one        => [ reply(503, 'Retry-After: 1'),        1 ],
        zeros      => [ reply(503, 'Retry-After: 0000060'),  60 ],
        spaces     => [ reply(503, 'Retry-After:   60   '),  60 ],
        no_space   => [ reply(503, 'Retry-After:60'),        60 ],
        lower_case => [ reply(503, 'retry-after: 60'),       60 ],
        upper_case => [ reply(503, 'RETRY-AFTER: 60'),       60 ],
        last       => [ reply(503, 'X-A: b', 'Retry-After: 60'), 60 ],
        drip       => [ 'drip 0.001 HTTP/1.1 503 No\r\nRetry-After: 60\r\nContent-Length: 0\r\n\r\n', 60 ],
        until_end  => [ "send HTTP/1.1 503 No\\r\\nRetry-After: 60\\r\\n\\r\\nno\nclose", 60 ],
        chunked    => [ "send HTTP/1.1 503 No\\r\\nRetry-After: 60\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\n\n"
                . "chunk no\nchunk", 60 ],
        week       => [ reply(503, 'Retry-After: ' . WEEK),       WEEK ],
        over       => [ reply(503, 'Retry-After: ' . (WEEK + 1)), WEEK ],
        int        => [ reply(503, 'Retry-After: 4294967297'),    WEEK ],
        long       => [ reply(503, 'Retry-After: 18446744073709551617'), WEEK ],
        huge       => [ reply(503, 'Retry-After: ' . '9' x 1000), WEEK ],
    );
};


subtest 'dates, from the time of the record on' => sub {
    my $soon = time + HOUR;
    my $left = sub { $soon - time_of($_[0]) };

    deliveries(
        date    => [ reply(503, 'Retry-After: ' . date($soon)), $left ],
        rfc_850 => [ reply(503, 'Retry-After: ' . date($soon, '%A, %d-%b-%y %H:%M:%S GMT')), $left ],
        asctime => [ reply(503, 'Retry-After: ' . date($soon, '%a %b %e %H:%M:%S %Y')), $left ],
        slow    => [ "send HTTP/1.1 503 No\\r\\nRetry-After: ${\ date($soon)}\\r\\nContent-Length: 2\\r\\n\\r\\n\n"
                . "sleep 1.5\nsend {}", $left ],
        now     => [ reply(503, 'Retry-After: ' . date(time)), 0 ],
        past    => [ reply(503, 'Retry-After: ' . date(time - HOUR)), 0 ],
        long_past   => [ reply(503, 'Retry-After: Sun, 06 Nov 1994 08:49:37 GMT'), 0 ],
        before_1970 => [ reply(503, 'Retry-After: Tue, 06 Nov 1900 08:49:37 GMT'), 0 ],
        next_month  => [ reply(503, 'Retry-After: ' . date(time + 30 * 24 * HOUR)), WEEK ],
        the_end     => [ reply(503, 'Retry-After: Fri, 31 Dec 9999 23:59:59 GMT'), WEEK ],
    );
};


subtest 'what is neither' => sub {
    my %value = (
        empty    => '',
        negative => '-1',
        plus     => '+1',
        fraction => '1.5',
        exponent => '1e3',
        unit     => '60s',
        hex      => '0x10',
        word     => 'soon',
        quoted   => '"60"',
        two      => '60, 60',
        comma    => '60,',
        words    => '60 60',
        json     => '60,"reason":"x"',
        utf8     => '\xd9\xa1',
        long     => 'x' x 1000,
        iso      => date(time + HOUR, '%Y-%m-%dT%H:%M:%SZ'),
        zone     => date(time + HOUR, '%a, %d %b %Y %H:%M:%S +0200'),
        utc      => date(time + HOUR, '%a, %d %b %Y %H:%M:%S UTC'),
        no_zone  => date(time + HOUR, '%a, %d %b %Y %H:%M:%S'),
        no_time  => date(time + HOUR, '%a, %d %b %Y GMT'),
        no_day   => 'Thu, 31 Feb 2999 08:49:37 GMT',
        no_month => 'Thu, 10 Xyz 2999 08:49:37 GMT',
        no_hour  => 'Thu, 10 Dec 2999 24:00:00 GMT',
        dates    => join(', ', (date(time + HOUR)) x 2),
        gmt      => 'GMT',
        only_gmt => 'x' x 24 . ' GMT',
        asctime  => 'x' x 24,
    );
    deliveries(map { $_ => [ reply(503, "Retry-After: $value{$_}"), undef ] } keys %value);
};


subtest 'not one header of that name' => sub {
    deliveries(
        none     => [ reply(503), undef ],
        others   => [ reply(503, 'X-Retry-After: 60', 'Retry-Afte: 60', 'Retry-Afters: 60'), undef ],
        the_same => [ reply(503, 'Retry-After: 60', 'Retry-After: 60'), undef ],
        differ   => [ reply(503, 'Retry-After: 60', 'X-A: b', 'retry-after: 120'), undef ],
        first    => [ reply(503, 'Retry-After: 60', 'Retry-After: soon'), undef ],
        second   => [ reply(503, 'Retry-After:', 'Retry-After: 60'), undef ],
        three    => [ reply(503, ('Retry-After: 60') x 3), undef ],
    );
};


subtest 'a failed attempt with a complete response, no other' => sub {
    my $header = 'Retry-After: 60';

    deliveries(
        (map { ("s$_" => [ reply($_, $header), 60 ]) } 301, 400, 410, 429, 500, 503, 599),
        s304 => [ "send HTTP/1.1 304 No\\r\\n$header\\r\\n\\r\\n", 60 ],
        (map { ("s$_" => [ reply($_, $header), undef ]) } 200, 202, 299),
        cut      => [ "send HTTP/1.1 503 No\\r\\n$header\\r\\nContent-Length: 50\\r\\n\\r\\n{\nclose", undef ],
        header   => [ "send HTTP/1.1 503 No\\r\\n$header\\r\\n\nclose", undef ],
        protocol => [ reply(503, $header, 'Content-Length: 2'), undef ],
        interim  => [ "send HTTP/1.1 103 Hints\\r\\n$header\\r\\n\\r\\n\n" . reply(503), undef ],
        interims => [ "send HTTP/1.1 103 Hints\\r\\n$header\\r\\n\\r\\n\n" . reply(503, 'Retry-After: 7'), 7 ],
        body     => [ "reply 503 {}\\r\\n$header\\r\\n\\r\\n$header\\r\\n", undef ],
        trailer  => [ 'send HTTP/1.1 503 No\r\nTransfer-Encoding: chunked\r\n\r\n'
                . "2\\r\\n{}\\r\\n0\\r\\n$header\\r\\n\\r\\n", undef ],
        over     => [ "send HTTP/1.1 503 No\\r\\n$header\\r\\nContent-Length: 2000\\r\\n\\r\\n\n"
                . "sleep 0.1\nfill 1000 9\nsleep 0.1\nfill 1000 9", 60 ],
        more     => [ 'reply 503 {}' . "\n" . reply(503, $header), undef ],
    );
};


# A script's connections and requests come one after the other.
subtest 'that of the last response' => sub {
    my $twice = "server $RAW max_fails=0;\n" x 2;
    my $asks  = reply(503, 'Retry-After: 60');
    my $not   = reply(503);

    my $nginx = Test::VD::Journal->start(
        journal => '',
        http    => "upstream twice { $twice }\nupstream kept { server $RAW; keepalive 1; }\n"
            . "upstream down { server $RAW; server 127.0.0.1:1 backup; }\n"
            . 'vd_next_upstream error http_503 non_idempotent;',
        server => join '', map { output($_->[0], raw(join "\n", @{$_}[2 .. $#{$_}]) =~ s/\Q$RAW\E/$_->[1]/r) }
            [ not  => 'twice', $asks, 'next connection', $not ],
            [ asks => 'twice', $not,  'next connection', $asks ],
            [ both => 'twice', $asks, 'next connection', reply(503, 'Retry-After: 7') ],
            [ down => 'down',  $asks ],
            [ kept => 'kept',  $asks, 'next request', $not ],
    );
    my @expected = ([ not => undef ], [ asks => 60 ], [ both => 7 ], [ down => undef ],
        [ kept => 60 ], [ kept => undef ]);

    for my $n (0 .. $#expected) {
        my ($uri, $seconds) = @{ $expected[$n] };
        $nginx->deliver("/$uri", id => "n-$n");
        is($nginx->record("n-$n")->{retry_after}, $seconds, $uri);
    }
    is($nginx->record('n-3')->{reason}, 'connect', 'the last server is down');
    all_well($nginx);
};


done_testing();
