# Copyright (C) The ngx_vd_module authors
#
# Deliveries while nginx reloads, stops, is upgraded, or loses a worker.

use v5.10.1;
use strict;
use warnings;

use Digest::SHA qw(hmac_sha256_hex);
use POSIX ();
use Test::More;
use Time::HiRes qw(sleep time);

use Test::VD;
use Test::VD::Nginx;

# More than any attempt here takes, so that an exit is not held up by a timer.
use constant SOON => 20;


# A location that delivers to the raw receiver, and the case's name there.
sub output {
    my ($id, $steps, $more) = @_;

    my ($path, $name) = Test::VD::script($steps);
    return (<<"CONFIG", $name);
    location = /$id {
        vd_pass http://127.0.0.1:$ENV{TEST_NGINX_RAW_PORT}$path;
        vd_output $id;
        ${\ ($more // '')}
    }
CONFIG
}

sub delivered {
    my ($answer, $ticket, $what, $id) = @_;

    my ($status, $body) = split / /, $answer, 2;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return is($status // 'none', 200, "$what: status")
        && like($body, qr/${\ Test::VD::answer("delivered 200 $ticket", $id)}/, $what);
}

sub no_trouble {
    my ($nginx) = @_;

    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return is($nginx->trouble, '', 'nothing severe in the log');
}

# Several clients that deliver without a pause, until they are told to stop.
sub start_load {
    my ($nginx, $clients, $uri) = @_;

    return map {
        pipe my $in, my $out or die "pipe: $!\n";
        my $pid = fork // die "fork: $!\n";
        _load($nginx, $uri, $out) if !$pid;
        close $out;
        { pid => $pid, in => $in };
    } 1 .. $clients;
}

sub _load {
    my ($nginx, $uri, $out) = @_;

    my $ok = 0;

    Test::VD::Nginx::until_term(sub {
        my ($n) = @_;

        my $answer = eval { $nginx->deliver($uri, id => "$$-$n") } // $@;
        my $right  = Test::VD::answer('delivered 200 T-1', "$$-$n");

        if ($answer =~ s/^200 //r =~ /$right/) {
            $ok++;
        }
        else {
            syswrite $out, "wrong: $answer\n";
        }
    });

    syswrite $out, "$ok\n";
    POSIX::_exit(0);
}

# How many deliveries there were, and what was wrong.
sub stop_load {
    my (@load) = @_;

    kill 'TERM', map { $_->{pid} } @load;

    my ($count, @wrong) = (0);
    for my $client (@load) {
        while (my $line = readline $client->{in}) {
            $line =~ /^(\d+)$/ ? $count += $1 : push @wrong, $line;
        }
        waitpid $client->{pid}, 0;
    }
    return ($count, join '', @wrong);
}


my $REPLY = 'reply 200 {"ticket_id":"T-1"}';
my $SLOW  = "sleep 0.4\n$REPLY";


subtest 'every delivery has its answer while nginx reloads' => sub {
    my ($output) = output(28, $REPLY);
    my $nginx = Test::VD::Nginx->start(server => $output, main => 'worker_processes 2;');
    my @load  = start_load($nginx, 3, '/28');

    for my $round (1 .. 5) {
        sleep 0.15;
        my @old = $nginx->reload(server => $output, main => 'worker_processes 2;');
        is(scalar @old, 2, 'two workers are replaced');
        ok($nginx->gone(SOON, @old), 'they end when they are done');
    }

    my ($count, $wrong) = stop_load(@load);
    cmp_ok($count, '>', 50, 'deliveries were made');
    is($wrong, '', 'all of them were answered rightly');
    no_trouble($nginx);
    $nginx->stop;
};


subtest 'outputs come and go with a reload' => sub {
    my ($first)  = output(28, $REPLY);
    my ($second) = output(29, 'reply 200 {"ticket_id":"T-2"}');
    my $nginx    = Test::VD::Nginx->start(server => $first);

    delivered($nginx->deliver('/28'), 'T-1', 'there is an output');
    like($nginx->deliver('/29'), qr/^40[45] /, 'the other is not there yet');

    $nginx->reload(server => $first . $second);
    delivered($nginx->deliver('/28'), 'T-1', 'it is still there');
    my $answer = $nginx->deliver('/29');
    delivered($answer, 'T-2', 'the other is there now');
    like($answer, qr/"output":"29"/, 'it has its own id');

    $nginx->reload(server => $second);
    like($nginx->deliver('/28'), qr/^40[45] /, 'the first is gone');
    delivered($nginx->deliver('/29'), 'T-2', 'the second is still there');
    no_trouble($nginx);
    $nginx->stop;
};


subtest 'a reload that fails leaves everything as it was' => sub {
    my ($output) = output(28, $REPLY);
    my $nginx = Test::VD::Nginx->start(server => $output);
    my @old = $nginx->workers;

    $nginx->configure(server => $output . 'location = /29 { vd_pass http://127.0.0.1; }');
    $nginx->signal('HUP');
    ok($nginx->wait_for_log(qr/\[emerg\].*no "vd_output" is defined/), 'it is refused');

    $nginx->configure(server => $output);
    unlink "$nginx->{dir}/secret";
    $nginx->signal('HUP');
    ok($nginx->wait_for_log(qr/\[emerg\].*vd_secret_file/), 'so is a missing secret');

    is_deeply([ $nginx->workers ], \@old, 'the workers are the same');
    delivered($nginx->deliver('/28'), 'T-1', 'and deliver');
    no_trouble($nginx);
    $nginx->stop;
};


subtest 'a secret is rotated by a reload' => sub {
    my ($output) = output(28, 'echo X-Signature', 'vd_signature hex;');
    my $body  = '{"case": "' . 'x' x 1000 . '"}';
    my $nginx = Test::VD::Nginx->start(server => $output, secret => 'old one');
    my %expected = map { $_ => hmac_sha256_hex($body, $_) } 'old one', 'new one';

    delivered($nginx->deliver('/28', body => $body),
        $expected{'old one'}, 'signed with the old secret');

    my ($old) = $nginx->workers;
    my $socket = $nginx->begin('/28', body => $body, wait => 1);

    is_deeply([ $nginx->reload(server => $output, secret => 'new one') ],
        [$old], 'the worker is to be replaced');
    delivered($nginx->deliver('/28', body => $body),
        $expected{'new one'}, 'signed with the new secret by the new worker');

    print {$socket} $body;
    delivered($nginx->finish($socket), $expected{'old one'},
        'signed with the old secret by the old worker, which had the request');

    ok($nginx->gone(SOON, $old), 'the old worker ends');
    delivered($nginx->deliver('/28', body => $body),
        $expected{'new one'}, 'signed with the new secret');
    no_trouble($nginx);
    $nginx->stop;
};


subtest 'those who wait at a QUIT have their answers' => sub {
    my ($output, $name) = output(28, $SLOW);
    my ($failing) = output(29, "sleep 0.4\nreply 500 {}");
    my $nginx = Test::VD::Nginx->start(
        server => $output . $failing,
        main   => 'worker_processes 2;'
    );
    my @all     = ($nginx->pid, $nginx->workers);
    my @sockets = map { $nginx->begin('/28', id => "q-$_") } 1 .. 5;
    my $failing_socket = $nginx->begin('/29', id => 'f');

    ok($nginx->wait_until(sub { (() = $nginx->receiver("seen/$name") =~ /\n/g) == 5 }),
        'five deliveries are under way');
    $nginx->signal('QUIT');
    ok($nginx->wait_for_log(qr/gracefully shutting down/), 'nginx is told to quit');

    delivered($nginx->finish($sockets[ $_ - 1 ]), 'T-1', 'the answer', "q-$_") for 1 .. 5;
    like($nginx->finish($failing_socket), qr/^502 .*"reason":"status"/, 'that of a failure');
    ok($nginx->gone(SOON, @all), 'nginx is gone');
    no_trouble($nginx);
};


subtest 'an attempt is finished at a QUIT though the client is gone' => sub {
    my ($output, $name) = output(28, $SLOW);
    my $nginx = Test::VD::Nginx->start(
        http   => 'log_format vd "$vd_id $vd_outcome $vd_ticket_id";',
        server => "access_log logs/access.log vd; $output"
    );
    my @all    = ($nginx->pid, $nginx->workers);
    my $socket = $nginx->begin('/28', id => 'A');

    ok($nginx->wait_until(sub { $nginx->receiver("seen/$name") }), 'it is under way');
    close $socket;
    $nginx->signal('QUIT');
    ok($nginx->gone(SOON, @all), 'nginx is gone');

    open my $log, '<', "$nginx->{dir}/logs/access.log" or die "no access log: $!\n";
    is(join('', <$log>), "A delivered T-1\n", 'it was delivered, and logged once');
    is($nginx->receiver("seen/$name"), "1.1 A\n", 'it was made once');
    no_trouble($nginx);
};


subtest 'no timer of a delivery holds up the end' => sub {
    my ($output) = output(28, $REPLY, 'vd_timeout 60s;');
    my ($late)   = output(29, 'hold', 'vd_timeout 200ms;');
    my ($broken) = output(30, 'send hello', 'vd_timeout 60s;');
    my $nginx = Test::VD::Nginx->start(server => $output . $late . $broken);
    my @all = ($nginx->pid, $nginx->workers);

    delivered($nginx->deliver('/28'), 'T-1', 'one delivered');
    like($nginx->deliver('/29'), qr/^502 .*"reason":"timeout"/,  'one timed out');
    like($nginx->deliver('/30'), qr/^502 .*"reason":"protocol"/, 'one failed');

    $nginx->signal('QUIT');
    ok($nginx->gone(SOON, @all), 'nginx is gone');
    no_trouble($nginx);
};


subtest 'a worker that is killed' => sub {
    my ($output, $name) = output(28, "sleep 0.4\n$REPLY\nnext connection\n$REPLY");
    my $nginx  = Test::VD::Nginx->start(server => $output);
    my ($old)  = $nginx->workers;
    my $socket = $nginx->begin('/28', id => 'A');

    ok($nginx->wait_until(sub { $nginx->receiver("seen/$name") }), 'a delivery is under way');
    $nginx->signal('KILL', $old);
    is($nginx->finish($socket), '', 'its client sees the connection closed, no answer');

    ok($nginx->wait_until(sub { ($nginx->workers)[0] }), 'there is another worker');
    delivered($nginx->deliver('/28', id => 'A'), 'T-1', 'it delivers', 'A');
    is($nginx->receiver("seen/$name"), "1.1 A\n2.1 A\n", 'with the same id');
    unlike($nginx->whole_log, qr/exited on signal (?!9\b)/, 'no other worker has died');
    $nginx->stop;
};


subtest 'the binary is upgraded' => sub {
    my ($output) = output(28, $REPLY);
    my ($slow, $name) = output(29, $SLOW);
    my $nginx = Test::VD::Nginx->start(server => $output . $slow);
    my @old   = ($nginx->pid, $nginx->workers);
    my @load  = start_load($nginx, 2, '/28');

    $nginx->{old} = $old[0];
    $nginx->signal('USR2');
    ok($nginx->wait_until(sub { ($nginx->pid // $old[0]) != $old[0] && $nginx->workers }),
        'there is a new master, with a worker');

    my @sockets = map { $nginx->begin('/29', id => "u-$_") } 1 .. 6;
    ok($nginx->wait_until(sub { (() = $nginx->receiver("seen/$name") =~ /\n/g) == 6 }),
        'deliveries are under way');
    $nginx->signal('QUIT', $old[0]);

    delivered($nginx->finish($sockets[ $_ - 1 ]), 'T-1', 'the answer', "u-$_") for 1 .. 6;
    ok($nginx->gone(SOON, @old), 'the old nginx is gone');
    delivered($nginx->deliver('/28'), 'T-1', 'the new one delivers');

    my ($count, $wrong) = stop_load(@load);
    cmp_ok($count, '>', 10, 'deliveries were made all the time');
    is($wrong, '', 'all of them were answered rightly');
    no_trouble($nginx);
    $nginx->stop;
};


subtest 'master_process off' => sub {
    my ($output) = output(28, $REPLY);
    my ($slow, $name) = output(29, $SLOW);
    my $nginx = Test::VD::Nginx->start(
        server => $output . $slow,
        main   => 'master_process off;'
    );
    my $pid = $nginx->pid;

    delivered($nginx->deliver('/28'), 'T-1', 'it delivers');

    my @sockets = map { $nginx->begin('/29', id => "m-$_") } 1 .. 3;
    ok($nginx->wait_until(sub { (() = $nginx->receiver("seen/$name") =~ /\n/g) == 3 }),
        'three are under way at once');
    delivered($nginx->finish($sockets[ $_ - 1 ]), 'T-1', 'the answer', "m-$_") for 1 .. 3;

    $nginx->signal('QUIT');
    ok($nginx->gone(SOON, $pid), 'nginx is gone');
    no_trouble($nginx);
};


for my $signal (qw(HUP QUIT)) {
    subtest "worker_shutdown_timeout ends an attempt after $signal" => sub {
        my ($silent, $name) = output(28, 'hold');
        my ($amid)  = output(29, "send HTTP/1.1 200 OK\\r\\nContent-Length: 20\\r\\n\\r\\n{\nhold");
        my ($reply) = output(30, $REPLY);
        my $nginx   = Test::VD::Nginx->start(
            server => $silent . $amid . $reply . <<"CONFIG",
    location = /31 {
        vd_pass http://127.0.0.1:$ENV{TEST_NGINX_FULL_PORT};
        vd_output 31;
        vd_connect_timeout 60s;
    }

    location = /32 {
        vd_pass https://127.0.0.1:$ENV{TEST_NGINX_SILENT_PORT};
        vd_output 32;
        vd_connect_timeout 60s;
    }
CONFIG
            main => 'worker_shutdown_timeout 200ms;',
        );
        my ($worker) = $nginx->workers;
        my @ids      = map {"s-$_"} 28, 29, 31, 32;
        my @sockets  = map { $nginx->begin(s{^s-}{/}r, id => $_) } @ids;

        ok($nginx->wait_until(sub { $nginx->receiver("seen/$name") }), 'all are under way');
        $nginx->signal($signal);
        ok($nginx->gone(SOON, $worker), 'the worker is gone');

        my $log = $nginx->whole_log;
        for my $n (0 .. $#ids) {
            my @logged = $log =~ /delivery "$ids[$n]" to output "\d+" failed: .* reason (\w+)/g;
            is(scalar @logged, 1, "$ids[$n] is logged once");
            like($logged[0], qr/^(?:internal|closed)$/, 'with the reason');
            unlike($nginx->finish($sockets[$n]), qr/delivered/, 'it was not delivered');
        }

        delivered($nginx->deliver('/30'), 'T-1', 'the new worker delivers') if $signal eq 'HUP';
        like($nginx->receiver("open/$name/0"), qr/^0 open/, 'the connection is closed');
        is($nginx->trouble, '', 'nothing severe in the log');
        $nginx->stop;
    };
}


done_testing();
