
/*
 * Copyright (C) The ngx_vd_module authors
 *
 * Filters of nginx's own that would make another answer of ours: those that
 * can are turned off for it, of the others "nginx -t" warns.
 */


#include "ngx_http_vd_module.h"


typedef struct {
    const char  *module;

    /* its directive that lists types; NULL if there is none */
    const char  *types;

    /*
     * Which words of the module's configuration are not zero where it is in
     * use, a bit each.  The structures are private; they begin so in every
     * nginx from 1.22 on, and only a warning depends on it.
     */
    ngx_uint_t   used;

    /* what the warning says; NULL: there is none */
    const char  *warning;

    unsigned     off:1;
} ngx_http_vd_filter_t;


static ngx_int_t ngx_http_vd_init_filter(ngx_conf_t *cf,
    ngx_http_vd_main_conf_t *vmcf, const ngx_http_vd_filter_t *filter);
static ngx_module_t *ngx_http_vd_find_module(ngx_conf_t *cf,
    const char *name);
static void *ngx_http_vd_default_conf(ngx_conf_t *cf, ngx_module_t *module);
static void ngx_http_vd_warn_of_filter(ngx_conf_t *cf,
    ngx_http_vd_loc_conf_t *conf, const ngx_http_vd_filter_t *filter,
    ngx_module_t *module);
static ngx_uint_t ngx_http_vd_filter_used(const ngx_http_vd_filter_t *filter,
    ngx_uint_t *words);
static ngx_uint_t ngx_http_vd_filters_json(ngx_http_vd_loc_conf_t *conf,
    ngx_module_t *module, const char *name);


#define NGX_HTTP_VD_NO_EFFECT  "has no effect on the answers of"

static const ngx_http_vd_filter_t  ngx_http_vd_known_filters[] = {

    { "ngx_http_image_filter_module", NULL, 1 << 0,
      "\"image_filter\" " NGX_HTTP_VD_NO_EFFECT, 1 },

    { "ngx_http_xslt_filter_module", "xslt_types", 1 << 2,
      "\"xslt_stylesheet\" " NGX_HTTP_VD_NO_EFFECT, 1 },

    { "ngx_http_addition_filter_module", "addition_types", 1 << 0 | 1 << 2,
      "\"add_before_body\" or \"add_after_body\" " NGX_HTTP_VD_NO_EFFECT, 1 },

    { "ngx_http_ssi_filter_module", "ssi_types", 1 << 0,
      "\"ssi\" " NGX_HTTP_VD_NO_EFFECT, 1 },

    { "ngx_http_charset_filter_module", NULL, 0, NULL, 1 },

    { "ngx_http_sub_filter_module", "sub_filter_types", 1 << 1,
      "\"sub_filter\" may change the answers of", 0 },

    { NULL, NULL, 0, NULL, 0 }
};


ngx_int_t
ngx_http_vd_init_filters(ngx_conf_t *cf)
{
    size_t                        size;
    ngx_uint_t                    i;
    ngx_http_conf_ctx_t          *ctx;
    ngx_http_vd_loc_conf_t      **conf;
    ngx_http_vd_main_conf_t      *vmcf;
    const ngx_http_vd_filter_t   *filter;

    ctx = cf->ctx;

    /* that of http{}, which is merged with none above */
    ((ngx_http_vd_loc_conf_t *)
     ctx->loc_conf[ngx_http_vd_module.ctx_index])->loc_conf = ctx->loc_conf;

    vmcf = ctx->main_conf[ngx_http_vd_module.ctx_index];
    conf = vmcf->locations.elts;

    size = sizeof(void *) * ngx_http_max_module;

    for (i = 0; i < vmcf->locations.nelts; i++) {

        conf[i]->answer_conf = ngx_palloc(cf->pool, size);
        if (conf[i]->answer_conf == NULL) {
            return NGX_ERROR;
        }

        ngx_memcpy(conf[i]->answer_conf, conf[i]->loc_conf, size);
    }

    for (filter = ngx_http_vd_known_filters; filter->module; filter++) {
        if (ngx_http_vd_init_filter(cf, vmcf, filter) != NGX_OK) {
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_vd_init_filter(ngx_conf_t *cf, ngx_http_vd_main_conf_t *vmcf,
    const ngx_http_vd_filter_t *filter)
{
    void                     *off;
    ngx_uint_t                i;
    ngx_module_t             *module;
    ngx_http_vd_loc_conf_t  **conf;

    module = ngx_http_vd_find_module(cf, filter->module);

    if (module == NULL) {
        return NGX_OK;
    }

    off = NULL;

    if (filter->off) {
        off = ngx_http_vd_default_conf(cf, module);

        if (off == NULL) {
            return NGX_ERROR;
        }
    }

    conf = vmcf->locations.elts;

    for (i = 0; i < vmcf->locations.nelts; i++) {

        ngx_http_vd_warn_of_filter(cf, conf[i], filter, module);

        if (off) {
            conf[i]->answer_conf[module->ctx_index] = off;
        }
    }

    return NGX_OK;
}


static ngx_module_t *
ngx_http_vd_find_module(ngx_conf_t *cf, const char *name)
{
    ngx_uint_t      i;
    ngx_module_t  **modules;

    modules = cf->cycle->modules;

    for (i = 0; modules[i]; i++) {
        if (ngx_strcmp(modules[i]->name, name) == 0) {
            return modules[i];
        }
    }

    return NULL;
}


/* A location's, where none of the module's directives is anywhere. */

static void *
ngx_http_vd_default_conf(ngx_conf_t *cf, ngx_module_t *module)
{
    void               *prev, *conf;
    ngx_http_module_t  *ctx;

    ctx = module->ctx;

    prev = ctx->create_loc_conf(cf);
    conf = ctx->create_loc_conf(cf);

    if (prev == NULL || conf == NULL
        || ctx->merge_loc_conf(cf, prev, conf) != NGX_CONF_OK)
    {
        return NULL;
    }

    return conf;
}


static void
ngx_http_vd_warn_of_filter(ngx_conf_t *cf, ngx_http_vd_loc_conf_t *conf,
    const ngx_http_vd_filter_t *filter, ngx_module_t *module)
{
    if (conf->file == conf->prev->file && conf->line == conf->prev->line) {
        /* an "if" or "limit_except" */
        return;
    }

    if (filter->warning
        && ngx_http_vd_filter_used(filter, conf->loc_conf[module->ctx_index])
        && (filter->types == NULL
            || ngx_http_vd_filters_json(conf, module, filter->types)))
    {
        ngx_log_error(NGX_LOG_WARN, cf->log, 0,
                      "%s the \"vd_pass\" directive in %s:%ui",
                      filter->warning, conf->file, conf->line);
    }
}


static ngx_uint_t
ngx_http_vd_filter_used(const ngx_http_vd_filter_t *filter, ngx_uint_t *words)
{
    ngx_uint_t  i;

    for (i = 0; filter->used >> i; i++) {
        if ((filter->used >> i & 1) && words[i]) {
            return 1;
        }
    }

    return 0;
}


/*
 * Whether JSON is among the types that such a directive lists here, or on the
 * nearest level above that has one.  It is nowhere by default.
 */

static ngx_uint_t
ngx_http_vd_filters_json(ngx_http_vd_loc_conf_t *conf, ngx_module_t *module,
    const char *name)
{
    u_char          *p;
    ngx_uint_t       i;
    ngx_array_t     *types;
    ngx_command_t   *cmd;
    ngx_hash_key_t  *type;

    for (cmd = module->commands; cmd->name.len; cmd++) {
        if (ngx_strcmp(cmd->name.data, name) == 0) {
            break;
        }
    }

    for (types = NULL; conf && types == NULL; conf = conf->prev) {
        p = conf->loc_conf[module->ctx_index];
        types = *(ngx_array_t **) (p + cmd->offset);
    }

    if (types == NULL) {
        return 0;
    }

    if (types == (void *) -1) {
        return 1;
    }

    type = types->elts;

    for (i = 0; i < types->nelts; i++) {
        if (ngx_strcmp(type[i].key.data, "application/json") == 0) {
            return 1;
        }
    }

    return 0;
}
