
/*
 * Copyright (C) The ngx_vd_module authors
 *
 * Answers to the app: JSON, and final.
 */


#include "ngx_http_vd_module.h"


static ngx_uint_t ngx_http_vd_answer_status(ngx_http_vd_ctx_t *ctx);
static u_char *ngx_http_vd_write_string(u_char *p, const char *key,
    ngx_str_t *value);
static u_char *ngx_http_vd_write_name(u_char *p, const char *key,
    const char *value);
static void ngx_http_vd_make_final(ngx_http_request_t *r);
static ngx_int_t ngx_http_vd_send_json(ngx_http_request_t *r,
    ngx_uint_t status, ngx_buf_t *b);


ngx_int_t
ngx_http_vd_send_outcome(ngx_http_request_t *r, ngx_http_vd_ctx_t *ctx)
{
    size_t       size;
    u_char      *p;
    ngx_buf_t   *b;
    const char  *ticket_error;

    /* 6: the longest escape */
    size = 256 + ctx->id.len + ctx->conf->output->id.len
           + 6 * ctx->ticket_id.len;

    b = ngx_create_temp_buf(r->pool, size);
    if (b == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    ticket_error = vd_ticket_error_name(ctx->ticket_error);

    p = b->last;
    p = ngx_http_vd_write_string(p, "{\"id\":", &ctx->id);
    p = ngx_http_vd_write_string(p, ",\"output\":", &ctx->conf->output->id);
    p = ngx_http_vd_write_string(p, ",\"state\":", ngx_http_vd_state(ctx));
    p = ngx_sprintf(p, ",\"attempt\":%ui,\"status\":", ctx->attempt);

    if (ctx->exchange.status) {
        p = ngx_sprintf(p, "%ui", ctx->exchange.status);

    } else {
        p = ngx_sprintf(p, "null");
    }

    p = ngx_http_vd_write_string(p, ",\"ticket_id\":", &ctx->ticket_id);
    p = ngx_http_vd_write_name(p, ",\"ticket_error\":", ticket_error);
    p = ngx_http_vd_write_name(p, ",\"reason\":",
                               vd_reason_name(ctx->result.reason));
    p = ngx_sprintf(p, ",\"journaled\":%s}\n",
                    ctx->journaled ? "true" : "false");

    b->last = p;

    return ngx_http_vd_send_json(r, ngx_http_vd_answer_status(ctx), b);
}


/* The app is rid of the case, or of its delivery, or of neither. */

static ngx_uint_t
ngx_http_vd_answer_status(ngx_http_vd_ctx_t *ctx)
{
    if (ctx->result.outcome == VD_DELIVERED) {
        return NGX_HTTP_OK;
    }

    if (ctx->journaled) {
        return NGX_HTTP_ACCEPTED;
    }

    return ctx->conf->journal ? NGX_HTTP_SERVICE_UNAVAILABLE
                              : NGX_HTTP_BAD_GATEWAY;
}


/*
 * A key and a string, or null where it is empty.  With "<" escaped it can be
 * no tag and no command, whoever gets to read the answer.
 */

static u_char *
ngx_http_vd_write_string(u_char *p, const char *key, ngx_str_t *value)
{
    size_t  i;

    p = ngx_cpymem(p, key, ngx_strlen(key));

    if (value->len == 0) {
        return ngx_cpymem(p, "null", 4);
    }

    *p++ = '"';

    for (i = 0; i < value->len; i++) {

        if (value->data[i] == '<') {
            p = ngx_cpymem(p, "\\u003c", 6);
            continue;
        }

        p = (u_char *) ngx_escape_json(p, &value->data[i], 1);
    }

    *p++ = '"';

    return p;
}


static u_char *
ngx_http_vd_write_name(u_char *p, const char *key, const char *value)
{
    ngx_str_t  s;

    s.data = (u_char *) value;
    s.len = ngx_strlen(value);

    return ngx_http_vd_write_string(p, key, &s);
}


ngx_int_t
ngx_http_vd_send_error(ngx_http_request_t *r, ngx_uint_t status,
    const char *error)
{
    ngx_int_t   rc;
    ngx_buf_t  *b;

    ngx_log_error(NGX_LOG_INFO, r->connection->log, 0,
                  "client sent a case that is refused: %s", error);

    rc = ngx_http_discard_request_body(r);

    if (rc != NGX_OK) {
        return rc;
    }

    b = ngx_create_temp_buf(r->pool, ngx_strlen(error) + 32);
    if (b == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    b->last = ngx_http_vd_write_name(b->last, "{\"error\":", error);
    b->last = ngx_sprintf(b->last, "}\n");

    return ngx_http_vd_send_json(r, status, b);
}


/*
 * Neither the request nor the configuration makes another answer of this one.
 * Where a filter fails nginx forgets our context, with which the log handler
 * works.
 */

static void
ngx_http_vd_make_final(ngx_http_request_t *r)
{
    ngx_http_vd_ctx_t       *ctx;
    ngx_http_vd_loc_conf_t  *conf;

    ctx = ngx_http_get_module_ctx(r, ngx_http_vd_module);
    conf = ngx_http_get_module_loc_conf(r, ngx_http_vd_module);

    if (ctx->log_handler) {
        r->log_handler = ctx->log_handler;
    }

    /* If-Match and the like, Range */
    r->disable_not_modified = 1;
    r->allow_ranges = 0;

    /* error_page without "=" would have its own status override ours */
    r->err_status = 0;

    /* as if one had been shown: there will be none */
    r->error_page = 1;

    /* with filters that work on JSON turned off */
    r->loc_conf = conf->answer_conf;
}


static ngx_int_t
ngx_http_vd_send_json(ngx_http_request_t *r, ngx_uint_t status, ngx_buf_t *b)
{
    ngx_int_t    rc;
    ngx_chain_t  out;

    ngx_http_vd_make_final(r);

    r->headers_out.status = status;
    r->headers_out.content_length_n = b->last - b->pos;

    ngx_str_set(&r->headers_out.content_type, "application/json");
    r->headers_out.content_type_len = r->headers_out.content_type.len;
    r->headers_out.content_type_lowcase = NULL;

    rc = ngx_http_send_header(r);

    if (rc == NGX_ERROR || rc > NGX_OK || r->header_only) {
        return rc;
    }

    b->last_buf = 1;
    b->last_in_chain = 1;

    out.buf = b;
    out.next = NULL;

    return ngx_http_output_filter(r, &out);
}


ngx_int_t
ngx_http_vd_allow(ngx_http_request_t *r, const char *methods)
{
    ngx_table_elt_t  *allow;

    allow = ngx_list_push(&r->headers_out.headers);
    if (allow == NULL) {
        return NGX_ERROR;
    }

    ngx_memzero(allow, sizeof(ngx_table_elt_t));

    allow->hash = 1;
    ngx_str_set(&allow->key, "Allow");
    allow->value.data = (u_char *) methods;
    allow->value.len = ngx_strlen(methods);

    return NGX_OK;
}
