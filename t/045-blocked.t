# Copyright (C) The ngx_vd_module authors
#
# Apps that do not take their answers, and leave: whatever the answer, and
# however the output is blocked, nothing of theirs is left behind.  And apps that
# leave while their case is under way: the attempt is finished as if they were
# there, and nobody's time is wasted on them.

use v5.10.1;
use strict;
use warnings;

use File::Path qw(remove_tree);
use File::Temp ();
use IO::Select;
use IO::Socket::INET;
use IO::Socket::UNIX;
use Socket qw(SOL_SOCKET SO_RCVBUF SO_LINGER inet_aton pack_sockaddr_in);
use Test::More;
use Time::HiRes qw(sleep time);

use Test::VD;
use Test::VD::HTTP2;
use Test::VD::Journal qw(output raw refused);

use constant {
    INITIAL_WINDOW_SIZE => 4,
    REQUESTS            => 20,
    SOON                => 20,
};

my $LONG = 'x' x 100_000;

# Each way out of the module: a location, the request, and the status.
my @WAYS = (
    ['method',         '/ok', '405', 'PUT',  '{}'],
    ['key',            '/ok', '400', 'POST', '{}',    'Idempotency-Key' => 'a.b'],
    ['number',         '/ok', '400', 'POST', '{}',    'VD-Attempt'      => '0'],
    ['too large',      '/small', '413', 'POST', '["too large"]'],
    ['empty body',     '/ok', '400', 'POST', ''],
    ['not JSON',       '/ok', '400', 'POST', '{bad'],
    ['not JSON, long', '/ok', '400', 'POST', "{$LONG"],
    ['delivered',      '/ok', '200', 'POST', '{}'],
    ['delivered, long', '/ok', '200', 'POST', qq("$LONG")],
    ['failed',         '/failed',   '502', 'POST', '{}'],
    ['internal',       "/internal/%0a", '502', 'POST', '{}'],
    ['pending',        '/pending',  '202', 'POST', '{}'],
    ['accepted',       '/accepted', '202', 'POST', '{}'],
    ['lost',           '/lost',     '503', 'POST', '{}'],
);

my $nginx = start();

for my $way (@WAYS) {
    my ($what, $uri, $status, @request) = @{$way};

    like(answer($uri, @request), qr{^HTTP/1\.1 $status }, "$what: the answer");

    for (['HTTP/2 without a window', \&without_window], ['never read', \&unread], ['limit_rate', \&limited]) {
        my ($how, $leave) = @{$_};

        my $sent = $leave->($uri, @request);
        cmp_ok($sent, '>', 0, "$what, $how: they were connected");
        ok($nginx->wait_until(sub { connections() == 1 }, SOON), "$what, $how: all are gone")
            or diag connections(), ' connections';
    }
}

is($nginx->trouble =~ s{^.*journal "\S+": .* failed, records are refused.*\n}{}mgr, '', 'nothing severe was logged');
ok(ends($nginx), 'no worker is held up');


# ---- a client that leaves during an attempt ----

my %LEAVING = (
    'closed'    => sub { close $_[0] },
    'reset'     => sub { reset_connection($_[0]) },
    'half-open' => sub { shutdown $_[0], 1 },
    'pipelined' => sub { syswrite $_[0], 'GET ' },
);

for my $events (methods(qw(epoll poll select))) {
    my ($path, $name) = Test::VD::script("sleep 2\nreply 200 {}");
    my $busy = Test::VD::Journal->start(
        events => "use $events;", connections => 1024,
        server => output('slow', "http://127.0.0.1:$ENV{TEST_NGINX_RAW_PORT}$path"));
    my ($worker) = $busy->workers;

    for my $way (sort keys %LEAVING) {
        my $socket = $busy->begin('/slow', id => "$events-$way");

        $busy->wait_until(sub { $busy->receiver("seen/$name") =~ /$events-$way\n/ }, SOON);
        my $start = cpu($worker);
        $LEAVING{$way}->($socket);
        sleep 1.5;

        # one that is busy has more than that even on a machine that is, too
        cmp_ok(cpu($worker) - $start, '<', 0.02, "$events, $way: the worker is idle");
        close $socket;
    }
    ok($busy->wait_until(sub { $busy->receiver("seen/$name") eq join '', map {"$_.1 $events-" . (sort keys %LEAVING)[$_ - 1] . "\n"} 1 .. keys %LEAVING }, SOON),
        "$events: all were delivered");
    ok($busy->wait_until(sub { $busy->get('/vd_status') =~ /^vd_attempts_total\{output="slow",label="",outcome="delivered",reason=""\} 4$/m }, SOON),
        "$events: and so counted");
    is($busy->trouble, '', "$events: nothing severe was logged");
}

done_testing();


sub start {
    my %listen  = (listen => 'sndbuf=4k');
    my $started = Test::VD::Journal->start(%listen, server => '');

    $started->make_dir("$started->{dir}/gone");
    $started->reload(%listen, journal => 'sync=off', http => <<'HTTP', server => <<"SERVER");
map $http_x_slow $rate { default 0; 1 10; }
HTTP
listen unix:$started->{dir}/h2.sock http2;
limit_rate \$rate;
keepalive_requests 100000;
client_body_buffer_size 1k;

location = /connections { return 200 "\$connections_active"; }
location = /ok { vd_pass ${\ raw('reply 200 {}')}; vd_output 28; vd_journal off; }
location = /small { client_max_body_size 1; vd_pass ${\ refused()}; vd_output 28; }
location = /failed { vd_pass ${\ refused()}; vd_output 28; vd_journal off; }
location ~ (?s)^/internal/(.*) { vd_pass ${\ refused()}; vd_output 28; vd_journal off; vd_set_header X-A \$1; }
location = /pending { vd_pass ${\ refused()}; vd_output 28; }
location = /accepted { vd_pass ${\ refused()}; vd_output 28; vd_ack journal; }
location = /lost { vd_pass ${\ refused()}; vd_output 28; vd_journal gone sync=off; }
SERVER
    remove_tree("$started->{dir}/gone");
    return $started;
}

sub connections {
    my ($status, $body) = split ' ', $nginx->get('/connections');
    return $body;
}

sub request {
    my ($more, $uri, $method, $body, %field) = @_;

    return join "\r\n", "$method $uri HTTP/1.1", 'Host: localhost', 'Content-Length: ' . length $body,
        (map {"$_: $field{$_}"} sort keys %field), ($more || ()), '', $body;
}

sub answer {
    my (@request) = @_;

    my $socket = $nginx->connect;
    print {$socket} request('Connection: close', @request);
    local $/;
    return <$socket> // '';
}


# ---- ways not to take an answer; each returns how many requests were sent ----

# Streams of an HTTP/2 connection whose window leaves no room for a body.
sub without_window {
    my ($uri, $method, $body, %field) = @_;

    my $socket = IO::Socket::UNIX->new("$nginx->{dir}/h2.sock") // die "cannot connect: $!\n";
    my @fields = map { [lc $_ => $field{$_}] } grep { $_ ne 'Idempotency-Key' } sort keys %field;
    my @pieces = unpack '(a16000)*', $body;

    syswrite $socket, preface(INITIAL_WINDOW_SIZE, 0);
    for my $stream (map { 2 * $_ - 1 } 1 .. REQUESTS) {
        my $head = post($stream, $uri, $field{'Idempotency-Key'} // "case-$stream", @fields);
        $head =~ s/\x04POST/pack 'C\/a', $method/e;
        substr $head, 0, 3, substr pack('N', length($head) - 9), 1;
        syswrite $socket, join '', $head, data($stream, $stream == 1 ? @pieces : substr $body, 0, 1000);
    }
    ok(waits($socket, REQUESTS), 'all are answered but for the bodies');
    close $socket;
    return REQUESTS;
}

# Whether so many streams have had headers, and none has had a body.
sub waits {
    my ($socket, $streams) = @_;

    my ($bytes, %seen) = ('');
    my $select = IO::Select->new($socket);

    while ((grep { $_->{head} } values %seen) < $streams && $select->can_read(SOON)) {
        sysread $socket, $bytes, 65536, length $bytes or last;

        while (length $bytes >= 9) {
            my ($length, $type, undef, $stream) = unpack 'N C C N', "\0$bytes";
            last if length $bytes < 9 + $length;
            substr $bytes, 0, 9 + $length, '';
            $seen{$stream}{head} = 1 if $type == HEADERS;
            $seen{$stream}{body} = 1 if $type == DATA && $length;
        }
    }
    return (grep { $_->{head} } values %seen) == $streams && !grep { $_->{body} } values %seen;
}

# Requests in a row, as long as there is room for them, and nothing is read.
sub unread {
    my (@request) = @_;

    my $socket = IO::Socket::INET->new(Proto => 'tcp') // die "socket: $!\n";
    setsockopt $socket, SOL_SOCKET, SO_RCVBUF, 2048 or die "setsockopt: $!\n";
    connect $socket, pack_sockaddr_in($nginx->{port}, inet_aton('127.0.0.1')) or die "connect: $!\n";
    $socket->blocking(0);

    my $pipeline = request('', @request) x (length $request[2] > 1000 ? 5 : 300);
    my $sent = 0;

    for (my $idle = 0; $idle < 10; sleep 0.02) {
        my $written = syswrite($socket, $pipeline, length($pipeline) - $sent, $sent) || 0;
        $sent += $written;
        $idle = $written ? 0 : $idle + 1;
    }
    close $socket;
    return $sent;
}

# One at a time, on connections that are allowed ten bytes a second.
sub limited {
    my (@request) = @_;

    my @sockets = map { $nginx->connect } 1 .. REQUESTS;
    syswrite $_, request('X-Slow: 1', @request) for @sockets;
    sleep 0.3;
    close $_ for @sockets;
    return scalar @sockets;
}


# ---- processes ----

# Whether all ends when it is told to, in the time that the rates of above leave.
sub ends {
    my ($ending) = @_;

    my @all = ($ending->pid, $ending->workers);
    $ending->signal('QUIT');
    return $ending->gone(SOON, @all);
}

# The time that a process has worked, in seconds.
sub cpu {
    my ($pid) = @_;

    open my $file, '<', "/proc/$pid/schedstat" or die "/proc/$pid/schedstat: $!\n";
    return (split ' ', <$file>)[0] / 1e9;
}

sub reset_connection {
    my ($socket) = @_;

    setsockopt $socket, SOL_SOCKET, SO_LINGER, pack 'ii', 1, 0;
    return close $socket;
}

# The methods of waiting for events that this nginx has.
sub methods {
    my $dir = File::Temp->newdir;

    return grep {
        open my $file, '>', "$dir/nginx.conf" or die "$dir: $!\n";
        print {$file} "pid nginx.pid; events { use $_; }\n";
        close $file;
        qx(${\ Test::VD::Nginx::_binary()} -p $dir/ -c nginx.conf -e error.log -t 2>&1) !~ /invalid event type/;
    } @_;
}
