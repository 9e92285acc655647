
/*
 * Copyright (C) The ngx_vd_module authors
 *
 * Kept values: what an attempt sends that came from the app's request.  They
 * travel in the journal's record and in a retry's VD-Kept, as base64url
 * (RFC 4648, 5; no padding) of a version, one byte, and of each value:
 *
 *     1 byte     its kind
 *     2 bytes    the length of its name, big-endian
 *     2 bytes    its own length
 *                the name, the value
 */


#ifndef VD_KEPT_H_INCLUDED_
#define VD_KEPT_H_INCLUDED_


#include <stddef.h>


/* of the text, so that it fits a header line of nginx's by default */
#define VD_KEPT_MAX     6144

/* of what it is decoded to */
#define VD_KEPT_BYTES   (VD_KEPT_MAX / 4 * 3)

/* in a value that is VD_KEPT_NUMBERED: here goes the attempt's number */
#define VD_KEPT_NUMBER  0x01


typedef enum {
    VD_KEPT_CASE = 'C',             /* has no name */
    VD_KEPT_TYPE = 'T',             /* the app's Content-Type, no name */
    VD_KEPT_HEADER = 'H',
    VD_KEPT_NUMBERED = 'N'          /* a header too */
} vd_kept_kind_e;


/* Names and values may hold any bytes.  Nothing is owned. */

typedef struct {
    vd_kept_kind_e        kind;
    const unsigned char  *name;
    size_t                name_len;
    const unsigned char  *value;
    size_t                value_len;
} vd_kept_t;


/* The length of the text; not to be written if it is over VD_KEPT_MAX. */
size_t vd_kept_size(const vd_kept_t *values, size_t n);

/* Writes the text, vd_kept_size() characters without a NUL. */
void vd_kept_write(const vd_kept_t *values, size_t n, unsigned char *out);

/*
 * Decodes a text to out, which has VD_KEPT_BYTES; returns how many it took, 0
 * if the text is too long or is not what vd_kept_write() writes.
 */
size_t vd_kept_read(const unsigned char *text, size_t len, unsigned char *out);

/*
 * Finds the first value of a kind and a name, of any case, in what
 * vd_kept_read() has decoded: 1 if there is one, else 0.  What is looked for as
 * VD_KEPT_HEADER may be found as VD_KEPT_NUMBERED.
 */
int vd_kept_find(const unsigned char *data, size_t len, vd_kept_kind_e kind,
    const unsigned char *name, size_t name_len, vd_kept_t *found);


#endif /* VD_KEPT_H_INCLUDED_ */
