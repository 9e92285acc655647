# Copyright (C) The ngx_vd_module authors
#
# conf.example starts when one does what it says at its head, as any user,
# delivers, and keeps what it could not.  Of its text only the two ports are changed, as they may be taken;
# the receiver is demo/receiver, behind an nginx that does TLS for it and whose
# certificate is of a CA that "the operating system" trusts (SSL_CERT_FILE).

use v5.10.1;
use strict;
use warnings;

use Cwd qw(abs_path);
use File::Copy qw(copy);
use File::Path qw(make_path);
use File::Temp qw(tempdir);
use HTTP::Tiny;
use IO::Socket::INET;
use JSON::PP qw(decode_json);
use POSIX qw(:sys_wait_h setgid setuid);
use Socket qw(SOL_SOCKET SO_REUSEADDR);
use Test::More;
use Time::HiRes qw(sleep time);

my $PATIENCE = 60;                                             # seconds
my $UUID7    = qr/[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}/;
my $NAME     = 'tickets.example.com';
my $EXAMPLE  = slurp('conf.example');
my $CASE     = 'VD "CASE" 1';
my %LABELS   = (
    28 => 'Security Incident - Critical Alert',
    29 => 'Infrastructure Support - High Priority',
    30 => 'Application Support - Standard',
);
my @KEYS     = sort qw(
    time id output label case uri attempt outcome reason status upstream duration_ms
    ticket_id ticket_error content_type answer
);

my $NGINX  = abs_path($ENV{TEST_NGINX_BINARY} || '/usr/sbin/nginx');
my $MODULE = (split ' ', $ENV{TEST_NGINX_LOAD_MODULES} // '')[0];

# To nginx this is a list of sockets.
delete $ENV{NGINX};

my $owner   = $$;
my $root    = tempdir('vd-example-XXXXXX', TMPDIR => 1, CLEANUP => 1);
my @running = ();

chmod 0755, $root or die "chmod: $!";

$SIG{$_} = sub { exit 1 }
    for qw(INT TERM HUP);

END {
    my $status = $?;
    if (defined $owner && $$ == $owner) {
        kill TERM => @running;
        wait_for(sub { !grep { alive($_) } @running });
    }
    $? = $status;
}

make_certificates();

my @users = ([ 'the user of the tests', $>, $) + 0 ]);
if ($> == 0) {
    my ($uid, $gid) = (getpwnam 'nobody')[ 2, 3 ];
    push @users, [ 'an ordinary user', $uid, $gid ];
}

my $number = 0;
for my $user (@users) {
    my ($name, @ids) = @{$user};
    my $site = "$root/" . $number++;
    make_path($site);
    chown @ids, $site or die "chown: $!";
    subtest "conf.example, started by $name" => sub { try_example($site, @ids) };
}

done_testing;


sub try_example {
    my ($site, @ids) = @_;
    my %port = map { $_ => free_port() } qw(8088 8443);

    my @steps = $EXAMPLE =~ /^#     (.+)$/mg;
    my ($at) = grep { $steps[$_] =~ /^nginx / } 0 .. $#steps;
    my ($chown)  = grep {/^chown /} @steps;
    my ($curl)   = grep {/^curl --json /} @steps;
    my ($status) = grep {/^curl http/} @steps;
    my ($reload) = $EXAMPLE =~ /"(nginx [^"]+ -s reload)"/;
    is($steps[0], 'dir=$HOME/vd', 'the first step names the directory');

    my $source = make_source("$site/source", @ids);
    my $run    = sub { run_as(\@ids, $source, "dir=$site/vd\n" . join "\n", @_) };

    is($run->(@steps[ 1 .. $at - 1 ]), '', 'what its head says to do is quiet');
    is(mode("$site/vd/secrets/28"), '600', 'secrets are private');
    is(mode("$site/vd/journal"),    '750', 'and so is the journal');

    my $config  = "$site/vd/conf.example";
    my $changed = change_ports($config, \%port);
    is($changed, 3, 'each port stands there as often as thought');

    if ($ids[0] == 0) {
        like($run->($steps[$at]), qr/"vd_journal" directory .* for user "nobody"/,
            'without the one step that root has to take, nginx says so');
        # there, too, depending on how it was built
        unlink "$site/vd/logs/error.log";
        is($run->($chown), '', 'that is quiet, too');
    }
    is($run->($steps[$at]), '', 'nginx starts, and says nothing');
    my $pid = slurp("$site/vd/logs/nginx.pid") + 0;
    push @running, $pid;
    ok($pid && alive($pid), 'it runs') or return;
    my $temporary = () = glob "$site/vd/*_temp";
    is($temporary, 5, 'no directory but its own is used');

    my $url  = "http://127.0.0.1:$port{8088}/outputs";
    my $case = '{"subject": "Drucker streikt 🖨️ äöü", "transcript": "' . 'lang ' x 40_000 . '"}';

    my $down = $run->("$curl -sS" =~ s/:8088/:$port{8088}/r);
    like($down, qr/^\{"id":"$UUID7","output":"30","state":"pending".*"reason":"connect","journaled":true\}$/,
        'the command to POST a case has the answer that the head tells of');
    my ($case_sent) = $curl =~ /--json '([^']+)'/;
    my @failed = records("$site/vd/journal");
    is(@failed, 1, 'it is in the journal');
    is($failed[0]{id},      decode_json($down)->{id}, 'by its id');
    is($failed[0]{outcome}, 'failed',                 'as failed');
    is($failed[0]{body},    $case_sent,               'with the case');

    my @receiver = start_receiver("$site/receiver", "$site/vd/secrets", $port{8443});
    like($run->($reload), qr/^(?:[^\n]+ signal process started\n)?$/, 'the command to reload works');

    my %answer = map { $_ => post("$url/$_", $case) } 28, 29, 30;
    my %json   = map { $_ => decode_json($answer{$_}{content}) } keys %answer;
    for my $id (28, 29, 30) {
        is($answer{$id}{status}, 200,         "$id is delivered") or diag $answer{$id}{content};
        is($json{$id}{state},    'delivered', "$id says so");
    }
    is($json{28}{ticket_id},    'VD-10001', '28 has a ticket id');
    is($json{29}{ticket_id},    undef,      '29 has none');
    is($json{29}{ticket_error}, 'missing',  'and says why');

    my $refused = post("$url/28", '{"subject": }');
    is($refused->{status}, 400, 'what is not JSON is refused');
    is(HTTP::Tiny->new->get("http://127.0.0.1:$port{8088}/")->{status}, 404, 'nothing else is there');

    check_status($run->("$status -sS" =~ s/:8088/:$port{8088}/r));

    stop($pid, 'QUIT');
    stop($_,   'TERM') for @receiver;

    my @seen = map { decode_json($_) } split /\n/, slurp("$site/receiver/log");
    is_deeply([ map { $_->{verdict} } @seen ], [ ('valid') x 3 ], 'the receiver believes the signatures');
    is_deeply([ map { $_->{bytes} } @seen ], [ (length $case) x 3 ], 'and has each byte');
    like(slurp("$site/receiver/case-ids"), qr/^(?:\Q$CASE\E\n){3}$/, 'and the name of the case');

    check_log("$site/vd/logs/access.log", \%json, $port{8443});
    check_journal("$site/vd/journal", { decode_json($down)->{id} => 'failed',
        map { $_->{id} => 'delivered' } values %json });
    like(slurp("$site/vd/logs/error.log"),
        qr/\(SIGHUP\) received from \d+, reconfiguring/, 'nginx was reloaded');
    unlike(slurp("$site/vd/logs/error.log"),
        qr/\[(?:warn|crit|alert|emerg)\]/, 'no warning is logged, not even of a case in a file');
    return;
}

# Each line is JSON with the documented keys, and says what the answer said.
sub check_log {
    my ($file, $json, $port) = @_;

    my @lines = split /\n/, slurp($file);
    my @log   = map { decode_json($_) } @lines;
    is(@log, 6, 'the access log has a line for each request');

    for my $line (@log) {
        is_deeply([ sort keys %{$line} ], \@KEYS, 'it has the keys of the journal');
        is_deeply([ grep {ref} values %{$line} ], [], 'its values are strings');
    }

    for my $line (grep { $_->{answer} eq '200' } @log) {
        my $answer = $json->{ $line->{output} };
        my %wanted = (
            label        => $LABELS{ $line->{output} },
            case         => $CASE,
            uri          => "/outputs/$line->{output}",
            outcome      => 'delivered',
            upstream     => "127.0.0.1:$port",
            content_type => 'application/json',
            map { $_ => $answer->{$_} // '' } qw(id attempt reason status ticket_id ticket_error)
        );
        is_deeply({ map { $_ => $line->{$_} } keys %wanted }, \%wanted, "the line of $line->{output}");
        like($line->{id},          qr/^$UUID7$/, 'the id is a UUIDv7');
        like($line->{duration_ms}, qr/^\d+$/,    'the duration is a number');
    }

    # Workers may write their lines in any order.
    my %of = map { $_->{answer} => $_ } @log;
    is_deeply([ sort keys %of ], [qw(200 202 400 404)], 'each kind of answer has its line');
    is($of{202}{reason},  'connect', 'a failed attempt has its reason');
    is($of{400}{outcome}, '',        'a refused request has no outcome');
    return;
}

# What was counted is what was done, and it outlived the reload.
sub check_status {
    my ($page) = @_;

    my %value = $page =~ /^([a-z]\S+?(?:\{.*\})?) (\S+)$/mg;
    for my $id (28, 29, 30) {
        my $attempts = sub {
            qq(vd_attempts_total{output="$id",label="$LABELS{$id}",outcome="$_[0]",reason="$_[1]"});
        };
        is($value{ $attempts->('delivered', '') }, 1, "$id: delivered");
        is($value{ $attempts->('failed', 'connect') }, $id == 30 ? 1 : 0, "$id: failed");
    }
    is($value{vd_journal_records_total}, 4, 'records');
    is($value{vd_journal_errors_total},  0, 'and none that was not written');

    open my $promtool, '|-', 'promtool check metrics 2>&1' or die "promtool: $!";
    print {$promtool} $page;
    ok(close $promtool, 'promtool finds nothing wrong with the page');
    return;
}

# Each segment has its first and its last line, and each delivery a record.
sub check_journal {
    my ($dir, $wanted) = @_;

    my %outcome = map { $_->{id} => $_->{outcome} } records($dir);
    is_deeply(\%outcome, $wanted, 'the journal has each delivery');
    is_deeply([ map { $_->{outcome} } grep { exists $_->{body} } records($dir) ], ['failed'],
        'and the case where it failed');
    for my $file (segments($dir)) {
        my ($first, @more) = map { decode_json($_) } split /\n/, slurp($file);
        is("$dir/$first->{segment}.jsonl", $file,            'a segment has its name in it');
        is($more[-1]{end},                 $first->{segment}, 'and is ended in order');
        is($more[-1]{records},             $#more,            'with the number of its records');
    }
    is_deeply([ grep { !/^[.]{1,2}$/ } map {s{.*/}{}r} glob "$dir/.*" ], [], 'nothing else is left');
    return;
}

sub records {
    my ($dir) = @_;
    return grep { exists $_->{id} } map { decode_json($_) } map { split /\n/, slurp($_) } segments($dir);
}

sub segments {
    my ($dir) = @_;
    my @files = glob "$dir/*.jsonl";
    return @files;
}


# ---- what it is tried with ----

# A source tree with what the head of conf.example takes from there, and an
# nginx that is found in the path; a module that is linked in needs no file.
sub make_source {
    my ($source, @ids) = @_;

    make_path("$source/build", "$source/bin");
    spew("$source/conf.example", $EXAMPLE);
    if ($MODULE) {
        copy($MODULE, "$source/build/ngx_http_vd_module.so") or die "$MODULE: $!";
    }
    else {
        spew("$source/build/ngx_http_vd_module.so", '');
    }
    copy($NGINX, "$source/bin/nginx") or die "$NGINX: $!";
    chmod 0755, "$source/bin/nginx" or die "chmod: $!";
    return $source;
}

sub change_ports {
    my ($file, $port) = @_;

    my $config = slurp($file);
    my ($head, $rest) = split /^(?=load_module)/m, $config, 2;
    my $changed = ($rest =~ s/\b127\.0\.0\.1:(8088|8443)\b/127.0.0.1:$port->{$1}/g);
    $changed += ($rest =~ s/^load_module .*\n//m) ? 1 : 0 if !$MODULE;
    $changed += ($rest =~ /^load_module modules\/ngx_http_vd_module\.so;$/m) ? 1 : 0 if $MODULE;
    spew($file, $head . $rest);
    return $changed;
}

# A CA and a certificate for the name that conf.example asks for.
sub make_certificates {
    spew("$root/ext", "subjectAltName=DNS:$NAME\n");
    my $new = 'openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes';
    shell(<<"END");
cd $root && exec 2> openssl.log || exit
$new -x509 -days 2 -keyout ca.key -out ca.pem -subj '/CN=Test CA'
$new -keyout server.key -out server.csr -subj '/CN=receiver'
openssl x509 -req -days 2 -in server.csr -CA ca.pem -CAkey ca.key -extfile ext -out server.pem
END
    $ENV{SSL_CERT_FILE} = "$root/ca.pem";
    return;
}

# demo/receiver with the secrets of conf.example, and TLS in front of it.
sub start_receiver {
    my ($dir, $secrets, $port) = @_;

    make_path($dir);
    my @command = qw(demo/receiver --output=28:ticket --output=29:workflow:github --output=30:signature);
    push @command, map {"--secret-file=$_:$secrets/$_"} 28, 29, 30;
    my $receiver = start("$dir/log", @command, "--port-file=$dir/port");
    wait_for(sub { -s "$dir/port" }) or die 'demo/receiver does not start';
    my $behind = slurp("$dir/port") + 0;

    spew("$dir/nginx.conf", <<"END");
@{[ $> == 0 ? 'user root;' : '' ]}
daemon off;
master_process off;
pid nginx.pid;
error_log error.log;
events {
}
http {
    log_format case_id escape=none '\$http_x_case_id';
    access_log case-ids case_id;
    client_max_body_size 0;
    @{[ map {"${_}_temp_path temp_$_;"} qw(client_body proxy fastcgi uwsgi scgi) ]}
    server {
        listen 127.0.0.1:$port ssl;
        server_name $NAME;
        ssl_certificate $root/server.pem;
        ssl_certificate_key $root/server.key;
        location / {
            proxy_pass http://127.0.0.1:$behind;
        }
    }
}
END
    my $front = start("$dir/out", $NGINX, '-p', "$dir/", '-c', 'nginx.conf', '-e', 'error.log');
    wait_for(sub { IO::Socket::INET->new("127.0.0.1:$port") }) or die slurp("$dir/error.log");
    return ($front, $receiver);
}

sub post {
    my ($url, $body) = @_;

    my %headers = ('Content-Type' => 'application/json', 'X-Case-Id' => $CASE);
    return HTTP::Tiny->new(timeout => $PATIENCE)
        ->post($url, { headers => \%headers, content => $body });
}


# ---- processes and files ----

# What a shell prints that runs these commands, as that user and group.
sub run_as {
    my ($ids, $dir, $commands) = @_;

    my $pid = open(my $output, '-|') // die "fork: $!";
    if (!$pid) {
        my ($uid, $gid) = @{$ids};
        if ($> != $uid) {
            $) = "$gid $gid";
            setgid($gid) && setuid($uid) or die "setuid: $!";
        }
        chdir $dir or die "$dir: $!";
        open STDERR, '>&', \*STDOUT or die "dup: $!";
        local $ENV{PATH} = "$dir/bin:$ENV{PATH}";
        exec 'sh', '-e', '-u', '-c', $commands or die "sh: $!";
    }
    my $text = do { local $/ = undef; <$output> };
    close $output;
    return $text . ($? ? "exit status $?" : '');
}

sub shell {
    my ($commands) = @_;
    system('sh', '-e', '-c', $commands) == 0 or die "failed: $commands";
    return;
}

sub start {
    my ($log, @command) = @_;

    my $pid = fork // die "fork: $!";
    if (!$pid) {
        open STDOUT, '>', $log      or die "$log: $!";
        open STDERR, '>', "$log.err" or die "$log.err: $!";
        exec @command or die "$command[0]: $!";
    }
    push @running, $pid;
    return $pid;
}

sub stop {
    my ($pid, $signal) = @_;

    kill $signal => $pid;
    ok(wait_for(sub { !alive($pid) }), "process ends on SIG$signal");
    @running = grep { $_ != $pid } @running;
    return;
}

sub alive {
    my ($pid) = @_;
    waitpid $pid, WNOHANG;
    return kill 0 => $pid;
}

sub wait_for {
    my ($condition) = @_;

    my $end = time + $PATIENCE;
    until ($condition->()) {
        return 0 if time > $end;
        sleep 0.02;
    }
    return 1;
}

# As long as the suite runs, nobody gets it but servers, which listen with
# SO_REUSEADDR.
sub free_port {
    state @reserved;

    my $socket = IO::Socket::INET->new(LocalAddr => '127.0.0.1') or die "socket: $!";
    setsockopt $socket, SOL_SOCKET, SO_REUSEADDR, 1 or die "setsockopt: $!";
    push @reserved, $socket;
    return $socket->sockport;
}

sub mode {
    my ($file) = @_;
    return sprintf '%o', (stat $file)[2] & 07777;
}

sub slurp {
    my ($file) = @_;
    open my $in, '<:raw', $file or die "$file: $!";
    local $/ = undef;
    return scalar <$in>;
}

sub spew {
    my ($file, $text) = @_;
    open my $out, '>:raw', $file or die "$file: $!";
    print {$out} $text;
    close $out or die "$file: $!";
    return;
}
