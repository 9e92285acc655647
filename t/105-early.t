# Copyright (C) The ngx_vd_module authors
#
# A receiver that replies before it has read the request, and what it does then.
# A reply that has come whole counts, whatever becomes of the connection.
#
# The section `early` has the size of the request, or none for one of a few bytes,
# and "tls" for a receiver that is spoken to by TLS.  Each status is combined with
# each of the ends.

use Test::Nginx::Socket 'no_plan';
use Test::VD;

repeat_each(1);

# Large requests take their time.
my @statuses = (200, 413);
my @all      = (200, 401, 413, 503);
my @ends     = ('hold', 'close', 'reset', 'sleep 0.05 | reset');

add_block_preprocessor(sub {
    my ($block) = @_;

    my $early = delete $block->{early} or return;
    my ($size) = $early->[0] =~ /(\d+m)/;
    my $schema = $early->[0] =~ /tls/ ? 'https' : 'http';
    my $config = "vd_secret_file \$TEST_NGINX_SECRET_FILE; vd_ssl_verify off;\n";
    my @requests;

    for my $begin ('early', $size ? 'early | read 1000000' : ()) {
        for my $status ($size ? @statuses : @all) {
            for my $end (@ends) {
                my $uri = '/t' . @requests;
                my ($path) = Test::VD::script(
                    "$begin | reply $status {\"ticket_id\":\"T-1\"} | $end"
                        =~ s/ \| /\n/gr);

                $config .= "location = $uri { vd_output 28; vd_pass "
                    . "$schema://127.0.0.1:\$TEST_NGINX_RAW_PORT$path; }\n";
                push @requests, join ' ', 'deliver', $uri, $size // (), '->',
                    $status == 200 ? 'delivered 200 T-1' : "failed $status status";
            }
        }
    }

    $block->set_value(config   => $config);
    $block->set_value(requests => join "\n", @requests);
});

run_tests();

__DATA__

=== TEST 1: a small request
--- early: http


=== TEST 2: a large one
--- early: http 8m


=== TEST 3: a large one, which nginx holds in memory
--- http_config
    client_body_buffer_size 10m;
--- early: http 8m


=== TEST 4: a small one by TLS
--- early: tls


=== TEST 5: a large one by TLS
--- early: tls 8m


=== TEST 6: half a reply is none
--- cases
failed 413 closed <- early | send HTTP/1.1 413 No\r\nContent-Length: 5\r\n\r\n{} | reset
failed 413 closed <- early | send HTTP/1.1 413 No\r\n\r\n{} | sleep 0.05 | reset
failed null closed <- early | send HTTP/1.1 413 No\r\nContent-Le | reset


=== TEST 7: the same of a large request
--- config
    vd_secret_file $TEST_NGINX_SECRET_FILE;

    location = /t {
        vd_pass http://127.0.0.1:$TEST_NGINX_RAW_PORT$SCRIPT;
        vd_output 28;
    }
--- receiver
early
read 1000000
send HTTP/1.1 413 No\r\nContent-Length: 5\r\n\r\n{}
reset
next connection
early
read 1000000
send HTTP/1.1 413 No\r\nConten
reset
--- requests
deliver A 8m -> failed 413 closed
deliver B 8m -> failed null closed
seen -> 1.1 A, 2.1 B


=== TEST 8: after such a reply the connection is not kept
--- http_config
    upstream receiver {
        server 127.0.0.1:$TEST_NGINX_RAW_PORT;
        keepalive 4;
    }
--- config
    location = /t {
        vd_secret_file $TEST_NGINX_SECRET_FILE;
        vd_pass http://receiver$SCRIPT;
        vd_output 28;
    }
--- receiver
reply 200 {"ticket_id":"T-1"}
next request
early
read 1000000
reply 413 too large
reset
next connection
reply 200 {"ticket_id":"T-2"}
--- requests
deliver A -> delivered 200 T-1
deliver B 8m -> failed 413 status
deliver C -> delivered 200 T-2
seen -> 1.1 A, 1.2 B, 2.1 C
