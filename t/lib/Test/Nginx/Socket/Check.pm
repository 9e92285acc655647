package Test::Nginx::Socket::Check;

# Copyright (C) The ngx_vd_module authors
#
# Holds an answer and the logs against what a block expects.  Each expectation
# is one test, so that a suite can count them for its plan.

use v5.10.1;
use strict;
use warnings;

use HTTP::Response;
use Test::Base ();
use Test::More ();

use Test::Nginx::Socket::Server;

use constant SHOWN_LINES => 5;


sub equal {
    my ($got, $expected, $what) = @_;

    return Test::More::like($got, $expected, $what) if ref $expected eq 'Regexp';
    return Test::Base::is($got, $expected, $what);
}

# The value for the request at hand: with several requests every expectation
# is an array.
sub _expected {
    my ($ctx, $section) = @_;

    my $value = $ctx->{block}{$section};
    return $value->[ $ctx->{index} ]
        // die "$ctx->{name}: $section lacks a value for request $ctx->{index}\n"
        if ref $value eq 'ARRAY';

    die "$ctx->{name}: $section must be an array, as there are several requests\n"
        if $ctx->{many};
    return $value;
}


# ---- the answer ----

# Checks the first answer in the bytes that were received and returns the rest.
sub response {
    my ($ctx, $raw, $last) = @_;

    my ($response, $headers, $rest) = _parse($ctx, $raw);

    Test::More::fail("$ctx->{name} - bytes after the end of the answer: " . _show($rest))
        if $last && $rest ne '';

    _check_status($ctx, $response);
    _check_raw_headers($ctx, $headers);
    _check_headers($ctx, $response, $headers);
    _check_body($ctx, $response);

    return $rest;
}

sub _show {
    my ($bytes) = @_;
    return $bytes =~ s/([^\x20-\x7e])/sprintf '\\x%02x', ord $1/egr;
}

sub _parse {
    my ($ctx, $raw) = @_;

    my ($headers) = $raw =~ /^(.*?\r\n)\r\n/s;
    my $response = HTTP::Response->parse($raw);
    my $code     = $response->code // '';

    $response->code(undef) if $code !~ /^\d+$/;
    return ($response, $headers // '', '') if $code eq '304' || $code eq '101';

    my ($body, $rest) = _split_body($ctx, $response);
    return (undef, $headers // '', '') if !defined $body;

    $response->content($body);
    return ($response, $headers // '', $rest);
}

# Where the answer's body ends, and what follows it.
sub _split_body {
    my ($ctx, $response) = @_;

    my $content = $response->content // '';
    my $length  = $response->header('Content-Length');

    if (($response->header('Transfer-Encoding') // '') eq 'chunked') {
        my ($body, $rest) = _decode_chunked($content);
        Test::More::fail("$ctx->{name} - bad chunked body: " . _show($content))
            if !defined $body;
        return ($body, $rest);
    }

    return ($content, '') if !defined $length || $length !~ /^\d+$/;

    Test::More::fail("$ctx->{name} - answer cut short: "
            . length($content) . " bytes of $length")
        if length $content < $length && !$ctx->{head} && !defined $ctx->{block}{abort};

    return ($content, '') if length $content <= $length;
    return (substr($content, 0, $length), substr $content, $length);
}

sub _decode_chunked {
    my ($text) = @_;

    my $body = '';
    while ($text =~ /\G[ \t]*([0-9A-Fa-f]+)[ \t]*\r\n/gc) {
        my ($size, $start) = (hex $1, pos $text);

        return if substr($text, $start + $size, 2) ne "\r\n";
        return ($body, substr $text, $start + 2) if $size == 0;

        $body .= substr $text, $start, $size;
        pos($text) = $start + $size + 2;
    }

    return;
}

sub _check_status {
    my ($ctx, $response) = @_;

    my $block = $ctx->{block};
    my $code  = $response && $response->code || '';
    my $what  = "$ctx->{name} - status code";

    if (defined $block->{error_code_like}) {
        my $pattern = _expected($ctx, 'error_code_like');
        Test::More::like($code, qr/$pattern/sm, $what);
    }
    else {
        my $wanted = defined $block->{error_code} ? _expected($ctx, 'error_code') : 200;
        Test::More::is($code, $wanted, $what);
    }

    return;
}

sub _check_raw_headers {
    my ($ctx, $headers) = @_;

    my $block = $ctx->{block};

    if (defined $block->{raw_response_headers_like}) {
        my $pattern = _expected($ctx, 'raw_response_headers_like');
        Test::More::like($headers, qr/$pattern/s, "$ctx->{name} - raw headers");
    }
    if (defined $block->{raw_response_headers_unlike}) {
        my $pattern = _expected($ctx, 'raw_response_headers_unlike');
        Test::More::unlike($headers, qr/$pattern/s, "$ctx->{name} - raw headers, not");
    }

    return;
}

# Lines of "Name: value", or of "! Name" for a header that must not be there.
sub _check_headers {
    my ($ctx, $response, $headers) = @_;

    my $block   = $ctx->{block};
    my $section = defined $block->{response_headers} ? 'response_headers'
        : defined $block->{response_headers_like} ? 'response_headers_like'
        :                                         return;

    my %wanted;
    for my $line (split /\n/, _expected($ctx, $section)) {
        $line =~ s/^\s+|\s+$//g;
        my ($absent, $key, $value) = $line =~ /^(!?)\s*(.*?)(?:\s*:\s*(.*))?$/;
        die "$ctx->{name}: $section: not a header line: \"$line\"\n"
            if $absent ? defined $value : !defined $value;
        $wanted{$key} = $value;
    }

    for my $key (sort keys %wanted) {
        my $value = $wanted{$key};
        my $what  = "$ctx->{name} - header $key";

        if (!defined $value) {
            Test::More::unlike($headers, qr/^\s*\Q$key\E\s*:/mi, "$what is absent");
            next;
        }

        my $got = $response ? $response->header($key) // '' : '';
        if ($section eq 'response_headers') {
            Test::More::is($got, $ctx->{server}->expand_port($value), $what);
        }
        else {
            Test::More::like($got, qr/^$value$/, $what);
        }
    }

    return;
}

sub _check_body {
    my ($ctx, $response) = @_;

    my ($block, $server) = @{$ctx}{qw(block server)};
    my $got  = $response ? $response->content : undef;
    my $what =
        "$ctx->{name} - response_body (repeat $ctx->{repeat}, request $ctx->{index})";

    if (defined $block->{response_body}) {
        my $wanted = _expected($ctx, 'response_body');
        equal($got, $server->expand_expected($wanted, $ctx), $what);
    }
    elsif (defined $block->{response_body_like}) {
        my $pattern = $server->expand_port(_expected($ctx, 'response_body_like'));
        Test::More::like($got, qr/$pattern/s, $what);
    }
    elsif (defined $block->{response_body_unlike}) {
        my $pattern = $server->expand_port(_expected($ctx, 'response_body_unlike'));
        Test::More::unlike($got, qr/$pattern/s, $what);
    }

    return;
}


# ---- the logs ----

sub _patterns {
    my ($value) = @_;

    return if !defined $value;
    return grep {defined} @{$value} if ref $value eq 'ARRAY';
    return $value if ref $value;
    return split /\n+/, $value =~ s/\n\z//r;
}

sub _matching {
    my ($pattern, @lines) = @_;
    return grep { ref $pattern ? $_ =~ $pattern : index($_, $pattern) >= 0 } @lines;
}

# What $read returns, once it has the lines that are wanted: on a busy machine
# nginx may write them late.
sub _lines_with {
    my ($ctx, $wanted, $read) = @_;

    my $limit = time + $ctx->{server}{timeout};
    my @lines = $read->();
    while (time < $limit && grep { !_matching($_, @lines) } _patterns($wanted)) {
        @lines = $read->();
    }
    return @lines;
}

sub _must_match {
    my ($what, $value, @lines) = @_;

    for my $pattern (_patterns($value)) {
        Test::More::ok(scalar _matching($pattern, @lines),
            "$what - a line matches \"$pattern\"");
    }

    return;
}

sub _must_not_match {
    my ($what, $value, @lines) = @_;

    for my $pattern (_patterns($value)) {
        my @found = _matching($pattern, @lines);
        Test::More::ok(!@found, "$what - no line matches \"$pattern\"") or do {
            $#found = SHOWN_LINES - 1 if @found > SHOWN_LINES;
            Test::More::diag(@found);
        };
    }

    return;
}

sub error_log {
    my ($ctx) = @_;

    my $block = $ctx->{block};
    my $what  = "$ctx->{name} (repeat $ctx->{repeat})";
    my @seen;
    my @lines = _lines_with($ctx, $block->{error_log}, sub {
        my @new = $ctx->{server}->error_log_lines;
        return @seen = $ctx->{server}{whole_log} ? @new : (@seen, @new);
    });

    _check_grep($ctx, @lines) if defined $block->{grep_error_log};
    _must_match("$what - error_log", $block->{error_log}, @lines);
    _must_not_match("$what - no_error_log", $block->{no_error_log}, @lines);

    _warn_of_severe($ctx, @lines);
    Test::More::fail("$what - $_")
        for map { s/\n//r } grep {/$Test::Nginx::Socket::Server::TROUBLE/} @lines;

    return;
}

# Severe lines are worth a look, unless the block says what it expects of them.
sub _warn_of_severe {
    my ($ctx, @lines) = @_;

    my $mentioned = join "\n",
        map { _patterns($ctx->{block}{$_}) } qw(error_log no_error_log);

    for my $level (qw(alert crit emerg)) {
        next if index($mentioned, "[$level") >= 0;
        warn "$ctx->{name} - $_" for grep {/\[$level\]/} @lines;
    }

    return;
}

# What the pattern matches in each line, joined, is the text to compare.
sub _check_grep {
    my ($ctx, @lines) = @_;

    my ($block, $repeat) = @{$ctx}{qw(block repeat)};
    my ($pattern, $expected) = map { ref eq 'ARRAY' ? $_->[$repeat] : $_ }
        $block->{grep_error_log}, $block->{grep_error_log_out};

    return if !defined $pattern;
    $pattern = qr/\Q$pattern\E/ if !ref $pattern;

    my $got = join '', map { /($pattern)/ && index($1, "\n") < 0 ? "$1\n" : () } @lines;

    equal($got, $ctx->{server}->expand($expected, $ctx),
        "$ctx->{name} - grep_error_log_out (repeat $repeat)");
    return;
}

sub access_log {
    my ($ctx) = @_;

    my $block = $ctx->{block};
    return if !defined $block->{access_log} && !defined $block->{no_access_log};

    my @lines = _lines_with($ctx, $block->{access_log},
        sub { $ctx->{server}->access_log_lines });
    _must_match("$ctx->{name} - access_log", $block->{access_log}, @lines);
    _must_not_match("$ctx->{name} - no_access_log", $block->{no_access_log}, @lines);

    return;
}

sub shutdown_log {
    my ($ctx, $skip) = @_;

    my ($block, $name) = @{$ctx}{qw(block name)};
    my ($wanted, $unwanted) = @{$block}{qw(shutdown_error_log no_shutdown_error_log)};
    my $tests = () = map { _patterns($_) } $wanted, $unwanted;
    return if !$tests;

    if (defined $skip) {
    SKIP: { Test::More::skip("$name - shutdown_error_log: $skip", $tests) }
        return;
    }

    my @lines = @{ $ctx->{server}{shutdown_log} // [] };
    _must_match("$name - shutdown_error_log", $wanted, @lines);
    _must_not_match("$name - no_shutdown_error_log", $unwanted, @lines);

    return;
}

1;
