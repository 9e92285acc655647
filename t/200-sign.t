# Copyright (C) The ngx_vd_module authors
#
# Signatures: what is signed, with which secrets, and how the receiver gets it.

use Digest::SHA qw(hmac_sha256 hmac_sha256_base64 hmac_sha256_hex);
use File::Basename qw(dirname);
use JSON::PP qw(decode_json);
use MIME::Base64 qw(decode_base64 encode_base64);
use Test::Nginx::Socket 'no_plan';

repeat_each(1);
no_long_string();

# nginx warns of a secret that others can read.
umask 027;

$ENV{TEST_NGINX_HTML_DIR} ||= html_dir();


# ---- what a receiver would compute: the value for an id and a time ----

sub base64 {
    my ($data, $key) = @_;
    return encode_base64(hmac_sha256($data, $key), '');
}

sub standard {
    my ($body, @keys) = @_;
    return sub { join ' ', map { 'v1,' . base64("$_[0].$_[1].$body", $_) } @keys };
}

sub stripe {
    my ($body, @keys) = @_;
    return sub {
        join ',', "t=$_[1]", map { 'v1=' . hmac_sha256_hex("$_[1].$body", $_) } @keys;
    };
}

sub slack {
    my ($body, $key) = @_;
    return sub { 'v0=' . hmac_sha256_hex("v0:$_[1]:$body", $key) };
}

# The published vectors that cannot be delivered, as their time is over.
sub check_vectors {
    my $file = dirname(__FILE__) . '/../demo/vectors/signatures.json';
    open my $in, '<', $file or die "cannot open $file: $!";
    my $vectors = decode_json(do { local $/; <$in> })->{vectors};

    my %scheme = (standard => \&standard, stripe => \&stripe, slack => \&slack);

    for my $vector (grep { $scheme{ $_->{scheme} } } @{$vectors}) {
        my @keys = map { /^whsec_(.*)/ ? decode_base64($1) : $_ } @{ $vector->{secrets} };
        my $code = $scheme{ $vector->{scheme} }->($vector->{body}, @keys);
        my $got  = $code->(@{$vector}{qw(id timestamp)});

        my $as_expected = exists $vector->{not} ? $got ne $vector->{not} : $got eq $vector->{value};
        Test::More::ok($as_expected, "vector: $vector->{scheme}, $vector->{source}");
    }
}


# ---- the sections of this suite ----
#
#   secrets     a line each; the files have no newline at the end
#   vd          what else is in the location /t
#   seen        the variables of the receiver with what it got, by default that
#               of the header `webhook-signature`
#   signature   the value that they must have, or code that computes it, or an
#               array of those where there are several requests
#   relayed     the body, which goes through a second location, that signs what
#               it got on the wire: both signatures must be the body's; it is
#               the body of the request too where there is none
#
# The receiver answers with the delivery's id and time, and what it has seen, as
# ticket id.
add_block_preprocessor(sub {
    my ($block) = @_;

    my $vd        = take($block, 'vd');
    my $seen      = take($block, 'seen') // '$http_webhook_signature';
    my $secrets   = take($block, 'secrets');
    my $signature = take($block, 'signature');
    my $relayed   = take($block, 'relayed');
    my $receiver  = defined $relayed ? 'relay' : 'receiver';

    $block->set_value(http_config => ($block->http_config // '') . <<"END");
    vd_ticket_id ticket_id max=4000;
    large_client_header_buffers 4 16k;

    server {
        listen unix:\$TEST_NGINX_HTML_DIR/receiver.sock;
        return 200 '{"ticket_id":"\$http_webhook_id \$http_webhook_timestamp $seen"}';
    }
END

    $block->set_value(http_config => $block->http_config . <<"END") if defined $relayed;
    server {
        listen unix:\$TEST_NGINX_HTML_DIR/relay.sock;
        client_max_body_size 30m;
        client_body_buffer_size 8k;

        location / {
            vd_pass http://unix:\$TEST_NGINX_HTML_DIR/receiver.sock:/;
            vd_output relay;
            vd_secret_file \$TEST_NGINX_HTML_DIR/secret1;
            vd_signature hex;
            vd_set_header X-First \$http_x_signature;
            vd_validate off;
        }
    }
END

    if (defined $secrets) {
        my @secrets = split /\n/, $secrets;
        $block->set_value(
            user_files => [ map { [ "secret$_" => $secrets[ $_ - 1 ] ] } 1 .. @secrets ]);
        $vd .= "vd_secret_file \$TEST_NGINX_HTML_DIR/secret$_;\n" for 1 .. @secrets;
    }

    $block->set_value(config => ($block->config // '') . <<"END") if defined $vd;
    location = /t {
        vd_pass http://unix:\$TEST_NGINX_HTML_DIR/$receiver.sock:/;
        vd_output 28;
$vd
    }
END

    if (!defined $block->request && !defined $block->raw_request) {
        my $body = $relayed // '{}';
        $block->set_value(request      => "POST /t\n$body");
        $block->set_value(more_headers => 'Content-Length: ' . length $body);
    }
    $block->set_value(no_error_log => "[error]\n[alert]");

    $block->set_value(response_body => defined $relayed
        ? relayed(hmac_sha256_hex($relayed, 'secret'))
        : ref $signature eq 'ARRAY' ? [ map { signed($_) } @{$signature} ]
        :                             signed($signature));
});

sub take {
    my ($block, $section) = @_;

    my $values = delete $block->{$section};
    return $values && $values->[0];
}

sub signed {
    my ($expected) = @_;

    return qr/^\{"id":"([^"]+)","output":"28","state":"delivered","attempt":\d+,"status":200,
        "ticket_id":"(\S+)\ (\d+)\ ([^"]*)","ticket_error":null,"reason":null,"journaled":false\}$
        (?(?{ $1 eq $2 && abs(time - $3) <= 60
              && $4 eq (ref $expected ? $expected->($2, $3) : $expected) })|(?!))/x;
}

sub relayed {
    my ($mac) = @_;
    return qr/"ticket_id":"\S+ \d+ $mac $mac"/;
}

# `--- NAME perl` is like `--- NAME eval`, with what is defined here, and without
# a word that is wrong becoming the value.
sub perl {
    my ($code) = @_;

    my $value = eval $code;
    die $@ if $@;
    return $value;
}

check_vectors();
run_tests();

__DATA__

=== TEST 1: github: the vector of its documentation
--- secrets
It's a Secret to Everybody
--- vd
        vd_signature github;
        vd_validate off;
--- request
POST /t
Hello, World!
--- seen: $http_x_hub_signature_256
--- signature: sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17


=== TEST 2: hex: the vector of RFC 4231
--- secrets
Jefe
--- vd
        vd_signature hex;
        vd_validate off;
--- request
POST /t
what do ya want for nothing?
--- seen: $http_x_signature
--- signature: 5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843


=== TEST 3: base64: the vector of a shop
--- secrets
shop-secret
--- vd
        vd_signature base64;
--- request
POST /t
{"id":1}
--- seen: $http_x_signature
--- signature: plW8VGqq0nDMIEhDqaNNW99asdUCy7EIqLZVcQwtAZ0=


=== TEST 4: standard: a secret in base64
--- secrets
whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw
--- vd
        vd_signature standard;
--- request
POST /t
{"test": 2432232314}
--- signature perl
standard('{"test": 2432232314}', decode_base64('MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw'))


=== TEST 5: standard: a secret in base64 without padding
--- secrets
whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwBr
--- vd
        vd_signature standard;
--- signature perl
standard('{}', decode_base64('MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwBg=='))


=== TEST 6: standard: a secret in base64 with padding
--- secrets
whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwBg==
--- vd
        vd_signature standard;
--- signature perl
standard('{}', decode_base64('MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwBg=='))


=== TEST 7: standard: a secret that does not begin with whsec_ is taken as it is
--- secrets
MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw
--- vd
        vd_signature standard;
--- signature perl
standard('{}', 'MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw')


=== TEST 8: standard: a secret in which whsec_ is not at the beginning
--- secrets
 whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw
--- vd
        vd_signature standard;
--- signature perl
standard('{}', ' whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw')


=== TEST 9: standard is the default
--- secrets
secret
--- vd
--- signature perl
standard('{}', 'secret')


=== TEST 10: the other schemes take whsec_ as it is
--- secrets
whsec_c2VjcmV0
--- vd
        vd_signature github;
        vd_signature hex;
        vd_signature base64 X-Base64;
        vd_signature stripe;
        vd_signature slack;
--- seen: $http_x_hub_signature_256 $http_x_signature $http_x_base64 $http_stripe_signature $http_x_slack_signature
--- signature perl
my $key = 'whsec_c2VjcmV0';
sub {
    join ' ', 'sha256=' . hmac_sha256_hex('{}', $key), hmac_sha256_hex('{}', $key),
        base64('{}', $key), stripe('{}', $key)->(@_), slack('{}', $key)->(@_);
}


=== TEST 11: each scheme takes the secret in its own way
--- secrets
whsec_c2VjcmV0
--- vd
        vd_signature hex;
        vd_signature standard;
--- seen: $http_x_signature $http_webhook_signature
--- signature perl
sub { hmac_sha256_hex('{}', 'whsec_c2VjcmV0') . ' ' . standard('{}', 'secret')->(@_) }


=== TEST 12: what follows whsec_ need not be base64 if no scheme decodes it
--- secrets
whsec_!
--- vd
        vd_signature hex;
--- seen: $http_x_signature
--- signature perl
hmac_sha256_hex('{}', 'whsec_!')


=== TEST 13: stripe: the time is in the value
--- secrets
test_secret
--- vd
        vd_signature stripe;
--- seen: $http_stripe_signature
--- signature perl
stripe('{}', 'test_secret')


=== TEST 14: slack: the time is in a header
--- secrets
8f742231b10e8888abcd99yyyzzz85a5
--- vd
        vd_signature slack;
--- seen: $http_x_slack_request_timestamp=$http_webhook_timestamp $http_x_slack_signature
--- signature perl
sub { "$_[1]=$_[1] " . slack('{}', '8f742231b10e8888abcd99yyyzzz85a5')->(@_) }


=== TEST 15: standard: all secrets sign, in order
--- secrets
whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw
whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwBr
old one
--- vd
--- signature perl
standard('{}', decode_base64('MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw'),
    decode_base64('MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwBg=='), 'old one')


=== TEST 16: stripe: all secrets sign, in order
--- secrets
new
old
older
--- vd
        vd_signature stripe;
--- seen: $http_stripe_signature
--- signature perl
stripe('{}', 'new', 'old', 'older')


=== TEST 17: the first secret alone signs for the other schemes
--- secrets
new
old
--- vd
        vd_signature github;
        vd_signature hex;
        vd_signature base64 X-Base64;
        vd_signature slack;
--- seen: $http_x_hub_signature_256 $http_x_signature $http_x_base64 $http_x_slack_signature
--- signature perl
sub {
    join ' ', 'sha256=' . hmac_sha256_hex('{}', 'new'), hmac_sha256_hex('{}', 'new'),
        base64('{}', 'new'), slack('{}', 'new')->(@_);
}


=== TEST 18: all schemes at once, with several secrets
--- secrets
new
old
--- vd
        vd_signature slack;
        vd_signature standard;
        vd_signature base64 X-Base64;
        vd_signature hex;
        vd_signature stripe;
        vd_signature github;
--- seen: $http_webhook_signature $http_x_hub_signature_256 $http_x_signature $http_x_base64 $http_stripe_signature $http_x_slack_signature
--- signature perl
sub {
    join ' ', standard('{}', 'new', 'old')->(@_), 'sha256=' . hmac_sha256_hex('{}', 'new'),
        hmac_sha256_hex('{}', 'new'), base64('{}', 'new'), stripe('{}', 'new', 'old')->(@_),
        slack('{}', 'new')->(@_);
}


=== TEST 19: a header of another name takes the place of the scheme's own
--- secrets
secret
--- vd
        vd_signature standard X-Sig-1;
        vd_signature github X-Sig-2;
        vd_signature hex X-Sig-3;
        vd_signature base64 X-Sig-4;
        vd_signature stripe X-Sig-5;
        vd_signature slack X-Sig-6;
--- seen: $http_webhook_signature$http_x_hub_signature_256$http_x_signature$http_stripe_signature$http_x_slack_signature $http_x_sig_1 $http_x_sig_2 $http_x_sig_3 $http_x_sig_4 $http_x_sig_5 $http_x_sig_6
--- signature perl
sub {
    join ' ', '', standard('{}', 'secret')->(@_), 'sha256=' . hmac_sha256_hex('{}', 'secret'),
        hmac_sha256_hex('{}', 'secret'), base64('{}', 'secret'),
        stripe('{}', 'secret')->(@_), slack('{}', 'secret')->(@_);
}


=== TEST 20: one scheme in two headers
--- secrets
secret
--- vd
        vd_signature slack;
        vd_signature slack X-Again;
--- seen: $http_x_slack_request_timestamp $http_x_slack_signature $http_x_again
--- signature perl
sub { join ' ', $_[1], (slack('{}', 'secret')->(@_)) x 2 }


=== TEST 21: slack: the time is there once, however many signatures there are
--- config
    location = /u {
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/raw.sock:/;
        vd_output 28;
        vd_secret_file $TEST_NGINX_HTML_DIR/secret;
        vd_signature slack;
        vd_signature slack X-Again;
    }
--- user_files
>>> secret
secret
--- request
POST /u
{}
--- tcp_listen: $TEST_NGINX_HTML_DIR/raw.sock
--- tcp_reply perl
sub {
    my ($query) = @_;

    my ($id)   = $query =~ /^webhook-id: (\S+)\r$/m;
    my ($time) = $query =~ /^webhook-timestamp: (\d+)\r$/m;
    my $count  = () = $query =~ /^X-Slack-Request-Timestamp:/mg;
    my $body   = qq({"ticket_id":"$id $time $count"});
    return "HTTP/1.1 200 OK\r\nContent-Length: " . length($body) . "\r\n\r\n$body";
}
--- signature: 1


=== TEST 22: standard is not sent beside what is asked for
--- secrets
secret
--- vd
        vd_signature github;
--- seen: -$http_webhook_signature-
--- signature: --


=== TEST 23: no time for slack where there is no such signature
--- secrets
secret
--- vd
        vd_signature stripe;
--- seen: -$http_x_slack_request_timestamp-
--- signature: --


=== TEST 24: one newline at the end of a secret is dropped
--- config
    vd_signature hex;

    location = /none {
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/receiver.sock:/;
        vd_output 28;
        vd_secret_file $TEST_NGINX_HTML_DIR/none;
    }
    location = /lf {
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/receiver.sock:/;
        vd_output 28;
        vd_secret_file $TEST_NGINX_HTML_DIR/lf;
    }
    location = /crlf {
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/receiver.sock:/;
        vd_output 28;
        vd_secret_file $TEST_NGINX_HTML_DIR/crlf;
    }
    location = /lflf {
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/receiver.sock:/;
        vd_output 28;
        vd_secret_file $TEST_NGINX_HTML_DIR/lflf;
    }
    location = /space {
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/receiver.sock:/;
        vd_output 28;
        vd_secret_file $TEST_NGINX_HTML_DIR/space;
    }
    location = /cr {
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/receiver.sock:/;
        vd_output 28;
        vd_secret_file $TEST_NGINX_HTML_DIR/cr;
    }
--- user_files perl
[
    [ none => 'secret' ], [ lf => "secret\n" ], [ crlf => "secret\r\n" ],
    [ lflf => "secret\n\n" ], [ space => " secret \n" ], [ cr => "secret\r" ],
]
--- request perl
[ map {"POST /$_\n{}"} qw(none lf crlf lflf space cr) ]
--- seen: $http_x_signature
--- signature perl
[ map { hmac_sha256_hex('{}', $_) } ('secret') x 3, "secret\n", ' secret ', "secret\r" ]


=== TEST 25: a newline after whsec_
--- vd
        vd_secret_file $TEST_NGINX_HTML_DIR/secret;
--- user_files perl
[ [ secret => "whsec_c2VjcmV0cw==\r\n" ] ]
--- signature perl
standard('{}', 'secrets')


=== TEST 26: secrets of any bytes and of many lengths
--- config
    vd_signature hex;

    location = /1 {
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/receiver.sock:/;
        vd_output 28;
        vd_secret_file $TEST_NGINX_HTML_DIR/1;
    }
    location = /64 {
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/receiver.sock:/;
        vd_output 28;
        vd_secret_file $TEST_NGINX_HTML_DIR/64;
    }
    location = /65 {
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/receiver.sock:/;
        vd_output 28;
        vd_secret_file $TEST_NGINX_HTML_DIR/65;
    }
    location = /4096 {
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/receiver.sock:/;
        vd_output 28;
        vd_secret_file $TEST_NGINX_HTML_DIR/4096;
    }
    location = /bytes {
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/receiver.sock:/;
        vd_output 28;
        vd_secret_file $TEST_NGINX_HTML_DIR/bytes;
    }
--- user_files perl
[
    (map { [ $_ => 'k' x $_ ] } 1, 64, 65, 4096),
    [ bytes => join '', map { chr } 0 .. 255 ],
]
--- request perl
[ map {"POST /$_\n{}"} 1, 64, 65, 4096, 'bytes' ]
--- seen: $http_x_signature
--- signature perl
[ map { hmac_sha256_hex('{}', $_) } (map { 'k' x $_ } 1, 64, 65, 4096), join '', map { chr } 0 .. 255 ]


=== TEST 27: secrets and signatures of the http level
--- http_config
    vd_secret_file $TEST_NGINX_HTML_DIR/http1;
    vd_secret_file $TEST_NGINX_HTML_DIR/http2;
    vd_signature stripe;
--- config
    location = /inherited {
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/receiver.sock:/;
        vd_output 28;
    }
    location = /secret {
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/receiver.sock:/;
        vd_output 28;
        vd_secret_file $TEST_NGINX_HTML_DIR/location;
    }
    location = /signature {
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/receiver.sock:/;
        vd_output 28;
        vd_signature standard;
    }
--- user_files perl
[ map { [ $_ => $_ ] } qw(http1 http2 location) ]
--- request perl
[ map {"POST /$_\n{}"} qw(inherited secret signature) ]
--- seen: -$http_stripe_signature-$http_webhook_signature-
--- signature perl
[
    sub { '-' . stripe('{}', 'http1', 'http2')->(@_) . '--' },
    sub { '-' . stripe('{}', 'location')->(@_) . '--' },
    sub { '--' . standard('{}', 'http1', 'http2')->(@_) . '-' },
]


=== TEST 28: secrets and signatures of the server level
--- http_config
    vd_secret_file $TEST_NGINX_HTML_DIR/http;
    vd_signature stripe;
--- config
    vd_secret_file $TEST_NGINX_HTML_DIR/server;
    vd_signature standard;

    location = /inherited {
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/receiver.sock:/;
        vd_output 28;
    }
    location /outer {
        vd_signature slack;

        location = /outer/inherited {
            vd_pass http://unix:$TEST_NGINX_HTML_DIR/receiver.sock:/;
            vd_output 28;
        }
        location = /outer/secret {
            vd_pass http://unix:$TEST_NGINX_HTML_DIR/receiver.sock:/;
            vd_output 28;
            vd_secret_file $TEST_NGINX_HTML_DIR/location;
        }
    }
--- user_files perl
[ map { [ $_ => $_ ] } qw(http server location) ]
--- request perl
[ map {"POST /$_\n{}"} qw(inherited outer/inherited outer/secret) ]
--- seen: $http_webhook_signature-$http_x_slack_signature
--- signature perl
[
    sub { standard('{}', 'server')->(@_) . '-' },
    sub { '-' . slack('{}', 'server')->(@_) },
    sub { '-' . slack('{}', 'location')->(@_) },
]


=== TEST 29: secrets and signatures inside "if"
--- config
    vd_secret_file $TEST_NGINX_HTML_DIR/server;

    location /t {
        vd_pass http://unix:$TEST_NGINX_HTML_DIR/receiver.sock:/;
        vd_output 28;
        vd_signature standard X-Other;

        if ($arg_a) {
            set $x 1;
        }
    }
--- user_files
>>> server
secret
--- request perl
[ "POST /t?a=1\n{}", "POST /t\n{}" ]
--- seen: $http_x_other
--- signature perl
[ (standard('{}', 'secret')) x 2 ]


=== TEST 30: an attempt of a later second is signed anew, under the same id
--- secrets
secret
--- vd
--- request perl
[ "POST /t\n{}", "POST /t\n{}" ]
--- more_headers perl
[ "Idempotency-Key: d-1", "Idempotency-Key: d-1\nVD-Attempt: 2" ]
--- wait: 1.1
--- signature perl
my $first;
[
    sub { $first = $_[1]; standard('{}', 'secret')->('d-1', $first) },
    sub { $_[1] > $first ? standard('{}', 'secret')->('d-1', $_[1]) : 'signed long ago' },
]


=== TEST 31: each delivery has an id of its own, which is signed
--- secrets
secret
--- vd
--- request perl
[ "POST /t\n{}", "POST /t\n{}" ]
--- signature perl
my $first;
[
    sub { $first = $_[0]; standard('{}', 'secret')->(@_) },
    sub { $_[0] ne $first ? standard('{}', 'secret')->(@_) : 'the same id' },
]


=== TEST 32: a body of any bytes
--- secrets
secret
--- vd
        vd_signature hex;
        vd_validate off;
--- seen: $http_x_first $http_x_signature
--- relayed perl
"\0 \r\n\x80\xff\xc3\xa4" . join('', map { chr } 0 .. 255) . "\n\n"


=== TEST 33: JSON that is not ASCII, with white space around it
--- secrets
secret
--- vd
        vd_signature hex;
--- seen: $http_x_first $http_x_signature
--- relayed perl
" \n{ \"f\xc3\xa4ll\" :\t\"\xf0\x9f\x98\x80\" }\r\n\n"


=== TEST 34: a body in two buffers
--- secrets
secret
--- vd
        vd_signature hex;
--- seen: $http_x_first $http_x_signature
--- raw_request perl
[
    "POST /t HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 23\r\n\r\n{\"a\":\"11",
    "11\",\"b\":\"2222\"}"
]
--- raw_request_middle_delay: 0.1
--- relayed perl
"{\"a\":\"1111\",\"b\":\"2222\"}"


=== TEST 35: a body in a temporary file
--- secrets
secret
--- vd
        vd_signature hex;
        client_body_in_file_only clean;
--- seen: $http_x_first $http_x_signature
--- relayed: {"a":"file"}


=== TEST 36: a body of which a part was in memory before it went to a temporary file
--- secrets
secret
--- vd
        vd_signature hex;
        client_body_buffer_size 1k;
--- seen: $http_x_first $http_x_signature
--- relayed perl
qq({"a":") . join(',', 1 .. 30_000) . '"}'


=== TEST 37: a body of 1 MB, in memory
--- secrets
secret
--- vd
        vd_signature hex;
        client_body_buffer_size 2m;
--- seen: $http_x_first $http_x_signature
--- relayed perl
qq({"a":") . substr(join(',', 1 .. 200_000), 0, 1_048_568) . '"}'


=== TEST 38: a chunked body
--- secrets
secret
--- vd
        vd_signature hex;
--- seen: $http_x_first $http_x_signature
--- more_headers
Transfer-Encoding: chunked
--- request perl
"POST /t\n5\r\n{\"a\":\r\n1\r\n \r\na;x=y\r\n\"chunked\"}\r\n0\r\n\r\n"
--- relayed: {"a": "chunked"}


=== TEST 39: a chunked body in a temporary file, signed by each scheme
--- secrets
secret
--- vd
        vd_signature standard;
        vd_signature stripe;
        vd_signature slack;
        client_body_in_file_only clean;
--- seen: $http_webhook_signature $http_stripe_signature $http_x_slack_signature
--- more_headers
Transfer-Encoding: chunked
--- request perl
"POST /t\n5\r\n{\"a\":\r\n1\r\n \r\na;x=y\r\n\"chunked\"}\r\n0\r\n\r\n"
--- signature perl
my @of = ('{"a": "chunked"}', 'secret');
sub { join ' ', standard(@of)->(@_), stripe(@of)->(@_), slack(@of)->(@_) }


=== TEST 40: many secrets
--- vd perl
join '', map {"vd_secret_file \$TEST_NGINX_HTML_DIR/secret$_;\n"} 1 .. 20
--- user_files perl
[ map { [ "secret$_" => "secret $_\n" ] } 1 .. 20 ]
--- signature perl
standard('{}', map {"secret $_"} 1 .. 20)
