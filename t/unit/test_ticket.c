
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
#include <time.h>

#include <cmocka.h>

#include "vd_ticket.h"


#define countof(array)  (sizeof(array) / sizeof((array)[0]))
#define S(literal)      literal, sizeof(literal) - 1

#define MAX             128
#define REPLY_MAX       65536
#define DEFAULT         "ticket_id"


typedef struct {
    const char   *paths;        /* a space between two */
    size_t        max;
    const char   *pattern;
    const char   *reply;
    size_t        len;
    vd_ticket_e   error;
    const char   *value;
} case_t;


/* By the default path and limit, without a pattern. */

#define FOUND(reply, value)                                                   \
    { DEFAULT, MAX, NULL, S(reply), VD_TICKET_FOUND, value }
#define ERROR(reply, error)                                                   \
    { DEFAULT, MAX, NULL, S(reply), VD_TICKET_##error, NULL }

#define PATH_FOUND(paths, reply, value)                                       \
    { paths, MAX, NULL, S(reply), VD_TICKET_FOUND, value }
#define PATH_ERROR(paths, reply, error)                                       \
    { paths, MAX, NULL, S(reply), VD_TICKET_##error, NULL }

#define MAX_FOUND(max, reply, value)                                          \
    { DEFAULT, max, NULL, S(reply), VD_TICKET_FOUND, value }
#define MAX_ERROR(max, reply, error)                                          \
    { DEFAULT, max, NULL, S(reply), VD_TICKET_##error, NULL }

#define MATCH_FOUND(pattern, reply, value)                                    \
    { DEFAULT, MAX, pattern, S(reply), VD_TICKET_FOUND, value }
#define MATCH_ERROR(pattern, reply, error)                                    \
    { DEFAULT, MAX, pattern, S(reply), VD_TICKET_##error, NULL }

#define X16  "xxxxxxxxxxxxxxxx"
#define X64  X16 X16 X16 X16


static const case_t  cases[] = {

    /* what receivers are known to send */

    FOUND("{\"success\": true, \"ticket_id\": \"VD-12345\"}", "VD-12345"),
    ERROR("{\"message\": \"Workflow was started\"}", MISSING),
    ERROR("{\"success\": \"Valid HMAC signature\", \"status\": 200}", MISSING),

    /* types */

    FOUND("{\"ticket_id\":\"a\"}", "a"),
    FOUND("{\"ticket_id\":0}", "0"),
    FOUND("{\"ticket_id\":-0}", "0"),
    FOUND("{\"ticket_id\":42}", "42"),
    FOUND("{\"ticket_id\":-17}", "-17"),
    FOUND("{\"ticket_id\":9223372036854775807}", "9223372036854775807"),
    FOUND("{\"ticket_id\":-9223372036854775808}", "-9223372036854775808"),
    FOUND("{\"ticket_id\":\"9223372036854775808\"}", "9223372036854775808"),
    ERROR("{\"ticket_id\":9223372036854775808}", WRONG_TYPE),
    ERROR("{\"ticket_id\":123456789012345678901234567890}", WRONG_TYPE),
    ERROR("{\"ticket_id\":1.0}", WRONG_TYPE),
    ERROR("{\"ticket_id\":1e3}", WRONG_TYPE),
    ERROR("{\"ticket_id\":null}", WRONG_TYPE),
    ERROR("{\"ticket_id\":true}", WRONG_TYPE),
    ERROR("{\"ticket_id\":false}", WRONG_TYPE),
    ERROR("{\"ticket_id\":{}}", WRONG_TYPE),
    ERROR("{\"ticket_id\":{\"id\":\"a\"}}", WRONG_TYPE),
    ERROR("{\"ticket_id\":[]}", WRONG_TYPE),
    ERROR("{\"ticket_id\":[\"a\"]}", WRONG_TYPE),

    /* a number that does not fit, beside the ticket id */

    FOUND("{\"n\":123456789012345678901,\"ticket_id\":\"a\"}", "a"),
    FOUND("{\"ticket_id\":\"a\",\"n\":[-99999999999999999999]}", "a"),
    FOUND("{\"ticket_id\":7,\"n\":99999999999999999999}", "7"),
    FOUND("{\"ticket_id\":\"a\",\"n\":1e999}", "a"),
    FOUND("{\"ticket_id\":7,\"n\":[-1e999,1e-999]}", "7"),
    ERROR("{\"ticket_id\":1e999}", WRONG_TYPE),

    /* half a surrogate pair, a key twice, beside the ticket id */

    FOUND("{\"a\":\"\\ud83d\",\"ticket_id\":\"a\"}", "a"),
    FOUND("{\"ticket_id\":\"a\",\"b\":[\"\\ude00\\ud83d\"]}", "a"),
    FOUND("{\"\\ud83d\":1,\"ticket_id\":\"a\"}", "a"),
    FOUND("{\"ticket_id\":\"a\",\"\\u0000\":1}", "a"),
    FOUND("{\"ticket_id\":\"a\",\"b\":{\"c\":1,\"c\":1}}", "a"),
    FOUND("{\"b\":1,\"b\":2,\"ticket_id\":\"a\"}", "a"),
    FOUND("{\"b\":{\"ticket_id\":1},\"ticket_id\":\"a\"}", "a"),

    /* what stands in strings is no structure */

    FOUND("{\"b\":\"}\\\"]{[,:\",\"ticket_id\":\"a\"}", "a"),
    FOUND("{\"b\":[\"\\\\\",{\"]\":\"\\\\\\\"\"}],\"ticket_id\":\"a\"}", "a"),
    FOUND("{ \"b\" : [ { } , [ ] ] ,\t\"ticket_id\" :\n\"a\" }", "a"),

    /* limits: bytes, after trimming */

    MAX_FOUND(4, "{\"ticket_id\":\"abcd\"}", "abcd"),
    MAX_ERROR(4, "{\"ticket_id\":\"abcde\"}", TOO_LONG),
    MAX_FOUND(4, "{\"ticket_id\":\"  abcd \"}", "abcd"),
    MAX_FOUND(4, "{\"ticket_id\":1234}", "1234"),
    MAX_ERROR(4, "{\"ticket_id\":12345}", TOO_LONG),
    MAX_FOUND(4, "{\"ticket_id\":-123}", "-123"),
    MAX_ERROR(4, "{\"ticket_id\":-1234}", TOO_LONG),
    MAX_FOUND(4, "{\"ticket_id\":\"\\u00e9\\u00e9\"}", "\xc3\xa9\xc3\xa9"),
    MAX_ERROR(4, "{\"ticket_id\":\"\\u00e9\\u00e9.\"}", TOO_LONG),
    MAX_FOUND(4, "{\"ticket_id\":\"\\ud83c\\udfab\"}", "\xf0\x9f\x8e\xab"),
    MAX_ERROR(3, "{\"ticket_id\":\"\\ud83c\\udfab\"}", TOO_LONG),
    MAX_FOUND(1, "{\"ticket_id\":\"a\"}", "a"),
    FOUND("{\"ticket_id\":\"" X64 X64 "\"}", X64 X64),
    ERROR("{\"ticket_id\":\"" X64 X64 "x\"}", TOO_LONG),

    /* trimming: ASCII white space, at the ends */

    FOUND("{\"ticket_id\":\" a \"}", "a"),
    FOUND("{\"ticket_id\":\"\\t\\n\\u000b\\f\\r a \\r\\f\\u000b\\n\\t\"}",
          "a"),
    FOUND("{\"ticket_id\":\"a b\"}", "a b"),
    FOUND("{\"ticket_id\":\"VD-1\\n\"}", "VD-1"),
    FOUND("{\"ticket_id\":\"\\u00a0\"}", "\xc2\xa0"),
    FOUND("{\"ticket_id\":\"\\u2003a\"}", "\xe2\x80\x83" "a"),
    ERROR("{\"ticket_id\":\"\"}", EMPTY),
    ERROR("{\"ticket_id\":\" \"}", EMPTY),
    ERROR("{\"ticket_id\":\" \\t\\r\\n\\f\\u000b \"}", EMPTY),

    /* control characters */

    ERROR("{\"ticket_id\":\"a\\nb\"}", BAD_CHARACTERS),
    ERROR("{\"ticket_id\":\"a\\r\\nSet-Cookie: b\"}", BAD_CHARACTERS),
    ERROR("{\"ticket_id\":\"a\\tb\"}", BAD_CHARACTERS),
    ERROR("{\"ticket_id\":\"\\u0000\"}", BAD_CHARACTERS),
    ERROR("{\"ticket_id\":\"a\\u0000b\"}", BAD_CHARACTERS),
    ERROR("{\"ticket_id\":\"a\\u0000\"}", BAD_CHARACTERS),
    ERROR("{\"ticket_id\":\"\\u001b[31m\"}", BAD_CHARACTERS),
    ERROR("{\"ticket_id\":\"a\\u001f\"}", BAD_CHARACTERS),
    FOUND("{\"ticket_id\":\"\\u0020a~\"}", "a~"),
    ERROR("{\"ticket_id\":\"a\x7f\"}", BAD_CHARACTERS),
    ERROR("{\"ticket_id\":\"\\u007f\"}", BAD_CHARACTERS),
    ERROR("{\"ticket_id\":\"\\u0080\"}", BAD_CHARACTERS),
    ERROR("{\"ticket_id\":\"a\\u0085b\"}", BAD_CHARACTERS),
    ERROR("{\"ticket_id\":\"\xc2\x9f\"}", BAD_CHARACTERS),
    FOUND("{\"ticket_id\":\"\\u00a1\"}", "\xc2\xa1"),
    FOUND("{\"ticket_id\":\"\xc3\x80\xe2\x82\x80\"}",
          "\xc3\x80\xe2\x82\x80"),

    /* not ASCII */

    FOUND("{\"ticket_id\":\"\xd0\x9d-7\"}", "\xd0\x9d-7"),
    FOUND("{\"ticket_id\":\"\\u041d-7\"}", "\xd0\x9d-7"),
    FOUND("{\"ticket_id\":\"\\ud83d\\ude00\"}", "\xf0\x9f\x98\x80"),
    FOUND("{\"ticket_id\":\"\xf4\x8f\xbf\xbf\"}", "\xf4\x8f\xbf\xbf"),
    ERROR("{\"ticket_id\":\"\\ud83d\"}", NOT_JSON),
    ERROR("{\"ticket_id\":\"\\ude00\"}", NOT_JSON),
    ERROR("{\"ticket_id\":\"\\ude00\\ud83d\"}", NOT_JSON),
    ERROR("{\"ticket_id\":\"\xff\"}", NOT_JSON),
    ERROR("{\"ticket_id\":\"\xc0\xaf\"}", NOT_JSON),
    ERROR("{\"ticket_id\":\"\xed\xa0\x80\"}", NOT_JSON),
    ERROR("{\"ticket_id\":\"a\",\"b\":\"\xe9\"}", NOT_JSON),

    /* documents */

    ERROR("", NOT_JSON),
    ERROR(" \n", NOT_JSON),
    ERROR("VD-12345", NOT_JSON),
    ERROR("<html>ticket_id</html>", NOT_JSON),
    ERROR("ticket_id=VD-1", NOT_JSON),
    ERROR("{\"ticket_id\":\"a\"", NOT_JSON),
    ERROR("{\"ticket_id\":\"a\"}}", NOT_JSON),
    ERROR("{\"ticket_id\":\"a\"}{\"ticket_id\":\"b\"}", NOT_JSON),
    ERROR("{'ticket_id':'a'}", NOT_JSON),
    ERROR("{\"ticket_id\":\"a\",}", NOT_JSON),
    ERROR("{\"ticket_id\":\"a\nb\"}", NOT_JSON),
    ERROR("{\"ticket_id\":01}", NOT_JSON),
    ERROR("{\"ticket_id\":\"a\"}\0", NOT_JSON),
    ERROR("{\"ticket_id\":1\0}", NOT_JSON),
    FOUND("\xef\xbb\xbf{\"ticket_id\":\"a\"}", "a"),
    FOUND("\xef\xbb\xbf \n{\"ticket_id\":\"a\"}", "a"),
    ERROR("\xef\xbb\xbf\xef\xbb\xbf{\"ticket_id\":\"a\"}", NOT_JSON),
    ERROR(" \xef\xbb\xbf{\"ticket_id\":\"a\"}", NOT_JSON),
    ERROR("\xef\xbb\xbf", NOT_JSON),
    ERROR("\xef\xbb", NOT_JSON),
    ERROR("{\"ticket_id\":\"a\",\"ticket_id\":\"b\"}", NOT_JSON),
    ERROR("{\"ticket_id\":\"a\",\"b\":0,\"ticket\\u005fid\":\"a\"}", NOT_JSON),
    FOUND(" \r\n{\"ticket_id\":\"a\"}\r\n", "a"),
    ERROR("\"ticket_id\"", MISSING),
    ERROR("12", MISSING),
    ERROR("null", MISSING),
    ERROR("{}", MISSING),
    ERROR("[]", MISSING),
    ERROR("[{\"ticket_id\":\"a\"}]", MISSING),
    ERROR("{\"Ticket_id\":\"a\"}", MISSING),
    ERROR("{\"ticket_i\":\"a\",\"ticket_id2\":\"b\"}", MISSING),
    ERROR("{\"data\":{\"ticket_id\":\"a\"}}", MISSING),
    FOUND("{\"\\u0074icket_id\":\"a\"}", "a"),

    /* paths */

    PATH_FOUND("data.ticket_id", "{\"data\":{\"ticket_id\":\"a\"}}", "a"),
    PATH_FOUND("a.b.c.d", "{\"a\":{\"b\":{\"c\":{\"d\":5}}}}", "5"),
    PATH_ERROR("a.b.c.d", "{\"a\":{\"b\":{\"c\":\"d\"}}}", MISSING),
    PATH_ERROR("a.b", "{\"a\":\"b\"}", MISSING),
    PATH_ERROR("a.b", "{\"a\":null}", MISSING),
    PATH_ERROR("a.b", "{\"a\":7}", MISSING),
    PATH_ERROR("a.b", "{\"a.b\":\"x\"}", MISSING),
    PATH_ERROR("a.b", "{\"a\":{\"b\":null}}", WRONG_TYPE),
    PATH_FOUND("\xd0\xb8\xd0\xb4", "{\"\\u0438\\u0434\":1}", "1"),
    PATH_FOUND("a-b_c:d", "{\"a-b_c:d\":\"x\"}", "x"),

    PATH_FOUND("0.ticket_id", "[{\"ticket_id\":\"a\"}]", "a"),
    PATH_FOUND("1", "[\"a\",\"b\"]", "b"),
    PATH_FOUND("a.1.0", "{\"a\":[0,[\"x\",\"y\"]]}", "x"),
    PATH_FOUND("10", "[0,1,2,3,4,5,6,7,8,9,\"x\"]", "x"),
    PATH_ERROR("2", "[\"a\",\"b\"]", MISSING),
    PATH_ERROR("0", "[]", MISSING),
    PATH_ERROR("00", "[\"a\"]", MISSING),
    PATH_ERROR("01", "[\"a\",\"b\"]", MISSING),
    PATH_ERROR("+1", "[\"a\",\"b\"]", MISSING),
    PATH_ERROR("-1", "[\"a\",\"b\"]", MISSING),
    PATH_ERROR("-0", "[\"a\",\"b\"]", MISSING),
    PATH_ERROR("1x", "[\"a\",\"b\"]", MISSING),
    PATH_ERROR("4294967296", "[\"a\"]", MISSING),
    PATH_ERROR("18446744073709551616", "[\"a\"]", MISSING),
    PATH_FOUND("0", "{\"0\":\"x\"}", "x"),
    PATH_FOUND("01", "{\"01\":\"x\"}", "x"),
    PATH_FOUND("18446744073709551616", "{\"18446744073709551616\":1}", "1"),
    PATH_ERROR("0", "\"a\"", MISSING),
    PATH_ERROR("a.b", "{\"a\":{\"b\":1},\"a\":{\"b\":1}}", NOT_JSON),
    PATH_ERROR("a.b", "{\"a\":{\"b\":1,\"\\u0062\":1}}", NOT_JSON),
    PATH_FOUND("a.b", "{\"a\":{\"b\":1,\"c\":2,\"c\":2},\"b\":1,\"b\":2}", "1"),
    PATH_FOUND("1.0", "[\"]\", [ 5 , 6 ] ]", "5"),

    /* several paths: the first usable value, else the first error */

    PATH_FOUND("a b", "{\"a\":\"x\",\"b\":\"y\"}", "x"),
    PATH_FOUND("b a", "{\"a\":\"x\",\"b\":\"y\"}", "y"),
    PATH_FOUND("a b", "{\"b\":\"y\"}", "y"),
    PATH_FOUND("a b", "{\"a\":null,\"b\":\"y\"}", "y"),
    PATH_FOUND("a b c", "{\"a\":\"\",\"b\":{},\"c\":3}", "3"),
    PATH_ERROR("a b c", "{\"b\":\"\",\"c\":null}", EMPTY),
    PATH_ERROR("a b c", "{\"c\":\"\",\"b\":null}", WRONG_TYPE),
    PATH_ERROR("a b", "{}", MISSING),
    PATH_FOUND("data.id 0.id id", "[{\"id\":\"x\"}]", "x"),

    /* a pattern: of the whole value */

    MATCH_FOUND("VD-[0-9]+", "{\"ticket_id\":\"VD-12345\"}", "VD-12345"),
    MATCH_FOUND("VD-[0-9]+", "{\"ticket_id\":\" VD-1 \"}", "VD-1"),
    MATCH_FOUND("[0-9]+", "{\"ticket_id\":12345}", "12345"),
    MATCH_ERROR("[0-9]+", "{\"ticket_id\":-12345}", NO_MATCH),
    MATCH_ERROR("VD-[0-9]+", "{\"ticket_id\":\"VD-12345x\"}", NO_MATCH),
    MATCH_ERROR("VD-[0-9]+", "{\"ticket_id\":\"xVD-12345\"}", NO_MATCH),
    MATCH_ERROR("VD-[0-9]+", "{\"ticket_id\":\"vd-12345\"}", NO_MATCH),
    MATCH_FOUND("(?i)VD-[0-9]+", "{\"ticket_id\":\"vd-12345\"}", "vd-12345"),
    MATCH_FOUND("a|ab", "{\"ticket_id\":\"a\"}", "a"),
    MATCH_FOUND("a|ab", "{\"ticket_id\":\"ab\"}", "ab"),
    MATCH_FOUND("a|ab", "{\"ticket_id\":\"ab\\n\"}", "ab"),
    MATCH_ERROR("a|ab", "{\"ticket_id\":\"abc\"}", NO_MATCH),
    MATCH_ERROR("a|b", "{\"ticket_id\":\"ca\"}", NO_MATCH),
    MATCH_FOUND("a+?", "{\"ticket_id\":\"aaa\"}", "aaa"),
    MATCH_FOUND("^[A-Z]+-\\d+$", "{\"ticket_id\":\"VD-1\"}", "VD-1"),
    MATCH_ERROR("(?m)^a$", "{\"ticket_id\":\"a\\nb\"}", BAD_CHARACTERS),
    MATCH_ERROR("(*ANY)a$", "{\"ticket_id\":\"a\\u2028\"}", NO_MATCH),
    MATCH_ERROR("(*ANY)(?m)a$", "{\"ticket_id\":\"a\\u2028\"}", NO_MATCH),
    MATCH_ERROR("a", "{\"ticket_id\":\"\"}", EMPTY),
    MATCH_ERROR("a*", "{\"ticket_id\":\" \"}", EMPTY),
    MATCH_ERROR("", "{\"ticket_id\":\"a\"}", NO_MATCH),
    MATCH_FOUND(".", "{\"ticket_id\":\"\\ud83c\\udfab\"}",
                "\xf0\x9f\x8e\xab"),
    MATCH_FOUND("\\p{Lu}-\\d", "{\"ticket_id\":\"\\u041d-7\"}",
                "\xd0\x9d-7"),
    MATCH_FOUND("(VD)-(\\d)(\\d)\\2", "{\"ticket_id\":\"VD-121\"}", "VD-121"),
    MATCH_ERROR("a", "{\"ticket_id\":\"" X64 X64 X64 "\"}", TOO_LONG),
    MATCH_ERROR("a", "{\"ticket_id\":[]}", WRONG_TYPE),
    MATCH_FOUND("(*NO_JIT)a|ab", "{\"ticket_id\":\"ab\"}", "ab"),
    MATCH_ERROR("(*NO_JIT)a|ab", "{\"ticket_id\":\"abc\"}", NO_MATCH),
    { "a b", MAX, "[0-9]+", S("{\"a\":\"x\",\"b\":\"7\"}"),
      VD_TICKET_FOUND, "7" },
    { "a b", MAX, "[0-9]+", S("{\"a\":\"x\",\"b\":\"\"}"),
      VD_TICKET_NO_MATCH, NULL }
};


static vd_ticket_t *
ticket_create(const char *paths, size_t max, const char *pattern)
{
    char          error[128];
    size_t        len;
    vd_ticket_t  *ticket;

    ticket = vd_ticket_create(max);
    assert_non_null(ticket);

    while (*paths != '\0') {
        len = strcspn(paths, " ");

        assert_null(vd_ticket_add_path(ticket, (const unsigned char *) paths,
                                       len));
        paths += len;
        paths += strspn(paths, " ");
    }

    if (pattern != NULL) {
        assert_int_equal(vd_ticket_set_pattern(ticket,
                                               (const unsigned char *) pattern,
                                               strlen(pattern), error,
                                               sizeof(error)),
                         0);
    }

    return ticket;
}


/* Reply and result are of their exact sizes, for a sanitizer to see. */

static vd_ticket_e
find(const vd_ticket_t *ticket, size_t max, const char *reply, size_t len,
    char *value)
{
    size_t          out_len;
    vd_ticket_e     error;
    unsigned char  *copy, *out;

    copy = len ? malloc(len) : NULL;
    out = malloc(max);
    assert_true(copy != NULL || len == 0);
    assert_non_null(out);

    if (len > 0) {
        memcpy(copy, reply, len);
    }

    error = vd_ticket_find(ticket, copy, len, out, &out_len);

    if (error == VD_TICKET_FOUND) {
        assert_true(out_len >= 1 && out_len <= max);
        memcpy(value, out, out_len);
        value[out_len] = '\0';
    }

    free(copy);
    free(out);

    return error;
}


static void
replies_are_read_as_promised(void **state)
{
    char           value[MAX + 1];
    size_t         i;
    vd_ticket_e    error;
    vd_ticket_t   *ticket;
    const case_t  *c;

    (void) state;

    for (i = 0; i < countof(cases); i++) {
        c = &cases[i];

        ticket = ticket_create(c->paths, c->max, c->pattern);
        error = find(ticket, c->max, c->reply, c->len, value);

        if (error != c->error) {
            fail_msg("%s in %s: \"%s\", not \"%s\"", c->paths, c->reply,
                     vd_ticket_error_name(error),
                     vd_ticket_error_name(c->error));
        }

        if (error == VD_TICKET_FOUND) {
            assert_string_equal(value, c->value);
        }

        vd_ticket_free(ticket);
    }
}


/* The same ticket, asked again and again: no state is left by a reply. */

static void
a_ticket_serves_all_replies(void **state)
{
    int           round;
    char          value[MAX + 1];
    size_t        i;
    vd_ticket_t  *ticket;

    (void) state;

    ticket = ticket_create(DEFAULT, MAX, NULL);

    for (round = 0; round < 3; round++) {
        for (i = 0; i < countof(cases); i++) {

            if (strcmp(cases[i].paths, DEFAULT) == 0
                && cases[i].max == MAX
                && cases[i].pattern == NULL)
            {
                assert_int_equal(find(ticket, MAX, cases[i].reply,
                                      cases[i].len, value),
                                 cases[i].error);
            }
        }
    }

    vd_ticket_free(ticket);
}


static void
each_control_character_is_refused(void **state)
{
    int           code;
    char          value[MAX + 1], reply[64];
    vd_ticket_t  *ticket;

    (void) state;

    ticket = ticket_create(DEFAULT, MAX, NULL);

    for (code = 0; code < 0x300; code++) {
        (void) sprintf(reply, "{\"ticket_id\":\"a\\u%04xb\"}", code);

        assert_int_equal(find(ticket, MAX, reply, strlen(reply), value),
                         (code < 0x20 || (code >= 0x7f && code < 0xa0))
                         ? VD_TICKET_BAD_CHARACTERS : VD_TICKET_FOUND);
    }

    vd_ticket_free(ticket);
}


static void
paths_with_an_empty_segment_are_refused(void **state)
{
    size_t                    i;
    vd_ticket_t              *ticket;
    static const char *const  bad[] = {
        ".", "..", ".a", "a.", "a..b", "a.b.", "..a", "a..", "0."
    };

    (void) state;

    ticket = vd_ticket_create(MAX);
    assert_non_null(ticket);

    assert_string_equal(vd_ticket_add_path(ticket, (unsigned char *) S("")),
                        "empty path");

    for (i = 0; i < countof(bad); i++) {
        assert_string_equal(
            vd_ticket_add_path(ticket, (const unsigned char *) bad[i],
                               strlen(bad[i])),
            "empty segment");
    }

    assert_null(vd_ticket_add_path(ticket, (unsigned char *) S("a")));
    assert_null(vd_ticket_add_path(ticket, (unsigned char *) S("a.b c.0")));

    vd_ticket_free(ticket);
}


static void
a_bad_pattern_is_told(void **state)
{
    char          error[128], small[8], value[MAX + 1];
    vd_ticket_t  *ticket;

    (void) state;

    ticket = ticket_create(DEFAULT, MAX, "a");

    assert_int_equal(vd_ticket_set_pattern(ticket,
                                           (unsigned char *) S("ab("), error,
                                           sizeof(error)),
                     -1);
    assert_string_equal(error, "missing closing parenthesis at offset 3");

    memset(small, '#', sizeof(small));
    assert_int_equal(vd_ticket_set_pattern(ticket,
                                           (unsigned char *) S("ab("), small,
                                           7),
                     -1);
    assert_memory_equal(small, "missin\0#", 8);

    assert_int_equal(vd_ticket_set_pattern(ticket,
                                           (unsigned char *) S("\xff"), error,
                                           sizeof(error)),
                     -1);
    assert_int_equal(vd_ticket_set_pattern(ticket,
                                           (unsigned char *) S("a\\C"), error,
                                           sizeof(error)),
                     -1);

    /* the last good one stands, until it is replaced */

    assert_int_equal(find(ticket, MAX, S("{\"ticket_id\":\"a\"}"), value),
                     VD_TICKET_FOUND);

    assert_int_equal(vd_ticket_set_pattern(ticket, (unsigned char *) S("b"),
                                           error, sizeof(error)),
                     0);
    assert_int_equal(find(ticket, MAX, S("{\"ticket_id\":\"a\"}"), value),
                     VD_TICKET_NO_MATCH);
    assert_int_equal(find(ticket, MAX, S("{\"ticket_id\":\"b\"}"), value),
                     VD_TICKET_FOUND);

    vd_ticket_free(ticket);
}


static double
milliseconds(void)
{
    struct timespec  now;

    (void) clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);

    return (double) now.tv_sec * 1000 + (double) now.tv_nsec / 1000000;
}


/*
 * Generous, for valgrind and sanitizers: without limits of its own the module
 * would spend some 300 ms on a pattern.
 */

#define PATTERN_BOUND  100.0
#define REPLY_BOUND    1000.0

static void
a_catastrophic_pattern_is_no_match(void **state)
{
    char                      value[MAX + 1];
    double                    start;
    size_t                    i;
    vd_ticket_t              *ticket;
    static const char         reply[] = "{\"ticket_id\":\"aaaaaaaaaaaaaaaa"
                                        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
                                        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
                                        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaab!\"}";
    static const char *const  patterns[] = {
        "(a+)+$", "(*NO_JIT)(a+)+$",
        "(a|aa)+", "(*NO_JIT)(a|aa)+",
        "(a*)*b", "(*NO_JIT)(a*)*b",
        "(?:a+a+)+b", "(*NO_JIT)(?:a+a+)+b",
        "(*LIMIT_MATCH=4000000000)(a+)+$",
        "(.*)(.*)(.*)(.*)(.*)(.*)b", "(*NO_JIT)(.*)(.*)(.*)(.*)(.*)(.*)b",
        "(?=(?:a+)+b$)", "(*NO_JIT)(?=(?:a+)+b$)"
    };

    (void) state;

    for (i = 0; i < countof(patterns); i++) {
        ticket = ticket_create(DEFAULT, MAX, patterns[i]);

        start = milliseconds();

        assert_int_equal(find(ticket, MAX, reply, sizeof(reply) - 1, value),
                         VD_TICKET_NO_MATCH);
        assert_true(milliseconds() - start < PATTERN_BOUND);

        vd_ticket_free(ticket);
    }
}


static size_t
finish(char *reply, size_t len, const char *end)
{
    memcpy(reply + len, end, strlen(end));

    return len + strlen(end);
}


/* What the JIT has for a stack by itself is enough for 300 bytes or so. */

static void
a_long_value_matches(void **state)
{
    char                     *reply, *value;
    size_t                    i, len;
    vd_ticket_t              *ticket;
    static const char *const  patterns[] = {
        "(?:[A-Z]|[0-9])+", "([A-Z]|[0-9])+", "(?:A[0-9]|7|[A-Z])*",
        "(*NO_JIT)(?:[A-Z]|[0-9])+", ".*", "[A-Z0-9]++"
    };

    (void) state;

    reply = malloc(REPLY_MAX);
    value = malloc(2048 + 1);
    assert_true(reply != NULL && value != NULL);

    len = finish(reply, 0, "{\"ticket_id\":\"");

    for (i = 0; i < 2000; i++) {
        reply[len++] = "A7"[i % 2];
    }

    len = finish(reply, len, "\"}");

    for (i = 0; i < countof(patterns); i++) {
        ticket = ticket_create(DEFAULT, 2048, patterns[i]);

        assert_int_equal(find(ticket, 2048, reply, len, value),
                         VD_TICKET_FOUND);
        assert_int_equal(strlen(value), 2000);

        vd_ticket_free(ticket);
    }

    free(reply);
    free(value);
}


static size_t
repeat(char *reply, size_t len, const char *format)
{
    int  n, i;

    for (i = 0; len < REPLY_MAX - 100; i++) {
        n = sprintf(reply + len, format, i);
        len += (size_t) n;
    }

    return len;
}


static void
large_replies_take_bounded_time(void **state)
{
    char           value[MAX + 1], *reply;
    double         start;
    size_t         i, len;
    vd_ticket_t   *ticket;

    static const struct {
        const char   *begin;
        const char   *again;
        const char   *end;
        vd_ticket_e   error;
    } replies[] = {
        { "{", "\"%x\":0,", "\"ticket_id\":\"a\"}", VD_TICKET_FOUND },
        { "[", "%d,", "0]", VD_TICKET_MISSING },
        { "[", "99999999999999999%d999,", "0]", VD_TICKET_MISSING },
        { "[", "2.2250738585072011%de-308,", "0]", VD_TICKET_MISSING },
        { "[", "{},", "0]", VD_TICKET_MISSING },
        { "[", "{\"a\":[]},", "0]", VD_TICKET_MISSING },
        { "[", "\"\\u0041\\ud83d\\ude00\",", "0]", VD_TICKET_MISSING },
        { "{\"ticket_id\":\"", "%x", "\"}", VD_TICKET_TOO_LONG },
        { "{\"ticket_id\":\"", " ", "\"}", VD_TICKET_EMPTY },
        { "{\"ticket_id\":\"", " ", "a\"}", VD_TICKET_FOUND },
        { "{\"ticket_id\":", "1", "}", VD_TICKET_WRONG_TYPE },
        { "{", "\"\\u0074icket_%05x\":0,", "\"ticket_id\":\"a\"}",
          VD_TICKET_FOUND },
        { "{", "\"\\u0074icket_id\":0,", "\"b\":0}", VD_TICKET_NOT_JSON },
        { "{\"ticket_id\":\"a\",\"b\":[", "1e99%d,", "0]}", VD_TICKET_FOUND },
        { "{\"ticket_id\":\"a\",\"b\":[", "\"\\udead\\\\\",", "0]}",
          VD_TICKET_FOUND },
        { "", " ", "{\"ticket_id\":1}", VD_TICKET_FOUND },
        { "", "[", "", VD_TICKET_NOT_JSON },
        { "", "{\"a\":", "", VD_TICKET_NOT_JSON },
        { "", "\"", "", VD_TICKET_NOT_JSON }
    };

    (void) state;

    reply = malloc(REPLY_MAX);
    assert_non_null(reply);

    ticket = ticket_create(DEFAULT, MAX, NULL);

    for (i = 0; i < countof(replies); i++) {
        len = finish(reply, 0, replies[i].begin);
        len = repeat(reply, len, replies[i].again);
        len = finish(reply, len, replies[i].end);

        start = milliseconds();

        assert_int_equal(find(ticket, MAX, reply, len, value),
                         replies[i].error);
        assert_true(milliseconds() - start < REPLY_BOUND);
    }

    vd_ticket_free(ticket);
    free(reply);
}


static void
nesting_is_bounded(void **state)
{
    char         *reply, value[MAX + 1];
    size_t        depth;
    vd_ticket_t  *ticket;

    (void) state;

    reply = malloc(REPLY_MAX);
    assert_non_null(reply);

    ticket = ticket_create(DEFAULT, MAX, NULL);

    for (depth = 1; depth < REPLY_MAX / 2; depth *= 2) {
        memset(reply, '[', depth);
        memset(reply + depth, ']', depth);

        assert_int_equal(find(ticket, MAX, reply, 2 * depth, value),
                         depth <= 2048 ? VD_TICKET_MISSING
                                       : VD_TICKET_NOT_JSON);
    }

    vd_ticket_free(ticket);
    free(reply);
}


static void
names_are_those_of_the_interface(void **state)
{
    size_t                    i;
    static const char *const  names[] = {
        "", "missing", "not_json", "wrong_type", "empty", "too_long",
        "bad_characters", "no_match", "too_large"
    };

    (void) state;

    assert_int_equal(countof(names), VD_TICKET_LAST);

    for (i = 0; i < countof(names); i++) {
        assert_string_equal(vd_ticket_error_name((vd_ticket_e) i), names[i]);
    }
}


int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(replies_are_read_as_promised),
        cmocka_unit_test(a_ticket_serves_all_replies),
        cmocka_unit_test(each_control_character_is_refused),
        cmocka_unit_test(paths_with_an_empty_segment_are_refused),
        cmocka_unit_test(a_bad_pattern_is_told),
        cmocka_unit_test(a_catastrophic_pattern_is_no_match),
        cmocka_unit_test(a_long_value_matches),
        cmocka_unit_test(large_replies_take_bounded_time),
        cmocka_unit_test(nesting_is_bounded),
        cmocka_unit_test(names_are_those_of_the_interface)
    };

    return cmocka_run_group_tests_name("vd_ticket", tests, NULL, NULL);
}
