# Copyright (C) The ngx_vd_module authors
#
# What balancers are told.  Nginx takes a server out of use for ten seconds after
# one failure (max_fails=1); a kept connection that proves to be closed is none.
#
# A block has an upstream{} in its section `upstream`, where SERVER stands for the
# receiver's address.  Each connection takes one request and is closed under the
# second.

use Test::Nginx::Socket 'no_plan';
use Test::VD;

repeat_each(1);

add_block_preprocessor(sub {
    my ($block) = @_;

    my $upstream = delete $block->{upstream} or return;
    my $servers  = $upstream->[0] =~ s/SERVER/127.0.0.1:\$TEST_NGINX_RAW_PORT/gr;

    $block->set_value(http_config => "upstream receiver {\n$servers}\n");
    $block->set_value(config => <<'CONFIG');
    vd_secret_file $TEST_NGINX_SECRET_FILE;

    location = /t {
        vd_pass http://receiver$SCRIPT;
        vd_output 28;
    }
CONFIG

    return if defined $block->receiver;

    my @names = ('A' .. 'H');

    $block->set_value(receiver => <<'STEPS');
reply 200 {"ticket_id":"T-1"}
next request
close
STEPS
    $block->set_value(requests => join '',
        map {"deliver $_ -> delivered 200 T-1\n"} @names);
});

run_tests();

__DATA__

=== TEST 1: round robin
--- upstream
server SERVER;
server SERVER;
keepalive 4;


=== TEST 2: round robin with weights
--- upstream
server SERVER weight=3;
server SERVER;
keepalive 4;


=== TEST 3: one server
--- upstream
server SERVER;
keepalive 4;


=== TEST 4: least_conn
--- upstream
least_conn;
server SERVER;
server SERVER;
keepalive 4;


=== TEST 5: ip_hash
--- upstream
ip_hash;
server SERVER;
server SERVER;
keepalive 4;


=== TEST 6: hash
--- upstream
hash $request_uri;
server SERVER;
server SERVER;
keepalive 4;


=== TEST 7: hash consistent
--- upstream
hash $request_uri consistent;
server SERVER;
server SERVER;
keepalive 4;


=== TEST 8: random
--- upstream
random;
server SERVER;
server SERVER;
keepalive 4;


=== TEST 9: random two least_conn
--- upstream
random two least_conn;
server SERVER;
server SERVER;
server SERVER;
keepalive 4;


=== TEST 10: zone
--- upstream
zone receivers 64k;
server SERVER;
server SERVER;
keepalive 4;


=== TEST 11: zone and least_conn
--- upstream
zone receivers 64k;
least_conn;
server SERVER;
server SERVER;
keepalive 4;


=== TEST 12: zone and random
--- upstream
zone receivers 64k;
random two;
server SERVER;
server SERVER;
keepalive 4;


=== TEST 13: one server in a zone
--- upstream
zone receivers 64k;
server SERVER;
keepalive 4;


=== TEST 14: max_conns: the place is not given away meanwhile
--- upstream
server SERVER max_conns=1;
server 127.0.0.1:$TEST_NGINX_FULL_PORT down;
keepalive 4;


=== TEST 15: the other server is down: it is the same one that is tried afresh
--- upstream
server SERVER;
server 127.0.0.1:$TEST_NGINX_FULL_PORT down;
keepalive 4;


=== TEST 16: the same with a hash
--- upstream
hash $request_uri consistent;
server SERVER;
server 127.0.0.1:$TEST_NGINX_FULL_PORT down;
keepalive 4;


=== TEST 17: a backup is not asked
--- upstream
server SERVER;
server 127.0.0.1:$TEST_NGINX_FULL_PORT backup;
keepalive 4;


=== TEST 18: a fresh connection that is closed counts as ever
--- upstream
server SERVER;
server SERVER;
keepalive 4;
--- receiver
close
--- requests
deliver A -> failed null closed
deliver B -> failed null closed
deliver C -> failed null connect
seen -> 1.1 A, 2.1 B
--- no_error_log
[alert]


=== TEST 19: so does the one after a stale one
--- upstream
server SERVER;
server SERVER;
keepalive 4;
--- receiver
reply 200 {"ticket_id":"T-1"}
next request
close
next connection
close
next connection
close
--- requests
deliver A -> delivered 200 T-1
deliver B -> failed null closed
deliver C -> failed null closed
deliver D -> failed null connect
seen -> 1.1 A, 1.2 B, 2.1 B, 3.1 C
--- no_error_log
[alert]
