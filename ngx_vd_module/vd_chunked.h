
/*
 * Copyright (C) The ngx_vd_module authors
 *
 * The chunked transfer coding, read strictly (RFC 9112, 7.1): what one reader
 * takes for a part of a size another takes for its end.
 */


#ifndef VD_CHUNKED_H_INCLUDED_
#define VD_CHUNKED_H_INCLUDED_


#include <stddef.h>
#include <stdint.h>


typedef enum {
    VD_CHUNKED_DATA = 0,
    VD_CHUNKED_AGAIN,       /* all was taken, more is to come */
    VD_CHUNKED_DONE,        /* the last chunk and its trailers were read */
    VD_CHUNKED_INVALID
} vd_chunked_e;


/* All zero at the beginning. */

typedef struct {
    unsigned  state;
    uint64_t  size;         /* that is left of the chunk */
} vd_chunked_t;


/*
 * Reads on from *p, which is moved, to end at most; pieces may end anywhere.
 * With VD_CHUNKED_DATA there are *len bytes of the body at *data.  After
 * VD_CHUNKED_DONE *p is behind the body, after VD_CHUNKED_INVALID at the byte
 * that cannot be.  Trailers are passed over.
 */
vd_chunked_e vd_chunked_read(vd_chunked_t *chunked, const unsigned char **p,
    const unsigned char *end, const unsigned char **data, size_t *len);


#endif /* VD_CHUNKED_H_INCLUDED_ */
