
/*
 * Copyright (C) The ngx_vd_module authors
 *
 * The receiver's response: read strictly as HTTP/1.x (RFC 9112).  Of its
 * headers only those count that frame the message, and Retry-After.
 */


#include "ngx_http_vd_module.h"


/* 1xx responses that are passed over before the final one */
#define NGX_HTTP_VD_MAX_INTERIM  8

/* the first size of the buffer for a reply of unknown length */
#define NGX_HTTP_VD_REPLY_SIZE   1024


static ngx_int_t ngx_http_vd_process_header(ngx_http_request_t *r);
static ngx_int_t ngx_http_vd_process_line(ngx_http_request_t *r,
    ngx_http_vd_ctx_t *ctx);
static ngx_int_t ngx_http_vd_content_length(ngx_http_request_t *r,
    ngx_http_vd_ctx_t *ctx, ngx_str_t *value);
static ngx_int_t ngx_http_vd_transfer_encoding(ngx_http_request_t *r,
    ngx_http_vd_ctx_t *ctx, ngx_str_t *value);
static void ngx_http_vd_connection(ngx_http_vd_ctx_t *ctx, ngx_str_t *value);
static void ngx_http_vd_retry_after(ngx_http_vd_ctx_t *ctx, ngx_str_t *value);
static ngx_int_t ngx_http_vd_end_header(ngx_http_request_t *r,
    ngx_http_vd_ctx_t *ctx);
static ngx_int_t ngx_http_vd_skip_interim(ngx_http_request_t *r,
    ngx_http_vd_ctx_t *ctx);
static ngx_int_t ngx_http_vd_read_more(ngx_http_request_t *r,
    ngx_http_vd_ctx_t *ctx);
static ngx_int_t ngx_http_vd_malformed(ngx_http_vd_ctx_t *ctx);
static ngx_int_t ngx_http_vd_filter_chunked(ngx_http_vd_ctx_t *ctx,
    ngx_buf_t *b);
static ngx_int_t ngx_http_vd_filter_length(ngx_http_vd_ctx_t *ctx,
    ngx_buf_t *b);
static void ngx_http_vd_complete(ngx_http_vd_ctx_t *ctx);
static ngx_int_t ngx_http_vd_grow_reply(ngx_http_vd_ctx_t *ctx, size_t len);
static ngx_int_t ngx_http_vd_keep(ngx_http_vd_ctx_t *ctx, u_char *p,
    size_t len);


void
ngx_http_vd_start_response(ngx_http_vd_ctx_t *ctx)
{
    ngx_http_request_t   *r;
    ngx_http_upstream_t  *u;

    r = ctx->clone;
    u = r->upstream;

    r->state = 0;
    u->process_header = ngx_http_vd_process_status_line;

    /* before 1.29.5 nginx does so only if a request has been sent */
    u->buffer.pos = u->buffer.start;
    u->buffer.last = u->buffer.start;

    ngx_memzero(&ctx->status, sizeof(ngx_http_status_t));
    ngx_memzero(&ctx->chunked, sizeof(vd_chunked_t));
    ngx_memzero(&ctx->exchange, sizeof(vd_exchange_t));

    ctx->length = -1;
    ctx->interim = 0;
    ctx->reply.len = 0;
    ngx_str_null(&ctx->retry_after);

    ctx->has_length = 0;
    ctx->chunked_reply = 0;
    ctx->close = 0;
    ctx->too_large = 0;
    ctx->unsendable = 0;
    ctx->unresolved = 0;
}


ngx_int_t
ngx_http_vd_too_early(ngx_http_vd_ctx_t *ctx)
{
    ngx_log_error(NGX_LOG_ERR, ctx->clone->connection->log, 0,
                  "upstream sent a response before it was sent the request");

    return ngx_http_vd_malformed(ctx);
}


ngx_int_t
ngx_http_vd_process_status_line(ngx_http_request_t *r)
{
    ngx_int_t             rc;
    ngx_http_vd_ctx_t    *ctx;
    ngx_http_upstream_t  *u;

    ctx = ngx_http_get_module_ctx(r, ngx_http_vd_module);
    u = r->upstream;

    if (u->peer.connection->sent == 0) {
        return ngx_http_vd_too_early(ctx);
    }

    rc = ngx_http_parse_status_line(r, &u->buffer, &ctx->status);

    if (rc == NGX_AGAIN) {
        return ngx_http_vd_read_more(r, ctx);
    }

    if (rc != NGX_OK
        || ctx->status.http_version / 1000 != 1
        || ctx->status.code < 100 || ctx->status.code > 599)
    {
        ngx_log_error(NGX_LOG_ERR, r->connection->log, 0,
                      "upstream sent no valid HTTP/1.x status line");
        return ngx_http_vd_malformed(ctx);
    }

    if (ctx->status.http_version < NGX_HTTP_VERSION_11) {
        ctx->close = 1;
    }

    u->process_header = ngx_http_vd_process_header;

    return ngx_http_vd_process_header(r);
}


static ngx_int_t
ngx_http_vd_process_header(ngx_http_request_t *r)
{
    ngx_int_t           rc;
    ngx_http_vd_ctx_t  *ctx;

    ctx = ngx_http_get_module_ctx(r, ngx_http_vd_module);

    for ( ;; ) {

        rc = ngx_http_parse_header_line(r, &r->upstream->buffer, 1);

        if (rc == NGX_OK) {
            rc = ngx_http_vd_process_line(r, ctx);

            if (rc != NGX_OK) {
                return rc;
            }

            continue;
        }

        if (rc == NGX_HTTP_PARSE_HEADER_DONE) {
            return ngx_http_vd_end_header(r, ctx);
        }

        if (rc == NGX_AGAIN) {
            return ngx_http_vd_read_more(r, ctx);
        }

        ngx_log_error(NGX_LOG_ERR, r->connection->log, 0,
                      "upstream sent invalid header");

        return ngx_http_vd_malformed(ctx);
    }
}


static ngx_int_t
ngx_http_vd_process_line(ngx_http_request_t *r, ngx_http_vd_ctx_t *ctx)
{
    ngx_str_t  name, value;

    name.data = r->header_name_start;
    name.len = r->header_name_end - r->header_name_start;

    value.data = r->header_start;
    value.len = r->header_end - r->header_start;

    if (name.len == sizeof("Content-Length") - 1
        && ngx_strncasecmp(name.data, (u_char *) "Content-Length", name.len)
           == 0)
    {
        return ngx_http_vd_content_length(r, ctx, &value);
    }

    if (name.len == sizeof("Transfer-Encoding") - 1
        && ngx_strncasecmp(name.data, (u_char *) "Transfer-Encoding", name.len)
           == 0)
    {
        return ngx_http_vd_transfer_encoding(r, ctx, &value);
    }

    if (name.len == sizeof("Connection") - 1
        && ngx_strncasecmp(name.data, (u_char *) "Connection", name.len) == 0)
    {
        ngx_http_vd_connection(ctx, &value);
    }

    if (name.len == sizeof("Retry-After") - 1
        && ngx_strncasecmp(name.data, (u_char *) "Retry-After", name.len) == 0)
    {
        ngx_http_vd_retry_after(ctx, &value);
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_vd_content_length(ngx_http_request_t *r, ngx_http_vd_ctx_t *ctx,
    ngx_str_t *value)
{
    if (ctx->has_length) {
        ngx_log_error(NGX_LOG_ERR, r->connection->log, 0,
                      "upstream sent duplicate \"Content-Length\"");
        return ngx_http_vd_malformed(ctx);
    }

    ctx->has_length = 1;
    ctx->length = ngx_atoof(value->data, value->len);

    if (ctx->length == NGX_ERROR) {
        ngx_log_error(NGX_LOG_ERR, r->connection->log, 0,
                      "upstream sent invalid \"Content-Length\"");
        return ngx_http_vd_malformed(ctx);
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_vd_transfer_encoding(ngx_http_request_t *r, ngx_http_vd_ctx_t *ctx,
    ngx_str_t *value)
{
    if (ctx->chunked_reply
        || value->len != 7
        || ngx_strncasecmp(value->data, (u_char *) "chunked", 7) != 0)
    {
        ngx_log_error(NGX_LOG_ERR, r->connection->log, 0,
                      "upstream sent a \"Transfer-Encoding\" "
                      "other than \"chunked\"");
        return ngx_http_vd_malformed(ctx);
    }

    ctx->chunked_reply = 1;

    return NGX_OK;
}


static void
ngx_http_vd_connection(ngx_http_vd_ctx_t *ctx, ngx_str_t *value)
{
    if (ngx_strlcasestrn(value->data, value->data + value->len,
                         (u_char *) "close", 5 - 1)
        != NULL)
    {
        ctx->close = 1;
    }
}


/* Of several none counts: an empty value is no valid one. */

static void
ngx_http_vd_retry_after(ngx_http_vd_ctx_t *ctx, ngx_str_t *value)
{
    if (ctx->retry_after.data) {
        ctx->retry_after.len = 0;
        return;
    }

    ctx->retry_after.data = ngx_pstrdup(ctx->clone->pool, value);

    if (ctx->retry_after.data) {
        ctx->retry_after.len = value->len;
    }
}


static ngx_int_t
ngx_http_vd_end_header(ngx_http_request_t *r, ngx_http_vd_ctx_t *ctx)
{
    ngx_http_upstream_t  *u;

    if (ctx->status.code < 200) {
        return ngx_http_vd_skip_interim(r, ctx);
    }

    if (ctx->has_length && ctx->chunked_reply) {
        ngx_log_error(NGX_LOG_ERR, r->connection->log, 0,
                      "upstream sent \"Content-Length\" together "
                      "with \"Transfer-Encoding\"");
        return ngx_http_vd_malformed(ctx);
    }

    if (ctx->chunked_reply && ctx->status.http_version < NGX_HTTP_VERSION_11) {
        ngx_log_error(NGX_LOG_ERR, r->connection->log, 0,
                      "upstream sent \"Transfer-Encoding\" in HTTP/1.0");
        return ngx_http_vd_malformed(ctx);
    }

    if (ctx->status.code == NGX_HTTP_NO_CONTENT
        || ctx->status.code == NGX_HTTP_NOT_MODIFIED)
    {
        ctx->chunked_reply = 0;
        ctx->length = 0;
    }

    ctx->exchange.status = ctx->status.code;

    u = r->upstream;

    u->headers_in.status_n = ctx->status.code;
    u->state->status = ctx->status.code;

    return NGX_OK;
}


/* 100, 102, 103: the final response is yet to come */

static ngx_int_t
ngx_http_vd_skip_interim(ngx_http_request_t *r, ngx_http_vd_ctx_t *ctx)
{
    size_t      size;
    ngx_buf_t  *b;

    if (ctx->status.code == NGX_HTTP_SWITCHING_PROTOCOLS
        || ++ctx->interim > NGX_HTTP_VD_MAX_INTERIM)
    {
        ngx_log_error(NGX_LOG_ERR, r->connection->log, 0,
                      "upstream sent unexpected status %ui",
                      ctx->status.code);
        return ngx_http_vd_malformed(ctx);
    }

    ngx_memzero(&ctx->status, sizeof(ngx_http_status_t));

    ctx->has_length = 0;
    ctx->chunked_reply = 0;
    ctx->length = -1;
    ngx_str_null(&ctx->retry_after);
    r->state = 0;

    /* its bytes do not count against the size of the final header */

    b = &r->upstream->buffer;
    size = b->last - b->pos;

    ngx_memmove(b->start, b->pos, size);

    b->pos = b->start;
    b->last = b->start + size;

    r->upstream->process_header = ngx_http_vd_process_status_line;

    return ngx_http_vd_process_status_line(r);
}


static ngx_int_t
ngx_http_vd_read_more(ngx_http_request_t *r, ngx_http_vd_ctx_t *ctx)
{
    ngx_buf_t  *b;

    b = &r->upstream->buffer;

    if (b->last == b->end) {
        ngx_log_error(NGX_LOG_ERR, r->connection->log, 0,
                      "upstream sent too big header");
        return ngx_http_vd_malformed(ctx);
    }

    return NGX_AGAIN;
}


static ngx_int_t
ngx_http_vd_malformed(ngx_http_vd_ctx_t *ctx)
{
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

    if (ctx->length == 0) {
        ngx_http_vd_complete(ctx);

    } else {
        u->length = (ctx->length > 0 || ctx->chunked_reply) ? 1 : -1;
    }

    return NGX_OK;
}


ngx_int_t
ngx_http_vd_filter(void *data, ssize_t bytes)
{
    ngx_http_vd_ctx_t *ctx = data;

    ngx_int_t             rc;
    ngx_buf_t             b;
    ngx_http_upstream_t  *u;

    u = ctx->clone->upstream;

    b = u->buffer;
    b.pos = u->buffer.last;
    b.last = b.pos + bytes;

    if (ctx->exchange.complete) {
        rc = NGX_OK;

    } else if (ctx->chunked_reply) {
        rc = ngx_http_vd_filter_chunked(ctx, &b);

    } else {
        rc = ngx_http_vd_filter_length(ctx, &b);
    }

    if (ctx->exchange.complete && b.pos != b.last) {
        ngx_log_error(NGX_LOG_WARN, ctx->clone->connection->log, 0,
                      "upstream sent more data than its response has");
        u->keepalive = 0;
    }

    return rc;
}


static ngx_int_t
ngx_http_vd_filter_chunked(ngx_http_vd_ctx_t *ctx, ngx_buf_t *b)
{
    size_t                len;
    vd_chunked_e          rc;
    const unsigned char  *p, *data;

    p = b->pos;

    do {
        rc = vd_chunked_read(&ctx->chunked, &p, b->last, &data, &len);

        if (rc == VD_CHUNKED_DATA
            && ngx_http_vd_keep(ctx, (u_char *) data, len) != NGX_OK)
        {
            return NGX_ERROR;
        }

    } while (rc == VD_CHUNKED_DATA);

    b->pos = (u_char *) p;

    if (rc == VD_CHUNKED_DONE) {
        ngx_http_vd_complete(ctx);
    }

    if (rc == VD_CHUNKED_INVALID) {
        ngx_log_error(NGX_LOG_ERR, ctx->clone->connection->log, 0,
                      "upstream sent invalid chunked response");

        ctx->exchange.malformed = 1;

        return NGX_ERROR;
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_vd_filter_length(ngx_http_vd_ctx_t *ctx, ngx_buf_t *b)
{
    size_t  size;

    size = b->last - b->pos;

    if (ctx->length >= 0) {
        size = ngx_min(ctx->length, (off_t) size);
        ctx->length -= size;
    }

    if (ngx_http_vd_keep(ctx, b->pos, size) != NGX_OK) {
        return NGX_ERROR;
    }

    b->pos += size;

    if (ctx->length == 0) {
        ngx_http_vd_complete(ctx);
    }

    return NGX_OK;
}


static void
ngx_http_vd_complete(ngx_http_vd_ctx_t *ctx)
{
    ngx_http_upstream_t  *u;

    u = ctx->clone->upstream;

    u->length = 0;
    u->keepalive = !ctx->close;

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

    if (ctx->has_length && !ctx->chunked_reply) {
        size = ctx->reply.len + len + ctx->length;

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
