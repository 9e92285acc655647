package Test::VD::Again;

# Copyright (C) The ngx_vd_module authors
#
# Deliveries that are made again from their records, as the sidecar makes them,
# and what the receiver got each time, to the byte.

use v5.10.1;
use strict;
use warnings;

use JSON::PP ();
use MIME::Base64 qw(decode_base64);

use Test::VD;

use Exporter qw(import);
our @EXPORT_OK = qw(location first_request again wire same_but_for_attempt exchange records_of);

my $CRLF = "\r\n";
my $json = JSON::PP->new->utf8;


# The location /ID, with what else is in it; the receiver fails whatever it gets.
# Returns its configuration, and the name by which wire() knows the receiver.
sub location {
    my ($id, $more, $steps) = @_;

    my ($path, $name) = Test::VD::script($steps // 'reply 503 {}');
    my $config = "location /$id { vd_pass http://127.0.0.1:$ENV{TEST_NGINX_RAW_PORT}$path; "
        . "vd_output $id; vd_ticket_id ticket_id max=4096; $more }\n";
    return ($config, $name);
}

# An app's request: its id, and of it "uri" (or "target", what is on the request's
# first line), "headers" (lines), "host" (undef: none), "body".
sub first_request {
    my ($id, %request) = @_;

    my $body = $request{body} // '{"case": 1}';
    my $target = $request{target} // $request{uri};
    return join $CRLF, "POST $target HTTP/1.1",
        exists $request{host} ? () : 'Host: localhost',
        defined $request{host} ? "Host: $request{host}" : (),
        "Idempotency-Key: $id", @{ $request{headers} // [] }, 'Connection: close',
        'Content-Length: ' . length $body, '', $body;
}

# That of the sidecar, for an attempt of a record's delivery.  A client of its
# kind sends a type of its own where it is given none.
sub again {
    my ($record, $attempt, @headers) = @_;

    my $body = exists $record->{body_b64} ? decode_base64($record->{body_b64})
        : _bytes($record->{body});
    return join $CRLF, 'POST ' . _bytes($record->{uri}) . ' HTTP/1.1',
        'Host: ' . _bytes($record->{host} // "127.0.0.1:8088"),
        'Accept: */*', 'User-Agent: vd-sidecar/0', "Idempotency-Key: $record->{id}",
        "VD-Attempt: $attempt", "VD-Output: $record->{output}",
        exists $record->{kept} ? "VD-Kept: $record->{kept}" : (),
        'Content-Type: ' . _bytes($record->{content_type} // 'application/octet-stream'),
        @headers, 'Connection: close', 'Content-Length: ' . length $body, '', $body;
}

sub _bytes {
    my ($text) = @_;

    utf8::encode($text);
    return $text;
}

# The answer to any request.
sub exchange {
    my ($nginx, $request) = @_;

    my $socket = $nginx->connect;
    $socket->autoflush;
    print {$socket} $request;
    return $nginx->finish($socket);
}

# The records of a delivery, in order; others are not even decoded.
sub records_of {
    my ($nginx, $id) = @_;

    my @records;
    for my $path ($nginx->files) {
        open my $file, '<:raw', $path or die "cannot read $path: $!\n";
        push @records, map { $json->decode($_) } grep { index($_, qq("id":"$id",)) > 0 } readline $file;
    }
    return @records;
}

# What the receiver got as its request of this number.
sub wire {
    my ($name, $number) = @_;

    my $socket = IO::Socket::INET->new("127.0.0.1:$ENV{TEST_NGINX_RAW_PORT}")
        // die "cannot connect to the receiver: $@\n";
    print {$socket} "GET /bytes/$name/$number HTTP/1.1${CRLF}Host: x${CRLF}${CRLF}";

    local $/ = "\r\n\r\n";
    my ($length) = readline($socket) =~ /^Content-Length: (\d+)/m
        or die "no answer of the receiver\n";
    my $bytes = '';
    while (length $bytes < $length) {
        read $socket, $bytes, $length - length $bytes, length $bytes or die "no bytes\n";
    }
    return $bytes;
}

# Without what may differ: the time, signatures, and "try-" with the number of the
# attempt, which must be that.
sub same_but_for_attempt {
    my ($bytes, $attempt) = @_;

    my ($head, $body) = split /\r\n\r\n/, $bytes, 2;
    $head =~ s/^(webhook-timestamp: )\d+/$1/m;
    $head =~ s/^(webhook-signature: ).*/$1/m;
    $head =~ s/\btry-$attempt(?!\d)/try-/g;
    return "$head\r\n\r\n$body";
}

1;
