package Test::Nginx::Socket::Receiver;

# Copyright (C) The ngx_vd_module authors
#
# The mock server of the tcp_* sections: a child process that takes one
# connection, reads what it was told to, and sends a fixed reply.

use v5.10.1;
use strict;
use warnings;

use IO::Socket::INET;
use IO::Socket::UNIX;
use POSIX ();
use Socket qw(SOCK_STREAM);
use Test::More ();
use Time::HiRes qw(sleep);

use Test::Nginx::Socket::Check;

use constant READ_SIZE => 4096;


sub start {
    my ($class, $ctx) = @_;

    my $block  = $ctx->{block};
    my $target = $ctx->{server}->expand($block->{tcp_listen} // return, $ctx);
    my $self   = bless { socket => _listen($ctx, $target) }, $class;

    # a file and not a pipe, which could be full before anybody reads it
    open $self->{query}, '+>', undef or die "temporary file: $!\n";

    $self->{pid} = fork // die "fork: $!\n";
    if ($self->{pid} == 0) {
        eval { _serve($block, $self->{socket}, $self->{query}); 1 }
            or warn "$ctx->{name}: $@";
        POSIX::_exit(0);
    }

    return $self;
}

sub _listen {
    my ($ctx, $target) = @_;

    my $socket;
    if ($target =~ /^\d+$/) {
        $socket = IO::Socket::INET->new(
            LocalAddr => '127.0.0.1',
            LocalPort => $target,
            Listen    => 5,
            ReuseAddr => 1,
        );
    }
    elsif ($target =~ /^\S+\.sock$/) {
        unlink $target;
        $socket =
            IO::Socket::UNIX->new(Type => SOCK_STREAM, Local => $target, Listen => 5);
    }
    else {
        die "$ctx->{name}: tcp_listen takes a port or a path that ends in .sock\n";
    }

    return $socket // die "$ctx->{name}: cannot listen on $target: $!\n";
}

sub _serve {
    my ($block, $listener, $report) = @_;

    my $client = $listener->accept or die "accept: $!\n";
    my $closed = $block->{tcp_shutdown};

    if (defined $closed) {
        sleep $block->{tcp_shutdown_delay} if $block->{tcp_shutdown_delay};
        shutdown $client, $closed;
    }

    my $query = '';
    if (!defined $closed || $closed == 1) {
        $query = _read_query($block, $client, $report);
    }

    my $delay = $block->{tcp_reply_delay} // 0;
    $delay = $delay =~ /^([\d.]+)ms$/ ? $1 / 1000 : $delay =~ s/s$//r;
    sleep $delay if $delay;

    if (!defined $closed || $closed == 0) {
        _reply($block->{tcp_reply}, $client, $query);
    }

    sleep 1 while defined $block->{tcp_no_close};
    close $client;
    return;
}

# Up to the length asked for, or else whatever one read brings.  All of it is
# reported as it comes, since the test may look before the end.
sub _read_query {
    my ($block, $client, $report) = @_;

    my $expected = $block->{tcp_query};
    my $length   = $block->{tcp_query_len} // (defined $expected ? length $expected : 0);
    my $query    = '';

    do {
        my $got = sysread $client, $query, READ_SIZE, length $query;
        die "tcp_listen: read failed: $!\n" if !defined $got;
        sleep 1 while $got == 0 && length $query < $length;

        syswrite $report, substr $query, length($query) - $got;
    } while (length $query < $length);

    return $query;
}

sub _reply {
    my ($reply, $client, $query) = @_;

    local $SIG{PIPE} = 'IGNORE';
    $reply = $reply->($query) if ref $reply eq 'CODE';

    for my $piece (ref $reply ? @{$reply} : $reply // ()) {
        defined $client->send($piece) or warn "tcp_listen: send failed: $!\n";
    }

    return;
}

sub check {
    my ($self, $ctx) = @_;

    my ($block, $name) = @{$ctx}{qw(block name)};

    kill 'KILL', $self->{pid};
    waitpid delete $self->{pid}, 0;
    close $self->{socket};
    seek $self->{query}, 0, 0;
    my $query = do { local $/; readline $self->{query} } // '';

    Test::Nginx::Socket::Check::equal($query, $block->{tcp_query}, "$name - tcp_query")
        if defined $block->{tcp_query};
    Test::More::is(length $query, $block->{tcp_query_len}, "$name - tcp_query_len")
        if defined $block->{tcp_query_len};

    return;
}

# When the test ends early.
sub DESTROY {
    my ($self) = @_;

    return if !$self->{pid};
    local ($?, $!);
    kill 'KILL', $self->{pid};
    waitpid $self->{pid}, 0;
    return;
}

1;
