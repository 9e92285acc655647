
/*
 * Copyright (C) The ngx_vd_module authors
 */


#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "vd_chunked.h"


/*
 * Reads a text in pieces of at most size bytes; the body is added to out.
 * Returns what the last call returned and, in *used, how far it came.
 */

static vd_chunked_e
read_in_pieces(const char *text, size_t len, size_t size, char *out,
    size_t *used)
{
    size_t                n, got;
    vd_chunked_t          chunked;
    vd_chunked_e          rc;
    const unsigned char  *p, *data;

    memset(&chunked, 0, sizeof(chunked));

    p = (const unsigned char *) text;
    rc = VD_CHUNKED_AGAIN;
    out[0] = '\0';

    while (rc == VD_CHUNKED_AGAIN && p < (const unsigned char *) text + len) {

        n = (size_t) ((const unsigned char *) text + len - p);
        n = (n < size) ? n : size;

        const unsigned char  *end = p + n;

        do {
            rc = vd_chunked_read(&chunked, &p, end, &data, &got);

            if (rc == VD_CHUNKED_DATA) {
                assert_true(got > 0);
                strncat(out, (const char *) data, got);
            }

        } while (rc == VD_CHUNKED_DATA);
    }

    *used = (size_t) (p - (const unsigned char *) text);

    return rc;
}


static void
check(const char *text, vd_chunked_e expected, const char *body, size_t used)
{
    char    out[256];
    size_t  size, n;

    for (size = 1; size <= strlen(text); size++) {
        assert_int_equal(read_in_pieces(text, strlen(text), size, out, &n),
                         expected);
        assert_string_equal(out, body);
        assert_int_equal(n, used);
    }
}


static void
chunks_are_put_together(void **state)
{
    (void) state;

    check("2\r\n{}\r\n0\r\n\r\n", VD_CHUNKED_DONE, "{}", 12);
    check("1\r\n{\r\n1\r\n}\r\n0\r\n\r\n", VD_CHUNKED_DONE, "{}", 17);
    check("0\r\n\r\n", VD_CHUNKED_DONE, "", 5);
    check("0002;a=\"b;\\\"\"\r\n{}\r\n000;x\r\n\r\n", VD_CHUNKED_DONE, "{}",
          28);
    check("2 \t ; a\r\n{}\r\n0\r\nX: y\r\nZ:\r\n\r\n", VD_CHUNKED_DONE, "{}",
          28);
    check("A\r\n0123456789\r\n0\r\n\r\n", VD_CHUNKED_DONE, "0123456789", 20);
}


static void
what_follows_is_left(void **state)
{
    (void) state;

    check("2\r\n{}\r\n0\r\n\r\nHTTP/1.1", VD_CHUNKED_DONE, "{}", 12);
}


static void
more_is_waited_for(void **state)
{
    (void) state;

    check("2\r\n{", VD_CHUNKED_AGAIN, "{", 4);
    check("2\r\n{}\r\n0\r\n\r", VD_CHUNKED_AGAIN, "{}", 11);
    check("7fffffffffffffff\r\n{}", VD_CHUNKED_AGAIN, "{}", 20);
}


static void
anything_else_is_refused(void **state)
{
    static const struct {
        const char  *text;
        size_t       used;
    } cases[] = {
        { "\r\n", 0 }, { " 2\r\n", 0 }, { "g\r\n", 0 }, { "-2\r\n", 0 },
        { ";a\r\n", 0 }, { "2 2\r\n", 2 }, { "2 \r\n", 2 }, { "2\n", 1 },
        { "2\r{}", 2 }, { "2\r\r\n", 2 }, { "0x2\r\n", 1 },
        { "2;a\n", 3 }, { "2;\x01\r\n", 2 }, { "2;\x7f\r\n", 2 },
        { "0\n", 1 }, { "0\r\n\n", 3 }, { "0\r\nX\n", 4 },
        { "0\r\nX\r\r\n", 5 }, { "0\r\n\r\r", 4 }, { "0\r\n\x01", 3 },
        { "8000000000000000\r\n", 15 }, { "10000000000000000\r\n", 16 }
    };

    char    out[256];
    size_t  i, size, used;

    (void) state;

    for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        for (size = 1; size <= strlen(cases[i].text); size++) {

            assert_int_equal(read_in_pieces(cases[i].text,
                                            strlen(cases[i].text), size, out,
                                            &used),
                             VD_CHUNKED_INVALID);
            assert_string_equal(out, "");
            assert_int_equal(used, cases[i].used);
        }
    }

    check("2\r\n{}0\r\n\r\n", VD_CHUNKED_INVALID, "{}", 5);
    check("2\r\n{}\n0\r\n\r\n", VD_CHUNKED_INVALID, "{}", 5);
    check("2\r\n{}\r0\r\n\r\n", VD_CHUNKED_INVALID, "{}", 6);
}


int
main(void)
{
    static const struct CMUnitTest  tests[] = {
        cmocka_unit_test(chunks_are_put_together),
        cmocka_unit_test(what_follows_is_left),
        cmocka_unit_test(more_is_waited_for),
        cmocka_unit_test(anything_else_is_refused)
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
