# Copyright (C) The ngx_vd_module authors
#
# What one location has proved or shown by TLS is of no use to another: neither
# a session nor a kept connection passes between locations that differ.

use Test::Nginx::Socket 'no_plan';
use Test::VD;
use Test::VD::TLS;

repeat_each(1);
no_long_string();
no_root_location();

# Two receivers, each as NAME.test, which keeps no connection, whatever nginx would,
# and as NAME.kept.  Their ticket ids are
#
#   whether the session was resumed, "r" or "."
#   the number of the request on its connection
#   the name in the client's certificate
#
# A block with the section `both` is for NAME.test; what it says must hold for
# NAME.kept as well, which gets the same requests in locations of its own.
add_block_preprocessor(sub {
    my ($block) = @_;

    $block->set_value(http_config => join "\n",
        'vd_secret_file $TEST_NGINX_SECRET_FILE;',
        'vd_ssl_name receiver.test;',
        'ssl_protocols TLSv1.2 TLSv1.3;',
        map { receiver($_, 'test', 'keepalive_timeout 0;'), receiver($_, 'kept') }
            qw(server revoked));

    return if !delete $block->{both};

    my $config   = $block->config;
    my @copies   = $config =~ /^( {4}location .*?^ {4}\}\n)/msg;
    my $requests = $block->requests;

    $block->set_value(config => join '', $config,
        map { s{location = /}{location = /kept-}r =~ s{\.test;}{.kept;}r } @copies);
    $block->set_value(
        requests => $requests . $requests =~ s{^(\w+) /}{$1 /kept-}gmr);
});

sub receiver {
    my ($name, $kind, $setting) = @_;

    my $socket = "unix:\$TEST_NGINX_HTML_DIR/$name.$kind";
    $setting //= '';
    return <<"END";
    upstream $name.$kind {
        server $socket;
        keepalive 8;
    }

    server {
        listen $socket ssl;
        $setting
        ssl_certificate \$TEST_NGINX_CERTS/$name.crt;
        ssl_certificate_key \$TEST_NGINX_CERTS/$name.key;
        ssl_client_certificate \$TEST_NGINX_CERTS/ca.crt;
        ssl_verify_client optional;

        location / {
            return 200 '{"ticket_id":"\$ssl_session_reused,\$connection_requests,\$ssl_client_s_dn"}';
        }
    }
END
}

run_tests();

__DATA__

=== TEST 1: a session is resumed
--- config
    location = /a {
        vd_pass https://server.test;
        vd_output a;
        vd_ssl_trusted_certificate $TEST_NGINX_CERTS/ca.crt;
    }
--- requests
deliver /a -> delivered 200 .,1,
deliver /a -> delivered 200 r,1,
deliver /a -> delivered 200 r,1,


=== TEST 2: a session of TLS 1.2 is resumed
--- config
    location = /a {
        vd_pass https://server.test;
        vd_output a;
        vd_ssl_trusted_certificate $TEST_NGINX_CERTS/ca.crt;
        vd_ssl_protocols TLSv1.2;
    }
--- requests
deliver /a -> delivered 200 .,1,
deliver /a -> delivered 200 r,1,


=== TEST 3: no session is resumed where vd_ssl_session_reuse is off
--- config
    location = /a {
        vd_pass https://server.test;
        vd_output a;
        vd_ssl_trusted_certificate $TEST_NGINX_CERTS/ca.crt;
        vd_ssl_session_reuse off;
    }
--- requests
deliver /a -> delivered 200 .,1,
deliver /a -> delivered 200 .,1,


=== TEST 4: a kept connection is used again
--- config
    location = /a {
        vd_pass https://server.kept;
        vd_output a;
        vd_ssl_trusted_certificate $TEST_NGINX_CERTS/ca.crt;
    }
--- requests
deliver /a -> delivered 200 .,1,
deliver /a -> delivered 200 .,2,


=== TEST 5: locations with the same settings share a kept connection
--- config
    vd_ssl_trusted_certificate $TEST_NGINX_CERTS/ca.crt;

    location = /a {
        vd_pass https://server.kept;
        vd_output a;
    }
    location = /b {
        vd_pass https://server.kept;
        vd_output b;
    }
--- requests
deliver /a -> delivered 200 .,1,
deliver /b -> delivered 200 .,2,


=== TEST 6: a location that trusts another authority
--- both
--- config
    location = /a {
        vd_pass https://server.test;
        vd_output a;
        vd_ssl_trusted_certificate $TEST_NGINX_CERTS/ca.crt;
    }
    location = /b {
        vd_pass https://server.test;
        vd_output b;
        vd_ssl_trusted_certificate $TEST_NGINX_CERTS/other.crt;
    }
--- requests
deliver /a -> delivered 200 .,1,
deliver /b -> failed null tls
deliver /b -> failed null tls


=== TEST 7: a location that verifies what another does not
--- both
--- config
    location = /a {
        vd_pass https://server.test;
        vd_output a;
        vd_ssl_verify off;
    }
    location = /b {
        vd_pass https://server.test;
        vd_output b;
    }
--- requests
deliver /a -> delivered 200 .,1,
deliver /b -> failed null tls
deliver /b -> failed null tls


=== TEST 8: a location with another list of revoked certificates
--- both
--- config
    vd_ssl_trusted_certificate $TEST_NGINX_CERTS/ca.crt;

    location = /a {
        vd_pass https://revoked.test;
        vd_output a;
    }
    location = /b {
        vd_pass https://revoked.test;
        vd_output b;
        vd_ssl_crl $TEST_NGINX_CERTS/ca.crl;
    }
--- requests
deliver /a -> delivered 200 .,1,
deliver /b -> failed null tls
deliver /b -> failed null tls


=== TEST 9: a location that expects another name
--- both
--- config
    vd_ssl_trusted_certificate $TEST_NGINX_CERTS/ca.crt;

    location = /a {
        vd_pass https://server.test;
        vd_output a;
    }
    location = /b {
        vd_pass https://server.test;
        vd_output b;
        vd_ssl_name elsewhere.test;
    }
--- requests
deliver /a -> delivered 200 .,1,
deliver /b -> failed null tls
deliver /b -> failed null tls


=== TEST 10: locations with certificates of their own
--- both
--- config
    vd_ssl_trusted_certificate $TEST_NGINX_CERTS/ca.crt;

    location = /a {
        vd_pass https://server.test;
        vd_output a;
        vd_ssl_certificate $TEST_NGINX_CERTS/client.crt;
        vd_ssl_certificate_key $TEST_NGINX_CERTS/client.key;
    }
    location = /b {
        vd_pass https://server.test;
        vd_output b;
        vd_ssl_certificate $TEST_NGINX_CERTS/client2.crt;
        vd_ssl_certificate_key $TEST_NGINX_CERTS/client2.key;
    }
    location = /c {
        vd_pass https://server.test;
        vd_output c;
    }
--- requests
deliver /a -> delivered 200 .,1,CN=client
deliver /b -> delivered 200 .,1,CN=client2
deliver /c -> delivered 200 .,1,


=== TEST 11: sessions of locations with certificates of their own
--- config
    vd_ssl_trusted_certificate $TEST_NGINX_CERTS/ca.crt;

    location = /a {
        vd_pass https://server.test;
        vd_output a;
        vd_ssl_certificate $TEST_NGINX_CERTS/client.crt;
        vd_ssl_certificate_key $TEST_NGINX_CERTS/client.key;
    }
    location = /b {
        vd_pass https://server.test;
        vd_output b;
        vd_ssl_certificate $TEST_NGINX_CERTS/client2.crt;
        vd_ssl_certificate_key $TEST_NGINX_CERTS/client2.key;
    }
    location = /c {
        vd_pass https://server.test;
        vd_output c;
    }
--- requests
deliver /a -> delivered 200 .,1,CN=client
deliver /b -> delivered 200 .,1,CN=client2
deliver /c -> delivered 200 .,1,
deliver /a -> delivered 200 r,1,CN=client
deliver /b -> delivered 200 r,1,CN=client2
deliver /c -> delivered 200 r,1,


=== TEST 12: a location without TLS takes no connection with it
--- both
--- config
    location = /a {
        vd_pass https://server.test;
        vd_output a;
        vd_ssl_trusted_certificate $TEST_NGINX_CERTS/ca.crt;
    }
    location = /b {
        vd_pass http://server.test;
        vd_output b;
    }
--- requests
deliver /a -> delivered 200 .,1,
deliver /b -> failed 400 status


=== TEST 13: a connection that proxy_pass kept is not taken
--- both
--- config
    location = /a {
        proxy_pass https://server.test;
        proxy_http_version 1.1;
        proxy_set_header Connection "";
    }
    location = /b {
        vd_pass https://server.test;
        vd_output b;
    }
    location = /c {
        vd_pass https://server.test;
        vd_output c;
        vd_ssl_trusted_certificate $TEST_NGINX_CERTS/ca.crt;
    }
--- requests
get /a -> {"ticket_id":".,1,"}
deliver /b -> failed null tls
get /a -> {"ticket_id":"r,1,"}
deliver /c -> delivered 200 .,1,
