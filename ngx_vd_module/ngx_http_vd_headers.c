
/*
 * Copyright (C) The ngx_vd_module authors
 *
 * Directives that add headers: which names and values they take.
 */


#include "ngx_http_vd_module.h"


static ngx_int_t ngx_http_vd_check_signature_header(ngx_conf_t *cf,
    ngx_array_t *signatures, ngx_str_t *header);
static ngx_int_t ngx_http_vd_number_text(ngx_conf_t *cf, ngx_str_t *text,
    ngx_uint_t *numbers);
static size_t ngx_http_vd_attempt_variable(u_char *p, u_char *last);
static ngx_int_t ngx_http_vd_token(ngx_str_t *name);
static ngx_uint_t ngx_http_vd_same_header(ngx_str_t *one, ngx_str_t *two);


char *
ngx_http_vd_signature(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_vd_loc_conf_t *vlcf = conf;

    ngx_str_t                *value, header;
    const vd_scheme_t        *scheme;
    ngx_http_vd_signature_t  *signature;

    value = cf->args->elts;

    scheme = vd_scheme_find(value[1].data, value[1].len);

    if (scheme == NULL) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid scheme \"%V\" in \"vd_signature\" "
                           "directive, it must be \"standard\", \"github\", "
                           "\"hex\", \"base64\", \"stripe\" or \"slack\"",
                           &value[1]);
        return NGX_CONF_ERROR;
    }

    header.data = (u_char *) scheme->header;
    header.len = ngx_strlen(scheme->header);

    if (cf->args->nelts == 3) {
        header = value[2];
    }

    if (vlcf->signatures == NULL) {
        vlcf->signatures = ngx_array_create(cf->pool, 2,
                                            sizeof(ngx_http_vd_signature_t));
        if (vlcf->signatures == NULL) {
            return NGX_CONF_ERROR;
        }
    }

    if (ngx_http_vd_check_signature_header(cf, vlcf->signatures, &header)
        != NGX_OK)
    {
        return NGX_CONF_ERROR;
    }

    signature = ngx_array_push(vlcf->signatures);
    if (signature == NULL) {
        return NGX_CONF_ERROR;
    }

    signature->scheme = scheme;
    signature->signer = NULL;
    signature->header = header;

    return NGX_CONF_OK;
}


static ngx_int_t
ngx_http_vd_check_signature_header(ngx_conf_t *cf, ngx_array_t *signatures,
    ngx_str_t *header)
{
    ngx_uint_t                i;
    ngx_http_vd_signature_t  *signature;

    if (ngx_http_vd_token(header) != NGX_OK) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid header \"%V\" in \"vd_signature\" "
                           "directive, it must be a header's name", header);
        return NGX_ERROR;
    }

    if (ngx_http_vd_own_header(NULL, header)) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid header \"%V\" in \"vd_signature\" "
                           "directive, it has another use already", header);
        return NGX_ERROR;
    }

    signature = signatures->elts;

    for (i = 0; i < signatures->nelts; i++) {

        if (ngx_http_vd_same_header(&signature[i].header, header)) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "another \"vd_signature\" directive uses "
                               "the header \"%V\" already, name a different "
                               "one as the second parameter", header);
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}


char *
ngx_http_vd_set_header(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_vd_loc_conf_t *vlcf = conf;

    ngx_str_t                         *value;
    ngx_uint_t                         i;
    ngx_http_vd_header_t              *header;
    ngx_http_compile_complex_value_t   ccv;

    value = cf->args->elts;

    if (ngx_http_vd_token(&value[1]) != NGX_OK) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid name \"%V\" in \"vd_set_header\" "
                           "directive, it must be a header's name", &value[1]);
        return NGX_CONF_ERROR;
    }

    if (ngx_http_vd_header_value(&value[2]) != NGX_OK) {
        return "must not contain control characters";
    }

    if (vlcf->headers == NULL) {
        vlcf->headers = ngx_array_create(cf->pool, 4,
                                         sizeof(ngx_http_vd_header_t));
        if (vlcf->headers == NULL) {
            return NGX_CONF_ERROR;
        }
    }

    header = vlcf->headers->elts;

    for (i = 0; i < vlcf->headers->nelts; i++) {

        if (ngx_http_vd_same_header(&header[i].name, &value[1])) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "duplicate header \"%V\" in \"vd_set_header\" "
                               "directive", &value[1]);
            return NGX_CONF_ERROR;
        }
    }

    header = ngx_array_push(vlcf->headers);
    if (header == NULL) {
        return NGX_CONF_ERROR;
    }

    header->name = value[1];

    if (ngx_http_vd_number_text(cf, &value[2], &header->numbers) != NGX_OK) {
        return NGX_CONF_ERROR;
    }

    ngx_memzero(&ccv, sizeof(ngx_http_compile_complex_value_t));

    ccv.cf = cf;
    ccv.value = &value[2];
    ccv.complex_value = &header->value;

    if (ngx_http_compile_complex_value(&ccv) != NGX_OK) {
        return "has an invalid variable";
    }

    return NGX_CONF_OK;
}


/*
 * Puts VD_KEPT_NUMBER for each "$vd_attempt" and "${vd_attempt}", so that all
 * else in the value can be kept for attempts with another number.
 */

static ngx_int_t
ngx_http_vd_number_text(ngx_conf_t *cf, ngx_str_t *text, ngx_uint_t *numbers)
{
    size_t   n;
    u_char  *p, *src, *last;

    p = ngx_pnalloc(cf->pool, text->len + 1);
    if (p == NULL) {
        return NGX_ERROR;
    }

    *numbers = 0;

    src = text->data;
    last = src + text->len;

    text->data = p;

    while (src < last) {
        n = ngx_http_vd_attempt_variable(src, last);

        if (n) {
            *p++ = VD_KEPT_NUMBER;
            src += n;
            (*numbers)++;

        } else {
            *p++ = *src++;
        }
    }

    *p = '\0';
    text->len = p - text->data;

    return NGX_OK;
}


/* The length of "$vd_attempt" where it stands at p, else 0. */

static size_t
ngx_http_vd_attempt_variable(u_char *p, u_char *last)
{
    size_t       len;
    u_char      *end;
    ngx_uint_t   braces;

    len = sizeof("vd_attempt") - 1;

    if (*p++ != '$' || p == last) {
        return 0;
    }

    braces = (*p == '{');
    end = p + braces + len;

    if (end + braces > last
        || ngx_strncasecmp(p + braces, (u_char *) "vd_attempt", len) != 0)
    {
        return 0;
    }

    if (braces) {
        return (*end == '}') ? len + sizeof("${}") - 1 : 0;
    }

    if (end < last
        && ((*end >= '0' && *end <= '9') || *end == '_'
            || ((*end | 0x20) >= 'a' && (*end | 0x20) <= 'z')))
    {
        /* a longer name */
        return 0;
    }

    return len + sizeof("$") - 1;
}


ngx_int_t
ngx_http_vd_header_value(ngx_str_t *value)
{
    size_t  i;
    u_char  ch;

    for (i = 0; i < value->len; i++) {
        ch = value->data[i];

        if ((ch < 0x20 && ch != '\t') || ch == 0x7f) {
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}


/* A header's name: a token of RFC 9110, 5.6.2 */

static ngx_int_t
ngx_http_vd_token(ngx_str_t *name)
{
    size_t  i;
    u_char  ch;

    if (name->len == 0) {
        return NGX_ERROR;
    }

    for (i = 0; i < name->len; i++) {
        ch = name->data[i];

        if (ch <= 0x20 || ch >= 0x7f
            || ngx_strchr("()<>@,;:\\\"/[]?={}", ch) != NULL)
        {
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}


static ngx_uint_t
ngx_http_vd_same_header(ngx_str_t *one, ngx_str_t *two)
{
    return one->len == two->len
           && ngx_strncasecmp(one->data, two->data, one->len) == 0;
}
