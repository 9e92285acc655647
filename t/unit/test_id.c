
/*
 * Copyright (C) The ngx_vd_module authors
 */


#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "vd_id.h"


#define countof(array)  (sizeof(array) / sizeof((array)[0]))


typedef int (*valid_pt)(const unsigned char *text, size_t len);


typedef struct {
    uint64_t     msec;
    const char  *random;
    const char  *uuid;
} uuid_t;


static const uuid_t  uuids[] = {

    /* RFC 9562, appendix A.6: 2022-02-22 14:22:22 -05:00 */

    { 0x017f22e279b0, "\x0c\xc3\x18\xc4\xdc\x0c\x0c\x07\x39\x8f",
      "017f22e2-79b0-7cc3-98c4-dc0c0c07398f" },

    /* version and variant stand whatever is random */

    { 0, "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
      "00000000-0000-7000-8000-000000000000" },
    { 0xffffffffffff, "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
      "ffffffff-ffff-7fff-bfff-ffffffffffff" },

    /* more than 48 bits do not spill over */

    { UINT64_MAX, "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
      "ffffffff-ffff-7000-8000-000000000000" },
    { 1, "\x12\x34\x56\x78\x9a\xbc\xde\xf0\x12\x34",
      "00000000-0001-7234-9678-9abcdef01234" }
};


static void
uuids_have_their_bits_in_place(void **state)
{
    size_t         i;
    unsigned char  out[VD_UUID_LEN + 1];

    (void) state;

    for (i = 0; i < countof(uuids); i++) {
        memset(out, '#', sizeof(out));

        vd_uuid7(out, uuids[i].msec, (const unsigned char *) uuids[i].random);

        assert_memory_equal(out, uuids[i].uuid, VD_UUID_LEN);
        assert_int_equal(out[VD_UUID_LEN], '#');
    }
}


static void
uuids_sort_by_time(void **state)
{
    int            i;
    uint64_t       msec;
    unsigned char  earlier[VD_UUID_LEN], later[VD_UUID_LEN];

    (void) state;

    for (i = 0; i < 47; i++) {
        msec = (uint64_t) 1 << i;

        vd_uuid7(earlier, msec - 1, (unsigned char *) "\xff\xff\xff\xff\xff"
                                                      "\xff\xff\xff\xff\xff");
        vd_uuid7(later, msec, (unsigned char *) "\0\0\0\0\0\0\0\0\0\0");

        assert_true(memcmp(earlier, later, VD_UUID_LEN) < 0);
    }
}


static void
a_uuid_is_a_valid_id(void **state)
{
    unsigned char  out[VD_UUID_LEN];

    (void) state;

    vd_uuid7(out, 1700000000000, (unsigned char *) "0123456789");

    assert_true(vd_id_valid(out, VD_UUID_LEN));
    assert_true(vd_output_id_valid(out, VD_UUID_LEN));
}


/* Each byte, alone and at either end of others. */

static void
check_alphabet(valid_pt valid, const char *alphabet)
{
    int            ch, expected;
    unsigned char  text[3];

    for (ch = 0; ch < 256; ch++) {
        expected = ch != 0 && strchr(alphabet, ch) != NULL;

        memcpy(text, "a-z", 3);
        text[0] = (unsigned char) ch;
        assert_int_equal(valid(text, 1), expected);
        assert_int_equal(valid(text, 3), expected);

        memcpy(text, "a-z", 3);
        text[2] = (unsigned char) ch;
        assert_int_equal(valid(text, 3), expected);
    }
}


static void
check_lengths(valid_pt valid, size_t max)
{
    size_t         len;
    unsigned char  text[VD_ID_MAX + 2];

    memset(text, 'x', sizeof(text));

    for (len = 0; len <= max + 1; len++) {
        assert_int_equal(valid(text, len), len >= 1 && len <= max);
    }
}


#define ALNUM  "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"


static void
delivery_ids_have_their_alphabet_and_length(void **state)
{
    (void) state;

    check_alphabet(vd_id_valid, ALNUM "_-");
    check_lengths(vd_id_valid, 128);
}


static void
output_ids_have_their_alphabet_and_length(void **state)
{
    (void) state;

    check_alphabet(vd_output_id_valid, ALNUM "._-");
    check_lengths(vd_output_id_valid, 64);
}


static void
attempts_are_1_to_1000(void **state)
{
    int   i;
    char  text[32];

    (void) state;

    for (i = 0; i <= 100000; i++) {
        (void) snprintf(text, sizeof(text), "%d", i);

        assert_int_equal(vd_attempt_parse((unsigned char *) text,
                                          strlen(text)),
                         (i >= 1 && i <= 1000) ? i : -1);
    }
}


static void
attempts_are_nothing_but_digits(void **state)
{
    int                       ch;
    size_t                    i;
    unsigned char             text[2];
    static const char *const  bad[] = {
        "", " ", "-1", "+1", " 1", "1 ", "1\n", "0x1", "1e2", "1.0", "1a",
        "a", "\xd9\xa1", "0", "000", "1001", "10000", "4294967297",
        "18446744073709551617", "99999999999999999999999999999999999999"
    };

    (void) state;

    for (i = 0; i < countof(bad); i++) {
        assert_int_equal(vd_attempt_parse((const unsigned char *) bad[i],
                                          strlen(bad[i])),
                         -1);
    }

    for (ch = 0; ch < 256; ch++) {
        text[0] = '1';
        text[1] = (unsigned char) ch;

        assert_int_equal(vd_attempt_parse(text, 2),
                         (ch >= '0' && ch <= '9') ? 10 + ch - '0' : -1);
    }

    assert_int_equal(vd_attempt_parse((unsigned char *) "12345", 2), 12);
    assert_int_equal(vd_attempt_parse((unsigned char *) "007", 3), 7);
}


static void
delays_are_digits_and_at_most_a_week(void **state)
{
    int                       i, ch;
    size_t                    len;
    unsigned char             text[64];
    static const char *const  bad[] = {
        "", " ", "-1", "+1", " 1", "1 ", "1\t", "0x1", "1e2", "1.0", "5s",
        "5, 5", "5;", "soon", "\xd9\xa1", "Sun, 06 Nov 1994 08:49:37 GMT",
        "99999999999999999999x"
    };

    (void) state;

    for (i = 0; i <= 700000; i += (i < 600000) ? 997 : 1) {
        len = (size_t) snprintf((char *) text, sizeof(text), "%d", i);

        assert_int_equal(vd_retry_after_parse(text, len),
                         i < 604800 ? i : 604800);
    }

    for (len = 7; len <= sizeof(text); len++) {
        memset(text, '9', len);
        assert_int_equal(vd_retry_after_parse(text, len), 604800);

        memset(text, '0', len - 1);
        assert_int_equal(vd_retry_after_parse(text, len), 9);
        assert_int_equal(vd_retry_after_parse(text, len - 1), 0);
    }

    for (i = 0; i < (int) countof(bad); i++) {
        assert_int_equal(vd_retry_after_parse((const unsigned char *) bad[i],
                                              strlen(bad[i])),
                         -1);
    }

    for (ch = 0; ch < 256; ch++) {
        text[0] = '1';
        text[1] = (unsigned char) ch;

        assert_int_equal(vd_retry_after_parse(text, 2),
                         (ch >= '0' && ch <= '9') ? 10 + ch - '0' : -1);
    }

    assert_int_equal(vd_retry_after_parse(NULL, 0), -1);
}


int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(uuids_have_their_bits_in_place),
        cmocka_unit_test(uuids_sort_by_time),
        cmocka_unit_test(a_uuid_is_a_valid_id),
        cmocka_unit_test(delivery_ids_have_their_alphabet_and_length),
        cmocka_unit_test(output_ids_have_their_alphabet_and_length),
        cmocka_unit_test(attempts_are_1_to_1000),
        cmocka_unit_test(attempts_are_nothing_but_digits),
        cmocka_unit_test(delays_are_digits_and_at_most_a_week)
    };

    return cmocka_run_group_tests_name("vd_id", tests, NULL, NULL);
}
