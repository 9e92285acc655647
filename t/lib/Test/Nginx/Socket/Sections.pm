package Test::Nginx::Socket::Sections;

# Copyright (C) The ngx_vd_module authors
#
# What a block may say.  A section that is unknown, doubled, or without effect
# beside another one is an error: a check must never be lost in silence.

use v5.10.1;
use strict;
use warnings;

use Test::Nginx::Socket::Server;

my @ANSWER_CHECKS = qw(
    error_code error_code_like response_body response_body_like
    response_body_unlike response_headers response_headers_like
    raw_response_headers_like raw_response_headers_unlike
    access_log no_access_log
);

my @LOG_CHECKS = qw(
    error_log no_error_log access_log no_access_log
    shutdown_error_log no_shutdown_error_log
);

# With an empty value each of these would hold for anything.
my @PATTERNS = (
    @LOG_CHECKS, qw(error_code_like response_body_like response_body_unlike
        response_headers response_headers_like
        raw_response_headers_like raw_response_headers_unlike)
);

my @RECEIVER = qw(
    tcp_reply tcp_reply_delay tcp_query tcp_query_len tcp_no_close tcp_shutdown
    tcp_shutdown_delay
);

my %KNOWN = map { $_ => 1 } @ANSWER_CHECKS, @LOG_CHECKS, @RECEIVER, qw(
    ONLY LAST abort config curl_error curl_options grep_error_log
    grep_error_log_out http2 http_config ignore_response init log_level
    main_config more_headers must_die pipelined_requests post_main_config
    raw_request raw_request_middle_delay request shutdown skip_eval skip_nginx
    skip_nginx2 suppress_stderr tcp_listen timeout user_files wait
);

# Test::Base's own keys in a block.
my %INTERNAL = map { $_ => 1 }
    qw(name description seq_num is_filtered blocks_object original_values);

# The first is of no use without the second.
my @NEEDS = (
    [ grep_error_log           => 'grep_error_log_out' ],
    [ grep_error_log_out       => 'grep_error_log' ],
    [ raw_request_middle_delay => 'raw_request' ],
    [ tcp_shutdown_delay       => 'tcp_shutdown' ],
    (map { [ $_ => 'http2' ] } qw(curl_error curl_options)),
    (map { [ $_ => 'tcp_listen' ] } @RECEIVER),
);

# Of each group the first would win over the rest.
my @EXCLUDES = (
    [qw(response_body response_body_like response_body_unlike)],
    [qw(response_body_like response_body_unlike)],
    [qw(response_headers response_headers_like)],
    [qw(error_code_like error_code)],
    [qw(raw_request request pipelined_requests more_headers)],
    [qw(pipelined_requests request)],
    [qw(http2 raw_request pipelined_requests shutdown abort)],
    [qw(skip_nginx skip_nginx2)],
    [ ignore_response => @ANSWER_CHECKS ],
    [
        must_die => @ANSWER_CHECKS,
        qw(tcp_listen shutdown_error_log no_shutdown_error_log init)
    ],
);


# The sections of a block by name.
sub verified {
    my ($block) = @_;

    my %section =
        map { $_ => $block->{$_}[0] } grep { !/^_/ && !$INTERNAL{$_} } keys %{$block};
    my @errors = (
        _unknown(\%section), _doubled($block), _hidden($block),
        _useless(\%section), _empty(\%section)
    );
    die map { $block->name . ": $_\n" } @errors if @errors;

    return \%section;
}

# A suite's preprocessor that has a section of its own deletes it from the
# block when it has used it.
sub _unknown {
    my ($section) = @_;

    return map {"unknown section \"$_\""} sort grep { !$KNOWN{$_} } keys %{$section};
}

sub _doubled {
    my ($block) = @_;

    my %count;
    $count{$_}++ for @{ $block->_section_order };
    return map {"section \"$_\" stands there twice"}
        sort grep { $count{$_} > 1 } keys %count;
}

# A line that was meant to open a section but became part of the one before.
sub _hidden {
    my ($block) = @_;

    my %text = (%{ $block->original_values }, description => scalar $block->description);
    return map { ($text{$_} // '') =~ /^(\h*---\h*\w.*)$/m ? "hidden in \"$_\": $1" : () }
        sort keys %text;
}

sub _useless {
    my ($section) = @_;

    my @errors;
    for my $pair (@NEEDS) {
        my ($name, $needed) = @{$pair};
        push @errors, "section \"$name\" has no effect without \"$needed\""
            if defined $section->{$name} && !defined $section->{$needed};
    }
    for my $group (@EXCLUDES) {
        my ($winner, @losers) = @{$group};
        next if !defined $section->{$winner};
        push @errors, map {"section \"$_\" has no effect beside \"$winner\""}
            grep { defined $section->{$_} } @losers;
    }
    push @errors, 'tcp_listen needs tcp_reply or tcp_shutdown'
        if defined $section->{tcp_listen}
        && !defined $section->{tcp_reply}
        && !defined $section->{tcp_shutdown};

    return @errors;
}

sub _empty {
    my ($section) = @_;

    my @errors;
    for my $name (grep { defined $section->{$_} } @PATTERNS) {
        my $value    = $section->{$name};
        my @patterns = ref $value eq 'ARRAY' ? @{$value} : $value;
        push @errors, "section \"$name\" has an empty pattern"
            if !@patterns || grep { !defined || $_ eq '' || $_ eq "\n" } @patterns;
    }
    return @errors;
}


# ---- skipping ----

my $VERSION = qr/([<>]=?)\s*(\d+)\.(\d+)\.(\d+)/;

# The number of tests to skip and why; nothing if the block is to be run.
sub skipped {
    my ($name, $block, $version) = @_;

    if (defined(my $spec = $block->{skip_eval})) {
        my ($count, $code) = $spec =~ /^\s*(\d+)\s*:\s*(.*)/s
            or die "$name: bad skip_eval: $spec\n";
        my $skip = Test::Nginx::Util::evaluate($code);
        die "$name: skip_eval failed: $@" if $@;
        return ($count, 'skip_eval') if $skip;
    }

    if (defined(my $spec = $block->{skip_nginx})) {
        my ($count, $op, @rest) = $spec =~ /^\s*(\d+)\s*:\s*$VERSION\s*(?::\s*(.*?))?\s*$/
            or die "$name: bad skip_nginx: $spec\n";
        my $reason = $rest[3] || "nginx version $op " . join '.', @rest[ 0 .. 2 ];
        return ($count, $reason) if _compare($version, $op, @rest[ 0 .. 2 ]);
    }

    if (defined(my $spec = $block->{skip_nginx2})) {
        my ($count, @rest) = $spec =~
            /^\s*(\d+)\s*:\s*$VERSION\s*(or|and)\s*$VERSION\s*(?::\s*(.*?))?\s*$/
            or die "$name: bad skip_nginx2: $spec\n";
        my $first  = _compare($version, @rest[ 0 .. 3 ]);
        my $second = _compare($version, @rest[ 5 .. 8 ]);
        return ($count, $rest[9] || 'nginx version')
            if $rest[4] eq 'or' ? $first || $second : $first && $second;
    }

    return;
}

sub _compare {
    my ($version, $op, @parts) = @_;

    my $other = Test::Nginx::Socket::Server::version_number(@parts);
    return
          $op eq '<'  ? $version < $other
        : $op eq '<=' ? $version <= $other
        : $op eq '>'  ? $version > $other
        :               $version >= $other;
}

1;
