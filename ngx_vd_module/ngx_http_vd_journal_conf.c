
/*
 * Copyright (C) The ngx_vd_module authors
 *
 * "vd_journal": its parameters, and whether the workers could write there.
 */


#include "ngx_http_vd_module.h"

#include <ngx_event.h>

#include <grp.h>
#include <pwd.h>


#define NGX_HTTP_VD_SEGMENT      (64 * 1024 * 1024)
#define NGX_HTTP_VD_SEGMENT_MIN  4096

#define NGX_HTTP_VD_GROUPS       256


static ngx_int_t ngx_http_vd_journal_option(ngx_conf_t *cf,
    ngx_http_vd_journal_t *journal, ngx_str_t *value);
static ngx_int_t ngx_http_vd_journal_flag(ngx_conf_t *cf, ngx_str_t *value,
    ngx_flag_t *flag, const char *on, const char *off);
static ngx_int_t ngx_http_vd_journal_duplicate(ngx_conf_t *cf,
    ngx_str_t *value);
static ngx_http_vd_journal_t *ngx_http_vd_add_journal(ngx_conf_t *cf,
    ngx_http_vd_journal_t *journal);
#if (NGX_THREADS)
static ngx_int_t ngx_http_vd_journal_events(ngx_conf_t *cf);
#endif
static ngx_int_t ngx_http_vd_journal_threads(ngx_conf_t *cf,
    ngx_http_vd_journal_t *journal);
static ngx_int_t ngx_http_vd_journal_check(ngx_conf_t *cf,
    ngx_http_vd_journal_t *journal);
static ngx_int_t ngx_http_vd_journal_check_user(ngx_conf_t *cf,
    ngx_http_vd_journal_t *journal);
static ngx_err_t ngx_http_vd_journal_access(ngx_str_t *dir);


char *
ngx_http_vd_journal(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_vd_loc_conf_t *vlcf = conf;

    ngx_str_t              *value;
    ngx_uint_t              i;
    ngx_http_vd_journal_t   journal;

    if (vlcf->journal != NGX_CONF_UNSET_PTR) {
        return "is duplicate";
    }

    value = cf->args->elts;

    if (cf->args->nelts == 2 && ngx_strcmp(value[1].data, "off") == 0) {
        vlcf->journal = NULL;
        return NGX_CONF_OK;
    }

    if (value[1].len == 0) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid directory \"\" in \"vd_journal\" "
                           "directive");
        return NGX_CONF_ERROR;
    }

    ngx_memzero(&journal, sizeof(ngx_http_vd_journal_t));

    journal.dir = value[1];
    journal.sync = NGX_CONF_UNSET;
    journal.bodies = NGX_CONF_UNSET;
    journal.segment = NGX_CONF_UNSET_SIZE;

    if (ngx_conf_full_name(cf->cycle, &journal.dir, 0) != NGX_OK) {
        return NGX_CONF_ERROR;
    }

    while (journal.dir.len > 1 && journal.dir.data[journal.dir.len - 1] == '/')
    {
        journal.dir.data[--journal.dir.len] = '\0';
    }

    for (i = 2; i < cf->args->nelts; i++) {
        if (ngx_http_vd_journal_option(cf, &journal, &value[i]) != NGX_OK) {
            return NGX_CONF_ERROR;
        }
    }

    ngx_conf_init_value(journal.sync, 1);
    ngx_conf_init_value(journal.bodies, 0);
    ngx_conf_init_size_value(journal.segment, NGX_HTTP_VD_SEGMENT);

    vlcf->journal = ngx_http_vd_add_journal(cf, &journal);

    return vlcf->journal ? NGX_CONF_OK : NGX_CONF_ERROR;
}


static ngx_int_t
ngx_http_vd_journal_option(ngx_conf_t *cf, ngx_http_vd_journal_t *journal,
    ngx_str_t *value)
{
    ssize_t    size;
    ngx_str_t  s;

    if (ngx_strncmp(value->data, "sync=", 5) == 0) {
        return ngx_http_vd_journal_flag(cf, value, &journal->sync, "on",
                                        "off");
    }

    if (ngx_strncmp(value->data, "bodies=", 7) == 0) {
        return ngx_http_vd_journal_flag(cf, value, &journal->bodies, "all",
                                        "failed");
    }

    if (ngx_strncmp(value->data, "segment=", 8) == 0) {

        if (journal->segment != NGX_CONF_UNSET_SIZE) {
            return ngx_http_vd_journal_duplicate(cf, value);
        }

        s.data = value->data + 8;
        s.len = value->len - 8;

        size = ngx_parse_size(&s);

        if (size >= NGX_HTTP_VD_SEGMENT_MIN) {
            journal->segment = size;
            return NGX_OK;
        }

        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid parameter \"%V\" in \"vd_journal\" "
                           "directive, it must be a size of \"4k\" or more, "
                           "in bytes, \"k\" or \"m\"", value);
        return NGX_ERROR;
    }

    ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                       "invalid parameter \"%V\" in \"vd_journal\" directive, "
                       "it must be \"sync=\", \"bodies=\" or \"segment=\"",
                       value);
    return NGX_ERROR;
}


/* "NAME=ON" or "NAME=OFF" */

static ngx_int_t
ngx_http_vd_journal_flag(ngx_conf_t *cf, ngx_str_t *value, ngx_flag_t *flag,
    const char *on, const char *off)
{
    u_char  *text;

    if (*flag != NGX_CONF_UNSET) {
        return ngx_http_vd_journal_duplicate(cf, value);
    }

    text = (u_char *) ngx_strchr(value->data, '=') + 1;

    if (ngx_strcmp(text, on) == 0) {
        *flag = 1;
        return NGX_OK;
    }

    if (ngx_strcmp(text, off) == 0) {
        *flag = 0;
        return NGX_OK;
    }

    ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                       "invalid parameter \"%V\" in \"vd_journal\" directive, "
                       "it must be \"%s\" or \"%s\"", value, on, off);

    return NGX_ERROR;
}


static ngx_int_t
ngx_http_vd_journal_duplicate(ngx_conf_t *cf, ngx_str_t *value)
{
    ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                       "duplicate parameter \"%V\" in \"vd_journal\" "
                       "directive", value);
    return NGX_ERROR;
}


/* One directory has one journal, wherever it is named. */

static ngx_http_vd_journal_t *
ngx_http_vd_add_journal(ngx_conf_t *cf, ngx_http_vd_journal_t *journal)
{
    ngx_uint_t                 i;
    ngx_http_vd_journal_t    **journals, *other;
    ngx_http_vd_main_conf_t   *vmcf;

    vmcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_vd_module);

    journals = vmcf->journals.elts;

    for (i = 0; i < vmcf->journals.nelts; i++) {
        other = journals[i];

        if (other->dir.len != journal->dir.len
            || ngx_strcmp(other->dir.data, journal->dir.data) != 0)
        {
            continue;
        }

        if (other->sync != journal->sync
            || other->bodies != journal->bodies
            || other->segment != journal->segment)
        {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "\"vd_journal\" \"%V\" has other parameters "
                               "here than in %s:%ui", &journal->dir,
                               other->file, other->line);
            return NULL;
        }

        return other;
    }

    if (ngx_http_vd_journal_threads(cf, journal) != NGX_OK
        || ngx_http_vd_journal_check(cf, journal) != NGX_OK)
    {
        return NULL;
    }

    other = ngx_palloc(cf->pool, sizeof(ngx_http_vd_journal_t));
    if (other == NULL) {
        return NULL;
    }

    *other = *journal;
    other->file = cf->conf_file->file.name.data;
    other->line = cf->conf_file->line;

    journals = ngx_array_push(&vmcf->journals);
    if (journals == NULL) {
        return NULL;
    }

    *journals = other;

    return other;
}


#if (NGX_THREADS)

/*
 * With an event method that threads cannot notify nginx would start, but none
 * of its workers.  (Not seen where events{} follows http{}.)
 */

static ngx_int_t
ngx_http_vd_journal_events(ngx_conf_t *cf)
{
    ngx_uint_t           i;
    ngx_module_t       **modules;
    ngx_event_conf_t    *ecf;
    ngx_event_module_t  *event;

    if (cf->cycle->conf_ctx[ngx_events_module.index] == NULL) {
        return NGX_OK;
    }

    ecf = ngx_event_get_conf(cf->cycle->conf_ctx, ngx_event_core_module);
    modules = cf->cycle->modules;

    for (i = 0; modules[i]; i++) {

        if (modules[i]->type != NGX_EVENT_MODULE
            || modules[i]->ctx_index != ecf->use)
        {
            continue;
        }

        event = modules[i]->ctx;

        if (event->actions.notify) {
            continue;
        }

        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"vd_journal\" with \"sync=on\" needs an event "
                           "method that threads can notify, such as "
                           "\"epoll\", not \"%s\"", ecf->name);
        return NGX_ERROR;
    }

    return NGX_OK;
}

#endif


static ngx_int_t
ngx_http_vd_journal_threads(ngx_conf_t *cf, ngx_http_vd_journal_t *journal)
{
#if (NGX_THREADS)

    if (journal->sync) {
        journal->thread_pool = ngx_thread_pool_add(cf, NULL);

        if (journal->thread_pool == NULL
            || ngx_http_vd_journal_events(cf) != NGX_OK)
        {
            return NGX_ERROR;
        }
    }

    return NGX_OK;

#else

    if (journal->sync) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"vd_journal\" with \"sync=on\" needs nginx "
                           "built with --with-threads; \"sync=off\" does not, "
                           "but records may be lost with the machine");
        return NGX_ERROR;
    }

    return NGX_OK;

#endif
}


static ngx_int_t
ngx_http_vd_journal_check(ngx_conf_t *cf, ngx_http_vd_journal_t *journal)
{
    ngx_err_t         err;
    ngx_file_info_t   fi;

    if (ngx_file_info(journal->dir.data, &fi) == NGX_FILE_ERROR) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, ngx_errno,
                           "\"vd_journal\" directory \"%V\" cannot be used, "
                           "it must exist and the workers write to it",
                           &journal->dir);
        return NGX_ERROR;
    }

    if (!ngx_is_dir(&fi)) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"vd_journal\" \"%V\" is not a directory",
                           &journal->dir);
        return NGX_ERROR;
    }

    if (geteuid() == 0) {
        return ngx_http_vd_journal_check_user(cf, journal);
    }

    err = ngx_http_vd_journal_access(&journal->dir);

    if (err) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, err,
                           "\"vd_journal\" directory \"%V\" must be readable "
                           "and writable", &journal->dir);
        return NGX_ERROR;
    }

    return NGX_OK;
}


/*
 * The master is root, its workers are not: asks as their user, whose groups
 * count too.  Nobody else runs in the master meanwhile.
 */

static ngx_int_t
ngx_http_vd_journal_check_user(ngx_conf_t *cf, ngx_http_vd_journal_t *journal)
{
    int               n;
    gid_t             groups[NGX_HTTP_VD_GROUPS], egid, gid;
    ngx_err_t         err;
    const char       *name;
    struct passwd    *pwd;
    ngx_core_conf_t  *ccf;

    ccf = (ngx_core_conf_t *) ngx_get_conf(cf->cycle->conf_ctx,
                                           ngx_core_module);

    name = ccf->username ? ccf->username : NGX_USER;
    pwd = getpwnam(name);

    if (pwd == NULL) {
        /* nginx itself will say so */
        return NGX_OK;
    }

    gid = (ccf->group == (ngx_gid_t) NGX_CONF_UNSET_UINT) ? pwd->pw_gid
                                                           : ccf->group;
    egid = getegid();
    n = getgroups(NGX_HTTP_VD_GROUPS, groups);

    if (n == -1
        || initgroups(name, gid) == -1
        || setegid(gid) == -1
        || seteuid(pwd->pw_uid) == -1)
    {
        err = ngx_errno;

    } else {
        err = ngx_http_vd_journal_access(&journal->dir);
    }

    if (seteuid(0) == -1 || setegid(egid) == -1
        || (n != -1 && setgroups(n, groups) == -1))
    {
        err = ngx_errno;
    }

    if (err) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, err,
                           "\"vd_journal\" directory \"%V\" must be readable "
                           "and writable for user \"%s\", as which the workers "
                           "run", &journal->dir, name);
        return NGX_ERROR;
    }

    return NGX_OK;
}


static ngx_err_t
ngx_http_vd_journal_access(ngx_str_t *dir)
{
    return (faccessat(AT_FDCWD, (char *) dir->data, R_OK|W_OK|X_OK, AT_EACCESS)
            == 0)
           ? 0 : ngx_errno;
}
