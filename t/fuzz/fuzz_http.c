
/*
 * Copyright (C) The ngx_vd_module authors
 *
 * Any reply, whole and in pieces, which must come to the same.  The first two
 * bytes of the input choose the pieces; the rest is the reply.
 */


#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "../unit/http_reply.h"


int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);


static void
require(int condition)
{
    if (!condition) {
        abort();
    }
}


static size_t
piece_whole(void *data, size_t left)
{
    (void) data;

    return left;
}


/* Mostly short ones, as what ends a line is where readers err. */

static size_t
piece_random(void *data, size_t left)
{
    size_t     n;
    uint32_t  *seed = data;

    *seed = *seed * 1103515245 + 12345;

    n = (*seed >> 16 & 1) ? 1 + (*seed >> 17 & 3) : 1 + (*seed >> 17 & 63);

    return n < left ? n : left;
}


int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    reply_t   whole, pieces;
    uint32_t  seed;

    if (size < 2) {
        return 0;
    }

    seed = data[0] << 8 | data[1];
    data += 2;
    size -= 2;

    reply_read(&whole, data, size, piece_whole, NULL);
    reply_read(&pieces, data, size, piece_random, &seed);

    require(whole.end == pieces.end);
    require(whole.head == pieces.head);
    require(whole.used <= size && whole.body_len <= size);

    if (whole.end == VD_HTTP_ERROR) {
        require(whole.http.error != NULL);
        require(strcmp(whole.http.error, pieces.http.error) == 0);
    }

    if (whole.head) {
        require(whole.http.status >= 200 && whole.http.status <= 599);
        require(whole.http.status == pieces.http.status);
        require(whole.http.version == pieces.http.version);
        require(whole.http.close == pieces.http.close);
        require(whole.heads == pieces.heads);
        require(strcmp(whole.retry_after, pieces.retry_after) == 0);

        require(whole.used == pieces.used);
        require(whole.body_len == pieces.body_len);
        require(memcmp(whole.body, pieces.body, whole.body_len) == 0);

        require(whole.end != VD_HTTP_DONE || whole.http.chunked
                || whole.http.length < 0
                || whole.body_len == (size_t) whole.http.length);
    }

    free(whole.body);
    free(pieces.body);

    return 0;
}
