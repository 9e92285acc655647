
/*
 * Copyright (C) The ngx_vd_module authors
 *
 * Webhook signatures: HMAC-SHA256 (RFC 2104) in the forms that receivers
 * know.  "standard" is that of Standard Webhooks, version 1.
 */


#ifndef VD_SIGN_H_INCLUDED_
#define VD_SIGN_H_INCLUDED_


#include <stddef.h>
#include <stdint.h>


typedef enum {
    VD_SCHEME_STANDARD = 0,
    VD_SCHEME_GITHUB,
    VD_SCHEME_HEX,
    VD_SCHEME_BASE64,
    VD_SCHEME_STRIPE,
    VD_SCHEME_SLACK
} vd_scheme_e;


typedef struct {
    vd_scheme_e  id;
    const char  *name;
    const char  *header;            /* its default header */
    const char  *timestamp_header;  /* a further one, or NULL */
    unsigned     all_keys:1;        /* signs with each key, else the first */
} vd_scheme_t;


/* All of them, in the order of the enum; the entry after the last has no
 * name. */
extern const vd_scheme_t  vd_schemes[];

/* NULL if there is none of that name. */
const vd_scheme_t *vd_scheme_find(const unsigned char *name, size_t len);


/*
 * A secret's key bytes as a scheme takes them: "standard" decodes the base64
 * behind "whsec_" in place (padding may be missing), everything else is left
 * as it is.  Returns the key's length, which starts at *key, inside secret;
 * 0 if what follows "whsec_" is not base64 or is empty.
 */
size_t vd_secret_key(const vd_scheme_t *scheme, unsigned char *secret,
    size_t len, unsigned char **key);


/*
 * A keyed HMAC, made once for each secret.  The bytes of the key are not kept
 * (only the two digest states that they lead to), so that a caller who keeps
 * the key out of core dumps does not find a copy of it on the heap.
 * NULL if out of memory.  Owned by the caller, and to outlive its signers.
 */
typedef struct vd_key_s  vd_key_t;

vd_key_t *vd_key_create(const unsigned char *key, size_t len);
void vd_key_free(vd_key_t *key);


/*
 * A signer makes one header's value: vd_sign_start(), vd_sign_update() for
 * each piece of the body, vd_sign_finish(); then it can be used again.  Not
 * for two bodies at once.  It keeps the keys' addresses; schemes that sign
 * with one key use the first.  nkeys is at least 1.
 */
typedef struct vd_signer_s  vd_signer_t;

vd_signer_t *vd_signer_create(const vd_scheme_t *scheme,
    vd_key_t *const *keys, size_t nkeys);
void vd_signer_free(vd_signer_t *signer);

/* The most bytes that vd_sign_finish() writes. */
size_t vd_sign_max_size(const vd_signer_t *signer);

/* Each returns 0, or -1 if OpenSSL failed; time in Unix seconds. */
int vd_sign_start(vd_signer_t *signer, const unsigned char *id, size_t id_len,
    uint64_t time);
int vd_sign_update(vd_signer_t *signer, const unsigned char *data, size_t len);

/* Writes the value, without a NUL; returns its length, 0 if OpenSSL failed. */
size_t vd_sign_finish(vd_signer_t *signer, unsigned char *out);


#endif /* VD_SIGN_H_INCLUDED_ */
