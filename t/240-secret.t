# Copyright (C) The ngx_vd_module authors
#
# Secrets: nowhere to be seen, neither in what nginx writes nor in its memory,
# and changed by a reload.

use Digest::SHA qw(hmac_sha256_hex);
use File::Temp ();
use MIME::Base64 qw(encode_base64);
use Test::Nginx::Socket 'no_plan';
use Time::HiRes qw(sleep);

use constant {
    LONGEST_MAPPING => 1 << 30,    # what is longer is an address sanitizer's
    RELOAD_TIMEOUT  => 30,
};

repeat_each(1);
no_long_string();
master_on();
workers(2);

$ENV{TEST_NGINX_HTML_DIR} ||= html_dir();

# For files of the blocks: nginx warns of a secret that others can read.
umask 027;

# All of these are made here: they are in no configuration, and were in nginx
# only if it has read them.
my $dir    = File::Temp->newdir;
my $key    = random_bytes(48);
my $text   = unpack 'H*', random_bytes(50);
my $marker = 'marker-' . unpack 'H*', random_bytes(16);

$ENV{TEST_NGINX_SECRETS} = "$dir";
$ENV{TEST_NGINX_MARKER}  = $marker;

write_secret(standard => 'whsec_' . encode_base64($key, '') . "\n", 0640);
write_secret(text => $text, 0640);
write_secret("mode-$_" => 'secret' x 4, oct $_) for qw(0600 0640 0660 0604 0644);


sub random_bytes {
    my ($size) = @_;

    open my $in, '<:raw', '/dev/urandom' or die "cannot open /dev/urandom: $!";
    read $in, (my $bytes), $size;
    return $bytes;
}

sub write_secret {
    my ($name, $secret, $mode) = @_;

    open my $file, '>:raw', "$dir/$name.new" or die "cannot write $dir/$name: $!";
    print {$file} $secret;
    close $file or die "cannot write $dir/$name: $!";
    chmod $mode, "$dir/$name.new" or die "chmod $dir/$name: $!";
    rename "$dir/$name.new", "$dir/$name" or die "rename $dir/$name: $!";
    return;
}


# ---- looking for them ----

# What would give a secret away, by name; parts of it will do.
sub traces {
    my $base64 = encode_base64($key, '');
    my %whole = (
        'the secret as it is in the file' => $base64,
        'the decoded secret'              => $key,
        'the other secret'                => $text,
        'the inner pad of the key'        => $key ^ "\x36" x length $key,
        'the outer pad of the key'        => $key ^ "\x5c" x length $key,
    );

    return map {
        ("the beginning of $_" => substr($whole{$_}, 0, 20), "the end of $_" => substr $whole{$_}, -20)
    } keys %whole;
}

# As patterns for the logs, which hold text alone.
sub traces_in_text {
    my %traces = traces();
    return [
        map {quotemeta} grep { !/[^ -~]/ }
            values(%traces), unpack('H*', substr $key, 0, 20), encode_base64(substr($text, 0, 18), '')
    ];
}

sub found_in {
    my ($where, $bytes) = @_;

    my %traces = traces();
    return map { index($bytes, $traces{$_}) >= 0 ? "$_ in $where" : () } sort keys %traces;
}

sub slurp {
    my ($file) = @_;

    open my $in, '<:raw', $file or return '';
    local $/;
    return <$in> // '';
}

sub master {
    return slurp("$ENV{TEST_NGINX_SERVER_ROOT}/logs/nginx.pid") =~ s/\s+//r;
}

sub workers_of {
    my ($pid) = @_;
    return split ' ', slurp("/proc/$pid/task/$pid/children");
}

# The memory of a process, piece by piece.
sub each_mapping {
    my ($pid, $code) = @_;

    open my $memory, '<:raw', "/proc/$pid/mem" or die "cannot read the memory of $pid: $!";

    for my $line (split /\n/, slurp("/proc/$pid/maps")) {
        no warnings 'portable';
        my ($from, $to) = map {hex} $line =~ /^(\w+)-(\w+) r/ or next;
        next if $to - $from > LONGEST_MAPPING || $line =~ /\[v(?:var|syscall)/;

        sysseek $memory, $from, 0;
        sysread $memory, (my $bytes), $to - $from or next;
        $code->($bytes);
    }
    return;
}

# The label of the output shows that all of the memory is looked at.
sub found_in_memory {
    my (@found, %marked);

    my @pids = (master(), workers_of(master()));
    for my $pid (@pids) {
        my $who = $pid == $pids[0] ? 'the master' : 'a worker';
        each_mapping($pid, sub {
            my ($bytes) = @_;
            push @found, found_in("the memory of $who", $bytes);
            $marked{$pid} = 1 if index($bytes, $marker) >= 0;
        });
    }

    push @found, 'fewer processes than there should be' if @pids < 3;
    push @found, 'no sight of the memory' if keys %marked != @pids;
    return @found;
}

sub found_in_files {
    my $root    = $ENV{TEST_NGINX_SERVER_ROOT};
    my $nginx   = $ENV{TEST_NGINX_BINARY} || 'nginx';
    my $printed = `$nginx -T -e stderr -p $root/ -c $root/conf/nginx.conf 2>&1`;

    return (
        found_in('nginx -T',  $printed),
        found_in('the log', slurp("$root/logs/error.log")),
        index($printed, 'vd_secret_file') < 0 ? 'no sight of nginx -T' : (),
    );
}

# A receiver's reply, whose ticket id says what was found.
sub reply {
    my (@found) = @_;

    my $ticket = join(', ', @found) || 'nothing';
    my $body   = qq({"ticket_id":"$ticket"});
    return "HTTP/1.1 200 OK\r\nContent-Length: " . length($body) . "\r\n\r\n$body";
}


# ---- changing them ----

sub wait_for {
    my ($what, $code) = @_;

    for (my $limit = time + RELOAD_TIMEOUT; time < $limit; sleep 0.01) {
        return if $code->();
    }
    die "no $what\n";
}

# A signal that comes before there are workers is kept until the next one.
sub hang_up {
    wait_for('workers', sub { workers_of(master()) >= 2 });

    my @workers = workers_of(master());
    kill 'HUP', master();
    return @workers;
}

sub reload {
    my %old = map { $_ => 1 } hang_up();

    wait_for('new workers', sub {
        my @now = workers_of(master());
        return @now >= 2 && !grep { $old{$_} } @now;
    });
    return;
}

sub reload_in_vain {
    hang_up();
    wait_for('complaint', sub { slurp("$ENV{TEST_NGINX_SERVER_ROOT}/logs/error.log") =~ /\[emerg\]/ });
    return;
}

# `--- NAME perl` is like `--- NAME eval`, with what is defined here.
sub perl {
    my ($code) = @_;

    my $value = eval $code;
    die $@ if $@;
    return $value;
}

write_secret(rotated => 'first', 0640);
write_secret(broken => 'first', 0640);

run_tests();

__DATA__

=== TEST 1: not in memory, while a delivery is under way
--- http_config
    vd_secret_file $TEST_NGINX_SECRETS/standard;
    vd_secret_file $TEST_NGINX_SECRETS/text;
--- config
    location = /t {
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/r.sock:/;
        vd_output 28 $TEST_NGINX_MARKER;
        vd_ticket_id ticket_id max=1000;
        vd_signature standard;
        vd_signature github;
        vd_signature stripe;
        vd_read_timeout 30s;
    }
--- request
POST /t
{}
--- tcp_listen: $TEST_NGINX_HTML_DIR/r.sock
--- tcp_reply perl
sub { reply(found_in_memory()) }
--- timeout: 30s
--- response_body_like: "ticket_id":"nothing"


=== TEST 2: not in memory after a reload
--- config
    location = /t {
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/r.sock:/;
        vd_output 28 $TEST_NGINX_MARKER;
        vd_secret_file $TEST_NGINX_SECRETS/standard;
        vd_secret_file $TEST_NGINX_SECRETS/text;
        vd_ticket_id ticket_id max=1000;
        vd_read_timeout 30s;
    }
--- init
main::reload();
--- request
POST /t
{}
--- tcp_listen: $TEST_NGINX_HTML_DIR/r.sock
--- tcp_reply perl
sub { reply(found_in_memory()) }
--- timeout: 30s
--- response_body_like: "ticket_id":"nothing"


=== TEST 3: neither in nginx -T nor in a log
--- http_config
    log_format all '$vd_id $vd_output $vd_case $vd_state $vd_ticket_id $upstream_addr $request_body';
    vd_secret_file $TEST_NGINX_SECRETS/standard;
--- config
    location = /t {
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/r.sock:/;
        vd_output 28 $TEST_NGINX_MARKER;
        vd_secret_file $TEST_NGINX_SECRETS/standard;
        vd_secret_file $TEST_NGINX_SECRETS/text;
        vd_ticket_id ticket_id max=1000;
        access_log $TEST_NGINX_SERVER_ROOT/logs/access.log all;
    }
--- request
POST /t
{}
--- tcp_listen: $TEST_NGINX_HTML_DIR/r.sock
--- tcp_reply perl
sub { reply(found_in_files()) }
--- response_body_like: "ticket_id":"nothing"
--- error_log
http process request line
--- no_error_log perl
traces_in_text()
--- no_access_log perl
traces_in_text()


=== TEST 4: not in the log when a delivery fails
--- config
    location = /t {
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/nobody.sock:/;
        vd_output 28 $TEST_NGINX_MARKER;
        vd_secret_file $TEST_NGINX_SECRETS/standard;
        vd_secret_file $TEST_NGINX_SECRETS/text;
    }
--- request
POST /t
{}
--- error_code: 502
--- error_log
reason connect
[crit]
--- no_error_log perl
traces_in_text()


=== TEST 5: not in the log when the secret itself is wrong
--- config
    location = /t {
        vd_pass http://127.0.0.1;
        vd_output 28;
        vd_secret_file $TEST_NGINX_HTML_DIR/wrong;
    }
--- user_files
>>> wrong
whsec_never!to!be!seen
--- must_die
--- suppress_stderr
--- error_log
[emerg]
begins with "whsec_", but what follows is not base64
--- no_error_log
never!to!be!seen


=== TEST 6: a new secret is taken by a reload
--- http_config
    server {
        listen unix:$TEST_NGINX_HTML_DIR/r.sock;
        return 200 '{"ticket_id":"$http_x_signature"}';
    }
--- config
    location = /t {
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/r.sock:/;
        vd_output 28;
        vd_secret_file $TEST_NGINX_SECRETS/rotated;
        vd_signature hex;
    }
--- init
main::write_secret(rotated => "second\n", 0640);
main::reload();
--- request
POST /t
{}
--- response_body_like perl
'"ticket_id":"' . hmac_sha256_hex('{}', 'second') . '"'


=== TEST 7: and not before
--- http_config
    server {
        listen unix:$TEST_NGINX_HTML_DIR/r.sock;
        return 200 '{"ticket_id":"$http_x_signature"}';
    }
--- config
    location = /t {
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/r.sock:/;
        vd_output 28;
        vd_secret_file $TEST_NGINX_HTML_DIR/secret;
        vd_signature hex;
    }
--- user_files
>>> secret
first
--- init
open my $file, '>', html_dir() . '/secret' or die $!;
print {$file} 'second';
close $file;
--- request
POST /t
{}
--- response_body_like perl
'"ticket_id":"' . hmac_sha256_hex('{}', 'first') . '"'


=== TEST 8: a secret that cannot be used leaves the old one in force
--- http_config
    server {
        listen unix:$TEST_NGINX_HTML_DIR/r.sock;
        return 200 '{"ticket_id":"$http_x_signature"}';
    }
--- config
    location = /t {
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/r.sock:/;
        vd_output 28;
        vd_secret_file $TEST_NGINX_SECRETS/broken;
        vd_signature hex;
    }
--- init
main::write_secret(broken => "\n", 0640);
main::reload_in_vain();
--- request
POST /t
{}
--- response_body_like perl
'"ticket_id":"' . hmac_sha256_hex('{}', 'first') . '"'
--- error_log perl
[qr/\[emerg\] .*"vd_secret_file" ".*\/broken" is empty, it must hold a secret/]


=== TEST 9: a secret that others can read is told of, with the way out
--- config
    vd_secret_file $TEST_NGINX_SECRETS/mode-0644;

    location = /t {
        return 200;
    }
--- request
GET /t
--- suppress_stderr
--- error_log perl
[qr/\[warn\] .*"vd_secret_file" "\Q$dir\E\/mode-0644" is readable by others, "chmod o= \Q$dir\E\/mode-0644" mends it in .*nginx\.conf:\d+/]


=== TEST 10: whatever its group may do
--- config
    vd_secret_file $TEST_NGINX_SECRETS/mode-0604;

    location = /t {
        return 200;
    }
--- request
GET /t
--- suppress_stderr
--- error_log
/mode-0604" is readable by others


=== TEST 11: a secret that others cannot read is not
--- config
    vd_secret_file $TEST_NGINX_SECRETS/mode-0640;
    vd_secret_file $TEST_NGINX_SECRETS/mode-0600;
    vd_secret_file $TEST_NGINX_SECRETS/mode-0660;

    location = /t {
        return 200;
    }
--- request
GET /t
--- no_error_log
[warn]
