# Copyright (C) The ngx_vd_module authors
#
# Configurations that nginx refuses, with the words for the one who has to mend
# them, and such that it takes without a word.

use File::Temp ();
use POSIX ();
use Test::Nginx::Socket 'no_plan';
use Test::VD::TLS;

repeat_each(1);
no_long_string();

my $dir   = File::Temp->newdir;
my $nginx = $ENV{TEST_NGINX_BINARY} || 'nginx';

my $KEY = 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw';

my $TEXT = 'the secret of this suite, or so';

my %FILES = (
    secret       => 'the secret of this suite',
    'secret-lf'  => "the secret of this suite\r\n",
    empty        => '',
    newline      => "\n",
    crlf         => "\r\n",
    'too-long'   => 's' x 4097,
    'bad-base64' => 'whsec_c2Vj!mV0',
    'no-base64'  => 'whsec_',

    # hardly meant so
    'of-v1'      => "v1,$KEY\n",
    upper        => uc $KEY,
    quoted       => qq("$KEY"\n),
    apostrophes  => "'$KEY'",
    blank        => " $KEY",
    'blank-lf'   => "$TEXT \n",
    tab          => "\t$KEY",
    newlines     => "$TEXT\n\n",
    lines        => "$TEXT\n$TEXT\n",
    bom          => "\xef\xbb\xbf$KEY\n",
    utf16        => "\xff\xfe" . $KEY =~ s/(.)/$1\0/gr,
    abc          => "whsec_abc\n",
    23           => 'x' x 23,
    24           => 'x' x 24,
    64           => 'x' x 64,
    65           => 'x' x 65,
    'standard-23' => 'whsec_' . 'eHh4' x 7 . 'eHg=',
    'standard-24' => 'whsec_' . 'eHh4' x 8,
    'standard-64' => 'whsec_' . 'eHh4' x 21 . 'eA==',
    'standard-65' => 'whsec_' . 'eHh4' x 21 . 'eHg=',
);

for my $name (keys %FILES) {
    open my $file, '>', "$dir/$name" or die "cannot write $dir/$name: $!";
    print {$file} $FILES{$name};
    close $file or die "cannot write $dir/$name: $!";
    chmod 0640, "$dir/$name" or die "chmod $dir/$name: $!";
}
for my $name ('directory', 'logs') {
    mkdir "$dir/$name" or die "mkdir: $!";
}
POSIX::mkfifo("$dir/fifo", 0640) or die "mkfifo: $!";
symlink $ENV{TEST_NGINX_CERTS}, "$dir/certs" or die "symlink: $!";

my $HTTP     = 'http { % server { listen unix:listen.sock; location = /t { COMPLETE } } }';
my $SERVER   = 'http { server { listen unix:listen.sock; % location = /t { COMPLETE } } }';
my $LOCATION = 'http { server { listen unix:listen.sock; location = /t { COMPLETE % } } }';
my $COMPLETE = 'vd_pass https://localhost:1; vd_output 28; vd_secret_file secret;';

# Sections of this suite, which are tried with `nginx -t`:
#
#   around     what the lines below stand in, in place of the "%"; by default a
#              location that is complete, and COMPLETE is what makes it so
#   refused    a line each: what is wrong, " => " and what nginx says of it, to
#              which it adds the file and the line; or "~" and a pattern
#   warned     a line each, likewise, of what is taken with a warning
#   accepted   a line each; by default at each of the three levels
#
# \x{NN} is a byte, \n a newline.
add_block_preprocessor(sub {
    my ($block) = @_;

    my $around   = take($block, 'around');
    my $refused  = take($block, 'refused')  // '';
    my $warned   = take($block, 'warned')   // '';
    my $accepted = take($block, 'accepted') // '';
    my @frames   = defined $around ? frame($around) : ($HTTP, $SERVER, $LOCATION);

    for my $line (grep {/\S/} split /\n/, $refused) {
        my ($wrong, $words) = $line =~ /^(.*?) *=> (.*)$/ or die "no \" => \": $line\n";
        my $name = $block->name . ": $wrong";
        my ($status, $said) = try($frames[-1], $wrong);

        Test::More::isnt($status, 0, "$name: is refused");
        Test::More::like($said, expected($words), "$name: why");
    }

    for my $line (grep {/\S/} split /\n/, $warned) {
        my ($odd, $words) = $line =~ /^(.*?) *=> (.*)$/ or die "no \" => \": $line\n";
        my $name = $block->name . ": $odd";
        my ($status, $said) = try($frames[-1], $odd);

        Test::More::is($status, 0, "$name: is taken");
        Test::More::like($said, expected($words, 'warn'), "$name: is warned of");
    }

    for my $line (grep {/\S/} split /\n/, $accepted) {
        for my $frame (@frames) {
            my ($status, $said) = try($frame, $line);
            Test::More::is("$status$said", '0', $block->name . ": $line in $frame");
        }
    }

    $block->set_value(config  => 'location = /t { return 204; }');
    $block->set_value(request => 'GET /t');
    $block->set_value(error_code => 204);
});

sub take {
    my ($block, $section) = @_;

    my $values = delete $block->{$section};
    return $values && $values->[0];
}

sub frame {
    my ($around) = @_;

    return $around if $around =~ /^http/;
    return "http { server { listen unix:listen.sock;\n$around } }";
}

sub expected {
    my ($words, $level) = (@_, 'emerg');

    my $pattern = $words =~ /^~\s*(.*)/ ? ".*(?:$1).*" : quotemeta $words;
    return qr/\A\[$level\] $pattern in \Q$dir\E\/nginx\.conf:\d+\z/s;
}

# The exit status, and what nginx says beside that the test has passed or not.
sub try {
    my ($frame, $text) = @_;

    $text =~ s/\\x\{(\w\w)\}/chr hex $1/eg;
    $text =~ s/\\n/\n/g;

    open my $conf, '>', "$dir/nginx.conf" or die "cannot write: $!";
    print {$conf} map({"load_module $_;\n"} split ' ', $ENV{TEST_NGINX_LOAD_MODULES} // ''),
        "pid nginx.pid;\nerror_log stderr;\nevents {}\n",
        $frame =~ s/%/$text/gr =~ s/\bCOMPLETE\b/$COMPLETE/r, "\n";
    close $conf or die "cannot write: $!";

    my $said = `$nginx -t -p $dir/ -c $dir/nginx.conf -e stderr 2>&1`;
    my $status = $?;
    my @lines = grep { !/ the configuration file .* syntax is ok$| test (?:failed|is successful)$/ }
        split /\n/, $said =~ s/^(?:nginx: |\d\S+ \S+ )(\[\w+\]) (?:\d+#\d+: )?/$1 /gmr;

    # what was said at first is said again, to standard error
    my %seen;
    return ($status, join "\n", grep { !$seen{$_}++ } @lines);
}

run_tests();

__DATA__

=== TEST 1: directives without a parameter
--- refused
vd_pass;                        => invalid number of arguments in "vd_pass" directive
vd_output;                      => invalid number of arguments in "vd_output" directive
vd_case;                        => invalid number of arguments in "vd_case" directive
vd_secret_file;                 => invalid number of arguments in "vd_secret_file" directive
vd_signature;                   => invalid number of arguments in "vd_signature" directive
vd_ticket_id;                   => invalid number of arguments in "vd_ticket_id" directive
vd_validate;                    => invalid number of arguments in "vd_validate" directive
vd_set_header;                  => invalid number of arguments in "vd_set_header" directive
vd_timeout;                     => invalid number of arguments in "vd_timeout" directive
vd_connect_timeout;             => invalid number of arguments in "vd_connect_timeout" directive
vd_send_timeout;                => invalid number of arguments in "vd_send_timeout" directive
vd_read_timeout;                => invalid number of arguments in "vd_read_timeout" directive
vd_max_response_size;           => invalid number of arguments in "vd_max_response_size" directive
vd_bind;                        => invalid number of arguments in "vd_bind" directive
vd_socket_keepalive;            => invalid number of arguments in "vd_socket_keepalive" directive
vd_next_upstream;               => invalid number of arguments in "vd_next_upstream" directive
vd_next_upstream_tries;         => invalid number of arguments in "vd_next_upstream_tries" directive
vd_next_upstream_timeout;       => invalid number of arguments in "vd_next_upstream_timeout" directive
vd_ssl_verify;                  => invalid number of arguments in "vd_ssl_verify" directive
vd_ssl_server_name;             => invalid number of arguments in "vd_ssl_server_name" directive
vd_ssl_trusted_certificate;     => invalid number of arguments in "vd_ssl_trusted_certificate" directive
vd_ssl_protocols;               => invalid number of arguments in "vd_ssl_protocols" directive
vd_ssl_name;                    => invalid number of arguments in "vd_ssl_name" directive
vd_ssl_verify_depth;            => invalid number of arguments in "vd_ssl_verify_depth" directive
vd_ssl_crl;                     => invalid number of arguments in "vd_ssl_crl" directive
vd_ssl_ciphers;                 => invalid number of arguments in "vd_ssl_ciphers" directive
vd_ssl_session_reuse;           => invalid number of arguments in "vd_ssl_session_reuse" directive
vd_ssl_certificate;             => invalid number of arguments in "vd_ssl_certificate" directive
vd_ssl_certificate_key;         => invalid number of arguments in "vd_ssl_certificate_key" directive
vd_ssl_password_file;           => invalid number of arguments in "vd_ssl_password_file" directive
vd_ssl_conf_command;            => invalid number of arguments in "vd_ssl_conf_command" directive


=== TEST 2: directives with a parameter too few or too many
--- refused
vd_pass http://a b;             => invalid number of arguments in "vd_pass" directive
vd_output 1 a b;                => invalid number of arguments in "vd_output" directive
vd_case a b;                    => invalid number of arguments in "vd_case" directive
vd_secret_file secret secret;   => invalid number of arguments in "vd_secret_file" directive
vd_signature hex X-A X-B;       => invalid number of arguments in "vd_signature" directive
vd_validate on off;             => invalid number of arguments in "vd_validate" directive
vd_set_header A;                => invalid number of arguments in "vd_set_header" directive
vd_set_header A b c;            => invalid number of arguments in "vd_set_header" directive
vd_timeout 1s 2s;               => invalid number of arguments in "vd_timeout" directive
vd_connect_timeout 1s 2s;       => invalid number of arguments in "vd_connect_timeout" directive
vd_send_timeout 1s 2s;          => invalid number of arguments in "vd_send_timeout" directive
vd_read_timeout 1s 2s;          => invalid number of arguments in "vd_read_timeout" directive
vd_max_response_size 1k 2k;     => invalid number of arguments in "vd_max_response_size" directive
vd_bind a b c;                  => invalid number of arguments in "vd_bind" directive
vd_socket_keepalive on off;     => invalid number of arguments in "vd_socket_keepalive" directive
vd_next_upstream_tries 1 2;     => invalid number of arguments in "vd_next_upstream_tries" directive
vd_next_upstream_timeout 1 2;   => invalid number of arguments in "vd_next_upstream_timeout" directive
vd_ssl_verify on off;           => invalid number of arguments in "vd_ssl_verify" directive
vd_ssl_server_name on off;      => invalid number of arguments in "vd_ssl_server_name" directive
vd_ssl_trusted_certificate a b; => invalid number of arguments in "vd_ssl_trusted_certificate" directive
vd_ssl_name a b;                => invalid number of arguments in "vd_ssl_name" directive
vd_ssl_verify_depth 1 2;        => invalid number of arguments in "vd_ssl_verify_depth" directive
vd_ssl_crl a b;                 => invalid number of arguments in "vd_ssl_crl" directive
vd_ssl_ciphers a b;             => invalid number of arguments in "vd_ssl_ciphers" directive
vd_ssl_session_reuse on off;    => invalid number of arguments in "vd_ssl_session_reuse" directive
vd_ssl_certificate a b;         => invalid number of arguments in "vd_ssl_certificate" directive
vd_ssl_certificate_key a b;     => invalid number of arguments in "vd_ssl_certificate_key" directive
vd_ssl_password_file a b;       => invalid number of arguments in "vd_ssl_password_file" directive
vd_ssl_conf_command a;          => invalid number of arguments in "vd_ssl_conf_command" directive
vd_ssl_conf_command a b c;      => invalid number of arguments in "vd_ssl_conf_command" directive


=== TEST 3: directives that are there twice
--- refused
vd_pass http://127.0.0.1;                       => "vd_pass" directive is duplicate
vd_output 28;                                   => "vd_output" directive is duplicate
vd_case a; vd_case a;                           => "vd_case" directive is duplicate
vd_validate on; vd_validate on;                 => "vd_validate" directive is duplicate
vd_ticket_id a; vd_ticket_id b;                 => "vd_ticket_id" directive is duplicate
vd_timeout 1; vd_timeout 1;                     => "vd_timeout" directive is duplicate
vd_connect_timeout 1; vd_connect_timeout 1;     => "vd_connect_timeout" directive is duplicate
vd_send_timeout 1; vd_send_timeout 1;           => "vd_send_timeout" directive is duplicate
vd_read_timeout 1; vd_read_timeout 1;           => "vd_read_timeout" directive is duplicate
vd_max_response_size 1; vd_max_response_size 1; => "vd_max_response_size" directive is duplicate
vd_bind off; vd_bind off;                       => "vd_bind" directive is duplicate
vd_socket_keepalive on; vd_socket_keepalive on; => "vd_socket_keepalive" directive is duplicate
vd_next_upstream_tries 1; vd_next_upstream_tries 1;     => "vd_next_upstream_tries" directive is duplicate
vd_next_upstream_timeout 1; vd_next_upstream_timeout 1; => "vd_next_upstream_timeout" directive is duplicate
vd_ssl_verify on; vd_ssl_verify on;             => "vd_ssl_verify" directive is duplicate
vd_ssl_server_name on; vd_ssl_server_name on;   => "vd_ssl_server_name" directive is duplicate
vd_ssl_trusted_certificate system; vd_ssl_trusted_certificate system; => "vd_ssl_trusted_certificate" directive is duplicate
vd_ssl_name a; vd_ssl_name a;                   => "vd_ssl_name" directive is duplicate
vd_ssl_verify_depth 1; vd_ssl_verify_depth 1;   => "vd_ssl_verify_depth" directive is duplicate
vd_ssl_crl a; vd_ssl_crl a;                     => "vd_ssl_crl" directive is duplicate
vd_ssl_ciphers HIGH; vd_ssl_ciphers HIGH;       => "vd_ssl_ciphers" directive is duplicate
vd_ssl_session_reuse on; vd_ssl_session_reuse on;       => "vd_ssl_session_reuse" directive is duplicate
vd_ssl_certificate a; vd_ssl_certificate a;     => "vd_ssl_certificate" directive is duplicate
vd_ssl_certificate_key a; vd_ssl_certificate_key a;     => "vd_ssl_certificate_key" directive is duplicate
vd_ssl_password_file secret; vd_ssl_password_file secret;   => "vd_ssl_password_file" directive is duplicate


=== TEST 4: neither on nor off
--- refused
vd_validate maybe;              => invalid value "maybe" in "vd_validate" directive, it must be "on" or "off"
vd_socket_keepalive 1;          => invalid value "1" in "vd_socket_keepalive" directive, it must be "on" or "off"
vd_ssl_verify optional;         => invalid value "optional" in "vd_ssl_verify" directive, it must be "on" or "off"
vd_ssl_server_name a.test;      => invalid value "a.test" in "vd_ssl_server_name" directive, it must be "on" or "off"
vd_ssl_session_reuse "";        => invalid value "" in "vd_ssl_session_reuse" directive, it must be "on" or "off"


=== TEST 5: times
--- refused
vd_timeout 0;                   => "vd_timeout" directive must not be zero
vd_timeout 0ms;                 => "vd_timeout" directive must not be zero
vd_timeout x;                   => "vd_timeout" directive invalid value
vd_timeout -1;                  => "vd_timeout" directive invalid value
vd_timeout "";                  => "vd_timeout" directive invalid value
vd_timeout $arg_time;           => "vd_timeout" directive invalid value
vd_connect_timeout 0;           => "vd_connect_timeout" directive must not be zero
vd_connect_timeout 1x;          => "vd_connect_timeout" directive invalid value
vd_send_timeout 0;              => "vd_send_timeout" directive must not be zero
vd_send_timeout 1x;             => "vd_send_timeout" directive invalid value
vd_read_timeout 0;              => "vd_read_timeout" directive must not be zero
vd_read_timeout 1x;             => "vd_read_timeout" directive invalid value
vd_next_upstream_timeout 1x;    => "vd_next_upstream_timeout" directive invalid value


=== TEST 6: sizes and numbers
--- refused
vd_max_response_size 1x;        => "vd_max_response_size" directive invalid value
vd_max_response_size -1;        => "vd_max_response_size" directive invalid value
vd_max_response_size 0;         => "vd_max_response_size" directive must not be zero
vd_next_upstream_tries x;       => "vd_next_upstream_tries" directive invalid number
vd_ssl_verify_depth x;          => "vd_ssl_verify_depth" directive invalid number
vd_ssl_verify_depth -1;         => "vd_ssl_verify_depth" directive invalid number


=== TEST 7: words that are none of the known
--- refused
vd_next_upstream http_418;      => ~ invalid value "http_418" .*"vd_next_upstream" directive takes only "error", "timeout", "invalid_header", "non_idempotent", "http_500", "http_502", "http_503", "http_504", "http_403", "http_404", "http_429", "off"
vd_next_upstream error $a;      => ~ invalid value "\$a" .*"vd_next_upstream" directive takes only "error", "timeout", "invalid_header", "non_idempotent", "http_500", "http_502", "http_503", "http_504", "http_403", "http_404", "http_429", "off"
vd_ssl_protocols SSLv3;         => ~ invalid value "SSLv3" .*"vd_ssl_protocols" directive takes only "TLSv1", "TLSv1\.1", "TLSv1\.2", "TLSv1\.3"
vd_ssl_protocols TLSv1.2 TLSv9; => ~ invalid value "TLSv9" .*"vd_ssl_protocols" directive takes only "TLSv1", "TLSv1\.1", "TLSv1\.2", "TLSv1\.3"


=== TEST 8: vd_bind
--- refused
vd_bind no.such.host;           => ~ invalid address "no\.such\.host" .*"vd_bind" directive must be "ADDRESS\[:PORT\] \[transparent\]" or "off"
vd_bind 127.0.0.1:x;            => ~ invalid address "127\.0\.0\.1:x" .*"vd_bind" directive must be "ADDRESS\[:PORT\] \[transparent\]" or "off"
vd_bind 127.0.0.1 opaque;       => ~ invalid parameter "opaque" .*"vd_bind" directive must be "ADDRESS\[:PORT\] \[transparent\]" or "off"


=== TEST 9: what belongs into a location alone
--- around
http { % }
--- refused
vd_pass http://127.0.0.1;       => "vd_pass" directive is not allowed here
vd_output 28;                   => "vd_output" directive is not allowed here


=== TEST 10: what belongs into a location alone, in a server
--- around
%
--- refused
vd_pass http://127.0.0.1;       => "vd_pass" directive is not allowed here
vd_output 28;                   => "vd_output" directive is not allowed here


=== TEST 11: nothing of this is for "if" and "limit_except"
--- around
location /t { COMPLETE if ($arg_a) { % } }
--- refused
vd_pass http://127.0.0.1;       => "vd_pass" directive is not allowed here
vd_output 28;                   => "vd_output" directive is not allowed here
vd_secret_file secret;          => "vd_secret_file" directive is not allowed here
vd_timeout 1s;                  => "vd_timeout" directive is not allowed here
vd_ssl_verify off;              => "vd_ssl_verify" directive is not allowed here


=== TEST 12: nothing of this is for upstream{}
--- around
http { upstream a { server 127.0.0.1; % } }
--- refused
vd_pass http://127.0.0.1;       => "vd_pass" directive is not allowed here
vd_secret_file secret;          => "vd_secret_file" directive is not allowed here


=== TEST 13: where a case goes does not depend on the request
--- around
location /t { vd_pass %; vd_output 28; vd_secret_file secret; }
--- refused
$arg_url                        => variables in "vd_pass" "$arg_url" are not supported, where a case goes does not depend on the request
http://$host/                   => variables in "vd_pass" "http://$host/" are not supported, where a case goes does not depend on the request
https://127.0.0.1/${uri}x       => variables in "vd_pass" "https://127.0.0.1/${uri}x" are not supported, where a case goes does not depend on the request


=== TEST 14: no URL of a receiver
--- around
location /t { vd_pass %; vd_output 28; vd_secret_file secret; }
--- refused
ftp://127.0.0.1/                => invalid URL "ftp://127.0.0.1/" in "vd_pass" directive, it must begin with "http://" or "https://"
127.0.0.1:80                    => invalid URL "127.0.0.1:80" in "vd_pass" directive, it must begin with "http://" or "https://"
http:/127.0.0.1                 => invalid URL "http:/127.0.0.1" in "vd_pass" directive, it must begin with "http://" or "https://"
httpss://127.0.0.1              => invalid URL "httpss://127.0.0.1" in "vd_pass" directive, it must begin with "http://" or "https://"
unix:/tmp/a.sock                => invalid URL "unix:/tmp/a.sock" in "vd_pass" directive, it must begin with "http://" or "https://"
""                              => invalid URL "" in "vd_pass" directive, it must begin with "http://" or "https://"
"http://127.0.0.1/a b"          => invalid URL "http://127.0.0.1/a b" in "vd_pass" directive, it must not contain spaces, control or non-ASCII characters, or "#"
"http://127.0.0.1/\x{0d}"       => ~ "vd_pass" directive, it must not contain spaces, control or non-ASCII characters, or "#"
http://127.0.0.1/\x{c3}\x{a4}   => ~ "vd_pass" directive, it must not contain spaces, control or non-ASCII characters, or "#"
http://127.0.0.1/a#b            => ~ "vd_pass" directive, it must not contain spaces, control or non-ASCII characters, or "#"


=== TEST 15: no host, or no port
--- around
location /t { vd_pass %; vd_output 28; vd_secret_file secret; }
--- refused
http://                         => ~ no host .*"vd_pass" directive needs a host, an address, "unix:" and a path, or the name of an upstream behind "http://" or "https://"
https:///path                   => ~ no host .*"vd_pass" directive needs a host, an address, "unix:" and a path, or the name of an upstream behind "http://" or "https://"
http://:80                      => ~ no host .*"vd_pass" directive needs a host, an address, "unix:" and a path, or the name of an upstream behind "http://" or "https://"
http://127.0.0.1:               => ~ invalid port .*"vd_pass" directive needs a host, an address, "unix:" and a path, or the name of an upstream behind "http://" or "https://"
http://127.0.0.1:x              => ~ invalid port .*"vd_pass" directive needs a host, an address, "unix:" and a path, or the name of an upstream behind "http://" or "https://"
http://127.0.0.1:0/             => ~ invalid port .*"vd_pass" directive needs a host, an address, "unix:" and a path, or the name of an upstream behind "http://" or "https://"
http://127.0.0.1:65536/         => ~ invalid port .*"vd_pass" directive needs a host, an address, "unix:" and a path, or the name of an upstream behind "http://" or "https://"
http://127.0.0.1:80:90/         => ~ invalid port .*"vd_pass" directive needs a host, an address, "unix:" and a path, or the name of an upstream behind "http://" or "https://"
http://[::1/                    => ~ invalid host .*"vd_pass" directive needs a host, an address, "unix:" and a path, or the name of an upstream behind "http://" or "https://"
http://unix:                    => ~ no path .*"vd_pass" directive needs a host, an address, "unix:" and a path, or the name of an upstream behind "http://" or "https://"
http://user:password@127.0.0.1/ => "vd_pass" directive must not contain a user, "vd_set_header Authorization" sends one
http://user@127.0.0.1/          => "vd_pass" directive must not contain a user, "vd_set_header Authorization" sends one


=== TEST 16: a host that is not there
--- around
location /t { vd_pass %; vd_output 28; vd_secret_file secret; }
--- refused
http://no.such.host.invalid/    => host not found in upstream "no.such.host.invalid"
https://upstream-of-no-name     => host not found in upstream "upstream-of-no-name"


=== TEST 17: vd_pass lacks what goes with it
--- around
location /t { % }
--- refused
vd_pass http://127.0.0.1; vd_secret_file secret;    => no "vd_output" is defined for the "vd_pass" directive
vd_pass http://127.0.0.1; vd_output 28;             => no "vd_secret_file" is defined for the "vd_pass" directive
vd_output 28;                                       => "vd_output" "28" is without "vd_pass" in its location
vd_output 28; vd_secret_file secret;                => "vd_output" "28" is without "vd_pass" in its location
vd_pass http://127.0.0.1; vd_output 28; vd_secret_file secret; proxy_pass http://127.0.0.1; => "vd_pass" has no effect beside another directive that answers the requests of its location


=== TEST 18: a nested location has neither vd_pass nor vd_output of the one around it
--- around
location /t { COMPLETE location /t/n { % } }
--- refused
vd_pass http://127.0.0.1;       => no "vd_output" is defined for the "vd_pass" directive
vd_output 29;                   => "vd_output" "29" is without "vd_pass" in its location


=== TEST 19: ids
--- around
location /t { vd_pass http://127.0.0.1; vd_output %; vd_secret_file secret; }
--- refused
""                              => invalid id "" in "vd_output" directive, it must be 1 to 64 of "A-Za-z0-9._-"
"a b"                           => invalid id "a b" in "vd_output" directive, it must be 1 to 64 of "A-Za-z0-9._-"
a/b                             => invalid id "a/b" in "vd_output" directive, it must be 1 to 64 of "A-Za-z0-9._-"
$arg_id                         => invalid id "$arg_id" in "vd_output" directive, it must be 1 to 64 of "A-Za-z0-9._-"
\x{c3}\x{a4}                    => ~ invalid id ".*" in "vd_output" directive, it must be 1 to 64 of "A-Za-z0-9\._-"
1234567890123456789012345678901234567890123456789012345678901234x  => ~ invalid id "1234567890123456789012345678901234567890123456789012345678901234x" in "vd_output" directive, it must be 1 to 64 of


=== TEST 20: labels
--- around
location /t { vd_pass http://127.0.0.1; vd_output 28 %; vd_secret_file secret; }
--- refused
"a\x{01}b"                      => ~ invalid label ".*" in "vd_output" directive, it must be text in UTF-8
"a\x{1b}[1m"                    => ~ invalid label ".*" in "vd_output" directive, it must be text in UTF-8
"\x{7f}"                        => ~ invalid label ".*" in "vd_output" directive, it must be text in UTF-8
"\x{c2}\x{85}"                  => ~ invalid label ".*" in "vd_output" directive, it must be text in UTF-8
"\x{ff}"                        => ~ invalid label ".*" in "vd_output" directive, it must be text in UTF-8
"\x{ed}\x{a0}\x{80}"            => ~ invalid label ".*" in "vd_output" directive, it must be text in UTF-8


=== TEST 21: one id with two labels
--- around
location /a { vd_pass http://127.0.0.1; vd_output 28 "Security Incident"; vd_secret_file secret; }
location /b { vd_pass http://127.0.0.1; vd_output 28 %; vd_secret_file secret; }
--- refused
"Security incident"             => ~ "vd_output" "28" has the label "Security incident" here, but "Security Incident" in .*/nginx\.conf:\d+, give both the same label or different ids
""                              => ~ "vd_output" "28" has the label "" here, but "Security Incident" in .*/nginx\.conf:\d+, give both the same label or different ids


=== TEST 22: one id with two labels, in two servers
--- around
http {
server { listen unix:a.sock; location /a { vd_pass http://127.0.0.1; vd_output 28 A; vd_secret_file secret; } }
server { listen unix:b.sock; location /b { vd_pass http://127.0.0.1; vd_output 28 %; vd_secret_file secret; } }
}
--- refused
B                               => ~ "vd_output" "28" has the label "B" here, but "A" in .*/nginx\.conf:\d+, give both the same label or different ids


=== TEST 23: schemes
--- refused
vd_signature md5;               => invalid scheme "md5" in "vd_signature" directive, it must be "standard", "github", "hex", "base64", "stripe" or "slack"
vd_signature Standard;          => invalid scheme "Standard" in "vd_signature" directive, it must be "standard", "github", "hex", "base64", "stripe" or "slack"
vd_signature "";                => invalid scheme "" in "vd_signature" directive, it must be "standard", "github", "hex", "base64", "stripe" or "slack"


=== TEST 24: headers of signatures
--- refused
vd_signature hex "";            => invalid header "" in "vd_signature" directive, it must be a header's name
vd_signature hex "a b";         => invalid header "a b" in "vd_signature" directive, it must be a header's name
vd_signature hex X-Sig:;        => invalid header "X-Sig:" in "vd_signature" directive, it must be a header's name
vd_signature hex "a\nb";        => ~ "vd_signature" directive, it must be a header's name
vd_signature hex \x{c3}\x{a4};  => ~ "vd_signature" directive, it must be a header's name
vd_signature hex Host;          => invalid header "Host" in "vd_signature" directive, it has another use already
vd_signature hex webhook-id;    => invalid header "webhook-id" in "vd_signature" directive, it has another use already
vd_signature hex WEBHOOK-TIMESTAMP; => invalid header "WEBHOOK-TIMESTAMP" in "vd_signature" directive, it has another use already
vd_signature hex Content-Type;  => invalid header "Content-Type" in "vd_signature" directive, it has another use already
vd_signature hex content-length;    => invalid header "content-length" in "vd_signature" directive, it has another use already
vd_signature hex User-Agent;    => invalid header "User-Agent" in "vd_signature" directive, it has another use already


=== TEST 25: two signatures in one header
--- refused
vd_signature hex; vd_signature hex;     => another "vd_signature" directive uses the header "X-Signature" already, name a different one as the second parameter
vd_signature hex; vd_signature base64;  => another "vd_signature" directive uses the header "X-Signature" already, name a different one as the second parameter
vd_signature hex A; vd_signature github a;  => another "vd_signature" directive uses the header "a" already, name a different one as the second parameter
vd_signature slack; vd_signature hex X-Slack-Request-Timestamp; => invalid header "X-Slack-Request-Timestamp" in "vd_signature" directive, it has another use already
vd_signature hex X-Slack-Request-Timestamp; vd_signature slack; => invalid header "X-Slack-Request-Timestamp" in "vd_signature" directive, it has another use already


=== TEST 26: paths of vd_ticket_id
--- refused
vd_ticket_id max=10;            => "vd_ticket_id" directive needs at least one path, such as "ticket_id"
vd_ticket_id pattern=a;         => "vd_ticket_id" directive needs at least one path, such as "ticket_id"
vd_ticket_id "";                => invalid path "" in "vd_ticket_id" directive: empty path
vd_ticket_id a..b;              => invalid path "a..b" in "vd_ticket_id" directive: empty segment
vd_ticket_id a .b;              => invalid path ".b" in "vd_ticket_id" directive: empty segment
vd_ticket_id a.;                => invalid path "a." in "vd_ticket_id" directive: empty segment
vd_ticket_id .;                 => invalid path "." in "vd_ticket_id" directive: empty segment


=== TEST 27: max of vd_ticket_id
--- refused
vd_ticket_id a max=0;           => invalid parameter "max=0" in "vd_ticket_id" directive, it must be 1 to 4096 bytes
vd_ticket_id a max=4097;        => invalid parameter "max=4097" in "vd_ticket_id" directive, it must be 1 to 4096 bytes
vd_ticket_id a max=x;           => invalid parameter "max=x" in "vd_ticket_id" directive, it must be 1 to 4096 bytes
vd_ticket_id a max=1k;          => invalid parameter "max=1k" in "vd_ticket_id" directive, it must be 1 to 4096 bytes
vd_ticket_id a max=-1;          => invalid parameter "max=-1" in "vd_ticket_id" directive, it must be 1 to 4096 bytes
vd_ticket_id a max=;            => invalid parameter "max=" in "vd_ticket_id" directive, it must be 1 to 4096 bytes
vd_ticket_id a max=18446744073709551617;    => invalid parameter "max=18446744073709551617" in "vd_ticket_id" directive, it must be 1 to 4096 bytes
vd_ticket_id a max=1 max=2;     => duplicate parameter "max=2" in "vd_ticket_id" directive


=== TEST 28: pattern of vd_ticket_id
--- refused
vd_ticket_id a pattern=;        => empty pattern in "vd_ticket_id" directive
vd_ticket_id a pattern=(;       => invalid pattern "(" in "vd_ticket_id" directive: missing closing parenthesis at offset 1
vd_ticket_id a pattern=VD-[;    => ~ invalid pattern "VD-\[" in "vd_ticket_id" directive: .* at offset 4
vd_ticket_id a pattern=\x{ff};  => ~ invalid pattern ".*" in "vd_ticket_id" directive: .* at offset 0
vd_ticket_id a pattern=a pattern=b; => duplicate parameter "pattern=b" in "vd_ticket_id" directive


=== TEST 29: headers that vd_set_header cannot set
--- refused
vd_set_header Content-Length 1; => "vd_set_header" cannot set "Content-Length", which is made for each attempt by the "vd_pass" directive
vd_set_header transfer-encoding chunked;    => "vd_set_header" cannot set "transfer-encoding", which is made for each attempt by the "vd_pass" directive
vd_set_header Connection close; => "vd_set_header" cannot set "Connection", which is made for each attempt by the "vd_pass" directive
vd_set_header Expect 100-continue;  => "vd_set_header" cannot set "Expect", which is made for each attempt by the "vd_pass" directive
vd_set_header Accept-Encoding gzip; => "vd_set_header" cannot set "Accept-Encoding", which is made for each attempt by the "vd_pass" directive
vd_set_header Webhook-Id 1;     => "vd_set_header" cannot set "Webhook-Id", which is made for each attempt by the "vd_pass" directive
vd_set_header webhook-timestamp 1;  => "vd_set_header" cannot set "webhook-timestamp", which is made for each attempt by the "vd_pass" directive
vd_set_header webhook-signature 1;  => "vd_set_header" cannot set "webhook-signature", which is made for each attempt by the "vd_pass" directive
vd_signature hex X-A; vd_set_header x-a 1;  => "vd_set_header" cannot set "x-a", which is made for each attempt by the "vd_pass" directive
vd_signature slack; vd_set_header X-Slack-Request-Timestamp 1;  => "vd_set_header" cannot set "X-Slack-Request-Timestamp", which is made for each attempt by the "vd_pass" directive


=== TEST 30: names and values of vd_set_header
--- refused
vd_set_header "" a;             => invalid name "" in "vd_set_header" directive, it must be a header's name
vd_set_header "A b" c;          => invalid name "A b" in "vd_set_header" directive, it must be a header's name
vd_set_header A: b;             => invalid name "A:" in "vd_set_header" directive, it must be a header's name
vd_set_header "A\nB" c;         => ~ "vd_set_header" directive, it must be a header's name
vd_set_header A b; vd_set_header a c;   => duplicate header "a" in "vd_set_header" directive
vd_set_header A "b\nC: d";      => "vd_set_header" directive must not contain control characters
vd_set_header A "$host\n";      => "vd_set_header" directive must not contain control characters
vd_set_header A "b\x{00}";      => "vd_set_header" directive must not contain control characters


=== TEST 31: files of secrets
--- around
location /t { vd_pass http://127.0.0.1; vd_output 28; vd_secret_file %; }
--- refused
nothing                         => ~ "vd_secret_file" open\(\) ".*/nothing" failed \(2: No such file or directory\)
empty                           => ~ "vd_secret_file" ".*/empty" is empty, it must hold a secret
newline                         => ~ "vd_secret_file" ".*/newline" is empty, it must hold a secret
crlf                            => ~ "vd_secret_file" ".*/crlf" is empty, it must hold a secret
too-long                        => ~ "vd_secret_file" ".*/too-long" is longer than 4096 bytes
bad-base64                      => ~ "vd_secret_file" ".*/bad-base64" begins with "whsec_", but what follows is not base64, as the scheme "standard" needs it, for the "vd_pass" directive
no-base64                       => ~ "vd_secret_file" ".*/no-base64" begins with "whsec_", but what follows is not base64, as the scheme "standard" needs it, for the "vd_pass" directive
secret; vd_secret_file empty    => ~ "vd_secret_file" ".*/empty" is empty, it must hold a secret


=== TEST 32: what is no file at all is no secret, and nobody is told to change its mode
--- around
location /t { vd_pass http://127.0.0.1; vd_output 28; vd_secret_file %; }
--- refused
directory                       => ~ "vd_secret_file" ".*/directory" is not a regular file
/dev/null                       => "vd_secret_file" "/dev/null" is not a regular file
""                              => ~ "vd_secret_file" ".*/" is not a regular file
fifo                            => ~ "vd_secret_file" ".*/fifo" is not a regular file


=== TEST 33: variables where there can be none
--- refused
vd_ssl_name $host;              => variables in "vd_ssl_name" "$host" are not supported, proof of identity does not depend on the request
vd_ssl_certificate $arg_a; vd_ssl_certificate_key $arg_b;  => variables in "vd_ssl_certificate" "$arg_a" are not supported, proof of identity does not depend on the request
vd_ssl_certificate certs/client.crt; vd_ssl_certificate_key $arg_b;  => variables in "vd_ssl_certificate_key" "$arg_b" are not supported, proof of identity does not depend on the request


=== TEST 34: variables that have no name
--- refused
vd_case $;                      => ~ invalid variable name .*"vd_case" directive has an invalid variable
vd_set_header A ${;             => ~ "vd_set_header" directive has an invalid variable


=== TEST 35: certificates and keys
--- refused
vd_ssl_certificate certs/client.crt;        => no "vd_ssl_certificate_key" is defined for "vd_ssl_certificate" "certs/client.crt" of the "vd_pass" directive
vd_ssl_certificate nothing; vd_ssl_certificate_key certs/client.key;            => ~ "vd_ssl_certificate" or "vd_ssl_certificate_key" failed for the "vd_pass" directive
vd_ssl_certificate certs/client.crt; vd_ssl_certificate_key nothing;            => ~ "vd_ssl_certificate" or "vd_ssl_certificate_key" failed for the "vd_pass" directive
vd_ssl_certificate certs/client.crt; vd_ssl_certificate_key certs/client2.key;  => ~ "vd_ssl_certificate" or "vd_ssl_certificate_key" failed for the "vd_pass" directive
vd_ssl_certificate secret; vd_ssl_certificate_key secret;   => ~ "vd_ssl_certificate" or "vd_ssl_certificate_key" failed for the "vd_pass" directive
vd_ssl_certificate certs/locked.crt; vd_ssl_certificate_key certs/locked.key; vd_ssl_password_file certs/wrong.pass;  => ~ "vd_ssl_certificate" or "vd_ssl_certificate_key" failed for the "vd_pass" directive
vd_ssl_password_file nothing;               => ~ open\(\) ".*/nothing" failed .*"vd_ssl_password_file" directive needs a file of passwords, one a line


=== TEST 36: whom to trust
--- refused
vd_ssl_trusted_certificate nothing;         => ~ "vd_ssl_trusted_certificate" failed for the "vd_pass" directive
vd_ssl_trusted_certificate empty;           => ~ "vd_ssl_trusted_certificate" failed for the "vd_pass" directive
vd_ssl_trusted_certificate "";              => "vd_ssl_trusted_certificate" directive must be a file or "system"
vd_ssl_trusted_certificate System;          => ~ "vd_ssl_trusted_certificate" failed for the "vd_pass" directive
vd_ssl_crl nothing;                         => ~ "vd_ssl_crl" failed for the "vd_pass" directive
vd_ssl_crl secret;                          => ~ "vd_ssl_crl" failed for the "vd_pass" directive


=== TEST 37: what OpenSSL does not know
--- refused
vd_ssl_ciphers nothing;                     => ~ "vd_ssl_ciphers" failed for the "vd_pass" directive
vd_ssl_conf_command Nothing 1;              => ~ "vd_ssl_conf_command" failed for the "vd_pass" directive
vd_ssl_conf_command MaxProtocol nothing;    => ~ "vd_ssl_conf_command" failed for the "vd_pass" directive


=== TEST 38: each directive at each level
--- accepted
vd_case $http_x_case_id;
vd_case "";
vd_case constant-$request_id;
vd_secret_file secret;
vd_secret_file secret; vd_secret_file secret-lf;
vd_signature standard;
vd_signature standard; vd_signature github; vd_signature hex; vd_signature base64 X-B; vd_signature stripe; vd_signature slack;
vd_signature hex !#$%&'*+-.^_`|~09az;
vd_ticket_id ticket_id;
vd_ticket_id a.b.0 c max=4096 pattern=[A-Z]+-\d+;
vd_validate off;
vd_set_header X-A "b $request_id";
vd_set_header Host a.test; vd_set_header User-Agent a; vd_set_header Accept */*; vd_set_header Content-Type text/plain;
vd_set_header X-Empty "";
vd_timeout 1500ms; vd_connect_timeout 1s; vd_send_timeout 1m; vd_read_timeout 1h;
vd_max_response_size 1; 
vd_max_response_size 10m;
vd_bind 127.0.0.1;
vd_bind 127.0.0.1:1234;
vd_bind $remote_addr transparent;
vd_bind off;
vd_socket_keepalive on;
vd_next_upstream off;
vd_next_upstream error timeout invalid_header non_idempotent http_500 http_502 http_503 http_504 http_403 http_404 http_429;
vd_next_upstream_tries 3; vd_next_upstream_timeout 10s;
vd_next_upstream_tries 0; vd_next_upstream_timeout 0;
vd_ssl_verify off;
vd_ssl_verify on; vd_ssl_verify_depth 3;
vd_ssl_server_name off;
vd_ssl_trusted_certificate system;
vd_ssl_trusted_certificate certs/ca.crt; vd_ssl_crl certs/ca.crl;
vd_ssl_crl "";
vd_ssl_protocols TLSv1 TLSv1.1 TLSv1.2 TLSv1.3;
vd_ssl_name receiver.test;
vd_ssl_ciphers HIGH:!aNULL;
vd_ssl_session_reuse off;
vd_ssl_certificate certs/client.crt; vd_ssl_certificate_key certs/client.key;
vd_ssl_certificate certs/locked.crt; vd_ssl_certificate_key certs/locked.key; vd_ssl_password_file certs/locked.pass;
vd_ssl_certificate "";
vd_ssl_conf_command MinProtocol TLSv1.2; vd_ssl_conf_command Options PrioritizeChaCha;


=== TEST 39: receivers
--- around
location /t { vd_pass %; vd_output 28; vd_secret_file secret; }
--- accepted
http://127.0.0.1
https://localhost
HTTPS://localhost/
http://127.0.0.1:8080/a/b?c=d&e=%20f
http://127.0.0.1?c=d
http://[::1]:8443/
http://localhost/
http://unix:/run/a.sock
http://unix:/run/a.sock:/path?query
"https://localhost/;a=b"
https://localhost/a@b?c@d


=== TEST 40: outputs
--- around
location /a { vd_pass http://127.0.0.1; vd_output %; vd_secret_file secret; }
location /b { vd_pass http://127.0.0.2; vd_output %; vd_secret_file secret; }
--- accepted
28
28 "Security Incident - Critical Alert"
28 "St\x{c3}\x{b6}rung"
28 ""
ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._


=== TEST 41: kinds of locations
--- around
%
--- accepted
location / { COMPLETE }
location ~ ^/(a|b)$ { COMPLETE }
location @named { COMPLETE }
location /internal { internal; COMPLETE }
location /outer { location /outer/inner { COMPLETE } }
location /if { COMPLETE if ($arg_a) { set $b 1; } }
location /limit { COMPLETE limit_except POST { deny all; } }
vd_secret_file bad-base64; location / { COMPLETE  vd_signature hex; }


=== TEST 42: an upstream{} that is defined behind its use
--- around
http { server { listen unix:listen.sock; location /t { vd_pass %; vd_output 28; vd_secret_file secret; } }
upstream receivers { server 127.0.0.1:1; server 127.0.0.1:2 backup; keepalive 4; } }
--- accepted
https://receivers/path


=== TEST 43: the module is there, and not used
--- around
http { server { listen unix:listen.sock; % } }
--- accepted
return 204;


=== TEST 44: addresses of which there is no certificate
--- around
location /t { vd_pass https://%; vd_output 28; vd_secret_file secret; }
--- warned
127.0.0.1          => no certificate can be verified for an IP address, "vd_ssl_name" is needed for "127.0.0.1" of the "vd_pass" directive
127.0.0.1:8443/a:b => no certificate can be verified for an IP address, "vd_ssl_name" is needed for "127.0.0.1:8443" of the "vd_pass" directive
[::1]:8443         => no certificate can be verified for an IP address, "vd_ssl_name" is needed for "[::1]:8443" of the "vd_pass" directive
unix:/run/a.sock    => no certificate can be verified for a unix domain socket, "vd_ssl_name" is needed for the "vd_pass" directive
--- accepted
127.0.0.1; vd_ssl_verify off
127.0.0.1; vd_ssl_name receiver.test
[::1]:8443; vd_ssl_name receiver.test
localhost:8443
unix:/run/a.sock; vd_ssl_name receiver.test


=== TEST 45: secrets that are hardly meant so
--- warned
vd_secret_file of-v1; => ~ "vd_secret_file" "[^"]+/of-v1" has something before "whsec_", or not in lower case; it is taken as part of the key, "printf %s SECRET > [^"]+/of-v1" writes
vd_secret_file upper; => ~ "vd_secret_file" "[^"]+/upper" has something before "whsec_", or not in lower case; it is taken as part of the key, "printf %s SECRET > [^"]+/upper" writes
vd_secret_file quoted; => ~ "vd_secret_file" "[^"]+/quoted" is in quotes; it is taken as part of the key, "printf %s SECRET > [^"]+/quoted" writes
vd_secret_file apostrophes; => ~ "vd_secret_file" "[^"]+/apostrophes" is in quotes; it is taken as part of the key, "printf %s SECRET > [^"]+/apostrophes" writes
vd_secret_file blank; => ~ "vd_secret_file" "[^"]+/blank" begins with white space; it is taken as part of the key, "printf %s SECRET > [^"]+/blank" writes
vd_secret_file blank-lf; => ~ "vd_secret_file" "[^"]+/blank-lf" ends with white space; it is taken as part of the key, "printf %s SECRET > [^"]+/blank-lf" writes
vd_secret_file tab; => ~ "vd_secret_file" "[^"]+/tab" begins with white space; it is taken as part of the key, "printf %s SECRET > [^"]+/tab" writes
vd_secret_file newlines; => ~ "vd_secret_file" "[^"]+/newlines" ends with white space; it is taken as part of the key, "printf %s SECRET > [^"]+/newlines" writes
vd_secret_file lines; => ~ "vd_secret_file" "[^"]+/lines" has more than one line; it is taken as part of the key, "printf %s SECRET > [^"]+/lines" writes
vd_secret_file bom; => ~ "vd_secret_file" "[^"]+/bom" begins with a byte order mark; it is taken as part of the key, "printf %s SECRET > [^"]+/bom" writes
vd_secret_file utf16; => ~ "vd_secret_file" "[^"]+/utf16" begins with a byte order mark; it is taken as part of the key, "printf %s SECRET > [^"]+/utf16" writes
vd_secret_file abc; => ~ "vd_secret_file" "[^"]+/abc" makes a key of 2 bytes, it should be 24 to 64; "echo whsec_\$\(openssl rand -base64 32\)"
vd_secret_file 23; => ~ "vd_secret_file" "[^"]+/23" makes a key of 23 bytes, it should be 24 to 64; "echo whsec_\$\(openssl rand -base64 32\)"
vd_secret_file 65; => ~ "vd_secret_file" "[^"]+/65" makes a key of 65 bytes, it should be 24 to 64; "echo whsec_\$\(openssl rand -base64 32\)"
vd_secret_file standard-23; => ~ "vd_secret_file" "[^"]+/standard-23" makes a key of 23 bytes, it should be 24 to 64; "echo whsec_\$\(openssl rand -base64 32\)"
vd_secret_file standard-65; => ~ "vd_secret_file" "[^"]+/standard-65" makes a key of 65 bytes, it should be 24 to 64; "echo whsec_\$\(openssl rand -base64 32\)"
--- accepted
vd_secret_file 24;
vd_secret_file 64;
vd_secret_file standard-24;
vd_secret_file standard-64;
vd_secret_file secret-lf;
