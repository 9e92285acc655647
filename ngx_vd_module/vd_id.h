
/*
 * Copyright (C) The ngx_vd_module authors
 *
 * Ids and numbers that come from outside: made, and checked.
 */


#ifndef VD_ID_H_INCLUDED_
#define VD_ID_H_INCLUDED_


#include <stddef.h>
#include <stdint.h>


#define VD_UUID_LEN         36
#define VD_UUID_RANDOM      10

#define VD_ID_MAX           128
#define VD_OUTPUT_ID_MAX    64
#define VD_ATTEMPT_MAX      1000

/* a week: no receiver that errs, or means it ill, puts a case off for ever */
#define VD_RETRY_AFTER_MAX  604800


/*
 * Writes the UUIDv7 (RFC 9562, 5.7) of a Unix time in milliseconds and of
 * VD_UUID_RANDOM random bytes: VD_UUID_LEN lower-case characters, no NUL.
 */
void vd_uuid7(unsigned char *out, uint64_t msec, const unsigned char *random);

/* A delivery id: 1 to VD_ID_MAX of A-Za-z0-9_-; 1 if so, else 0. */
int vd_id_valid(const unsigned char *id, size_t len);

/* An output id: 1 to VD_OUTPUT_ID_MAX of A-Za-z0-9._-; 1 if so, else 0. */
int vd_output_id_valid(const unsigned char *id, size_t len);

/* An attempt's number: decimal digits, 1 to VD_ATTEMPT_MAX; -1 if not so. */
int vd_attempt_parse(const unsigned char *text, size_t len);

/*
 * Retry-After's delay-seconds (RFC 9110, 10.2.3): decimal digits; -1 if not so.
 * More than VD_RETRY_AFTER_MAX are that many.
 */
int vd_retry_after_parse(const unsigned char *text, size_t len);


#endif /* VD_ID_H_INCLUDED_ */
