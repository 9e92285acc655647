
/*
 * Copyright (C) The ngx_vd_module authors
 *
 * Secrets and signatures against OpenSSL's base64 and HMAC().  The first byte
 * of the input chooses the scheme, the second is the secret's length; then
 * come the secret and the body, which is signed in pieces.
 */


#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/evp.h>
#include <openssl/hmac.h>

#include "vd_sign.h"


#define TIME    1614265330
#define ID      "msg_1"

#define NSCHEMES  6


int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);


/* What goes before the body, and how a value with one signature begins. */

static const char *const  before[NSCHEMES] = {
    "msg_1.1614265330.", "", "", "", "1614265330.", "v0:1614265330:"
};

static const char *const  labels[NSCHEMES] = {
    "v1,", "sha256=", "", "", "t=1614265330,v1=", "v0="
};


static void
require(int condition)
{
    if (!condition) {
        abort();
    }
}


/*
 * The key of a "whsec_" secret, decoded by OpenSSL with the padding that it
 * wants; 0 if the text is not of the alphabet, or not of a possible length.
 */

static size_t
decode(const uint8_t *text, size_t len, uint8_t *key)
{
    int       n;
    size_t    i, padding;
    uint8_t   padded[512];

    for (i = len; i > 0 && len % 4 == 0 && i + 2 > len; i--) {
        if (text[i - 1] != '=') {
            break;
        }
    }

    len = i;

    for (i = 0; i < len; i++) {
        if (strchr("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
                   "0123456789+/", text[i]) == NULL
            || text[i] == '\0')
        {
            return 0;
        }
    }

    if (len == 0 || len % 4 == 1) {
        return 0;
    }

    memcpy(padded, text, len);
    padding = (4 - len % 4) % 4;
    memset(padded + len, '=', padding);

    n = EVP_DecodeBlock(key, padded, (int) (len + padding));
    require(n > 0);

    return (size_t) n - padding;
}


static size_t
expected_key(unsigned scheme, const uint8_t *secret, size_t len, uint8_t *key)
{
    if (scheme == VD_SCHEME_STANDARD
        && len >= 6 && memcmp(secret, "whsec_", 6) == 0)
    {
        return decode(secret + 6, len - 6, key);
    }

    memcpy(key, secret, len);

    return len;
}


static size_t
expected_value(unsigned scheme, const uint8_t *key, size_t key_len,
    const uint8_t *body, size_t len, char *out)
{
    char      *p;
    size_t     i;
    uint8_t   *text, mac[EVP_MAX_MD_SIZE];

    i = strlen(before[scheme]);

    text = malloc(i + len + 1);
    require(text != NULL);

    memcpy(text, before[scheme], i);
    memcpy(text + i, body, len);

    require(HMAC(EVP_sha256(), key, (int) key_len, text, i + len, mac, NULL)
            != NULL);
    free(text);

    p = out + sprintf(out, "%s", labels[scheme]);

    if (scheme == VD_SCHEME_STANDARD || scheme == VD_SCHEME_BASE64) {
        p += EVP_EncodeBlock((unsigned char *) p, mac, 32);

    } else {
        for (i = 0; i < 32; i++) {
            p += sprintf(p, "%02x", mac[i]);
        }
    }

    return (size_t) (p - out);
}


static void
check_signature(unsigned scheme, const uint8_t *bytes, size_t bytes_len,
    const uint8_t *body, size_t len)
{
    char           expected[256];
    size_t         i, n, value_len;
    uint8_t       *value;
    vd_key_t      *key;
    vd_signer_t   *signer;

    key = vd_key_create(bytes, bytes_len);
    require(key != NULL);

    signer = vd_signer_create(&vd_schemes[scheme], &key, 1);
    require(signer != NULL);

    value = malloc(vd_sign_max_size(signer));
    require(value != NULL);

    require(vd_sign_start(signer, (const unsigned char *) ID, sizeof(ID) - 1,
                          TIME)
            == 0);

    for (i = 0; i < len; i += n) {
        n = 1 + body[i];
        n = (n < len - i) ? n : len - i;

        require(vd_sign_update(signer, body + i, n) == 0);
    }

    value_len = vd_sign_finish(signer, value);

    require(value_len <= vd_sign_max_size(signer));
    require(value_len == expected_value(scheme, bytes, bytes_len, body, len,
                                        expected));
    require(memcmp(value, expected, value_len) == 0);

    free(value);
    vd_signer_free(signer);
    vd_key_free(key);
}


int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    size_t     len, key_len;
    uint8_t   *secret, *key, expected[512];
    unsigned   scheme;

    if (size < 2) {
        return 0;
    }

    scheme = data[0] % NSCHEMES;
    len = (data[1] < size - 2) ? data[1] : size - 2;

    secret = malloc(len + (len == 0));
    require(secret != NULL);
    memcpy(secret, data + 2, len);

    key_len = vd_secret_key(&vd_schemes[scheme], secret, len, &key);

    require(key_len == expected_key(scheme, data + 2, len, expected));

    if (key_len > 0) {
        require(key >= secret && key + key_len <= secret + len);
        require(memcmp(key, expected, key_len) == 0);

        check_signature(scheme, key, key_len, data + 2 + len, size - 2 - len);
    }

    free(secret);

    return 0;
}
