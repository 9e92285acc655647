
/*
 * Copyright (C) The ngx_vd_module authors
 */


#include "vd_sign.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/crypto.h>
#include <openssl/evp.h>


#define VD_SHA256_BLOCK   64
#define VD_SHA256_LEN     32

#define VD_HEX_LEN        (2 * VD_SHA256_LEN)
#define VD_BASE64_LEN     44
#define VD_TIME_LEN       (sizeof("18446744073709551615") - 1)

#define VD_SECRET_PREFIX  "whsec_"


/* A scheme's bytes: what is signed before the body, and how a value looks. */

typedef struct {
    unsigned     id:1;          /* the delivery's id is signed first */
    const char  *before;        /* around the time that is signed, or NULL */
    const char  *after;

    unsigned     time:1;        /* the value begins with "t=" and the time */
    const char  *gap;           /* between two signatures */
    const char  *label;         /* before each signature */
    unsigned     base64:1;      /* else hex */
} vd_form_t;


typedef struct {
    const vd_key_t  *key;
    EVP_MD_CTX      *digest;
} vd_signature_t;


/*
 * Not EVP_MAC: that keeps the key for its next initialization.  Here are the
 * states of the inner and the outer digest after their first block, the
 * padded key; each signature starts from copies of them.
 */

struct vd_key_s {
    EVP_MD_CTX  *inner;
    EVP_MD_CTX  *outer;
};


struct vd_signer_s {
    const vd_form_t  *form;
    uint64_t          time;
    size_t            nsignatures;
    vd_signature_t    signatures[];
};


static size_t vd_base64_decode(unsigned char *text, size_t len);
static int vd_base64_value(unsigned char ch);
static int vd_key_init(vd_key_t *key, const unsigned char *bytes, size_t len);
static EVP_MD_CTX *vd_key_digest(const EVP_MD *md, const unsigned char *block,
    unsigned char pad);
static int vd_signature_finish(vd_signature_t *signature, unsigned char *mac);
static unsigned char *vd_append(unsigned char *out, const char *text);
static unsigned char *vd_append_hex(unsigned char *out,
    const unsigned char *mac);
static unsigned char *vd_append_base64(unsigned char *out,
    const unsigned char *mac);


const vd_scheme_t  vd_schemes[] = {

    { VD_SCHEME_STANDARD, "standard", "webhook-signature", NULL, 1 },
    { VD_SCHEME_GITHUB, "github", "X-Hub-Signature-256", NULL, 0 },
    { VD_SCHEME_HEX, "hex", "X-Signature", NULL, 0 },
    { VD_SCHEME_BASE64, "base64", "X-Signature", NULL, 0 },
    { VD_SCHEME_STRIPE, "stripe", "Stripe-Signature", NULL, 1 },
    { VD_SCHEME_SLACK, "slack", "X-Slack-Signature",
      "X-Slack-Request-Timestamp", 0 },

    { 0, NULL, NULL, NULL, 0 }
};


static const vd_form_t  vd_forms[] = {

    [VD_SCHEME_STANDARD] = { 1, ".", ".", 0, " ", "v1,", 1 },
    [VD_SCHEME_GITHUB] = { 0, NULL, NULL, 0, "", "sha256=", 0 },
    [VD_SCHEME_HEX] = { 0, NULL, NULL, 0, "", "", 0 },
    [VD_SCHEME_BASE64] = { 0, NULL, NULL, 0, "", "", 1 },
    [VD_SCHEME_STRIPE] = { 0, "", ".", 1, "", ",v1=", 0 },
    [VD_SCHEME_SLACK] = { 0, "v0:", ":", 0, "", "v0=", 0 }
};


const vd_scheme_t *
vd_scheme_find(const unsigned char *name, size_t len)
{
    const vd_scheme_t  *scheme;

    for (scheme = vd_schemes; scheme->name != NULL; scheme++) {

        if (strlen(scheme->name) == len
            && memcmp(scheme->name, name, len) == 0)
        {
            return scheme;
        }
    }

    return NULL;
}


size_t
vd_secret_key(const vd_scheme_t *scheme, unsigned char *secret, size_t len,
    unsigned char **key)
{
    size_t  prefix;

    prefix = sizeof(VD_SECRET_PREFIX) - 1;

    if (scheme->id != VD_SCHEME_STANDARD
        || len < prefix
        || memcmp(secret, VD_SECRET_PREFIX, prefix) != 0)
    {
        *key = secret;
        return len;
    }

    *key = secret + prefix;
    return vd_base64_decode(*key, len - prefix);
}


/*
 * Decodes in place and wipes what is left of the text.  EVP_DecodeBlock()
 * would want padding, count it as bytes, and pass over white space;
 * EVP_DecodeUpdate() would leave a copy of the secret on the heap.
 */

static size_t
vd_base64_decode(unsigned char *text, size_t len)
{
    int             value;
    size_t          i, end;
    unsigned        nbits;
    uint32_t        bits;
    unsigned char  *p;

    end = len;

    for (i = 0; i < 2 && len % 4 == 0 && end > 0 && text[end - 1] == '='; i++)
    {
        end--;
    }

    if (end % 4 == 1) {
        return 0;
    }

    p = text;
    bits = 0;
    nbits = 0;

    for (i = 0; i < end; i++) {

        value = vd_base64_value(text[i]);
        if (value == -1) {
            return 0;
        }

        bits = bits << 6 | (uint32_t) value;
        nbits += 6;

        if (nbits >= 8) {
            nbits -= 8;
            *p++ = (unsigned char) (bits >> nbits);
        }
    }

    OPENSSL_cleanse(p, (size_t) (text + len - p));

    return (size_t) (p - text);
}


static int
vd_base64_value(unsigned char ch)
{
    if (ch >= 'A' && ch <= 'Z') {
        return ch - 'A';
    }

    if (ch >= 'a' && ch <= 'z') {
        return ch - 'a' + 26;
    }

    if (ch >= '0' && ch <= '9') {
        return ch - '0' + 52;
    }

    return (ch == '+') ? 62 : (ch == '/') ? 63 : -1;
}


vd_key_t *
vd_key_create(const unsigned char *bytes, size_t len)
{
    vd_key_t  *key;

    key = calloc(1, sizeof(vd_key_t));
    if (key == NULL) {
        return NULL;
    }

    if (vd_key_init(key, bytes, len) != 0) {
        vd_key_free(key);
        return NULL;
    }

    return key;
}


static int
vd_key_init(vd_key_t *key, const unsigned char *bytes, size_t len)
{
    int            rc;
    EVP_MD        *md;
    unsigned char  block[VD_SHA256_BLOCK] = { 0 };

    md = EVP_MD_fetch(NULL, "SHA256", NULL);
    if (md == NULL) {
        return -1;
    }

    rc = 1;

    if (len > VD_SHA256_BLOCK) {
        rc = EVP_Digest(bytes, len, block, NULL, md, NULL);

    } else if (len > 0) {
        memcpy(block, bytes, len);
    }

    if (rc == 1) {
        key->inner = vd_key_digest(md, block, 0x36);
        key->outer = vd_key_digest(md, block, 0x5c);
    }

    OPENSSL_cleanse(block, sizeof(block));
    EVP_MD_free(md);

    return (key->inner != NULL && key->outer != NULL) ? 0 : -1;
}


static EVP_MD_CTX *
vd_key_digest(const EVP_MD *md, const unsigned char *block, unsigned char pad)
{
    int            ok;
    size_t         i;
    EVP_MD_CTX    *digest;
    unsigned char  padded[VD_SHA256_BLOCK];

    digest = EVP_MD_CTX_new();
    if (digest == NULL) {
        return NULL;
    }

    for (i = 0; i < VD_SHA256_BLOCK; i++) {
        padded[i] = block[i] ^ pad;
    }

    ok = EVP_DigestInit_ex2(digest, md, NULL)
         && EVP_DigestUpdate(digest, padded, VD_SHA256_BLOCK);

    OPENSSL_cleanse(padded, sizeof(padded));

    if (!ok) {
        EVP_MD_CTX_free(digest);
        return NULL;
    }

    return digest;
}


void
vd_key_free(vd_key_t *key)
{
    if (key == NULL) {
        return;
    }

    EVP_MD_CTX_free(key->inner);
    EVP_MD_CTX_free(key->outer);
    free(key);
}


vd_signer_t *
vd_signer_create(const vd_scheme_t *scheme, vd_key_t *const *keys,
    size_t nkeys)
{
    size_t           i, n;
    vd_signer_t     *signer;
    vd_signature_t  *signature;

    n = scheme->all_keys ? nkeys : 1;

    signer = calloc(1, sizeof(vd_signer_t) + n * sizeof(vd_signature_t));
    if (signer == NULL) {
        return NULL;
    }

    signer->form = &vd_forms[scheme->id];
    signer->nsignatures = n;

    for (i = 0; i < n; i++) {
        signature = &signer->signatures[i];

        signature->key = keys[i];
        signature->digest = EVP_MD_CTX_new();

        if (signature->digest == NULL) {
            vd_signer_free(signer);
            return NULL;
        }
    }

    return signer;
}


void
vd_signer_free(vd_signer_t *signer)
{
    size_t  i;

    if (signer == NULL) {
        return;
    }

    for (i = 0; i < signer->nsignatures; i++) {
        EVP_MD_CTX_free(signer->signatures[i].digest);
    }

    free(signer);
}


size_t
vd_sign_max_size(const vd_signer_t *signer)
{
    size_t            n, len;
    const vd_form_t  *form;

    form = signer->form;
    n = signer->nsignatures;

    len = form->time ? sizeof("t=") - 1 + VD_TIME_LEN : 0;

    len += (n - 1) * strlen(form->gap);
    len += n * strlen(form->label);
    len += n * (form->base64 ? VD_BASE64_LEN : VD_HEX_LEN);

    return len;
}


int
vd_sign_start(vd_signer_t *signer, const unsigned char *id, size_t id_len,
    uint64_t time)
{
    int               len;
    char              text[sizeof("v0::") + VD_TIME_LEN];
    size_t            i;
    vd_signature_t   *signature;
    const vd_form_t  *form;

    form = signer->form;
    signer->time = time;

    for (i = 0; i < signer->nsignatures; i++) {
        signature = &signer->signatures[i];

        if (!EVP_MD_CTX_copy_ex(signature->digest, signature->key->inner)) {
            return -1;
        }
    }

    if (form->id && vd_sign_update(signer, id, id_len) != 0) {
        return -1;
    }

    if (form->before == NULL) {
        return 0;
    }

    len = snprintf(text, sizeof(text), "%s%" PRIu64 "%s", form->before, time,
                   form->after);

    return vd_sign_update(signer, (unsigned char *) text, (size_t) len);
}


int
vd_sign_update(vd_signer_t *signer, const unsigned char *data, size_t len)
{
    size_t  i;

    for (i = 0; i < signer->nsignatures; i++) {

        if (!EVP_DigestUpdate(signer->signatures[i].digest, data, len)) {
            return -1;
        }
    }

    return 0;
}


size_t
vd_sign_finish(vd_signer_t *signer, unsigned char *out)
{
    char              text[sizeof("t=") + VD_TIME_LEN];
    size_t            i;
    unsigned char    *p, mac[VD_SHA256_LEN];
    const vd_form_t  *form;

    form = signer->form;
    p = out;

    if (form->time) {
        (void) snprintf(text, sizeof(text), "t=%" PRIu64, signer->time);
        p = vd_append(p, text);
    }

    for (i = 0; i < signer->nsignatures; i++) {

        if (vd_signature_finish(&signer->signatures[i], mac) != 0) {
            return 0;
        }

        if (i > 0) {
            p = vd_append(p, form->gap);
        }

        p = vd_append(p, form->label);
        p = form->base64 ? vd_append_base64(p, mac) : vd_append_hex(p, mac);
    }

    return (size_t) (p - out);
}


static int
vd_signature_finish(vd_signature_t *signature, unsigned char *mac)
{
    EVP_MD_CTX  *digest;

    digest = signature->digest;

    if (!EVP_DigestFinal_ex(digest, mac, NULL)
        || !EVP_MD_CTX_copy_ex(digest, signature->key->outer)
        || !EVP_DigestUpdate(digest, mac, VD_SHA256_LEN)
        || !EVP_DigestFinal_ex(digest, mac, NULL))
    {
        return -1;
    }

    return 0;
}


static unsigned char *
vd_append(unsigned char *out, const char *text)
{
    size_t  len;

    len = strlen(text);
    memcpy(out, text, len);

    return out + len;
}


static unsigned char *
vd_append_hex(unsigned char *out, const unsigned char *mac)
{
    static const char  hex[] = "0123456789abcdef";

    size_t  i;

    for (i = 0; i < VD_SHA256_LEN; i++) {
        *out++ = (unsigned char) hex[mac[i] >> 4];
        *out++ = (unsigned char) hex[mac[i] & 0x0f];
    }

    return out;
}


static unsigned char *
vd_append_base64(unsigned char *out, const unsigned char *mac)
{
    unsigned char  text[VD_BASE64_LEN + 1];

    (void) EVP_EncodeBlock(text, mac, VD_SHA256_LEN);
    memcpy(out, text, VD_BASE64_LEN);

    return out + VD_BASE64_LEN;
}
