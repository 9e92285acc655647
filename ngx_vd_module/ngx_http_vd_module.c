
/*
 * Copyright (C) The ngx_vd_module authors
 */


#include "ngx_http_vd_module.h"

#include <jansson.h>


static ngx_int_t ngx_http_vd_init_module(ngx_cycle_t *cycle);
static ngx_int_t ngx_http_vd_init_process(ngx_cycle_t *cycle);
static char *ngx_http_vd_set_value(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static char *ngx_http_vd_set_ack(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static char *ngx_http_vd_set_bitmask(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static char *ngx_http_vd_set_bind(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static char *ngx_http_vd_check_timeout(ngx_conf_t *cf, void *post, void *data);
static char *ngx_http_vd_check_size(ngx_conf_t *cf, void *post, void *data);
static char *ngx_http_vd_check_trusted(ngx_conf_t *cf, void *post, void *data);


static ngx_conf_post_t  ngx_http_vd_timeout_post =
    { ngx_http_vd_check_timeout };

static ngx_conf_post_t  ngx_http_vd_size_post =
    { ngx_http_vd_check_size };

static ngx_conf_post_t  ngx_http_vd_trusted_post =
    { ngx_http_vd_check_trusted };


static ngx_conf_bitmask_t  ngx_http_vd_next_upstream_masks[] = {
    { ngx_string("error"), NGX_HTTP_UPSTREAM_FT_ERROR },
    { ngx_string("timeout"), NGX_HTTP_UPSTREAM_FT_TIMEOUT },
    { ngx_string("invalid_header"), NGX_HTTP_UPSTREAM_FT_INVALID_HEADER },
    { ngx_string("non_idempotent"), NGX_HTTP_UPSTREAM_FT_NON_IDEMPOTENT },
    { ngx_string("http_500"), NGX_HTTP_UPSTREAM_FT_HTTP_500 },
    { ngx_string("http_502"), NGX_HTTP_UPSTREAM_FT_HTTP_502 },
    { ngx_string("http_503"), NGX_HTTP_UPSTREAM_FT_HTTP_503 },
    { ngx_string("http_504"), NGX_HTTP_UPSTREAM_FT_HTTP_504 },
    { ngx_string("http_403"), NGX_HTTP_UPSTREAM_FT_HTTP_403 },
    { ngx_string("http_404"), NGX_HTTP_UPSTREAM_FT_HTTP_404 },
    { ngx_string("http_429"), NGX_HTTP_UPSTREAM_FT_HTTP_429 },
    { ngx_string("off"), NGX_HTTP_UPSTREAM_FT_OFF },
    { ngx_null_string, 0 }
};


static ngx_conf_bitmask_t  ngx_http_vd_ssl_protocols[] = {
    { ngx_string("TLSv1"), NGX_SSL_TLSv1 },
    { ngx_string("TLSv1.1"), NGX_SSL_TLSv1_1 },
    { ngx_string("TLSv1.2"), NGX_SSL_TLSv1_2 },
    { ngx_string("TLSv1.3"), NGX_SSL_TLSv1_3 },
    { ngx_null_string, 0 }
};


static ngx_conf_enum_t  ngx_http_vd_acks[] = {
    { ngx_string("delivery"), NGX_HTTP_VD_ACK_DELIVERY },
    { ngx_string("journal"), NGX_HTTP_VD_ACK_JOURNAL },
    { ngx_null_string, 0 }
};


static ngx_command_t  ngx_http_vd_commands[] = {

    { ngx_string("vd_pass"),
      NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_http_vd_pass,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("vd_output"),
      NGX_HTTP_LOC_CONF|NGX_CONF_TAKE12,
      ngx_http_vd_output,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("vd_case"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_http_vd_set_value,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_vd_loc_conf_t, case_value),
      NULL },

    { ngx_string("vd_secret_file"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_http_vd_secret_file,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("vd_signature"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE12,
      ngx_http_vd_signature,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("vd_ticket_id"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_1MORE,
      ngx_http_vd_ticket_id,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("vd_validate"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_FLAG,
      ngx_conf_set_flag_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_vd_loc_conf_t, validate),
      NULL },

    { ngx_string("vd_journal"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_1MORE,
      ngx_http_vd_journal,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("vd_ack"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_http_vd_set_ack,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_vd_loc_conf_t, ack),
      &ngx_http_vd_acks },

    { ngx_string("vd_set_header"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE2,
      ngx_http_vd_set_header,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("vd_timeout"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_conf_set_msec_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_vd_loc_conf_t, timeout),
      &ngx_http_vd_timeout_post },

    { ngx_string("vd_connect_timeout"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_conf_set_msec_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_vd_loc_conf_t, upstream.connect_timeout),
      &ngx_http_vd_timeout_post },

    { ngx_string("vd_send_timeout"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_conf_set_msec_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_vd_loc_conf_t, upstream.send_timeout),
      &ngx_http_vd_timeout_post },

    { ngx_string("vd_read_timeout"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_conf_set_msec_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_vd_loc_conf_t, upstream.read_timeout),
      &ngx_http_vd_timeout_post },

    { ngx_string("vd_max_response_size"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_conf_set_size_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_vd_loc_conf_t, max_response_size),
      &ngx_http_vd_size_post },

    { ngx_string("vd_bind"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE12,
      ngx_http_vd_set_bind,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_vd_loc_conf_t, upstream.local),
      NULL },

    { ngx_string("vd_socket_keepalive"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_FLAG,
      ngx_conf_set_flag_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_vd_loc_conf_t, upstream.socket_keepalive),
      NULL },

    { ngx_string("vd_next_upstream"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_1MORE,
      ngx_http_vd_set_bitmask,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_vd_loc_conf_t, upstream.next_upstream),
      &ngx_http_vd_next_upstream_masks },

    { ngx_string("vd_next_upstream_tries"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_conf_set_num_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_vd_loc_conf_t, upstream.next_upstream_tries),
      NULL },

    { ngx_string("vd_next_upstream_timeout"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_conf_set_msec_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_vd_loc_conf_t, upstream.next_upstream_timeout),
      NULL },

    { ngx_string("vd_ssl_verify"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_FLAG,
      ngx_conf_set_flag_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_vd_loc_conf_t, upstream.ssl_verify),
      NULL },

    { ngx_string("vd_ssl_verify_depth"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_conf_set_num_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_vd_loc_conf_t, ssl_verify_depth),
      NULL },

    { ngx_string("vd_ssl_trusted_certificate"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_conf_set_str_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_vd_loc_conf_t, ssl_trusted_certificate),
      &ngx_http_vd_trusted_post },

    { ngx_string("vd_ssl_crl"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_conf_set_str_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_vd_loc_conf_t, ssl_crl),
      NULL },

    { ngx_string("vd_ssl_server_name"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_FLAG,
      ngx_conf_set_flag_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_vd_loc_conf_t, upstream.ssl_server_name),
      NULL },

    { ngx_string("vd_ssl_name"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_http_vd_ssl_value,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_vd_loc_conf_t, upstream.ssl_name),
      NULL },

    { ngx_string("vd_ssl_protocols"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_1MORE,
      ngx_http_vd_set_bitmask,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_vd_loc_conf_t, ssl_protocols),
      &ngx_http_vd_ssl_protocols },

    { ngx_string("vd_ssl_ciphers"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_conf_set_str_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_vd_loc_conf_t, ssl_ciphers),
      NULL },

    { ngx_string("vd_ssl_session_reuse"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_FLAG,
      ngx_conf_set_flag_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_vd_loc_conf_t, upstream.ssl_session_reuse),
      NULL },

    { ngx_string("vd_ssl_certificate"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_http_vd_ssl_value,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_vd_loc_conf_t, upstream.ssl_certificate),
      NULL },

    { ngx_string("vd_ssl_certificate_key"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_http_vd_ssl_value,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_vd_loc_conf_t, upstream.ssl_certificate_key),
      NULL },

    { ngx_string("vd_ssl_password_file"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_http_vd_ssl_password_file,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("vd_ssl_conf_command"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE2,
      ngx_conf_set_keyval_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_vd_loc_conf_t, ssl_conf_commands),
      NULL },

    { ngx_string("vd_zone"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_TAKE2,
      ngx_http_vd_zone,
      NGX_HTTP_MAIN_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("vd_status"),
      NGX_HTTP_LOC_CONF|NGX_CONF_NOARGS,
      ngx_http_vd_status,
      0,
      0,
      NULL },

      ngx_null_command
};


static ngx_http_module_t  ngx_http_vd_module_ctx = {
    ngx_http_vd_add_variables,             /* preconfiguration */
    ngx_http_vd_init_filters,              /* postconfiguration */

    ngx_http_vd_create_main_conf,          /* create main configuration */
    ngx_http_vd_init_main_conf,            /* init main configuration */

    NULL,                                  /* create server configuration */
    NULL,                                  /* merge server configuration */

    ngx_http_vd_create_loc_conf,           /* create location configuration */
    ngx_http_vd_merge_loc_conf             /* merge location configuration */
};


ngx_module_t  ngx_http_vd_module = {
    NGX_MODULE_V1,
    &ngx_http_vd_module_ctx,               /* module context */
    ngx_http_vd_commands,                  /* module directives */
    NGX_HTTP_MODULE,                       /* module type */
    NULL,                                  /* init master */
    ngx_http_vd_init_module,               /* init module */
    ngx_http_vd_init_process,              /* init process */
    NULL,                                  /* init thread */
    NULL,                                  /* exit thread */
    NULL,                                  /* exit process */
    NULL,                                  /* exit master */
    NGX_MODULE_V1_PADDING
};


/*
 * Replies of strangers are parsed into hash tables: their seed is random, and
 * is drawn before the workers fork, where nothing can fail halfway.
 */

static ngx_int_t
ngx_http_vd_init_module(ngx_cycle_t *cycle)
{
    ngx_http_vd_main_conf_t  *vmcf;

    json_object_seed(0);

    vmcf = ngx_http_cycle_get_module_main_conf(cycle, ngx_http_vd_module);

    if (vmcf) {
        ngx_http_vd_zone_commit(vmcf);
    }

    return NGX_OK;
}


/* Helpers, such as the cache manager, deliver nothing. */

static ngx_int_t
ngx_http_vd_init_process(ngx_cycle_t *cycle)
{
    ngx_http_vd_main_conf_t  *vmcf;

    if (ngx_process != NGX_PROCESS_WORKER && ngx_process != NGX_PROCESS_SINGLE)
    {
        return NGX_OK;
    }

    vmcf = ngx_http_cycle_get_module_main_conf(cycle, ngx_http_vd_module);

    if (vmcf) {
        ngx_http_vd_journal_init_process(&vmcf->journals);
        ngx_http_vd_zone_init_process(vmcf->shared, cycle->log);
    }

    return NGX_OK;
}


/*
 * Some of nginx's own functions do not name the directive in what they log;
 * nginx does so with what is returned here.
 */

static char *
ngx_http_vd_set_value(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    char  *rv;

    rv = ngx_http_set_complex_value_slot(cf, cmd, conf);

    return (rv == NGX_CONF_ERROR) ? "has an invalid variable" : rv;
}


static char *
ngx_http_vd_set_ack(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    char  *rv;

    rv = ngx_conf_set_enum_slot(cf, cmd, conf);

    return (rv == NGX_CONF_ERROR) ? "must be \"delivery\" or \"journal\"" : rv;
}


static char *
ngx_http_vd_set_bitmask(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    char                *rv;
    size_t               len;
    u_char              *p, *text;
    ngx_conf_bitmask_t  *mask;

    rv = ngx_conf_set_bitmask_slot(cf, cmd, conf);

    if (rv != NGX_CONF_ERROR) {
        return rv;
    }

    len = sizeof("takes only");

    for (mask = cmd->post; mask->name.len; mask++) {
        len += mask->name.len + sizeof(" \"\",") - 1;
    }

    text = ngx_pnalloc(cf->temp_pool, len);
    if (text == NULL) {
        return NGX_CONF_ERROR;
    }

    p = ngx_sprintf(text, "takes only");

    for (mask = cmd->post; mask->name.len; mask++) {
        p = ngx_sprintf(p, " \"%V\",", &mask->name);
    }

    /* over the last comma */
    *--p = '\0';

    return (char *) text;
}


static char *
ngx_http_vd_set_bind(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    char  *rv;

    rv = ngx_http_upstream_bind_set_slot(cf, cmd, conf);

    return (rv == NGX_CONF_ERROR)
           ? "must be \"ADDRESS[:PORT] [transparent]\" or \"off\"" : rv;
}


static char *
ngx_http_vd_check_timeout(ngx_conf_t *cf, void *post, void *data)
{
    ngx_msec_t  *timeout = data;

    return (*timeout == 0) ? "must not be zero" : NGX_CONF_OK;
}


static char *
ngx_http_vd_check_size(ngx_conf_t *cf, void *post, void *data)
{
    size_t  *size = data;

    return (*size == 0) ? "must not be zero" : NGX_CONF_OK;
}


static char *
ngx_http_vd_check_trusted(ngx_conf_t *cf, void *post, void *data)
{
    ngx_str_t  *file = data;

    return (file->len == 0) ? "must be a file or \"system\"" : NGX_CONF_OK;
}
