# Copyright (C) The ngx_vd_module authors
#
# What a receiver says without having been asked answers nothing: not the next
# case on a kept connection, not the one that a connection was opened for, nor that
# of the server which is tried next.

use v5.10.1;
use strict;
use warnings;

use IO::Select;
use IO::Socket::INET;
use Test::More;
use Time::HiRes qw(sleep time);

use Test::VD;
use Test::VD::Journal qw(output);

use constant PATIENCE => 20;

my $RESPONSE = "HTTP/1.1 200 OK\r\nContent-Length: 19\r\n\r\n" . '{"ticket_id":"%s"}';


sub listening {
    return IO::Socket::INET->new(Listen => 8, LocalAddr => '127.0.0.1')
        // die "cannot listen: $@\n";
}

# Serves the connections that come until nothing more does: each request is answered
# with a ticket id.
sub serve {
    my ($listener, $ticket) = @_;

    my $select = IO::Select->new($listener);
    my %read;

    while (my @ready = $select->can_read(PATIENCE)) {
        for my $socket (@ready) {
            if ($socket == $listener) {
                $select->add(scalar $listener->accept);
            }
            elsif (!sysread $socket, $read{$socket}, 65_536, length($read{$socket} // '')) {
                $select->remove($socket);
            }
            elsif ($read{$socket} =~ /\r\n\r\n.*\}/s) {
                syswrite $socket, sprintf $RESPONSE, $ticket;
                return;
            }
        }
    }
    return;
}

sub ticket {
    my ($answer) = @_;
    my ($ticket) = $answer =~ /"ticket_id":"([^"]+)"/;
    return $ticket // $answer;
}


# A worker that is stopped meanwhile finds the next request first, and then that
# there is more on the kept connection.
sub surplus {
    my ($what, $schema, $steps) = @_;

    my ($path) = Test::VD::script("reply 200 {\"ticket_id\":\"T-1\"}\n$steps\n"
        . "hold\nnext connection\nreply 200 {\"ticket_id\":\"T-2\"}");
    my $nginx = Test::VD::Journal->start(
        journal => undef,
        http    => <<"END",
upstream receiver { server 127.0.0.1:$ENV{TEST_NGINX_RAW_PORT}; keepalive 4; }
END
        server => output('t', "$schema://receiver$path", 'vd_ssl_verify off;'),
    );
    my ($worker) = $nginx->workers;

    my $next = $nginx->begin('/t', id => 'B', wait => 1);
    is(ticket($nginx->deliver('/t', id => 'A')), 'T-1', "$what: the first");
    $nginx->signal(STOP => $worker);
    print {$next} $Test::VD::Nginx::BODY;
    sleep 0.4;
    $nginx->signal(CONT => $worker);

    is(ticket($nginx->finish($next)), 'T-2', "$what: the next has its own reply");
    is($nginx->trouble, '', "$what: nothing severe was logged");
    $nginx->stop;
    return;
}

my $UNASKED = 'send HTTP/1.1 200 OK\r\nContent-Length: 19\r\n\r\n{"ticket_id":"T-9"}';

for my $schema (qw(http https)) {
    surplus("$schema, a response",     $schema, "sleep 0.15\n$UNASKED");
    surplus("$schema, a byte",         $schema, "sleep 0.15\nsend x");
    surplus("$schema, an empty line",  $schema, "sleep 0.15\nsend \\r\\n");
    surplus("$schema, the end",        $schema, "sleep 0.15\nshutdown");
    surplus("$schema, a reset",        $schema, "sleep 0.15\nreset");
    surplus("$schema, all in one go",  $schema, $UNASKED);
}

surplus('https, an alert',             'https', "sleep 0.15\nalert");
surplus('https, an alert in one go',   'https', 'alert');
surplus('https, a close_notify',       'https', "sleep 0.15\ngoodbye");


# A connect() that takes its time lets the receiver be the first to speak.
sub early {
    my ($what, $schema, $text, $expected, @more) = @_;

    my ($listener, $second) = (listening(), listening());
    my $nginx = Test::VD::Journal->start(
        journal => undef,
        http    => sprintf("upstream receiver { server 127.0.0.1:%d; server 127.0.0.1:%d backup; }\n",
            map { $_->sockport } $listener, $second),
        server => output('t', "$schema://receiver", @more),
    );
    my $trace = $nginx->trace(qw(-e trace=connect -e inject=connect:delay_exit=300000));

    close $second if $expected ne 'T-2';

    my $client = $nginx->begin('/t', id => 'A');
    my $socket = $listener->accept;
    syswrite $socket, $text;
    shutdown $socket, 1 if $text !~ /\}\z/;

    serve($second, 'T-2') if $expected eq 'T-2';

    like($nginx->finish($client), qr/$expected/, $what);
    $nginx->release($trace);
    is($nginx->trouble, '', "$what: nothing severe was logged");
    $nginx->stop;
    return;
}

my $ANYWAY = 'vd_next_upstream error timeout invalid_header;';

# Where nginx looks itself for what comes before a TLS handshake, it is "connect".
my $FAILED = '"state":"failed","attempt":1,"status":null,.*"reason":"protocol"';
my $REFUSED = $FAILED =~ s/protocol/(?:protocol|connect)/r;

early('a response before the request', 'http', sprintf($RESPONSE, 'T-9'), $FAILED);
early('a part of one', 'http', "HTTP/1.1 200 OK\r\nX-", $FAILED);
early('one before the TLS handshake', 'https', sprintf($RESPONSE, 'T-9'), $REFUSED);
early('a part of one before the TLS handshake', 'https', "HTTP/1.1 200 OK\r\nX-", $REFUSED);

early('left to the next server', 'http', sprintf($RESPONSE, 'T-9'), 'T-2', $ANYWAY);
early('a part of it left to the next server', 'http', "HTTP/1.1 500 No\r\nX-", 'T-2', $ANYWAY);
early('a malformed one left to the next server', 'http', "220 hello\r\n\r\n{}", 'T-2', $ANYWAY);

done_testing;
