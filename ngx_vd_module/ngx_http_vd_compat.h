
/*
 * Copyright (C) The ngx_vd_module authors
 *
 * What differs between the versions of nginx, from 1.22 on: here, and nowhere
 * else.
 */


#ifndef _NGX_HTTP_VD_COMPAT_H_INCLUDED_
#define _NGX_HTTP_VD_COMPAT_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include <ngx_thread_pool.h>


#if (nginx_version < 1022000)
#error ngx_vd_module needs nginx 1.22.0 or newer
#endif

#if !(NGX_HTTP_SSL)
#error ngx_vd_module needs nginx configured with --with-http_ssl_module
#endif


/* An nginx --without-threads has no journal with sync=on, and posts no task. */

#if !(NGX_THREADS)
#define ngx_thread_task_post(pool, task)  NGX_ERROR
#endif


/*
 * Since 1.27.3 the servers of an upstream{} may be resolved at run time, and
 * there may be none yet.
 */

#if (nginx_version >= 1027003 && NGX_HTTP_UPSTREAM_ZONE)
#define ngx_http_vd_unresolved(uscf)                                          \
    ((uscf)->shm_zone != NULL && (uscf)->peer.data != NULL                    \
     && ((ngx_http_upstream_rr_peers_t *) (uscf)->peer.data)->number == 0)
#else
#define ngx_http_vd_unresolved(uscf)  0
#endif


/* A server name that is a regular expression, which nginx strips of its "~". */

#if (NGX_PCRE)
#define ngx_http_vd_is_pattern(server_name)  ((server_name).regex != NULL)
#else
#define ngx_http_vd_is_pattern(server_name)  0
#endif


#endif /* _NGX_HTTP_VD_COMPAT_H_INCLUDED_ */
