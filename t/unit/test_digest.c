
/*
 * Copyright (C) The ngx_vd_module authors
 */


#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "vd_digest.h"


#define countof(array)  (sizeof(array) / sizeof((array)[0]))


typedef struct {
    const char  *text;
    const char  *digest;
} digest_t;


/* The first three: FIPS 180-4's own examples, and the empty text. */

static const digest_t  digests[] = {

    { "abc",
      "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" },
    { "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
      "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1" },
    { "",
      "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855" },
    { "The quick brown fox jumps over the lazy dog",
      "d7a8fbb307d7809469ca9abcb0082e4f8d5651e46d3cdb762d02d0bf37c9e592" }
};


static void
digests_are_those_of_fips(void **state)
{
    size_t         i, len;
    unsigned char  hex[VD_DIGEST_LEN + 1];

    (void) state;

    for (i = 0; i < countof(digests); i++) {
        len = strlen(digests[i].text);
        memset(hex, '#', sizeof(hex));

        assert_int_equal(vd_digest_start(), 0);
        assert_int_equal(vd_digest_update((const unsigned char *)
                                          digests[i].text, len), 0);
        assert_int_equal(vd_digest_finish(hex), 0);

        assert_memory_equal(hex, digests[i].digest, VD_DIGEST_LEN);
        assert_int_equal(hex[VD_DIGEST_LEN], '#');
    }
}


static void
pieces_are_one_text(void **state)
{
    size_t                i, j, len;
    unsigned char         hex[VD_DIGEST_LEN];
    const unsigned char  *text;

    (void) state;

    text = (const unsigned char *) digests[1].text;
    len = strlen(digests[1].text);

    for (i = 0; i <= len; i++) {
        for (j = i; j <= len; j++) {
            assert_int_equal(vd_digest_start(), 0);
            assert_int_equal(vd_digest_update(text, i), 0);
            assert_int_equal(vd_digest_update(text + i, j - i), 0);
            assert_int_equal(vd_digest_update(text + j, len - j), 0);
            assert_int_equal(vd_digest_finish(hex), 0);

            assert_memory_equal(hex, digests[1].digest, VD_DIGEST_LEN);
        }
    }
}


/* A body that was refused in its midst is forgotten. */

static void
what_was_begun_before_does_not_count(void **state)
{
    unsigned char  hex[VD_DIGEST_LEN];

    (void) state;

    assert_int_equal(vd_digest_start(), 0);
    assert_int_equal(vd_digest_update((const unsigned char *) "{bad", 4), 0);

    assert_int_equal(vd_digest_start(), 0);
    assert_int_equal(vd_digest_update((const unsigned char *) "abc", 3), 0);
    assert_int_equal(vd_digest_finish(hex), 0);

    assert_memory_equal(hex, digests[0].digest, VD_DIGEST_LEN);
}


int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(digests_are_those_of_fips),
        cmocka_unit_test(pieces_are_one_text),
        cmocka_unit_test(what_was_begun_before_does_not_count)
    };

    return cmocka_run_group_tests_name("vd_digest", tests, NULL, NULL);
}
