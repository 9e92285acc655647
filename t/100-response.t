# Copyright (C) The ngx_vd_module authors
#
# What a receiver may answer: how it is read, and what comes of it.

use Test::Nginx::Socket 'no_plan';
use Test::VD;

run_tests();

__DATA__

=== TEST 1: a complete response with a 2xx status is delivered, no other
--- cases
delivered 200 T-1 <- reply 200 {"ticket_id":"T-1"}
delivered 201 T-1 <- reply 201 {"ticket_id":"T-1"}
delivered 299 T-1 <- reply 299 {"ticket_id":"T-1"}
delivered 202 missing <- reply 202 {"message": "Workflow was started"}
failed 300 status <- reply 300 {"ticket_id":"T-1"}
failed 400 status <- reply 400 {"ticket_id":"T-1"}
failed 410 status <- reply 410 gone
failed 429 status <- reply 429 {}
failed 500 status <- reply 500 {}
failed 599 status <- reply 599 {"ticket_id":"T-1"}


=== TEST 2: redirects are not followed
--- receiver
send HTTP/1.1 302 Found\r\nLocation: /seen\r\nContent-Length: 0\r\n\r\n
--- requests
deliver A -> failed 302 status
seen -> 1.1 A


=== TEST 3: interim responses before the final one are passed over
--- cases
delivered 200 T-1 <- send HTTP/1.1 100 Continue\r\n\r\n | reply 200 {"ticket_id":"T-1"}
delivered 200 T-1 <- send HTTP/1.1 102 Processing\r\n\r\n | sleep 0.05 | reply 200 {"ticket_id":"T-1"}
delivered 200 T-1 <- send HTTP/1.1 103 Early Hints\r\nLink: </x>; rel=preload\r\n\r\n | reply 200 {"ticket_id":"T-1"}
delivered 200 T-1 <- send HTTP/1.1 100 A\r\n\r\nHTTP/1.1 102 B\r\n\r\nHTTP/1.1 103 C\r\n\r\n | reply 200 {"ticket_id":"T-1"}
delivered 200 T-1 <- drip 0.001 HTTP/1.1 100 Continue\r\n\r\n | reply 200 {"ticket_id":"T-1"}
failed 500 status <- send HTTP/1.1 100 Continue\r\n\r\n | reply 500 {"ticket_id":"T-1"}


=== TEST 4: headers of an interim response do not frame the final one
--- cases
delivered 200 T-1 <- send HTTP/1.1 100 Continue\r\nContent-Length: 5\r\n\r\n | reply 200 {"ticket_id":"T-1"}
delivered 200 T-1 <- send HTTP/1.1 103 Hints\r\nTransfer-Encoding: chunked\r\n\r\n | reply 200 {"ticket_id":"T-1"}
delivered 200 T-1 <- send HTTP/1.1 103 Hints\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n | reply 200 {"ticket_id":"T-1"}


=== TEST 5: eight interim responses are passed over, and no more
--- cases
delivered 200 T-1 <- fill 8 HTTP/1.1 103 Hints\r\n\r\n | reply 200 {"ticket_id":"T-1"}
failed null protocol <- fill 9 HTTP/1.1 103 Hints\r\n\r\n | reply 200 {"ticket_id":"T-1"}
failed null protocol <- forever HTTP/1.1 103 Hints\r\n\r\n


=== TEST 6: the size of interim responses does not count against the final one's
--- receiver eval
"send HTTP/1.1 103 Hints\\r\\n\n"
    . "fill 70 Link: </style.css>; rel=preload; as=style; and=" . "x" x 50 . "\\r\\n\n"
    . "send \\r\\n\n"
    . "send HTTP/1.1 103 Hints\\r\\n\n"
    . "fill 70 Link: </style.css>; rel=preload; as=style; and=" . "x" x 50 . "\\r\\n\n"
    . "send \\r\\n\n"
    . 'reply 200 {"ticket_id":"T-1"}'
--- requests
deliver -> delivered 200 T-1


=== TEST 7: an interim response is not the answer
--- cases
failed null protocol <- send HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n | reply 200 {"ticket_id":"T-1"}
failed null closed <- send HTTP/1.1 100 Continue\r\n\r\n | close
failed null protocol <- send HTTP/1.1 100 Continue\r\n\r\nhello\r\n\r\n | close


=== TEST 8: what is no status line of HTTP/1.x
--- cases
failed null protocol <- send hello | close
failed null protocol <- send {"success": true, "ticket_id": "T-1"} | close
failed null protocol <- send <html>HTTP/1.1 200 OK\r\n\r\n | close
failed null protocol <- send \r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n | close
failed null protocol <- send SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n | hold
failed null protocol <- send 220 mail.example.com ESMTP\r\n | hold
failed null protocol <- send \x00\x00\x12\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x80 | hold
failed null protocol <- send \x15\x03\x03\x00\x02\x02\x46 | close
failed null protocol <- send HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n | hold
failed null protocol <- send HTTP/3.0 200 OK\r\nContent-Length: 0\r\n\r\n | hold
failed null protocol <- send HTTP/0.9 200 OK\r\nContent-Length: 0\r\n\r\n | hold
failed null protocol <- send HTTP/11.1 200 OK\r\nContent-Length: 0\r\n\r\n | hold
failed null protocol <- send HTTP/1.1 99 X\r\nContent-Length: 0\r\n\r\n | hold
failed null protocol <- send HTTP/1.1 099 X\r\nContent-Length: 0\r\n\r\n | hold
failed null protocol <- send HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n | hold
failed null protocol <- send HTTP/1.1 600 X\r\nContent-Length: 0\r\n\r\n | hold
failed null protocol <- send HTTP/1.1 OK\r\nContent-Length: 0\r\n\r\n | hold
failed null protocol <- send HTTP/1.1 -200 OK\r\nContent-Length: 0\r\n\r\n | hold
failed null protocol <- send HTTP 200 OK\r\nContent-Length: 0\r\n\r\n | hold
failed null protocol <- send \x00 | close


=== TEST 9: HTTP/1.0, and a status without a text, are good enough
--- cases
delivered 200 T-1 <- send HTTP/1.0 200 OK\r\n\r\n{"ticket_id":"T-1"} | close
delivered 200 T-1 <- send HTTP/1.0 200 OK\r\nContent-Length: 19\r\n\r\n{"ticket_id":"T-1"} | hold
delivered 200 T-1 <- send HTTP/1.1 200\r\nContent-Length: 19\r\n\r\n{"ticket_id":"T-1"}
delivered 200 T-1 <- send HTTP/1.1 200 \r\nContent-Length: 19\r\n\r\n{"ticket_id":"T-1"}


=== TEST 10: nothing, or no more than a part of the header
--- cases
failed null closed <- close
failed null closed <- shutdown
failed null closed <- reset
failed null closed <- send H | close
failed null closed <- send HTTP/1.1 200 OK | close
failed null closed <- send HTTP/1.1 200 OK\r\nContent-Length: 19\r\n | close
failed null closed <- send HTTP/1.1 200 OK\r\nContent-Length: 19\r\n | reset


=== TEST 11: malformed headers
--- cases
failed null protocol <- send HTTP/1.1 200 OK\r\nX\x01Y: z\r\nContent-Length: 0\r\n\r\n
failed null protocol <- send HTTP/1.1 200 OK\r\nX: a\x00b\r\nContent-Length: 0\r\n\r\n
failed null protocol <- send HTTP/1.1 200 OK\r\nX\x7f: z\r\nContent-Length: 0\r\n\r\n
failed null protocol <- send HTTP/1.1 200 OK\r\nX : z\r\nContent-Length: 0\r\n\r\n
failed null protocol <- send HTTP/1.1 200 OK\r\nContent-Length : 0\r\n\r\n
failed null protocol <- send HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 0\r\n\r\n
failed null protocol <- send HTTP/1.1 200 OK\r\n X: a\r\nContent-Length: 0\r\n\r\n
failed null protocol <- send HTTP/1.1 200 OK\r\n: a\r\nContent-Length: 0\r\n\r\n


=== TEST 12: a header split at every byte
--- receiver
drip 0.001 HTTP/1.1 200 OK\r\nX-Long: 1 2 3\r\nContent-Length: 19\r\n\r\n{"ticket_id":"T-1"}
--- requests
deliver -> delivered 200 T-1


=== TEST 13: a header that is long, and one that is too long
--- cases
delivered 200 T-1 <- send HTTP/1.1 200 OK\r\n | fill 1000 X: y\r\n | send Content-Length: 19\r\n\r\n{"ticket_id":"T-1"}
failed null protocol <- send HTTP/1.1 200 OK\r\n | fill 1400 X: y\r\n | send Content-Length: 19\r\n\r\n{"ticket_id":"T-1"}
failed null protocol <- send HTTP/1.1 200 OK\r\nX: | fill 9000 y | send \r\nContent-Length: 0\r\n\r\n
failed null protocol <- send HTTP/1.1 200 OK\r\n | forever X: y\r\n
failed null protocol <- send HTTP/1.1 200 OK\r\nX: | forever y
failed null protocol <- send HTTP/1.1 200 | forever y


=== TEST 14: Content-Length that is none
--- cases
failed null protocol <- send HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n{}
failed null protocol <- send HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\n{}
failed null protocol <- send HTTP/1.1 200 OK\r\nContent-Length: 0x2\r\n\r\n{}
failed null protocol <- send HTTP/1.1 200 OK\r\nContent-Length: two\r\n\r\n{}
failed null protocol <- send HTTP/1.1 200 OK\r\nContent-Length: 2.0\r\n\r\n{}
failed null protocol <- send HTTP/1.1 200 OK\r\nContent-Length: 2 2\r\n\r\n{}
failed null protocol <- send HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\n{}
failed null protocol <- send HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\n{}
failed null protocol <- send HTTP/1.1 200 OK\r\nContent-Length: 9223372036854775808\r\n\r\n{}
failed null protocol <- send HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551618\r\n\r\n{}
failed null protocol <- send HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999999999999\r\n\r\n{}


=== TEST 15: a message that is framed twice
--- cases
failed null protocol <- send HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\n{}
failed null protocol <- send HTTP/1.1 200 OK\r\nContent-Length: 2\r\ncontent-length: 3\r\n\r\n{}
failed null protocol <- send HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n
failed null protocol <- send HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n2\r\n{}\r\n0\r\n\r\n


=== TEST 16: Transfer-Encoding other than chunked, once, in HTTP/1.1
--- cases
delivered 200 missing <- send HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n
failed null protocol <- send HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n{} | close
failed null protocol <- send HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n
failed null protocol <- send HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n
failed null protocol <- send HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\n{} | close
failed null protocol <- send HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n
failed null protocol <- send HTTP/1.1 200 OK\r\nTransfer-Encoding:\r\n\r\n{} | close
failed null protocol <- send HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n
failed null protocol <- send HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n


=== TEST 17: a body that ends too soon
--- cases
failed 200 closed <- send HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n{"ticket_id":"T-1"} | close
failed 200 closed <- send HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n{"ticket_id":"T-1"} | sleep 0.05 | reset
failed 200 closed <- send HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n | close
failed 500 closed <- send HTTP/1.1 500 No\r\nContent-Length: 20\r\n\r\n | close
failed 200 closed <- send HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n | close
failed 200 closed <- send HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n | chunk {"ticket_id":"T-1"} | close
failed 200 closed <- send HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n | chunk {"ticket_id":"T-1"} | sleep 0.05 | reset
failed 200 closed <- send HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n14\r\n{"ticket_id":"T-1"} | close
failed 200 closed <- send HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n | chunk {"ticket_id":"T-1"} | send 0\r\n | close
failed 200 closed <- send HTTP/1.1 200 OK\r\n\r\n{"ticket_id":"T-1"} | sleep 0.05 | reset


=== TEST 18: a body that ends with the connection
--- cases
delivered 200 T-1 <- send HTTP/1.1 200 OK\r\n\r\n{"ticket_id":"T-1"} | close
delivered 200 T-1 <- send HTTP/1.1 200 OK\r\n\r\n{"ticket_id": | sleep 0.05 | send "T-1"} | shutdown
delivered 200 not_json <- send HTTP/1.1 200 OK\r\n\r\n | close
failed 503 status <- send HTTP/1.1 503 No\r\n\r\n{"ticket_id":"T-1"} | close


=== TEST 19: what comes after the end of a response is not part of it
--- cases
delivered 200 T-1 <- send HTTP/1.1 200 OK\r\nContent-Length: 19\r\n\r\n{"ticket_id":"T-1"}{"ticket_id":"T-2"} | hold
delivered 200 T-1 <- send HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n | send 13\r\n{"ticket_id":"T-1"}\r\n0\r\n\r\nHTTP/1.1 500 No\r\n\r\n | hold
delivered 200 not_json <- send HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n{"ticket_id":"T-2"} | hold
delivered 204 not_json <- send HTTP/1.1 204 No Content\r\n\r\n{"ticket_id":"T-2"} | hold
--- error_log
upstream sent more data than its response has


=== TEST 20: chunks with extensions, and trailers
--- cases
delivered 200 T-1 <- send HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n13;a=b;c="d"\r\n{"ticket_id":"T-1"}\r\n0;last\r\n\r\n
delivered 200 T-1 <- send HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n13\r\n{"ticket_id":"T-1"}\r\n0\r\nX: y\r\nContent-Length: 2\r\n\r\n
delivered 200 T-1 <- send HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n00013\r\n{"ticket_id":"T-1"}\r\n000\r\n\r\n


=== TEST 21: chunks that are none
--- cases
failed 200 protocol <- send HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n | sleep 0.05 | send {"ticket_id":"T-1"}\r\n0\r\n\r\n
failed 200 protocol <- send HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{"ticket_id":"T-1"}\r\n0\r\n\r\n
failed 200 protocol <- send HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n
failed 200 protocol <- send HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n{}
failed 200 protocol <- send HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}{}\r\n0\r\n\r\n
failed 200 protocol <- send HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n | chunk {"ticket_id":"T-1"} | send g\r\n


=== TEST 22: responses without a body
--- cases
delivered 204 not_json <- send HTTP/1.1 204 No Content\r\n\r\n
delivered 204 not_json <- send HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n
delivered 204 not_json <- send HTTP/1.1 204 No Content\r\nContent-Length: 100\r\n\r\n
delivered 204 not_json <- send HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n
delivered 200 not_json <- send HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n
delivered 200 not_json <- send HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n
failed 304 status <- send HTTP/1.1 304 Not Modified\r\n\r\n
failed 304 status <- send HTTP/1.1 304 Not Modified\r\nContent-Length: 100\r\n\r\n


=== TEST 23: a reply of exactly vd_max_response_size is looked into
--- vd
vd_max_response_size 1k;
--- cases
delivered 200 T-1 <- send HTTP/1.1 200 OK\r\nContent-Length: 1024\r\n\r\n{"ticket_id":"T-1"} | fill 1005 \x20
delivered 200 T-1 <- send HTTP/1.1 200 OK\r\n\r\n{"ticket_id":"T-1"} | fill 1005 \x20 | close
delivered 200 T-1 <- send HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n | chunk {"ticket_id":"T-1"} | fill 1005 1\r\n\x20\r\n | chunk


=== TEST 24: a reply over vd_max_response_size is delivered, without a ticket id
--- vd
vd_max_response_size 1k;
--- cases
delivered 200 too_large <- send HTTP/1.1 200 OK\r\nContent-Length: 1025\r\n\r\n{"ticket_id":"T-1"} | fill 1006 \x20
delivered 200 too_large <- send HTTP/1.1 200 OK\r\n\r\n{"ticket_id":"T-1"} | fill 1006 \x20 | close
delivered 200 too_large <- send HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n | chunk {"ticket_id":"T-1"} | fill 1006 1\r\n\x20\r\n | chunk
failed 500 status <- send HTTP/1.1 500 OK\r\nContent-Length: 1025\r\n\r\n{"ticket_id":"T-1"} | fill 1006 \x20


=== TEST 25: a reply over vd_max_response_size is read to its end
--- log_level: info
--- vd
vd_max_response_size 1k;
--- cases
delivered 200 too_large <- send HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n | fill 1000000 x
delivered 200 too_large <- send HTTP/1.1 200 OK\r\n\r\n | fill 1000000 x | close
delivered 200 too_large <- send HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n | fill 20000 a\r\nxxxxxxxxxx\r\n | chunk
failed 200 closed <- send HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n | fill 999999 x | close
failed 200 closed <- send HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n | fill 20000 a\r\nxxxxxxxxxx\r\n | close
failed 200 protocol <- send HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n | fill 20000 a\r\nxxxxxxxxxx\r\n | send x


=== TEST 26: the default of vd_max_response_size is 64k
--- cases
delivered 200 T-1 <- send HTTP/1.1 200 OK\r\nContent-Length: 65536\r\n\r\n{"ticket_id":"T-1"} | fill 65517 \x20
delivered 200 too_large <- send HTTP/1.1 200 OK\r\nContent-Length: 65537\r\n\r\n{"ticket_id":"T-1"} | fill 65518 \x20


=== TEST 27: a reply over subrequest_output_buffer_size
The attempt runs in a subrequest in memory.  nginx allocates such a one's output
by Content-Length and, over the limit, drops the client.
--- log_level: info
--- vd
subrequest_output_buffer_size 4k;
vd_max_response_size 1m;
--- cases
delivered 200 T-1 <- send HTTP/1.1 200 OK\r\nContent-Length: 200019\r\n\r\n{"ticket_id":"T-1"} | fill 200000 \x20
delivered 200 T-1 <- send HTTP/1.1 200 OK\r\n\r\n{"ticket_id":"T-1"} | fill 200000 \x20 | close
failed 200 closed <- send HTTP/1.1 200 OK\r\nContent-Length: 200019\r\n\r\n{"ticket_id":"T-1"} | close


=== TEST 28: a reply that never ends
--- log_level: info
--- vd
vd_timeout 200ms;
--- cases
failed 200 timeout <- send HTTP/1.1 200 OK\r\n\r\n | forever xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx
failed 200 timeout <- send HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n | forever 10\r\nxxxxxxxxxxxxxxxx\r\n
failed 200 timeout <- send HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n | forever X: y\r\n


=== TEST 29: a reply in gzip, which was not asked for
--- receiver
send HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 28\r\n\r\n\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\x03\xab\xae\x05\x00\x43\xbf\xa6\xa3\x02\x00\x00\x00{"a":1}
--- requests
deliver -> delivered 200 not_json


=== TEST 30: a response that comes before all of the request was sent
--- receiver
early
reply 413 too large
read
--- requests
deliver 8m -> failed 413 status


=== TEST 31: the same, delivered
--- receiver
early
reply 200 {"ticket_id":"T-1"}
read
--- requests
deliver 8m -> delivered 200 T-1


=== TEST 32: the same, and the rest is never read
--- receiver
early
reply 413 too large
hold
--- requests
deliver 8m -> failed 413 status


=== TEST 33: the same, and the connection is reset
--- receiver
early
reply 413 too large
sleep 0.2
close
--- requests
deliver 8m -> failed 413 status


=== TEST 34: a connection that is reset amid the request
--- receiver
early
sleep 0.1
reset
--- requests
deliver 8m -> failed null closed


=== TEST 35: a chunked response before all of the request was sent
--- receiver
early
send HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n
sleep 0.05
chunk {"ticket_id":
read
chunk "T-1"}
chunk
--- requests
deliver 8m -> delivered 200 T-1


=== TEST 36: the receiver's headers have no effect on the answer
--- http_config
    server {
        listen unix:$TEST_NGINX_HTML_DIR/other.sock;
        return 200 "other";
    }
--- config
    location = /t {
        vd_secret_file $TEST_NGINX_SECRET_FILE;
        vd_pass http://127.0.0.1:$TEST_NGINX_RAW_PORT$SCRIPT;
        vd_output 28;
    }

    location /internal {
        internal;
        return 200 "internal";
    }
--- receiver
send HTTP/1.1 200 OK\r\n
send X-Accel-Redirect: /internal\r\nX-Accel-Buffering: yes\r\nX-Accel-Expires: 60\r\n
send X-Accel-Limit-Rate: 1\r\nX-Accel-Charset: koi8-r\r\n
send Set-Cookie: a=b\r\nLocation: /internal\r\nRefresh: 1; url=/internal\r\n
send Content-Type: text/html\r\nContent-Encoding: br\r\nContent-Language: de\r\n
send Content-Disposition: attachment\r\nContent-Range: bytes 0-1/2\r\n
send Transfer-Encoding: chunked\r\nTrailer: X-Trailer\r\nUpgrade: h2c\r\n
send Server: receiver\r\nDate: yesterday\r\nX-Powered-By: x\r\nETag: "x"\r\n
send Last-Modified: Mon, 28 Sep 1970 06:00:00 GMT\r\nExpires: 0\r\nCache-Control: no-cache\r\n
send Vary: *\r\nLink: </x>; rel=preload\r\nAccept-Ranges: bytes\r\n
send WWW-Authenticate: Basic\r\nStatus: 404\r\nAllow: GET\r\nRetry-After: 5\r\n\r\n
chunk {"ticket_id":"T-1"}
send 0\r\nX-Trailer: y\r\n\r\n
--- requests
deliver -> delivered 200 T-1
--- raw_response_headers_like: ^HTTP/1\.1 200 OK\r\nServer: nginx[^\r\n]*\r\nDate: \w{3}, [^\r\n]*\r\nContent-Type: application/json\r\nContent-Length: \d+\r\nConnection: close\r\n$


=== TEST 37: nor have those of a failure
--- receiver
send HTTP/1.1 401 No\r\nX-Accel-Redirect: /seen\r\nWWW-Authenticate: Basic\r\n
send Set-Cookie: a=b\r\nLocation: /seen\r\nRetry-After: 5\r\nContent-Length: 0\r\n\r\n
--- requests
deliver -> failed 401 status
--- raw_response_headers_like: ^HTTP/1\.1 502 Bad Gateway\r\nServer: nginx[^\r\n]*\r\nDate: \w{3}, [^\r\n]*\r\nContent-Type: application/json\r\nContent-Length: \d+\r\nConnection: close\r\n$


=== TEST 38: a ticket id that comes byte by byte
--- receiver eval
my $body = '{"success": true, "ticket_id": "VD-12345"}';
CORE::join "\n", "send HTTP/1.1 200 OK\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\n",
    (map { ("chunk $_", "sleep 0.001") } map { $_ eq ' ' ? '\x20' : $_ } split //, $body),
    "chunk"
--- requests
deliver -> delivered 200 VD-12345


=== TEST 39: a ticket id in pieces of chunks
--- receiver
drip 0.001 HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7;x=y\r\n{"ticke\r\n0c\r\nt_id":"T-1"}\r\n0\r\nX: y\r\n\r\n
--- requests
deliver -> delivered 200 T-1


=== TEST 40: what a reply of unknown length grows to
--- cases
delivered 200 T-1 <- send HTTP/1.1 200 OK\r\n\r\n | fill 5000 \x20 | sleep 0.02 | fill 5000 \x20 | sleep 0.02 | send {"ticket_id": | sleep 0.02 | fill 30000 \x20 | send "T-1"} | close
delivered 200 T-1 <- send HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n | fill 3000 1\r\n\x20\r\n | chunk {"ticket_id": | fill 3000 3\r\n\x20\x20\x20\r\n | chunk "T-1"} | chunk


=== TEST 41: a body that ends with a TLS connection, and one that is cut off
--- config
    vd_secret_file $TEST_NGINX_SECRET_FILE;

    location = /t {
        vd_ssl_verify off;
        vd_ssl_protocols TLSv1.2 TLSv1.3;
        vd_pass https://127.0.0.1:$TEST_NGINX_RAW_PORT$SCRIPT;
        vd_output 28;
    }

    location = /old {
        vd_ssl_verify off;
        vd_ssl_protocols TLSv1.2;
        vd_pass https://127.0.0.1:$TEST_NGINX_RAW_PORT$SCRIPT;
        vd_output 28;
    }
--- receiver
send HTTP/1.1 200 OK\r\n\r\n{"ticket_id":"T-1"}
goodbye
next connection
send HTTP/1.1 200 OK\r\n\r\n{"ticket_id":"T-1"}
goodbye
next connection
send HTTP/1.1 200 OK\r\n\r\n{"ticket_id":"T-1"}
close
next connection
send HTTP/1.1 200 OK\r\n\r\n{"ticket_id":"T-1"}
close
next connection
send HTTP/1.1 200 OK\r\n\r\n{"ticket_id":"T-1"}
alert
next connection
send HTTP/1.1 503 No\r\n\r\n{}
shutdown
hold
next connection
send HTTP/1.1 200 OK\r\n\r\n
sleep 0.05
goodbye
next connection
send HTTP/1.1 200 OK\r\nContent-Length: 19\r\n\r\n{"ticket_id":"T-1"}
close
--- requests
deliver A -> delivered 200 T-1
deliver B /old -> delivered 200 T-1
deliver C -> failed 200 closed
deliver D /old -> failed 200 closed
deliver E -> failed 200 closed
deliver F -> failed 503 closed
deliver G -> delivered 200 not_json
deliver H -> delivered 200 T-1


=== TEST 42: chunk lines are read strictly, whatever nginx's own parser lets pass
--- cases
failed 200 protocol <- send HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1 3\r\n{"ticket_id":"T-1"}\r\n0\r\n\r\n
failed 200 protocol <- send HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n13 3\r\n{"ticket_id":"T-1"}\r\n0\r\n\r\n
failed 200 protocol <- send HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n 13\r\n{"ticket_id":"T-1"}\r\n0\r\n\r\n
failed 200 protocol <- send HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\t13\r\n{"ticket_id":"T-1"}\r\n0\r\n\r\n
failed 200 protocol <- send HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n13 \r\n{"ticket_id":"T-1"}\r\n0\r\n\r\n
failed 200 protocol <- send HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n13\t\r\n{"ticket_id":"T-1"}\r\n0\r\n\r\n
failed 200 protocol <- send HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n13 x\r\n{"ticket_id":"T-1"}\r\n0\r\n\r\n
failed 200 protocol <- send HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0x13\r\n{"ticket_id":"T-1"}\r\n0\r\n\r\n
failed 200 protocol <- send HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n+13\r\n{"ticket_id":"T-1"}\r\n0\r\n\r\n
failed 200 protocol <- send HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\r\n{"ticket_id":"T-1"}\r\n0\r\n\r\n
failed 200 protocol <- send HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\ng\r\n{"ticket_id":"T-1"}\r\n0\r\n\r\n
failed 200 protocol <- send HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n13;a\x00b\r\n{"ticket_id":"T-1"}\r\n0\r\n\r\n
failed 200 protocol <- send HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n13;a\x01\r\n{"ticket_id":"T-1"}\r\n0\r\n\r\n
failed 200 protocol <- send HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n13;a\x7f\r\n{"ticket_id":"T-1"}\r\n0\r\n\r\n
failed 200 protocol <- send HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n13\r\r\n{"ticket_id":"T-1"}\r\n0\r\n\r\n
failed 200 protocol <- send HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n13\x0b\r\n{"ticket_id":"T-1"}\r\n0\r\n\r\n
failed 200 protocol <- send HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1_3\r\n{"ticket_id":"T-1"}\r\n0\r\n\r\n
failed 200 protocol <- send HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n13,\r\n{"ticket_id":"T-1"}\r\n0\r\n\r\n
failed 200 protocol <- send HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n13 \t\r\n{"ticket_id":"T-1"}\r\n0\r\n\r\n
failed 200 protocol <- send HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n13\n{"ticket_id":"T-1"}\r\n0\r\n\r\n
failed 200 protocol <- send HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n13\r{"ticket_id":"T-1"}\r\n0\r\n\r\n
failed 200 protocol <- send HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n13;a=b\n{"ticket_id":"T-1"}\r\n0\r\n\r\n
failed 200 protocol <- send HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n13\r\n{"ticket_id":"T-1"}\n0\r\n\r\n
failed 200 protocol <- send HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n13\r\n{"ticket_id":"T-1"}0\r\n\r\n
failed 200 protocol <- send HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n13\r\n{"ticket_id":"T-1"}\r\r\n0\r\n\r\n
failed 200 protocol <- send HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n13\r\n{"ticket_id":"T-1"}\r\n0\n\r\n
failed 200 protocol <- send HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n13\r\n{"ticket_id":"T-1"}\r\n0\r\n\n
failed 200 protocol <- send HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n13\r\n{"ticket_id":"T-1"}\r\n0\r\nX: y\n\r\n
failed 200 protocol <- send HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n13\r\n{"ticket_id":"T-1"}\r\n0\r\nX: y\r\n\n
failed 200 protocol <- send HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n13\r\n{"ticket_id":"T-1"}\r\n0\r\nX: y\rz\r\n\r\n
failed 200 protocol <- send HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n13\r\n{"ticket_id":"T-1"}\r\n0\r\nX: \x00\r\n\r\n
failed 200 protocol <- send HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8000000000000013\r\n{"ticket_id":"T-1"}\r\n0\r\n\r\n
failed 200 protocol <- send HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000013\r\n{"ticket_id":"T-1"}\r\n0\r\n\r\n


=== TEST 43: what is allowed in chunk lines
--- cases
delivered 200 T-1 <- send HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n13\r\n{"ticket_id":"T-1"}\r\n0\r\n\r\n
delivered 200 T-1 <- send HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n13;a\r\n{"ticket_id":"T-1"}\r\n0\r\n\r\n
delivered 200 T-1 <- send HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n13;a=b\r\n{"ticket_id":"T-1"}\r\n0\r\n\r\n
delivered 200 T-1 <- send HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n13 ;a\r\n{"ticket_id":"T-1"}\r\n0\r\n\r\n
delivered 200 T-1 <- send HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n13\t; a = "b;\xc3\xa4"\r\n{"ticket_id":"T-1"}\r\n0\r\n\r\n
delivered 200 T-1 <- send HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0000000000000013\r\n{"ticket_id":"T-1"}\r\n0\r\n\r\n
delivered 200 T-1 <- send HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n13;\x20\t\r\n{"ticket_id":"T-1"}\r\n0\r\n\r\n
delivered 200 T-1 <- send HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n13\r\n{"ticket_id":"T-1"}\r\n0;x\r\nX: y\r\nZ:\r\n\r\n
delivered 200 T-1 <- drip 0.001 HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n13;a=b\r\n{"ticket_id":"T-1"}\r\n0\r\nX: y\r\n\r\n
