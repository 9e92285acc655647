
/*
 * Copyright (C) The ngx_vd_module authors
 *
 * A response of HTTP/1.x, read as RFC 9112 has it: strictly, and in whatever
 * pieces it comes.  Nothing is allocated, copied or owned.
 */


#ifndef VD_HTTP_H_INCLUDED_
#define VD_HTTP_H_INCLUDED_


#include <stddef.h>
#include <stdint.h>


typedef enum {
    VD_HTTP_AGAIN = 0,          /* more is to come */
    VD_HTTP_INTERIM,            /* a head of status 1xx, to be passed over */
    VD_HTTP_HEAD,               /* the final head */
    VD_HTTP_PIECE,              /* of the body */
    VD_HTTP_DONE,               /* the end of the response */
    VD_HTTP_ERROR               /* it is no valid response, see "error" */
} vd_http_e;


typedef struct {
    /* of the final head, known as soon as VD_HTTP_HEAD was returned */
    unsigned              status;       /* 100 to 599 */
    unsigned              version;      /* 10 or 11 */
    int64_t               length;       /* by Content-Length, -1: none */
    size_t                retry_after;  /* the offset of its value in the
                                           head, and its length: 0 if there
                                           is none, or more than one */
    size_t                retry_after_len;

    /* the length of the last head, its empty line included */
    size_t                size;

    /* what the peer "sent", in words, after VD_HTTP_ERROR */
    const char           *error;

    unsigned              chunked:1;
    unsigned              close:1;      /* the connection is not kept */
    unsigned              has_length:1;
    unsigned              has_retry_after:1;

    /* internal */
    unsigned              interim;      /* heads of status 1xx so far */
    unsigned              max_interim;
    unsigned              state;
    size_t                scanned;      /* no line ends before that */
    int64_t               rest;         /* of the body, or of a chunk */
} vd_http_t;


/*
 * Begins a response.  Up to max_interim heads of status 1xx may come before
 * the final one; 101 may not, as nothing was asked that it could answer.
 */
void vd_http_start(vd_http_t *http, unsigned max_interim);

/*
 * Reads a head.  "data" has the bytes from its first one on, and is handed
 * over anew, longer, after VD_HTTP_AGAIN; how long it may become is up to the
 * caller.  After VD_HTTP_INTERIM the next head begins "size" bytes further on;
 * after VD_HTTP_HEAD the body does.  What cannot become a status line is
 * VD_HTTP_ERROR at its first wrong byte.
 *
 * Lines of a head end in CRLF or, as RFC 9112, 2.2 allows, in LF.  A field on
 * several lines (5.2) is an error, as it is to nginx.
 */
vd_http_e vd_http_read_head(vd_http_t *http, const unsigned char *data,
    size_t len);

/*
 * Reads on in the body: takes bytes from *p on and moves it.  VD_HTTP_PIECE
 * comes with a part of the content at *piece, which is never empty; after it,
 * and after nothing else, there is more to be read at *p.  What follows
 * the end of the response (VD_HTTP_DONE) is left where it is.
 */
vd_http_e vd_http_read_body(vd_http_t *http, const unsigned char **p,
    const unsigned char *last, const unsigned char **piece, size_t *len);

/*
 * The connection has ended, in order: whether that is the end of the response
 * (VD_HTTP_DONE) or cuts it off (VD_HTTP_AGAIN: more would have had to come).
 */
vd_http_e vd_http_end(const vd_http_t *http);


#endif /* VD_HTTP_H_INCLUDED_ */
