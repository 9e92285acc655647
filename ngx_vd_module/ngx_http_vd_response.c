
/*
 * Copyright (C) The ngx_vd_module authors
 *
 * The receiver's response, out of nginx's buffer: see vd_http.h for how it is
 * read.
 */


#include "ngx_http_vd_module.h"


/* 1xx responses that are passed over before the final one */
#define NGX_HTTP_VD_MAX_INTERIM  8

/* the first size of the buffer for a reply of unknown length */
#define NGX_HTTP_VD_REPLY_SIZE   1024


static void ngx_http_vd_skip_interim(ngx_http_vd_ctx_t *ctx);
static ngx_int_t ngx_http_vd_header_done(ngx_http_vd_ctx_t *ctx);
static ngx_int_t ngx_http_vd_malformed(ngx_http_vd_ctx_t *ctx,
    const char *what);
static void ngx_http_vd_complete(ngx_http_vd_ctx_t *ctx);
static ngx_int_t ngx_http_vd_grow_reply(ngx_http_vd_ctx_t *ctx, size_t len);
static ngx_int_t ngx_http_vd_keep(ngx_http_vd_ctx_t *ctx, u_char *p,
    size_t len);


void
ngx_http_vd_start_response(ngx_http_vd_ctx_t *ctx)
{
    ngx_http_upstream_t  *u;

    u = ctx->clone->upstream;

    /* before 1.29.5 nginx does so only if a request has been sent */
    u->buffer.pos = u->buffer.start;
    u->buffer.last = u->buffer.start;

    vd_http_start(&ctx->http, NGX_HTTP_VD_MAX_INTERIM);

    ngx_memzero(&ctx->exchange, sizeof(vd_exchange_t));

    ctx->reply.len = 0;
    ngx_str_null(&ctx->retry_after);

    ctx->too_large = 0;
    ctx->unsendable = 0;
    ctx->unresolved = 0;
}


ngx_int_t
ngx_http_vd_too_early(ngx_http_vd_ctx_t *ctx)
{
    return ngx_http_vd_malformed(ctx,
                                 "a response before it was sent the request");
}


ngx_int_t
ngx_http_vd_process_header(ngx_http_request_t *r)
{
    ngx_buf_t            *b;
    ngx_http_vd_ctx_t    *ctx;
    ngx_http_upstream_t  *u;

    ctx = ngx_http_get_module_ctx(r, ngx_http_vd_module);

    u = r->upstream;
    b = &u->buffer;

    if (u->peer.connection->sent == 0) {
        return ngx_http_vd_too_early(ctx);
    }

    for ( ;; ) {

        switch (vd_http_read_head(&ctx->http, b->pos, b->last - b->pos)) {

        case VD_HTTP_INTERIM:
            ngx_http_vd_skip_interim(ctx);
            break;

        case VD_HTTP_HEAD:
            return ngx_http_vd_header_done(ctx);

        case VD_HTTP_AGAIN:

            if (b->last == b->end) {
                return ngx_http_vd_malformed(ctx, "too big header");
            }

            return NGX_AGAIN;

        default: /* VD_HTTP_ERROR */
            return ngx_http_vd_malformed(ctx, ctx->http.error);
        }
    }
}


/* Its bytes do not count against the size of the final header. */

static void
ngx_http_vd_skip_interim(ngx_http_vd_ctx_t *ctx)
{
    ngx_buf_t  *b;

    b = &ctx->clone->upstream->buffer;

    b->pos += ctx->http.size;

    ngx_memmove(b->start, b->pos, b->last - b->pos);

    b->last = b->start + (b->last - b->pos);
    b->pos = b->start;
}


static ngx_int_t
ngx_http_vd_header_done(ngx_http_vd_ctx_t *ctx)
{
    ngx_str_t             value;
    ngx_http_upstream_t  *u;

    u = ctx->clone->upstream;

    value.data = u->buffer.pos + ctx->http.retry_after;
    value.len = ctx->http.retry_after_len;

    if (value.len) {
        ctx->retry_after.data = ngx_pstrdup(ctx->clone->pool, &value);

        if (ctx->retry_after.data) {
            ctx->retry_after.len = value.len;
        }
    }

    u->buffer.pos += ctx->http.size;

    ctx->exchange.status = ctx->http.status;

    u->headers_in.status_n = ctx->http.status;
    u->state->status = ctx->http.status;

    return NGX_OK;
}


static ngx_int_t
ngx_http_vd_malformed(ngx_http_vd_ctx_t *ctx, const char *what)
{
    ngx_log_error(NGX_LOG_ERR, ctx->clone->connection->log, 0,
                  "upstream sent %s", what);

    ctx->exchange.malformed = 1;

    return NGX_HTTP_UPSTREAM_INVALID_HEADER;
}


ngx_int_t
ngx_http_vd_filter_init(void *data)
{
    ngx_http_vd_ctx_t *ctx = data;

    ngx_http_upstream_t  *u;

    u = ctx->clone->upstream;

    /*
     * Nothing of the reply is passed on to nginx's output filters; the one
     * that collects the output of in-memory subrequests would otherwise
     * allocate for it.
     */

    ctx->clone->headers_out.content_length_n = 0;

    if (ctx->http.length == 0) {
        ngx_http_vd_complete(ctx);

    } else {
        u->length = (ctx->http.length > 0 || ctx->http.chunked) ? 1 : -1;
    }

    return NGX_OK;
}


ngx_int_t
ngx_http_vd_filter(void *data, ssize_t bytes)
{
    ngx_http_vd_ctx_t *ctx = data;

    size_t                len;
    vd_http_e             rc;
    const unsigned char  *p, *last, *piece;
    ngx_http_upstream_t  *u;

    u = ctx->clone->upstream;

    p = u->buffer.last;
    last = p + bytes;

    do {
        rc = vd_http_read_body(&ctx->http, &p, last, &piece, &len);

        if (rc == VD_HTTP_PIECE
            && ngx_http_vd_keep(ctx, (u_char *) piece, len) != NGX_OK)
        {
            return NGX_ERROR;
        }

    } while (rc == VD_HTTP_PIECE);

    if (rc == VD_HTTP_ERROR) {
        (void) ngx_http_vd_malformed(ctx, ctx->http.error);
        return NGX_ERROR;
    }

    if (rc == VD_HTTP_DONE && !ctx->exchange.complete) {
        ngx_http_vd_complete(ctx);
    }

    if (rc == VD_HTTP_DONE && p != last) {
        ngx_log_error(NGX_LOG_WARN, ctx->clone->connection->log, 0,
                      "upstream sent more data than its response has");
        u->keepalive = 0;
    }

    return NGX_OK;
}


static void
ngx_http_vd_complete(ngx_http_vd_ctx_t *ctx)
{
    ngx_http_upstream_t  *u;

    u = ctx->clone->upstream;

    u->length = 0;
    u->keepalive = !ctx->http.close;

    ctx->exchange.complete = 1;
}


/* Of a reply over the limit no more is kept than the journal is to quote. */

static ngx_int_t
ngx_http_vd_keep(ngx_http_vd_ctx_t *ctx, u_char *p, size_t len)
{
    if (ctx->too_large) {
        return NGX_OK;
    }

    if (len > ctx->conf->max_response_size - ctx->reply.len) {
        ctx->too_large = 1;

        if (ctx->reply.len >= VD_RECORD_RESPONSE_MAX) {
            return NGX_OK;
        }

        len = ngx_min(len, VD_RECORD_RESPONSE_MAX - ctx->reply.len);
    }

    if (ctx->reply.len + len > ctx->reply_size
        && ngx_http_vd_grow_reply(ctx, len) != NGX_OK)
    {
        ctx->exchange.internal = 1;
        return NGX_ERROR;
    }

    ngx_memcpy(ctx->reply.data + ctx->reply.len, p, len);
    ctx->reply.len += len;

    return NGX_OK;
}


static ngx_int_t
ngx_http_vd_grow_reply(ngx_http_vd_ctx_t *ctx, size_t len)
{
    off_t    size;
    u_char  *data;

    if (ctx->http.length > 0) {
        size = ctx->http.length;

    } else {
        size = ngx_max(ctx->reply_size * 2, NGX_HTTP_VD_REPLY_SIZE);
    }

    size = ngx_min(size, (off_t) ctx->conf->max_response_size);
    size = ngx_max(size, (off_t) (ctx->reply.len + len));

    data = ngx_pnalloc(ctx->clone->pool, size);
    if (data == NULL) {
        return NGX_ERROR;
    }

    if (ctx->reply.data) {
        ngx_memcpy(data, ctx->reply.data, ctx->reply.len);
        (void) ngx_pfree(ctx->clone->pool, ctx->reply.data);
    }

    ctx->reply.data = data;
    ctx->reply_size = size;

    return NGX_OK;
}
