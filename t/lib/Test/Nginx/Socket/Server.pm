package Test::Nginx::Socket::Server;

# Copyright (C) The ngx_vd_module authors
#
# One nginx on a port of its own, under a root directory that it owns.

use v5.10.1;
use strict;
use warnings;

use File::Basename qw(dirname);
use File::Path qw(make_path remove_tree);
use File::Spec ();
use IO::Socket::INET;
use POSIX qw(WNOHANG);
use Socket qw(SOL_SOCKET SO_REUSEADDR);
use Time::HiRes qw(sleep time);

use constant {
    PATIENCE      => 30,
    POLL          => 0.002,
    QUIT_TIMEOUT  => 5,
    REPEAT_SIGNAL => 50,
    VALGRIND_EXIT => 99,
};

# What must never be in a log, whether a suite asks or not.
our $TROUBLE = qr{\bAssertion\ .*?failed\b
                | ERROR:\ \w+Sanitizer | :\ runtime\ error:
                | exited\ on\ signal\ (?:4|6|7|8|11)\b
                | exited\ with\ code\ 99\b
                | open\ socket\ \#\d+\ left\ in\ connection}x;

my @VALGRIND = (
    qw(valgrind -q --num-callers=100 --tool=memcheck --leak-check=full),
    qw(--show-possibly-lost=no --errors-for-leak-kinds=definite),
    '--error-exitcode=' . VALGRIND_EXIT,
    '--suppressions=' . dirname(__FILE__) . '/../../../valgrind.suppress',
);

my @reserved;


sub new {
    my ($class) = @_;

    my $randomize = $ENV{TEST_NGINX_RANDOMIZE};
    my $port      = $randomize
        ? free_port()
        : $ENV{TEST_NGINX_SERVER_PORT} || $ENV{TEST_NGINX_PORT} || 1984;
    my $root = $randomize
        ? "t/servroot_$port"
        : $ENV{TEST_NGINX_SERVROOT} || 't/servroot';

    return bless {
        addr               => '127.0.0.1',
        binary             => $ENV{TEST_NGINX_BINARY} || 'nginx',
        config_preamble    => '',
        env                => [],
        hup                => $ENV{TEST_NGINX_USE_HUP},
        load_modules       => $ENV{TEST_NGINX_LOAD_MODULES} // '',
        log_level          => $ENV{TEST_NGINX_LOG_LEVEL} || 'debug',
        master             => $ENV{TEST_NGINX_MASTER_PROCESS} || 'off',
        pause              => $ENV{TEST_NGINX_SLEEP} || 0.015,
        port               => $port,
        root               => File::Spec->rel2abs($root),
        root_location      => 1,
        server_name        => 'localhost',
        temporary          => $randomize,
        timeout            => $ENV{TEST_NGINX_TIMEOUT} || PATIENCE,
        valgrind           => $ENV{TEST_NGINX_USE_VALGRIND},
        worker_connections => 64,
        workers            => 1,
    }, $class;
}

# Below the range that the system takes for outgoing connections.  As long as this
# process lives, nobody gets it but servers, which listen with SO_REUSEADDR.
sub free_port {
    for (1 .. 1000) {
        my $port = 10_000 + int rand 22_000;
        my $socket = IO::Socket::INET->new(LocalPort => $port) // next;
        setsockopt $socket, SOL_SOCKET, SO_REUSEADDR, 1 or die "setsockopt: $!\n";
        push @reserved, $socket;
        return $port;
    }
    die "no free port found\n";
}

sub find_version {
    my ($self) = @_;

    my $text = qx{$self->{binary} -V 2>&1};
    my ($major, $minor, $patch) = $text =~ m{/(\d+)\.(\d+)\.(\d+)}
        or die "cannot run $self->{binary}: $text\n";

    $self->{version} = version_number($major, $minor, $patch);
    return;
}

sub version_number {
    my ($major, $minor, $patch) = @_;
    return ($major * 1000 + $minor) * 1000 + $patch;
}

# Replaces $TEST_NGINX_NAME by the environment's value, and the numbered
# TEST_NGINX_RAND_PORT_n by a free port that stays the same within a block.
sub expand {
    my ($self, $text, $ctx) = @_;

    return $text if !defined $text || ref $text;

    my $ports = $ctx->{ports};
    $text =~ s{\$(TEST_NGINX_[_A-Z0-9]+)}{
        my $variable = $1;
        $variable =~ /^TEST_NGINX_RAND_PORT_[0-9]+$/
            ? $ports->{$variable} //= free_port()
            : $ENV{$variable} // die "$ctx->{name}: \$$variable is not set\n";
    }eg;

    return $text;
}

# As expand(), and the two short names for the port that nginx listens on.
sub expand_expected {
    my ($self, $text, $ctx) = @_;

    return $text if !defined $text || ref $text;
    return $self->expand($self->expand_port($text), $ctx);
}

sub expand_port {
    my ($self, $text) = @_;

    return $text if ref $text;
    $text =~ s/\$ServerPort(?:ForClient)?\b/$self->{port}/g;
    return $text;
}


# ---- files ----

sub _write {
    my ($path, $text, $mode) = @_;

    open my $out, $mode // '>', $path or die "cannot write $path: $!\n";
    binmode $out;
    print {$out} $text;
    close $out or die "cannot write $path: $!\n";
    return;
}

# Takes away only what the runner or nginx itself makes there, so that a root
# directory pointed at by mistake survives.
sub _clear_root {
    my ($self) = @_;

    my $root = $self->{root};
    return if !-d $root;

    remove_tree(
        (map {"$root/$_"} qw(conf html logs cache)),
        glob("$root/*_temp"), glob("$root/*_cache")
    );
    rmdir $root or die "cannot remove $root: $!\n";
    return;
}

sub remove_root {
    my ($self) = @_;

    return if !$self->{temporary};
    remove_tree($self->{root}) if $self->{root} =~ m{/servroot_\d+$};
    return;
}

sub prepare {
    my ($self, $ctx, $config) = @_;

    $self->_clear_root;
    make_path(map {"$self->{root}/$_"} qw(conf html logs));
    $self->_write_files($ctx, $config);
    return;
}

sub _write_files {
    my ($self, $ctx, $config) = @_;

    _write("$self->{root}/html/index.html",
        '<html><head><title>It works!</title></head><body>It works!</body></html>');
    $self->write_user_files($ctx);
    _write("$self->{root}/conf/nginx.conf", $self->_nginx_conf($ctx, $config));
    return;
}

sub write_user_files {
    my ($self, $ctx) = @_;

    my $files = $ctx->{block}{user_files} // return;
    $files = [ _split_user_files($files) ] if !ref $files;

    for my $file (@{$files}) {
        my ($name, $body, $date) = @{$file};
        my $path = $name =~ m{^/} ? $name : "$self->{root}/html/$name";
        my ($directory) = $path =~ m{^(.*)/};

        make_path($directory);
        _write($path, $self->expand($body // '', $ctx));
        _set_date($path, $date) if $date;
    }

    return;
}

sub _split_user_files {
    my ($text) = @_;

    my @files;
    for my $line (split /^/, $text) {
        if ($line =~ />>> (\S+)(?:\s+(.+))?/) {
            push @files, [ $1, '', $2 ];
        }
        elsif (@files) {
            $files[-1][1] .= $line;
        }
        else {
            die "user_files: text before the first \">>> NAME\"\n";
        }
    }

    return @files;
}

sub _set_date {
    my ($path, $date) = @_;

    local $ENV{TZ} = 'GMT';
    system('touch', '-t', $date, $path) == 0
        or die "cannot set the date of $path to $date\n";
    return;
}

sub _nginx_conf {
    my ($self, $ctx, $config) = @_;

    my $block = $ctx->{block};
    my $root  = $self->{root};
    my %text  = map { $_ => $self->expand($block->{$_}, $ctx) // '' }
        qw(main_config http_config post_main_config);

    my $modules = join "\n", map {"load_module $_;"} split ' ', $self->{load_modules};
    my $env = join "\n", map { /\s/ ? "env '$_';" : "env $_;" } @{ $self->{env} },
        qw(ASAN_OPTIONS LSAN_OPTIONS UBSAN_OPTIONS LD_PRELOAD LD_LIBRARY_PATH);
    my $daemon   = $self->{valgrind} ? 'off' : 'on';
    my $user     = $> == 0 ? 'user ' . ($ENV{TEST_NGINX_WORKER_USER} // 'root') . ';' : '';
    my $event    = $ENV{TEST_NGINX_EVENT_TYPE} ? "use $ENV{TEST_NGINX_EVENT_TYPE};" : '';
    my $level    = $block->{log_level} || $self->{log_level};
    my $listen   = $self->_listen($block);
    my $temp     = join ' ',
        map {"${_}_temp_path $root/${_}_temp;"}
        grep { $text{http_config} !~ /\b${_}_temp_path\b/ }
        qw(client_body proxy fastcgi scgi uwsgi);
    my $location = $self->{root_location}
        ? "location / { root $root/html; index index.html index.htm; }"
        : '';
    my $marker = $self->{hup}
        ? "server { $listen server_name Test-Nginx; "
            . "location = /ver { return 200 '$self->{config_mark}'; } }"
        : '';

    return <<"CONF";
worker_processes $self->{workers};
daemon $daemon;
master_process $self->{master};
error_log $root/logs/error.log $level;
pid $root/logs/nginx.pid;
$env
$user
$modules
$text{main_config}

http {
    access_log $root/logs/access.log;
    default_type text/plain;
    keepalive_timeout 68s;
    $temp

$text{http_config}

    server {
        $listen
        server_name '$self->{server_name}';
        client_max_body_size 30M;

$self->{config_preamble}
$config

        $location
    }

    $marker
}

$text{post_main_config}

events {
    accept_mutex off;
    worker_connections $self->{worker_connections};
    $event
}
CONF
}

sub _listen {
    my ($self, $block) = @_;

    return "listen $self->{port};" if !defined $block->{http2};
    return "listen $self->{port} http2;"
        if $self->{version} < version_number(1, 25, 1);
    return "listen $self->{port}; http2 on;";
}


# ---- the process ----

sub start {
    my ($self, $ctx, $config) = @_;

    # A reload needs the master process.
    $self->{master} = 'on' if $self->{hup};
    $self->{config_mark} = _mark();

    $self->prepare($ctx, $config);

    if ($self->{valgrind}) {
        my @options = grep { !/^\d+$/ } split ' ', $self->{valgrind};
        $self->{child} = $self->_spawn($ctx->{block}, @VALGRIND, @options);
    }
    elsif ($self->run_daemon($ctx->{block}) != 0) {
        die "$ctx->{name}: nginx does not start\n", grep {/\[emerg\]/} $self->_log;
    }

    $self->wait_for_pid
        or die "$ctx->{name}: nginx has written no pid file\n", $self->_log;
    return;
}

# nginx has opened its ports by the time that the process which was started
# exits: the daemon is a child of it.  What it warns of is in its log, too.
sub run_daemon {
    my ($self, $block) = @_;

    local $self->{stderr} = "$self->{root}/logs/stderr";
    waitpid $self->_spawn($block), 0;
    my $status = $?;

    if (open my $in, '<', $self->{stderr}) {
        print {*STDERR} grep { !/\[warn\]/ } <$in>;
        unlink $self->{stderr};
    }
    return $status;
}

sub _spawn {
    my ($self, $block, @wrapper) = @_;

    my $root    = $self->{root};
    my @command = (
        @wrapper, $self->{binary}, '-e', "$root/logs/error.log",
        '-p', "$root/", '-c', "$root/conf/nginx.conf"
    );

    my $pid = fork // die "fork: $!\n";
    return $pid if $pid;

    $ENV{LD_PRELOAD} = join ' ', grep {defined} @ENV{qw(TEST_NGINX_LD_PRELOAD LD_PRELOAD)}
        if defined $ENV{TEST_NGINX_LD_PRELOAD};
    POSIX::setpgid(0, 0);
    open STDOUT, '>', '/dev/null';
    open STDERR, '>', $self->{stderr} if $self->{stderr};
    open STDERR, '>', '/dev/null' if defined $block->{suppress_stderr};

    { exec @command };
    print {*STDERR} "cannot execute $command[0]: $!\n";
    POSIX::_exit(127);
}

sub wait_for_pid {
    my ($self) = @_;

    for (my $limit = time + PATIENCE; time < $limit; sleep POLL) {
        return $self->{pid} if $self->{pid} = $self->_read_pid;
        last if $self->{child} && waitpid($self->{child}, WNOHANG) != 0;
    }
    return;
}

sub _read_pid {
    my ($self) = @_;

    open my $in, '<', "$self->{root}/logs/nginx.pid" or return;
    my ($pid) = (<$in> // '') =~ /^(\d+)\n/;
    return $pid;
}

# A zombie counts as gone: whether it is reaped is up to the system's init.
sub _alive {
    my ($pid) = @_;

    open my $in, '<', "/proc/$pid/stat" or return 0;
    return (<$in> // '') !~ /\) [ZX] /;
}

# Returns what there is to complain about.
sub stop {
    my ($self) = @_;

    my $known = $self->{pid};
    my $pid   = $self->_read_pid // $known // return;
    return if !$known && !_is_nginx($pid);

    my @complaints;
    push @complaints, "nginx (pid $pid) was gone before it was stopped"
        if $known && !_alive($pid) && $self->_read_pid;

    $self->_quit($pid);
    push @complaints, $self->_reap if $self->{child};

    $self->{shutdown_log} = [ $self->_unseen_log ];
    push @complaints, map { s/\n//r } grep {/$TROUBLE/} @{ $self->{shutdown_log} };

    delete $self->{pid};
    unlink "$self->{root}/logs/nginx.pid";
    return $known ? @complaints : ();
}

# Guards against the pid file of an nginx of long ago.
sub _is_nginx {
    my ($pid) = @_;

    open my $in, '<', "/proc/$pid/comm" or return 0;
    return (<$in> // '') =~ /^(?:nginx|memcheck)/;
}

# The signal is repeated, as nginx without a master loses one that arrives
# just before it waits for events.
sub _quit {
    my ($self, $pid) = @_;

    my $signal = $ENV{TEST_NGINX_FAST_SHUTDOWN} ? 'TERM' : 'QUIT';
    my $limit  = time + QUIT_TIMEOUT * ($self->{valgrind} ? 10 : 1);

    for (my $round = 0; _alive($pid); $round++) {
        if (time > $limit) {
            warn "nginx (pid $pid) does not stop, killing it\n";
            ($signal, $pid) = ('KILL', -$pid);
            last;
        }
        kill $signal, $pid if $round % REPEAT_SIGNAL == 0;
        sleep POLL;
    }

    return if $signal ne 'KILL';
    kill $signal, $pid;
    sleep POLL while _alive(abs $pid);
    return;
}

sub _reap {
    my ($self) = @_;

    waitpid delete $self->{child}, 0;
    return $? == VALGRIND_EXIT << 8 ? 'valgrind has found errors, see above' : ();
}


# ---- reload instead of restart ----

sub _mark {
    return join '', map { ('a' .. 'z')[ rand 26 ] } 1 .. 10;
}

sub reload {
    my ($self, $ctx, $config) = @_;

    my $root = $self->{root};
    $self->{config_mark} = _mark();

    remove_tree("$root/html", { keep_root => 1 });
    truncate "$root/logs/$_", 0 for qw(error.log access.log);
    $self->_write_files($ctx, $config);
    kill 'HUP', $self->{pid};

    # Workers of the old configuration may go on accepting for a moment.
    my $want = $self->{config_mark} x 5;
    my @http2 = defined $ctx->{block}{http2} ? '--http2-prior-knowledge' : ();
    for (my $limit = time + PATIENCE; time < $limit; sleep $self->{pause}) {
        open my $curl, '-|', 'curl', @http2, '-s', '-H', 'Host: Test-Nginx',
            '-H', 'Connection: close', '--max-time', 2,
            "http://$self->{addr}:$self->{port}/ver?[1-5]"
            or die "cannot run curl: $!\n";
        my $got = do { local $/; <$curl> } // '';
        close $curl;
        return if $got eq $want;
        last if grep {/\[emerg\]/} $self->_log;
    }

    die "$ctx->{name}: nginx does not take the new configuration\n",
        grep {/\[emerg\]/} $self->_log;
}


# ---- logs ----

sub rewind_log {
    my ($self) = @_;
    $self->{log_offset} = 0;
    return;
}

# The lines since the last call.  nginx writes some of them after the client
# has its answer, thus the pause.
sub error_log_lines {
    my ($self) = @_;

    sleep $self->{pause} * 3;
    return $self->_unseen_log;
}

sub access_log_lines {
    my ($self) = @_;

    sleep $self->{pause} * 3;
    open my $in, '<', "$self->{root}/logs/access.log"
        or die "cannot read access.log: $!\n";
    return <$in>;
}

sub _log {
    my ($self) = @_;

    open my $in, '<', "$self->{root}/logs/error.log" or return;
    return <$in>;
}

sub _unseen_log {
    my ($self) = @_;

    open my $in, '<', "$self->{root}/logs/error.log" or return;
    seek $in, $self->{whole_log} ? 0 : $self->{log_offset} // 0, 0;
    my @lines = <$in>;
    $self->{log_offset} = tell $in;
    return @lines;
}

1;
