# Copyright (C) The ngx_vd_module authors
#
# The journal while nginx reloads, stops, is upgraded, or dies: whoever was told
# that a record is there finds it, and a segment ends in order or is seen not to.

use v5.10.1;
use strict;
use warnings;

use File::Temp ();
use IO::Socket::INET;
use POSIX ();
use Test::More;
use Time::HiRes qw(sleep time);

use Test::VD;
use Test::VD::Journal qw(output parsed raw refused free_lock);

# A sync is delayed by strace.
BAIL_OUT('must be run as root') if $> != 0;

use constant {
    SOON => 20,
    SLOW => 0.8,    # a sync, in seconds
};

my @SLOW_SYNC = ('-e', 'trace=fdatasync', '-e', 'inject=fdatasync:delay_enter=' . SLOW * 1e6);
my @STATES    = ('ok' => '200 delivered true', 'bad' => '202 pending true', 'ack' => '202 pending true');

my $OK      = 'reply 200 {"ticket_id":"T-1"}';
my $OUTPUTS = output('ok', raw($OK))
    . output('bad', refused())
    . output('ack', raw('hold'), 'vd_ack journal;')
    . output('late', raw("sleep 1.5\n$OK"));


sub brief {
    my ($answer) = @_;

    my ($status) = $answer =~ /^(\d+) /;
    my ($state, $journaled) = $answer =~ /"state":"(\w+)".*"journaled":(\w+)\}\n\z/;
    return join ' ', map { $_ // '-' } $status, $state, $journaled;
}

sub answered {
    my ($answer, $expected, $what) = @_;

    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return is(brief($answer), $expected, $what);
}

# All three kinds.
sub works {
    my ($nginx, $name) = @_;

    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my %states = @STATES;
    answered($nginx->deliver("/$_", id => "$name-$_"), $states{$_}, "$name: $_") for sort keys %states;
    return map {"$name-$_"} sort keys %states;
}

# Each is there once, in a journal without a fault.
sub found {
    my ($nginx, $ids, $dir) = @_;

    my %found;
    $found{ $_->{id} }++ for $nginx->records($dir);
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    is(join(' ', grep { ($found{$_} // 0) != 1 } @{$ids}), '', 'all records are there, once');
    is($nginx->wrong($dir), '', 'the journal is sound');
    return;
}

# How the segments of these processes end: "ended", "locked" while their writer
# is there, or "cut".
sub ends {
    my ($nginx, @pids) = @_;

    my %ends;
    for my $segment (map { parsed($_) } grep { !m{/\.[^/]*\z} } $nginx->files) {
        my $pid = $segment->{header}{pid};
        push @{ $ends{$pid} }, $segment->{end} ? 'ended'
            : free_lock($segment->{path}) ? 'cut' : 'locked';
    }
    return join ' ', map { $_ ? join '+', @{$_} : 'none' } @ends{@pids};
}

# Two workers, both of them up.
sub start_two {
    my (%config) = @_;

    my $nginx = Test::VD::Journal->start(
        journal => '',
        server  => $OUTPUTS,
        main    => 'worker_processes 2;',
        %config
    );
    $nginx->wait_until(sub { $nginx->workers == 2 }) or die "a worker does not come up\n";
    return $nginx;
}

# A worker with a segment, whose next syncs are slow; and a delivery whose record
# is written, but not synced yet.
sub slow_start {
    my (%config) = @_;

    # leaks cannot be looked for in a process that is traced
    local $ENV{ASAN_OPTIONS} = ($ENV{ASAN_OPTIONS} // '') . ':detect_leaks=0';
    my $nginx = Test::VD::Journal->start(journal => '', server => $OUTPUTS, %config);
    my ($worker) = $config{single} ? $nginx->pid : $nginx->workers;

    answered($nginx->deliver('/bad', id => 'first'), '202 pending true', 'the first');
    my $trace  = $nginx->trace($worker, @SLOW_SYNC);
    my $begun  = time;
    my $socket = $nginx->begin('/bad', id => 'slow');
    ok($nginx->wait_until(sub { grep { $_->{id} eq 'slow' } $nginx->records }), 'a sync is under way');

    return ($nginx, $worker, $socket, $begun, $trace);
}

sub no_trouble {
    my ($nginx) = @_;

    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return is($nginx->trouble, '', 'nothing severe in the log');
}

sub in_flight {
    my ($nginx) = @_;

    my $sum = 0;
    $sum += $_ for $nginx->get('/vd_status') =~ /^vd_in_flight\{.*\} (\S+)$/mg;
    return $sum;
}

# Several clients that deliver without a pause.
sub start_load {
    my ($nginx, $clients) = @_;

    return map {
        pipe my $in, my $out or die "pipe: $!\n";
        my $pid = fork // die "fork: $!\n";
        _load($nginx, $out) if !$pid;
        close $out;
        { pid => $pid, in => $in };
    } 1 .. $clients;
}

sub _load {
    my ($nginx, $out) = @_;

    my %states = @STATES;
    my @uris   = sort keys %states;

    Test::VD::Nginx::until_term(sub {
        my ($n) = @_;

        my ($id, $uri) = ("$$-$n", $uris[ $n % @uris ]);
        my $answer = eval { brief($nginx->deliver("/$uri", id => $id)) } // $@;
        syswrite $out, $answer eq $states{$uri} ? "$id\n" : "wrong: $uri $answer\n";
    });
    POSIX::_exit(0);
}

# The ids that were acknowledged, as the pipes hold them or a reader takes them
# meanwhile; whatever else was answered is wrong.
sub stop_load {
    my (@load) = @_;

    kill 'TERM', map { $_->{pid} } @load;
    my @lines = map { my $in = $_->{in}; readline $in } @load;
    waitpid $_->{pid}, 0 for @load;
    chomp @lines;

    my @wrong = grep {/^wrong/} @lines;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    is("@wrong[0 .. ($#wrong < 4 ? $#wrong : 4)]", '', 'all were answered rightly');
    return grep { !/^wrong/ } @lines;
}


subtest 'reloads under load' => sub {
    my $nginx = start_two();
    my @load  = start_load($nginx, 4);
    my @old;

    for my $round (1 .. 5) {
        sleep 0.15;
        my @replaced = $nginx->workers;
        $nginx->signal('HUP');
        ok($nginx->gone(SOON, @replaced), 'the old workers are gone');
        $nginx->wait_until(sub { $nginx->workers == 2 });
        push @old, @replaced;
    }
    my @ids = stop_load(@load);

    is(scalar @old, 10, 'two workers each time');
    cmp_ok(scalar @ids, '>', 50, 'deliveries were made');
    found($nginx, \@ids);
    unlike(ends($nginx, @old), qr/cut|locked|\+/, 'one segment of each, ended in order');
    is(in_flight($nginx), 0, 'none is in flight');
    is($nginx->counter('vd_journal_records_total'), scalar $nginx->records, 'each record is counted');
    no_trouble($nginx);
    $nginx->stop;
};


subtest 'the journal moves with a reload' => sub {
    my $nginx = Test::VD::Journal->start(journal => '', server => $OUTPUTS);
    my $other = $nginx->make_dir("$nginx->{dir}/other");
    my $elsewhere = "vd_journal $other sync=off; $OUTPUTS";
    my ($first) = $nginx->workers;

    my @ids    = works($nginx, 'first');
    my $socket = $nginx->begin('/late', id => 'late');
    ok($nginx->wait_until(sub { in_flight($nginx) == 1 }), 'an attempt is under way');

    $nginx->reload(server => $elsewhere);
    my ($second) = $nginx->workers;
    my @others = works($nginx, 'second');
    answered($nginx->finish($socket), '200 delivered true', 'the one that was under way');
    ok($nginx->gone(SOON, $first), 'the old worker is gone');
    found($nginx, [ @ids, 'late' ]);
    found($nginx, \@others, $other);
    is(ends($nginx, $first), 'ended', 'the old segment ended in order');

    $nginx->reload(server => "vd_journal off; $OUTPUTS" =~ s/vd_ack journal;//r);
    answered($nginx->deliver('/bad'), '502 failed false', 'without a journal');

    $nginx->reload(journal => '', server => $OUTPUTS);
    ok($nginx->gone(SOON, $second), 'the worker with the other journal is gone');
    push @ids, works($nginx, 'again');
    found($nginx, [ @ids, 'late' ]);
    found($nginx, \@others, $other);
    is(scalar(grep { !$_->{end} } $nginx->segments($other)), 0, 'the other segment ended in order');
    no_trouble($nginx);
    $nginx->stop;
};


subtest 'the binary is upgraded' => sub {
    my $nginx = start_two();
    my ($master, @old) = ($nginx->pid, $nginx->workers);
    my @ids  = works($nginx, 'before');
    my @load = start_load($nginx, 4);

    $nginx->{old} = $master;
    $nginx->signal('USR2');
    ok($nginx->wait_until(sub { ($nginx->pid // $master) != $master && $nginx->workers == 2 }),
        'there is a new master, with workers');
    my @new = $nginx->workers;
    ok($nginx->wait_until(sub { ends($nginx, @new) !~ /none.*none/ }), 'which write, too');
    $nginx->signal('QUIT', $master);
    ok($nginx->gone(SOON, $master, @old), 'the old nginx is gone');
    push @ids, works($nginx, 'after'), stop_load(@load);

    found($nginx, \@ids);
    unlike(ends($nginx, @old), qr/cut|locked|\+/, 'the old segments ended in order');
    unlike(ends($nginx, @new), qr/cut|ended|\+/,  'the new ones go on');
    is(in_flight($nginx), 0, 'none is in flight');
    no_trouble($nginx);
    $nginx->signal('QUIT');
    ok($nginx->gone(SOON, @new), 'the new nginx is gone');
    unlike(ends($nginx, @new), qr/cut|locked|\+/, 'its segments, too, ended in order');
};


# Nothing but the module keeps a worker alive while a thread is at work: nginx
# 1.22 looks for timers only.
subtest 'QUIT, with a sync and an attempt under way' => sub {
    my ($nginx, $worker, $slow, $begun) = slow_start();
    my $master = $nginx->pid;
    my $accept = $nginx->begin('/ack', id => 'ack');
    my $late   = $nginx->begin('/late', id => 'late');

    ok($nginx->wait_until(sub { $nginx->get('/vd_status') =~ /^vd_in_flight\{output="late"\} 1$/m }),
        'an attempt is under way');
    $nginx->signal('QUIT');

    answered($nginx->finish($slow), '202 pending true', 'the one that was synced');
    cmp_ok(time - $begun, '>=', SLOW, 'was answered after the sync');
    answered($nginx->finish($accept), '202 pending true', 'one of the next batch');
    answered($nginx->finish($late), '200 delivered true', 'the one that was attempted');
    cmp_ok(time - $begun, '>=', 2 * SLOW, 'after another sync');
    ok($nginx->gone(SOON, $master, $worker), 'nginx is gone');
    found($nginx, [qw(first slow ack late)]);
    is(ends($nginx, $worker), 'ended', 'the segment ended in order');
    no_trouble($nginx);
};


subtest 'HUP, with a sync under way' => sub {
    my ($nginx, $worker, $slow) = slow_start();

    $nginx->reload(journal => '', server => $OUTPUTS);
    my @ids = works($nginx, 'new');
    answered($nginx->finish($slow), '202 pending true', 'the one that was synced');
    ok($nginx->gone(SOON, $worker), 'the old worker is gone');
    found($nginx, [ 'first', 'slow', @ids ]);
    is(ends($nginx, $worker), 'ended', 'the old segment ended in order');
    no_trouble($nginx);
    $nginx->stop;
};


subtest 'TERM, with a sync under way' => sub {
    my ($nginx, $worker, $slow) = slow_start();
    my $master = $nginx->pid;
    my $next   = $nginx->begin('/bad', id => 'next');

    ok($nginx->wait_until(sub { $nginx->whole_log =~ /delivery "next" .* failed/ }), 'another waits');
    $nginx->signal('TERM');
    is($nginx->finish($slow), '', 'the one that was synced has no answer');
    is($nginx->finish($next), '', 'neither has the one that waited');
    ok($nginx->gone(SOON, $master, $worker), 'nginx is gone');
    found($nginx, [qw(first slow)]);
    is(ends($nginx, $worker), 'ended', 'the segment ended in order');
    no_trouble($nginx);
};


for my $signal (qw(HUP QUIT)) {
    subtest "worker_shutdown_timeout after $signal, with a sync under way" => sub {
        my $main = 'worker_shutdown_timeout 100ms;';
        my ($nginx, $worker, $slow, $begun) = slow_start(main => $main);
        my $held = $nginx->begin('/late', id => 'late');

        ok($nginx->wait_until(sub { in_flight($nginx) == 1 }), 'an attempt is under way');
        $nginx->signal($signal);
        unlike($nginx->finish($slow), qr/"journaled":true/, 'what was not synced is not told to be')
            if time - $begun < SLOW - 0.3;
        unlike($nginx->finish($held), qr/delivered/, 'what was broken off was not delivered');
        ok($nginx->gone(SOON, $worker), 'the worker is gone');
        found($nginx, [qw(first slow)]);
        is(ends($nginx, $worker), 'ended', 'the segment ended in order');
        no_trouble($nginx);
        $nginx->stop;
    };
}


subtest 'a worker is killed amid a sync' => sub {
    my ($nginx, $worker, $slow, undef, $trace) = slow_start();

    $nginx->signal('KILL', $worker);
    is($nginx->finish($slow), '', 'its client has no answer');
    ok($nginx->wait_until(sub { my ($pid) = $nginx->workers; $pid && $pid != $worker }),
        'there is another worker');
    $nginx->release($trace);

    my @ids = works($nginx, 'new');
    answered($nginx->deliver('/bad', id => 'slow'), '202 pending true', 'the app tries again');
    is(ends($nginx, $worker), 'cut', 'the lock is free, and there is no last line');
    is(ends($nginx, $nginx->workers), 'locked', 'the new worker has a segment of its own');
    is(in_flight($nginx), 0, 'none is in flight');
    found($nginx, [ 'first', @ids ]);
    $nginx->stop;
};


subtest 'the master is killed' => sub {
    my $nginx = start_two();
    my ($master, @workers) = ($nginx->pid, $nginx->workers);
    my @load = start_load($nginx, 4);

    sleep 0.2;
    $nginx->signal('KILL');
    ok($nginx->gone(SOON, $master), 'it is gone');
    my @ids = works($nginx, 'orphans');
    push @ids, stop_load(@load);
    kill 'QUIT', @workers;
    ok($nginx->gone(SOON, @workers), 'its workers end when they are told to');
    found($nginx, \@ids);
    unlike(ends($nginx, @workers), qr/cut|locked|\+/, 'their segments ended in order');
    no_trouble($nginx);

    my $next = start_two();
    works($next, 'next');
    $next->stop;
};


subtest 'a single process' => sub {
    my %config = (main => 'master_process off;', journal => '', server => $OUTPUTS);
    my $nginx = Test::VD::Journal->start(%config);
    my $pid   = $nginx->pid;

    my @ids = works($nginx, 'single');
    $nginx->signal('QUIT');
    ok($nginx->gone(SOON, $pid), 'it is gone');
    found($nginx, \@ids);
    is(ends($nginx, $pid), 'ended', 'the segment ended in order');
    no_trouble($nginx);
};


subtest 'a single process, QUIT with a sync under way' => sub {
    my ($nginx, $pid, $slow) = slow_start(main => 'master_process off;', single => 1);

    $nginx->signal('QUIT');
    is($nginx->finish($slow), '', 'nginx ends such a process at once');
    ok($nginx->gone(SOON, $pid), 'it is gone');
    found($nginx, [qw(first slow)]);
    is(ends($nginx, $pid), 'ended', 'the segment ended in order');
    no_trouble($nginx);
};


# After a reload such a process has only those of nginx's connections that were
# open before and are closed now, no threads, and drops a request whose connect()
# fails, whatever modules there are.  What counts is that it lives and does not lie.
sub reload_single {
    my ($nginx) = @_;

    my $open = sub { scalar(() = glob '/proc/' . $nginx->pid . '/fd/*') };
    my $few  = $open->();
    my @idle = map { IO::Socket::INET->new("127.0.0.1:$nginx->{port}") } 1 .. 160;
    $nginx->wait_until(sub { $open->() >= $few + 150 }) or die "they are not accepted\n";

    $nginx->log;
    $nginx->signal('HUP');
    ok($nginx->wait_for_log(qr/reconfiguring(?s:.*)event method/), 'it reloads');
    @idle = ();
    $nginx->wait_until(sub { $open->() < $few + 80 }) or die "they are not closed\n";
    return;
}

sub honest {
    my ($nginx) = @_;

    my %expected = (
        ok  => qr/^200 delivered (?:true|false)$/,
        ack => qr/^(?:202 pending true|503 failed false)$/
    );
    my @ids;
    for my $uri (sort keys %expected) {
        my $answer = brief($nginx->deliver("/$uri", id => "after-$uri"));
        like($answer, $expected{$uri}, "$uri, after the reload");
        push @ids, "after-$uri" if $answer =~ /true$/;
    }
    return @ids;
}

for my $sync (qw(on off)) {
    subtest "a single process reloads, sync=$sync" => sub {
        my %config = (main => 'master_process off;', journal => "sync=$sync", server => $OUTPUTS);
        my $nginx = Test::VD::Journal->start(%config);
        my $pid   = $nginx->pid;
        my @ids   = works($nginx, 'before');

        reload_single($nginx);
        push @ids, honest($nginx);
        ok(Test::VD::Nginx::alive($pid), 'it lives');
        $nginx->signal('KILL');    # as it was reloaded, nginx itself would crash
        ok($nginx->gone(SOON, $pid), 'it is gone');
        found($nginx, \@ids);
        no_trouble($nginx) if $sync eq 'off';
    };
}


subtest 'a single process reloads amid a sync' => sub {
    my ($nginx, $pid, $slow) = slow_start(main => 'master_process off;', single => 1);

    reload_single($nginx);
    answered($nginx->finish($slow), '202 pending true', 'the one that was synced');
    my @ids = honest($nginx);
    ok(Test::VD::Nginx::alive($pid), 'it lives');
    $nginx->signal('KILL');
    ok($nginx->gone(SOON, $pid), 'it is gone');
    found($nginx, [ 'first', 'slow', @ids ]);
};


subtest 'the log is reopened' => sub {
    my ($nginx, $worker, $slow) = slow_start();

    rename "$nginx->{dir}/logs/error.log", "$nginx->{dir}/logs/error.log.1";
    $nginx->signal('USR1');
    ok($nginx->wait_until(sub { -e "$nginx->{dir}/logs/error.log" }), 'the log is reopened');
    answered($nginx->finish($slow), '202 pending true', 'the one that was synced');
    my @ids = works($nginx, 'after');
    found($nginx, [ 'first', 'slow', @ids ]);
    is(ends($nginx, $worker), 'locked', 'the segment goes on');
    no_trouble($nginx);
    $nginx->stop;
};


subtest 'only workers hold the journal' => sub {
    my $nginx = start_two(
        http => 'proxy_cache_path cache keys_zone=cache:64k loader_sleep=10s;'
    );
    my $master = $nginx->pid;
    my @workers = $nginx->workers;

    works($nginx, 'some');
    open my $file, '<', "/proc/$master/task/$master/children" or die "no master: $!\n";
    my @helpers = grep { my $pid = $_; !grep { $_ == $pid } @workers } split ' ', <$file>;
    ok(scalar @helpers, 'there is a cache manager');

    my $held = sub {
        join ' ', grep {m{^\Q$nginx->{journal}\E}} map { readlink // '' } map { glob "/proc/$_/fd/*" } @_;
    };
    is($held->($master, @helpers), '', 'neither it nor the master holds the journal');
    like($held->(@workers), qr/jsonl/, 'a worker does');
    no_trouble($nginx);
    $nginx->stop;
};


subtest 'daemon off' => sub {
    my $dir = File::Temp->newdir;
    open my $script, '>', "$dir/nginx" or die "no script: $!\n";
    print {$script} '#!/bin/sh', "\n", $ENV{TEST_NGINX_BINARY} || 'nginx', ' "$@" &', "\n";
    close $script;
    chmod 0755, "$dir/nginx";

    local $ENV{TEST_NGINX_BINARY} = "$dir/nginx";
    my $nginx = Test::VD::Journal->start(main => 'daemon off;', journal => '', server => $OUTPUTS);
    my ($master, $worker) = ($nginx->pid, $nginx->workers);
    my @ids = works($nginx, 'foreground');

    $nginx->signal('QUIT');
    ok($nginx->gone(SOON, $master, $worker), 'nginx is gone');
    found($nginx, \@ids);
    is(ends($nginx, $worker), 'ended', 'the segment ended in order');
    no_trouble($nginx);
};


done_testing();
