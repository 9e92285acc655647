# Copyright (C) The ngx_vd_module authors
#
# Every attempt is the first one again: what is sent by a retry, which is made from
# the journal's record alone, is what the first attempt sent, to the byte.

use v5.10.1;
use strict;
use warnings;

use Digest::SHA qw(sha256_hex);
use IO::Socket::INET;
use Test::More;

use Test::VD;
use Test::VD::Again qw(location first_request again wire same_but_for_attempt exchange
    records_of);
use Test::VD::Journal;

use constant {
    LOCATIONS => 15,
    REQUESTS  => 4,
};

my $BINARY = join '', map chr, 0 .. 255;
my $UTF8   = "Stra\xc3\x9fe \xf0\x9f\x9a\x91";
my $LATIN1 = "Stra\xdfe";
my $LONG   = 'L' x 2000;

# Of the app, and of what else there is at the time: on a retry all of it differs.
my @VARIABLES = map {"\$$_"} qw(
    http_x_tenant http_x_token http_traceparent http_content_encoding http_x_absent
    http_user_agent http_host http_content_type http_accept http_x_case_id
    arg_who args cookie_session request_body request_uri uri document_uri
    remote_addr remote_port connection connection_requests request_id request_length
    msec time_iso8601 time_local host server_name server_port scheme request_method
    content_length content_type pid hostname nginx_version binary_remote_addr
    vd_id vd_output vd_label vd_case mapped twice spread changed tenant_of
);

my $HTTP = <<'CONFIG';
large_client_header_buffers 8 16k;
map $http_x_tenant $mapped { default "none"; acme "Acme Inc."; }
map $mapped $twice { default "no"; "~^Acme (?<rest>.*)" "yes $rest"; }
map $http_x_tenant $tenant_of { default $http_x_tenant; }
map $vd_attempt $numbered { default "again try-$vd_attempt"; }
map $numbered $deeper { default "[$numbered]"; }
split_clients "$http_x_tenant" $spread { 50% "a"; * "b"; }
CONFIG

# An nginx with these locations, by id.
sub start {
    my ($locations, %config) = @_;

    my (%name, $server);
    for my $id (sort keys %{$locations}) {
        (my $config, $name{$id}) = location($id, $locations->{$id});
        $server .= $config;
    }
    my $nginx = Test::VD::Journal->start(
        journal => 'sync=off',
        http    => $HTTP,
        server  => 'set $vd_attempted ""; set $changed "set for $http_x_tenant"; ' . $server,
        %config
    );
    return ($nginx, \%name);
}

sub state_of {
    my ($answer) = @_;
    return $answer =~ /^(\d+) .*"state":"(\w+)"/s ? "$1 $2" : $answer;
}

sub all_well {
    my ($nginx) = @_;

    local $Test::Builder::Level = $Test::Builder::Level + 1;
    is($nginx->wrong,   '', 'the journal is sound');
    is($nginx->trouble, '', 'nothing severe in the log');
    return $nginx->stop;
}

# A first attempt, and two from its record; how many requests there were before.
sub repeated {
    my ($nginx, $name, $what, $request, $before) = @_;

    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my ($id) = $request =~ /^Idempotency-Key: (\S+)\r$/m;

    my $answer = exchange($nginx, $request);
    is(state_of($answer), '202 pending', "$what: the first attempt") or return;
    my ($record) = records_of($nginx, $id);
    $before //= 0;
    my $first = same_but_for_attempt(wire($name, $before + 1), 1);

    for my $attempt (2, 37) {
        is(state_of(exchange($nginx, again($record, $attempt))), '202 pending',
            "$what: attempt $attempt");
        is(same_but_for_attempt(wire($name, $before + ($attempt == 2 ? 2 : 3)), $attempt),
            $first, "$what: the same request");
    }
    my (undef, @later) = records_of($nginx, $id);
    for my $key (qw(case content_type)) {
        my @values = map { ($_->{$key} // 'null') =~ s/\btry-\d+/try-/gr } $record, @later;
        is_deeply(\@values, [ ($values[0]) x 3 ], "$what: $key in the records");
    }
    return ($record, $first);
}


subtest 'cases, headers and variables of all kinds' => sub {
    my $case = 'vd_set_header X-Case-Id $vd_case;';
    my %what = (
        case_ascii  => [ $case, [ 'X-Case-Id: C-1' ], 'X-Case-Id: C-1' ],
        case_none   => [ $case, [] ],
        case_empty  => [ $case, [ 'X-Case-Id:' ] ],
        case_tab    => [ $case, [ "X-Case-Id: C\t1" ], "X-Case-Id: C\t1" ],
        case_utf8   => [ $case, [ "X-Case-Id: $UTF8" ], "X-Case-Id: $UTF8" ],
        case_latin1 => [ $case, [ "X-Case-Id: $LATIN1" ], "X-Case-Id: $LATIN1" ],
        case_513    => [ $case, [ 'X-Case-Id: ' . 'c' x 513 ], 'X-Case-Id: ' . 'c' x 513 ],
        case_long   => [ $case, [ "X-Case-Id: $LONG" ], "X-Case-Id: $LONG" ],
        case_arg    => [ "vd_case \$arg_c; $case", [], 'X-Case-Id: from-args', '?c=from-args' ],
        case_body   => [ "vd_case \$request_body; $case vd_set_header X-Body \$request_body;", [],
            'X-Case-Id: {"case": 1}' ],
        case_fixed  => [ "vd_case fixed; $case", [], 'X-Case-Id: fixed' ],
        case_number => [ "vd_case 'try-\$vd_attempt'; $case", [], 'X-Case-Id: try-' ],

        tenant    => [ 'vd_set_header X-Tenant $http_x_tenant;', [ 'X-Tenant: acme' ],
            'X-Tenant: acme' ],
        token     => [ 'vd_set_header Authorization "Bearer $http_x_token";', [ 'X-Token: abc' ],
            'Authorization: Bearer abc' ],
        trace     => [ 'vd_set_header traceparent $http_traceparent;', [ 'traceparent: 00-1-2-01' ],
            'traceparent: 00-1-2-01' ],
        encoding  => [ 'vd_set_header Content-Encoding $http_content_encoding;',
            [ 'Content-Encoding: gzip' ], 'Content-Encoding: gzip' ],
        host      => [ 'vd_set_header Host $http_host;', [], 'Host: localhost' ],
        agent     => [ 'vd_set_header User-Agent $http_user_agent;', [ 'User-Agent: app/1' ],
            'User-Agent: app/1' ],
        no_agent  => [ 'vd_set_header User-Agent $http_user_agent;', [] ],
        accept    => [ 'vd_set_header Accept $http_accept;', [] ],
        empty     => [ 'vd_set_header X-A $http_x_absent; vd_set_header X-B "b";', [], 'X-B: b' ],
        bytes     => [ 'vd_set_header X-A $http_x_a;', [ "X-A: \xff\t\xe9$UTF8" ],
            "X-A: \xff\t\xe9$UTF8" ],
        maps      => [ 'vd_set_header X-A "$mapped/$twice/$tenant_of/$changed/$spread";',
            [ 'X-Tenant: acme' ], 'X-A: Acme Inc./yes Inc./acme/set for acme/b' ],
        many      => [ join('', map {"vd_set_header X-N$_ \"$_ \$http_x_tenant\";"} 1 .. 30),
            [ 'X-Tenant: acme' ], 'X-N30: 30 acme' ],
        captures  => [ 'vd_set_header X-A $uri;', [], 'X-A: /captures' ],

        number       => [ 'vd_set_header X-A "try-$vd_attempt";', [], 'X-A: try-' ],
        number_brace => [ 'vd_set_header X-A "try-${vd_attempt}";', [], 'X-A: try-' ],
        number_case  => [ 'vd_set_header X-A "try-$VD_Attempt";', [], 'X-A: try-' ],
        number_and   => [
            'vd_set_header X-A "try-$vd_attempt/$http_x_tenant/try-${vd_attempt}x/$vd_attempted";',
            [ 'X-Tenant: acme' ], 'X-A: try-/acme/try-x/' ],
        number_map   => [ 'vd_set_header X-A $numbered;', [], 'X-A: again try-' ],
        number_maps  => [ 'vd_set_header X-A $deeper; vd_set_header X-B $numbered; '
                . 'vd_set_header X-C "$http_x_tenant"; vd_set_header X-D "$deeper";',
            [ 'X-Tenant: acme' ], 'X-D: [again try-]' ],
        number_twice => [ 'vd_set_header X-A $numbered; vd_set_header X-B $numbered;', [],
            'X-B: again try-' ],
    );
    $what{"variable_$_"} = [ "vd_set_header X-A \"[\$$_]\"; vd_set_header X-B \$$_;",
        [ 'X-Tenant: acme', "X-Token: $UTF8", 'Cookie: session=1', 'X-Case-Id: C-1' ],
        undef, '?who=me' ] for map {s/^\$//r} @VARIABLES;
    delete $what{variable_binary_remote_addr};    # has control characters

    my ($nginx, $name) = start({ map { $_ => $what{$_}[0] } keys %what });

    for my $id (sort keys %what) {
        my (undef, $headers, $seen, $args) = @{ $what{$id} };
        my ($record, $first) = repeated($nginx, $name->{$id}, $id, first_request($id,
            uri => "/$id" . ($args // ''), headers => $headers));
        like($first, qr/^\Q$seen\E\r$/m, "$id: what was sent") if defined $seen;
    }
    unlike(wire($name->{empty}, 1),     qr/^X-A/mi,        'an empty one is not sent');
    unlike(wire($name->{no_agent}, 2),  qr/^User-Agent/mi, 'nor the sidecar\'s own');
    unlike(wire($name->{case_none}, 2), qr/^X-Case-Id/mi,  'nor a case that is none');
    like(wire($name->{number_and}, 3), qr{^X-A: try-37/acme/try-37x/\r$}m,
        'the number in the midst of what is kept');
    like(wire($name->{case_body}, 3), qr/^X-Body: \{"case": 1\}\r$/m,
        'the body has not been asked for too early');
    all_well($nginx);
};


subtest 'types and bodies of all kinds' => sub {
    my $json = 'application/json';
    my %type = (
        none    => [ '', [], $json ],
        empty   => [ '', [ 'Content-Type:' ], $json ],
        blank   => [ '', [ "Content-Type:  \t " ], $json ],
        plain   => [ '', [ 'Content-Type: text/plain' ], 'text/plain' ],
        params  => [ '', [ 'Content-Type: text/x; a="b;c" ; d=e' ], 'text/x; a="b;c" ; d=e' ],
        tab     => [ '', [ "Content-Type: text/x;\ta=b" ], "text/x;\ta=b" ],
        utf8    => [ '', [ "Content-Type: text/x; a=\"$UTF8\"" ], "text/x; a=\"$UTF8\"" ],
        latin1  => [ '', [ "Content-Type: text/x; a=\"$LATIN1\"" ], "text/x; a=\"$LATIN1\"" ],
        fixed   => [ 'vd_set_header Content-Type text/fixed;', [ 'Content-Type: text/plain' ],
            'text/fixed' ],
        removed => [ 'vd_set_header Content-Type "";', [ 'Content-Type: text/plain' ], undef ],
        set     => [ 'vd_set_header Content-Type "$http_x_type";',
            [ 'Content-Type: text/plain', 'X-Type: text/set' ], 'text/set' ],
        set_to  => [ 'vd_set_header Content-Type "$content_type;x";',
            [ 'Content-Type: text/plain' ], 'text/plain;x' ],
        unset   => [ 'vd_set_header Content-Type "$http_x_type";',
            [ 'Content-Type: text/plain' ], undef ],
        nothing => [ 'vd_set_header Content-Type "$content_type";', [], undef ],
        odd_one => [ 'vd_set_header Content-Type "$content_type";',
            [ "Content-Type: text/$LATIN1" ], "text/$LATIN1" ],
        number  => [ 'vd_set_header Content-Type "try-$vd_attempt";', [], 'try-1' ],
    );
    my %body = (
        binary  => $BINARY,
        file    => $BINARY x 300,
        text    => "{\"a\": \"$UTF8\"}\n",
        spilled => '{"a":"' . 'y' x 60_000 . '"}',
        nul     => "\0",
    );
    my ($nginx, $name) = start({
        (map { $_ => $type{$_}[0] } keys %type),
        map { $_ => 'vd_validate off; client_body_buffer_size 1k;' } keys %body
    });

    for my $id (sort keys %type) {
        my (undef, $headers, $expected) = @{ $type{$id} };
        my ($record, $first)
            = repeated($nginx, $name->{$id}, $id, first_request($id, uri => "/$id", headers => $headers));
        my ($sent) = wire($name->{$id}, 1) =~ /^Content-Type: (.*)\r$/m;
        is($sent, $expected, "$id: what was sent");
        utf8::decode($expected) if defined $expected;
        $expected =~ s/\xdf/\x{fffd}/ if defined $expected && $id ne 'utf8';
        is($record->{content_type}, $expected, "$id: what is in the record");
    }
    for my $id (sort keys %body) {
        my ($record)
            = repeated($nginx, $name->{$id}, $id, first_request($id, uri => "/$id", body => $body{$id}));
        is($record->{digest}, sha256_hex($body{$id}), "$id: the digest");
    }
    all_well($nginx);
};

# Bytes that nginx lets a header's value have, and that may be sent on.
sub random_value {
    my ($most) = @_;

    my @bytes = ("\t", map chr, 0x20 .. 0x7e, 0x80 .. 0xff);
    return join '', map { $bytes[ rand @bytes ] } 1 .. int rand $most;
}

# Values of vd_case and vd_set_header.  What takes $vd_attempt from a map is made
# anew, with all else that is in the same value.
my @FROM_APP = (qw(a - / $mapped $twice $changed $vd_id $request_id $msec $remote_port $arg_who),
    map {"\${http_x_$_}"} 1 .. 4);

sub random_text {
    my @pieces = rand 6 < 1 ? qw(a - / [try-$vd_attempt] $numbered $deeper) : @_;
    return join ' ', map { $pieces[ rand @pieces ] } 0 .. rand 5;
}

sub random_header {
    return random_text(@FROM_APP, qw([try-$vd_attempt] [try-${vd_attempt}] ${vd_case}x));
}

my $seed = $ENV{TEST_VD_SEED} // int rand 2**31;

subtest "at random, TEST_VD_SEED=$seed" => sub {
    srand $seed;

    my %location;
    for my $id (map {"random$_"} 1 .. LOCATIONS) {
        my @names = (map({"X-R$_"} 1 .. rand 6), rand 4 < 1 ? 'Content-Type' : ());
        $location{$id} = join '',
            map { sprintf qq(vd_set_header %s "%s";\n), $_, random_header() } @names;
        $location{$id} .= 'vd_case "' . join(' ', @FROM_APP[ map { rand @FROM_APP } 0 .. rand 5 ]) . '";'
            if rand 2 < 1;
    }
    my ($nginx, $name) = start(\%location);

    for my $id (sort keys %location) {
        for my $n (0 .. REQUESTS - 1) {
            my @headers = map { "X-$_: " . random_value(40) } grep { rand 3 < 2 } 1 .. 4;
            push @headers, 'Content-Type: ' . random_value(40) if rand 2 < 1;
            push @headers, 'X-Case-Id: ' . random_value(rand 4 < 1 ? 600 : 20) if rand 2 < 1;
            push @headers, 'X-Tenant: acme' if rand 2 < 1;

            my $body = rand 2 < 1 ? '{"case": 1}' : '"' . 'x' x int(rand 3000) . '"';
            repeated($nginx, $name->{$id}, "$id, $n", first_request("$id-$n",
                uri => "/$id?who=$n", headers => \@headers, body => $body), 3 * $n)
                or diag $location{$id}, explain \@headers;
        }
    }
    all_well($nginx);
};

done_testing();
