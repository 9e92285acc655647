
/*
 * Copyright (C) The ngx_vd_module authors
 */


#include "vd_digest.h"

#include <openssl/evp.h>


/* Made by the first body, and kept: a fetch for each would cost more. */

static EVP_MD      *vd_sha256;
static EVP_MD_CTX  *vd_digest;


int
vd_digest_start(void)
{
    if (vd_sha256 == NULL) {
        vd_sha256 = EVP_MD_fetch(NULL, "SHA256", NULL);
    }

    if (vd_digest == NULL) {
        vd_digest = EVP_MD_CTX_new();
    }

    if (vd_sha256 == NULL || vd_digest == NULL
        || !EVP_DigestInit_ex2(vd_digest, vd_sha256, NULL))
    {
        return -1;
    }

    return 0;
}


int
vd_digest_update(const unsigned char *data, size_t len)
{
    return EVP_DigestUpdate(vd_digest, data, len) ? 0 : -1;
}


int
vd_digest_finish(unsigned char *hex)
{
    static const char  digits[] = "0123456789abcdef";

    size_t         i;
    unsigned char  digest[VD_DIGEST_LEN / 2];

    if (!EVP_DigestFinal_ex(vd_digest, digest, NULL)) {
        return -1;
    }

    for (i = 0; i < sizeof(digest); i++) {
        *hex++ = (unsigned char) digits[digest[i] >> 4];
        *hex++ = (unsigned char) digits[digest[i] & 0x0f];
    }

    return 0;
}
