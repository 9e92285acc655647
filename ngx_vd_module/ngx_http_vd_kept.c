
/*
 * Copyright (C) The ngx_vd_module authors
 *
 * What an attempt sends that is made of variables: evaluated by the first one,
 * kept in its record, and the same in every attempt that follows.
 */


#include "ngx_http_vd_module.h"


static ngx_int_t ngx_http_vd_eval_value(ngx_http_vd_ctx_t *ctx,
    ngx_http_complex_value_t *cv, ngx_http_vd_header_t *header,
    ngx_http_vd_value_t *value);
static ngx_uint_t ngx_http_vd_find_kept(ngx_http_vd_ctx_t *ctx,
    ngx_http_vd_header_t *header, ngx_http_vd_value_t *value);
static ngx_int_t ngx_http_vd_number_value(ngx_http_vd_ctx_t *ctx,
    ngx_http_vd_value_t *value);
static ngx_int_t ngx_http_vd_keep_values(ngx_http_vd_ctx_t *ctx,
    ngx_http_variable_value_t *before);
static ngx_int_t ngx_http_vd_find_varying(ngx_http_vd_ctx_t *ctx,
    ngx_http_variable_value_t *before);
static void ngx_http_vd_keep(ngx_http_vd_ctx_t *ctx, vd_kept_kind_e kind,
    ngx_str_t *name, ngx_str_t *value);


ngx_int_t
ngx_http_vd_take_output(ngx_http_request_t *r, ngx_http_vd_ctx_t *ctx,
    ngx_uint_t *status, const char **error)
{
    u_char     *p;
    ngx_str_t   value, *output;

    switch (ngx_http_vd_get_header(r, "VD-Output", &value)) {

    case 0:
        return NGX_OK;

    case 1:
        break;

    default:
        *error = "more than one VD-Output";
        return NGX_DECLINED;
    }

    if (!ctx->retry) {
        *error = "VD-Output without VD-Attempt";
        return NGX_DECLINED;
    }

    if (!vd_output_id_valid(value.data, value.len)) {
        *error = "invalid VD-Output, it must be 1 to 64 of A-Za-z0-9._-";
        return NGX_DECLINED;
    }

    output = &ctx->conf->output->id;

    if (value.len == output->len
        && ngx_strncmp(value.data, output->data, value.len) == 0)
    {
        return NGX_OK;
    }

    p = ngx_pnalloc(r->pool, 2 * VD_OUTPUT_ID_MAX + 64);
    if (p == NULL) {
        return NGX_ERROR;
    }

    ngx_sprintf(p, "this location delivers to output \"%V\", not to \"%V\"%Z",
                output, &value);

    *status = NGX_HTTP_CONFLICT;
    *error = (const char *) p;

    return NGX_DECLINED;
}


ngx_int_t
ngx_http_vd_take_kept(ngx_http_request_t *r, ngx_http_vd_ctx_t *ctx,
    const char **error)
{
    vd_kept_t  type;
    ngx_str_t  value;

    switch (ngx_http_vd_get_header(r, "VD-Kept", &value)) {

    case 0:
        return NGX_OK;

    case 1:
        break;

    default:
        *error = "more than one VD-Kept";
        return NGX_DECLINED;
    }

    if (!ctx->retry) {
        *error = "VD-Kept without VD-Attempt";
        return NGX_DECLINED;
    }

    ctx->kept.data = ngx_pnalloc(r->pool, VD_KEPT_BYTES);
    if (ctx->kept.data == NULL) {
        return NGX_ERROR;
    }

    ctx->kept.len = vd_kept_read(value.data, value.len, ctx->kept.data);
    ctx->kept_text = value;

    if (ctx->kept.len == 0) {
        *error = "malformed VD-Kept";
        return NGX_DECLINED;
    }

    if (vd_kept_find(ctx->kept.data, ctx->kept.len, VD_KEPT_TYPE, NULL, 0,
                     &type))
    {
        ctx->kept_type.data = (u_char *) type.value;
        ctx->kept_type.len = type.value_len;
    }

    return NGX_OK;
}


ngx_int_t
ngx_http_vd_eval_case(ngx_http_vd_ctx_t *ctx)
{
    ngx_http_vd_value_t  value;

    if (ctx->case_known) {
        return NGX_OK;
    }

    /* also while it is evaluated: it may be made of $vd_case */
    ctx->case_known = 1;

    if (ngx_http_vd_eval_value(ctx, ctx->conf->case_value, NULL, &value)
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    ctx->case_id = value.text;
    ctx->case_varies = value.varies;

    return NGX_OK;
}


ngx_int_t
ngx_http_vd_eval_values(ngx_http_vd_ctx_t *ctx)
{
    size_t                      size;
    ngx_uint_t                  i, n, keep;
    ngx_http_request_t         *r;
    ngx_http_vd_header_t       *header;
    ngx_http_vd_loc_conf_t     *conf;
    ngx_http_core_main_conf_t  *cmcf;
    ngx_http_variable_value_t  *before;

    r = ctx->request;
    conf = ctx->conf;
    n = conf->headers ? conf->headers->nelts : 0;

    keep = conf->journal && ctx->kept.len == 0
           && (ctx->attempt == 1 || conf->journal->bodies);

    cmcf = ngx_http_get_module_main_conf(r, ngx_http_core_module);
    size = keep ? cmcf->variables.nelts * sizeof(ngx_http_variable_value_t)
                : 0;

    before = ngx_palloc(r->pool, size);
    ctx->values = ngx_palloc(r->pool, n * sizeof(ngx_http_vd_value_t));

    if (before == NULL || ctx->values == NULL) {
        return NGX_ERROR;
    }

    ngx_memcpy(before, r->variables, size);

    if (ngx_http_vd_eval_case(ctx) != NGX_OK) {
        return NGX_ERROR;
    }

    header = n ? conf->headers->elts : NULL;

    for (i = 0; i < n; i++) {

        if (ngx_http_vd_eval_value(ctx, &header[i].value, &header[i],
                                   &ctx->values[i])
            != NGX_OK
            || ngx_http_vd_number_value(ctx, &ctx->values[i]) != NGX_OK)
        {
            return NGX_ERROR;
        }
    }

    return keep ? ngx_http_vd_keep_values(ctx, before) : NGX_OK;
}


/* Of a header, or of the case (NULL).  What has no variables is not kept. */

static ngx_int_t
ngx_http_vd_eval_value(ngx_http_vd_ctx_t *ctx, ngx_http_complex_value_t *cv,
    ngx_http_vd_header_t *header, ngx_http_vd_value_t *value)
{
    size_t      i, numbers;
    ngx_int_t   rc;
    ngx_uint_t  varies;

    if (cv->lengths && ngx_http_vd_find_kept(ctx, header, value)) {
        return NGX_OK;
    }

    /* the case may be evaluated in the midst of a header's value */

    varies = ctx->varies;
    ctx->varies = 0;

    rc = ngx_http_complex_value(ctx->request, cv, &value->text);

    value->varies = ctx->varies;
    ctx->varies = varies;

    if (rc != NGX_OK) {
        return NGX_ERROR;
    }

    /* a variable with such a byte in it must not get the number in its place */

    numbers = 0;

    for (i = 0; i < value->text.len; i++) {
        numbers += (value->text.data[i] == VD_KEPT_NUMBER);
    }

    value->numbered = header && numbers && numbers == header->numbers;

    return NGX_OK;
}


static ngx_uint_t
ngx_http_vd_find_kept(ngx_http_vd_ctx_t *ctx, ngx_http_vd_header_t *header,
    ngx_http_vd_value_t *value)
{
    vd_kept_t  found;

    if (!vd_kept_find(ctx->kept.data, ctx->kept.len,
                      header ? VD_KEPT_HEADER : VD_KEPT_CASE,
                      header ? header->name.data : NULL,
                      header ? header->name.len : 0, &found))
    {
        return 0;
    }

    value->text.data = (u_char *) found.value;
    value->text.len = found.value_len;
    value->numbered = (found.kind == VD_KEPT_NUMBERED);
    value->varies = 0;

    return 1;
}


static ngx_int_t
ngx_http_vd_number_value(ngx_http_vd_ctx_t *ctx, ngx_http_vd_value_t *value)
{
    size_t   i;
    u_char  *p;

    value->sent = value->text;

    if (!value->numbered) {
        return NGX_OK;
    }

    p = ngx_pnalloc(ctx->request->pool, value->text.len * NGX_INT_T_LEN);
    if (p == NULL) {
        return NGX_ERROR;
    }

    value->sent.data = p;

    for (i = 0; i < value->text.len; i++) {

        if (value->text.data[i] == VD_KEPT_NUMBER) {
            p = ngx_sprintf(p, "%ui", ctx->attempt);

        } else {
            *p++ = value->text.data[i];
        }
    }

    value->sent.len = p - value->sent.data;

    return NGX_OK;
}


/* A list of what is to be kept for retries: NGX_DECLINED if it is too long. */

static ngx_int_t
ngx_http_vd_keep_values(ngx_http_vd_ctx_t *ctx,
    ngx_http_variable_value_t *before)
{
    ngx_str_t               *type;
    ngx_uint_t               i, n;
    ngx_http_vd_header_t    *header;
    ngx_http_vd_loc_conf_t  *conf;

    conf = ctx->conf;
    n = conf->headers ? conf->headers->nelts : 0;
    header = n ? conf->headers->elts : NULL;

    if (ngx_http_vd_find_varying(ctx, before) != NGX_OK) {
        return NGX_ERROR;
    }

    ctx->keep = ngx_palloc(ctx->request->pool, (n + 2) * sizeof(vd_kept_t));
    if (ctx->keep == NULL) {
        return NGX_ERROR;
    }

    if (conf->case_value->lengths && !ctx->case_varies) {
        ngx_http_vd_keep(ctx, VD_KEPT_CASE, NULL, &ctx->case_id);
    }

    type = ngx_http_vd_content_type(ctx);

    if (type->len > VD_KEPT_MAX) {
        return NGX_DECLINED;
    }

    if (ngx_http_vd_odd_type(ctx)) {

        /* a retry also has what JSON makes of it, three bytes for each */

        if (3 * type->len > VD_KEPT_MAX) {
            return NGX_DECLINED;
        }

        ngx_http_vd_keep(ctx, VD_KEPT_TYPE, NULL, type);
    }

    for (i = 0; i < n; i++) {

        if (header[i].value.lengths && !ctx->values[i].varies) {
            ngx_http_vd_keep(ctx, ctx->values[i].numbered ? VD_KEPT_NUMBERED
                                                          : VD_KEPT_HEADER,
                             &header[i].name, &ctx->values[i].text);
        }
    }

    return (vd_kept_size(ctx->keep, ctx->nkeep) > VD_KEPT_MAX) ? NGX_DECLINED
                                                               : NGX_OK;
}


/*
 * A variable that is made of $vd_attempt, as a map's may be, asks for it but
 * once, and a second header with that variable is not seen to vary.  So where
 * there is one, the others are evaluated again, each from the variables as they
 * were before all of them, only to see that.
 */

static ngx_int_t
ngx_http_vd_find_varying(ngx_http_vd_ctx_t *ctx,
    ngx_http_variable_value_t *before)
{
    size_t                      size;
    ngx_int_t                   rc;
    ngx_str_t                   text;
    ngx_uint_t                  i, n, any;
    ngx_http_request_t         *r;
    ngx_http_vd_header_t       *header;
    ngx_http_core_main_conf_t  *cmcf;
    ngx_http_variable_value_t  *variables;

    n = ctx->conf->headers ? ctx->conf->headers->nelts : 0;
    any = ctx->case_varies;

    for (i = 0; i < n; i++) {
        any |= ctx->values[i].varies;
    }

    if (!any) {
        return NGX_OK;
    }

    r = ctx->request;
    header = n ? ctx->conf->headers->elts : NULL;

    cmcf = ngx_http_get_module_main_conf(r, ngx_http_core_module);
    size = cmcf->variables.nelts * sizeof(ngx_http_variable_value_t);

    variables = r->variables;

    r->variables = ngx_palloc(r->pool, size);
    rc = r->variables ? NGX_OK : NGX_ERROR;

    for (i = 0; i < n && rc == NGX_OK; i++) {

        ngx_memcpy(r->variables, before, size);

        ctx->varies = 0;
        rc = ngx_http_complex_value(r, &header[i].value, &text);
        ctx->values[i].varies = ctx->varies;
    }

    r->variables = variables;

    return rc;
}


static void
ngx_http_vd_keep(ngx_http_vd_ctx_t *ctx, vd_kept_kind_e kind, ngx_str_t *name,
    ngx_str_t *value)
{
    vd_kept_t  *kept;

    kept = &ctx->keep[ctx->nkeep++];

    kept->kind = kind;
    kept->name = name ? name->data : NULL;
    kept->name_len = name ? name->len : 0;
    kept->value = value->data;
    kept->value_len = value->len;
}


ngx_int_t
ngx_http_vd_kept_text(ngx_http_vd_ctx_t *ctx, ngx_str_t *text)
{
    *text = ctx->kept_text;

    if (ctx->nkeep == 0) {
        return NGX_OK;
    }

    text->len = vd_kept_size(ctx->keep, ctx->nkeep);

    text->data = ngx_pnalloc(ctx->request->pool, text->len);
    if (text->data == NULL) {
        return NGX_ERROR;
    }

    vd_kept_write(ctx->keep, ctx->nkeep, text->data);

    return NGX_OK;
}
