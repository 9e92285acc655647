package Test::VD::Journal;

# Copyright (C) The ngx_vd_module authors
#
# A Test::VD::Nginx with a journal, in the directory "journal" of its own unless
# the test makes others, and what it takes to read one and to break its disk.
#
#   my $nginx = Test::VD::Journal->start(
#       journal => 'sync=off',          # parameters of vd_journal; undef: off
#       user    => 'nobody',            # the workers', else root
#       events  => 'use poll;',
#       connections => 1024,            # worker_connections, else 2048
#       listen  => 'reuseport',
#       tmpfs   => '1m',                # the journal on a disk of that size
#       ...);                           # as for Test::VD::Nginx
#
# There are also the locations /vd_status, and /receiver to deliver to.

use v5.10.1;
use strict;
use warnings;

use parent 'Test::VD::Nginx';

use Compress::Zlib qw(crc32);
use Fcntl qw(:flock :mode);
use JSON::PP ();
use POSIX ();
use Time::HiRes qw(sleep time);

use Exporter qw(import);
our @EXPORT_OK = qw(output raw refused free_lock keys_of parsed run);

# What is freed is overwritten, so that its use is seen.
$ENV{MALLOC_PERTURB_} //= 165;

my $UUID7 = qr/[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}/;
my $TIME  = qr/\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z/;

my $json  = JSON::PP->new->utf8->allow_nonref;
my $owner = $$;
my (@mounts, @tracers);


# Nothing is served before the directories are there.
sub configure {
    my ($self, %config) = @_;

    $self->{how} = {%config};
    $self->_make_journal(%config) if !$self->{journal};

    if (exists $config{journal} && defined $config{journal}) {
        $config{http} = "vd_journal $self->{journal} $config{journal};\n"
            . ($config{http} // '');
    }

    $config{http} = "vd_zone vd 1m;\n" . ($config{http} // '');
    $config{server} .= "\nlocation = /vd_status { vd_status; }\n";
    $config{server} .= "location = /receiver { return 200 '{\"ticket_id\":\"T-1\"}'; }\n";

    return $self->SUPER::configure(%config);
}

# On a disk of its own there is room beside it.
sub _make_journal {
    my ($self, %config) = @_;

    $self->{disk} = $self->{dir};

    if ($config{tmpfs}) {
        $self->{disk} = $self->make_dir("$self->{dir}/disk");
        run('mount', '-t', 'tmpfs', '-o', "size=$config{tmpfs}", 'tmpfs', $self->{disk});
        push @mounts, $self->{disk};
    }

    $self->{journal} = $self->make_dir("$self->{disk}/journal", $config{user});
    return;
}

sub make_dir {
    my ($self, $path, $user) = @_;

    mkdir $path or die "cannot make $path: $!\n";
    chmod 0755, $path;
    chown +(getpwnam $user)[2, 3], $path if $user;
    return $path;
}

# What the configuration of Test::VD::Nginx leaves no place for.
sub write_file {
    my ($self, $name, $text) = @_;

    if ($name eq 'nginx.conf') {
        my $how = $self->{how};
        $text =~ s{^user root;$}{"user $how->{user} " . getgrgid((getpwnam $how->{user})[3]) . ';'}me
            if $how->{user};
        $text =~ s{worker_connections 256;}{"worker_connections " . ($how->{connections} // 2048) . '; ' . ($how->{events} // '')}e;
        $text =~ s/(backlog=512)/$1 $how->{listen}/ if $how->{listen};
    }
    return $self->SUPER::write_file($name, $text);
}

# ---- locations ----

sub output {
    my ($id, $url, @more) = @_;
    return "location = /$id { vd_pass $url; vd_output $id; @more }\n";
}

# The URL of the raw receiver that takes these steps.
sub raw {
    my ($steps) = @_;
    my ($path)  = Test::VD::script($steps);
    return "http://127.0.0.1:$ENV{TEST_NGINX_RAW_PORT}$path";
}

# One where nobody listens.
sub refused { return 'http://127.0.0.1:1' }

# ---- requests ----

# Adds "headers", a list of lines, and "attempt".
sub begin {
    my ($self, $uri, %request) = @_;

    my @headers = @{ $request{headers} // [] };
    push @headers, "VD-Attempt: $request{attempt}" if $request{attempt};
    return $self->SUPER::begin($uri, %request) if !@headers;

    push @headers, "Idempotency-Key: $request{id}" if $request{id};
    my $socket = $self->connect;
    my $body = $request{body} // $Test::VD::Nginx::BODY;

    $socket->autoflush;
    print {$socket} join "\r\n", "POST $uri HTTP/1.1", 'Host: localhost',
        'Connection: close', 'Content-Length: ' . length $body, @headers,
        '', $body;
    return $socket;
}

# Many at once: a hash of the answers by id.
sub deliver_all {
    my ($self, $uri, $ids, %request) = @_;

    my %sockets = map { $_ => $self->begin($uri, %request, id => $_) } @{$ids};
    return map { $_ => $self->finish($sockets{$_}) } @{$ids};
}

sub get {
    my ($self, $uri) = @_;

    my $socket = $self->connect;
    print {$socket} "GET $uri HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    return $self->finish($socket);
}

# A counter without labels.
sub counter {
    my ($self, $name) = @_;
    return $self->get("/vd_status") =~ /^\Q$name\E ([0-9.e+]+)$/m ? $1 : undef;
}

# ---- reading a journal ----

sub files {
    my ($self, $dir) = @_;

    $dir //= $self->{journal};
    opendir my $handle, $dir or die "cannot read $dir: $!\n";
    return map {"$dir/$_"} sort grep { !/^\.\.?$/ } readdir $handle;
}

# What a segment holds: header, records, end (if there is one), and all that is
# wrong with it.  A record is its line, decoded, and "line" the line itself.
sub parsed {
    my ($path) = @_;

    my ($name) = $path =~ m{([^/]+)\z};
    my %segment = (path => $path, records => [], wrong => []);
    my $wrong = sub { push @{ $segment{wrong} }, "$name: @_"; return };

    open my $file, '<:raw', $path or return $wrong->("cannot be read: $!") // \%segment;
    my $mode = S_IMODE((stat $file)[2]);
    $wrong->(sprintf 'mode %o', $mode) if $mode != 0640;
    $wrong->('not a name') if $name !~ /^($UUID7)\.jsonl\z/;
    my $uuid = $1 // '';

    while (my $line = readline $file) {
        $wrong->("torn line $.") if $line !~ s/\n\z//;
        my $object = eval { $json->decode($line) };
        if (ref $object ne 'HASH') {
            $wrong->("line $. is not JSON: ", substr $line, 0, 200);
        }
        elsif ($segment{end}) {
            $wrong->("line $. is behind the end");
        }
        elsif ($. == 1) {
            $segment{header} = $object;
            $wrong->("header: $line")
                if $line !~ /^\{"v":1,"segment":"\Q$uuid\E","pid":\d+,"opened":"$TIME"\}\z/;
        }
        elsif (exists $object->{end}) {
            $segment{end} = $object;
            $wrong->("end: $line")
                if $line ne qq({"v":1,"end":"$uuid","records":${\ scalar @{ $segment{records} }}});
        }
        else {
            my ($before, $crc) = $line =~ /^(.*),"crc":"([0-9a-f]{8})"\}\z/s;
            $wrong->("line $. has no crc") if !defined $crc;
            $wrong->("line $. has another crc")
                if defined $crc && $crc ne sprintf '%08x', crc32($before);
            push @{ $segment{records} }, { %{$object}, line => $line };
        }
    }
    $wrong->('is empty') if !$segment{header};
    return \%segment;
}

sub segments {
    my ($self, $dir) = @_;
    return map { parsed($_) } $self->files($dir);
}

# All that is wrong with a journal; '' if nothing is.
sub wrong {
    my ($self, $dir) = @_;
    return join "\n", map { @{ $_->{wrong} } } $self->segments($dir);
}

sub records {
    my ($self, $dir) = @_;
    return map { @{ $_->{records} } } $self->segments($dir);
}

# The record of a delivery; dies unless there is just one.
sub record {
    my ($self, $id, $dir) = @_;

    my @found = grep { $_->{id} eq $id } $self->records($dir);
    die scalar @found, " records of $id\n" if @found != 1;
    return $found[0];
}

# A line's keys, in order.  Values that are long would be too much for a pattern
# that takes them as a whole.
sub keys_of {
    my ($line) = @_;

    my @keys;
    $line =~ /\G[{,]/gc;
    while ($line =~ /\G"(\w+)":/gc) {
        push @keys, $1;
        if ($line =~ /\G"/gc) {
            1 while $line =~ /\G(?:[^"\\]{1,30000}|\\.)/gcs;
            $line =~ /\G"/gc;
        }
        else {
            $line =~ /\G(?:null|\d+)/gc;
        }
        $line =~ /\G,/gc or last;
    }
    return join ' ', @keys;
}

# Whether nobody holds the lock of a segment.
sub free_lock {
    my ($path) = @_;

    open my $file, '<', $path or die "cannot read $path: $!\n";
    return flock $file, LOCK_EX | LOCK_NB;
}

# ---- breaking the disk ----

# Attaches strace to a worker, or to the process of a given id, with all its
# threads.  They are counted one by one in "when=": one thread in the pool is
# enough for it.  What is returned is for traced() and release().
sub trace {
    my ($self, @options) = @_;

    my $process = $options[0] =~ /^\d+$/ ? shift @options : ($self->workers)[0];
    my $log = "$self->{dir}/logs/trace." . @tracers;
    my $err = "$log.err";

    my $pid = fork // die "fork: $!\n";
    if (!$pid) {
        open STDERR, '>', $err or POSIX::_exit(1);
        open STDOUT, '>&', \*STDERR;
        exec 'strace', '-f', '-q', '-q', '-o', $log, '-p', $process, @options
            or POSIX::_exit(1);
    }
    push @tracers, $pid;

    $self->wait_until(sub {
        # each of its threads
        my @tasks = glob "/proc/$process/task/*/status";
        return @tasks == grep { _slurp($_) =~ /^TracerPid:\t$pid$/m } @tasks;
    }) or die 'strace does not attach: ', _slurp($err);

    return { pid => $pid, log => $log };
}

sub release {
    my ($self, $trace) = @_;

    kill 'INT', $trace->{pid};
    waitpid $trace->{pid}, 0;
    @tracers = grep { $_ != $trace->{pid} } @tracers;
    return _slurp($trace->{log});
}

# What was traced up to now.
sub traced {
    my ($self, $trace) = @_;
    return _slurp($trace->{log});
}

sub _slurp {
    my ($path) = @_;

    open my $file, '<', $path or return '';
    local $/;
    return <$file> // '';
}

sub run {
    my (@command) = @_;

    system(@command) == 0 or die "failed: @command\n";
    return;
}

# Takes all the space of the disk; free_disk() gives it back.
sub fill_disk {
    my ($self) = @_;

    open my $file, '>', "$self->{disk}/ballast" or die "no ballast: $!\n";
    for my $size (65_536, 4096, 1) {
        1 while syswrite $file, 'x' x $size;
    }
    return;
}

sub free_disk {
    my ($self) = @_;
    return unlink "$self->{disk}/ballast";
}

END {
    if ($$ == $owner) {
        local $?;
        kill 'KILL', @tracers;
        waitpid $_, 0 for @tracers;
        system('umount', '-l', $_) for @mounts;
    }
}

1;
