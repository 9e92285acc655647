
/*
 * Copyright (C) The ngx_vd_module authors
 */


#define _DEFAULT_SOURCE     /* MAP_ANONYMOUS */
#define _FILE_OFFSET_BITS  64

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/params.h>
#include <openssl/rand.h>

#include "vd_sign.h"


#define countof(array)  (sizeof(array) / sizeof((array)[0]))
#define S(literal)      literal, sizeof(literal) - 1

#define KEYS_MAX        3
#define OUT_MAX         512
#define VALUE_LEN       47      /* of "standard", with one key */


typedef struct {
    const char  *scheme;
    const char  *secrets[KEYS_MAX];
    const char  *id;
    uint64_t     time;
    const char  *body;
    const char  *value;
    const char  *wrong;         /* must not be the value */
} vector_t;


typedef struct {
    const char  *text;
    size_t       len;
    const char  *key;
    size_t       key_len;
} secret_t;


#define STANDARD_SECRET  "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
#define STANDARD_25      "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwBr"
#define STANDARD_VALUE   "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
#define STANDARD_25_VALUE                                                     \
    "v1,yK2tMbA6BHPrMEJ1lLv7UlJJbgFoqGenJkiajZ29evg="
#define STANDARD_MESSAGE                                                      \
    "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, "{\"test\": 2432232314}"


static const vector_t  vectors[] = {

    /* Standard Webhooks' own test */

    { "standard", { STANDARD_SECRET }, STANDARD_MESSAGE, STANDARD_VALUE,

      /* the secret's text as it is, not decoded */

      "v1,ELhqG0Ku1gwOc1f4jyKdp3SFGFLAOdJ9bvpWLciCakI=" },

    /* computed: 25 bytes, no padding; then a rotation, both ways */

    { "standard", { STANDARD_25 }, STANDARD_MESSAGE, STANDARD_25_VALUE, NULL },

    { "standard", { STANDARD_SECRET, STANDARD_25 }, STANDARD_MESSAGE,
      STANDARD_VALUE " " STANDARD_25_VALUE, NULL },

    { "standard", { STANDARD_25, STANDARD_SECRET }, STANDARD_MESSAGE,
      STANDARD_25_VALUE " " STANDARD_VALUE, NULL },

    /* GitHub's documentation; a second secret does not matter */

    { "github", { "It's a Secret to Everybody" }, "", 0, "Hello, World!",
      "sha256="
      "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17",
      NULL },

    { "github", { "It's a Secret to Everybody", "another" }, "", 0,
      "Hello, World!",
      "sha256="
      "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17",
      NULL },

    /* Slack's documentation */

    { "slack", { "8f742231b10e8888abcd99yyyzzz85a5" }, "", 1531420618,
      "token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J"
      "&team_domain=testteamnow&channel_id=G8PSS9T3V&channel_name=foobar"
      "&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect"
      "&text=&response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2F"
      "T1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN"
      "&trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c",
      "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503",
      NULL },

    /* computed */

    { "stripe", { "test_secret" }, "", 1614265330,
      "{\n  \"id\": \"evt_test_webhook\",\n  \"object\": \"event\"\n}",
      "t=1614265330,"
      "v1=c05b9f29a3822e2e49c6dc7a22d5180837cda147b34bdc9dd60ef969de17f350",
      NULL },

    /* Shopify's way */

    { "base64", { "shop-secret" }, "", 0, "{\"id\":1}",
      "plW8VGqq0nDMIEhDqaNNW99asdUCy7EIqLZVcQwtAZ0=", NULL },

    /* RFC 4231, test case 2 */

    { "hex", { "Jefe" }, "", 0, "what do ya want for nothing?",
      "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
      NULL }
};


/* "standard" takes them so; key NULL: refused. */

static const secret_t  secrets[] = {

    { S("whsec_Zm9v"), S("foo") },
    { S("whsec_Zm9vYg=="), S("foob") },
    { S("whsec_Zm9vYg"), S("foob") },
    { S("whsec_Zm9vYmE="), S("fooba") },
    { S("whsec_Zm9vYmE"), S("fooba") },
    { S("whsec_Zm9vYmFy"), S("foobar") },
    { S("whsec_AA=="), S("\0") },
    { S("whsec_+/+/"), S("\xfb\xff\xbf") },
    { S("whsec_////"), S("\xff\xff\xff") },

    /* bits that no byte has a use for, as in the 25 bytes above */

    { S("whsec_Zm9vYh"), S("foob") },

    /* not behind the prefix: bytes as they are */

    { S("Zm9v"), S("Zm9v") },
    { S("whsec"), S("whsec") },
    { S("WHSEC_Zm9v"), S("WHSEC_Zm9v") },
    { S(" whsec_Zm9v"), S(" whsec_Zm9v") },
    { S("whsec-Zm9v"), S("whsec-Zm9v") },

    { S("whsec_"), NULL, 0 },
    { S("whsec_="), NULL, 0 },
    { S("whsec_=="), NULL, 0 },
    { S("whsec_===="), NULL, 0 },
    { S("whsec_Z"), NULL, 0 },
    { S("whsec_Z==="), NULL, 0 },
    { S("whsec_Zm9vY"), NULL, 0 },
    { S("whsec_Zm9v="), NULL, 0 },
    { S("whsec_Zm9v===="), NULL, 0 },
    { S("whsec_Zm9vYg="), NULL, 0 },
    { S("whsec_Zm9vYg==="), NULL, 0 },
    { S("whsec_Zm9vYmE=="), NULL, 0 },
    { S("whsec_Zg==Zm9v"), NULL, 0 },
    { S("whsec_Zm=v"), NULL, 0 },
    { S("whsec_=m9v"), NULL, 0 },
    { S("whsec_ Zm9v"), NULL, 0 },
    { S("whsec_Zm9v\n"), NULL, 0 },
    { S("whsec_Zm9v "), NULL, 0 },
    { S("whsec_Zm\n9v"), NULL, 0 },
    { S("whsec_Zm9v\0"), NULL, 0 },
    { S("whsec_Zm-_"), NULL, 0 },
    { S("whsec_Zm9-"), NULL, 0 },
    { S("whsec_Zm9\xc3"), NULL, 0 },
    { S("whsec_whsec_"), NULL, 0 },
    { S("whsec_Zm9v.Zm9"), NULL, 0 }
};


static const vd_scheme_t *
scheme_named(const char *name)
{
    const vd_scheme_t  *scheme;

    scheme = vd_scheme_find((const unsigned char *) name, strlen(name));
    assert_non_null(scheme);

    return scheme;
}


/* Keys are made from copies, which are gone before anything is signed. */

static size_t
make_keys(const vd_scheme_t *scheme, const char *const *texts, vd_key_t **keys)
{
    size_t          n, len;
    unsigned char  *secret, *key;

    for (n = 0; n < KEYS_MAX && texts[n] != NULL; n++) {
        len = strlen(texts[n]);

        secret = malloc(len);
        assert_non_null(secret);
        memcpy(secret, texts[n], len);

        len = vd_secret_key(scheme, secret, len, &key);
        assert_int_not_equal(len, 0);

        keys[n] = vd_key_create(key, len);
        assert_non_null(keys[n]);

        memset(secret, 0, strlen(texts[n]));
        free(secret);
    }

    return n;
}


static void
check_value(vd_signer_t *signer, const vector_t *vector, size_t piece)
{
    size_t          i, n, len, max;
    unsigned char  *out;

    max = vd_sign_max_size(signer);

    /* of the exact size, so that a sanitizer sees a byte too many */

    out = malloc(max);
    assert_non_null(out);

    assert_int_equal(vd_sign_start(signer, (const unsigned char *) vector->id,
                                   strlen(vector->id), vector->time),
                     0);

    len = strlen(vector->body);

    for (i = 0; i < len; i += n) {
        n = (piece < len - i) ? piece : len - i;

        assert_int_equal(
            vd_sign_update(signer, (const unsigned char *) vector->body + i,
                           n),
            0);
    }

    n = vd_sign_finish(signer, out);

    assert_true(n <= max);
    assert_int_equal(n, strlen(vector->value));
    assert_memory_equal(out, vector->value, n);

    if (vector->wrong != NULL) {
        assert_true(n != strlen(vector->wrong)
                    || memcmp(out, vector->wrong, n) != 0);
    }

    free(out);
}


static void
vectors_hold_in_pieces_of_any_size(void **state)
{
    size_t              i, n, piece;
    vd_key_t           *keys[KEYS_MAX];
    vd_signer_t        *signer;
    const vd_scheme_t  *scheme;

    (void) state;

    for (i = 0; i < countof(vectors); i++) {
        scheme = scheme_named(vectors[i].scheme);
        n = make_keys(scheme, vectors[i].secrets, keys);

        signer = vd_signer_create(scheme, keys, n);
        assert_non_null(signer);

        for (piece = 1; piece <= strlen(vectors[i].body) + 1; piece++) {
            check_value(signer, &vectors[i], piece);
        }

        vd_signer_free(signer);

        while (n > 0) {
            vd_key_free(keys[--n]);
        }
    }
}


static void
stripe_signs_with_each_secret(void **state)
{
    size_t          i, n;
    vd_key_t       *keys[KEYS_MAX];
    vd_signer_t    *signer;
    unsigned char   out[OUT_MAX], mac[EVP_MAX_MD_SIZE];
    char            expected[OUT_MAX], *p;
    const char     *texts[KEYS_MAX] = { "whsec_one", "two", "three" };

    (void) state;

    n = make_keys(scheme_named("stripe"), texts, keys);

    signer = vd_signer_create(scheme_named("stripe"), keys, n);
    assert_non_null(signer);

    assert_int_equal(vd_sign_start(signer, NULL, 0, UINT64_MAX), 0);
    assert_int_equal(vd_sign_update(signer, (unsigned char *) "{}", 2), 0);

    p = expected + sprintf(expected, "t=18446744073709551615");

    for (n = 0; n < KEYS_MAX; n++) {
        assert_non_null(HMAC(EVP_sha256(), texts[n], (int) strlen(texts[n]),
                             (unsigned char *) "18446744073709551615.{}", 23,
                             mac, NULL));
        p += sprintf(p, ",v1=");

        for (i = 0; i < 32; i++) {
            p += sprintf(p, "%02x", mac[i]);
        }
    }

    assert_true(vd_sign_max_size(signer) <= sizeof(out));

    n = vd_sign_finish(signer, out);

    assert_int_equal(n, p - expected);
    assert_int_equal(n, vd_sign_max_size(signer));
    assert_memory_equal(out, expected, n);

    vd_signer_free(signer);

    for (n = 0; n < KEYS_MAX; n++) {
        vd_key_free(keys[n]);
    }
}


static void
a_signer_begins_anew_after_half_a_body(void **state)
{
    vd_key_t           *keys[KEYS_MAX];
    vd_signer_t        *signer;
    const vector_t     *vector;
    const vd_scheme_t  *scheme;

    (void) state;

    vector = &vectors[0];
    scheme = scheme_named(vector->scheme);

    (void) make_keys(scheme, vector->secrets, keys);

    signer = vd_signer_create(scheme, keys, 1);
    assert_non_null(signer);

    assert_int_equal(vd_sign_start(signer, (unsigned char *) "x", 1, 1), 0);
    assert_int_equal(vd_sign_update(signer, (unsigned char *) "half", 4), 0);

    check_value(signer, vector, 7);
    check_value(signer, vector, 7);

    vd_signer_free(signer);
    vd_key_free(keys[0]);
}


static void
one_key_serves_several_signers(void **state)
{
    vd_key_t     *keys[KEYS_MAX];
    vd_signer_t  *hex, *github;
    unsigned char out[2][OUT_MAX];
    const char   *texts[KEYS_MAX] = { "Jefe", NULL, NULL };

    (void) state;

    (void) make_keys(scheme_named("hex"), texts, keys);

    hex = vd_signer_create(scheme_named("hex"), keys, 1);
    github = vd_signer_create(scheme_named("github"), keys, 1);
    assert_non_null(hex);
    assert_non_null(github);

    assert_int_equal(vd_sign_start(hex, NULL, 0, 0), 0);
    assert_int_equal(vd_sign_start(github, NULL, 0, 0), 0);
    assert_int_equal(vd_sign_update(hex, (unsigned char *) "ab", 2), 0);
    assert_int_equal(vd_sign_update(github, (unsigned char *) "a", 1), 0);
    assert_int_equal(vd_sign_update(github, (unsigned char *) "b", 1), 0);

    assert_int_equal(vd_sign_finish(hex, out[0]), 64);
    assert_int_equal(vd_sign_finish(github, out[1]), 7 + 64);
    assert_memory_equal(out[0], out[1] + 7, 64);

    vd_signer_free(hex);
    vd_signer_free(github);
    vd_key_free(keys[0]);
}


/* The value of "hex", computed by OpenSSL's HMAC(). */

static void
check_against_hmac(const unsigned char *bytes, size_t len,
    const unsigned char *body, size_t body_len)
{
    size_t          i;
    vd_key_t       *key;
    vd_signer_t    *signer;
    unsigned char   out[64], mac[EVP_MAX_MD_SIZE];
    char            expected[65];

    key = vd_key_create(bytes, len);
    assert_non_null(key);

    signer = vd_signer_create(scheme_named("hex"), &key, 1);
    assert_non_null(signer);

    assert_int_equal(vd_sign_start(signer, NULL, 0, 0), 0);
    assert_int_equal(vd_sign_update(signer, body, body_len / 3), 0);
    assert_int_equal(vd_sign_update(signer, body + body_len / 3,
                                    body_len - body_len / 3),
                     0);
    assert_int_equal(vd_sign_finish(signer, out), 64);

    assert_non_null(HMAC(EVP_sha256(), bytes, (int) len, body, body_len, mac,
                         NULL));

    for (i = 0; i < 32; i++) {
        (void) sprintf(expected + 2 * i, "%02x", mac[i]);
    }

    assert_memory_equal(out, expected, 64);

    vd_signer_free(signer);
    vd_key_free(key);
}


static void
hmac_agrees_for_random_keys_and_bodies(void **state)
{
    size_t          len, body_len, round;
    unsigned char   key[200], body[600];

    (void) state;

    for (len = 0; len <= sizeof(key); len++) {
        for (round = 0; round < 10; round++) {

            assert_int_equal(RAND_bytes(key, sizeof(key)), 1);
            assert_int_equal(RAND_bytes(body, sizeof(body)), 1);

            body_len = (len * 31 + round * 67) % sizeof(body);

            check_against_hmac(key, len, body, body_len);
        }
    }
}


static void
secrets_are_decoded_strictly(void **state)
{
    size_t          i, len;
    unsigned char  *text, *key;

    (void) state;

    for (i = 0; i < countof(secrets); i++) {
        text = malloc(secrets[i].len);
        assert_non_null(text);
        memcpy(text, secrets[i].text, secrets[i].len);

        len = vd_secret_key(scheme_named("standard"), text, secrets[i].len,
                            &key);

        if (len != secrets[i].key_len) {
            fail_msg("\"%s\": %zu bytes", secrets[i].text, len);
        }

        if (len > 0) {
            assert_true(key >= text && key + len <= text + secrets[i].len);
            assert_memory_equal(key, secrets[i].key, len);
        }

        free(text);
    }
}


static void
other_schemes_leave_secrets_alone(void **state)
{
    unsigned char       text[] = STANDARD_SECRET, *key;
    const vd_scheme_t  *scheme;

    (void) state;

    for (scheme = &vd_schemes[VD_SCHEME_STANDARD + 1]; scheme->name != NULL;
         scheme++)
    {
        assert_int_equal(vd_secret_key(scheme, text, sizeof(text) - 1, &key),
                         sizeof(text) - 1);
        assert_ptr_equal(key, text);
        assert_memory_equal(text, STANDARD_SECRET, sizeof(text));
    }
}


/* Any bytes, with and without padding; behind the key all is wiped. */

static void
secrets_survive_base64(void **state)
{
    int             padded;
    size_t          i, len, key_len;
    unsigned char   bytes[100], text[6 + 4 * 34 + 1], *key;

    (void) state;

    for (len = 1; len <= sizeof(bytes); len++) {
        for (padded = 0; padded < 2; padded++) {

            assert_int_equal(RAND_bytes(bytes, (int) len), 1);

            memcpy(text, "whsec_", 6);
            (void) EVP_EncodeBlock(text + 6, bytes, (int) len);

            if (!padded) {
                text[6 + strcspn((char *) text + 6, "=")] = '\0';
            }

            i = strlen((char *) text);

            key_len = vd_secret_key(scheme_named("standard"), text, i, &key);

            assert_int_equal(key_len, len);
            assert_memory_equal(key, bytes, len);

            while (i > (size_t) (key - text) + key_len) {
                assert_int_equal(text[--i], 0);
            }
        }
    }
}


static void
schemes_are_those_of_the_interface(void **state)
{
    size_t                    i;
    static const vd_scheme_t  expected[] = {
        { VD_SCHEME_STANDARD, "standard", "webhook-signature", NULL, 1 },
        { VD_SCHEME_GITHUB, "github", "X-Hub-Signature-256", NULL, 0 },
        { VD_SCHEME_HEX, "hex", "X-Signature", NULL, 0 },
        { VD_SCHEME_BASE64, "base64", "X-Signature", NULL, 0 },
        { VD_SCHEME_STRIPE, "stripe", "Stripe-Signature", NULL, 1 },
        { VD_SCHEME_SLACK, "slack", "X-Slack-Signature",
          "X-Slack-Request-Timestamp", 0 }
    };

    (void) state;

    for (i = 0; i < countof(expected); i++) {
        assert_ptr_equal(scheme_named(expected[i].name), &vd_schemes[i]);
        assert_int_equal(vd_schemes[i].id, expected[i].id);
        assert_int_equal(vd_schemes[i].id, i);
        assert_string_equal(vd_schemes[i].header, expected[i].header);
        assert_int_equal(vd_schemes[i].all_keys, expected[i].all_keys);

        if (expected[i].timestamp_header == NULL) {
            assert_null(vd_schemes[i].timestamp_header);

        } else {
            assert_string_equal(vd_schemes[i].timestamp_header,
                                expected[i].timestamp_header);
        }
    }

    assert_null(vd_schemes[i].name);

    assert_null(vd_scheme_find((unsigned char *) S("")));
    assert_null(vd_scheme_find((unsigned char *) S("Hex")));
    assert_null(vd_scheme_find((unsigned char *) S("hexa")));
    assert_null(vd_scheme_find((unsigned char *) S("he")));
    assert_null(vd_scheme_find((unsigned char *) S("hex\0")));
}


/*
 * Where a core dump would show some bytes.  They, and the window through
 * which memory is read, are in pages of their own that are not searched;
 * neither is the stack, which is overwritten soon.
 */

#define PAGE      4096
#define WINDOW    (256 * PAGE)
#define NEEDLE    32

typedef struct {
    unsigned char  needle[PAGE];
    unsigned char  window[WINDOW];
} search_t;


static unsigned
count_in_range(int memory, search_t *search, uintptr_t from, uintptr_t to)
{
    ssize_t         n;
    unsigned        found;
    unsigned char  *p, *end;

    found = 0;

    while (to - from >= NEEDLE) {
        n = pread(memory, search->window,
                  (to - from < WINDOW) ? to - from : WINDOW, (off_t) from);

        if (n < NEEDLE) {
            break;
        }

        p = search->window;
        end = p + n - NEEDLE + 1;

        while ((p = memchr(p, search->needle[0], (size_t) (end - p))) != NULL)
        {
            found += memcmp(p, search->needle, NEEDLE) == 0;

            if (++p == end) {
                break;
            }
        }

        from += (uintptr_t) (n - NEEDLE + 1);
    }

    return found;
}


static unsigned
count_in_memory(search_t *search)
{
    int         memory;
    char        line[512], access[5], *name;
    FILE       *maps;
    unsigned    found;
    uintptr_t   from, to, own;

    maps = fopen("/proc/self/maps", "r");
    assert_non_null(maps);

    memory = open("/proc/self/mem", O_RDONLY);
    assert_int_not_equal(memory, -1);

    found = 0;
    own = (uintptr_t) search;

    while (fgets(line, sizeof(line), maps) != NULL) {

        assert_int_equal(sscanf(line, "%lx-%lx %4s", &from, &to, access), 3);

        name = strchr(line, '[');

        /* a sanitizer reserves terabytes for its own use */

        if (strncmp(access, "rw", 2) != 0
            || access[3] != 'p'
            || (name != NULL && strncmp(name, "[heap]", 6) != 0)
            || to - from > (uintptr_t) 1 << 30)
        {
            continue;
        }

        if (own >= from && own < to) {
            found += count_in_range(memory, search, from, own);
            from = own + sizeof(search_t);
        }

        found += count_in_range(memory, search, from, to);
    }

    (void) close(memory);
    (void) fclose(maps);

    return found;
}


static search_t *
search_create(void)
{
    search_t  *search;

    search = mmap(NULL, sizeof(search_t), PROT_READ|PROT_WRITE,
                  MAP_PRIVATE|MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(search, MAP_FAILED);

    assert_int_equal(RAND_bytes(search->needle, NEEDLE), 1);

    return search;
}


static void
a_key_is_not_left_in_memory(void **state)
{
    size_t                      i, p;
    vd_key_t                   *key;
    search_t                   *search;
    vd_signer_t                *signer;
    unsigned char               out[64];
    static const unsigned char  pads[] = { 0, 0x36, 0x36 ^ 0x5c };

    (void) state;

    search = search_create();

    key = vd_key_create(search->needle, NEEDLE);
    assert_non_null(key);

    signer = vd_signer_create(scheme_named("hex"), &key, 1);
    assert_non_null(signer);

    assert_int_equal(vd_sign_start(signer, NULL, 0, 0), 0);
    assert_int_equal(vd_sign_update(signer, (unsigned char *) "{}", 2), 0);
    assert_int_equal(vd_sign_finish(signer, out), 64);

    /* the key itself, then as HMAC pads it within and without */

    for (p = 0; p < countof(pads); p++) {
        for (i = 0; i < NEEDLE; i++) {
            search->needle[i] ^= pads[p];
        }

        assert_int_equal(count_in_memory(search), 0);
    }

    vd_signer_free(signer);
    vd_key_free(key);
    (void) munmap(search, sizeof(search_t));
}


/* What the search is worth: it finds the copy that EVP_MAC makes. */

static void
openssl_would_leave_a_key_in_memory(void **state)
{
    EVP_MAC      *mac;
    search_t     *search;
    OSSL_PARAM    params[2];
    EVP_MAC_CTX  *context;

    (void) state;

    search = search_create();

    mac = EVP_MAC_fetch(NULL, "HMAC", NULL);
    assert_non_null(mac);

    context = EVP_MAC_CTX_new(mac);
    assert_non_null(context);

    params[0] = OSSL_PARAM_construct_utf8_string("digest", "SHA256", 0);
    params[1] = OSSL_PARAM_construct_end();

    assert_int_equal(EVP_MAC_init(context, search->needle, NEEDLE, params), 1);

    assert_int_not_equal(count_in_memory(search), 0);

    EVP_MAC_CTX_free(context);
    EVP_MAC_free(mac);
    (void) munmap(search, sizeof(search_t));
}


/* OpenSSL's allocator: after so many calls it fails; -1: it never does. */

static int  allocations_left = -1;


static int
allocation_fails(void)
{
    if (allocations_left > 0) {
        allocations_left--;
    }

    return allocations_left == 0;
}


static void *
limited_malloc(size_t size, const char *file, int line)
{
    (void) file;
    (void) line;

    return allocation_fails() ? NULL : malloc(size);
}


static void *
limited_realloc(void *p, size_t size, const char *file, int line)
{
    (void) file;
    (void) line;

    return allocation_fails() ? NULL : realloc(p, size);
}


static void
limited_free(void *p, const char *file, int line)
{
    (void) file;
    (void) line;

    free(p);
}


/* Returns what vd_sign_finish() would, 0 too if it did not come so far. */

static size_t
sign_once(unsigned char *out)
{
    size_t        len;
    vd_key_t     *key;
    vd_signer_t  *signer;

    len = 0;
    signer = NULL;

    key = vd_key_create((unsigned char *) "Jefe", 4);

    if (key != NULL) {
        signer = vd_signer_create(scheme_named("standard"), &key, 1);
    }

    if (signer != NULL
        && vd_sign_start(signer, (unsigned char *) "id", 2, 1) == 0
        && vd_sign_update(signer, (unsigned char *) "{}", 2) == 0)
    {
        len = vd_sign_finish(signer, out);
    }

    vd_signer_free(signer);
    vd_key_free(key);

    return len;
}


static void
a_lack_of_memory_yields_no_signature(void **state)
{
    int            n;
    size_t         len;
    unsigned char  expected[VALUE_LEN], out[VALUE_LEN];

    (void) state;

    assert_int_equal(sign_once(expected), VALUE_LEN);

    for (n = 1; n < 1000; n++) {
        allocations_left = n;
        len = sign_once(out);

        if (allocations_left > 0) {
            break;
        }

        assert_true(len == 0 || len == VALUE_LEN);
        assert_true(len == 0 || memcmp(out, expected, len) == 0);
    }

    allocations_left = -1;

    assert_in_range(n, 5, 999);
    assert_int_equal(len, VALUE_LEN);
    assert_memory_equal(out, expected, VALUE_LEN);
}


int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(vectors_hold_in_pieces_of_any_size),
        cmocka_unit_test(stripe_signs_with_each_secret),
        cmocka_unit_test(a_signer_begins_anew_after_half_a_body),
        cmocka_unit_test(one_key_serves_several_signers),
        cmocka_unit_test(hmac_agrees_for_random_keys_and_bodies),
        cmocka_unit_test(secrets_are_decoded_strictly),
        cmocka_unit_test(other_schemes_leave_secrets_alone),
        cmocka_unit_test(secrets_survive_base64),
        cmocka_unit_test(schemes_are_those_of_the_interface),
        cmocka_unit_test(a_key_is_not_left_in_memory),
        cmocka_unit_test(openssl_would_leave_a_key_in_memory),
        cmocka_unit_test(a_lack_of_memory_yields_no_signature)
    };

    if (!CRYPTO_set_mem_functions(limited_malloc, limited_realloc,
                                  limited_free))
    {
        return 1;
    }

    return cmocka_run_group_tests_name("vd_sign", tests, NULL, NULL);
}
