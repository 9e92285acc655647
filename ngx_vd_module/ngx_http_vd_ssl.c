
/*
 * Copyright (C) The ngx_vd_module authors
 *
 * TLS to the receiver: strict by default, and nothing shared between
 * locations that differ.
 */


#include "ngx_http_vd_module.h"


#define NGX_HTTP_VD_SESSIONS  16


static ngx_uint_t ngx_http_vd_ssl_inherits(ngx_http_vd_loc_conf_t *conf);
static void ngx_http_vd_ssl_warn_of_address(ngx_conf_t *cf,
    ngx_http_vd_loc_conf_t *prev, ngx_http_vd_loc_conf_t *conf);
static ngx_int_t ngx_http_vd_create_ssl(ngx_conf_t *cf,
    ngx_http_vd_loc_conf_t *conf);
static ngx_int_t ngx_http_vd_ssl_identity(ngx_conf_t *cf,
    ngx_http_vd_loc_conf_t *conf);
static ngx_int_t ngx_http_vd_ssl_trust(ngx_conf_t *cf,
    ngx_http_vd_loc_conf_t *conf);
static ngx_int_t ngx_http_vd_ssl_failed(ngx_conf_t *cf,
    ngx_http_vd_loc_conf_t *conf, const char *directive);
static ngx_int_t ngx_http_vd_ssl_system_store(ngx_conf_t *cf,
    ngx_http_vd_loc_conf_t *conf);
static void ngx_http_vd_ssl_info(const ngx_ssl_conn_t *ssl_conn, int where,
    int ret);
static ngx_uint_t ngx_http_vd_ssl_alert(ngx_connection_t *c);
static ngx_http_vd_session_t *ngx_http_vd_find_session(
    ngx_http_vd_loc_conf_t *conf, ngx_peer_connection_t *pc);
static void ngx_http_vd_free_sessions(void *data);


static int  ngx_http_vd_ssl_alert_index = -1;


/* Neither a file's name nor a receiver's comes from a request. */

char *
ngx_http_vd_ssl_value(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_str_t  *value;

    value = cf->args->elts;

    if (ngx_http_script_variables_count(&value[1])) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "variables in \"%V\" \"%V\" are not supported, "
                           "proof of identity does not depend on the request",
                           &cmd->name, &value[1]);
        return NGX_CONF_ERROR;
    }

    return ngx_http_set_complex_value_zero_slot(cf, cmd, conf);
}


char *
ngx_http_vd_ssl_password_file(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_vd_loc_conf_t *vlcf = conf;

    ngx_str_t  *value;

    if (vlcf->upstream.ssl_passwords != NGX_CONF_UNSET_PTR) {
        return "is duplicate";
    }

    value = cf->args->elts;

    vlcf->upstream.ssl_passwords = ngx_ssl_read_password_file(cf, &value[1]);

    if (vlcf->upstream.ssl_passwords == NULL) {
        return "needs a file of passwords, one a line";
    }

    return NGX_CONF_OK;
}


/*
 * Locations that set nothing of their own share the context of the level
 * above, and with it kept connections; a location that does set something has
 * its own context.
 */

ngx_int_t
ngx_http_vd_merge_ssl(ngx_conf_t *cf, ngx_http_vd_loc_conf_t *prev,
    ngx_http_vd_loc_conf_t *conf)
{
    if (ngx_http_vd_ssl_inherits(conf)) {

        if (prev->upstream.ssl == NULL) {
            prev->upstream.ssl = ngx_pcalloc(cf->pool, sizeof(ngx_ssl_t));
            if (prev->upstream.ssl == NULL) {
                return NGX_ERROR;
            }
        }

        conf->upstream.ssl = prev->upstream.ssl;

    } else {
        conf->upstream.ssl = ngx_pcalloc(cf->pool, sizeof(ngx_ssl_t));
        if (conf->upstream.ssl == NULL) {
            return NGX_ERROR;
        }
    }

    ngx_conf_merge_value(conf->upstream.ssl_session_reuse,
                         prev->upstream.ssl_session_reuse, 1);
    ngx_conf_merge_ptr_value(conf->upstream.ssl_name,
                             prev->upstream.ssl_name, NULL);
    ngx_conf_merge_value(conf->upstream.ssl_server_name,
                         prev->upstream.ssl_server_name, 1);
    ngx_conf_merge_value(conf->upstream.ssl_verify,
                         prev->upstream.ssl_verify, 1);
    ngx_conf_merge_ptr_value(conf->upstream.ssl_certificate,
                             prev->upstream.ssl_certificate, NULL);
    ngx_conf_merge_ptr_value(conf->upstream.ssl_certificate_key,
                             prev->upstream.ssl_certificate_key, NULL);
    ngx_conf_merge_ptr_value(conf->upstream.ssl_passwords,
                             prev->upstream.ssl_passwords, NULL);

    ngx_conf_merge_bitmask_value(conf->ssl_protocols, prev->ssl_protocols,
                                 (NGX_CONF_BITMASK_SET|NGX_SSL_TLSv1_2
                                  |NGX_SSL_TLSv1_3));
    ngx_conf_merge_str_value(conf->ssl_ciphers, prev->ssl_ciphers, "DEFAULT");
    ngx_conf_merge_uint_value(conf->ssl_verify_depth, prev->ssl_verify_depth,
                              1);
    ngx_conf_merge_str_value(conf->ssl_trusted_certificate,
                             prev->ssl_trusted_certificate, "system");
    ngx_conf_merge_str_value(conf->ssl_crl, prev->ssl_crl, "");
    ngx_conf_merge_ptr_value(conf->ssl_conf_commands,
                             prev->ssl_conf_commands, NULL);

    if (!conf->ssl) {
        return NGX_OK;
    }

    ngx_http_vd_ssl_warn_of_address(cf, prev, conf);

    return ngx_http_vd_create_ssl(cf, conf);
}


/* nginx looks for a name among the DNS names of a certificate only. */

static void
ngx_http_vd_ssl_warn_of_address(ngx_conf_t *cf, ngx_http_vd_loc_conf_t *prev,
    ngx_http_vd_loc_conf_t *conf)
{
    u_char     *p, *last;
    ngx_str_t  *host;

    if (!conf->upstream.ssl_verify || conf->upstream.ssl_name) {
        return;
    }

    if (conf->file == prev->file && conf->line == prev->line) {
        /* an "if" or "limit_except" */
        return;
    }

    if (conf->origin->host.len && conf->origin->host.data[0] == '/') {
        ngx_log_error(NGX_LOG_WARN, cf->log, 0,
                      "no certificate can be verified for a unix domain "
                      "socket, \"vd_ssl_name\" is needed for "
                      "the \"vd_pass\" directive in %s:%ui",
                      conf->file, conf->line);
        return;
    }

    host = &conf->host;
    last = host->data + host->len;

    p = ngx_strlchr(host->data, last, ':');
    if (p == NULL) {
        p = last;
    }

    if (host->data[0] != '['
        && ngx_inet_addr(host->data, p - host->data) == INADDR_NONE)
    {
        return;
    }

    ngx_log_error(NGX_LOG_WARN, cf->log, 0,
                  "no certificate can be verified for an IP address, "
                  "\"vd_ssl_name\" is needed for \"%V\" of "
                  "the \"vd_pass\" directive in %s:%ui",
                  host, conf->file, conf->line);
}


static ngx_uint_t
ngx_http_vd_ssl_inherits(ngx_http_vd_loc_conf_t *conf)
{
    return conf->upstream.ssl_session_reuse == NGX_CONF_UNSET
           && conf->upstream.ssl_name == NGX_CONF_UNSET_PTR
           && conf->upstream.ssl_server_name == NGX_CONF_UNSET
           && conf->upstream.ssl_verify == NGX_CONF_UNSET
           && conf->upstream.ssl_certificate == NGX_CONF_UNSET_PTR
           && conf->upstream.ssl_certificate_key == NGX_CONF_UNSET_PTR
           && conf->upstream.ssl_passwords == NGX_CONF_UNSET_PTR
           && conf->ssl_protocols == 0
           && conf->ssl_ciphers.data == NULL
           && conf->ssl_verify_depth == NGX_CONF_UNSET_UINT
           && conf->ssl_trusted_certificate.data == NULL
           && conf->ssl_crl.data == NULL
           && conf->ssl_conf_commands == NGX_CONF_UNSET_PTR;
}


static ngx_int_t
ngx_http_vd_create_ssl(ngx_conf_t *cf, ngx_http_vd_loc_conf_t *conf)
{
    ngx_ssl_t           *ssl;
    ngx_pool_cleanup_t  *cln;

    conf->ssl_sessions = ngx_array_create(cf->pool, NGX_HTTP_VD_SESSIONS,
                                          sizeof(ngx_http_vd_session_t));
    if (conf->ssl_sessions == NULL) {
        return NGX_ERROR;
    }

    cln = ngx_pool_cleanup_add(cf->pool, 0);
    if (cln == NULL) {
        return NGX_ERROR;
    }

    cln->handler = ngx_http_vd_free_sessions;
    cln->data = conf->ssl_sessions;

    ssl = conf->upstream.ssl;

    if (ssl->ctx) {
        return NGX_OK;
    }

    ssl->log = cf->log;

    if (ngx_ssl_create(ssl, conf->ssl_protocols, NULL) != NGX_OK) {
        return NGX_ERROR;
    }

    cln = ngx_pool_cleanup_add(cf->pool, 0);
    if (cln == NULL) {
        ngx_ssl_cleanup_ctx(ssl);
        return NGX_ERROR;
    }

    cln->handler = ngx_ssl_cleanup_ctx;
    cln->data = ssl;

    if (ngx_http_vd_ssl_alert_index == -1) {
        ngx_http_vd_ssl_alert_index = SSL_get_ex_new_index(0, NULL, NULL,
                                                           NULL, NULL);
        if (ngx_http_vd_ssl_alert_index == -1) {
            ngx_ssl_error(NGX_LOG_EMERG, cf->log, 0,
                          "SSL_get_ex_new_index() failed");
            return NGX_ERROR;
        }
    }

    SSL_CTX_set_info_callback(ssl->ctx, ngx_http_vd_ssl_info);

    if (ngx_ssl_ciphers(cf, ssl, &conf->ssl_ciphers, 0) != NGX_OK) {
        return ngx_http_vd_ssl_failed(cf, conf, "vd_ssl_ciphers");
    }

    if (ngx_http_vd_ssl_identity(cf, conf) != NGX_OK
        || ngx_http_vd_ssl_trust(cf, conf) != NGX_OK
        || ngx_ssl_client_session_cache(cf, ssl,
                                        conf->upstream.ssl_session_reuse)
           != NGX_OK)
    {
        return NGX_ERROR;
    }

    if (ngx_ssl_conf_commands(cf, ssl, conf->ssl_conf_commands) != NGX_OK) {
        return ngx_http_vd_ssl_failed(cf, conf, "vd_ssl_conf_command");
    }

    return NGX_OK;
}


/* Who we are: the certificate of mutual TLS. */

static ngx_int_t
ngx_http_vd_ssl_identity(ngx_conf_t *cf, ngx_http_vd_loc_conf_t *conf)
{
    ngx_http_complex_value_t  *certificate, *key;

    certificate = conf->upstream.ssl_certificate;
    key = conf->upstream.ssl_certificate_key;

    if (certificate == NULL || certificate->value.len == 0) {
        return NGX_OK;
    }

    if (key == NULL) {
        ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                      "no \"vd_ssl_certificate_key\" is defined "
                      "for \"vd_ssl_certificate\" \"%V\" of "
                      "the \"vd_pass\" directive in %s:%ui",
                      &certificate->value, conf->file, conf->line);
        return NGX_ERROR;
    }

    if (ngx_ssl_certificate(cf, conf->upstream.ssl, &certificate->value,
                            &key->value, conf->upstream.ssl_passwords)
        != NGX_OK)
    {
        return ngx_http_vd_ssl_failed(cf, conf, "vd_ssl_certificate\" or "
                                                "\"vd_ssl_certificate_key");
    }

    return NGX_OK;
}


/* Whom we believe. */

static ngx_int_t
ngx_http_vd_ssl_trust(ngx_conf_t *cf, ngx_http_vd_loc_conf_t *conf)
{
    ngx_int_t   rc;
    ngx_ssl_t  *ssl;
    ngx_str_t  *certificate;

    if (!conf->upstream.ssl_verify) {
        return NGX_OK;
    }

    ssl = conf->upstream.ssl;
    certificate = &conf->ssl_trusted_certificate;

    if (certificate->len == sizeof("system") - 1
        && ngx_strncmp(certificate->data, "system", certificate->len) == 0)
    {
        rc = ngx_http_vd_ssl_system_store(cf, conf);

    } else {
        rc = ngx_ssl_trusted_certificate(cf, ssl, certificate,
                                         conf->ssl_verify_depth);
    }

    if (rc != NGX_OK) {
        return ngx_http_vd_ssl_failed(cf, conf, "vd_ssl_trusted_certificate");
    }

    /* nginx's callback would pass over the first error, and log the last */
    SSL_CTX_set_verify(ssl->ctx, SSL_VERIFY_NONE, NULL);

    if (ngx_ssl_crl(cf, ssl, &conf->ssl_crl) != NGX_OK) {
        return ngx_http_vd_ssl_failed(cf, conf, "vd_ssl_crl");
    }

    return NGX_OK;
}


/* What nginx has logged names neither the directive nor the place. */

static ngx_int_t
ngx_http_vd_ssl_failed(ngx_conf_t *cf, ngx_http_vd_loc_conf_t *conf,
    const char *directive)
{
    ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                  "\"%s\" failed for the \"vd_pass\" directive in %s:%ui",
                  directive, conf->file, conf->line);

    return NGX_ERROR;
}


static ngx_int_t
ngx_http_vd_ssl_system_store(ngx_conf_t *cf, ngx_http_vd_loc_conf_t *conf)
{
    SSL_CTX  *ctx;

    ctx = conf->upstream.ssl->ctx;

    if (SSL_CTX_set_default_verify_paths(ctx) == 0) {
        ngx_ssl_error(NGX_LOG_EMERG, cf->log, 0,
                      "SSL_CTX_set_default_verify_paths() failed");
        return NGX_ERROR;
    }

    SSL_CTX_set_verify_depth(ctx, conf->ssl_verify_depth);

    return NGX_OK;
}


/*
 * The last alert is noted with the connection itself, and no request is looked
 * for: a connection that is kept may be used by another module, in which all
 * that we have set goes on to work.
 */

static void
ngx_http_vd_ssl_info(const ngx_ssl_conn_t *ssl_conn, int where, int ret)
{
    if (where == SSL_CB_READ_ALERT) {
        (void) SSL_set_ex_data((ngx_ssl_conn_t *) ssl_conn,
                               ngx_http_vd_ssl_alert_index,
                               (void *) (uintptr_t) ret);
    }
}


static ngx_uint_t
ngx_http_vd_ssl_alert(ngx_connection_t *c)
{
    return (uintptr_t) SSL_get_ex_data(c->ssl->connection,
                                       ngx_http_vd_ssl_alert_index);
}


/* nginx has OpenSSL take an end without close_notify for one with it */

ngx_uint_t
ngx_http_vd_ssl_ended(ngx_connection_t *c)
{
    return ngx_http_vd_ssl_alert(c)
           == (SSL3_AL_WARNING << 8 | SSL3_AD_CLOSE_NOTIFY);
}


/*
 * With TLS 1.3 the handshake is over for us before the receiver has looked at
 * our certificate: that it refuses it is the first thing to be read.
 */

ngx_uint_t
ngx_http_vd_ssl_alerted(ngx_connection_t *c)
{
    return ngx_http_vd_ssl_alert(c) >> 8 == SSL3_AL_FATAL;
}


ngx_int_t
ngx_http_vd_ssl_peek(ngx_connection_t *c, ngx_uint_t level)
{
    int     n, error;
    u_char  ch;

    ERR_clear_error();

    n = SSL_peek(c->ssl->connection, &ch, 1);

    if (n > 0) {
        return NGX_DECLINED;
    }

    error = SSL_get_error(c->ssl->connection, n);

    if (error == SSL_ERROR_SSL) {
        /* nobody else gets to see an alert that is read here */
        ngx_ssl_error(level, c->log, 0, "SSL_peek() failed");
    }

    ERR_clear_error();

    return (error == SSL_ERROR_WANT_READ) ? NGX_OK : NGX_ERROR;
}


ngx_int_t
ngx_http_vd_set_session(ngx_peer_connection_t *pc, void *data)
{
    ngx_http_vd_ctx_t *ctx = data;

    ngx_http_vd_session_t  *kept;

    kept = ngx_http_vd_find_session(ctx->conf, pc);

    if (kept == NULL || kept->session == NULL) {
        return NGX_OK;
    }

    ngx_log_debug1(NGX_LOG_DEBUG_HTTP, pc->log, 0,
                   "vd set session: %p", kept->session);

    return ngx_ssl_set_session(pc->connection, kept->session);
}


void
ngx_http_vd_save_session(ngx_peer_connection_t *pc, void *data)
{
    ngx_http_vd_ctx_t *ctx = data;

    ngx_array_t            *sessions;
    ngx_ssl_session_t      *session;
    ngx_http_vd_session_t  *kept;

    session = ngx_ssl_get_session(pc->connection);
    if (session == NULL) {
        return;
    }

    kept = ngx_http_vd_find_session(ctx->conf, pc);

    if (kept == NULL) {
        sessions = ctx->conf->ssl_sessions;

        if (sessions->nelts < NGX_HTTP_VD_SESSIONS) {
            kept = ngx_array_push(sessions);
            ngx_memzero(kept, sizeof(ngx_http_vd_session_t));

        } else {
            /* a receiver with that many addresses: any may go */
            kept = (ngx_http_vd_session_t *) sessions->elts
                   + ngx_random() % NGX_HTTP_VD_SESSIONS;
        }

        kept->socklen = pc->socklen;
        ngx_memcpy(&kept->sockaddr, pc->sockaddr, pc->socklen);
    }

    ngx_log_debug1(NGX_LOG_DEBUG_HTTP, pc->log, 0,
                   "vd save session: %p", session);

    if (kept->session) {
        ngx_ssl_free_session(kept->session);
    }

    kept->session = session;
}


static ngx_http_vd_session_t *
ngx_http_vd_find_session(ngx_http_vd_loc_conf_t *conf,
    ngx_peer_connection_t *pc)
{
    ngx_uint_t              i;
    ngx_http_vd_session_t  *kept;

    kept = conf->ssl_sessions->elts;

    for (i = 0; i < conf->ssl_sessions->nelts; i++) {

        if (ngx_memn2cmp((u_char *) &kept[i].sockaddr, (u_char *) pc->sockaddr,
                         kept[i].socklen, pc->socklen)
            == 0)
        {
            return &kept[i];
        }
    }

    return NULL;
}


static void
ngx_http_vd_free_sessions(void *data)
{
    ngx_array_t *sessions = data;

    ngx_uint_t              i;
    ngx_http_vd_session_t  *kept;

    kept = sessions->elts;

    for (i = 0; i < sessions->nelts; i++) {
        if (kept[i].session) {
            ngx_ssl_free_session(kept[i].session);
        }
    }

    sessions->nelts = 0;
}
