package Test::VD::HTTP2;

# Copyright (C) The ngx_vd_module authors
#
# What an app that speaks HTTP/2 says, in frames.

use v5.10.1;
use strict;
use warnings;

use Exporter qw(import);
our @EXPORT = qw(preface frame field post data cancel
    DATA HEADERS RST_STREAM SETTINGS WINDOW_UPDATE GOAWAY CANCEL END_STREAM END_HEADERS);

# Frames (RFC 9113, 4.1 and 6) and header fields as literals (RFC 7541, 6.2.2).
use constant {
    DATA          => 0,
    HEADERS       => 1,
    RST_STREAM    => 3,
    SETTINGS      => 4,
    WINDOW_UPDATE => 8,
    GOAWAY        => 7,
    CANCEL        => 8,
    END_STREAM    => 1,
    END_HEADERS   => 4,
};

# How a connection begins; with settings, pairs of a number and its value.
sub preface {
    my (@settings) = @_;

    return "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" . frame(SETTINGS, 0, 0, pack '(nN)*', @settings);
}

sub frame {
    my ($type, $flags, $stream, $payload) = @_;
    return substr(pack('N', length $payload), 1) . pack('CCN', $type, $flags, $stream) . $payload;
}

sub field {
    my ($name, $value) = @_;
    return pack 'x C/a C/a', $name, $value;
}

sub post {
    my ($stream, $uri, $id, @fields) = @_;

    return frame(HEADERS, END_HEADERS, $stream, field(':method', 'POST') . field(':scheme', 'http')
            . field(':path', $uri) . field(':authority', 'localhost')
            . field('idempotency-key', $id) . CORE::join('', map { field(@{$_}) } @fields));
}

sub data {
    my ($stream, @pieces) = @_;
    return ((map { frame(DATA, 0, $stream, $_) } @pieces), frame(DATA, END_STREAM, $stream, ''));
}

sub cancel {
    my ($stream) = @_;
    return frame(RST_STREAM, 0, $stream, pack 'N', CANCEL);
}

1;
