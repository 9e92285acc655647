
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
#include <jansson.h>

#include "vd_json.h"


#define countof(array)  (sizeof(array) / sizeof((array)[0]))
#define S(literal)      literal, sizeof(literal) - 1

#define MUTATIONS       100000
#define MUTANT_MAX      512


typedef struct {
    const char  *text;
    size_t       len;
} valid_t;


typedef struct {
    const char  *text;
    size_t       len;
    const char  *error;
    size_t       offset;
} invalid_t;


typedef struct {
    int          rc;
    size_t       offset;
    const char  *error;
} verdict_t;


static const valid_t  valid[] = {

    { S("{}") },
    { S("[]") },
    { S("\"\"") },
    { S("0") },
    { S("-0") },
    { S("7") },
    { S("1234567890") },
    { S("-12") },
    { S("0.0") },
    { S("1.50") },
    { S("1e5") },
    { S("1E+5") },
    { S("1e-05") },
    { S("0e0") },
    { S("-0.1e-1") },
    { S("9007199254740993") },
    { S("true") },
    { S("false") },
    { S("null") },
    { S(" \t\r\n1\n\r\t ") },
    { S(" true ") },
    { S("\n[\n]\n") },
    { S("[1]") },
    { S("[1,2]") },
    { S("[ 1 , 2 ]") },
    { S("[[],{},[[]]]") },
    { S("[true,false,null]") },
    { S("[0,-1,2.5,3e3,\"x\"]") },
    { S("{\"\":0}") },
    { S("{\"a\":1}") },
    { S("{\"a\":1,\"b\":[2,{\"c\":null}]}") },
    { S("{ \"a\" : { \"b\" : { } } , \"c\" : [ ] }") },
    { S("{\"a\":{},\"b\":[],\"c\":\"\"}") },
    { S("[{\"a\":[{\"b\":[]}]},[{}]]") },
    { S("\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"") },
    { S("\"\\u0041\\u00e9\\uABCD\\uabcd\"") },
    { S("\"\\ud83d\\ude00\"") },
    { S("\"plain text of more than eight bytes, and then some\"") },
    { S("\"12345678\"") },
    { S("\"1234567\\n\"") },
    { S("\"12345678\\n\"") },
    { S("\"\x7f\"") },
    { S("\"\xc2\x80\"") },
    { S("\"\xdf\xbf\"") },
    { S("\"\xe0\xa0\x80\"") },
    { S("\"\xed\x9f\xbf\"") },
    { S("\"\xee\x80\x80\"") },
    { S("\"\xef\xbf\xbf\"") },
    { S("\"\xf0\x90\x80\x80\"") },
    { S("\"\xf4\x8f\xbf\xbf\"") },
    { S("\"a BOM that is no mark: \xef\xbb\xbf\"") },
    { S("{\"\xd1\x82\xd0\xb8\xd0\xba\xd0\xb5\xd1\x82\":\"\xf0\x9f\x8e\xab\"}")
    },
    { S("{\"success\": true, \"ticket_id\": \"VD-12345\"}") },
    { S("{\"a\":1,\"a\":2}") }
};


/* The offset is that of the first byte that no document can have there. */

static const invalid_t  invalid[] = {

    { S(""), "unexpected end", 0 },
    { S(" \n"), "unexpected end", 2 },
    { S("["), "unexpected end", 1 },
    { S("[1"), "unexpected end", 2 },
    { S("[1,"), "unexpected end", 3 },
    { S("{"), "unexpected end", 1 },
    { S("{\"a\""), "unexpected end", 4 },
    { S("{\"a\":"), "unexpected end", 5 },
    { S("{\"a\":1"), "unexpected end", 6 },
    { S("{\"a\":1,"), "unexpected end", 7 },
    { S("[[]"), "unexpected end", 3 },
    { S("\""), "unexpected end", 1 },
    { S("\"abc"), "unexpected end", 4 },
    { S("\"\\"), "unexpected end", 2 },
    { S("\"\\u12"), "unexpected end", 5 },
    { S("\"\xc3"), "unexpected end", 2 },
    { S("tru"), "unexpected end", 3 },
    { S("n"), "unexpected end", 1 },
    { S("-"), "unexpected end", 1 },
    { S("1."), "unexpected end", 2 },
    { S("1e"), "unexpected end", 2 },
    { S("1e-"), "unexpected end", 3 },

    { S("]"), "unexpected character", 0 },
    { S("}"), "unexpected character", 0 },
    { S(","), "unexpected character", 0 },
    { S(":"), "unexpected character", 0 },
    { S("\xef\xbb\xbf{}"), "unexpected character", 0 },
    { S("\xff\xfe{\0}\0"), "unexpected character", 0 },
    { S("\0"), "unexpected character", 0 },
    { S("\v1"), "unexpected character", 0 },
    { S("\f1"), "unexpected character", 0 },
    { S("\xc2\xa0" "1"), "unexpected character", 0 },
    { S("'a'"), "unexpected character", 0 },
    { S("a"), "unexpected character", 0 },
    { S("NaN"), "unexpected character", 0 },
    { S("Infinity"), "unexpected character", 0 },
    { S("True"), "unexpected character", 0 },
    { S("/**/1"), "unexpected character", 0 },
    { S("+1"), "unexpected character", 0 },
    { S(".5"), "unexpected character", 0 },
    { S("-a"), "unexpected character", 1 },
    { S("--1"), "unexpected character", 1 },
    { S("-.5"), "unexpected character", 1 },
    { S("1.e5"), "unexpected character", 2 },
    { S("1.}"), "unexpected character", 2 },
    { S("1e+-5"), "unexpected character", 3 },
    { S("1e5.5"), "trailing data", 3 },
    { S("trua"), "unexpected character", 3 },
    { S("nulL"), "unexpected character", 3 },
    { S("fals\0"), "unexpected character", 4 },
    { S("[,1]"), "unexpected character", 1 },
    { S("[1,]"), "unexpected character", 3 },
    { S("[1 2]"), "unexpected character", 3 },
    { S("[1:2]"), "unexpected character", 2 },
    { S("[1}"), "unexpected character", 2 },
    { S("[}"), "unexpected character", 1 },
    { S("[01]"), "unexpected character", 2 },
    { S("[-01]"), "unexpected character", 3 },
    { S("[1a]"), "unexpected character", 2 },
    { S("[0x1]"), "unexpected character", 2 },
    { S("[truefalse]"), "unexpected character", 5 },
    { S("[\"a\"\"b\"]"), "unexpected character", 4 },
    { S("{]"), "unexpected character", 1 },
    { S("{,}"), "unexpected character", 1 },
    { S("{a:1}"), "unexpected character", 1 },
    { S("{1:1}"), "unexpected character", 1 },
    { S("{\"a\"}"), "unexpected character", 4 },
    { S("{\"a\",1}"), "unexpected character", 4 },
    { S("{\"a\"=1}"), "unexpected character", 4 },
    { S("{\"a\":}"), "unexpected character", 5 },
    { S("{\"a\":1,}"), "unexpected character", 7 },
    { S("{\"a\":1 \"b\":2}"), "unexpected character", 7 },
    { S("{\"a\":1]"), "unexpected character", 6 },
    { S("{\"a\":[}"), "unexpected character", 6 },
    { S("{\"a\":[1},2]"), "unexpected character", 7 },
    { S("[{]}"), "unexpected character", 2 },

    { S("{}{}"), "trailing data", 2 },
    { S("{} x"), "trailing data", 3 },
    { S("[] ]"), "trailing data", 3 },
    { S("1 2"), "trailing data", 2 },
    { S("01"), "trailing data", 1 },
    { S("\"a\"\"b\""), "trailing data", 3 },
    { S("null\0"), "trailing data", 4 },
    { S("truefalse"), "trailing data", 4 },
    { S("1,"), "trailing data", 1 },

    { S("\"\0\""), "control character in string", 1 },
    { S("\"a\nb\""), "control character in string", 2 },
    { S("\"\x1f\""), "control character in string", 1 },
    { S("\"1234567\t\""), "control character in string", 8 },
    { S("\"12345678\t\""), "control character in string", 9 },
    { S("{\"a\rb\":1}"), "control character in string", 3 },

    { S("\"\\a\""), "invalid escape", 2 },
    { S("\"\\'\""), "invalid escape", 2 },
    { S("\"\\U0041\""), "invalid escape", 2 },
    { S("\"\\\n\""), "invalid escape", 2 },
    { S("\"\\x41\""), "invalid escape", 2 },
    { S("\"\\u004g\""), "invalid escape", 6 },
    { S("\"\\u\""), "invalid escape", 3 },
    { S("\"\\u00 4\""), "invalid escape", 5 },
    { S("\"\\u@000\""), "invalid escape", 3 },
    { S("\"\\u`000\""), "invalid escape", 3 },
    { S("\"\\uG000\""), "invalid escape", 3 },

    { S("\"\x80\""), "invalid UTF-8", 1 },
    { S("\"\xbf\""), "invalid UTF-8", 1 },
    { S("\"\xc0\x80\""), "invalid UTF-8", 1 },
    { S("\"\xc1\xbf\""), "invalid UTF-8", 1 },
    { S("\"\xc3(\""), "invalid UTF-8", 2 },
    { S("\"\xc3\""), "invalid UTF-8", 2 },
    { S("\"\xe0\x9f\xbf\""), "invalid UTF-8", 2 },
    { S("\"\xe2\x82\""), "invalid UTF-8", 3 },
    { S("\"\xed\xa0\x80\""), "invalid UTF-8", 2 },
    { S("\"\xed\xbf\xbf\""), "invalid UTF-8", 2 },
    { S("\"\xf0\x8f\xbf\xbf\""), "invalid UTF-8", 2 },
    { S("\"\xf0\x9f\x8e\""), "invalid UTF-8", 4 },
    { S("\"\xf4\x90\x80\x80\""), "invalid UTF-8", 2 },
    { S("\"\xf5\x80\x80\x80\""), "invalid UTF-8", 1 },
    { S("\"\xfe\""), "invalid UTF-8", 1 },
    { S("\"\xff\""), "invalid UTF-8", 1 },
    { S("\"seven: \xff\""), "invalid UTF-8", 8 },
    { S("\"latin 1: caf\xe9\""), "invalid UTF-8", 14 }
};


/* Feeds text in two pieces; in single bytes where at is past the end. */

static verdict_t
judge(const char *text, size_t len, size_t at)
{
    size_t               i;
    verdict_t            verdict;
    vd_json_t            json;
    const unsigned char *p;

    p = (const unsigned char *) text;

    vd_json_start(&json);

    if (at > len) {
        for (i = 0; i < len; i++) {
            (void) vd_json_feed(&json, p + i, 1);
        }

    } else {
        (void) vd_json_feed(&json, p, at);
        (void) vd_json_feed(&json, p + at, len - at);
    }

    verdict.rc = vd_json_finish(&json);
    verdict.offset = json.offset;
    verdict.error = json.error;

    return verdict;
}


static void
check(const char *text, size_t len, const char *error, size_t offset)
{
    size_t     at;
    verdict_t  verdict;

    for (at = 0; at <= len + 1; at++) {
        verdict = judge(text, len, at);

        if (error == NULL) {
            assert_null(verdict.error);
            assert_int_equal(verdict.rc, 0);

        } else {
            assert_non_null(verdict.error);
            assert_string_equal(verdict.error, error);
            assert_int_equal(verdict.rc, -1);
        }

        assert_int_equal(verdict.offset, offset);
    }
}


static void
documents_are_accepted_at_every_split(void **state)
{
    size_t  i;

    (void) state;

    for (i = 0; i < countof(valid); i++) {
        check(valid[i].text, valid[i].len, NULL, valid[i].len);
    }
}


static void
faults_are_told_with_their_offset_at_every_split(void **state)
{
    size_t  i;

    (void) state;

    for (i = 0; i < countof(invalid); i++) {
        check(invalid[i].text, invalid[i].len, invalid[i].error,
              invalid[i].offset);
    }
}


static void
an_error_is_final(void **state)
{
    vd_json_t  json;

    (void) state;

    vd_json_start(&json);

    assert_int_equal(vd_json_feed(&json, (unsigned char *) "[1,,", 4), -1);
    assert_int_equal(vd_json_feed(&json, (unsigned char *) "2]", 2), -1);
    assert_int_equal(vd_json_feed(&json, (unsigned char *) "", 0), -1);
    assert_int_equal(vd_json_finish(&json), -1);
    assert_string_equal(json.error, "unexpected character");
    assert_int_equal(json.offset, 3);

    vd_json_start(&json);

    assert_int_equal(vd_json_finish(&json), -1);
    assert_int_equal(vd_json_feed(&json, (unsigned char *) "1", 1), -1);
}


static void
nesting_ends_at_its_limit(void **state)
{
    size_t     depth, i;
    char       text[2 * (VD_JSON_MAX_DEPTH + 1)];

    (void) state;

    /* arrays and objects in turn: closing needs to know which is which */

    for (depth = VD_JSON_MAX_DEPTH; depth <= VD_JSON_MAX_DEPTH + 1; depth++) {

        memset(text, '[', depth);
        memset(text + depth, ']', depth);

        if (depth == VD_JSON_MAX_DEPTH) {
            check(text, 2 * depth, NULL, 2 * depth);

        } else {
            check(text, 2 * depth, "nested too deeply", VD_JSON_MAX_DEPTH);
        }
    }

    for (i = 0; i < VD_JSON_MAX_DEPTH; i++) {
        memset(text, '[', VD_JSON_MAX_DEPTH);
        memset(text + VD_JSON_MAX_DEPTH, ']', VD_JSON_MAX_DEPTH);

        text[VD_JSON_MAX_DEPTH + i] = '}';

        assert_int_equal(judge(text, 2 * VD_JSON_MAX_DEPTH, 0).offset,
                         VD_JSON_MAX_DEPTH + i);
    }
}


static void
brackets_close_what_they_opened(void **state)
{
    size_t  i, len;
    char    text[VD_JSON_MAX_DEPTH * 8];

    (void) state;

    len = 0;

    for (i = 0; i < VD_JSON_MAX_DEPTH; i++) {
        if (i % 3 == 0) {
            memcpy(text + len, "{\"k\":", 5);
            len += 5;

        } else {
            text[len++] = '[';
        }
    }

    text[len++] = '1';

    for (i = VD_JSON_MAX_DEPTH; i-- > 0; /* void */ ) {
        text[len++] = (i % 3 == 0) ? '}' : ']';
    }

    assert_int_equal(judge(text, len, 0).rc, 0);
    assert_int_equal(judge(text, len, len + 1).rc, 0);

    text[len - 1] = ']';
    assert_int_equal(judge(text, len, 0).offset, len - 1);

    text[len - 1] = '}';
    text[len - 100] ^= ']' ^ '}';
    assert_int_equal(judge(text, len, 0).offset, len - 100);
}


/* UTF-8 by arithmetic: decode, and see that the shortest form was used. */

static int
is_utf8(const unsigned char *p, size_t len)
{
    size_t                 i;
    uint32_t               code;
    static const uint32_t  least[] = { 0, 0, 0x80, 0x800, 0x10000 };

    if ((p[0] & 0xe0) == 0xc0 && len == 2) {
        code = p[0] & 0x1f;

    } else if ((p[0] & 0xf0) == 0xe0 && len == 3) {
        code = p[0] & 0x0f;

    } else if ((p[0] & 0xf8) == 0xf0 && len == 4) {
        code = p[0] & 0x07;

    } else {
        return 0;
    }

    for (i = 1; i < len; i++) {

        if ((p[i] & 0xc0) != 0x80) {
            return 0;
        }

        code = code << 6 | (p[i] & 0x3f);
    }

    return code >= least[len] && code <= 0x10ffff
           && !(code >= 0xd800 && code <= 0xdfff);
}


static void
check_utf8(const unsigned char *bytes, size_t len)
{
    char  text[8];

    text[0] = '"';
    memcpy(text + 1, bytes, len);
    text[len + 1] = '"';

    if ((judge(text, len + 2, 0).rc == 0) != is_utf8(bytes, len)) {
        fail_msg("%02x %02x %02x %02x, %zu bytes", bytes[0], bytes[1],
                 bytes[2], bytes[3], len);
    }
}


static void
strings_are_utf8_and_nothing_else(void **state)
{
    unsigned              a, b, c, d;
    unsigned char         bytes[4] = { 0 };
    static const uint8_t  edges[] = {
        0x00, 0x20, 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc0, 0xff
    };

    (void) state;

    /* a first byte over 7F: all pairs, all triples, quadruples at edges */

    for (a = 0x80; a <= 0xff; a++) {
        bytes[0] = (unsigned char) a;

        for (b = 0; b <= 0xff; b++) {
            bytes[1] = (unsigned char) b;
            check_utf8(bytes, 2);

            if (a < 0xe0) {
                continue;
            }

            for (c = 0; c <= 0xff; c++) {
                bytes[2] = (unsigned char) c;

                if (a < 0xf0) {
                    check_utf8(bytes, 3);
                    continue;
                }

                for (d = 0; d < countof(edges); d++) {
                    bytes[3] = edges[d];
                    check_utf8(bytes, 4);
                }
            }
        }
    }
}


/* Each byte at each place of the eight that are looked at together. */

static void
no_byte_slips_through_a_run(void **state)
{
    int     ch, special;
    size_t  at;
    char    text[42];

    (void) state;

    for (ch = 0; ch < 256; ch++) {
        special = ch < 0x20 || ch == '"' || ch == '\\' || ch >= 0x80;

        for (at = 1; at < sizeof(text) - 1; at++) {

            memset(text, 'x', sizeof(text));
            text[0] = '"';
            text[sizeof(text) - 1] = '"';
            text[at] = (char) ch;

            assert_int_equal(judge(text, sizeof(text), 0).rc,
                             special ? -1 : 0);
        }
    }
}


/*
 * Jansson's verdict: 1 or 0, or -1 where it is another by right: it refuses
 * numbers that a double cannot hold, a NUL in a key and the escape of a lone
 * surrogate, which are JSON, and passes over a NUL behind a number or a
 * literal, which is not.  Told to keep integers as reals and duplicate keys as
 * they are, it agrees on all the rest; the texts are not nested deeply.
 */

static int
jansson_verdict(const char *text, size_t len)
{
    json_t        *json;
    json_error_t   error;

    json = json_loadb(text, len,
                      JSON_DECODE_ANY|JSON_DECODE_INT_AS_REAL|JSON_ALLOW_NUL,
                      &error);

    if (json != NULL) {
        json_decref(json);
        return (memchr(text, '\0', len) == NULL) ? 1 : -1;
    }

    if (json_error_code(&error) == json_error_numeric_overflow
        || json_error_code(&error) == json_error_null_byte_in_key
        || strstr(error.text, "invalid Unicode '\\u") != NULL)
    {
        return -1;
    }

    return 0;
}


static void
compare(const char *text, size_t len)
{
    int     expected;
    size_t  i;

    expected = jansson_verdict(text, len);

    if (expected == -1 || judge(text, len, 0).rc == expected - 1) {
        return;
    }

    for (i = 0; i < len; i++) {
        (void) fprintf(stderr, "%02x ", (unsigned char) text[i]);
    }

    fail_msg("jansson says %d", expected);
}


static void
jansson_agrees_on_the_tables(void **state)
{
    size_t  i;

    (void) state;

    for (i = 0; i < countof(valid); i++) {
        assert_int_equal(jansson_verdict(valid[i].text, valid[i].len), 1);
    }

    for (i = 0; i < countof(invalid); i++) {
        compare(invalid[i].text, invalid[i].len);
    }
}


static void
jansson_differs_where_we_know(void **state)
{
    size_t                i;
    static const valid_t  documents[] = {
        { S("1e999") },
        { S("[-1e999]") },
        { S("{\"\\u0000\":1}") },
        { S("\"\\ud800\"") },
        { S("\"\\udc00\"") },
        { S("\"\\ud800\\u0041\"") }
    };

    (void) state;

    for (i = 0; i < countof(documents); i++) {
        assert_int_equal(jansson_verdict(documents[i].text, documents[i].len),
                         -1);
        check(documents[i].text, documents[i].len, NULL, documents[i].len);
    }

    assert_int_equal(jansson_verdict(S("null\0")), -1);
    check(S("null\0"), "trailing data", 4);
}


static uint32_t
random_below(uint32_t limit)
{
    static uint64_t  seed = 0x9e3779b97f4a7c15;

    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;

    return (uint32_t) (seed >> 32) % limit;
}


/* Puts a token or a byte in, over, or takes some bytes away. */

static size_t
mutate(char *text, size_t len)
{
    size_t                    at, n;
    const char               *token;
    static const char *const  tokens[] = {
        "[", "]", "{", "}", ",", ":", "\"", "\\", "\\u", "00", "-", ".", "e",
        "true", "null", " ", "\n", "\x80", "\xc3\xa9", "\xed", "\xf0\x9f",
        "\"a\":", "[]", "{}", "1e5", "\x1f"
    };

    at = random_below((uint32_t) len + 1);

    switch (random_below(4)) {

    case 0:
        n = random_below(4);
        n = (n < len - at) ? n : len - at;
        memmove(text + at, text + at + n, len - at - n);
        return len - n;

    case 1:
        if (at < len) {
            text[at] = (char) random_below(256);
        }

        return len;

    case 2:
        if (at < len) {
            text[at] = (char) (text[at] ^ 1 << random_below(8));
        }

        return len;

    default:
        token = tokens[random_below(countof(tokens))];
        n = strlen(token);

        if (len + n > MUTANT_MAX) {
            return len;
        }

        memmove(text + at + n, text + at, len - at);
        memcpy(text + at, token, n);
        return len + n;
    }
}


static void
jansson_agrees_on_mutants(void **state)
{
    char           text[MUTANT_MAX];
    size_t         i, len;
    unsigned       n, edits;
    const valid_t *origin;

    (void) state;

    for (n = 0; n < MUTATIONS; n++) {
        origin = &valid[random_below(countof(valid))];

        len = origin->len;
        memcpy(text, origin->text, len);

        edits = 1 + random_below(3);

        for (i = 0; i < edits; i++) {
            len = mutate(text, len);
        }

        compare(text, len);
    }
}


int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(documents_are_accepted_at_every_split),
        cmocka_unit_test(faults_are_told_with_their_offset_at_every_split),
        cmocka_unit_test(an_error_is_final),
        cmocka_unit_test(nesting_ends_at_its_limit),
        cmocka_unit_test(brackets_close_what_they_opened),
        cmocka_unit_test(strings_are_utf8_and_nothing_else),
        cmocka_unit_test(no_byte_slips_through_a_run),
        cmocka_unit_test(jansson_agrees_on_the_tables),
        cmocka_unit_test(jansson_differs_where_we_know),
        cmocka_unit_test(jansson_agrees_on_mutants)
    };

    return cmocka_run_group_tests_name("vd_json", tests, NULL, NULL);
}
