
/*
 * Copyright (C) The ngx_vd_module authors
 *
 * The SHA-256 (FIPS 180-4) of a body, for its record: by it a reader sees that
 * the same id came with another content.
 */


#ifndef VD_DIGEST_H_INCLUDED_
#define VD_DIGEST_H_INCLUDED_


#include <stddef.h>


#define VD_DIGEST_LEN  64


/*
 * vd_digest_start(), vd_digest_update() for each piece, vd_digest_finish(),
 * which writes VD_DIGEST_LEN lower-case hex digits without a NUL.  A process
 * has one digest, so not for two bodies at once.  Each returns 0, or -1 if
 * OpenSSL failed.
 */
int vd_digest_start(void);
int vd_digest_update(const unsigned char *data, size_t len);
int vd_digest_finish(unsigned char *hex);


#endif /* VD_DIGEST_H_INCLUDED_ */
