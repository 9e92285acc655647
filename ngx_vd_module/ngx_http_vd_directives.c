
/*
 * Copyright (C) The ngx_vd_module authors
 *
 * Directives: what each takes, and refuses.
 */


#include "ngx_http_vd_module.h"


#define NGX_HTTP_VD_TICKET_MAX_MAX   4096


static char *ngx_http_vd_parse_target(ngx_conf_t *cf,
    ngx_http_vd_loc_conf_t *conf, ngx_str_t *url);
static char *ngx_http_vd_set_target(ngx_conf_t *cf,
    ngx_http_vd_loc_conf_t *conf, ngx_url_t *u);
static ngx_http_vd_output_t *ngx_http_vd_find_output(ngx_conf_t *cf,
    ngx_str_t *id);
static ngx_http_vd_output_t *ngx_http_vd_add_output(ngx_conf_t *cf,
    ngx_str_t *id, ngx_str_t *label);
static ngx_int_t ngx_http_vd_printable(ngx_str_t *text);
static ngx_int_t ngx_http_vd_ticket_option(ngx_conf_t *cf,
    ngx_str_t *value, size_t *max, ngx_str_t *pattern);


char *
ngx_http_vd_pass(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_vd_loc_conf_t *vlcf = conf;

    char                      *rv;
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

    rv = ngx_http_vd_parse_target(cf, vlcf, &value[1]);

    if (rv != NGX_CONF_OK) {
        return rv;
    }

    clcf = ngx_http_conf_get_module_loc_conf(cf, ngx_http_core_module);
    clcf->handler = ngx_http_vd_handler;

    return NGX_CONF_OK;
}


static char *
ngx_http_vd_parse_target(ngx_conf_t *cf, ngx_http_vd_loc_conf_t *conf,
    ngx_str_t *url)
{
    size_t     i;
    ngx_url_t  u;

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
        return NGX_CONF_ERROR;
    }

    for (i = 0; i < url->len; i++) {
        if (url->data[i] <= 0x20 || url->data[i] >= 0x7f
            || url->data[i] == '#')
        {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "invalid URL \"%V\" in \"vd_pass\" directive, "
                               "it must not contain spaces, control or "
                               "non-ASCII characters, or \"#\"", url);
            return NGX_CONF_ERROR;
        }
    }

    u.url.data = url->data + conf->schema.len;
    u.url.len = url->len - conf->schema.len;
    u.uri_part = 1;
    u.no_resolve = 1;

    /* the URL is not logged: a password may stand there */
    if (u.url.data[strcspn((char *) u.url.data, "@/?")] == '@') {
        return "must not contain a user, "
               "\"vd_set_header Authorization\" sends one";
    }

    return ngx_http_vd_set_target(cf, conf, &u);
}


static char *
ngx_http_vd_set_target(ngx_conf_t *cf, ngx_http_vd_loc_conf_t *conf,
    ngx_url_t *u)
{
    u_char  *p;

    conf->origin = ngx_http_upstream_add(cf, u, 0);
    if (conf->origin == NULL) {
        return "needs a host, an address, \"unix:\" and a path, or the name "
               "of an upstream behind \"http://\" or \"https://\"";
    }

    if (u->family == AF_UNIX) {
        ngx_str_set(&conf->host, "localhost");

    } else {
        conf->host = u->host;

        if (!u->no_port && u->port != u->default_port) {
            conf->host.len += 1 + u->port_text.len;
        }
    }

    if (u->uri.len == 0) {
        ngx_str_set(&conf->uri, "/");
        return NGX_CONF_OK;
    }

    conf->uri = u->uri;

    if (u->uri.data[0] == '?') {
        conf->uri.len = u->uri.len + 1;
        conf->uri.data = ngx_pnalloc(cf->pool, conf->uri.len);
        if (conf->uri.data == NULL) {
            return NGX_CONF_ERROR;
        }

        p = conf->uri.data;
        *p++ = '/';
        ngx_memcpy(p, u->uri.data, u->uri.len);
    }

    return NGX_CONF_OK;
}


char *
ngx_http_vd_output(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_vd_loc_conf_t *vlcf = conf;

    ngx_str_t             *value, label;
    ngx_http_vd_output_t  *output;

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

    output = ngx_http_vd_find_output(cf, &value[1]);

    if (output == NULL) {
        output = ngx_http_vd_add_output(cf, &value[1], &label);
        if (output == NULL) {
            return NGX_CONF_ERROR;
        }

    } else if (output->label.len != label.len
               || ngx_memcmp(output->label.data, label.data, label.len) != 0)
    {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"vd_output\" \"%V\" has the label \"%V\" here, "
                           "but \"%V\" in %s:%ui, give both the same label "
                           "or different ids", &value[1], &label,
                           &output->label, output->file, output->line);
        return NGX_CONF_ERROR;
    }

    vlcf->output = output;

    return NGX_CONF_OK;
}


static ngx_http_vd_output_t *
ngx_http_vd_find_output(ngx_conf_t *cf, ngx_str_t *id)
{
    ngx_uint_t                i;
    ngx_http_vd_output_t    **output;
    ngx_http_vd_main_conf_t  *vmcf;

    vmcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_vd_module);

    output = vmcf->outputs.elts;

    for (i = 0; i < vmcf->outputs.nelts; i++) {

        if (output[i]->id.len == id->len
            && ngx_memcmp(output[i]->id.data, id->data, id->len) == 0)
        {
            return output[i];
        }
    }

    return NULL;
}


static ngx_http_vd_output_t *
ngx_http_vd_add_output(ngx_conf_t *cf, ngx_str_t *id, ngx_str_t *label)
{
    ngx_http_vd_output_t     *output, **outputp;
    ngx_http_vd_main_conf_t  *vmcf;

    output = ngx_pcalloc(cf->pool, sizeof(ngx_http_vd_output_t));
    if (output == NULL) {
        return NULL;
    }

    output->id = *id;
    output->label = *label;
    output->file = cf->conf_file->file.name.data;
    output->line = cf->conf_file->line;

    vmcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_vd_module);

    outputp = ngx_array_push(&vmcf->outputs);
    if (outputp == NULL) {
        return NULL;
    }

    *outputp = output;

    return output;
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
    max = 0;
    ngx_str_null(&pattern);
    paths = 0;

    for (i = 1; i < cf->args->nelts; i++) {

        rc = ngx_http_vd_ticket_option(cf, &value[i], &max, &pattern);

        if (rc == NGX_ERROR) {
            return NGX_CONF_ERROR;
        }

        if (rc == NGX_DECLINED) {
            value[++paths] = value[i];
        }
    }

    if (paths == 0) {
        return "needs at least one path, such as \"ticket_id\"";
    }

    vlcf->ticket_max = max ? max : NGX_HTTP_VD_TICKET_MAX;
    vlcf->ticket = ngx_http_vd_create_ticket(cf, vlcf->ticket_max);
    if (vlcf->ticket == NULL) {
        return NGX_CONF_ERROR;
    }

    for (i = 1; i <= paths; i++) {

        reason = vd_ticket_add_path(vlcf->ticket, value[i].data, value[i].len);

        if (reason) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "invalid path \"%V\" in \"vd_ticket_id\" "
                               "directive: %s", &value[i], reason);
            return NGX_CONF_ERROR;
        }
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

        if (*max) {
            goto duplicate;
        }

        *max = n;
        return NGX_OK;
    }

    if (ngx_strncmp(value->data, "pattern=", 8) == 0) {
        if (pattern->len) {
            goto duplicate;
        }

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

duplicate:

    ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                       "duplicate parameter \"%V\" in \"vd_ticket_id\" "
                       "directive", value);

    return NGX_ERROR;
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

        if (ch > 0x10ffff || ch < 0x20 || (ch >= 0x7f && ch < 0xa0)
            || (ch >= 0xd800 && ch < 0xe000))
        {
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}
