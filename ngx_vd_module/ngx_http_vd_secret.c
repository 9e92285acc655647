
/*
 * Copyright (C) The ngx_vd_module authors
 *
 * Secrets: read once, made into keys, wiped.  What nginx keeps is not the
 * secret but the digest states that it leads to.
 */


#include "ngx_http_vd_module.h"

#include <openssl/crypto.h>


#define NGX_HTTP_VD_SECRET_MAX  4096

/* what Standard Webhooks asks for, in bytes */
#define NGX_HTTP_VD_KEY_MIN     24
#define NGX_HTTP_VD_KEY_MAX     64


static ngx_int_t ngx_http_vd_read_secret(ngx_conf_t *cf, ngx_str_t *file,
    u_char *buf, size_t *len);
static ngx_int_t ngx_http_vd_check_secret_file(ngx_conf_t *cf,
    ngx_str_t *file, ngx_fd_t fd);
static void ngx_http_vd_check_secret(ngx_conf_t *cf, ngx_str_t *file,
    u_char *buf, size_t len);
static const char *ngx_http_vd_odd_secret(u_char *buf, size_t len);
static ngx_int_t ngx_http_vd_make_keys(ngx_conf_t *cf,
    ngx_http_vd_secret_t *secret, u_char *buf, size_t len);
static vd_key_t *ngx_http_vd_create_key(ngx_conf_t *cf, u_char *data,
    size_t len);
static void ngx_http_vd_free_key(void *data);
static void ngx_http_vd_free_signer(void *data);
static vd_signer_t *ngx_http_vd_create_signer(ngx_conf_t *cf,
    ngx_http_vd_loc_conf_t *conf, const vd_scheme_t *scheme);


char *
ngx_http_vd_secret_file(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_vd_loc_conf_t *vlcf = conf;

    /* the one more tells a file that is too long */
    u_char                 buf[NGX_HTTP_VD_SECRET_MAX + 1];
    size_t                 len;
    ngx_int_t              rc;
    ngx_str_t             *value;
    ngx_http_vd_secret_t  *secret;

    value = cf->args->elts;

    if (vlcf->secrets == NULL) {
        vlcf->secrets = ngx_array_create(cf->pool, 2,
                                         sizeof(ngx_http_vd_secret_t));
        if (vlcf->secrets == NULL) {
            return NGX_CONF_ERROR;
        }
    }

    secret = ngx_array_push(vlcf->secrets);
    if (secret == NULL) {
        return NGX_CONF_ERROR;
    }

    ngx_memzero(secret, sizeof(ngx_http_vd_secret_t));

    secret->file = value[1];

    if (ngx_conf_full_name(cf->cycle, &secret->file, 1) != NGX_OK) {
        return NGX_CONF_ERROR;
    }

    rc = ngx_http_vd_read_secret(cf, &secret->file, buf, &len);

    if (rc == NGX_OK) {
        ngx_http_vd_check_secret(cf, &secret->file, buf, len);

        rc = ngx_http_vd_make_keys(cf, secret, buf, len);
    }

    OPENSSL_cleanse(buf, sizeof(buf));

    return (rc == NGX_OK) ? NGX_CONF_OK : NGX_CONF_ERROR;
}


static ngx_int_t
ngx_http_vd_read_secret(ngx_conf_t *cf, ngx_str_t *file, u_char *buf,
    size_t *len)
{
    ssize_t   n;
    ngx_fd_t  fd;

    /* a FIFO is to be refused, not to be waited for */
    fd = ngx_open_file(file->data, NGX_FILE_RDONLY|NGX_FILE_NONBLOCK,
                       NGX_FILE_OPEN, 0);

    if (fd == NGX_INVALID_FILE) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, ngx_errno,
                           "\"vd_secret_file\" " ngx_open_file_n
                           " \"%V\" failed", file);
        return NGX_ERROR;
    }

    n = -1;

    if (ngx_http_vd_check_secret_file(cf, file, fd) == NGX_OK) {

        n = ngx_read_fd(fd, buf, NGX_HTTP_VD_SECRET_MAX + 1);

        if (n == -1) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, ngx_errno,
                               "\"vd_secret_file\" " ngx_read_fd_n
                               " \"%V\" failed", file);
        }
    }

    if (ngx_close_file(fd) == NGX_FILE_ERROR) {
        ngx_conf_log_error(NGX_LOG_ALERT, cf, ngx_errno,
                           ngx_close_file_n " \"%V\" failed", file);
    }

    if (n == -1) {
        return NGX_ERROR;
    }

    if (n > NGX_HTTP_VD_SECRET_MAX) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"vd_secret_file\" \"%V\" is longer than %d bytes",
                           file, NGX_HTTP_VD_SECRET_MAX);
        return NGX_ERROR;
    }

    if (n && buf[n - 1] == LF) {
        n--;

        if (n && buf[n - 1] == CR) {
            n--;
        }
    }

    if (n == 0) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"vd_secret_file\" \"%V\" is empty, "
                           "it must hold a secret", file);
        return NGX_ERROR;
    }

    *len = n;

    return NGX_OK;
}


static ngx_int_t
ngx_http_vd_check_secret_file(ngx_conf_t *cf, ngx_str_t *file, ngx_fd_t fd)
{
    ngx_file_info_t  fi;

    if (ngx_fd_info(fd, &fi) == NGX_FILE_ERROR) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, ngx_errno,
                           "\"vd_secret_file\" " ngx_fd_info_n
                           " \"%V\" failed", file);
        return NGX_ERROR;
    }

    if (!ngx_is_file(&fi)) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"vd_secret_file\" \"%V\" is not a regular file",
                           file);
        return NGX_ERROR;
    }

    if (ngx_file_access(&fi) & S_IROTH) {
        ngx_conf_log_error(NGX_LOG_WARN, cf, 0,
                           "\"vd_secret_file\" \"%V\" is readable by others, "
                           "\"chmod o= %V\" mends it", file, file);
    }

    return NGX_OK;
}


/* A secret may be any bytes, but some are hardly meant. */

static void
ngx_http_vd_check_secret(ngx_conf_t *cf, ngx_str_t *file, u_char *buf,
    size_t len)
{
    const char  *odd;

    odd = ngx_http_vd_odd_secret(buf, len);

    if (odd) {
        ngx_conf_log_error(NGX_LOG_WARN, cf, 0,
                           "\"vd_secret_file\" \"%V\" %s; it is taken as "
                           "part of the key, \"printf %%s SECRET > %V\" "
                           "writes a secret as it is", file, odd, file);
    }
}


static const char *
ngx_http_vd_odd_secret(u_char *buf, size_t len)
{
    u_char  first, last;

    first = buf[0];
    last = buf[len - 1];

    if ((len >= 3 && ngx_memcmp(buf, "\xef\xbb\xbf", 3) == 0)
        || (len >= 2 && (ngx_memcmp(buf, "\xff\xfe", 2) == 0
                         || ngx_memcmp(buf, "\xfe\xff", 2) == 0)))
    {
        return "begins with a byte order mark";
    }

    if (first == ' ' || first == '\t' || first == CR || first == LF) {
        return "begins with white space";
    }

    if (last == ' ' || last == '\t' || last == CR || last == LF) {
        return "ends with white space";
    }

    if (ngx_strlchr(buf, buf + len, LF) || ngx_strlchr(buf, buf + len, CR)) {
        return "has more than one line";
    }

    if (len >= 2 && (first == '"' || first == '\'') && last == first) {
        return "is in quotes";
    }

    if (len >= 6
        && ngx_strncmp(buf, "whsec_", 6) != 0
        && ngx_strlcasestrn(buf, buf + len, (u_char *) "whsec_", 6 - 1))
    {
        return "has something before \"whsec_\", or not in lower case";
    }

    return NULL;
}


/* the plain key first: decoding overwrites the secret */

static ngx_int_t
ngx_http_vd_make_keys(ngx_conf_t *cf, ngx_http_vd_secret_t *secret,
    u_char *buf, size_t len)
{
    size_t   n;
    u_char  *key;

    secret->plain = ngx_http_vd_create_key(cf, buf, len);
    if (secret->plain == NULL) {
        return NGX_ERROR;
    }

    n = vd_secret_key(&vd_schemes[VD_SCHEME_STANDARD], buf, len, &key);

    if (n == 0) {
        return NGX_OK;
    }

    if (n < NGX_HTTP_VD_KEY_MIN || n > NGX_HTTP_VD_KEY_MAX) {
        ngx_conf_log_error(NGX_LOG_WARN, cf, 0,
                           "\"vd_secret_file\" \"%V\" makes a key of %uz "
                           "bytes, it should be %d to %d; \"echo whsec_$("
                           "openssl rand -base64 32)\" makes a good secret",
                           &secret->file, n, NGX_HTTP_VD_KEY_MIN,
                           NGX_HTTP_VD_KEY_MAX);
    }

    if (key == buf) {
        secret->standard = secret->plain;
        return NGX_OK;
    }

    secret->standard = ngx_http_vd_create_key(cf, key, n);

    return (secret->standard == NULL) ? NGX_ERROR : NGX_OK;
}


static vd_key_t *
ngx_http_vd_create_key(ngx_conf_t *cf, u_char *data, size_t len)
{
    vd_key_t            *key;
    ngx_pool_cleanup_t  *cln;

    cln = ngx_pool_cleanup_add(cf->pool, 0);
    if (cln == NULL) {
        return NULL;
    }

    key = vd_key_create(data, len);
    if (key == NULL) {
        ngx_ssl_error(NGX_LOG_EMERG, cf->log, 0,
                      "making a key of a \"vd_secret_file\" failed");
        return NULL;
    }

    cln->handler = ngx_http_vd_free_key;
    cln->data = key;

    return key;
}


static void
ngx_http_vd_free_key(void *data)
{
    vd_key_free(data);
}


/* Gives the location signers of its own, for signatures and secrets that may
 * be inherited from different levels. */

ngx_int_t
ngx_http_vd_init_signers(ngx_conf_t *cf, ngx_http_vd_loc_conf_t *conf)
{
    ngx_uint_t                i, n;
    ngx_array_t              *signatures;
    ngx_http_vd_signature_t  *from, *to, standard;

    if (conf->signatures) {
        from = conf->signatures->elts;
        n = conf->signatures->nelts;

    } else {
        standard.scheme = &vd_schemes[VD_SCHEME_STANDARD];
        standard.header.data = (u_char *) standard.scheme->header;
        standard.header.len = ngx_strlen(standard.scheme->header);

        from = &standard;
        n = 1;
    }

    signatures = ngx_array_create(cf->pool, n,
                                  sizeof(ngx_http_vd_signature_t));
    if (signatures == NULL) {
        return NGX_ERROR;
    }

    for (i = 0; i < n; i++) {
        to = ngx_array_push(signatures);

        to->scheme = from[i].scheme;
        to->header = from[i].header;
        to->signer = ngx_http_vd_create_signer(cf, conf, to->scheme);

        if (to->signer == NULL) {
            return NGX_ERROR;
        }
    }

    conf->signatures = signatures;

    return NGX_OK;
}


static vd_signer_t *
ngx_http_vd_create_signer(ngx_conf_t *cf, ngx_http_vd_loc_conf_t *conf,
    const vd_scheme_t *scheme)
{
    vd_key_t              **keys;
    ngx_uint_t              i;
    vd_signer_t            *signer;
    ngx_pool_cleanup_t     *cln;
    ngx_http_vd_secret_t   *secret;

    keys = ngx_palloc(cf->pool, conf->secrets->nelts * sizeof(vd_key_t *));
    if (keys == NULL) {
        return NULL;
    }

    secret = conf->secrets->elts;

    for (i = 0; i < conf->secrets->nelts; i++) {

        keys[i] = (scheme->id == VD_SCHEME_STANDARD) ? secret[i].standard
                                                     : secret[i].plain;

        if (keys[i] == NULL) {
            ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                          "\"vd_secret_file\" \"%V\" begins with \"whsec_\", "
                          "but what follows is not base64, as the scheme "
                          "\"standard\" needs it, for the \"vd_pass\" "
                          "directive in %s:%ui",
                          &secret[i].file, conf->file, conf->line);
            return NULL;
        }
    }

    cln = ngx_pool_cleanup_add(cf->pool, 0);
    if (cln == NULL) {
        return NULL;
    }

    signer = vd_signer_create(scheme, keys, conf->secrets->nelts);
    if (signer == NULL) {
        ngx_ssl_error(NGX_LOG_EMERG, cf->log, 0,
                      "making a signer for \"%s\" failed", scheme->name);
        return NULL;
    }

    cln->handler = ngx_http_vd_free_signer;
    cln->data = signer;

    return signer;
}


static void
ngx_http_vd_free_signer(void *data)
{
    vd_signer_free(data);
}
