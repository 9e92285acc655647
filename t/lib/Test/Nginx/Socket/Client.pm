package Test::Nginx::Socket::Client;

# Copyright (C) The ngx_vd_module authors
#
# Makes a block's requests, sends each on a connection of its own and returns
# the bytes that came back.

use v5.10.1;
use strict;
use warnings;

use Errno qw(EAGAIN);
use File::Temp ();
use IO::Select;
use IO::Socket::INET;
use POSIX ();
use Test::More ();
use Time::HiRes qw(sleep);

use constant READ_SIZE => 65536;


# ---- making requests ----

# A list of requests, each an array of the pieces to send.
sub requests {
    my ($ctx) = @_;

    my $block = $ctx->{block};

    if (defined(my $raw = $block->{raw_request})) {
        return ref $raw ? [ @{$raw} ] : [$raw];
    }

    if (my $pipelined = $block->{pipelined_requests}) {
        die "$ctx->{name}: pipelined_requests must be an array\n"
            if ref $pipelined ne 'ARRAY';
        my $last = $#{$pipelined};
        my @texts = map { $ctx->{server}->expand($_, $ctx) } @{$pipelined};
        return [
            join '', map {
                _request($ctx, $texts[$_], $_, $_ == $last ? 'close' : 'keep-alive')
            } 0 .. $last
        ];
    }

    my $request = $block->{request} // die "$ctx->{name}: no request section\n";

    if (ref $request eq 'ARRAY') {
        return map { [ _request($ctx, $request->[$_], $_, 'close') ] }
            0 .. $#{$request};
    }

    # Comments and empty lines may stand before a single request.
    $request =~ s/^(?:\s*\#[^\n]+\s+|\s+)+//;
    return [ _request($ctx, $request, 0, 'close') ];
}

sub _request {
    my ($ctx, $text, $index, $connection) = @_;

    my $name = $ctx->{name};
    die "$name: a request must be a string (for pieces use raw_request)\n"
        if !defined $text || ref $text;

    my ($line, $body) = split /\n/, $text, 2;
    $line //= '';
    $line =~ s/^\s+|\s+$//g;
    $body //= '';

    my ($method, $uri, $version, @rest) = split / +/, $line;
    die "$name: not a request line: \"$line\"\n"
        if !defined $method || @rest || $line =~ /[^\S ]/;

    my ($headers, $chunked) = _more_headers($ctx, $index);

    # Without a length of its own the body loses the white space around it,
    # the last newline of the section included.
    if (!$chunked && $body ne '' && $headers !~ /^Content-Length:/m) {
        $body =~ s/^\s+|\s+$//g;
        $headers .= 'Content-Length: ' . length($body) . "\r\n";
    }

    $headers = "Connection: $connection\r\n$headers" if $headers !~ /^Connection/mi;
    $headers = "Host: $ctx->{server}{server_name}\r\n$headers" if $headers !~ /^Host:/mi;

    return join(' ', $method, $uri // '/', $version // 'HTTP/1.1')
        . "\r\n$headers\r\n$body";
}

sub _more_headers {
    my ($ctx, $index) = @_;

    my $more = $ctx->{block}{more_headers} || '';
    $more = $more->[$index] // die "$ctx->{name}: more_headers lacks request $index\n"
        if ref $more;

    my ($headers, $chunked) = ('', 0);
    for my $line (grep { !/^\s*#/ } split /\n+/, $more) {
        my ($key, $value) = split /:\s*/, $line, 2;
        $value //= '';
        $chunked = 1 if lc $key eq 'transfer-encoding' && $value eq 'chunked';
        $headers .= "$key: $value\r\n";
    }

    return ($headers, $chunked);
}


# ---- sending ----

sub exchange {
    my ($ctx, $pieces) = @_;

    $ctx->{head} = join('', @{$pieces}) =~ /^\s*HEAD\s/;

    return _curl($ctx, $pieces->[0]) if defined $ctx->{block}{http2};

    my $socket = _connect($ctx) // return '';
    return _talk($ctx, $socket, $pieces);
}

sub _timeout {
    my ($ctx) = @_;

    my $text = $ctx->{block}{timeout} // $ctx->{server}{timeout};
    my ($number, $unit) = $text =~ /^\s*([\d.]+)(ms|s)?\s*$/
        or die "$ctx->{name}: bad timeout: $text\n";

    return ($unit // '') eq 'ms' ? $number / 1000 : $number;
}

sub _connect {
    my ($ctx) = @_;

    my $server = $ctx->{server};
    my $socket = IO::Socket::INET->new(
        PeerAddr => $server->{addr},
        PeerPort => $server->{port},
        Timeout  => _timeout($ctx),
    );

    if (!$socket) {
        Test::More::fail("$ctx->{name} - cannot connect to nginx: $@");
        return;
    }

    $socket->blocking(0);
    return $socket;
}

sub _talk {
    my ($ctx, $socket, $pieces) = @_;

    my $block   = $ctx->{block};
    my $timeout = _timeout($ctx);
    my $reading = IO::Select->new($socket);
    my $writing = IO::Select->new($socket);
    my $delay   = $block->{raw_request_middle_delay};
    my $out     = { pieces => [ @{$pieces} ], delay => $delay };
    my $answer  = '';

    local $SIG{PIPE} = 'IGNORE';

    while (1) {
        my ($readable, $writable) =
            IO::Select->select($reading, $writing, undef, $timeout);

        if (!defined $readable) {
            next if $!{EINTR};
            Test::More::fail("$ctx->{name} - no answer within $timeout s")
                if !defined $block->{abort};
            last;
        }

        last if @{$readable} && !_read($ctx, $socket, \$answer);
        next if !@{$writable};

        my $state = _write($ctx, $socket, $out);
        last if $state eq 'failed';

        if ($state eq 'done') {
            $writing->remove($socket);
            _shut_down($block, $socket);
        }
    }

    close $socket;
    return $answer;
}

sub _shut_down {
    my ($block, $socket) = @_;

    my $how = $block->{shutdown} // return;
    shutdown $socket, $how eq '' ? 1 : $how;
    return;
}

# False once the connection is at its end.
sub _read {
    my ($ctx, $socket, $answer) = @_;

    while (1) {
        my $got = sysread $socket, ${$answer}, READ_SIZE, length ${$answer};

        if (!defined $got) {
            return 1 if $! == EAGAIN;
            warn "$ctx->{name} - read failed: $!\n";
            return 0;
        }
        return 0 if $got == 0;
    }
}

sub _write {
    my ($ctx, $socket, $out) = @_;

    while (@{ $out->{pieces} }) {
        my $sent = syswrite $socket, $out->{pieces}[0];

        if (!defined $sent) {
            return 'again' if $! == EAGAIN;
            warn "$ctx->{name} - write failed: $!\n";
            return 'failed';
        }

        substr $out->{pieces}[0], 0, $sent, '';
        next if length $out->{pieces}[0];

        shift @{ $out->{pieces} };
        sleep $out->{delay} if $out->{delay} && @{ $out->{pieces} };
    }

    return 'done';
}


# ---- HTTP/2 ----

sub _curl {
    my ($ctx, $request) = @_;

    my $name = $ctx->{name};
    my ($status, $out, $err) = _run(_curl_command($ctx, $request));

    if ($out eq '') {
        my $allowed = $ctx->{block}{curl_error};
        $allowed = qr/\Q$allowed\E/ if defined $allowed && !ref $allowed;
        return '' if defined $allowed && $err =~ $allowed;

        Test::More::fail("$name - curl has got no answer (exit $status): $err");
        return '';
    }

    warn "$name - curl: $err\n" if $err ne '';
    return $out;
}

sub _curl_command {
    my ($ctx, $request) = @_;

    my ($head, $body) = split /\r\n\r\n/, $request, 2;
    my ($line, @headers) = split /\r\n/, $head;
    my ($method, $uri) = split ' ', $line;
    my $timeout = _timeout($ctx);
    my $server  = $ctx->{server};

    # curl adds headers of its own unless told not to.
    my @command = qw(curl -i -sS --http2-prior-knowledge);
    push @command, map { ('-H', $_) } qw(User-Agent: Accept: Host:),
        grep { !/^Connection\s*:/i } @headers;
    push @command, $method eq 'HEAD' ? '-I' : $method eq 'GET' ? () : ('-X', $method);

    if ($body ne '') {
        push @command, '-H', 'Content-Type:' if !grep {/^\s*Content-Type\s*:/i} @headers;
        push @command, '--data-binary', '@' . _body_file($server, $body);
    }

    return (
        @command, '--connect-timeout', $timeout, '--max-time', $timeout,
        $ctx->{block}{curl_options} // (),
        "http://$server->{addr}:$server->{port}$uri"
    );
}

sub _body_file {
    my ($server, $body) = @_;

    my $path = "$server->{root}/html/curl.data.bin";
    open my $file, '>:raw', $path or die "cannot write $path: $!\n";
    print {$file} $body;
    close $file or die "cannot write $path: $!\n";
    return $path;
}

# The exit status and what came on either stream.
sub _run {
    my (@command) = @_;

    my ($out, $err) = map { File::Temp->new } 1 .. 2;

    my $pid = fork // die "fork: $!\n";
    if ($pid == 0) {
        open STDOUT, '>&', $out;
        open STDERR, '>&', $err;
        { exec @command };
        print {*STDERR} "cannot execute $command[0]: $!\n";
        POSIX::_exit(127);
    }

    waitpid $pid, 0;
    my $status = $? >> 8;

    return ($status, map { seek $_, 0, 0; local $/; <$_> // '' } $out, $err);
}

1;
