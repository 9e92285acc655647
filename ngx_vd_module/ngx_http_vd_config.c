
/*
 * Copyright (C) The ngx_vd_module authors
 *
 * Configurations: made, inherited, and made ready to deliver.
 */


#include "ngx_http_vd_module.h"


#define NGX_HTTP_VD_HEADER_SIZE      8192


static void ngx_http_vd_free_ticket(void *data);
static void ngx_http_vd_merge_upstream(ngx_http_upstream_conf_t *prev,
    ngx_http_upstream_conf_t *conf);
static ngx_int_t ngx_http_vd_default_case(ngx_conf_t *cf,
    ngx_http_vd_loc_conf_t *conf);
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
        != NGX_OK
        || ngx_array_init(&vmcf->journals, cf->pool, 1,
                          sizeof(ngx_http_vd_journal_t *))
           != NGX_OK
        || ngx_array_init(&vmcf->locations, cf->pool, 4,
                          sizeof(ngx_http_vd_loc_conf_t *))
           != NGX_OK)
    {
        return NULL;
    }

    return vmcf;
}


char *
ngx_http_vd_init_main_conf(ngx_conf_t *cf, void *conf)
{
    ngx_http_vd_main_conf_t *vmcf = conf;

    if (vmcf->status_file && vmcf->zone == NULL) {
        ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                      "no \"vd_zone\" is defined for "
                      "the \"vd_status\" directive in %s:%ui",
                      vmcf->status_file, vmcf->status_line);
        return NGX_CONF_ERROR;
    }

    return NGX_CONF_OK;
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
    conf->journal = NGX_CONF_UNSET_PTR;
    conf->ack = NGX_CONF_UNSET_UINT;
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

    conf->prev = prev;
    conf->loc_conf = ((ngx_http_conf_ctx_t *) cf->ctx)->loc_conf;

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

    if (!clcf->noname && conf->origin
        && clcf->handler != ngx_http_vd_handler)
    {
        ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                      "\"vd_pass\" has no effect beside another directive "
                      "that answers the requests of its location in %s:%ui",
                      conf->file, conf->line);
        return NGX_CONF_ERROR;
    }

    ngx_conf_merge_ptr_value(conf->case_value, prev->case_value, NULL);
    ngx_conf_merge_value(conf->validate, prev->validate, 1);
    ngx_conf_merge_ptr_value(conf->journal, prev->journal, NULL);
    ngx_conf_merge_uint_value(conf->ack, prev->ack, NGX_HTTP_VD_ACK_DELIVERY);
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
    ngx_http_vd_loc_conf_t   **location;
    ngx_http_vd_main_conf_t   *vmcf;

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

    if (conf->ack == NGX_HTTP_VD_ACK_JOURNAL && conf->journal == NULL) {
        ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                      "\"vd_ack journal\" needs a \"vd_journal\" for "
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

    ngx_http_vd_init_server_name(cf, conf);

    vmcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_vd_module);

    location = ngx_array_push(&vmcf->locations);
    if (location == NULL) {
        return NGX_ERROR;
    }

    *location = conf;

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


vd_ticket_t *
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
