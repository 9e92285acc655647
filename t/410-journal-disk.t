# Copyright (C) The ngx_vd_module authors
#
# A disk that is full, slow, broken, or gone: what was acknowledged is in the
# journal, what was not is not, and no line is torn.

use v5.10.1;
use strict;
use warnings;

use IO::Select;
use Test::More;
use Time::HiRes qw(sleep time);

use Test::VD;
use Test::VD::Journal qw(output raw refused run);

# There is no way to break a disk without it.
BAIL_OUT('must be run as root') if $> != 0;

use constant SOON => 20;

my $OK  = 'reply 200 {"ticket_id":"T-1"}';
my $BIG = '{"case":"' . 'x' x 6000 . '"}';

my $ONE = 'thread_pool default threads=1;';

# A delivery that fails, one that does not, and one that is accepted.
my $OUTPUTS = output('bad', refused()) . output('ok', raw($OK)) . output('ack', raw('hold'), 'vd_ack journal;');


sub answered {
    my ($answer, $expected, $what) = @_;

    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return is(brief($answer), $expected, $what);
}

sub brief {
    my ($answer) = @_;

    my ($status) = $answer =~ /^(\d+) /;
    my ($state, $journaled) = $answer =~ /"state":"(\w+)".*"journaled":(\w+)\}\n\z/;
    return join ' ', map { $_ // '-' } $status, $state, $journaled;
}

# All three kinds while no record can be written.
sub refuses {
    my ($nginx, $what) = @_;

    local $Test::Builder::Level = $Test::Builder::Level + 1;
    answered($nginx->deliver('/bad', id => 'no-bad'), '503 failed false',    "$what: failed");
    answered($nginx->deliver('/ok',  id => 'no-ok'),  '200 delivered false', "$what: delivered");
    answered($nginx->deliver('/ack', id => 'no-ack'), '503 failed false',    "$what: accepted");
    return;
}

sub works {
    my ($nginx, $what) = @_;

    state $n = 0;
    $n++;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    answered($nginx->deliver('/bad', id => "y$n-bad"), '202 pending true',   "$what: failed");
    answered($nginx->deliver('/ok',  id => "y$n-ok"),  '200 delivered true', "$what: delivered");
    answered($nginx->deliver('/ack', id => "y$n-ack"), '202 pending true',   "$what: accepted");
    return;
}

# No space at all: neither on the disk nor in the last page of an open segment.
sub fill {
    my ($nginx) = @_;

    $nginx->fill_disk;
    return answered($nginx->deliver('/bad', id => 'full', body => $BIG), '503 failed false', 'full');
}

# What was acknowledged is there, once; what was not, is not.
sub accounted {
    my ($nginx, $answers) = @_;

    my %found;
    $found{ $_->{id} }++ for $nginx->records;
    my (@lost, @doubled, @false);
    for my $id (sort keys %{$answers}) {
        my $journaled = $answers->{$id} =~ /"journaled":true/;
        push @lost,    $id if $journaled  && !$found{$id};
        push @false,   $id if !$journaled && $found{$id};
        push @doubled, $id if ($found{$id} // 0) > 1;
    }
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    is("@lost",    '', 'none acknowledged is lost');
    is("@false",   '', 'none refused is there');
    is("@doubled", '', 'none is there twice');
    return;
}

# One line in the log, whose text this is, and the end: a sound journal, no crash.
sub complained {
    my ($nginx, $pattern, %but) = @_;

    my $log = $nginx->whole_log;
    my @crit = $log =~ /^(.*\[crit\].*)$/mg;

    local $Test::Builder::Level = $Test::Builder::Level + 1;
    is(scalar @crit, 1, 'one complaint');
    like($crit[0] // '', $pattern, 'it says what failed');
    like($crit[0] // '', qr/journal "\Q$nginx->{journal}\E": .* failed, records are refused/,
        'and where');
    unlike($log, qr/\[alert\]|exited on signal|Sanitizer|runtime error/, 'no worse');
    is($nginx->wrong, '', 'the journal is sound');
    return;
}

sub counters {
    my ($nginx) = @_;
    return map { $nginx->counter("vd_journal_${_}_total") } qw(records syncs errors);
}


# The body is read twice from its file: for its digest, and for its record.
subtest 'a record that cannot be made counts as an error' => sub {
    my $nginx = Test::VD::Journal->start(
        journal => 'sync=off',
        server  => output('ack', raw('hold'), 'vd_ack journal;')
            . output('file', raw('hold'), 'vd_ack journal; client_body_in_file_only clean;')
    );
    answered($nginx->deliver('/ack', id => 'first'), '202 pending true', 'before');

    my $trace = $nginx->trace('-e', 'trace=pread64', '-e', 'inject=pread64:error=EIO:when=2');
    answered($nginx->deliver('/file', id => 'no'), '503 failed false', 'the app is told');
    $nginx->release($trace);
    answered($nginx->deliver('/file', id => 'yes'), '202 pending true', 'after');

    is_deeply([ counters($nginx) ], [ 2, 0, 1 ], 'the counters');
    is(join(' ', sort map { $_->{id} } $nginx->records), 'first yes', 'the records');
    like($nginx->whole_log, qr/\[crit\].* pread\(\) ".*" failed \(5: Input/, 'why');
    is($nginx->wrong, '', 'the journal is sound');
    $nginx->stop;
};


subtest 'a full disk, and space again' => sub {
    my $nginx = Test::VD::Journal->start(tmpfs => '1m', journal => '', server => $OUTPUTS);
    my %answers;

    works($nginx, 'before');
    for my $n (1 .. 400) {
        my $id = "full-$n";
        $answers{$id} = $nginx->deliver('/bad', id => $id, body => $BIG);
        last if $answers{$id} =~ /^503 /;
    }
    cmp_ok(scalar keys %answers, '>', 50,  'there was room for many');
    cmp_ok(scalar keys %answers, '<', 400, 'then there was none');
    accounted($nginx, \%answers);

    fill($nginx);
    refuses($nginx, 'full');
    my ($errors) = (counters($nginx))[2];
    cmp_ok($errors, '>=', 4, 'the failures are counted');
    like($nginx->get('/receiver'), qr/^200 /, 'other requests go on');
    is(scalar(grep { !-s } $nginx->files), 0, 'no empty file is left');

    $nginx->free_disk;
    unlink +($nginx->files)[0];
    ok($nginx->wait_until(sub { $nginx->deliver('/bad', id => 'again') =~ /^202 / }, SOON),
        'with space it is well again');
    works($nginx, 'after');
    is((counters($nginx))[2], $errors, 'no more errors');
    complained($nginx, qr/\(28: No space left on device\)/);
    $nginx->stop;
};


subtest 'a full disk under load: every batch is whole or not there' => sub {
    my $nginx = Test::VD::Journal->start(
        tmpfs   => '1m',
        journal => 'segment=64k',
        server  => output('bad', refused(), 'client_body_buffer_size 32k;')
    );
    my %answers;
    for my $round (1 .. 8) {
        my @ids = map {"l-$round-$_"} 1 .. 40;
        %answers = (%answers, $nginx->deliver_all('/bad', \@ids, body => $BIG));
        if ($round == 6) {
            # a reader takes what is done, and there is space again
            my @done = grep { $_->{end} } $nginx->segments;
            for my $segment (@done) {
                delete @answers{ map { $_->{id} } @{ $segment->{records} } };
                unlink $segment->{path};
            }
        }
    }
    my %kinds;
    $kinds{ brief($_) }++ for values %answers;
    is(join(', ', sort keys %kinds), '202 pending true, 503 failed false', 'some of each');
    accounted($nginx, \%answers);
    complained($nginx, qr/\(28: No space left on device\)/);
    $nginx->stop;
};


subtest 'a short write is cut back' => sub {
    # a file size limit makes write() short, as a full disk would
    local $SIG{XFSZ} = 'IGNORE';
    my $nginx = Test::VD::Journal->start(journal => '', server => $OUTPUTS);
    my ($worker) = $nginx->workers;
    my %answers;

    run('prlimit', '--pid', $worker, '--fsize=40000:');
    my $trace = $nginx->trace('-e', 'trace=pwrite64,ftruncate');
    for my $n (1 .. 15) {
        $answers{"s-$n"} = $nginx->deliver('/bad', id => "s-$n", body => $BIG);
    }
    my $text = $nginx->release($trace);
    my @short = grep { $_->[0] > $_->[1] }
        map {/pwrite64\(.*, (\d+), \d+\) = (\d+)/ ? [ $1, $2 ] : ()} split /\n/, $text;
    cmp_ok(scalar @short, '>=', 2, 'there were short writes');

    is(scalar(grep {/^503 /} values %answers), scalar @short, 'each has one answer 503');
    is(scalar $nginx->files, 1 + @short, 'and another segment is begun after it');
    accounted($nginx, \%answers);
    is((counters($nginx))[2], scalar @short, 'they are counted');

    run('prlimit', '--pid', $worker, '--fsize=unlimited:');
    works($nginx, 'without the limit');
    complained($nginx, qr/\(27: File too large\)/);
    $nginx->stop;
};


# [ what fails: a call, its error, with the segment's first record or a later one,
# the number of the call ]
for my $case (
    [ 'the write of a record'         => 'pwrite64',  'EIO',    'later' ],
    [ 'the write of a first line'     => 'pwrite64',  'EIO',    'first' ],
    [ 'the sync of a record'          => 'fdatasync', 'EIO',    'later' ],
    [ 'the sync of a first line'      => 'fdatasync', 'EIO',    'first' ],
    [ 'the sync of a record, no room' => 'fdatasync', 'ENOSPC', 'later' ],
    [ 'the write of the first record' => 'pwrite64',  'EIO',    'first', 2 ],
    [ 'the sync of the first record'  => 'fdatasync', 'EIO',    'first', 2 ],
    [ 'the sync of the directory'     => 'fsync',     'EIO',    'first' ],
    [ 'the new segment\'s name'       => 'rename',    'EIO',    'first' ],
    [ 'the lock'                      => 'flock',     'ENOLCK', 'first' ],
    [ 'the segment\'s mode'           => 'fchmod',    'EPERM',  'first' ],
) {
    my ($what, $call, $error, $when, $number) = (@{$case}, 1);

    subtest "$what fails" => sub {
        my $nginx = Test::VD::Journal->start(main => $ONE, journal => '', server => $OUTPUTS);
        my %answers;

        $answers{before} = $nginx->deliver('/bad', id => 'before') if $when eq 'later';
        my @old   = $nginx->files;
        my $trace = $nginx->trace('-e', 'trace=open,openat,fchmod,flock,pwrite64,fdatasync,rename,fsync,ftruncate,close,unlink',
            '-e', "inject=$call:error=$error:when=$number");
        $answers{no} = $nginx->deliver('/bad', id => 'no');
        answered($answers{no}, '503 failed false', 'it is refused');
        is_deeply([ $nginx->files ], \@old, 'there is no other segment, nor a hidden file');

        $answers{next} = $nginx->deliver('/bad', id => 'next');
        answered($answers{next}, '202 pending true', 'the next one is taken');
        is(scalar $nginx->files, @old + 1, 'by another segment');
        is((counters($nginx))[2], 1, 'the failure is counted');
        accounted($nginx, \%answers);
        complained($nginx, qr/\b${\ ($call =~ s{64}{}r)}\(\) failed/);

        my $text = $nginx->release($trace);
        my ($fd) = $text =~ /fdatasync\((\d+)\) *= -1 \w+ .*INJECTED/;
        if ($fd) {
            my ($behind) = $text =~ /INJECTED\)\n(.*?)close\($fd\)/s;
            unlike($behind // 'fdatasync: not closed', qr/fdatasync|fsync/, 'what failed to be synced is not synced again');
        }
        $nginx->stop;
    };
}


subtest 'every other write or sync fails, under load' => sub {
    my $nginx = Test::VD::Journal->start(
        main    => $ONE,
        journal => 'segment=4k',
        server  => $OUTPUTS
    );
    my $trace = $nginx->trace('-e', 'trace=pwrite64,fdatasync',
        '-e', 'inject=pwrite64:error=EIO:when=3+5', '-e', 'inject=fdatasync:error=EIO:when=2+4');
    my %answers;
    for my $round (1 .. 12) {
        my @ids = map {"e-$round-$_"} 1 .. 10;
        %answers = (%answers, $nginx->deliver_all($round % 2 ? '/bad' : '/ack', \@ids));
    }
    $nginx->release($trace);
    my %kinds;
    $kinds{ brief($_) }++ for values %answers;
    is(join(', ', sort keys %kinds), '202 pending true, 503 failed false', 'some of each');
    accounted($nginx, \%answers);
    complained($nginx, qr/\(5: Input\/output error\)/);
    $nginx->stop;
};


subtest 'the last line of a segment fails' => sub {
    my $nginx = Test::VD::Journal->start(main => $ONE, journal => 'segment=4k', server => $OUTPUTS);
    $nginx->deliver('/bad', id => 'one');

    # that of the record, that of the end
    my $trace = $nginx->trace('-e', 'trace=pwrite64', '-e', 'inject=pwrite64:error=EIO:when=2');
    answered($nginx->deliver('/bad', id => 'two', body => $BIG), '202 pending true',
        'the record counts, it is on disk');
    answered($nginx->deliver('/bad', id => 'three'), '202 pending true', 'so does the next');
    $nginx->release($trace);

    my @segments = $nginx->segments;
    is(join(' ', map { $_->{id} } @{ $segments[0]{records} }), 'one two', 'both are there');
    ok(!$segments[0]{end}, 'without an end');
    is(scalar @segments, 2, 'there is another segment');
    is($nginx->wrong, '', 'the journal is sound');
    $nginx->stop;
};


# The worker crashed: it counted the failure with a configuration that nginx has
# put aside by then.
subtest 'the last line fails when a worker exits' => sub {
    my $nginx = Test::VD::Journal->start(main => $ONE, journal => '', server => $OUTPUTS);
    my @all   = ($nginx->pid, $nginx->workers);
    my $trace;

    answered($nginx->deliver('/bad', id => 'one'), '202 pending true', 'before');
    $trace = $nginx->trace('-e', 'trace=pwrite64', '-e', 'inject=pwrite64:error=ENOSPC');
    $nginx->signal('QUIT');
    ok($nginx->gone(SOON, @all), 'nginx is gone');
    $nginx->release($trace);

    complained($nginx, qr/pwrite\(\) failed.*\(28: /);
    like($nginx->whole_log, qr/worker process $all[1] exited with code 0/, 'the worker ended well');
    is(join(' ', map { $_->{id} } $nginx->records), 'one', 'the record is there');
};


subtest 'a slow disk: many records with one sync' => sub {
    my $nginx = Test::VD::Journal->start(journal => '', server => $OUTPUTS);
    $nginx->deliver('/bad', id => 'first');
    my ($records, $syncs) = counters($nginx);

    my $trace = $nginx->trace('-e', 'trace=fdatasync', '-e', 'inject=fdatasync:delay_enter=100000');
    my $start = time;
    my %answers;
    for my $round (1 .. 3) {
        my @ids = map {"g-$round-$_"} 1 .. 200;
        %answers = (%answers, $nginx->deliver_all($round == 2 ? '/ack' : '/bad', \@ids));
    }
    my $took = time - $start;
    $nginx->release($trace);
    my @now = counters($nginx);

    is(scalar(grep {/^202 /} values %answers), 600, 'all have their answer');
    is($now[0] - $records, 600, 'all are counted');
    cmp_ok($now[1] - $syncs, '<=', 60, 'with few syncs: ' . ($now[1] - $syncs));
    cmp_ok($took, '<', 30, 'none waits for its own');
    is($nginx->counter('vd_journal_sync_duration_seconds_count'), $now[1], 'each is timed');
    cmp_ok($nginx->counter('vd_journal_sync_duration_seconds_sum'), '>=',
        0.1 * ($now[1] - $syncs), 'as long as it was');
    accounted($nginx, \%answers);
    is($nginx->wrong,   '', 'the journal is sound');
    is($nginx->trouble, '', 'nothing severe in the log');
    $nginx->stop;
};


subtest 'read-only' => sub {
    my $nginx = Test::VD::Journal->start(tmpfs => '1m', journal => 'segment=4k', server => $OUTPUTS);

    # it ends its segment, so that none is open
    answered($nginx->deliver('/bad', id => 'one', body => $BIG), '202 pending true', 'before');
    run('mount', '-o', 'remount,ro', $nginx->{disk});
    refuses($nginx, 'read-only');
    run('mount', '-o', 'remount,rw', $nginx->{disk});
    works($nginx, 'writable again');
    complained($nginx, qr/open\(\) failed.*\(30: Read-only file system\)/);
    $nginx->stop;
};


subtest 'the directory is removed' => sub {
    my $nginx = Test::VD::Journal->start(journal => '', server => $OUTPUTS);
    works($nginx, 'before');

    unlink $nginx->files;
    rmdir $nginx->{journal} or die "cannot remove the journal: $!\n";
    refuses($nginx, 'gone');
    $nginx->make_dir($nginx->{journal});
    works($nginx, 'there again');
    is(scalar $nginx->records, 3, 'with its records');
    complained($nginx, qr/\(2: No such file or directory\)/);
    $nginx->stop;
};


subtest 'a segment is removed under its writer' => sub {
    my $nginx = Test::VD::Journal->start(journal => '', server => $OUTPUTS);
    works($nginx, 'before');
    unlink $nginx->files;
    answered($nginx->deliver('/bad', id => 'lost'), '503 failed false', 'the next is refused');
    works($nginx, 'after');
    is($nginx->wrong, '', 'the journal is sound');
    $nginx->stop;
};


subtest 'another directory takes the place of the journal' => sub {
    my $nginx = Test::VD::Journal->start(journal => '', server => $OUTPUTS);
    works($nginx, 'before');
    rename $nginx->{journal}, "$nginx->{journal}.away" or die "cannot move the journal: $!\n";
    $nginx->make_dir($nginx->{journal});
    answered($nginx->deliver('/bad', id => 'lost'), '503 failed false', 'the next is refused');
    works($nginx, 'after');
    is(scalar $nginx->records, 3, 'its records are where a reader looks');
    complained($nginx, qr/\(2: No such file or directory\)/);
    $nginx->stop;
};


subtest 'the permissions are withdrawn' => sub {
    my $nginx = Test::VD::Journal->start(journal => 'segment=4k', user => 'nobody', server => $OUTPUTS);
    answered($nginx->deliver('/bad', id => 'one', body => $BIG), '202 pending true', 'before');
    chmod 0555, $nginx->{journal};
    refuses($nginx, 'not writable');
    chmod 0755, $nginx->{journal};
    works($nginx, 'writable again');
    complained($nginx, qr/open\(\) failed.*\(13: Permission denied\)/);
    $nginx->stop;
};


subtest 'sync=off has the same answers' => sub {
    my $nginx = Test::VD::Journal->start(tmpfs => '1m', journal => 'sync=off', server => $OUTPUTS);
    works($nginx, 'before');
    fill($nginx);
    refuses($nginx, 'full');
    $nginx->free_disk;
    works($nginx, 'after');
    is((counters($nginx))[1], 0, 'without a sync');
    complained($nginx, qr/\(28: No space left on device\)/);
    $nginx->stop;
};


subtest 'no more than one complaint a minute, whatever fails' => sub {
    my $nginx = Test::VD::Journal->start(tmpfs => '1m', journal => 'segment=4k', server => $OUTPUTS);
    for my $round (1 .. 3) {
        fill($nginx);
        refuses($nginx, "full, round $round");
        $nginx->free_disk;
        works($nginx, 'not full');
    }
    is((counters($nginx))[2], 12, 'each failure is counted');
    complained($nginx, qr/\(28: No space left on device\)/);
    $nginx->stop;
};


# ---- threads ----

subtest 'no place in the thread pool\'s queue' => sub {
    my $nginx = Test::VD::Journal->start(
        main    => 'thread_pool default threads=1 max_queue=1;',
        journal => '',
        server  => $OUTPUTS
    );
    my @dirs = map { $nginx->make_dir("$nginx->{dir}/j$_") } 1 .. 3;
    my @old  = $nginx->reload(
        main    => 'thread_pool default threads=1 max_queue=1;',
        journal => '',
        server  => $OUTPUTS . join('', map { output($_, refused(), "vd_journal $dirs[$_ - 1];") } 1 .. 3)
    );
    $nginx->gone(SOON, @old);
    my $trace = $nginx->trace('-e', 'trace=fdatasync', '-e', 'inject=fdatasync:delay_enter=1000000:when=1');

    # four journals, but one thread at work and one task that waits
    my %sockets = ('/bad' => $nginx->begin('/bad', id => 'q-bad'));
    ok($nginx->wait_until(sub { $nginx->traced($trace) =~ /fdatasync/ }), 'the thread is at work');
    for my $uri (qw(/1 /2 /3)) {
        $sockets{$uri} = $nginx->begin($uri, id => 'q' . $uri =~ s{/}{-}r);
        $nginx->get('/receiver');
        sleep 0.05;
    }
    my %answers = map { $_ => brief($nginx->finish($sockets{$_})) } sort keys %sockets;
    is(join(', ', map { $answers{$_} } qw(/bad /1)), '202 pending true, 202 pending true',
        'there was place for two');
    is(join(', ', map { $answers{$_} } qw(/2 /3)), '503 failed false, 503 failed false',
        'the others are refused');
    $nginx->release($trace);

    answered($nginx->deliver($_, id => 'r' . s{/}{-}r), '202 pending true', "$_ goes on") for qw(/2 /3);
    is((counters($nginx))[2], 2, 'they are counted');
    like($nginx->whole_log, qr/\[crit\].*handing it to a thread failed, records are refused/, 'it is said why');
    is($nginx->wrong($_), '', 'the journal is sound') for undef, @dirs;
    $nginx->stop;
};


subtest 'what waits for a stuck disk has an end' => sub {
    # a sanitized nginx keeps what is freed, otherwise
    local $ENV{ASAN_OPTIONS} = join ':', grep {$_} $ENV{ASAN_OPTIONS},
        'quarantine_size_mb=1:allocator_release_to_os_interval_ms=0';
    my $nginx = Test::VD::Journal->start(
        main    => $ONE,
        journal => '',
        server  => output('ack', refused(), 'vd_ack journal; client_body_buffer_size 16k;')
    );
    my ($worker) = $nginx->workers;
    my $body = '{"case":"' . 'x' x 1_000_000 . '"}';

    $nginx->deliver('/ack', id => 'first');
    my $before = memory($worker, 'VmRSS');
    my $trace = $nginx->trace('-e', 'trace=fdatasync', '-e', 'inject=fdatasync:delay_enter=600000000:when=1');
    my %sockets = map { $_ => $nginx->begin('/ack', id => "m-$_", body => $body) } 1 .. 60;
    like($nginx->get('/receiver'), qr/^200 /, 'other requests go on');
    ok($nginx->wait_until(sub { (() = IO::Select->new(values %sockets)->can_read(0)) >= 20 }),
        'some are answered while it is stuck');
    my $peak = memory($worker, 'VmHWM') - $before;

    # which lets the disk go on
    $nginx->release($trace);
    my %answers = map { ("m-$_" => $nginx->finish($sockets{$_})) } keys %sockets;
    my %kinds;
    $kinds{ brief($_) }++ for values %answers;
    is(join(', ', sort keys %kinds), '202 pending true, 503 failed false', 'some are refused');
    cmp_ok($kinds{'202 pending true'} // 0, '>=', 30, 'but not before there are 32 MB');
    cmp_ok($kinds{'503 failed false'} // 0, '>=', 20, 'and then all');
    cmp_ok($peak, '<', 120 * 1024, "the worker has no more than $peak kB for it");
    cmp_ok((counters($nginx))[2], '>=', 1, 'that is counted');

    # its lines are long: only what matters is looked at
    my %found;
    for my $path ($nginx->files) {
        open my $file, '<:raw', $path or die "cannot read $path: $!\n";
        while (my $line = readline $file) {
            $found{$1}++ if $line =~ /"id":"(m-\d+)".*\}\n\z/;
        }
    }
    is_deeply(\%found, { map { $_ => 1 } grep { $answers{$_} =~ /^202 / } keys %answers },
        'what was acknowledged is there, and nothing else');
    like($nginx->whole_log, qr/\[crit\].*keeping up with deliveries failed, records are refused/, 'it is said');

    answered($nginx->deliver('/ack', id => 'again'), '202 pending true', 'then it goes on');
    my $kept = memory($worker, 'VmRSS') - $before;
    cmp_ok($kept, '<', 24 * 1024, "and has given it back but for $kept kB");
    $nginx->stop;
};

sub memory {
    my ($pid, $what) = @_;

    open my $file, '<', "/proc/$pid/status" or die "cannot read the status of $pid: $!\n";
    my ($size) = join('', <$file>) =~ /^$what:\s+(\d+) kB/m;
    return $size;
}


subtest 'a body of more than that is journaled all the same' => sub {
    my $nginx = Test::VD::Journal->start(
        journal => '',
        server  => output('bad', refused(), 'client_max_body_size 50m; client_body_buffer_size 50m;')
    );
    my $body = '{"case":"' . 'x' x (34 * 1024 * 1024) . '"}';
    answered($nginx->deliver('/bad', id => 'huge', body => $body), '202 pending true', '34 MB');
    $nginx->stop;
};


# ---- the end of nginx ----

# Nothing but the journal keeps a worker that has only its threads to wait for.
subtest 'QUIT while a sync is under way' => sub {
    my $nginx = Test::VD::Journal->start(main => $ONE, journal => '', server => $OUTPUTS);
    my @all   = ($nginx->pid, $nginx->workers);
    my $trace = $nginx->trace('-e', 'trace=fdatasync', '-e', 'inject=fdatasync:delay_enter=500000');

    my %sockets = map { $_ => $nginx->begin("/$_", id => "q-$_") } qw(bad ok ack);
    ok($nginx->wait_until(sub { $nginx->traced($trace) =~ /fdatasync/ }), 'it is under way');
    $nginx->signal('QUIT');
    my %answers = map { ("q-$_" => $nginx->finish($sockets{$_})) } keys %sockets;
    $nginx->release($trace);

    answered($answers{'q-bad'}, '202 pending true',   'failed: has its answer');
    answered($answers{'q-ok'},  '200 delivered true', 'delivered: has its answer');
    answered($answers{'q-ack'}, '202 pending true',   'accepted: has its answer');
    ok($nginx->gone(SOON, @all), 'nginx is gone');
    accounted($nginx, \%answers);
    is(scalar(grep { !$_->{end} } $nginx->segments), 0, 'the segment has its end');
    is($nginx->wrong,   '', 'the journal is sound');
    is($nginx->trouble, '', 'nothing severe in the log');
};



# Closed connections take their requests with them: the thread's end must not
# find them.
for my $uri (qw(bad ack)) {
    subtest "worker_shutdown_timeout while a sync is under way: /$uri" => sub {
        my $nginx = Test::VD::Journal->start(
            main    => "$ONE worker_shutdown_timeout 200ms;",
            journal => '',
            server  => $OUTPUTS
        );
        my @all = ($nginx->pid, $nginx->workers);
        $nginx->deliver('/bad', id => 'first');
        my $trace = $nginx->trace('-e', 'trace=fdatasync,pwrite64', '-e', 'inject=fdatasync:delay_enter=1500000:when=1');

        my @sockets = map { $nginx->begin("/$uri", id => "w-$_", wait => 1) } 1 .. 8;
        print {$_} $Test::VD::Nginx::BODY for @sockets;
        ok($nginx->wait_until(sub { $nginx->traced($trace) =~ /pwrite64/ }), 'it is under way');
        sleep 0.1;
        $nginx->signal('QUIT');
        my @answers = map { brief($nginx->finish($_)) } @sockets;
        $nginx->release($trace);

        is(scalar(grep { $_ ne '- - -' } @answers), 0, 'their connections are closed');
        ok($nginx->gone(SOON, @all), 'nginx is gone');
        is(join(' ', sort map { $_->{id} } $nginx->records), join(' ', 'first', map {"w-$_"} 1 .. 8),
            'what was under way is in the journal');
        is($nginx->wrong,   '', 'which is sound');
        is($nginx->trouble, '', 'nothing severe in the log');
    };
}


done_testing();
