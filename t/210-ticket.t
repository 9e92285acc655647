# Copyright (C) The ngx_vd_module authors
#
# The ticket id: where it is looked for in the reply, what is usable, and how it
# is told.

use Test::Nginx::Socket 'no_plan';

repeat_each(1);
no_long_string();

# nginx warns of a secret that others can read.
umask 027;

$ENV{TEST_NGINX_HTML_DIR} ||= html_dir();

# Sections of this suite:
#
#   ticket     the directive, if any
#   replies    a line each: the receiver's reply, " => " and the ticket id or the
#              ticket_error; in both \u{NN} is a character, \x{NN} a byte
#   status     of the replies, by default 200
#
# The receiver has the replies as files.
add_block_preprocessor(sub {
    my ($block) = @_;

    my $directive = take($block, 'ticket') // '';
    my $status    = take($block, 'status') // 200;
    my $more      = $block->config         // '';
    my (@files, @requests, @codes, @answers);

    for my $line (split /\n/, take($block, 'replies')) {
        my ($reply, $expected) = map { bytes($_) } $line =~ /^(.*?) *=> (.*)$/
            or die "not a reply: $line\n";

        push @files,    [ 'replies/' . @files => $reply ];
        push @requests, "POST /$#files\n{}";
        push @codes,    $status < 300 ? 200 : 502;
        push @answers,  answer($status, $expected);
    }

    $block->set_value(user_files => [ [ secret => 'secret' ], @files ]);
    $block->set_value(request       => \@requests);
    $block->set_value(error_code    => \@codes);
    $block->set_value(response_body => \@answers);
    $block->set_value(no_error_log  => "[alert]\n[crit]\n[emerg]");

    $block->set_value(http_config => <<"END");
    vd_secret_file \$TEST_NGINX_HTML_DIR/secret;
    $directive

    log_format ticket '\$vd_status <\$vd_ticket_id> <\$vd_ticket_error>';
    log_format json escape=json '{"ticket_id":"\$vd_ticket_id"}';

    server {
        listen unix:\$TEST_NGINX_HTML_DIR/receiver.sock;
        error_page 405 =$status \$uri;

        location / {
            root \$TEST_NGINX_HTML_DIR/replies;
        }
    }
END

    $block->set_value(config => join '', $more, map { <<"END" } 0 .. $#files);
    location = /$_ {
        vd_pass http://unix:\$TEST_NGINX_HTML_DIR/receiver.sock:/$_;
        vd_output 28;
        access_log \$TEST_NGINX_SERVER_ROOT/logs/access.log ticket;
        access_log \$TEST_NGINX_SERVER_ROOT/logs/access.log json;
    }
END
});

sub take {
    my ($block, $section) = @_;

    my $values = delete $block->{$section};
    return $values && $values->[0];
}

sub bytes {
    my ($text) = @_;

    $text =~ s/\\u\{(\w+)\}/my $c = chr hex $1; utf8::encode($c); $c/eg;
    return $text =~ s/\\x\{(\w\w)\}/chr hex $1/egr;
}

my %ERROR = map { $_ => 1 } qw(
    missing not_json wrong_type empty too_long bad_characters no_match too_large
);

sub answer {
    my ($status, $expected) = @_;

    my ($ticket, $error) = $ERROR{$expected} ? ('null', qq{"$expected"}) : ($expected, 'null');

    return $status < 300
        ? qr/"state":"delivered","attempt":1,"status":$status,"ticket_id":\Q$ticket\E,"ticket_error":$error,"reason":null,/
        : qr/"state":"failed","attempt":1,"status":$status,"ticket_id":null,"ticket_error":null,"reason":"status",/;
}

# `--- NAME perl` is like `--- NAME eval`, but a mistake does not become the value.
sub perl {
    my ($code) = @_;

    my $value = eval $code;
    die $@ if $@;
    return $value;
}

run_tests();

__DATA__

=== TEST 1: what the receiver is known to send
--- replies
{"message": "Workflow was started"}                 => missing
{"success": "Valid HMAC signature", "status": 200}  => missing
{"success": true, "ticket_id": "VD-12345"}          => "VD-12345"


=== TEST 2: strings and integers are ticket ids
--- replies
{"ticket_id":"28"}                      => "28"
{"ticket_id":28}                        => "28"
{"ticket_id":0}                         => "0"
{"ticket_id":-1}                        => "-1"
{"ticket_id":9223372036854775807}       => "9223372036854775807"
{"ticket_id":-9223372036854775808}      => "-9223372036854775808"


=== TEST 3: nothing else is
--- replies
{"ticket_id":1.0}                       => wrong_type
{"ticket_id":1e3}                       => wrong_type
{"ticket_id":true}                      => wrong_type
{"ticket_id":false}                     => wrong_type
{"ticket_id":null}                      => wrong_type
{"ticket_id":{}}                        => wrong_type
{"ticket_id":{"ticket_id":"a"}}         => wrong_type
{"ticket_id":[]}                        => wrong_type
{"ticket_id":["a"]}                     => wrong_type


=== TEST 4: an integer that is too big for one is none, and harms no other value
--- replies
{"ticket_id":9223372036854775808}       => wrong_type
{"n":9223372036854775808,"ticket_id":1} => "1"
{"n":123456789012345678901234567890,"ticket_id":"VD-1"}  => "VD-1"


=== TEST 5: white space around it is dropped
--- replies
{"ticket_id":" VD-1 "}                  => "VD-1"
{"ticket_id":"\t\r\n VD 1 \n"}          => "VD 1"
{"ticket_id":""}                        => empty
{"ticket_id":" \t\r\n "}                => empty


=== TEST 6: up to 128 bytes by default
--- replies perl
join "\n", map { my ($t, $e) = @{$_}; qq({"ticket_id":"$t"} => $e) }
    [ 'x' x 128, '"' . 'x' x 128 . '"' ], [ 'x' x 129, 'too_long' ],
    [ "  " . 'x' x 128 . "  ", '"' . 'x' x 128 . '"' ],
    [ "\xc3\xa4" x 64, '"' . "\xc3\xa4" x 64 . '"' ], [ "\xc3\xa4" x 64 . 'x', 'too_long' ]


=== TEST 7: max
--- ticket
vd_ticket_id ticket_id max=3;
--- replies
{"ticket_id":"abc"}                     => "abc"
{"ticket_id":"abcd"}                    => too_long
{"ticket_id":123}                       => "123"
{"ticket_id":-123}                      => too_long
{"ticket_id":"a\u00e4"}                 => "a\u{e4}"
{"ticket_id":"ab\u00e4"}                => too_long


=== TEST 8: max, at its own limits
--- ticket
vd_ticket_id ticket_id max=1;
--- replies
{"ticket_id":"a"}                       => "a"
{"ticket_id":"ab"}                      => too_long


=== TEST 9: a long one
--- ticket
vd_ticket_id max=4096 ticket_id;
--- replies perl
join "\n", '{"ticket_id":"' . 'x' x 4096 . '"} => "' . 'x' x 4096 . '"',
    '{"ticket_id":"' . 'x' x 4097 . '"} => too_long'


=== TEST 10: a path into objects and arrays
--- ticket
vd_ticket_id data.0.ticket.id;
--- replies
{"data":[{"ticket":{"id":"VD-1"}},{"ticket":{"id":"VD-2"}}]} => "VD-1"
{"data":{"0":{"ticket":{"id":"VD-3"}}}} => "VD-3"
{"data":[]}                             => missing
{"data":[{"ticket":"id"}]}              => missing
{"data":[{"ticket":null}]}              => missing
{"data.0.ticket.id":"VD-1"}             => missing


=== TEST 11: a path into an array that is the whole reply
--- ticket
vd_ticket_id 1.ticket_id;
--- replies
[{"ticket_id":"a"},{"ticket_id":"b"}]   => "b"
[{"ticket_id":"a"}]                     => missing
[]                                      => missing
{"1":{"ticket_id":"c"}}                 => "c"


=== TEST 12: an index is a plain number
--- ticket
vd_ticket_id 01 -1 1x 4294967296 18446744073709551616;
--- replies
["a","b"]                               => missing
{"-1":"c"}                              => "c"
{"01":"d"}                              => "d"


=== TEST 13: a reply that is a value by itself has no paths
--- replies
"ticket_id"                             => missing
12345                                   => missing
true                                    => missing
null                                    => missing
[]                                      => missing
{}                                      => missing


=== TEST 14: of several paths the first with a usable value wins
--- ticket
vd_ticket_id ticket_id data.id key;
--- replies
{"ticket_id":"a","data":{"id":"b"},"key":"c"}   => "a"
{"key":"c","data":{"id":"b"},"ticket_id":"a"}   => "a"
{"data":{"id":"b"},"key":"c"}                   => "b"
{"ticket_id":null,"data":{"id":""},"key":"c"}   => "c"
{"ticket_id":{"id":1},"data":[],"key":7}        => "7"


=== TEST 15: if none has, the error is that of the first value that was there
--- ticket
vd_ticket_id ticket_id data.id key;
--- replies
{"data":{"id":null},"key":""}           => wrong_type
{"key":"","data":{"id":null}}           => wrong_type
{"ticket_id":"","key":null}             => empty
{"other":1}                             => missing


=== TEST 16: pattern, for the whole value
--- ticket
vd_ticket_id ticket_id pattern=VD-\d+|T\d;
--- replies
{"ticket_id":"VD-12345"}                => "VD-12345"
{"ticket_id":"T1"}                      => "T1"
{"ticket_id":"T12"}                     => no_match
{"ticket_id":"xVD-1"}                   => no_match
{"ticket_id":"VD-1x"}                   => no_match
{"ticket_id":" VD-1\n"}                 => "VD-1"
{"ticket_id":1}                         => no_match


=== TEST 17: pattern, with a value that a later path holds
--- ticket
vd_ticket_id id ticket_id "pattern=^VD-[0-9]{1,5}$";
--- replies
{"id":7,"ticket_id":"VD-12345"}         => "VD-12345"
{"id":7,"ticket_id":"VD-123456"}        => no_match


=== TEST 18: pattern, with characters beyond ASCII
--- ticket
vd_ticket_id ticket_id "pattern=F.ll [^ ]";
--- replies
{"ticket_id":"F\u{e4}ll \u{1f600}"}     => "F\u{e4}ll \u{1f600}"
{"ticket_id":"Faell 1"}                 => no_match


=== TEST 19: a pattern that would take forever does not
--- ticket
vd_ticket_id ticket_id pattern=(a+)+$;
--- timeout: 1s
--- replies perl
join "\n", (qq({"ticket_id":") . 'a' x 100 . qq(!"} => no_match)) x 3,
    qq({"ticket_id":"aaa"} => "aaa")


=== TEST 20: control characters
--- replies
{"ticket_id":"a\rb"}                    => bad_characters
{"ticket_id":"a\nSet-Cookie: b"}        => bad_characters
{"ticket_id":"a\tb"}                    => bad_characters
{"ticket_id":"a\u0000b"}                => bad_characters
{"ticket_id":"\u0000"}                  => bad_characters
{"ticket_id":"a\u001b[2Jb"}             => bad_characters
{"ticket_id":"a\u007fb"}                => bad_characters
{"ticket_id":"a\u{7f}b"}                => bad_characters
{"ticket_id":"a\u0080b"}                => bad_characters
{"ticket_id":"a\u{85}b"}                => bad_characters
{"ticket_id":"a\u009fb"}                => bad_characters
{"ticket_id":"a\u00a0b"}                => "a\u{a0}b"


=== TEST 21: quotes and markup are data
--- replies
{"ticket_id":"\"quoted\""}              => "\"quoted\""
{"ticket_id":"back\\slash\\"}           => "back\\slash\\"
{"ticket_id":"<b>&amp;'</b>"}           => "\u003cb>&amp;'\u003c/b>"
{"ticket_id":"$vd_id ${x} %s %00"}      => "$vd_id ${x} %s %00"
{"ticket_id":"a\/b"}                    => "a/b"


=== TEST 22: characters beyond ASCII
--- replies
{"ticket_id":"\u{dc}ber-\u{df}"}        => "\u{dc}ber-\u{df}"
{"ticket_id":"\u00dcber"}               => "\u{dc}ber"
{"ticket_id":"\ud83d\ude00"}            => "\u{1f600}"
{"ticket_id":"\u{1f600}"}               => "\u{1f600}"


=== TEST 23: in the access log
--- replies
{"ticket_id":"\"a\\b\u00e4"}            => "\"a\\b\u{e4}"
--- access_log eval
[ '200 <\x22a\x5Cb\xC3\xA4> <>', qq({"ticket_id":"\\"a\\\\b\xc3\xa4"}) ]


=== TEST 24: an error in the access log
--- replies
{"ticket_id":"a\nb"}                    => bad_characters
--- access_log
200 <> <bad_characters>
{"ticket_id":""}


=== TEST 25: what is no JSON
--- replies
<html><body>200 OK</body></html>        => not_json
OK                                      => not_json
{"ticket_id":"VD-1"                     => not_json
{"ticket_id":"VD-1",}                   => not_json
{"ticket_id":"VD-1"} x                  => not_json
{"ticket_id":"VD-1"}{"ticket_id":"VD-2"}  => not_json
{'ticket_id':'VD-1'}                    => not_json
ticket_id=VD-1                          => not_json
{"ticket_id":"VD-1\x{ff}"}              => not_json
{"ticket_id":"VD-1\x{ed}\x{a0}\x{80}"}  => not_json
{"ticket_id":"VD-1\ud800"}              => not_json
{"ticket_id":"VD-1"}\x{00}              => not_json
{"ticket_id":1\x{00}}                    => not_json
{"ticket_id":"VD-1","a":true\x{00}}      => not_json


=== TEST 26: no reply at all
--- replies
 => not_json


=== TEST 27: a key that is there twice
--- replies
{"ticket_id":"VD-1","ticket_id":"VD-2"} => not_json
{"a":{"b":1,"b":1},"ticket_id":"VD-2"}  => "VD-2"
{"ticket_id":"VD-1","ticket\u005fid":2} => not_json


=== TEST 28: a reply as deep as a well
--- replies perl
'{"ticket_id":"VD-1","a":' . '[' x 30_000 . ']' x 30_000 . '} => not_json'


=== TEST 29: a reply with white space around it
--- replies perl
qq(  \\x{0a}\\x{0d}\\x{09} {"ticket_id" : "VD-1"} \\x{0a} => "VD-1")


=== TEST 30: a reply at the limit, and one over it
--- config
    vd_max_response_size 24;
--- replies
{"ticket_id":"VD-12345"}                => "VD-12345"
{"ticket_id":"VD-123456"}               => too_large


=== TEST 31: a failed delivery has no ticket id, and no error about it
--- status: 503
--- replies
{"ticket_id":"VD-1"}                    => missing
{"ticket_id":"a\nb"}                    => missing
<html>                                  => missing
--- access_log
503 <> <>


=== TEST 32: the directive of the http level, and of the server level
--- ticket
vd_ticket_id http;
--- config
    vd_ticket_id server max=3;
--- replies
{"http":"a","server":"b"}               => "b"
{"http":"a","server":"long"}            => too_long


=== TEST 33: other 2xx statuses
--- status: 202
--- replies
{"ticket_id":"VD-1"}                    => "VD-1"
{}                                      => missing


=== TEST 34: what is JSON by its grammar, though no parser can take all of it
--- replies
\x{ef}\x{bb}\x{bf}{"ticket_id":"VD-1"}  => "VD-1"
{"a":"\ud800","ticket_id":"VD-1"}        => "VD-1"
{"\ud800":1,"ticket_id":"VD-1"}          => "VD-1"
{"ticket_id":"VD-1","a":[1e999,-1e999]}  => "VD-1"
{"ticket_id":"VD-1","\u0000":0}          => "VD-1"
{"ticket_id":1e999}                      => wrong_type
{"ticket_id":"VD-1\udc00"}               => not_json
