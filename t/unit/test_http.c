
/*
 * Copyright (C) The ngx_vd_module authors
 */


#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "http_reply.h"


#define countof(array)  (sizeof(array) / sizeof((array)[0]))
#define S(literal)      literal, sizeof(literal) - 1

#define OK              "HTTP/1.1 200 OK\r\n"
#define LENGTH(n)       OK "Content-Length: " n "\r\n\r\n"
#define CHUNKED         OK "Transfer-Encoding: chunked\r\n\r\n"
#define HINTS           "HTTP/1.1 103 Hints\r\nLink: </x>\r\n\r\n"
#define HINTS4          HINTS HINTS HINTS HINTS


/*
 * What comes of a reply after which the connection ends: "STATUS kept|closed
 * BODY" and, where bytes are left, "+REST"; or "error: …"; or "cut off", with
 * "STATUS " in front where the head was whole.
 */

typedef struct {
    const char  *reply;
    size_t       len;
    const char  *result;
} case_t;


static const case_t  cases[] = {

    /* framed by length, by the end of the connection, by the status */

    { S(LENGTH("2") "{}"), "200 kept {}" },
    { S(LENGTH("2") "{}HTTP/1.1 500 No\r\n\r\n"),
      "200 kept {} +HTTP/1.1 500 No\r\n\r\n" },
    { S(LENGTH("0")), "200 kept " },
    { S(LENGTH("0") "x"), "200 kept  +x" },
    { S(LENGTH("00002") "{}"), "200 kept {}" },
    { S(LENGTH("3") "{}"), "200 cut off" },
    { S(LENGTH("9223372036854775807") "{}"), "200 cut off" },
    { S(OK "\r\n{}"), "200 closed {}" },
    { S(OK "\r\n"), "200 closed " },
    { S("HTTP/1.1 204 No Content\r\n\r\nx"), "204 kept  +x" },
    { S("HTTP/1.1 204 A\r\nContent-Length: 5\r\n\r\n"), "204 kept " },
    { S("HTTP/1.1 204 A\r\nTransfer-Encoding: chunked\r\n\r\n"), "204 kept " },
    { S("HTTP/1.1 304 A\r\nContent-Length: 5\r\n\r\n"), "304 kept " },
    { S("HTTP/1.1 205 A\r\n\r\nx"), "205 closed x" },

    /* the connection */

    { S(OK "Connection: close\r\nContent-Length: 0\r\n\r\n"), "200 closed " },
    { S(OK "connection: x , CLOSE\r\nContent-Length: 0\r\n\r\n"),
      "200 closed " },
    { S(OK "Connection: ,close,\r\nContent-Length: 0\r\n\r\n"),
      "200 closed " },
    { S(OK "Connection: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"),
      "200 closed " },
    { S(OK "Connection: disclosed\r\nContent-Length: 0\r\n\r\n"),
      "200 kept " },
    { S(OK "Connection:\r\nContent-Length: 0\r\n\r\n"), "200 kept " },
    { S("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n"
        "Content-Length: 0\r\n\r\n"), "200 closed " },
    { S("HTTP/1.7 200 OK\r\nContent-Length: 0\r\n\r\n"), "200 kept " },

    /* status lines */

    { S("HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n"), "200 kept " },
    { S("HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n"), "200 kept " },
    { S("HTTP/1.1 200\nContent-Length: 0\n\n"), "200 kept " },
    { S("HTTP/1.1 299 \xc3\xa9\t!\r\nContent-Length: 0\r\n\r\n"),
      "299 kept " },
    { S("HTTP/1.1 599 X\r\nContent-Length: 0\r\n\r\n"), "599 kept " },
    { S("HTTP/1.1 600 X\r\n"), "error: no valid HTTP/1.x status line" },
    { S("HTTP/1.1 099 X\r\n"), "error: no valid HTTP/1.x status line" },
    { S("HTTP/1.1 2000 X\r\n"), "error: no valid HTTP/1.x status line" },
    { S("HTTP/1.1 20 X\r\n"), "error: no valid HTTP/1.x status line" },
    { S("HTTP/1.1  200 X\r\n"), "error: no valid HTTP/1.x status line" },
    { S("HTTP/1.1 200\tX\r\n"), "error: no valid HTTP/1.x status line" },
    { S("HTTP/1.1 200 a\rb\r\n"), "error: no valid HTTP/1.x status line" },
    { S("HTTP/1.1 200 a\x01\r\n"), "error: no valid HTTP/1.x status line" },
    { S("HTTP/1.1 200 a\0\r\n"), "error: no valid HTTP/1.x status line" },
    { S("HTTP/1.1 200\rX\n"), "error: no valid HTTP/1.x status line" },
    { S("HTTP/1. 1 200 X\r\n"), "error: no valid HTTP/1.x status line" },
    { S("HTTP/1.10 200 X\r\n"), "error: no valid HTTP/1.x status line" },
    { S("HTTP/2.0 200 X\r\n"), "error: no valid HTTP/1.x status line" },
    { S("http/1.1 200 X\r\n"), "error: no valid HTTP/1.x status line" },
    { S("\r\nHTTP/1.1 200 X\r\n"), "error: no valid HTTP/1.x status line" },
    { S("\n"), "error: no valid HTTP/1.x status line" },
    { S("\0"), "error: no valid HTTP/1.x status line" },
    { S("HTTP/1.x"), "error: no valid HTTP/1.x status line" },
    { S(""), "cut off" },
    { S("H"), "cut off" },
    { S("HTTP/1.1 200"), "cut off" },
    { S("HTTP/1.1 200 OK\r"), "cut off" },
    { S(OK), "cut off" },
    { S(OK "\r"), "cut off" },
    { S(OK "Content-Length: 0\r\n"), "cut off" },

    /* fields */

    { S(OK "!#$%&'*+-.^_`|~09AZaz:\xc3\xa9\t\"\r\nContent-Length:0\r\n\r\n"),
      "200 kept " },
    { S(OK "X:\r\nContent-Length:\t 2 \t\r\n\r\n{}"), "200 kept {}" },
    { S(OK "X: a\nCONTENT-LENGTH: 2\n\r\n{}"), "200 kept {}" },
    { S(OK "X y: z\r\n\r\n"), "error: invalid header" },
    { S(OK "X : z\r\n\r\n"), "error: invalid header" },
    { S(OK "X\x01: z\r\n\r\n"), "error: invalid header" },
    { S(OK "X\xc3: z\r\n\r\n"), "error: invalid header" },
    { S(OK "X(: z\r\n\r\n"), "error: invalid header" },
    { S(OK ": z\r\n\r\n"), "error: invalid header" },
    { S(OK "X\r\n\r\n"), "error: invalid header" },
    { S(OK " X: z\r\n\r\n"), "error: invalid header" },
    { S(OK "X: a\r\n b\r\n\r\n"), "error: invalid header" },
    { S(OK "X: a\r\n\tb\r\n\r\n"), "error: invalid header" },
    { S(OK "X: a\rb\r\n\r\n"), "error: invalid header" },
    { S(OK "X: a\r\r\n\r\n"), "error: invalid header" },
    { S(OK "X: a\0b\r\n\r\n"), "error: invalid header" },
    { S(OK "X: a\x7f\r\n\r\n"), "error: invalid header" },
    { S(OK "\r\r\n"), "error: invalid header" },

    /* lengths */

    { S(LENGTH("")), "error: invalid \"Content-Length\"" },
    { S(LENGTH("-1")), "error: invalid \"Content-Length\"" },
    { S(LENGTH("+1")), "error: invalid \"Content-Length\"" },
    { S(LENGTH("0x1")), "error: invalid \"Content-Length\"" },
    { S(LENGTH("1 1")), "error: invalid \"Content-Length\"" },
    { S(LENGTH("1, 1")), "error: invalid \"Content-Length\"" },
    { S(LENGTH("1.0")), "error: invalid \"Content-Length\"" },
    { S(LENGTH("9223372036854775808")), "error: invalid \"Content-Length\"" },
    { S(LENGTH("18446744073709551617")),
      "error: invalid \"Content-Length\"" },
    { S(OK "Content-Length: 1\r\nContent-Length: 1\r\n\r\n"),
      "error: duplicate \"Content-Length\"" },
    { S(OK "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n"),
      "error: \"Content-Length\" together with \"Transfer-Encoding\"" },
    { S(OK "Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n"),
      "error: \"Content-Length\" together with \"Transfer-Encoding\"" },

    /* codings */

    { S(OK "Transfer-Encoding: gzip\r\n\r\n"),
      "error: a \"Transfer-Encoding\" other than \"chunked\"" },
    { S(OK "Transfer-Encoding: gzip, chunked\r\n\r\n"),
      "error: a \"Transfer-Encoding\" other than \"chunked\"" },
    { S(OK "Transfer-Encoding: chunked,\r\n\r\n"),
      "error: a \"Transfer-Encoding\" other than \"chunked\"" },
    { S(OK "Transfer-Encoding: \"chunked\"\r\n\r\n"),
      "error: a \"Transfer-Encoding\" other than \"chunked\"" },
    { S(OK "Transfer-Encoding:\r\n\r\n"),
      "error: a \"Transfer-Encoding\" other than \"chunked\"" },
    { S(OK "Transfer-Encoding: chunked\r\ntransfer-encoding: chunked\r\n"),
      "error: a \"Transfer-Encoding\" other than \"chunked\"" },
    { S("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
      "error: \"Transfer-Encoding\" in HTTP/1.0" },

    /* chunks */

    { S(OK "Transfer-Encoding: CHUNKED\r\n\r\n2\r\n{}\r\n0\r\n\r\n"),
      "200 kept {}" },
    { S(CHUNKED "1\r\n{\r\n1\r\n}\r\n0\r\n\r\n"), "200 kept {}" },
    { S(CHUNKED "0\r\n\r\n"), "200 kept " },
    { S(CHUNKED "0\r\n\r\nx"), "200 kept  +x" },
    { S(CHUNKED "000000000000000000000002\r\n{}\r\n000\r\n\r\n"),
      "200 kept {}" },
    { S(CHUNKED "A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n"),
      "200 kept 01234567890123456789" },
    { S(CHUNKED "2;a=b;c=\"d;\xc3\xa9\"\r\n{}\r\n0;x\r\n\r\n"),
      "200 kept {}" },
    { S(CHUNKED "2 \t;a\r\n{}\r\n0;\r\n\r\n"), "200 kept {}" },
    { S(CHUNKED "2\r\n{}\r\n0\r\nX: y\r\nContent-Length: 9\r\nZ:\r\n\r\n"),
      "200 kept {}" },
    { S(CHUNKED), "200 cut off" },
    { S(CHUNKED "2\r\n{}\r\n"), "200 cut off" },
    { S(CHUNKED "2\r\n{}\r\n0\r\n"), "200 cut off" },
    { S(CHUNKED "2\r\n{}\r\n0\r\nX: y\r\n"), "200 cut off" },
    { S(CHUNKED "7fffffffffffffff\r\n{}"), "200 cut off" },
    { S(CHUNKED "5 5\r\n"), "200 error: invalid chunked response" },
    { S(CHUNKED "5 \r\n"), "200 error: invalid chunked response" },
    { S(CHUNKED " 2\r\n"), "200 error: invalid chunked response" },
    { S(CHUNKED "2\n{}\r\n"), "200 error: invalid chunked response" },
    { S(CHUNKED "2\r{}"), "200 error: invalid chunked response" },
    { S(CHUNKED "2\r\n{}\n"), "200 error: invalid chunked response" },
    { S(CHUNKED "2\r\n{}\r0"), "200 error: invalid chunked response" },
    { S(CHUNKED "2\r\n{}0"), "200 error: invalid chunked response" },
    { S(CHUNKED "2\r\n{}\r\n0\n\n"), "200 error: invalid chunked response" },
    { S(CHUNKED "2\r\n{}\r\n0\r\n\n"), "200 error: invalid chunked response" },
    { S(CHUNKED "2;a\n{}"), "200 error: invalid chunked response" },
    { S(CHUNKED "2;a\0\r\n"), "200 error: invalid chunked response" },
    { S(CHUNKED "\r\n"), "200 error: invalid chunked response" },
    { S(CHUNKED ";a\r\n"), "200 error: invalid chunked response" },
    { S(CHUNKED "-1\r\n"), "200 error: invalid chunked response" },
    { S(CHUNKED "0x2\r\n"), "200 error: invalid chunked response" },
    { S(CHUNKED "g\r\n"), "200 error: invalid chunked response" },
    { S(CHUNKED "8000000000000000\r\n"),
      "200 error: invalid chunked response" },
    { S(CHUNKED "10000000000000002\r\n"),
      "200 error: invalid chunked response" },
    { S(CHUNKED "0\r\nX\r\n"), "200 error: invalid chunked response" },
    { S(CHUNKED "0\r\nX : y\r\n"), "200 error: invalid chunked response" },
    { S(CHUNKED "0\r\n: y\r\n"), "200 error: invalid chunked response" },
    { S(CHUNKED "0\r\nX: y\n"), "200 error: invalid chunked response" },
    { S(CHUNKED "0\r\nX: y\r\n z\r\n"),
      "200 error: invalid chunked response" },

    /* interim responses */

    { S(HINTS LENGTH("2") "{}"), "200 kept {}" },
    { S(HINTS4 HINTS4 LENGTH("2") "{}"), "200 kept {}" },
    { S(HINTS4 HINTS4 HINTS), "error: unexpected interim response" },
    { S("HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n"),
      "error: unexpected interim response" },
    { S("HTTP/1.1 100 A\r\nContent-Length: 5\r\nConnection: close\r\n\r\n"
        LENGTH("2") "{}"), "200 kept {}" },
    { S("HTTP/1.1 100 A\r\nTransfer-Encoding: chunked\r\n\r\n" OK "\r\n{}"),
      "200 closed {}" },
    { S("HTTP/1.0 100 A\r\n\r\n" LENGTH("0")), "200 kept " },
    { S(HINTS), "cut off" },
    { S(HINTS "hello"), "error: no valid HTTP/1.x status line" },
};


static size_t
piece_of(void *data, size_t left)
{
    size_t  n;

    n = *(size_t *) data;
    *(size_t *) data = left;

    return n < left ? n : left;
}


static size_t
piece_byte(void *data, size_t left)
{
    (void) data;
    (void) left;

    return 1;
}


static void
check(const case_t *c, reply_piece_pt next, void *data)
{
    int       n;
    char      result[512];
    reply_t   reply;

    reply_read(&reply, (const unsigned char *) c->reply, c->len, next, data);

    n = 0;

    if (reply.head && reply.end != VD_HTTP_DONE) {
        n = sprintf(result, "%u ", reply.http.status);
    }

    switch (reply.end) {

    case VD_HTTP_DONE:
        n += sprintf(result, "%u %s %.*s", reply.http.status,
                     reply.http.close ? "closed" : "kept",
                     (int) reply.body_len, reply.body);

        if (reply.used < c->len) {
            sprintf(result + n, " +%s", c->reply + reply.used);
        }

        break;

    case VD_HTTP_ERROR:
        sprintf(result + n, "error: %s", reply.http.error);
        break;

    default:
        sprintf(result + n, "cut off");
    }

    free(reply.body);

    if (strcmp(result, c->result) != 0) {
        fail_msg("%s\ngives \"%s\"\nnot   \"%s\"", c->reply, result,
                 c->result);
    }
}


/* Whole, byte by byte, and in any two pieces. */

static void
test_cases(void **state)
{
    size_t  i, n, first;

    (void) state;

    for (i = 0; i < countof(cases); i++) {
        check(&cases[i], piece_byte, NULL);

        for (n = 1; n <= cases[i].len; n++) {
            first = n;
            check(&cases[i], piece_of, &first);
        }
    }
}


static void
test_retry_after(void **state)
{
    size_t    i;
    reply_t   reply;

    static const case_t  values[] = {
        { S(OK "Retry-After: 120\r\n\r\n"), "120" },
        { S(OK "X: y\r\nretry-after:\t7 \r\n\r\n"), "7" },
        { S(HINTS OK "X: y\nRetry-After: a, b\r\n\r\n"), "a, b" },
        { S(OK "Retry-After: 1\r\nRetry-After: 1\r\n\r\n"), "" },
        { S(OK "Retry-After: 1\r\nRetry-After: 1\r\nRetry-After: 1\r\n\r\n"),
          "" },
        { S(OK "Retry-After:\r\n\r\n"), "" },
        { S(OK "\r\n"), "" },
        { S("HTTP/1.1 103 A\r\nRetry-After: 1\r\n\r\n" OK "\r\n"), "" },
        { S("HTTP/1.1 103 A\r\nRetry-After: 1\r\n\r\n"
            OK "Retry-After: 2\r\n\r\n"), "2" },
    };

    (void) state;

    for (i = 0; i < countof(values); i++) {
        reply_read(&reply, (const unsigned char *) values[i].reply,
                   values[i].len, piece_byte, NULL);

        assert_int_equal(reply.end, VD_HTTP_DONE);
        assert_string_equal(reply.retry_after, values[i].result);
        free(reply.body);
    }
}


/* What cannot become a reply is an error at once, not when a line ends. */

static void
test_first_wrong_byte(void **state)
{
    size_t      i, n, len;
    vd_http_t   http;

    static const struct {
        const char  *data;
        size_t       good;
    } starts[] = {
        { "SSH-2.0-OpenSSH", 0 },
        { "HTTPS/1.1 200 OK", 4 },
        { "HTTP/2 200 OK", 5 },
        { "HTTP/1.1 2x0", 10 },
        { "HTTP/1.1 2000", 12 },
        { "\x15\x03\x03", 0 },
    };

    (void) state;

    for (i = 0; i < countof(starts); i++) {
        len = strlen(starts[i].data);

        for (n = 0; n <= len; n++) {
            vd_http_start(&http, 0);
            assert_int_equal(
                vd_http_read_head(&http, (const unsigned char *)
                                  starts[i].data, n),
                n <= starts[i].good ? VD_HTTP_AGAIN : VD_HTTP_ERROR);
        }
    }
}


/* An error, and an end, are for good. */

static void
test_final(void **state)
{
    size_t                len;
    vd_http_t             http;
    const unsigned char  *p, *piece;

    static const unsigned char  good[] = LENGTH("0");

    (void) state;

    vd_http_start(&http, 0);

    p = (const unsigned char *) "x";
    assert_int_equal(vd_http_read_head(&http, p, 1), VD_HTTP_ERROR);
    assert_int_equal(vd_http_read_head(&http, good, sizeof(good) - 1),
                     VD_HTTP_ERROR);
    assert_int_equal(vd_http_read_body(&http, &p, p + 1, &piece, &len),
                     VD_HTTP_ERROR);
    assert_int_equal(vd_http_end(&http), VD_HTTP_AGAIN);

    vd_http_start(&http, 0);

    assert_int_equal(vd_http_read_head(&http, good, sizeof(good) - 1),
                     VD_HTTP_HEAD);
    assert_int_equal(http.size, sizeof(good) - 1);
    assert_int_equal(vd_http_end(&http), VD_HTTP_DONE);

    piece = p;
    assert_int_equal(vd_http_read_body(&http, &p, p + 1, &piece, &len),
                     VD_HTTP_DONE);
    assert_ptr_equal(p, piece);
}


int
main(void)
{
    static const struct CMUnitTest  tests[] = {
        cmocka_unit_test(test_cases),
        cmocka_unit_test(test_retry_after),
        cmocka_unit_test(test_first_wrong_byte),
        cmocka_unit_test(test_final),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
