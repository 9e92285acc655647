# Copyright (C) The ngx_vd_module authors
#
# Counters over reloads, crashes, upgrades, and with several workers at once.

use v5.10.1;
use strict;
use warnings;

use File::Temp ();
use HTTP::Tiny;
use IO::Socket::INET;
use POSIX ();
use Test::More;
use Time::HiRes qw(sleep time);

use Test::VD;
use Test::VD::Nginx;

use constant SOON => 20;

my $TICKET = 'reply 200 {"ticket_id":"T-1"}';
my $BODY   = length $Test::VD::Nginx::BODY;
my $SOCKET = File::Temp->newdir;
my $SMALL  = 8 * POSIX::sysconf(POSIX::_SC_PAGESIZE());


# A location that delivers to the raw receiver.
sub output {
    my ($id, $steps) = @_;

    my ($path) = Test::VD::script($steps);
    return location($id, "http://127.0.0.1:$ENV{TEST_NGINX_RAW_PORT}$path");
}

sub location {
    my ($id, $url) = @_;
    return "location = /$id { vd_pass $url; vd_output $id; }\n";
}

# Locations that deliver to nginx itself, which is faster.
sub quick_outputs {
    return map { location($_, "http://unix:$SOCKET/receiver:/$_") } @_;
}

sub config {
    my ($outputs, %more) = @_;

    my $zone = delete $more{zone} // 'vd 1m';
    my $http = delete $more{http} // '';
    return (%more, server => "location = /status { vd_status; } $outputs", http => <<"CONFIG");
    $http
    vd_zone $zone;
    server {
        listen unix:$SOCKET/receiver backlog=512;
        location / { return 200 '{"ticket_id":"T-1"}'; }
        location /failing { return 500; }
    }
CONFIG
}

sub start {
    return Test::VD::Nginx->start(config(@_));
}

sub counters {
    my ($nginx) = @_;

    my $page = HTTP::Tiny->new(timeout => 10)
        ->get("http://127.0.0.1:$nginx->{port}/status")->{content};
    return { map { /^([^#].*) (\S+)$/ ? ($1 => $2) : () } split /\n/, $page };
}

sub name {
    my ($family, $id, $more) = @_;
    return sprintf '%s{output="%s"%s}', $family, $id, $more // '';
}

sub delivered {
    my ($nginx, $id) = @_;
    return counters($nginx)
        ->{ name('vd_attempts_total', $id, ',label="",outcome="delivered",reason=""') };
}

sub in_flight {
    my ($nginx, $id) = @_;
    return counters($nginx)->{ name('vd_in_flight', $id) };
}

sub in_flight_becomes {
    my ($nginx, $id, $number, $what) = @_;

    local $Test::Builder::Level = $Test::Builder::Level + 1;
    $nginx->wait_until(sub { in_flight($nginx, $id) == $number }, SOON);
    return is(in_flight($nginx, $id), $number, $what);
}

# All that tells of so many deliveries with the same outcome.
sub totals {
    my ($nginx, $id, $delivered, $failed, $what) = @_;

    my $got   = counters($nginx);
    my $total = $delivered + $failed;
    my %expected = (
        name('vd_attempts_total', $id, ',label="",outcome="delivered",reason=""') => $delivered,
        name('vd_attempts_total', $id, ',label="",outcome="failed",reason="status"') => $failed,
        name('vd_responses_total', $id, ',class="2xx"')           => $delivered,
        name('vd_responses_total', $id, ',class="5xx"')           => $failed,
        name('vd_ticket_ids_total', $id, ',result="found"')       => $delivered,
        name('vd_attempt_duration_seconds_bucket', $id, ',le="+Inf"') => $total,
        name('vd_attempt_duration_seconds_count', $id)            => $total,
        name('vd_request_bytes_total', $id)                       => $total * $BODY,
        name('vd_in_flight', $id)                                 => 0,
    );
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    is_deeply({ map { $_ => $got->{$_} } keys %expected }, \%expected, $what);

    my $others = name('vd_attempts_total', $id, ',label=""') =~ s/\}$//r;
    my $all = 0;
    $all += $got->{$_} for grep { index($_, $others) == 0 } keys %{$got};
    return is($all, $total, "$what: no others");
}

sub finished {
    my ($nginx) = @_;

    local $Test::Builder::Level = $Test::Builder::Level + 1;
    is($nginx->trouble, '', 'nothing severe in the log');
    $nginx->stop;
    return;
}

# Clients that deliver so many each, without a pause; what they return is for
# finish_load().
sub start_load {
    my ($nginx, $clients, $number, @uris) = @_;

    return map {
        pipe my $in, my $out or die "pipe: $!\n";
        my $pid = fork // die "fork: $!\n";
        if (!$pid) {
            my @wrong = grep { !/^(?:200|502) / }
                map { eval { $nginx->deliver($uris[ $_ % @uris ]) } // $@ } 1 .. $number;
            syswrite $out, join "\n", map {"'$_'"} @wrong;
            POSIX::_exit(0);
        }
        close $out;
        { pid => $pid, in => $in };
    } 1 .. $clients;
}

sub working {
    return grep { kill(0, $_->{pid}) && waitpid($_->{pid}, POSIX::WNOHANG()) == 0 } @_;
}

# What was answered, but neither with 200 nor with 502.
sub finish_load {
    my (@load) = @_;

    return join '', map {
        my $client = $_;
        local $/;
        my $wrong = readline $client->{in};
        waitpid $client->{pid}, 0;
        $wrong;
    } @load;
}

# A reload while workers of the one before are still at it.
sub reload_again {
    my ($nginx, %config) = @_;

    $nginx->configure(%config);
    $nginx->log;
    $nginx->signal('HUP');
    return $nginx->wait_for_log(qr/gracefully shutting down/);
}

# A reload that is refused; returns what was logged.
sub refused_reload {
    my ($nginx, %config) = @_;

    $nginx->configure(%config);
    $nginx->log;
    $nginx->signal('HUP');

    my $text = '';
    $nginx->wait_until(sub { ($text .= $nginx->log) =~ /\[emerg\].*\n/ });
    return $text;
}


subtest 'a reload keeps what was counted' => sub {
    my ($first, $second, $third) = map { join '', quick_outputs($_) } 28, 29, 30;
    my $nginx = start($first . $second);

    $nginx->deliver('/28') for 1 .. 3;
    $nginx->deliver('/29') for 1 .. 2;
    $nginx->reload(config($first . $second));
    totals($nginx, 28, 3, 0, 'the same outputs');

    $nginx->reload(config($third . $second . $first));
    totals($nginx, 28, 3, 0, 'with another one, the first');
    totals($nginx, 29, 2, 0, 'the second');
    totals($nginx, 30, 0, 0, 'the other');
    $nginx->deliver('/30') for 1 .. 4;
    $nginx->deliver('/28');

    my @old = $nginx->reload(config($third . $second));
    is(join(' ', grep {/"28"/} keys %{ counters($nginx) }), '', 'one that is gone is not shown');
    totals($nginx, 30, 4, 0, 'those that stay, one');
    totals($nginx, 29, 2, 0, 'and the other');
    $nginx->gone(SOON, @old);

    $nginx->reload(config($first . $third));
    totals($nginx, 28, 0, 0, 'one that is back begins anew');
    totals($nginx, 30, 4, 0, 'the other does not');
    $nginx->deliver('/28');
    totals($nginx, 28, 1, 0, 'and is counted');
    finished($nginx);
};


subtest 'the journal\'s counters are kept, too' => sub {
    my $dir   = File::Temp->newdir;
    my %main  = (http => "vd_journal $dir;");
    my $nginx = start(join('', quick_outputs(28)), %main);

    $nginx->deliver('/28') for 1 .. 3;
    my $before = counters($nginx);
    $nginx->reload(config(join('', quick_outputs(28)), %main));
    my $after = counters($nginx);

    is($before->{vd_journal_records_total}, 3, 'before');
    is_deeply([ map { $after->{$_} } grep {/^vd_journal_(?!free)/} sort keys %{$after} ],
        [ map { $before->{$_} } grep {/^vd_journal_(?!free)/} sort keys %{$before} ], 'after');
    finished($nginx);
};


# The share of an old worker was zeroed under it when its output came back, and
# 18446744073709551615 were in flight when it had done.
subtest 'attempts end while their output goes and comes back' => sub {
    my $output  = output(28, "sleep 1\n$TICKET");
    my $longer  = output(29, "sleep 3\n$TICKET");
    my $nginx   = start($output . $longer);
    my @sockets = map { $nginx->begin("/$_") } 28, 28, 29;

    in_flight_becomes($nginx, 28, 2, 'two are under way');
    in_flight_becomes($nginx, 29, 1, 'and one that takes longer');
    my @old = $nginx->reload(config($longer));
    reload_again($nginx, config($output . $longer));

    my @seen;
    like($nginx->finish($_), qr/^200 /, 'delivered') for @sockets[ 0, 1 ];
    $nginx->wait_until(sub { push @seen, in_flight($nginx, 28); @seen > 5 });
    is(join(' ', @seen), '0 0 0 0 0 0', 'none is under way then');
    is(in_flight($nginx, 29), 1, 'the longer one is');
    ok(Test::VD::Nginx::alive($old[0]), 'in the old worker');
    like($nginx->finish($sockets[2]), qr/^200 /, 'delivered');
    in_flight_becomes($nginx, 29, 0, 'it has ended');
    is(delivered($nginx, 29), 1, 'and is counted');
    finished($nginx);
};


# An output that the refused configuration lacked was taken for gone, and began
# anew with the next reload.
subtest 'a reload that fails changes nothing' => sub {
    my ($first, $second) = map { join '', quick_outputs($_) } 28, 29;
    my $taken = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 1) or die "$@\n";
    my $nginx = start($first . $second);

    $nginx->deliver('/28') for 1 .. 3;
    my $emerg = refused_reload($nginx, config($second,
        http => "server { listen 127.0.0.1:${\ $taken->sockport }; }"));
    like($emerg, qr/\[emerg\].*bind\(\)/, 'the address is in use');

    $nginx->deliver('/28');
    totals($nginx, 28, 4, 0, 'the old configuration goes on');
    $nginx->wait_for_log(qr/still could not bind/);
    my @old = $nginx->reload(config($first . $second));
    is(scalar @old, 1, 'a good one');
    totals($nginx, 28, 4, 0, 'has it all');
    finished($nginx);
};


# How many outputs the smallest zone takes.
sub capacity {
    my ($nginx) = @_;

    for my $number (1 .. 100) {
        $nginx->configure(config(join('', quick_outputs(1 .. $number)), zone => "vd $SMALL"));
        return $number - 1 if test_config($nginx);
    }
    return 0;
}

# What nginx -t has to complain about.
sub test_config {
    my ($nginx) = @_;

    my $said = qx($nginx->{binary} -t -p $nginx->{dir}/ -c nginx.conf -e logs/test.log 2>&1);
    return $? ? $said : '';
}


subtest 'a zone that is too small' => sub {
    my $nginx = start(join '', quick_outputs(28));

    for my $number (1, 2, 7, 60, 300) {
        my $outputs = join '', quick_outputs(1 .. $number);
        my $zone    = $number == 1 ? 'vd 4k' : "vd $SMALL";

        $nginx->configure(config($outputs, zone => $zone));
        my $said = test_config($nginx);
        next if $said eq '' && $number < 8;

        my ($enough) = $said =~ /\[emerg\] .*"vd_zone".* (\d+) is enough for (?:one|$number) output/;
        ok($enough, "$number outputs: an emerg says what is enough") or diag $said;
        $nginx->configure(config($outputs, zone => 'vd ' . ($enough // 0)));
        is(test_config($nginx), '', 'so it is');
    }
    finished($nginx);
};


subtest 'a zone that a reload finds too small' => sub {
    my $probe = start(join '', quick_outputs(28));
    my $many  = capacity($probe);
    $probe->stop;
    cmp_ok($many, '>=', 2, "the smallest zone takes some outputs: $many");

    my @ids   = map {"o$_"} 1 .. $many;
    my %zone  = (zone => "vd $SMALL");
    my $nginx = start(join('', quick_outputs(@ids)), %zone);
    $nginx->deliver("/$_") for @ids, @ids;

    my $emerg = refused_reload($nginx,
        config(join('', quick_outputs((map {"new$_"} 1 .. $many), @ids)), %zone));
    like($emerg, qr/\[emerg\].*zone "vd" is too small/, 'too many new ones');
    totals($nginx, $_, 2, 0, "the old configuration goes on: $_") for @ids;

    # whether there is room for one to take the place of another, or not
    my ($worker) = $nginx->workers;
    $nginx->configure(config(join('', quick_outputs('new', @ids[ 1 .. $#ids ])), %zone));
    $nginx->signal('HUP');
    ok($nginx->wait_for_log(qr/is too small|gracefully shutting down/), 'one in place of another');
    totals($nginx, $_, 2, 0, "the others are as they were: $_") for @ids[ 1 .. $#ids ];
    like($nginx->deliver("/$ids[1]"), qr/^200 /, 'deliveries go on');
    finished($nginx);
};


subtest 'a zone of another size, or name, begins anew' => sub {
    my $outputs = join '', quick_outputs(28), output(29, "sleep 1.5\n$TICKET");
    my $nginx   = start($outputs);

    for my $zone ('vd 2m', 'vd 512k', 'other 512k', 'vd 1m') {
        $nginx->deliver('/28') for 1 .. 3;
        my $socket = $nginx->begin('/29');
        in_flight_becomes($nginx, 29, 1, 'one is under way');

        my @old = $nginx->reload(config($outputs, zone => $zone));
        totals($nginx, 28, 0, 0, "$zone: at 0");
        like($nginx->finish($socket), qr/^200 /, 'the old worker ends its own');
        ok($nginx->gone(SOON, @old), 'and itself');
        totals($nginx, 29, 0, 0, 'which is not counted here');
        $nginx->deliver('/28');
        totals($nginx, 28, 1, 0, 'but what comes is');
    }
    finished($nginx);
};


subtest 'a worker that is killed' => sub {
    my $outputs = join '', quick_outputs(28), output(29, "sleep 1\n$TICKET");
    my $nginx   = start($outputs);

    $nginx->deliver('/28') for 1 .. 5;
    for my $round (1 .. 3) {
        my @sockets = map { $nginx->begin('/29') } 1 .. 4;
        in_flight_becomes($nginx, 29, 4, 'four are under way');

        my ($old) = $nginx->workers;
        $nginx->signal('KILL', $old);
        ok($nginx->wait_until(sub { grep { $_ != $old } $nginx->workers }), 'it is replaced');
        is(in_flight($nginx, 29), 0, 'none is');
        totals($nginx, 28, 5, 0, 'what was counted still is');
        is(delivered($nginx, 29), 0, 'they were not delivered');
    }

    $nginx->deliver('/28');
    totals($nginx, 28, 6, 0, 'it goes on');
    $nginx->stop;
};


subtest 'one of several workers is killed' => sub {
    my %main  = (main => 'worker_processes 3;');
    my $nginx = start(output(29, "sleep 3\n$TICKET"), %main);

    my @sockets = map { $nginx->begin('/29') } 1 .. 12;
    in_flight_becomes($nginx, 29, 12, 'twelve are under way');
    my @old = $nginx->workers;
    $nginx->signal('KILL', $old[0]);
    ok($nginx->wait_until(sub { !grep { $_ == $old[0] } $nginx->workers }), 'one is gone');
    $nginx->wait_until(sub { $nginx->workers == 3 });

    my $left  = in_flight($nginx, 29);
    my @done  = map { $nginx->finish($_) } @sockets;
    my $alive = grep {/^200 /} @done;
    is($left, $alive, "those of the others are still under way: $left");
    totals($nginx, 29, $alive, 0, 'and delivered');
    $nginx->stop;
};


subtest 'workers that are killed under load' => sub {
    my %main  = (main => 'worker_processes 2;');
    my $nginx = start(join('', quick_outputs(28)), %main);
    my @load  = start_load($nginx, 3, 300, '/28');

    for (1 .. 8) {
        sleep 0.1;
        my ($worker) = $nginx->workers;
        $nginx->signal('KILL', $worker) if $worker;
        $nginx->wait_until(sub { $nginx->workers == 2 });
    }
    my $wrong = () = finish_load(@load) =~ /'/g;
    my $sent  = 3 * 300;
    my $count = counters($nginx)->{ name('vd_attempt_duration_seconds_count', 28) };

    in_flight_becomes($nginx, 28, 0, 'none is under way');
    cmp_ok($count, '<=', $sent, 'no more are counted than were sent');
    cmp_ok($count, '>=', $sent - $wrong / 2, 'nor fewer than were answered');
    unlike($nginx->whole_log, qr/exited on signal (?!9\b)/, 'no other worker has died');
    $nginx->stop;
};


subtest 'several workers count at once' => sub {
    my $nginx = start(join('', quick_outputs(28, 29, 'failing')), main => 'worker_processes 3;');
    my @load  = start_load($nginx, 4, 300, qw(/28 /29 /failing));

    is(finish_load(@load), '', 'all were answered');
    totals($nginx, 28,      400, 0,   'the first');
    totals($nginx, 29,      400, 0,   'the second');
    totals($nginx, failing => 0, 400, 'the third');
    finished($nginx);
};


subtest 'a storm of reloads under load' => sub {
    my $outputs = join '', quick_outputs(28, 29);
    my $other   = join '', quick_outputs(30);
    my %main    = (main => 'worker_processes 3;');
    my $nginx   = start($outputs, %main);
    my @load    = start_load($nginx, 4, 250, qw(/28 /29));

    my $reloads = 0;
    while (working(@load)) {
        $nginx->configure(config($reloads % 2 ? $outputs : $other . $outputs, %main));
        $nginx->signal('HUP');
        $reloads++;
        sleep 0.05;
    }

    cmp_ok($reloads, '>', 0, "there were some: $reloads");
    is(finish_load(@load), '', 'all were answered');
    $nginx->wait_until(sub { $nginx->workers == 3 });
    totals($nginx, $_, 500, 0, "output $_") for 28, 29;
    unlike($nginx->whole_log, qr/vd_in_flight leaves/, 'no worker was left out');
    finished($nginx);
};


subtest 'more workers, fewer workers' => sub {
    my $output = output(28, "sleep 3\n$TICKET");
    my $nginx  = start($output, main => 'worker_processes 4;');

    my @sockets = map { $nginx->begin('/28') } 1 .. 8;
    in_flight_becomes($nginx, 28, 8, 'eight are under way');
    my @old = $nginx->reload(config($output, main => 'worker_processes 1;'));
    push @sockets, $nginx->begin('/28');
    in_flight_becomes($nginx, 28, 9, 'in old workers and the new one');
    $nginx->finish($_) for @sockets;
    $nginx->gone(SOON, @old);
    totals($nginx, 28, 9, 0, 'all are counted');
    finished($nginx);
};


# Such a worker is not replaced, so that nobody began anew in its place.
subtest 'a worker that is killed while it shuts down' => sub {
    my $output = output(28, "sleep 2\n$TICKET");
    my $nginx  = start($output);

    my @sockets = map { $nginx->begin('/28') } 1 .. 3;
    in_flight_becomes($nginx, 28, 3, 'three are under way');
    my ($old) = $nginx->reload(config($output));
    is(in_flight($nginx, 28), 3, 'still');
    $nginx->signal('KILL', $old);
    $nginx->gone(SOON, $old);
    in_flight_becomes($nginx, 28, 0, 'none when it is killed');
    $nginx->stop;
};


subtest 'worker_shutdown_timeout' => sub {
    my $output = output(28, 'hold');
    my %main   = (main => 'worker_shutdown_timeout 100ms;');
    my $nginx  = start($output, %main);

    my @sockets = map { $nginx->begin('/28') } 1 .. 3;
    in_flight_becomes($nginx, 28, 3, 'three are under way');
    my @old = $nginx->reload(config($output, %main));
    ok($nginx->gone(SOON, @old), 'the worker does not wait for them');

    my $got = counters($nginx);
    is($got->{ name('vd_in_flight', 28) }, 0, 'none is under way');
    is($got->{ name('vd_attempt_duration_seconds_count', 28) }, 3, 'they have ended');
    is(delivered($nginx, 28), 0, 'not delivered');
    finished($nginx);
};


subtest 'the binary is upgraded' => sub {
    my $outputs = join '', quick_outputs(28), output(29, "sleep 1.5\n$TICKET");
    my $nginx   = start($outputs);
    my @old     = ($nginx->pid, $nginx->workers);

    $nginx->deliver('/28') for 1 .. 3;
    my $socket = $nginx->begin('/29');
    in_flight_becomes($nginx, 29, 1, 'one is under way');

    $nginx->{old} = $old[0];
    $nginx->signal('USR2');
    ok($nginx->wait_until(sub { ($nginx->pid // $old[0]) != $old[0] && $nginx->workers }),
        'there is a new master, with a worker');
    $nginx->signal('QUIT', $old[0]);
    ok($nginx->wait_for_log(qr/gracefully shutting down/), 'the old one is to go');

    $nginx->wait_until(sub { delivered($nginx, 28) == 0 });
    totals($nginx, 28, 0, 0, 'the new one begins at 0');
    like($nginx->finish($socket), qr/^200 /, 'the old one ends what it began');
    ok($nginx->gone(SOON, @old), 'and itself');
    totals($nginx, 29, 0, 0, 'on its own account');
    $nginx->deliver('/28') for 1 .. 2;
    totals($nginx, 28, 2, 0, 'the new one counts');
    finished($nginx);
};


# After a reload, such a process has no more connections than it had open before.
subtest 'master_process off' => sub {
    my $outputs = join '', output(28, $TICKET), output(29, "sleep 1.5\n$TICKET");
    my $nginx   = start($outputs, main => 'master_process off;');

    $nginx->deliver('/28') for 1 .. 3;
    totals($nginx, 28, 3, 0, 'counts');

    my $socket = $nginx->begin('/29');
    in_flight_becomes($nginx, 29, 1, 'one is under way');
    $nginx->signal('HUP');
    ok($nginx->wait_for_log(qr/reconfiguring/), 'a reload');
    like($nginx->finish($socket), qr/^200 /, 'it is delivered');

    $nginx->wait_until(sub { defined delivered($nginx, 29) });
    totals($nginx, 29, 1, 0, 'and counted');
    totals($nginx, 28, 3, 0, 'what was counted is kept');
    $nginx->stop;
};


done_testing();
