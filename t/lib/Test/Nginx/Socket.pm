package Test::Nginx::Socket;

# Copyright (C) The ngx_vd_module authors
#
# Runs test suites written in the format of OpenResty's Test::Nginx::Socket
# on Debian's Test::Base.  It knows the part of the format that is listed in
# Test::Nginx::Socket::Sections, and gives it the same meaning and the same
# number of tests.  It is stricter where the original looks away: a section
# without effect, an answer cut short or followed by more bytes, an nginx that
# died, a report of a sanitizer or valgrind.

use v5.10.1;
use strict;
use warnings;

use List::Util qw(shuffle);
use Test::Base ();
use Test::More ();
use Time::HiRes ();

use Test::Nginx::Socket::Check;
use Test::Nginx::Socket::Client;
use Test::Nginx::Socket::Receiver;
use Test::Nginx::Socket::Sections;
use Test::Nginx::Socket::Server;

our @ISA    = ('Test::Base');
our @EXPORT = qw(
    add_block_preprocessor add_cleanup_handler add_test_cleanup_handler
    bail_out check_accum_error_log config_preamble env_to_nginx html_dir is_str
    log_level master_off master_on master_process_enabled no_long_string
    no_root_location no_shuffle repeat_each run_tests server_addr server_name
    server_port server_root timeout use_hup worker_connections workers
);

# Modes of the original that would change what a suite checks.
my @UNSUPPORTED = map {"TEST_NGINX_$_"}
    qw(BENCHMARK CHECK_LEAK NO_NGINX_MANAGER USE_HTTP2 USE_HTTP3 USE_RR USE_STAP);

my $server      = Test::Nginx::Socket::Server->new;
my $owner       = $$;
my $repeat_each = 1;
my $shuffle     = !$ENV{TEST_NGINX_NO_SHUFFLE};
my (@finished, @preprocessors, @cleanups, @test_cleanups);

$ENV{TEST_NGINX_SERVER_ROOT} = $server->{root};

# A signal must not leave nginx behind: exit() runs the END block below.
$SIG{$_} = sub { exit 1 }
    for qw(INT TERM HUP PIPE);


# ---- what a suite sets before run_tests() ----

sub _setting {
    my $key = shift;
    $server->{$key} = shift if @_;
    return $server->{$key};
}

sub config_preamble ($)          { $server->{config_preamble} = shift; return }
sub html_dir ()                  { return "$server->{root}/html" }
sub log_level (@)                { return _setting(log_level => @_) }
sub server_addr (@)              { return _setting(addr => @_) }
sub server_name (@)              { return _setting(server_name => @_) }
sub server_port (@)              { return _setting(port => @_) }
sub server_root ()               { return $server->{root} }
sub timeout (@)                  { return _setting(timeout => @_) }
sub worker_connections (@)       { return _setting(worker_connections => @_) }
sub workers (@)                  { return _setting(workers => @_) }
sub check_accum_error_log ()     { $server->{whole_log} = 1; return }
sub master_off ()                { $server->{master} = 'off'; return }
sub master_on ()                 { $server->{master} = 'on'; return }
sub no_root_location ()          { $server->{root_location} = 0; return }
sub use_hup ()                   { $server->{hup} = 1; return }
sub env_to_nginx (@)             { push @{ $server->{env} }, @_; return }
sub no_long_string ()            { return }
sub no_shuffle ()                { $shuffle = 0; return }
sub add_block_preprocessor (&)   { unshift @preprocessors, shift; return }
sub add_cleanup_handler ($)      { unshift @cleanups, shift; return }
sub add_test_cleanup_handler ($) { unshift @test_cleanups, shift; return }

sub master_process_enabled (@) {
    return _setting('master') if !@_;
    return shift() ? master_on() : master_off();
}

sub repeat_each (@) {
    $repeat_each = shift if @_;
    return $repeat_each;
}

sub is_str (@) {
    my ($got, $expected, $what) = @_;
    return Test::Nginx::Socket::Check::equal($got, $expected, $what);
}

sub bail_out (@) {
    Test::More::BAIL_OUT(@_);
    return;
}


# ---- the run ----

sub run_tests () {
    for my $mode (grep { $ENV{$_} } @UNSUPPORTED) {
        die "$mode is not supported by this runner\n";
    }

    $server->find_version;
    $ENV{TEST_NGINX_SERVER_PORT} = $server->{port};

    my @blocks = Test::Base::blocks();

    for my $block ($shuffle ? shuffle(@blocks) : @blocks) {
        $_->($block) for @preprocessors;

        my $ctx = {
            block  => Test::Nginx::Socket::Sections::verified($block),
            name   => "$0 " . $block->name,
            ports  => {},
            server => $server,
        };
        $block->set_value(name => $ctx->{name});
        _run_block($ctx);
        $_->($block) for @test_cleanups;
    }

    $_->() for splice @cleanups;
    return;
}

sub _run_block {
    my ($ctx) = @_;

    my ($block, $name) = @{$ctx}{qw(block name)};

    if (my ($count, $reason) =
        Test::Nginx::Socket::Sections::skipped($name, $block, $server->{version}))
    {
        for (1 .. $repeat_each) {
        SKIP: { Test::More::skip("$name - $reason", $count) }
        }
        return;
    }

    my $config = $server->expand($block->{config}, $ctx);

    return _run_dying_block($ctx, $config) if defined $block->{must_die};

    if (defined $config) {
        _start($ctx, $config);
    }
    elsif (!$server->{pid}) {
        die "$name: no config section, and no nginx runs from an earlier block\n";
    }

    _run_init($ctx);
    $server->rewind_log;

    for my $repeat (0 .. $repeat_each - 1) {
        $ctx->{repeat} = $repeat;
        $server->write_user_files($ctx) if $repeat > 0;

        my $receiver = Test::Nginx::Socket::Receiver->start($ctx);
        _run_requests($ctx);
        $receiver->check($ctx) if $receiver;
    }

    push @finished, $ctx;
    _stop() if $server->{valgrind} && !$server->{hup};
    return;
}

sub _start {
    my ($ctx, $config) = @_;

    if ($server->{hup} && $server->{pid}) {
        $server->reload($ctx, $config);
        _check_shutdown('skipped, nginx is reloaded');
        return;
    }

    _stop();
    $server->start($ctx, $config);
    return;
}

# A crash or a leak that shows at exit is a failure of the block before it.
sub _stop {
    Test::More::fail($_) for $server->stop;
    _check_shutdown();
    return;
}

sub _check_shutdown {
    my ($skip) = @_;

    Test::Nginx::Socket::Check::shutdown_log($_, $skip) for splice @finished;
    return;
}

sub _run_dying_block {
    my ($ctx, $config) = @_;

    my ($block, $name) = @{$ctx}{qw(block name)};
    my $wanted = $block->{must_die};

    _stop();
    local @{$server}{qw(hup valgrind)};
    $server->prepare($ctx, $config // '');
    $server->rewind_log;

    for my $repeat (0 .. $repeat_each - 1) {
        my $status = $server->run_daemon($block);

        if ($status & 127) {
            Test::More::fail("$name - nginx was ended by signal " . ($status & 127));
        }
        elsif ($wanted =~ /^\d+$/) {
            Test::More::is($status >> 8, $wanted, "$name - nginx exits with $wanted");
        }
        else {
            Test::More::isnt($status, 0, "$name - nginx refuses to start");
        }

        Test::Nginx::Socket::Check::error_log({ %{$ctx}, repeat => $repeat });

        if ($status == 0) {
            $server->wait_for_pid;
            $server->stop;
        }
    }

    return;
}

sub _run_init {
    my ($ctx) = @_;

    my $code = $ctx->{block}{init} // return;

    Test::Nginx::Util::evaluate($code);
    die "$ctx->{name}: init failed: $@" if $@;
    return;
}

sub _run_requests {
    my ($ctx) = @_;

    my $block     = $ctx->{block};
    my @requests  = Test::Nginx::Socket::Client::requests($ctx);
    my $pipelined = $block->{pipelined_requests};
    my $answers   = $pipelined ? @{$pipelined} : @requests;
    my $raw;

    $ctx->{many} = $pipelined || @requests > 1;

    for my $index (0 .. $answers - 1) {
        $ctx->{index} = $index;

        if ($index == 0 || !$pipelined) {
            $raw = Test::Nginx::Socket::Client::exchange($ctx, shift @requests);
        }

        if (!defined $block->{ignore_response}) {
            my $last = !$pipelined || $index == $answers - 1;
            $raw = Test::Nginx::Socket::Check::response($ctx, $raw, $last);
        }

        Time::HiRes::sleep($block->{wait}) if $block->{wait};

        Test::Nginx::Socket::Check::error_log($ctx);
        Test::Nginx::Socket::Check::access_log($ctx)
            if !defined $block->{ignore_response};
    }

    return;
}

END {
    if ($$ == $owner) {
        local $?;
        local $SIG{PIPE} = 'IGNORE';
        $_->() for splice @cleanups;
        _stop();
        $server->remove_root;
    }
}


# Where `init` and `skip_eval` are evaluated, out of sight of the runner's own
# names; the original does so in a package of this name too.
package Test::Nginx::Util;

BEGIN {
    no strict 'refs';
    *{$_} = \&{"Test::Nginx::Socket::$_"}
        for qw(html_dir server_addr server_port server_root timeout);
}

sub evaluate {
    return eval $_[0];
}

1;
