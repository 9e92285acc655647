package Test::VD::Nginx;

# Copyright (C) The ngx_vd_module authors
#
# An nginx of a test's own, for what Test::Nginx::Socket cannot do: signals, and
# several deliveries at once.  It is started in a temporary directory and killed
# when the test ends.
#
#   my $nginx = Test::VD::Nginx->start(
#       main   => 'worker_processes 2;',    # optional
#       http   => 'log_format ...;',        # optional
#       server => 'location ...');

use v5.10.1;
use strict;
use warnings;

use Errno ();
use File::Temp ();
use IO::Select;
use IO::Socket::INET;
use POSIX ();
use Socket qw(SOL_SOCKET SO_REUSEADDR);
use Time::HiRes qw(sleep time);

use constant {
    PATIENCE => 60,
    POLL     => 0.01,
};

# A signal must not leave nginx behind: exit() runs the END block below.
$SIG{$_} = sub { exit 1 }
    for qw(INT TERM);

our $BODY = '{"case": 1}';

my $owner = $$;
my (@reserved, @started);


sub start {
    my ($class, %config) = @_;

    my $self = bless {
        dir    => File::Temp->newdir,
        binary => _binary(),
        port   => _free_port(),
        seen   => 0,
    }, $class;
    push @started, $self;
    $self->{single} = ($config{main} // '') =~ /master_process\s+off/;

    mkdir "$self->{dir}/logs";
    chmod 0755, $self->{dir};
    $self->configure(%config);

    $self->_start == 0 or die "nginx does not start\n", $self->log;
    $self->wait_until(sub { $self->pid && ($self->{single} || $self->workers) })
        or die "nginx does not come up\n";
    return $self;
}

# What it warns of is in its log, too.
sub _start {
    my ($self) = @_;

    my $stderr = "$self->{dir}/logs/stderr";
    my $status = system 'sh', '-c', 'exec "$@" 2> "$0"', $stderr, $self->{binary},
        '-p', "$self->{dir}/", '-c', 'nginx.conf', '-e', 'logs/error.log';

    open my $in, '<', $stderr or die "$stderr: $!";
    print {*STDERR} grep { !/\[warn\]/ } <$in>;
    unlink $stderr;
    return $status;
}

# With its path, as it has to find itself for an upgrade.
sub _binary {
    my $name = $ENV{TEST_NGINX_BINARY} || 'nginx';

    return $name if $name =~ m{/};
    return (grep {-x} map {"$_/$name"} split /:/, $ENV{PATH})[0] // die "no $name\n";
}

# Below the range that the system takes for outgoing connections.  As long as this
# process lives, nobody gets it but servers, which listen with SO_REUSEADDR.
sub _free_port {
    for (1 .. 1000) {
        my $port = 10_000 + int rand 22_000;
        my $socket = IO::Socket::INET->new(LocalPort => $port) // next;
        setsockopt $socket, SOL_SOCKET, SO_REUSEADDR, 1 or die "setsockopt: $!\n";
        push @reserved, $socket;
        return $port;
    }
    die "no free port found\n";
}

sub connect {
    my ($self) = @_;

    return IO::Socket::INET->new("127.0.0.1:$self->{port}")
        // die "cannot connect to nginx: $@\n";
}

# Calls $deliver with 0, 1, 2, … until the process is sent a TERM, which is
# looked for between two calls and interrupts none; or its parent is gone.
sub until_term {
    my ($deliver) = @_;

    my $parent = getppid;
    my $sent   = POSIX::SigSet->new;
    POSIX::sigprocmask(POSIX::SIG_BLOCK(), POSIX::SigSet->new(POSIX::SIGTERM()));

    for (my $n = 0; getppid == $parent; $n++) {
        POSIX::sigpending($sent);
        last if $sent->ismember(POSIX::SIGTERM());
        $deliver->($n);
    }

    return;
}

# Writes the configuration; it is for the next start or reload.
sub configure {
    my ($self, %config) = @_;

    my $modules = join "\n",
        map {"load_module $_;"} split ' ', $ENV{TEST_NGINX_LOAD_MODULES} // '';
    my $temp = join "\n", map {"${_}_temp_path $_;"} qw(client_body proxy fastcgi scgi uwsgi);
    my $user = $> == 0 ? 'user root;' : '';
    my ($main, $http) = map { $config{$_} // '' } qw(main http);

    $self->write_file('nginx.conf', <<"CONFIG");
$modules
$user
$main
pid logs/nginx.pid;
error_log logs/error.log info;
events { worker_connections 256; }
http {
    access_log off;
    $temp
    $http
    server {
        listen 127.0.0.1:$self->{port} backlog=512;
        client_max_body_size 30m;
        vd_secret_file secret;
        location = /pid { return 200 "\$pid"; }
        $config{server}
    }
}
CONFIG
    $self->write_file(secret => ($config{secret} // 'the secret of this nginx') . "\n");
    return;
}

sub write_file {
    my ($self, $name, $text) = @_;

    my $path = "$self->{dir}/$name";
    open my $file, '>', $path or die "cannot write $path: $!\n";
    chmod 0600, $path;
    print {$file} $text;
    close $file or die "cannot write $path: $!\n";
    return;
}


# ---- processes ----

sub pid {
    my ($self) = @_;

    open my $file, '<', "$self->{dir}/logs/nginx.pid" or return;
    my ($pid) = (<$file> // '') =~ /^(\d+)\n/;
    return $pid;
}

sub workers {
    my ($self, $master) = @_;

    $master //= $self->pid;
    open my $file, '<', "/proc/$master/task/$master/children" or return;
    return grep { alive($_) && !_is_master($_) } split ' ', <$file> // '';
}

# A new binary is a child of the old master, too.
sub _is_master {
    my ($pid) = @_;

    open my $file, '<', "/proc/$pid/cmdline" or return 0;
    return (<$file> // '') !~ /worker process/;
}

# A zombie counts as gone: whether it is reaped is up to the system's init.
sub alive {
    my ($pid) = @_;

    open my $file, '<', "/proc/$pid/stat" or return 0;
    return (<$file> // '') !~ /\) [ZX] /;
}

sub signal {
    my ($self, $signal, $pid) = @_;
    kill $signal, $pid // $self->pid;
    return;
}

sub wait_until {
    my ($self, $condition, $patience) = @_;

    for (my $limit = time + ($patience // PATIENCE); time < $limit; sleep POLL) {
        my $result = $condition->();
        return $result if $result;
    }
    return;
}

# Whether all the processes end in this time.
sub gone {
    my ($self, $patience, @pids) = @_;
    return $self->wait_until(sub { !grep { alive($_) } @pids }, $patience);
}

# Reloads; the old workers may be at work yet, but accept no more.  They are
# what is returned.
sub reload {
    my ($self, %config) = @_;

    my @old = $self->workers;

    $self->configure(%config);
    $self->log;
    $self->signal('HUP');
    $self->wait_for_log(qr/gracefully shutting down/, scalar @old);
    return @old;
}


# ---- the log ----

# What was logged since it was last asked for.
sub log {
    my ($self) = @_;

    open my $file, '<', "$self->{dir}/logs/error.log" or return '';
    seek $file, $self->{seen}, 0;
    local $/;
    my $text = <$file> // '';
    $self->{seen} = tell $file;
    return $text;
}

sub whole_log {
    my ($self) = @_;

    $self->{seen} = 0;
    return $self->log;
}

sub wait_for_log {
    my ($self, $pattern, $times) = @_;

    my $text = '';
    return $self->wait_until(sub {
        $text .= $self->log;
        return (() = $text =~ /$pattern/g) >= ($times // 1);
    });
}

# What must never be there, whatever a test does.
sub trouble {
    my ($self) = @_;

    return join '', grep {
        /\[(?:alert|crit)\]|exited on signal (?!9\b)|exited with fatal|Sanitizer|runtime error/
    } $self->whole_log =~ /^(.*\n)/mg;
}


# ---- deliveries ----

# Begins one and returns the socket.  With "wait" a worker has the request, but not
# its body yet.
sub begin {
    my ($self, $uri, %request) = @_;

    my $socket = $self->connect;
    my $body = $request{body} // $BODY;
    my $head = "POST $uri HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        . 'Content-Length: ' . length($body) . "\r\n";

    $head .= "Idempotency-Key: $request{id}\r\n" if $request{id};
    $socket->autoflush;

    if ($request{wait}) {
        print {$socket} "${head}Expect: 100-continue\r\n\r\n";
        _receive($socket, \my $continue);
        die "no 100 Continue\n" if $continue !~ /^HTTP\/1\.1 100 .*\r\n\r\n\z/s;
    }
    else {
        print {$socket} "$head\r\n$body";
    }

    return $socket;
}

# False at the end of the connection, or if nothing comes.
sub _receive {
    my ($socket, $text) = @_;

    my $select = IO::Select->new($socket);
    ${$text} //= '';

    for (my $limit = time + PATIENCE; time < $limit;) {
        next if !$select->can_read($limit - time);
        my $got = sysread $socket, ${$text}, 65_536, length ${$text};
        return $got if defined $got || !$!{EINTR};
    }
    return;
}

# What came back by the time that nginx closes: "STATUS BODY", or nothing.
sub finish {
    my ($self, $socket) = @_;

    my $answer = '';
    1 while _receive($socket, \$answer);
    close $socket;

    my ($status, $body) = $answer =~ m{^HTTP/1\.1 (\d+) .*?\r\n\r\n(.*)}s or return '';
    return "$status $body";
}

sub deliver {
    my ($self, @request) = @_;
    return $self->finish($self->begin(@request));
}

# The receiver's accounts: "seen/NAME", "open/NAME/N".
sub receiver {
    my ($self, $path) = @_;

    my $socket = IO::Socket::INET->new("127.0.0.1:$ENV{TEST_NGINX_RAW_PORT}")
        or die "cannot connect to the receiver: $@\n";
    print {$socket} "GET /$path HTTP/1.1\r\nConnection: close\r\n\r\n";
    shutdown $socket, 1;
    local $/;
    return (<$socket> // '') =~ s/^.*?\r\n\r\n//sr;
}


# ---- the end ----

sub stop {
    my ($self) = @_;

    for my $master (grep {$_} $self->pid, $self->{old}) {
        my @all = ($master, $self->workers($master));
        kill 'TERM', $master;
        $self->gone(5, @all) or kill 'KILL', @all;
    }
    return;
}

END {
    if ($$ == $owner) {
        local $?;
        $_->stop for splice @started;
    }
}

1;
