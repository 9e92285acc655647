
/*
 * Copyright (C) The ngx_vd_module authors
 *
 * Directives: what each takes, and refuses.
 */


#include "ngx_http_vd_module.h"


#define NGX_HTTP_VD_TICKET_MAX_MAX   4096


static ngx_int_t ngx_http_vd_parse_target(ngx_conf_t *cf,
    ngx_http_vd_loc_conf_t *conf, ngx_str_t *url);
static ngx_int_t ngx_http_vd_printable(ngx_str_t *text);
static ngx_int_t ngx_http_vd_token(ngx_str_t *name);
static ngx_int_t ngx_http_vd_ticket_option(ngx_conf_t *cf,
    ngx_str_t *value, size_t *max, ngx_str_t *pattern);


char *
ngx_http_vd_pass(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_vd_loc_conf_t *vlcf = conf;

    ngx_str_t                 *value;
    ngx_http_core_loc_conf_t  *clcf;

    if (vlcf->origin) {
        return "is duplicate";
    }

    value = cf->args->elts;

    if (ngx_http_script_variables_count(&value[1])) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "variables in \"vd_pass\" \"%V\" are not supported, "
                           "where a case goes does not depend on the request",
                           &value[1]);
        return NGX_CONF_ERROR;
    }

    vlcf->file = cf->conf_file->file.name.data;
    vlcf->line = cf->conf_file->line;

    if (ngx_http_vd_parse_target(cf, vlcf, &value[1]) != NGX_OK) {
        return NGX_CONF_ERROR;
    }

    clcf = ngx_http_conf_get_module_loc_conf(cf, ngx_http_core_module);
    clcf->handler = ngx_http_vd_handler;

    return NGX_CONF_OK;
}


static ngx_int_t
ngx_http_vd_parse_target(ngx_conf_t *cf, ngx_http_vd_loc_conf_t *conf,
    ngx_str_t *url)
{
    size_t      i;
    u_char     *p;
    ngx_url_t   u;

    ngx_memzero(&u, sizeof(ngx_url_t));

    if (url->len >= 7 && ngx_strncasecmp(url->data, (u_char *) "http://", 7)
                         == 0)
    {
        ngx_str_set(&conf->schema, "http://");
        u.default_port = 80;

    } else if (url->len >= 8
               && ngx_strncasecmp(url->data, (u_char *) "https://", 8) == 0)
    {
        ngx_str_set(&conf->schema, "https://");
        u.default_port = 443;
        conf->ssl = 1;

    } else {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid URL \"%V\" in \"vd_pass\" directive, "
                           "it must begin with \"http://\" or \"https://\"",
                           url);
        return NGX_ERROR;
    }

    for (i = 0; i < url->len; i++) {
        if (url->data[i] <= 0x20 || url->data[i] >= 0x7f
            || url->data[i] == '#')
        {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "invalid URL \"%V\" in \"vd_pass\" directive, "
                               "it must not contain spaces, control or "
                               "non-ASCII characters, or \"#\"", url);
            return NGX_ERROR;
        }
    }

    u.url.data = url->data + conf->schema.len;
    u.url.len = url->len - conf->schema.len;
    u.uri_part = 1;
    u.no_resolve = 1;

    conf->origin = ngx_http_upstream_add(cf, &u, 0);
    if (conf->origin == NULL) {
        return NGX_ERROR;
    }

    if (u.family == AF_UNIX) {
        ngx_str_set(&conf->host, "localhost");

    } else {
        conf->host = u.host;

        if (!u.no_port && u.port != u.default_port) {
            conf->host.len += 1 + u.port_text.len;
        }
    }

    if (u.uri.len == 0) {
        ngx_str_set(&conf->uri, "/");
        return NGX_OK;
    }

    conf->uri = u.uri;

    if (u.uri.data[0] == '?') {
        conf->uri.len = u.uri.len + 1;
        conf->uri.data = ngx_pnalloc(cf->pool, conf->uri.len);
        if (conf->uri.data == NULL) {
            return NGX_ERROR;
        }

        p = conf->uri.data;
        *p++ = '/';
        ngx_memcpy(p, u.uri.data, u.uri.len);
    }

    return NGX_OK;
}


char *
ngx_http_vd_output(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_vd_loc_conf_t *vlcf = conf;

    ngx_str_t                 *value, label;
    ngx_uint_t                 i;
    ngx_http_vd_output_t      *output, **outputp;
    ngx_http_vd_main_conf_t   *vmcf;

    if (vlcf->output) {
        return "is duplicate";
    }

    value = cf->args->elts;

    if (!vd_output_id_valid(value[1].data, value[1].len)) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid id \"%V\" in \"vd_output\" directive, "
                           "it must be 1 to 64 of \"A-Za-z0-9._-\"",
                           &value[1]);
        return NGX_CONF_ERROR;
    }

    ngx_str_set(&label, "");

    if (cf->args->nelts == 3) {
        label = value[2];
    }

    if (ngx_http_vd_printable(&label) != NGX_OK) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid label \"%V\" in \"vd_output\" directive, "
                           "it must be text in UTF-8", &label);
        return NGX_CONF_ERROR;
    }

    if (vlcf->file == NULL) {
        vlcf->file = cf->conf_file->file.name.data;
        vlcf->line = cf->conf_file->line;
    }

    vmcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_vd_module);

    outputp = vmcf->outputs.elts;

    for (i = 0; i < vmcf->outputs.nelts; i++) {
        output = outputp[i];

        if (output->id.len != value[1].len
            || ngx_memcmp(output->id.data, value[1].data, value[1].len) != 0)
        {
            continue;
        }

        if (output->label.len != label.len
            || ngx_memcmp(output->label.data, label.data, label.len) != 0)
        {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "\"vd_output\" \"%V\" has the label \"%V\" "
                               "here, but \"%V\" in %s:%ui", &value[1],
                               &label, &output->label, output->file,
                               output->line);
            return NGX_CONF_ERROR;
        }

        vlcf->output = output;
        return NGX_CONF_OK;
    }

    output = ngx_palloc(cf->pool, sizeof(ngx_http_vd_output_t));
    if (output == NULL) {
        return NGX_CONF_ERROR;
    }

    output->id = value[1];
    output->label = label;
    output->file = cf->conf_file->file.name.data;
    output->line = cf->conf_file->line;

    outputp = ngx_array_push(&vmcf->outputs);
    if (outputp == NULL) {
        return NGX_CONF_ERROR;
    }

    *outputp = output;
    vlcf->output = output;

    return NGX_CONF_OK;
}


char *
ngx_http_vd_signature(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_vd_loc_conf_t *vlcf = conf;

    ngx_str_t                *value, header;
    ngx_uint_t                i;
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

    if (ngx_http_vd_token(&header) != NGX_OK) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid header \"%V\" in \"vd_signature\" "
                           "directive, it must be a header's name", &header);
        return NGX_CONF_ERROR;
    }

    if (ngx_http_vd_own_header(NULL, &header)) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "the \"vd_signature\" directive cannot use "
                           "the header \"%V\"", &header);
        return NGX_CONF_ERROR;
    }

    if (vlcf->signatures == NULL) {
        vlcf->signatures = ngx_array_create(cf->pool, 2,
                                            sizeof(ngx_http_vd_signature_t));
        if (vlcf->signatures == NULL) {
            return NGX_CONF_ERROR;
        }
    }

    signature = vlcf->signatures->elts;

    for (i = 0; i < vlcf->signatures->nelts; i++) {

        if (signature[i].header.len == header.len
            && ngx_strncasecmp(signature[i].header.data, header.data,
                               header.len)
               == 0)
        {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "another \"vd_signature\" directive uses "
                               "the header \"%V\" already, name a different "
                               "one as the second parameter", &header);
            return NGX_CONF_ERROR;
        }
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


char *
ngx_http_vd_ticket_id(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_vd_loc_conf_t *vlcf = conf;

    char         error[256];
    size_t       max;
    ngx_int_t    rc;
    ngx_str_t   *value, pattern;
    ngx_uint_t   i, paths;
    const char  *reason;

    if (vlcf->ticket) {
        return "is duplicate";
    }

    value = cf->args->elts;
    max = NGX_HTTP_VD_TICKET_MAX;
    ngx_str_null(&pattern);
    paths = 0;

    for (i = 1; i < cf->args->nelts; i++) {
        if (ngx_http_vd_ticket_option(cf, &value[i], &max, &pattern)
            == NGX_ERROR)
        {
            return NGX_CONF_ERROR;
        }
    }

    vlcf->ticket_max = max;
    vlcf->ticket = ngx_http_vd_create_ticket(cf, max);
    if (vlcf->ticket == NULL) {
        return NGX_CONF_ERROR;
    }

    for (i = 1; i < cf->args->nelts; i++) {

        rc = ngx_http_vd_ticket_option(cf, &value[i], &max, &pattern);

        if (rc == NGX_OK) {
            continue;
        }

        reason = vd_ticket_add_path(vlcf->ticket, value[i].data, value[i].len);

        if (reason) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "invalid path \"%V\" in \"vd_ticket_id\" "
                               "directive: %s", &value[i], reason);
            return NGX_CONF_ERROR;
        }

        paths++;
    }

    if (paths == 0) {
        return "needs at least one path, such as \"ticket_id\"";
    }

    if (pattern.len
        && vd_ticket_set_pattern(vlcf->ticket, pattern.data, pattern.len,
                                 error, sizeof(error))
           != 0)
    {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid pattern \"%V\" in \"vd_ticket_id\" "
                           "directive: %s", &pattern, error);
        return NGX_CONF_ERROR;
    }

    return NGX_CONF_OK;
}


/* NGX_OK: an option; NGX_DECLINED: not one, a path */

static ngx_int_t
ngx_http_vd_ticket_option(ngx_conf_t *cf, ngx_str_t *value, size_t *max,
    ngx_str_t *pattern)
{
    ngx_int_t  n;

    if (ngx_strncmp(value->data, "max=", 4) == 0) {
        n = ngx_atoi(value->data + 4, value->len - 4);

        if (n < 1 || n > NGX_HTTP_VD_TICKET_MAX_MAX) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "invalid parameter \"%V\" in \"vd_ticket_id\" "
                               "directive, it must be 1 to %d bytes", value,
                               NGX_HTTP_VD_TICKET_MAX_MAX);
            return NGX_ERROR;
        }

        *max = n;
        return NGX_OK;
    }

    if (ngx_strncmp(value->data, "pattern=", 8) == 0) {
        pattern->data = value->data + 8;
        pattern->len = value->len - 8;

        if (pattern->len == 0) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "empty pattern in \"vd_ticket_id\" directive");
            return NGX_ERROR;
        }

        return NGX_OK;
    }

    return NGX_DECLINED;
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

    if (vlcf->headers == NULL) {
        vlcf->headers = ngx_array_create(cf->pool, 4,
                                         sizeof(ngx_http_vd_header_t));
        if (vlcf->headers == NULL) {
            return NGX_CONF_ERROR;
        }
    }

    header = vlcf->headers->elts;

    for (i = 0; i < vlcf->headers->nelts; i++) {

        if (header[i].name.len == value[1].len
            && ngx_strncasecmp(header[i].name.data, value[1].data,
                               value[1].len)
               == 0)
        {
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

    ngx_memzero(&ccv, sizeof(ngx_http_compile_complex_value_t));

    ccv.cf = cf;
    ccv.value = &value[2];
    ccv.complex_value = &header->value;

    if (ngx_http_compile_complex_value(&ccv) != NGX_OK) {
        return NGX_CONF_ERROR;
    }

    return NGX_CONF_OK;
}


/* UTF-8 without control characters */

static ngx_int_t
ngx_http_vd_printable(ngx_str_t *text)
{
    u_char    *p, *last;
    uint32_t   ch;

    p = text->data;
    last = text->data + text->len;

    while (p < last) {
        ch = (*p < 0x80) ? *p++ : ngx_utf8_decode(&p, last - p);

        if (ch > 0x10ffff || ch < 0x20 || (ch >= 0x7f && ch < 0xa0)) {
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
