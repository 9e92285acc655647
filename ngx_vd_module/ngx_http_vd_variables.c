
/*
 * Copyright (C) The ngx_vd_module authors
 *
 * $vd_*: what is known of the delivery, empty where it is not.
 */


#include "ngx_http_vd_module.h"


static ngx_int_t ngx_http_vd_string_variable(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);
static ngx_int_t ngx_http_vd_case_variable(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);
static ngx_int_t ngx_http_vd_output_variable(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);
static ngx_int_t ngx_http_vd_number_variable(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);
static ngx_int_t ngx_http_vd_name_variable(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);
static ngx_http_vd_ctx_t *ngx_http_vd_variable_ctx(ngx_http_request_t *r,
    ngx_http_variable_value_t *v);
static void ngx_http_vd_set_variable(ngx_http_variable_value_t *v,
    ngx_str_t *value);


typedef enum {
    NGX_HTTP_VD_ATTEMPT = 0,
    NGX_HTTP_VD_STATUS,
    NGX_HTTP_VD_DURATION,
    NGX_HTTP_VD_OUTCOME,
    NGX_HTTP_VD_REASON,
    NGX_HTTP_VD_TICKET_ERROR,
    NGX_HTTP_VD_STATE,
    NGX_HTTP_VD_JOURNALED
} ngx_http_vd_variable_e;


static ngx_http_variable_t  ngx_http_vd_vars[] = {

    { ngx_string("vd_id"), NULL, ngx_http_vd_string_variable,
      offsetof(ngx_http_vd_ctx_t, id), NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("vd_output"), NULL, ngx_http_vd_output_variable,
      offsetof(ngx_http_vd_output_t, id), NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("vd_label"), NULL, ngx_http_vd_output_variable,
      offsetof(ngx_http_vd_output_t, label), NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("vd_case"), NULL, ngx_http_vd_case_variable,
      0, NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("vd_attempt"), NULL, ngx_http_vd_number_variable,
      NGX_HTTP_VD_ATTEMPT, NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("vd_outcome"), NULL, ngx_http_vd_name_variable,
      NGX_HTTP_VD_OUTCOME, NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("vd_reason"), NULL, ngx_http_vd_name_variable,
      NGX_HTTP_VD_REASON, NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("vd_status"), NULL, ngx_http_vd_number_variable,
      NGX_HTTP_VD_STATUS, NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("vd_ticket_id"), NULL, ngx_http_vd_string_variable,
      offsetof(ngx_http_vd_ctx_t, ticket_id), NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("vd_ticket_error"), NULL, ngx_http_vd_name_variable,
      NGX_HTTP_VD_TICKET_ERROR, NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("vd_duration"), NULL, ngx_http_vd_number_variable,
      NGX_HTTP_VD_DURATION, NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("vd_state"), NULL, ngx_http_vd_name_variable,
      NGX_HTTP_VD_STATE, NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("vd_journaled"), NULL, ngx_http_vd_name_variable,
      NGX_HTTP_VD_JOURNALED, NGX_HTTP_VAR_NOCACHEABLE, 0 },

      ngx_http_null_variable
};


ngx_int_t
ngx_http_vd_add_variables(ngx_conf_t *cf)
{
    ngx_http_variable_t  *var, *v;

    for (v = ngx_http_vd_vars; v->name.len; v++) {

        var = ngx_http_add_variable(cf, &v->name, v->flags);
        if (var == NULL) {
            return NGX_ERROR;
        }

        var->get_handler = v->get_handler;
        var->data = v->data;
    }

    return NGX_OK;
}


ngx_str_t *
ngx_http_vd_state(ngx_http_vd_ctx_t *ctx)
{
    static ngx_str_t  delivered = ngx_string("delivered");
    static ngx_str_t  pending = ngx_string("pending");
    static ngx_str_t  failed = ngx_string("failed");

    return (ctx->result.outcome == VD_DELIVERED) ? &delivered
           : ctx->journaled ? &pending : &failed;
}


static ngx_int_t
ngx_http_vd_string_variable(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data)
{
    ngx_http_vd_ctx_t  *ctx;

    ctx = ngx_http_vd_variable_ctx(r, v);

    if (ctx) {
        ngx_http_vd_set_variable(v, (ngx_str_t *) ((char *) ctx + data));
    }

    return NGX_OK;
}


/* That of a request which was refused is evaluated when it is logged. */

static ngx_int_t
ngx_http_vd_case_variable(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data)
{
    ngx_http_vd_ctx_t  *ctx;

    ctx = ngx_http_vd_variable_ctx(r, v);

    if (ctx == NULL) {
        return NGX_OK;
    }

    if (ngx_http_vd_eval_case(ctx) != NGX_OK) {
        return NGX_ERROR;
    }

    ctx->varies |= ctx->case_varies;

    ngx_http_vd_set_variable(v, &ctx->case_id);

    return NGX_OK;
}


static ngx_int_t
ngx_http_vd_output_variable(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data)
{
    ngx_http_vd_ctx_t  *ctx;

    ctx = ngx_http_vd_variable_ctx(r, v);

    if (ctx) {
        ngx_http_vd_set_variable(v, (ngx_str_t *)
                                      ((char *) ctx->conf->output + data));
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_vd_number_variable(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data)
{
    ngx_str_t           text;
    ngx_uint_t          n;
    ngx_http_vd_ctx_t  *ctx;

    ctx = ngx_http_vd_variable_ctx(r, v);

    if (ctx == NULL) {
        return NGX_OK;
    }

    switch (data) {

    case NGX_HTTP_VD_ATTEMPT:
        ctx->varies = 1;
        n = ctx->attempt;
        break;

    case NGX_HTTP_VD_STATUS:
        n = ctx->exchange.status;
        break;

    default: /* NGX_HTTP_VD_DURATION */
        n = ctx->duration;
    }

    if (n == 0
        && (data != NGX_HTTP_VD_DURATION
            || ctx->result.outcome == VD_OUTCOME_NONE))
    {
        return NGX_OK;
    }

    text.data = ngx_pnalloc(r->pool, NGX_INT_T_LEN);
    if (text.data == NULL) {
        return NGX_ERROR;
    }

    text.len = ngx_sprintf(text.data, "%ui", n) - text.data;

    ngx_http_vd_set_variable(v, &text);

    return NGX_OK;
}


static ngx_int_t
ngx_http_vd_name_variable(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data)
{
    ngx_str_t           text;
    const char         *name;
    ngx_http_vd_ctx_t  *ctx;

    ctx = ngx_http_vd_variable_ctx(r, v);

    if (ctx == NULL
        || (ctx->result.outcome == VD_OUTCOME_NONE && !ctx->accepted))
    {
        return NGX_OK;
    }

    switch (data) {

    case NGX_HTTP_VD_OUTCOME:
        name = ctx->accepted ? "accepted"
                             : vd_outcome_name(ctx->result.outcome);
        break;

    case NGX_HTTP_VD_REASON:
        name = vd_reason_name(ctx->result.reason);
        break;

    case NGX_HTTP_VD_TICKET_ERROR:
        name = vd_ticket_error_name(ctx->ticket_error);
        break;

    case NGX_HTTP_VD_STATE:
        ngx_http_vd_set_variable(v, ngx_http_vd_state(ctx));
        return NGX_OK;

    default: /* NGX_HTTP_VD_JOURNALED */
        name = ctx->journaled ? "true" : "false";
    }

    text.data = (u_char *) name;
    text.len = ngx_strlen(name);

    ngx_http_vd_set_variable(v, &text);

    return NGX_OK;
}


/* Leaves the variable empty, and NULL if there is no delivery. */

static ngx_http_vd_ctx_t *
ngx_http_vd_variable_ctx(ngx_http_request_t *r, ngx_http_variable_value_t *v)
{
    v->len = 0;
    v->data = (u_char *) "";
    v->valid = 1;
    v->no_cacheable = 0;
    v->not_found = 0;

    return ngx_http_get_module_ctx(r->main, ngx_http_vd_module);
}


static void
ngx_http_vd_set_variable(ngx_http_variable_value_t *v, ngx_str_t *value)
{
    v->len = value->len;
    v->data = value->len ? value->data : (u_char *) "";
}
