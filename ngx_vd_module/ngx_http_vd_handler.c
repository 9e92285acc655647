
/*
 * Copyright (C) The ngx_vd_module authors
 *
 * The app's request: taken, checked, handed to an attempt, waited for.
 */


#include "ngx_http_vd_module.h"

#include <openssl/rand.h>


#define NGX_HTTP_VD_RANDOM_IDS  64


typedef struct {
    vd_json_t   json;
    ngx_uint_t  validate;
    ngx_uint_t  digest;
} ngx_http_vd_check_t;


static ngx_int_t ngx_http_vd_refuse_subrequest(ngx_http_request_t *r);
static ngx_int_t ngx_http_vd_refuse_page(ngx_http_request_t *r);
static ngx_int_t ngx_http_vd_accept(ngx_http_request_t *r,
    ngx_http_vd_ctx_t *ctx);
static ngx_int_t ngx_http_vd_take_id(ngx_http_request_t *r,
    ngx_http_vd_ctx_t *ctx, const char **error);
static ngx_int_t ngx_http_vd_take_attempt(ngx_http_request_t *r,
    ngx_http_vd_ctx_t *ctx, const char **error);
static ngx_uint_t ngx_http_vd_is_header(u_char *key, const char *name);
static ngx_int_t ngx_http_vd_make_id(ngx_http_request_t *r, ngx_str_t *id);
static u_char *ngx_http_vd_random(ngx_log_t *log);
static void ngx_http_vd_body_handler(ngx_http_request_t *r);
static ngx_int_t ngx_http_vd_take_body(ngx_http_request_t *r,
    ngx_http_vd_ctx_t *ctx);
static ngx_int_t ngx_http_vd_check_body(ngx_http_request_t *r,
    ngx_http_vd_ctx_t *ctx);
static ngx_int_t ngx_http_vd_check_piece(void *data, u_char *p, size_t len);
static ngx_int_t ngx_http_vd_take_digest(ngx_http_request_t *r,
    ngx_http_vd_ctx_t *ctx);
static ngx_int_t ngx_http_vd_take_values(ngx_http_request_t *r,
    ngx_http_vd_ctx_t *ctx);
static ngx_int_t ngx_http_vd_go_on(ngx_http_request_t *r,
    ngx_http_vd_ctx_t *ctx);
static ngx_int_t ngx_http_vd_start_attempt(ngx_http_request_t *r,
    ngx_http_vd_ctx_t *ctx);
static ngx_int_t ngx_http_vd_attempt_done(ngx_http_request_t *r, void *data,
    ngx_int_t rc);
static void ngx_http_vd_finalize(ngx_http_request_t *r,
    ngx_http_vd_ctx_t *ctx, ngx_int_t rc);
static void ngx_http_vd_cleanup(void *data);
static u_char *ngx_http_vd_log_error(ngx_http_request_t *r,
    ngx_http_request_t *sr, u_char *buf, size_t len);


ngx_int_t
ngx_http_vd_handler(ngx_http_request_t *r)
{
    ngx_int_t           rc;
    ngx_http_vd_ctx_t  *ctx;

    if (r != r->main) {
        return ngx_http_vd_refuse_subrequest(r);
    }

    if (r->filter_finalize) {
        return ngx_http_vd_refuse_page(r);
    }

    ctx = ngx_pcalloc(r->pool, sizeof(ngx_http_vd_ctx_t));
    if (ctx == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    ctx->request = r;
    ctx->conf = ngx_http_get_module_loc_conf(r, ngx_http_vd_module);

    ngx_http_set_ctx(r, ctx, ngx_http_vd_module);

    rc = ngx_http_vd_accept(r, ctx);

    if (rc != NGX_DECLINED) {
        return rc;
    }

    rc = ngx_http_read_client_request_body(r, ngx_http_vd_body_handler);

    if (rc >= NGX_HTTP_SPECIAL_RESPONSE) {
        return rc;
    }

    return NGX_DONE;
}


/*
 * A mirror, an auth_request or an SSI include would deliver a case and lose
 * the answer, and a second subrequest could not wait for the first.
 */

static ngx_int_t
ngx_http_vd_refuse_subrequest(ngx_http_request_t *r)
{
    ngx_log_error(NGX_LOG_ERR, r->connection->log, 0,
                  "\"vd_pass\" does not work in a subrequest, "
                  "nothing was delivered");

    return NGX_HTTP_INTERNAL_SERVER_ERROR;
}


/*
 * A filter (image_filter, xslt_stylesheet) has failed in another location, and
 * its error_page has led here: nginx closes such a request when we return,
 * without waiting for anybody.
 */

static ngx_int_t
ngx_http_vd_refuse_page(ngx_http_request_t *r)
{
    ngx_log_error(NGX_LOG_ERR, r->connection->log, 0,
                  "\"vd_pass\" does not work as the page for a filter's error, "
                  "nothing was delivered");

    return NGX_HTTP_INTERNAL_SERVER_ERROR;
}


/* NGX_DECLINED: go on; anything else is final, and answered. */

static ngx_int_t
ngx_http_vd_accept(ngx_http_request_t *r, ngx_http_vd_ctx_t *ctx)
{
    ngx_int_t    rc;
    ngx_uint_t   status;
    const char  *error;

    if (r->method != NGX_HTTP_POST) {
        if (ngx_http_vd_allow(r, "POST") != NGX_OK) {
            return NGX_HTTP_INTERNAL_SERVER_ERROR;
        }

        return ngx_http_vd_send_error(r, NGX_HTTP_NOT_ALLOWED,
                                      "method is not POST");
    }

    status = NGX_HTTP_BAD_REQUEST;

    rc = ngx_http_vd_take_id(r, ctx, &error);

    if (rc == NGX_OK) {
        rc = ngx_http_vd_take_attempt(r, ctx, &error);
    }

    if (rc == NGX_OK) {
        rc = ngx_http_vd_take_output(r, ctx, &status, &error);
    }

    if (rc == NGX_OK) {
        rc = ngx_http_vd_take_kept(r, ctx, &error);
    }

    if (rc == NGX_OK) {
        rc = ngx_http_vd_check_type(ctx, &error);
    }

    if (rc == NGX_DECLINED) {
        return ngx_http_vd_send_error(r, status, error);
    }

    if (rc == NGX_ERROR) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    return NGX_DECLINED;
}


static ngx_int_t
ngx_http_vd_take_id(ngx_http_request_t *r, ngx_http_vd_ctx_t *ctx,
    const char **error)
{
    switch (ngx_http_vd_get_header(r, "Idempotency-Key", &ctx->id)) {

    case 0:
        return ngx_http_vd_make_id(r, &ctx->id);

    case 1:
        if (vd_id_valid(ctx->id.data, ctx->id.len)) {
            return NGX_OK;
        }

        *error = "invalid Idempotency-Key, it must be 1 to 128 "
                 "of A-Za-z0-9_-";
        break;

    default:
        *error = "more than one Idempotency-Key";
    }

    ngx_str_null(&ctx->id);

    return NGX_DECLINED;
}


static ngx_int_t
ngx_http_vd_take_attempt(ngx_http_request_t *r, ngx_http_vd_ctx_t *ctx,
    const char **error)
{
    int        n;
    ngx_str_t  value;

    switch (ngx_http_vd_get_header(r, "VD-Attempt", &value)) {

    case 0:
        ctx->attempt = 1;
        return NGX_OK;

    case 1:
        n = vd_attempt_parse(value.data, value.len);

        if (n > 0) {
            ctx->attempt = n;
            ctx->retry = 1;
            return NGX_OK;
        }

        *error = "invalid VD-Attempt, it must be 1 to 1000";
        break;

    default:
        *error = "more than one VD-Attempt";
    }

    return NGX_DECLINED;
}


ngx_uint_t
ngx_http_vd_get_header(ngx_http_request_t *r, const char *name,
    ngx_str_t *value)
{
    size_t            len;
    ngx_uint_t        i, n;
    ngx_list_part_t  *part;
    ngx_table_elt_t  *header;

    n = 0;
    len = ngx_strlen(name);

    for (part = &r->headers_in.headers.part; part; part = part->next) {
        header = part->elts;

        for (i = 0; i < part->nelts; i++) {

            if (header[i].key.len == len
                && ngx_http_vd_is_header(header[i].key.data, name))
            {
                *value = header[i].value;
                n++;
            }
        }
    }

    return n;
}


/*
 * Of the same length.  An underscore is a hyphen, as it is to nginx's own
 * variables: what $http_vd_attempt lets through has no other VD-Attempt.
 */

static ngx_uint_t
ngx_http_vd_is_header(u_char *key, const char *name)
{
    u_char  ch;

    while (*name) {
        ch = (*key == '_') ? '-' : *key;

        if (ngx_tolower(ch) != ngx_tolower((u_char) *name)) {
            return 0;
        }

        key++;
        name++;
    }

    return 1;
}


static ngx_int_t
ngx_http_vd_make_id(ngx_http_request_t *r, ngx_str_t *id)
{
    u_char      *random;
    ngx_time_t  *tp;

    random = ngx_http_vd_random(r->connection->log);
    if (random == NULL) {
        return NGX_ERROR;
    }

    id->data = ngx_pnalloc(r->pool, VD_UUID_LEN);
    if (id->data == NULL) {
        return NGX_ERROR;
    }

    id->len = VD_UUID_LEN;

    tp = ngx_timeofday();
    vd_uuid7(id->data, (uint64_t) tp->sec * 1000 + tp->msec, random);

    return NGX_OK;
}


/*
 * Random bytes for one id.  They are drawn for many at a time, since a call
 * costs the same for a few; a worker that forks draws its own.
 */

static u_char *
ngx_http_vd_random(ngx_log_t *log)
{
    static u_char      pool[NGX_HTTP_VD_RANDOM_IDS * VD_UUID_RANDOM];
    static ngx_pid_t   owner;
    static ngx_uint_t  left;

    if (left == 0 || owner != ngx_pid) {

        if (RAND_bytes(pool, sizeof(pool)) != 1) {
            ngx_ssl_error(NGX_LOG_ALERT, log, 0, "RAND_bytes() failed");
            return NULL;
        }

        owner = ngx_pid;
        left = NGX_HTTP_VD_RANDOM_IDS;
    }

    left--;

    return pool + left * VD_UUID_RANDOM;
}


static void
ngx_http_vd_body_handler(ngx_http_request_t *r)
{
    ngx_int_t           rc;
    ngx_http_vd_ctx_t  *ctx;

    ctx = ngx_http_get_module_ctx(r, ngx_http_vd_module);

    ctx->log_handler = r->log_handler;
    r->log_handler = ngx_http_vd_log_error;

    rc = ngx_http_vd_take_body(r, ctx);

    if (rc == NGX_DECLINED) {
        rc = ngx_http_vd_take_values(r, ctx);
    }

    if (rc == NGX_DECLINED) {
        rc = ngx_http_vd_go_on(r, ctx);
    }

    if (rc != NGX_DECLINED) {
        ngx_http_vd_finalize(r, ctx, rc);
    }
}


/*
 * NGX_DECLINED: ngx_http_vd_answer() ends it; anything else is final.
 * NGX_AGAIN is final, too: the client does not take all of its answer at once.
 */

static ngx_int_t
ngx_http_vd_go_on(ngx_http_request_t *r, ngx_http_vd_ctx_t *ctx)
{
    ngx_pool_cleanup_t  *cln;

    cln = ngx_pool_cleanup_add(r->pool, 0);
    if (cln == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    cln->handler = ngx_http_vd_cleanup;
    cln->data = ctx;

    r->write_event_handler = ngx_http_vd_answer;

    if (ctx->conf->ack == NGX_HTTP_VD_ACK_DELIVERY || ctx->retry) {
        return ngx_http_vd_start_attempt(r, ctx);
    }

    ctx->accepted = 1;
    ctx->done = 1;

    ngx_http_vd_record(ctx);

    return ctx->waiter.waiting ? NGX_DECLINED
                               : ngx_http_vd_send_outcome(r, ctx);
}


static ngx_int_t
ngx_http_vd_take_body(ngx_http_request_t *r, ngx_http_vd_ctx_t *ctx)
{
    ngx_chain_t  *cl;

    if (r->request_body) {
        ctx->body = r->request_body->bufs;
    }

    for (cl = ctx->body; cl; cl = cl->next) {
        ctx->body_length += ngx_buf_size(cl->buf);
    }

    if (r->reading_body
        || ctx->body_length != ngx_max(r->headers_in.content_length_n, 0))
    {
        /* a proxy_pass without request buffering has had a part of it */

        ngx_log_error(NGX_LOG_ERR, r->connection->log, 0,
                      "request body is not whole, nothing was delivered");
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    if (ctx->body_length == 0) {
        return ngx_http_vd_send_error(r, NGX_HTTP_BAD_REQUEST, "empty body");
    }

    return ngx_http_vd_check_body(r, ctx);
}


/* Whether it is JSON, and its digest: both at once, as it may be in a file. */

static ngx_int_t
ngx_http_vd_check_body(ngx_http_request_t *r, ngx_http_vd_ctx_t *ctx)
{
    char                 error[128];
    ngx_http_vd_check_t  check;

    check.validate = ctx->conf->validate;
    check.digest = (ctx->conf->journal && ctx->attempt == 1);

    if (!check.validate && !check.digest) {
        return NGX_DECLINED;
    }

    vd_json_start(&check.json);

    if (check.digest && vd_digest_start() != 0) {
        ngx_ssl_error(NGX_LOG_ALERT, r->connection->log, 0, "digest failed");
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    if (ngx_http_vd_walk_body(ctx, ngx_http_vd_check_piece, &check)
        != NGX_OK && check.json.error == NULL)
    {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    if (check.validate && vd_json_finish(&check.json) != 0) {
        ngx_sprintf((u_char *) error,
                    "body is not JSON in UTF-8: %s at byte %uz%Z",
                    check.json.error, check.json.offset + 1);

        return ngx_http_vd_send_error(r, NGX_HTTP_BAD_REQUEST, error);
    }

    return check.digest ? ngx_http_vd_take_digest(r, ctx) : NGX_DECLINED;
}


static ngx_int_t
ngx_http_vd_check_piece(void *data, u_char *p, size_t len)
{
    ngx_http_vd_check_t *check = data;

    if ((check->validate && vd_json_feed(&check->json, p, len) != 0)
        || (check->digest && vd_digest_update(p, len) != 0))
    {
        return NGX_ERROR;
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_vd_take_digest(ngx_http_request_t *r, ngx_http_vd_ctx_t *ctx)
{
    ctx->digest = ngx_pnalloc(r->pool, VD_DIGEST_LEN);

    if (ctx->digest == NULL || vd_digest_finish(ctx->digest) != 0) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    return NGX_DECLINED;
}


static ngx_int_t
ngx_http_vd_take_values(ngx_http_request_t *r, ngx_http_vd_ctx_t *ctx)
{
    if (ctx->conf->journal && !ctx->retry && ngx_http_vd_long_uri(r)) {
        return ngx_http_vd_send_error(r, NGX_HTTP_REQUEST_URI_TOO_LARGE,
                                      "URI is too long to be sent again");
    }

    switch (ngx_http_vd_eval_values(ctx)) {

    case NGX_OK:
        return NGX_DECLINED;

    case NGX_DECLINED:
        return ngx_http_vd_send_error(r, NGX_HTTP_VD_HEADERS_TOO_LARGE,
                                      "values to be kept for retries "
                                      "are over 6 KB");

    default:
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }
}


static ngx_int_t
ngx_http_vd_start_attempt(ngx_http_request_t *r, ngx_http_vd_ctx_t *ctx)
{
    ngx_http_request_t          *clone;
    ngx_http_post_subrequest_t  *ps;

    ps = ngx_palloc(r->pool, sizeof(ngx_http_post_subrequest_t));
    if (ps == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    ps->handler = ngx_http_vd_attempt_done;
    ps->data = ctx;

    if (ngx_http_subrequest(r, &r->uri, &r->args, &clone, ps,
                            NGX_HTTP_SUBREQUEST_CLONE
                            |NGX_HTTP_SUBREQUEST_IN_MEMORY
                            |NGX_HTTP_SUBREQUEST_WAITED)
        != NGX_OK)
    {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    ngx_http_set_ctx(clone, ctx, ngx_http_vd_module);
    clone->content_handler = ngx_http_vd_upstream_handler;

    /* filters that are off for the answer have no say in the attempt either */
    clone->loc_conf = ctx->conf->answer_conf;

    /*
     * The clone is told when the client's connection has something to read,
     * or is at its end: where events are level-triggered, they would be told
     * of for ever.
     */
    clone->read_event_handler = ngx_http_block_reading;

    ctx->clone = clone;
    ctx->start = ngx_current_msec;

    return NGX_DECLINED;
}


/*
 * The clone is done.  Whatever it came to, for nginx it ended well: it is not
 * the clone that is answered, no error page is to be looked for, and that the
 * client is gone is the app's request's affair.
 */

static ngx_int_t
ngx_http_vd_attempt_done(ngx_http_request_t *r, void *data, ngx_int_t rc)
{
    ngx_http_vd_ctx_t *ctx = data;

    if (ctx->result.outcome == VD_OUTCOME_NONE) {
        /* it did not get as far as to upstream's finalization */
        ctx->exchange.internal = 1;
        ngx_http_vd_end_attempt(ctx);
    }

    ctx->done = 1;

    ngx_http_vd_hide_client_error(ctx);

    return NGX_OK;
}


void
ngx_http_vd_answer(ngx_http_request_t *r)
{
    ngx_http_vd_ctx_t  *ctx;

    ctx = ngx_http_get_module_ctx(r, ngx_http_vd_module);

    if (!ctx->done || ctx->waiter.waiting) {
        return;
    }

    r->write_event_handler = ngx_http_request_empty_handler;

    ngx_http_vd_show_client_error(ctx);

    ngx_http_vd_finalize(r, ctx, ngx_http_vd_send_outcome(r, ctx));
}


/*
 * nginx marks the connection of an HTTP/2 or HTTP/3 client that is gone, and
 * then tries no other server, nor lets a subrequest end in order.  What is
 * begun is finished all the same, so that the mark is taken off for as long as
 * nginx decides on the attempt, and is back before anything is sent.
 */

void
ngx_http_vd_hide_client_error(ngx_http_vd_ctx_t *ctx)
{
    ngx_connection_t  *c;

    c = ctx->request->connection;

    ctx->client_error |= c->error;
    c->error = 0;
}


void
ngx_http_vd_show_client_error(ngx_http_vd_ctx_t *ctx)
{
    ctx->request->connection->error |= ctx->client_error;
}


/* From here on it may be somebody else's: an error may lead to a page. */

static void
ngx_http_vd_finalize(ngx_http_request_t *r, ngx_http_vd_ctx_t *ctx,
    ngx_int_t rc)
{
    r->log_handler = ctx->log_handler;

    ngx_http_finalize_request(r, rc);
}


/*
 * The request may go away under the attempt, when nginx is made to stop, or
 * before it was begun.
 */

static void
ngx_http_vd_cleanup(void *data)
{
    ngx_http_vd_ctx_t *ctx = data;

    if (ctx->clone && ctx->result.outcome == VD_OUTCOME_NONE) {
        ctx->exchange.internal = 1;
        ngx_http_vd_end_attempt(ctx);
    }

    ngx_http_vd_journal_forget(&ctx->waiter);
}


/*
 * What nginx logs on the way tells which delivery it is about.  The clone's
 * own URI is left out: it is that of the request once more, but decoded, and
 * a line feed in it would begin a line of its own.
 */

static u_char *
ngx_http_vd_log_error(ngx_http_request_t *r, ngx_http_request_t *sr,
    u_char *buf, size_t len)
{
    u_char               *p, *last;
    ngx_http_vd_ctx_t    *ctx;
    ngx_http_upstream_t  *u;

    ctx = ngx_http_get_module_ctx(r, ngx_http_vd_module);

    /* not that of a handler which had the request before */

    u = r->upstream;
    r->upstream = NULL;

    last = buf + len;
    p = ctx->log_handler(r, r, buf, len);

    r->upstream = u;

    u = sr->upstream;

    if (r != sr && u && u->peer.name) {
        p = ngx_slprintf(p, last, ", upstream: \"%V%V%V\"", &u->schema,
                         u->peer.name, &u->uri);
    }

    return ngx_slprintf(p, last, ", delivery: \"%V\", output: \"%V\"",
                        &ctx->id, &ctx->conf->output->id);
}
