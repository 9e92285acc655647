
/*
 * Copyright (C) The ngx_vd_module authors
 *
 * Directives, and how they are inherited.
 */


#include "ngx_http_vd_module.h"


#define NGX_HTTP_VD_HEADER_SIZE      8192
#define NGX_HTTP_VD_TICKET_MAX       128
#define NGX_HTTP_VD_TICKET_MAX_MAX   4096


static ngx_int_t ngx_http_vd_parse_target(ngx_conf_t *cf,
    ngx_http_vd_loc_conf_t *conf, ngx_str_t *url);
static ngx_int_t ngx_http_vd_printable(ngx_str_t *text);
static ngx_int_t ngx_http_vd_token(ngx_str_t *name);
static void ngx_http_vd_free_ticket(void *data);
static ngx_int_t ngx_http_vd_ticket_option(ngx_conf_t *cf,
    ngx_str_t *value, size_t *max, ngx_str_t *pattern);
static void ngx_http_vd_merge_upstream(ngx_http_upstream_conf_t *prev,
    ngx_http_upstream_conf_t *conf);
static ngx_int_t ngx_http_vd_default_case(ngx_conf_t *cf,
    ngx_http_vd_loc_conf_t *conf);
static vd_ticket_t *ngx_http_vd_create_ticket(ngx_conf_t *cf, size_t max);
static ngx_int_t ngx_http_vd_init_location(ngx_conf_t *cf,
    ngx_http_vd_loc_conf_t *conf);
static ngx_int_t ngx_http_vd_check_headers(ngx_conf_t *cf,
    ngx_http_vd_loc_conf_t *conf);


void *
ngx_http_vd_create_main_conf(ngx_conf_t *cf)
{
    ngx_http_vd_main_conf_t  *vmcf;

    vmcf = ngx_pcalloc(cf->pool, sizeof(ngx_http_vd_main_conf_t));
    if (vmcf == NULL) {
        return NULL;
    }

    if (ngx_array_init(&vmcf->outputs, cf->pool, 4,
                       sizeof(ngx_http_vd_output_t *))
        != NGX_OK)
    {
        return NULL;
    }

    return vmcf;
}


void *
ngx_http_vd_create_loc_conf(ngx_conf_t *cf)
{
    ngx_http_vd_loc_conf_t  *conf;

    conf = ngx_pcalloc(cf->pool, sizeof(ngx_http_vd_loc_conf_t));
    if (conf == NULL) {
        return NULL;
    }

    /*
     * set by ngx_pcalloc():
     *
     *     conf->origin, conf->output, conf->ssl
     *     conf->secrets, conf->signatures, conf->headers, conf->ticket
     *     conf->upstream.buffering, .store, .intercept_errors, ...
     *     conf->ssl_protocols, .ssl_ciphers, .ssl_crl, ...
     */

    conf->case_value = NGX_CONF_UNSET_PTR;
    conf->validate = NGX_CONF_UNSET;
    conf->timeout = NGX_CONF_UNSET_MSEC;
    conf->max_response_size = NGX_CONF_UNSET_SIZE;

    conf->upstream.local = NGX_CONF_UNSET_PTR;
    conf->upstream.socket_keepalive = NGX_CONF_UNSET;
    conf->upstream.next_upstream_tries = NGX_CONF_UNSET_UINT;
    conf->upstream.next_upstream_timeout = NGX_CONF_UNSET_MSEC;
    conf->upstream.connect_timeout = NGX_CONF_UNSET_MSEC;
    conf->upstream.send_timeout = NGX_CONF_UNSET_MSEC;
    conf->upstream.read_timeout = NGX_CONF_UNSET_MSEC;

    /* an attempt is made to its end, whether or not the client is there */
    conf->upstream.ignore_client_abort = 1;

    /* a receiver may begin to respond before it has read the request */
    conf->upstream.preserve_output = 1;

    conf->upstream.buffer_size = NGX_HTTP_VD_HEADER_SIZE;

    conf->upstream.ssl_session_reuse = NGX_CONF_UNSET;
    conf->upstream.ssl_name = NGX_CONF_UNSET_PTR;
    conf->upstream.ssl_server_name = NGX_CONF_UNSET;
    conf->upstream.ssl_verify = NGX_CONF_UNSET;
    conf->upstream.ssl_certificate = NGX_CONF_UNSET_PTR;
    conf->upstream.ssl_certificate_key = NGX_CONF_UNSET_PTR;
    conf->upstream.ssl_passwords = NGX_CONF_UNSET_PTR;
    conf->ssl_verify_depth = NGX_CONF_UNSET_UINT;
    conf->ssl_conf_commands = NGX_CONF_UNSET_PTR;

    return conf;
}


char *
ngx_http_vd_merge_loc_conf(ngx_conf_t *cf, void *parent, void *child)
{
    ngx_http_vd_loc_conf_t *prev = parent;
    ngx_http_vd_loc_conf_t *conf = child;

    ngx_http_core_loc_conf_t  *clcf;

    clcf = ngx_http_conf_get_module_loc_conf(cf, ngx_http_core_module);

    if (clcf->noname && conf->origin == NULL) {
        /* "if" and "limit_except" inside a location with vd_pass */

        conf->origin = prev->origin;
        conf->schema = prev->schema;
        conf->host = prev->host;
        conf->uri = prev->uri;
        conf->file = prev->file;
        conf->line = prev->line;
        conf->output = prev->output;
        conf->ssl = prev->ssl;
    }

    if (clcf->lmt_excpt && clcf->handler == NULL && conf->origin) {
        clcf->handler = ngx_http_vd_handler;
    }

    ngx_conf_merge_ptr_value(conf->case_value, prev->case_value, NULL);
    ngx_conf_merge_value(conf->validate, prev->validate, 1);
    ngx_conf_merge_msec_value(conf->timeout, prev->timeout, 30000);
    ngx_conf_merge_size_value(conf->max_response_size,
                              prev->max_response_size, 64 * 1024);

    if (conf->secrets == NULL) {
        conf->secrets = prev->secrets;
    }

    if (conf->signatures == NULL) {
        conf->signatures = prev->signatures;
    }

    if (conf->headers == NULL) {
        conf->headers = prev->headers;
    }

    if (conf->ticket == NULL) {
        conf->ticket = prev->ticket;
        conf->ticket_max = prev->ticket_max;
    }

    ngx_http_vd_merge_upstream(&prev->upstream, &conf->upstream);

    if (ngx_http_vd_merge_ssl(cf, prev, conf) != NGX_OK) {
        return NGX_CONF_ERROR;
    }

    if (conf->origin == NULL) {

        if (conf->output) {
            ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                          "\"vd_output\" \"%V\" is without \"vd_pass\" "
                          "in its location in %s:%ui", &conf->output->id,
                          conf->file, conf->line);
            return NGX_CONF_ERROR;
        }

        return NGX_CONF_OK;
    }

    if (ngx_http_vd_init_location(cf, conf) != NGX_OK) {
        return NGX_CONF_ERROR;
    }

    return NGX_CONF_OK;
}


static void
ngx_http_vd_merge_upstream(ngx_http_upstream_conf_t *prev,
    ngx_http_upstream_conf_t *conf)
{
    ngx_conf_merge_ptr_value(conf->local, prev->local, NULL);
    ngx_conf_merge_value(conf->socket_keepalive, prev->socket_keepalive, 0);

    ngx_conf_merge_msec_value(conf->connect_timeout, prev->connect_timeout,
                              5000);
    ngx_conf_merge_msec_value(conf->send_timeout, prev->send_timeout, 10000);
    ngx_conf_merge_msec_value(conf->read_timeout, prev->read_timeout, 15000);

    ngx_conf_merge_uint_value(conf->next_upstream_tries,
                              prev->next_upstream_tries, 0);
    ngx_conf_merge_msec_value(conf->next_upstream_timeout,
                              prev->next_upstream_timeout, 0);
    ngx_conf_merge_bitmask_value(conf->next_upstream, prev->next_upstream,
                                 (NGX_CONF_BITMASK_SET
                                  |NGX_HTTP_UPSTREAM_FT_ERROR
                                  |NGX_HTTP_UPSTREAM_FT_TIMEOUT));

    if (conf->next_upstream & NGX_HTTP_UPSTREAM_FT_OFF) {
        conf->next_upstream = NGX_CONF_BITMASK_SET|NGX_HTTP_UPSTREAM_FT_OFF;
    }
}


/* What a location with vd_pass needs beside it: checked, and made ready. */

static ngx_int_t
ngx_http_vd_init_location(ngx_conf_t *cf, ngx_http_vd_loc_conf_t *conf)
{
    if (conf->output == NULL) {
        ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                      "no \"vd_output\" is defined for "
                      "the \"vd_pass\" directive in %s:%ui",
                      conf->file, conf->line);
        return NGX_ERROR;
    }

    if (conf->secrets == NULL) {
        ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                      "no \"vd_secret_file\" is defined for "
                      "the \"vd_pass\" directive in %s:%ui",
                      conf->file, conf->line);
        return NGX_ERROR;
    }

    if (conf->case_value == NULL
        && ngx_http_vd_default_case(cf, conf) != NGX_OK)
    {
        return NGX_ERROR;
    }

    if (conf->ticket == NULL) {
        conf->ticket_max = NGX_HTTP_VD_TICKET_MAX;
        conf->ticket = ngx_http_vd_create_ticket(cf, conf->ticket_max);

        if (conf->ticket == NULL
            || vd_ticket_add_path(conf->ticket, (u_char *) "ticket_id",
                                  sizeof("ticket_id") - 1)
               != NULL)
        {
            return NGX_ERROR;
        }
    }

    if (ngx_http_vd_init_signers(cf, conf) != NGX_OK
        || ngx_http_vd_check_headers(cf, conf) != NGX_OK
        || ngx_http_vd_init_head(cf, conf) != NGX_OK)
    {
        return NGX_ERROR;
    }

    conf->upstream.upstream = ngx_http_vd_wrap_upstream(cf, conf->origin);
    if (conf->upstream.upstream == NULL) {
        return NGX_ERROR;
    }

    conf->fresh = conf->upstream;
    conf->fresh.next_upstream = NGX_CONF_BITMASK_SET
                                |NGX_HTTP_UPSTREAM_FT_ERROR;
    conf->fresh.next_upstream_timeout = 0;

    return NGX_OK;
}


static ngx_int_t
ngx_http_vd_default_case(ngx_conf_t *cf, ngx_http_vd_loc_conf_t *conf)
{
    ngx_str_t                         value = ngx_string("$http_x_case_id");
    ngx_http_compile_complex_value_t  ccv;

    conf->case_value = ngx_palloc(cf->pool, sizeof(ngx_http_complex_value_t));
    if (conf->case_value == NULL) {
        return NGX_ERROR;
    }

    ngx_memzero(&ccv, sizeof(ngx_http_compile_complex_value_t));

    ccv.cf = cf;
    ccv.value = &value;
    ccv.complex_value = conf->case_value;

    return ngx_http_compile_complex_value(&ccv);
}


/*
 * Signature headers are all different, and vd_set_header sets none of those
 * that are made here.
 */

static ngx_int_t
ngx_http_vd_check_headers(ngx_conf_t *cf, ngx_http_vd_loc_conf_t *conf)
{
    ngx_uint_t             i;
    ngx_http_vd_header_t  *header;

    if (conf->headers == NULL) {
        return NGX_OK;
    }

    header = conf->headers->elts;

    for (i = 0; i < conf->headers->nelts; i++) {

        if (ngx_http_vd_own_header(conf, &header[i].name)) {
            ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                          "\"vd_set_header\" cannot set \"%V\", which is made "
                          "for each attempt by the \"vd_pass\" directive "
                          "in %s:%ui",
                          &header[i].name, conf->file, conf->line);
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}


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

    ngx_str_null(&label);

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


static vd_ticket_t *
ngx_http_vd_create_ticket(ngx_conf_t *cf, size_t max)
{
    vd_ticket_t         *ticket;
    ngx_pool_cleanup_t  *cln;

    cln = ngx_pool_cleanup_add(cf->pool, 0);
    if (cln == NULL) {
        return NULL;
    }

    ticket = vd_ticket_create(max);
    if (ticket == NULL) {
        return NULL;
    }

    cln->handler = ngx_http_vd_free_ticket;
    cln->data = ticket;

    return ticket;
}


static void
ngx_http_vd_free_ticket(void *data)
{
    vd_ticket_free(data);
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
