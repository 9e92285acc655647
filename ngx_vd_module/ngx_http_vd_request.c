
/*
 * Copyright (C) The ngx_vd_module authors
 *
 * The request to the receiver.  Nothing of the app's request goes into it but
 * the body and its type.
 */


#include "ngx_http_vd_module.h"


#define NGX_HTTP_VD_FILE_PIECE  65536


typedef struct {
    ngx_str_t  content_type;
    time_t     time;
    size_t     size;
} ngx_http_vd_head_t;


static ngx_int_t ngx_http_vd_sign(ngx_http_vd_ctx_t *ctx, time_t time);
static ngx_int_t ngx_http_vd_sign_piece(void *data, u_char *p, size_t len);
static ngx_int_t ngx_http_vd_eval_head(ngx_http_vd_ctx_t *ctx,
    ngx_http_vd_head_t *head);
static u_char *ngx_http_vd_write_head(ngx_http_vd_ctx_t *ctx,
    ngx_http_vd_head_t *head, u_char *p);
static u_char *ngx_http_vd_write_signatures(ngx_http_vd_ctx_t *ctx,
    time_t time, u_char *p);
static ngx_int_t ngx_http_vd_copy_body(ngx_http_request_t *r,
    ngx_http_vd_ctx_t *ctx, ngx_chain_t *head);
static ngx_int_t ngx_http_vd_walk_file(ngx_http_vd_ctx_t *ctx, ngx_buf_t *b,
    ngx_http_vd_body_pt handler, void *data);
static ngx_http_vd_header_t *ngx_http_vd_find_header(
    ngx_http_vd_loc_conf_t *conf, const char *name);
static ngx_uint_t ngx_http_vd_same_name(ngx_str_t *name, const char *other);


/* Headers that frame the message, or that a receiver's checks rest on. */

static const char  *ngx_http_vd_own_headers[] = {
    "Content-Length", "Transfer-Encoding", "Connection", "Keep-Alive",
    "Upgrade", "TE", "Trailer", "Expect", "Accept-Encoding",
    "webhook-id", "webhook-timestamp", "X-Slack-Request-Timestamp", NULL
};


/* Headers that have a default, which vd_set_header replaces. */

static const char  *ngx_http_vd_default_headers[] = {
    "Host", "User-Agent", "Accept", "Content-Type", NULL
};


ngx_uint_t
ngx_http_vd_own_header(ngx_http_vd_loc_conf_t *conf, ngx_str_t *name)
{
    const char              **own;
    ngx_uint_t                i;
    ngx_http_vd_signature_t  *signature;

    for (own = ngx_http_vd_own_headers; *own; own++) {
        if (ngx_http_vd_same_name(name, *own)) {
            return 1;
        }
    }

    if (conf == NULL) {

        for (own = ngx_http_vd_default_headers; *own; own++) {
            if (ngx_http_vd_same_name(name, *own)) {
                return 1;
            }
        }

        return 0;
    }

    signature = conf->signatures->elts;

    for (i = 0; i < conf->signatures->nelts; i++) {

        if (signature[i].header.len == name->len
            && ngx_strncasecmp(signature[i].header.data, name->data, name->len)
               == 0)
        {
            return 1;
        }
    }

    return 0;
}


ngx_int_t
ngx_http_vd_init_head(ngx_conf_t *cf, ngx_http_vd_loc_conf_t *conf)
{
    u_char  *p;

    p = ngx_pnalloc(cf->pool, conf->uri.len + conf->host.len + 256);
    if (p == NULL) {
        return NGX_ERROR;
    }

    conf->head.data = p;

    p = ngx_sprintf(p, "POST %V HTTP/1.1" CRLF, &conf->uri);

    if (ngx_http_vd_find_header(conf, "Host") == NULL) {
        p = ngx_sprintf(p, "Host: %V" CRLF, &conf->host);
    }

    if (ngx_http_vd_find_header(conf, "User-Agent") == NULL) {
        p = ngx_sprintf(p, "User-Agent: ngx_vd_module/"
                           NGX_HTTP_VD_VERSION CRLF);
    }

    if (ngx_http_vd_find_header(conf, "Accept") == NULL) {
        p = ngx_sprintf(p, "Accept: application/json" CRLF);
    }

    p = ngx_sprintf(p, "Accept-Encoding: identity" CRLF);

    conf->head.len = p - conf->head.data;

    return NGX_OK;
}


ngx_int_t
ngx_http_vd_create_request(ngx_http_request_t *r)
{
    ngx_buf_t           *b;
    ngx_chain_t         *cl;
    ngx_http_vd_ctx_t   *ctx;
    ngx_http_vd_head_t   head;

    ctx = ngx_http_get_module_ctx(r, ngx_http_vd_module);

    head.time = ngx_time();

    if (ngx_http_vd_eval_head(ctx, &head) != NGX_OK
        || ngx_http_vd_sign(ctx, head.time) != NGX_OK)
    {
        return NGX_ERROR;
    }

    b = ngx_create_temp_buf(r->pool, head.size);
    if (b == NULL) {
        return NGX_ERROR;
    }

    b->last = ngx_http_vd_write_head(ctx, &head, b->last);

    if (b->last == NULL) {
        ngx_ssl_error(NGX_LOG_ALERT, r->connection->log, 0,
                      "signing failed");
        return NGX_ERROR;
    }

    cl = ngx_alloc_chain_link(r->pool);
    if (cl == NULL) {
        return NGX_ERROR;
    }

    cl->buf = b;
    cl->next = NULL;

    r->upstream->request_bufs = cl;

    return ngx_http_vd_copy_body(r, ctx, cl);
}


static ngx_int_t
ngx_http_vd_sign(ngx_http_vd_ctx_t *ctx, time_t time)
{
    ngx_uint_t                i;
    ngx_http_vd_signature_t  *signature;

    signature = ctx->conf->signatures->elts;

    for (i = 0; i < ctx->conf->signatures->nelts; i++) {

        if (vd_sign_start(signature[i].signer, ctx->id.data, ctx->id.len, time)
            != 0)
        {
            ngx_ssl_error(NGX_LOG_ALERT, ctx->request->connection->log, 0,
                          "signing failed");
            return NGX_ERROR;
        }
    }

    return ngx_http_vd_walk_body(ctx, ngx_http_vd_sign_piece, ctx);
}


static ngx_int_t
ngx_http_vd_sign_piece(void *data, u_char *p, size_t len)
{
    ngx_http_vd_ctx_t *ctx = data;

    ngx_uint_t                i;
    ngx_http_vd_signature_t  *signature;

    signature = ctx->conf->signatures->elts;

    for (i = 0; i < ctx->conf->signatures->nelts; i++) {

        if (vd_sign_update(signature[i].signer, p, len) != 0) {
            ngx_ssl_error(NGX_LOG_ALERT, ctx->request->connection->log, 0,
                          "signing failed");
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}


/* What differs from request to request, and the space that all of it takes. */

static ngx_int_t
ngx_http_vd_eval_head(ngx_http_vd_ctx_t *ctx, ngx_http_vd_head_t *head)
{
    size_t                    size;
    ngx_uint_t                i, n;
    ngx_http_vd_header_t     *header;
    ngx_http_vd_loc_conf_t   *conf;
    ngx_http_vd_signature_t  *signature;

    conf = ctx->conf;

    ngx_str_null(&head->content_type);

    if (ngx_http_vd_find_header(conf, "Content-Type") == NULL) {
        head->content_type = *ngx_http_vd_content_type(ctx);
    }

    size = conf->head.len
           + sizeof("Content-Type: " CRLF) + head->content_type.len
           + sizeof("Content-Length: " CRLF) + NGX_OFF_T_LEN
           + sizeof("webhook-id: " CRLF) + ctx->id.len
           + sizeof("webhook-timestamp: " CRLF) + NGX_TIME_T_LEN
           + sizeof(CRLF);

    signature = conf->signatures->elts;

    for (i = 0; i < conf->signatures->nelts; i++) {
        size += signature[i].header.len + sizeof(": " CRLF)
                + vd_sign_max_size(signature[i].signer);

        if (signature[i].scheme->timestamp_header) {
            size += ngx_strlen(signature[i].scheme->timestamp_header)
                    + sizeof(": " CRLF) + NGX_TIME_T_LEN;
        }
    }

    n = conf->headers ? conf->headers->nelts : 0;
    header = n ? conf->headers->elts : NULL;

    for (i = 0; i < n; i++) {

        /* a variable's value may hold anything, and so may VD-Kept */

        if (ngx_http_vd_header_value(&ctx->values[i].sent) != NGX_OK) {
            ngx_log_error(NGX_LOG_ERR, ctx->request->connection->log, 0,
                          "control character in the value "
                          "of \"vd_set_header\" \"%V\"", &header[i].name);
            return NGX_ERROR;
        }

        size += header[i].name.len + sizeof(": " CRLF)
                + ctx->values[i].sent.len;
    }

    head->size = size;

    return NGX_OK;
}


ngx_int_t
ngx_http_vd_check_type(ngx_http_vd_ctx_t *ctx, const char **error)
{
    if (ngx_http_vd_find_header(ctx->conf, "Content-Type")
        || ngx_http_vd_header_value(ngx_http_vd_content_type(ctx)) == NGX_OK)
    {
        return NGX_OK;
    }

    *error = "control character in Content-Type";

    return NGX_DECLINED;
}


ngx_str_t *
ngx_http_vd_content_type(ngx_http_vd_ctx_t *ctx)
{
    static ngx_str_t  json = ngx_string("application/json");

    size_t            i;
    ngx_table_elt_t  *h;

    if (ctx->kept_type.len) {
        return &ctx->kept_type;
    }

    h = ctx->request->headers_in.content_type;

    for (i = 0; h && i < h->value.len; i++) {
        if (h->value.data[i] != ' ' && h->value.data[i] != '\t') {
            return &h->value;
        }
    }

    return &json;
}


ngx_str_t *
ngx_http_vd_sent_type(ngx_http_vd_ctx_t *ctx)
{
    ngx_http_vd_header_t  *header;

    header = ngx_http_vd_find_header(ctx->conf, "Content-Type");

    if (header == NULL) {
        return ngx_http_vd_content_type(ctx);
    }

    return &ctx->values[header
                        - (ngx_http_vd_header_t *) ctx->conf->headers->elts]
            .sent;
}


ngx_uint_t
ngx_http_vd_odd_type(ngx_http_vd_ctx_t *ctx)
{
    size_t      i;
    ngx_str_t  *type;

    if (ngx_http_vd_find_header(ctx->conf, "Content-Type")) {
        return 0;
    }

    type = ngx_http_vd_content_type(ctx);

    for (i = 0; i < type->len; i++) {
        if (type->data[i] < 0x20 || type->data[i] > 0x7e) {
            return 1;
        }
    }

    return 0;
}


static u_char *
ngx_http_vd_write_head(ngx_http_vd_ctx_t *ctx, ngx_http_vd_head_t *head,
    u_char *p)
{
    ngx_uint_t               i, n;
    ngx_http_vd_header_t    *header;
    ngx_http_vd_loc_conf_t  *conf;

    conf = ctx->conf;

    p = ngx_cpymem(p, conf->head.data, conf->head.len);

    if (head->content_type.len) {
        p = ngx_sprintf(p, "Content-Type: %V" CRLF, &head->content_type);
    }

    p = ngx_sprintf(p, "Content-Length: %O" CRLF
                       "webhook-id: %V" CRLF
                       "webhook-timestamp: %T" CRLF,
                    ctx->body_length, &ctx->id, head->time);

    p = ngx_http_vd_write_signatures(ctx, head->time, p);

    if (p == NULL) {
        return NULL;
    }

    n = conf->headers ? conf->headers->nelts : 0;
    header = n ? conf->headers->elts : NULL;

    for (i = 0; i < n; i++) {
        if (ctx->values[i].sent.len) {
            p = ngx_sprintf(p, "%V: %V" CRLF, &header[i].name,
                            &ctx->values[i].sent);
        }
    }

    *p++ = CR;
    *p++ = LF;

    return p;
}


static u_char *
ngx_http_vd_write_signatures(ngx_http_vd_ctx_t *ctx, time_t time, u_char *p)
{
    size_t                    n;
    ngx_uint_t                i, dated;
    ngx_http_vd_signature_t  *signature;

    dated = 0;
    signature = ctx->conf->signatures->elts;

    for (i = 0; i < ctx->conf->signatures->nelts; i++) {

        if (signature[i].scheme->timestamp_header && !dated) {
            p = ngx_sprintf(p, "%s: %T" CRLF,
                            signature[i].scheme->timestamp_header, time);
            dated = 1;
        }

        p = ngx_sprintf(p, "%V: ", &signature[i].header);

        n = vd_sign_finish(signature[i].signer, p);

        if (n == 0) {
            return NULL;
        }

        p += n;
        *p++ = CR;
        *p++ = LF;
    }

    return p;
}


/* Buffers of our own: sending moves their positions. */

static ngx_int_t
ngx_http_vd_copy_body(ngx_http_request_t *r, ngx_http_vd_ctx_t *ctx,
    ngx_chain_t *head)
{
    ngx_buf_t    *b;
    ngx_chain_t  *cl, *body;

    b = head->buf;

    for (body = ctx->body; body; body = body->next) {

        b = ngx_alloc_buf(r->pool);
        if (b == NULL) {
            return NGX_ERROR;
        }

        ngx_memcpy(b, body->buf, sizeof(ngx_buf_t));

        cl = ngx_alloc_chain_link(r->pool);
        if (cl == NULL) {
            return NGX_ERROR;
        }

        cl->buf = b;
        cl->next = NULL;

        head->next = cl;
        head = cl;
    }

    b->flush = 1;

    return NGX_OK;
}


ngx_int_t
ngx_http_vd_walk_body(ngx_http_vd_ctx_t *ctx, ngx_http_vd_body_pt handler,
    void *data)
{
    ngx_int_t     rc;
    ngx_buf_t    *b;
    ngx_chain_t  *cl;

    for (cl = ctx->body; cl; cl = cl->next) {
        b = cl->buf;

        if (ngx_buf_in_memory(b)) {
            rc = handler(data, b->pos, b->last - b->pos);

        } else if (b->in_file) {
            rc = ngx_http_vd_walk_file(ctx, b, handler, data);

        } else {
            continue;
        }

        if (rc != NGX_OK) {
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_vd_walk_file(ngx_http_vd_ctx_t *ctx, ngx_buf_t *b,
    ngx_http_vd_body_pt handler, void *data)
{
    off_t     offset;
    size_t    size;
    u_char   *piece;
    ssize_t   n;

    piece = ngx_alloc(NGX_HTTP_VD_FILE_PIECE, ctx->request->connection->log);
    if (piece == NULL) {
        return NGX_ERROR;
    }

    for (offset = b->file_pos; offset < b->file_last; offset += n) {

        size = ngx_min(b->file_last - offset, NGX_HTTP_VD_FILE_PIECE);

        n = ngx_read_file(b->file, piece, size, offset);

        if (n == 0) {
            ngx_log_error(NGX_LOG_CRIT, ctx->request->connection->log, 0,
                          "request body file \"%V\" is truncated",
                          &b->file->name);
        }

        if (n <= 0 || handler(data, piece, n) != NGX_OK) {
            ngx_free(piece);
            return NGX_ERROR;
        }
    }

    ngx_free(piece);

    return NGX_OK;
}


static ngx_http_vd_header_t *
ngx_http_vd_find_header(ngx_http_vd_loc_conf_t *conf, const char *name)
{
    ngx_uint_t             i;
    ngx_http_vd_header_t  *header;

    if (conf->headers == NULL) {
        return NULL;
    }

    header = conf->headers->elts;

    for (i = 0; i < conf->headers->nelts; i++) {
        if (ngx_http_vd_same_name(&header[i].name, name)) {
            return &header[i];
        }
    }

    return NULL;
}


static ngx_uint_t
ngx_http_vd_same_name(ngx_str_t *name, const char *other)
{
    return name->len == ngx_strlen(other)
           && ngx_strncasecmp(name->data, (u_char *) other, name->len) == 0;
}
