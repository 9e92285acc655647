
/*
 * Copyright (C) The ngx_vd_module authors
 *
 * What a reader makes of a reply that comes in pieces; for the unit test and
 * the fuzzer of vd_http.
 */


#ifndef HTTP_REPLY_H_INCLUDED_
#define HTTP_REPLY_H_INCLUDED_


#include <stdlib.h>
#include <string.h>

#include <sanitizer/asan_interface.h>

#include "vd_http.h"


#define REPLY_INTERIM  8


typedef struct {
    vd_http_t       http;
    vd_http_e       end;        /* VD_HTTP_AGAIN: cut off, or too long */
    int             head;       /* whether the final head was whole */
    size_t          heads;      /* the length of all heads */
    size_t          used;       /* bytes that belong to the response */
    unsigned char  *body;
    size_t          body_len;
    char            retry_after[64];
} reply_t;


/* The length of the next piece, of those that are left; at least 1. */
typedef size_t (*reply_piece_pt)(void *data, size_t left);


/* Reads on, as far as the first "len" bytes reach. */

static vd_http_e
reply_feed(reply_t *reply, const unsigned char *data, size_t len)
{
    size_t                n;
    vd_http_e             rc;
    const unsigned char  *p, *piece;

    while (!reply->head) {
        p = data + reply->heads;

        rc = vd_http_read_head(&reply->http, p, len - reply->heads);

        if (rc == VD_HTTP_HEAD) {
            reply->head = 1;

            n = reply->http.retry_after_len;
            n = n < sizeof(reply->retry_after) ? n : 0;
            memcpy(reply->retry_after, p + reply->http.retry_after, n);
            reply->retry_after[n] = '\0';

        } else if (rc != VD_HTTP_INTERIM) {
            return rc;
        }

        reply->heads += reply->http.size;
        reply->used = reply->heads;
    }

    p = data + reply->used;

    for ( ;; ) {
        rc = vd_http_read_body(&reply->http, &p, data + len, &piece, &n);

        reply->used = p - data;

        if (rc != VD_HTTP_PIECE) {
            return rc;
        }

        memcpy(reply->body + reply->body_len, piece, n);
        reply->body_len += n;
    }
}


/*
 * What is to come is poisoned, so that a sanitizer sees who reads ahead.  The
 * body is the caller's to free.
 */

static void
reply_read(reply_t *reply, const unsigned char *data, size_t len,
    reply_piece_pt next, void *ctx)
{
    size_t          n;
    unsigned char  *copy;

    memset(reply, 0, sizeof(reply_t));

    copy = malloc(len + 1);
    memcpy(copy, data, len);
    reply->body = malloc(len + 1);

    vd_http_start(&reply->http, REPLY_INTERIM);

    reply->end = VD_HTTP_AGAIN;

    for (n = 0; n < len && reply->end == VD_HTTP_AGAIN; /* void */) {
        n += next(ctx, len - n);

        ASAN_POISON_MEMORY_REGION(copy + n, len + 1 - n);
        reply->end = reply_feed(reply, copy, n);
        ASAN_UNPOISON_MEMORY_REGION(copy, len + 1);
    }

    free(copy);

    if (reply->end == VD_HTTP_AGAIN) {
        reply->end = vd_http_end(&reply->http);
    }
}


#endif /* HTTP_REPLY_H_INCLUDED_ */
