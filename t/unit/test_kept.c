
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

#include "vd_kept.h"


#define countof(array)  (sizeof(array) / sizeof((array)[0]))
#define S(literal)      (const unsigned char *) literal, sizeof(literal) - 1

#define RANDOM_TIMES    20000
#define FRAME           5


typedef struct {
    vd_kept_t    values[4];
    size_t       n;
    const char  *text;
} example_t;


typedef struct {
    const char  *why;
    const char  *text;
} malformed_t;


/* The texts were made by Python: base64.urlsafe_b64encode(), "=" taken off. */

static const example_t  examples[] = {

    { { { 0 } }, 0, "AQ" },
    { { { VD_KEPT_CASE, NULL, 0, S("") } }, 1, "AUMAAAAA" },
    { { { VD_KEPT_CASE, NULL, 0, S("C-1") } }, 1, "AUMAAAADQy0x" },

    { { { VD_KEPT_CASE, NULL, 0, S("\xff\xfe\xfd\xfc") },
        { VD_KEPT_TYPE, NULL, 0, S("text/\xe9") },
        { VD_KEPT_HEADER, S("X-Tenant"), S("acme") },
        { VD_KEPT_NUMBERED, S("X-Try"), S("a/\x01") } }, 4,
      "AUMAAAAE__79_FQAAAAGdGV4dC_pSAAIAARYLVRlbmFudGFjbWVOAAUAA1gtVHJ5YS8B" }
};


static const malformed_t  malformed[] = {

    { "nothing", "" },
    { "half a byte", "A" },
    { "another version", "AA" },
    { "another version", "AkMAAAAA" },
    { "padding", "AQ==" },
    { "bits left over", "AR" },
    { "bits left over", "AUMAAAAEQy0xMB" },
    { "standard base64", "AUMAAAAE//79/A" },
    { "white space", "AUMA AAAA" },
    { "a line feed", "AUMAAAAA\n" },
    { "no base64", "AUM\xc3\xa9" },
    { "an unknown kind", "AUQAAAAA" },
    { "a kind and no more", "AUM" },
    { "half a frame", "AUMAAAA" },
    { "a value that is short", "AUMAAAAEQy0x" },
    { "a value that is long", "AUMAAAACQy0x" },
    { "a name that is short", "AUgABQAAWA" },
    { "a case with a name", "AUMAAQAAWA" },
    { "a type with a name", "AVQAAQAAWA" },
    { "a header without", "AUgAAAAA" },
    { "a number without", "AU4AAAAA" }
};


static uint32_t
random_below(uint32_t limit)
{
    static uint64_t  seed = 1;

    seed = seed * 6364136223846793005 + 1442695040888963407;

    return (uint32_t) ((seed >> 33) % limit);
}


/* From memory of its size, so that reading past it is seen. */

static size_t
read_text(const char *text, size_t len, unsigned char *out)
{
    size_t          n;
    unsigned char  *copy;

    copy = malloc(len);
    assert_non_null(copy);
    memcpy(copy, text, len);

    n = vd_kept_read(copy, len, out);

    free(copy);

    return n;
}


static char *
write_text(const vd_kept_t *values, size_t n, size_t *len)
{
    char  *text;

    *len = vd_kept_size(values, n);

    text = malloc(*len);
    assert_non_null(text);

    vd_kept_write(values, n, (unsigned char *) text);

    return text;
}


static void
check_found(const unsigned char *data, size_t len, const vd_kept_t *value)
{
    vd_kept_t       found;
    vd_kept_kind_e  kind;

    kind = (value->kind == VD_KEPT_NUMBERED) ? VD_KEPT_HEADER : value->kind;

    assert_int_equal(vd_kept_find(data, len, kind, value->name,
                                  value->name_len, &found), 1);

    assert_int_equal(found.kind, value->kind);
    assert_int_equal(found.value_len, value->value_len);
    assert_memory_equal(found.value, value->value, value->value_len);
}


static void
texts_are_as_documented(void **state)
{
    char           *text;
    size_t          i, j, len;
    unsigned char   data[VD_KEPT_BYTES];

    (void) state;

    for (i = 0; i < countof(examples); i++) {
        text = write_text(examples[i].values, examples[i].n, &len);

        assert_int_equal(len, strlen(examples[i].text));
        assert_memory_equal(text, examples[i].text, len);

        len = read_text(text, len, data);
        assert_int_not_equal(len, 0);

        for (j = 0; j < examples[i].n; j++) {
            check_found(data, len, &examples[i].values[j]);
        }

        free(text);
    }
}


static void
what_is_malformed_is_refused(void **state)
{
    size_t         i;
    unsigned char  data[VD_KEPT_BYTES];

    (void) state;

    for (i = 0; i < countof(malformed); i++) {

        if (read_text(malformed[i].text, strlen(malformed[i].text), data) != 0)
        {
            fail_msg("%s: %s", malformed[i].why, malformed[i].text);
        }
    }

    assert_int_equal(read_text("AUMA\0AAAA", 9, data), 0);
}


/* None is cut short unseen, but where it ends with a value. */

static void
no_part_of_a_text_is_one(void **state)
{
    char            text[80];
    size_t          i, n, len;
    const char     *whole;
    unsigned char   data[VD_KEPT_BYTES];

    (void) state;

    whole = examples[3].text;
    len = strlen(whole);

    for (i = 0; i < len; i++) {
        n = read_text(whole, i, data);

        assert_true(n == 0 || n == 1 || n == 1 + 9 || n == 1 + 9 + 11
                    || n == 1 + 9 + 11 + 17);
    }

    memcpy(text, whole, len);
    text[len] = 'A';

    assert_int_equal(read_text(text, len + 1, data), 0);
    assert_int_equal(read_text(text, len, data), len * 3 / 4);
}


static void
the_limit_is_to_the_character(void **state)
{
    char           *text;
    size_t          len;
    vd_kept_t       value = { VD_KEPT_CASE, NULL, 0, NULL, 0 };
    unsigned char   data[VD_KEPT_BYTES], longest[VD_KEPT_BYTES];

    (void) state;

    memset(longest, 'x', sizeof(longest));

    value.value = longest;
    value.value_len = VD_KEPT_BYTES - 1 - FRAME;

    text = write_text(&value, 1, &len);
    assert_int_equal(len, VD_KEPT_MAX);
    assert_int_equal(read_text(text, len, data), VD_KEPT_BYTES);
    check_found(data, VD_KEPT_BYTES, &value);
    free(text);

    value.value_len++;

    text = write_text(&value, 1, &len);
    assert_true(len > VD_KEPT_MAX);
    assert_int_equal(read_text(text, len, data), 0);
    free(text);

    /* what a length could not hold is far beyond */

    value.value_len = 10 * 1024 * 1024;
    assert_true(vd_kept_size(&value, 1) > value.value_len);
}


static void
names_are_found_in_any_case(void **state)
{
    size_t          n, len;
    char           *text;
    vd_kept_t       found;
    unsigned char   data[VD_KEPT_BYTES];

    static const vd_kept_t  values[] = {
        { VD_KEPT_HEADER, S("X-A"), S("first") },
        { VD_KEPT_HEADER, S("X-AB"), S("longer") },
        { VD_KEPT_NUMBERED, S("X-N"), S("\x01") },
        { VD_KEPT_HEADER, S("x-a"), S("second") },
        { VD_KEPT_CASE, NULL, 0, S("C") }
    };

    (void) state;

    text = write_text(values, countof(values), &len);
    n = read_text(text, len, data);
    free(text);

    assert_int_equal(vd_kept_find(data, n, VD_KEPT_HEADER, S("x-A"), &found),
                     1);
    assert_int_equal(found.value_len, 5);
    assert_memory_equal(found.value, "first", 5);

    assert_int_equal(vd_kept_find(data, n, VD_KEPT_HEADER, S("x-ab"), &found),
                     1);
    assert_memory_equal(found.value, "longer", 6);

    assert_int_equal(vd_kept_find(data, n, VD_KEPT_HEADER, S("x-n"), &found),
                     1);
    assert_int_equal(found.kind, VD_KEPT_NUMBERED);

    assert_int_equal(vd_kept_find(data, n, VD_KEPT_HEADER, S("X-"), &found), 0);
    assert_int_equal(vd_kept_find(data, n, VD_KEPT_HEADER, S("X-B"), &found),
                     0);
    assert_int_equal(vd_kept_find(data, n, VD_KEPT_TYPE, NULL, 0, &found), 0);
    assert_int_equal(vd_kept_find(data, n, VD_KEPT_CASE, NULL, 0, &found), 1);

    /* nothing is in nothing */
    assert_int_equal(vd_kept_find(NULL, 0, VD_KEPT_CASE, NULL, 0, &found), 0);
}


static void
random_values_come_back(void **state)
{
    char                  name[8][4], *text;
    size_t                i, j, n, len;
    vd_kept_t             values[8];
    unsigned char         bytes[8][64], data[VD_KEPT_BYTES];
    static const int      kinds[] = { VD_KEPT_HEADER, VD_KEPT_NUMBERED };

    (void) state;

    for (i = 0; i < RANDOM_TIMES; i++) {
        n = random_below(9);

        for (j = 0; j < n; j++) {
            values[j].kind = (vd_kept_kind_e) kinds[random_below(2)];
            values[j].name_len = (size_t) snprintf(name[j], sizeof(name[j]),
                                                   "%zu", j + 1);
            values[j].name = (unsigned char *) name[j];
            values[j].value_len = random_below(sizeof(bytes[j]));
            values[j].value = bytes[j];

            for (len = 0; len < values[j].value_len; len++) {
                bytes[j][len] = (unsigned char) random_below(256);
            }
        }

        text = write_text(values, n, &len);
        len = read_text(text, len, data);
        free(text);

        for (j = 0; j < n; j++) {
            check_found(data, len, &values[j]);
        }
    }
}


int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(texts_are_as_documented),
        cmocka_unit_test(what_is_malformed_is_refused),
        cmocka_unit_test(no_part_of_a_text_is_one),
        cmocka_unit_test(the_limit_is_to_the_character),
        cmocka_unit_test(names_are_found_in_any_case),
        cmocka_unit_test(random_values_come_back)
    };

    return cmocka_run_group_tests_name("vd_kept", tests, NULL, NULL);
}
