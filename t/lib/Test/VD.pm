package Test::VD;

# Copyright (C) The ngx_vd_module authors
#
# What the suites share, beside Test::Nginx::Socket: the raw receiver, which runs
# as long as the suite does, and a short way to write down deliveries to it.
#
# Ports, as variables of the environment that a block can use:
#
#   $TEST_NGINX_RAW_PORT      the raw receiver, does what it is told
#   $TEST_NGINX_SILENT_PORT   connects, but never reads nor says anything
#   $TEST_NGINX_FULL_PORT     does not even connect
#
# and $TEST_NGINX_HTML_DIR, where user_files go, $TEST_NGINX_SECRET_FILE, a secret
# that others cannot read.  Sections of its own:
#
#   --- receiver
#   send HTTP/1.1 200 OK\r\n\r\nyes      what the raw receiver does, a step a
#   close                                line; the steps are in raw-receiver
#
#   --- requests
#   deliver A -> failed null timeout     state, status, and reason, ticket id or
#   deliver -> delivered 200 T-1         ticket_error; "A" is the Idempotency-Key,
#   deliver A /u 6m -> ...               location and size; else /t and a few bytes
#   seen -> 1.1 A, 2.1 A                 what the receiver saw: see there
#   open 0                               connections that are open at the receiver
#   get /x -> text                       any other request
#
#   --- vd
#   vd_timeout 1s;                       what else is in the location /t
#
#   --- cases
#   failed null closed <- close          many deliveries, each with its receiver
#   failed 200 closed <- send ... | close
#
# In config and http_config, $SCRIPT is the receiver's script as the path of an
# URL.  Without config there is a location /t that delivers to it as output 28.

use v5.10.1;
use strict;
use warnings;

use File::Basename qw(dirname);
use File::Temp ();
use IPC::Open2 qw(open2);

my %TICKET_ERROR = map { $_ => 1 } qw(
    missing not_json wrong_type empty too_long bad_characters no_match too_large
);
my $NOTHING_SEVERE = "[alert]\n[crit]\n[emerg]\n";

my $owner  = $$;
my $cases  = 0;
our $secret = File::Temp->new;
my ($receiver, $lifeline);

_start_receiver();

print {$secret} "the secret of all the suites\n";
$secret->flush;
$ENV{TEST_NGINX_SECRET_FILE} = $secret->filename;

if (my $html_dir = Test::Nginx::Socket->can('html_dir')) {
    $ENV{TEST_NGINX_HTML_DIR} //= $html_dir->();
    Test::Nginx::Socket::add_block_preprocessor(sub { _prepare(@_) });
}


# The receiver would end with this process in any case, by its standard input.
sub _start_receiver {
    $receiver = open2(my $out, $lifeline, dirname(__FILE__) . '/../raw-receiver');

    my $line = <$out> // die "raw-receiver does not start\n";
    @ENV{ map {"TEST_NGINX_${_}_PORT"} qw(RAW SILENT FULL) } = split ' ', $line;
    return;
}

END {
    if ($receiver && $$ == $owner) {
        local $?;
        kill 'TERM', $receiver;
        waitpid $receiver, 0;
    }
}


# The path of an URL that makes the raw receiver take these steps, and the name
# of the case there.
sub script {
    my ($steps) = @_;

    my $name  = "$$-" . ++$cases;
    my @steps = map {s/([^A-Za-z0-9._-])/sprintf '%%%02X', ord $1/egr}
        grep {/\S/} split /\n/, $steps;

    return (join('&', "/$name?", @steps) =~ s/\?&/?/r, $name);
}

# What an answer has to look like.
sub answer {
    my ($outcome, $id) = @_;

    my ($state, $status, $word) = split ' ', $outcome;
    my $delivered = $state eq 'delivered';
    my $error     = $delivered && $TICKET_ERROR{$word};

    return sprintf '^\{"id":"%s","output":"[^"]+","state":"%s","attempt":1,'
        . '"status":%s,"ticket_id":%s,"ticket_error":%s,"reason":%s,'
        . '"journaled":false\}\n$',
        $id ? "\Q$id\E" : '[0-9a-f-]{36}', $state, $status,
        map { defined ? qq{"\Q$_\E"} : 'null' }
            $delivered && !$error ? $word : undef,
        $error ? $word : undef, $delivered ? undef : $word;
}

sub _prepare {
    my ($block) = @_;

    _set($block, cases => \&_prepare_cases);
    _set($block, receiver => \&_prepare_receiver);
    _set($block, requests => \&_prepare_requests);
    return;
}

sub _set {
    my ($block, $section, $code) = @_;

    my $value = _take($block, $section) // return;
    $code->($block, $value);

    $block->set_value(no_error_log => $NOTHING_SEVERE)
        if !defined $block->no_error_log;
    return;
}

# Gone from the block, as it is of no use to the runner.
sub _take {
    my ($block, $section) = @_;

    my $value = delete $block->{$section} // return;
    return $value->[0];
}

sub _prepare_receiver {
    my ($block, $steps) = @_;

    my ($path, $name) = script($steps);
    my $vd     = _take($block, 'vd') // '';
    my $config = $block->config      // <<"CONFIG";
    vd_secret_file \$TEST_NGINX_SECRET_FILE;

    location = /t {
        vd_pass http://127.0.0.1:\$TEST_NGINX_RAW_PORT\$SCRIPT;
        vd_output 28;
        $vd
    }
CONFIG

    $config .= <<"CONFIG";
    location = /seen {
        proxy_pass http://127.0.0.1:\$TEST_NGINX_RAW_PORT/seen/$name;
    }

    location /open/ {
        proxy_pass http://127.0.0.1:\$TEST_NGINX_RAW_PORT/open/$name/;
    }
CONFIG

    $block->set_value(config => $config =~ s/\$SCRIPT/$path/gr);
    $block->set_value(http_config => $block->http_config =~ s/\$SCRIPT/$path/gr)
        if defined $block->http_config;
    return;
}

sub _prepare_cases {
    my ($block, $text) = @_;

    my $vd     = _take($block, 'vd') // '';
    my $config = "vd_secret_file \$TEST_NGINX_SECRET_FILE;\n";
    my $number = 0;
    my @requests;

    for my $line (grep {/\S/} split /\n/, $text) {
        my ($outcome, $steps) = $line =~ /^(\S+ \S+ \S+)\s+<- (.*)/
            or die 'not a case: "', $line, "\"\n";
        my ($path) = script($steps =~ s/ \| /\n/gr);

        $config .= <<"CONFIG";
    location = /t$number {
        vd_pass http://127.0.0.1:\$TEST_NGINX_RAW_PORT$path;
        vd_output 28;
        $vd
    }
CONFIG
        push @requests, "deliver /t$number -> $outcome";
        $number++;
    }

    $block->set_value(config => $config);
    _prepare_requests($block, join "\n", @requests);
    return;
}

sub _prepare_requests {
    my ($block, $text) = @_;

    my (@requests, @headers, @codes, @bodies);

    for my $line (grep {/\S/} split /\n/, $text) {
        my ($request, $expected) = split /\s*->\s*/, $line, 2;
        my ($verb, @words) = split ' ', $request;

        if ($verb eq 'deliver') {
            my ($uri)  = grep {m{^/}} @words;
            my ($size) = map { /^(\d+)m$/ ? $1 * 1024**2 : () } @words;
            my ($id)   = grep { !/^(?:\/|\d+m$)/ } @words;

            push @requests,
                sprintf qq(POST %s\n{"case": "%s"}), $uri // '/t', 'x' x ($size // 1);
            push @headers,  $id ? "Idempotency-Key: $id" : '';
            push @codes,    $expected =~ /^delivered/ ? 200 : 502;
            push @bodies,   answer($expected, $id);
            next;
        }

        if ($verb eq 'seen') {
            push @requests, 'GET /seen';
            push @bodies, '^' . join('', map {"\Q$_\E\\n"} split /, /, $expected) . '$';
        }
        elsif ($verb eq 'open') {
            push @requests, "GET /open/$words[0]";
            push @bodies,   "^$words[0] open\\n\$";
        }
        elsif ($verb eq 'get') {
            push @requests, "GET $words[0]";
            push @bodies,   "^\Q$expected\E\$";
        }
        else {
            die 'not a request: "', $line, "\"\n";
        }
        push @headers, '';
        push @codes,   200;
    }

    $block->set_value(request            => \@requests);
    $block->set_value(more_headers       => \@headers);
    $block->set_value(error_code         => \@codes);
    $block->set_value(response_body_like => \@bodies);
    return;
}

1;
