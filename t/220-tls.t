# Copyright (C) The ngx_vd_module authors
#
# TLS to the receiver: whom it is believed to be, and what is refused.

use Test::Nginx::Socket 'no_plan';
use Test::VD::TLS;

repeat_each(1);
no_long_string();

$ENV{TEST_NGINX_HTML_DIR} ||= html_dir();

# nginx warns of a secret that others can read.
umask 027;

# The "operating system's store" of these tests.
$ENV{SSL_CERT_FILE} = "$ENV{TEST_NGINX_CERTS}/other.crt";
$ENV{SSL_CERT_DIR}  = "$ENV{TEST_NGINX_CERTS}/none";

my $ANSWER = '{"id":"d-1","output":"1","state":"%s","attempt":1,"status":%s,'
    . '"ticket_id":%s,"ticket_error":null,"reason":%s,"journaled":false}' . "\n";

# Sections of this suite:
#
#   certificate   of the receiver, `server` where there is none
#   receiver      more of its configuration
#   delivered     the ticket id that is answered
#   refused       a pattern for the line of the error log that tells why, in
#                 which the delivery is named too
#   failed        status and reason, where it is not the handshake that failed
add_block_preprocessor(sub {
    my ($block) = @_;

    my $certificate = take($block, 'certificate') // 'server';
    my $receiver    = take($block, 'receiver') // '';
    my $delivered   = take($block, 'delivered');
    my $refused     = take($block, 'refused');
    my $failed      = take($block, 'failed');
    my $http        = $block->http_config // '';

    $block->set_value(http_config => <<"END");
    vd_secret_file \$TEST_NGINX_HTML_DIR/secret;
    ssl_protocols TLSv1.2 TLSv1.3;

    upstream receiver.test {
        server unix:\$TEST_NGINX_HTML_DIR/tls.sock;
    }

    server {
        listen unix:\$TEST_NGINX_HTML_DIR/tls.sock ssl;
        ssl_certificate \$TEST_NGINX_CERTS/$certificate.crt;
        ssl_certificate_key \$TEST_NGINX_CERTS/$certificate.key;
$receiver
        location / {
            return 200 '{"ticket_id":"\$ssl_protocol \$ssl_server_name \$ssl_client_verify"}';
        }
    }
$http
END
    $block->set_value(user_files   => ">>> secret\nwhsec_c2VjcmV0\n");
    $block->set_value(request      => "POST /t\n{}");
    $block->set_value(more_headers => 'Idempotency-Key: d-1');

    if (defined $delivered) {
        $block->set_value(error_code    => 200);
        $block->set_value(response_body =>
                sprintf $ANSWER, 'delivered', 200, qq{"$delivered"}, 'null');
        $block->set_value(no_error_log => '[error]');
    }
    elsif (defined $failed) {
        my ($status, $reason) = split ' ', $failed;
        $block->set_value(error_code    => 502);
        $block->set_value(response_body =>
                sprintf $ANSWER, 'failed', $status, 'null', qq{"$reason"});
    }
    else {
        $block->set_value(error_code    => 502);
        $block->set_value(response_body =>
                sprintf $ANSWER, 'failed', 'null', 'null', '"tls"');
        $block->set_value(error_log     => [
            qr/(?:\[error\]|\[crit\]).*$refused.*, delivery: "d-1", output: "1"$/,
            qr/delivery "d-1" to output "1" failed: attempt 1, reason tls/
        ]);
    }
});

sub take {
    my ($block, $section) = @_;

    my $values = delete $block->{$section};
    return $values && $values->[0];
}

# nginx lets a client without a certificate finish the handshake, and answers
# 400; this receiver does not.
my $strict = fork // die "fork: $!";
if ($strict == 0) {
    chdir $ENV{TEST_NGINX_CERTS} or die "chdir: $!";
    open STDIN,  '<', '/dev/null' or die "open: $!";
    open STDOUT, '>', '/dev/null' or die "open: $!";
    open STDERR, '>&', \*STDOUT or die "open: $!";
    exec qw(openssl s_server -unix strict.sock -cert server.crt -key server.key
        -CAfile ca.crt -Verify 1 -verify_return_error -www) or die "openssl: $!";
}
add_cleanup_handler(sub {
    local $?;
    kill 'TERM', $strict;
    waitpid $strict, 0;
});

run_tests();

__DATA__

=== TEST 1: a certificate of the trusted authority
--- config
    location = /t {
        vd_pass https://receiver.test;
        vd_output 1;
        vd_ssl_trusted_certificate $TEST_NGINX_CERTS/ca.crt;
    }
--- delivered: TLSv1.3 receiver.test NONE


=== TEST 2: a certificate of an unknown authority
--- config
    location = /t {
        vd_pass https://receiver.test;
        vd_output 1;
        vd_ssl_trusted_certificate $TEST_NGINX_CERTS/ca.crt;
    }
--- certificate: stranger
--- refused: certificate verify error: \(2[01]:unable to (?:get local issuer|verify the first) certificate\)


=== TEST 3: a certificate that is signed by itself
--- config
    location = /t {
        vd_pass https://receiver.test;
        vd_output 1;
        vd_ssl_trusted_certificate $TEST_NGINX_CERTS/ca.crt;
    }
--- certificate: self
--- refused: certificate verify error: \(18:self.signed certificate\)


=== TEST 4: a certificate that is signed by itself, and trusted
--- config
    location = /t {
        vd_pass https://receiver.test;
        vd_output 1;
        vd_ssl_trusted_certificate $TEST_NGINX_CERTS/self.crt;
    }
--- certificate: self
--- delivered: TLSv1.3 receiver.test NONE


=== TEST 5: an expired certificate
--- config
    location = /t {
        vd_pass https://receiver.test;
        vd_output 1;
        vd_ssl_trusted_certificate $TEST_NGINX_CERTS/ca.crt;
    }
--- certificate: expired
--- refused: certificate verify error: \(10:certificate has expired\)


=== TEST 6: a certificate that is not valid yet
--- config
    location = /t {
        vd_pass https://receiver.test;
        vd_output 1;
        vd_ssl_trusted_certificate $TEST_NGINX_CERTS/ca.crt;
    }
--- certificate: future
--- refused: certificate verify error: \(9:certificate is not yet valid\)


=== TEST 7: a certificate for another name
--- config
    location = /t {
        vd_pass https://receiver.test;
        vd_output 1;
        vd_ssl_trusted_certificate $TEST_NGINX_CERTS/ca.crt;
    }
--- certificate: wrong-name
--- refused: upstream SSL certificate does not match "receiver\.test"


=== TEST 8: a certificate for the name that vd_ssl_name expects
--- config
    location = /t {
        vd_pass https://receiver.test;
        vd_output 1;
        vd_ssl_name elsewhere.test;
        vd_ssl_trusted_certificate $TEST_NGINX_CERTS/ca.crt;
    }
--- certificate: wrong-name
--- delivered: TLSv1.3 elsewhere.test NONE


=== TEST 9: a certificate for another name than vd_ssl_name expects
--- config
    location = /t {
        vd_pass https://receiver.test;
        vd_output 1;
        vd_ssl_name elsewhere.test;
        vd_ssl_trusted_certificate $TEST_NGINX_CERTS/ca.crt;
    }
--- refused: upstream SSL certificate does not match "elsewhere\.test"


=== TEST 10: an address is no name that a certificate holds
--- http_config
    server {
        listen 127.0.0.1:$TEST_NGINX_RAND_PORT_1 ssl;
        ssl_certificate $TEST_NGINX_CERTS/server.crt;
        ssl_certificate_key $TEST_NGINX_CERTS/server.key;
        return 200 '{}';
    }
--- config
    location = /t {
        vd_pass https://127.0.0.1:$TEST_NGINX_RAND_PORT_1;
        vd_output 1;
        vd_ssl_trusted_certificate $TEST_NGINX_CERTS/ca.crt;
    }
--- refused: upstream SSL certificate does not match "127\.0\.0\.1"


=== TEST 11: the port is no part of the name
--- http_config
    server {
        listen 127.0.0.1:$TEST_NGINX_RAND_PORT_1 ssl;
        ssl_certificate $TEST_NGINX_CERTS/server.crt;
        ssl_certificate_key $TEST_NGINX_CERTS/server.key;
        return 200 '{"ticket_id":"$ssl_server_name $http_host"}';
    }
    upstream by-address {
        server 127.0.0.1:$TEST_NGINX_RAND_PORT_1;
    }
--- config
    location = /t {
        vd_pass https://by-address;
        vd_output 1;
        vd_ssl_name receiver.test;
        vd_ssl_trusted_certificate $TEST_NGINX_CERTS/ca.crt;
    }
--- delivered: receiver.test by-address


=== TEST 12: the system's store is trusted by default
--- config
    location = /t {
        vd_pass https://receiver.test;
        vd_output 1;
    }
--- certificate: stranger
--- delivered: TLSv1.3 receiver.test NONE


=== TEST 13: what is not in the system's store is not trusted by default
--- config
    location = /t {
        vd_pass https://receiver.test;
        vd_output 1;
    }
--- refused: certificate verify error: \(2[01]:unable to (?:get local issuer|verify the first) certificate\)


=== TEST 14: the system's store by its name, against a file further out
--- http_config
    vd_ssl_trusted_certificate $TEST_NGINX_CERTS/ca.crt;
--- config
    location = /t {
        vd_pass https://receiver.test;
        vd_output 1;
        vd_ssl_trusted_certificate system;
    }
--- certificate: stranger
--- delivered: TLSv1.3 receiver.test NONE


=== TEST 15: a file is trusted in the system's place, not beside it
--- config
    location = /t {
        vd_pass https://receiver.test;
        vd_output 1;
        vd_ssl_trusted_certificate $TEST_NGINX_CERTS/ca.crt;
    }
--- certificate: stranger
--- refused: certificate verify error


=== TEST 16: the system's store does not stand for a name
--- config
    location = /t {
        vd_pass https://receiver.test;
        vd_output 1;
        vd_ssl_name elsewhere.test;
    }
--- certificate: stranger
--- refused: upstream SSL certificate does not match "elsewhere\.test"


=== TEST 17: nothing is verified where vd_ssl_verify is off
--- config
    location = /t {
        vd_pass https://receiver.test;
        vd_output 1;
        vd_ssl_verify off;
    }
--- certificate: self
--- delivered: TLSv1.3 receiver.test NONE


=== TEST 18: not even the name where vd_ssl_verify is off
--- config
    location = /t {
        vd_pass https://receiver.test;
        vd_output 1;
        vd_ssl_verify off;
        vd_ssl_name another.test;
    }
--- certificate: expired
--- delivered: TLSv1.3 another.test NONE


=== TEST 19: one authority in between is accepted
--- config
    location = /t {
        vd_pass https://receiver.test;
        vd_output 1;
        vd_ssl_trusted_certificate $TEST_NGINX_CERTS/other.crt;
    }
--- certificate: one-below
--- delivered: TLSv1.3 receiver.test NONE


=== TEST 20: two are too many
--- config
    location = /t {
        vd_pass https://receiver.test;
        vd_output 1;
        vd_ssl_trusted_certificate $TEST_NGINX_CERTS/other.crt;
    }
--- certificate: two-below
--- refused: certificate verify error: \(22:certificate chain too long\)


=== TEST 21: unless vd_ssl_verify_depth says otherwise
--- config
    location = /t {
        vd_pass https://receiver.test;
        vd_output 1;
        vd_ssl_trusted_certificate $TEST_NGINX_CERTS/other.crt;
        vd_ssl_verify_depth 2;
    }
--- certificate: two-below
--- delivered: TLSv1.3 receiver.test NONE


=== TEST 22: vd_ssl_verify_depth 0 leaves no room for an authority in between
--- config
    location = /t {
        vd_pass https://receiver.test;
        vd_output 1;
        vd_ssl_trusted_certificate $TEST_NGINX_CERTS/other.crt;
        vd_ssl_verify_depth 0;
    }
--- certificate: one-below
--- refused: certificate verify error: \(22:certificate chain too long\)


=== TEST 23: vd_ssl_verify_depth with the system's store
--- config
    location = /t {
        vd_pass https://receiver.test;
        vd_output 1;
        vd_ssl_verify_depth 2;
    }
--- certificate: two-below
--- delivered: TLSv1.3 receiver.test NONE


=== TEST 24: two authorities in between, and the system's store
--- config
    location = /t {
        vd_pass https://receiver.test;
        vd_output 1;
    }
--- certificate: two-below
--- refused: certificate verify error: \(22:certificate chain too long\)


=== TEST 25: a revoked certificate
--- config
    location = /t {
        vd_pass https://receiver.test;
        vd_output 1;
        vd_ssl_trusted_certificate $TEST_NGINX_CERTS/ca.crt;
        vd_ssl_crl $TEST_NGINX_CERTS/ca.crl;
    }
--- certificate: revoked
--- refused: certificate verify error: \(23:certificate revoked\)


=== TEST 26: a certificate that is not on the list
--- config
    location = /t {
        vd_pass https://receiver.test;
        vd_output 1;
        vd_ssl_trusted_certificate $TEST_NGINX_CERTS/ca.crt;
        vd_ssl_crl $TEST_NGINX_CERTS/ca.crl;
    }
--- delivered: TLSv1.3 receiver.test NONE


=== TEST 27: a revoked certificate, and no list
--- config
    location = /t {
        vd_pass https://receiver.test;
        vd_output 1;
        vd_ssl_trusted_certificate $TEST_NGINX_CERTS/ca.crt;
    }
--- certificate: revoked
--- delivered: TLSv1.3 receiver.test NONE


=== TEST 28: a list of another authority is none
--- config
    location = /t {
        vd_pass https://receiver.test;
        vd_output 1;
        vd_ssl_trusted_certificate $TEST_NGINX_CERTS/ca.crt;
        vd_ssl_crl $TEST_NGINX_CERTS/other.crl;
    }
--- refused: certificate verify error: \(3:unable to get certificate CRL\)


=== TEST 29: a list beside the system's store
--- config
    location = /t {
        vd_pass https://receiver.test;
        vd_output 1;
        vd_ssl_crl $TEST_NGINX_CERTS/other.crl;
    }
--- certificate: stranger
--- delivered: TLSv1.3 receiver.test NONE


=== TEST 30: plain text where TLS is expected
--- http_config
    server {
        listen unix:$TEST_NGINX_HTML_DIR/plain.sock;
        return 200 '{}';
    }
--- config
    location = /t {
        vd_pass https://unix:$TEST_NGINX_HTML_DIR/plain.sock:/;
        vd_output 1;
        vd_ssl_verify off;
    }
--- refused: SSL_do_handshake\(\) failed \(SSL: error:[^)]*wrong version number


=== TEST 31: an old protocol is refused
--- config
    location = /t {
        vd_pass https://receiver.test;
        vd_output 1;
        vd_ssl_trusted_certificate $TEST_NGINX_CERTS/ca.crt;
    }
--- receiver
        ssl_protocols TLSv1 TLSv1.1;
        ssl_ciphers ALL:@SECLEVEL=0;
--- refused: SSL_do_handshake\(\) failed \(SSL: error:[^)]*(?:protocol version|unsupported protocol)


=== TEST 32: an old protocol is spoken where vd_ssl_protocols has it
--- config
    location = /t {
        vd_pass https://receiver.test;
        vd_output 1;
        vd_ssl_trusted_certificate $TEST_NGINX_CERTS/ca.crt;
        vd_ssl_protocols TLSv1.1;
        vd_ssl_ciphers ALL:@SECLEVEL=0;
    }
--- receiver
        ssl_protocols TLSv1 TLSv1.1;
        ssl_ciphers ALL:@SECLEVEL=0;
--- delivered: TLSv1.1 receiver.test NONE


=== TEST 33: TLS 1.2 without being asked for
--- config
    location = /t {
        vd_pass https://receiver.test;
        vd_output 1;
        vd_ssl_trusted_certificate $TEST_NGINX_CERTS/ca.crt;
    }
--- receiver
        ssl_protocols TLSv1.2;
--- delivered: TLSv1.2 receiver.test NONE


=== TEST 34: vd_ssl_protocols leaves out what it does not have
--- config
    location = /t {
        vd_pass https://receiver.test;
        vd_output 1;
        vd_ssl_trusted_certificate $TEST_NGINX_CERTS/ca.crt;
        vd_ssl_protocols TLSv1.2;
    }
--- delivered: TLSv1.2 receiver.test NONE


=== TEST 35: no common protocol
--- config
    location = /t {
        vd_pass https://receiver.test;
        vd_output 1;
        vd_ssl_trusted_certificate $TEST_NGINX_CERTS/ca.crt;
        vd_ssl_protocols TLSv1.2;
    }
--- receiver
        ssl_protocols TLSv1.3;
--- refused: SSL_do_handshake\(\) failed \(SSL: error:[^)]*protocol version


=== TEST 36: vd_ssl_ciphers
--- config
    location = /t {
        vd_pass https://receiver.test;
        vd_output 1;
        vd_ssl_trusted_certificate $TEST_NGINX_CERTS/ca.crt;
        vd_ssl_protocols TLSv1.2;
        vd_ssl_ciphers ECDHE-ECDSA-CHACHA20-POLY1305;
    }
--- receiver
        location = / {
            return 200 '{"ticket_id":"$ssl_cipher"}';
        }
--- delivered: ECDHE-ECDSA-CHACHA20-POLY1305


=== TEST 37: no common cipher
--- config
    location = /t {
        vd_pass https://receiver.test;
        vd_output 1;
        vd_ssl_trusted_certificate $TEST_NGINX_CERTS/ca.crt;
        vd_ssl_protocols TLSv1.2;
        vd_ssl_ciphers ECDHE-ECDSA-CHACHA20-POLY1305;
    }
--- receiver
        ssl_ciphers ECDHE-ECDSA-AES128-GCM-SHA256;
--- refused: SSL_do_handshake\(\) failed \(SSL: error:[^)]*handshake failure


=== TEST 38: vd_ssl_conf_command
--- config
    location = /t {
        vd_pass https://receiver.test;
        vd_output 1;
        vd_ssl_trusted_certificate $TEST_NGINX_CERTS/ca.crt;
        vd_ssl_conf_command MaxProtocol TLSv1.2;
    }
--- delivered: TLSv1.2 receiver.test NONE


=== TEST 39: the name is not sent where vd_ssl_server_name is off
--- config
    location = /t {
        vd_pass https://receiver.test;
        vd_output 1;
        vd_ssl_server_name off;
        vd_ssl_trusted_certificate $TEST_NGINX_CERTS/ca.crt;
    }
--- delivered: TLSv1.3  NONE


=== TEST 40: the name is still verified where vd_ssl_server_name is off
--- config
    location = /t {
        vd_pass https://receiver.test;
        vd_output 1;
        vd_ssl_server_name off;
        vd_ssl_trusted_certificate $TEST_NGINX_CERTS/ca.crt;
    }
--- certificate: wrong-name
--- refused: upstream SSL certificate does not match "receiver\.test"


=== TEST 41: a receiver that chooses its certificate by the name
--- http_config
    server {
        listen unix:$TEST_NGINX_HTML_DIR/tls.sock ssl;
        server_name elsewhere.test;
        ssl_certificate $TEST_NGINX_CERTS/wrong-name.crt;
        ssl_certificate_key $TEST_NGINX_CERTS/wrong-name.key;
        return 200 '{"ticket_id":"$ssl_server_name $http_host"}';
    }
--- config
    location = /t {
        vd_pass https://receiver.test;
        vd_output 1;
        vd_set_header Host elsewhere.test;
        vd_ssl_name elsewhere.test;
        vd_ssl_trusted_certificate $TEST_NGINX_CERTS/ca.crt;
    }
--- delivered: elsewhere.test elsewhere.test


=== TEST 42: a certificate of our own, which the receiver wants
--- config
    location = /t {
        vd_pass https://receiver.test;
        vd_output 1;
        vd_ssl_trusted_certificate $TEST_NGINX_CERTS/ca.crt;
        vd_ssl_certificate $TEST_NGINX_CERTS/client.crt;
        vd_ssl_certificate_key $TEST_NGINX_CERTS/client.key;
    }
--- receiver
        ssl_client_certificate $TEST_NGINX_CERTS/ca.crt;
        ssl_verify_client on;
        location = / {
            return 200 '{"ticket_id":"$ssl_client_verify $ssl_client_s_dn"}';
        }
--- delivered: SUCCESS CN=client


=== TEST 43: a key with a password
--- config
    location = /t {
        vd_pass https://receiver.test;
        vd_output 1;
        vd_ssl_trusted_certificate $TEST_NGINX_CERTS/ca.crt;
        vd_ssl_certificate $TEST_NGINX_CERTS/locked.crt;
        vd_ssl_certificate_key $TEST_NGINX_CERTS/locked.key;
        vd_ssl_password_file $TEST_NGINX_CERTS/locked.pass;
    }
--- receiver
        ssl_client_certificate $TEST_NGINX_CERTS/ca.crt;
        ssl_verify_client on;
        location = / {
            return 200 '{"ticket_id":"$ssl_client_verify $ssl_client_s_dn"}';
        }
--- delivered: SUCCESS CN=locked


=== TEST 44: none is sent where none is configured
--- config
    location = /t {
        vd_pass https://receiver.test;
        vd_output 1;
        vd_ssl_trusted_certificate $TEST_NGINX_CERTS/ca.crt;
    }
--- receiver
        ssl_client_certificate $TEST_NGINX_CERTS/ca.crt;
        ssl_verify_client optional;
--- delivered: TLSv1.3 receiver.test NONE


=== TEST 45: an empty vd_ssl_certificate takes back that of the server
--- config
    vd_ssl_certificate $TEST_NGINX_CERTS/client.crt;
    vd_ssl_certificate_key $TEST_NGINX_CERTS/client.key;

    location = /t {
        vd_pass https://receiver.test;
        vd_output 1;
        vd_ssl_trusted_certificate $TEST_NGINX_CERTS/ca.crt;
        vd_ssl_certificate "";
    }
--- receiver
        ssl_client_certificate $TEST_NGINX_CERTS/ca.crt;
        ssl_verify_client optional;
--- delivered: TLSv1.3 receiver.test NONE


=== TEST 46: a receiver that wants a certificate which it does not get, TLS 1.2
--- config
    location = /t {
        vd_pass https://unix:$TEST_NGINX_CERTS/strict.sock:/;
        vd_output 1;
        vd_ssl_name receiver.test;
        vd_ssl_trusted_certificate $TEST_NGINX_CERTS/ca.crt;
        vd_ssl_protocols TLSv1.2;
    }
--- refused: SSL_do_handshake\(\) failed \(SSL: error:[^)]*handshake failure


=== TEST 47: a receiver that wants a certificate which it does not get, TLS 1.3
In TLS 1.3 a client is done with the handshake before the server has seen its
certificate, and learns only when it reads the answer that it was refused: the
reason was `closed`.
--- config
    location = /t {
        vd_pass https://unix:$TEST_NGINX_CERTS/strict.sock:/;
        vd_output 1;
        vd_ssl_name receiver.test;
        vd_ssl_trusted_certificate $TEST_NGINX_CERTS/ca.crt;
        vd_ssl_protocols TLSv1.3;
    }
--- refused: SSL_(?:do_handshake|read|peek)\(\) failed \(SSL: error:[^)]*certificate required


=== TEST 48: a receiver that gets the certificate of another authority
--- config
    location = /t {
        vd_pass https://unix:$TEST_NGINX_CERTS/strict.sock:/;
        vd_output 1;
        vd_ssl_name receiver.test;
        vd_ssl_trusted_certificate $TEST_NGINX_CERTS/ca.crt;
        vd_ssl_certificate $TEST_NGINX_CERTS/stranger.crt;
        vd_ssl_certificate_key $TEST_NGINX_CERTS/stranger.key;
    }
--- refused: SSL_(?:do_handshake|read|peek)\(\) failed \(SSL: error:[^)]*unknown ca


=== TEST 49: a receiver that answers 400 where it does not get a certificate
--- config
    location = /t {
        vd_pass https://receiver.test;
        vd_output 1;
        vd_ssl_trusted_certificate $TEST_NGINX_CERTS/ca.crt;
    }
--- receiver
        ssl_client_certificate $TEST_NGINX_CERTS/ca.crt;
        ssl_verify_client on;
--- failed: 400 status


=== TEST 50: TLS where plain text is expected
--- config
    location = /t {
        vd_pass http://receiver.test;
        vd_output 1;
    }
--- failed: 400 status


=== TEST 51: a receiver that does not know the name
--- http_config
    server {
        listen unix:$TEST_NGINX_HTML_DIR/named.sock ssl;
        ssl_reject_handshake on;
    }
--- config
    location = /t {
        vd_pass https://unix:$TEST_NGINX_HTML_DIR/named.sock:/;
        vd_output 1;
        vd_ssl_verify off;
    }
--- refused: SSL_do_handshake\(\) failed \(SSL: error:[^)]*unrecognized name


=== TEST 52: settings of the http level
--- http_config
    vd_ssl_trusted_certificate $TEST_NGINX_CERTS/other.crt;
    vd_ssl_verify_depth 2;
    vd_ssl_name receiver.test;
    vd_ssl_server_name off;
    vd_ssl_protocols TLSv1.2;
    vd_ssl_ciphers ECDHE-ECDSA-CHACHA20-POLY1305;
    vd_ssl_certificate $TEST_NGINX_CERTS/locked.crt;
    vd_ssl_certificate_key $TEST_NGINX_CERTS/locked.key;
    vd_ssl_password_file $TEST_NGINX_CERTS/locked.pass;
    vd_ssl_session_reuse off;
    vd_ssl_conf_command Options -SessionTicket;
--- config
    location = /t {
        vd_pass https://unix:$TEST_NGINX_HTML_DIR/tls.sock:/;
        vd_output 1;
    }
--- receiver
        ssl_client_certificate $TEST_NGINX_CERTS/ca.crt;
        ssl_verify_client on;
        location = / {
            return 200 '{"ticket_id":"$ssl_protocol $ssl_cipher $ssl_server_name $ssl_client_s_dn"}';
        }
--- certificate: two-below
--- delivered: TLSv1.2 ECDHE-ECDSA-CHACHA20-POLY1305  CN=locked


=== TEST 53: settings of the server level, and one that the location replaces
--- config
    vd_ssl_trusted_certificate $TEST_NGINX_CERTS/ca.crt;
    vd_ssl_protocols TLSv1.2;
    vd_ssl_verify_depth 2;

    location = /t {
        vd_pass https://receiver.test;
        vd_output 1;
        vd_ssl_trusted_certificate $TEST_NGINX_CERTS/other.crt;
    }
--- certificate: two-below
--- delivered: TLSv1.2 receiver.test NONE


=== TEST 54: vd_ssl_verify off of the http level, on in the location
--- http_config
    vd_ssl_verify off;
--- config
    location = /t {
        vd_pass https://receiver.test;
        vd_output 1;
        vd_ssl_verify on;
    }
--- refused: certificate verify error


=== TEST 55: vd_ssl_verify off of the server level
--- config
    vd_ssl_verify off;

    location = /t {
        vd_pass https://receiver.test;
        vd_output 1;
    }
--- delivered: TLSv1.3 receiver.test NONE
