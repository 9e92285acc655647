
/*
 * Copyright (C) The ngx_vd_module authors
 *
 * Connections to the receiver: which kept one may be used, and when a fresh
 * one is tried.
 */


#include "ngx_http_vd_module.h"


static ngx_int_t ngx_http_vd_init_peer(ngx_http_request_t *r,
    ngx_http_upstream_srv_conf_t *us);
static ngx_int_t ngx_http_vd_get_peer(ngx_peer_connection_t *pc, void *data);
static void ngx_http_vd_free_peer(ngx_peer_connection_t *pc, void *data,
    ngx_uint_t state);
static void ngx_http_vd_notify_peer(ngx_peer_connection_t *pc, void *data,
    ngx_uint_t type);
static ngx_uint_t ngx_http_vd_own_connection(ngx_http_vd_ctx_t *ctx,
    ngx_connection_t *c);
static ngx_uint_t ngx_http_vd_stale(ngx_http_vd_ctx_t *ctx,
    ngx_http_upstream_t *u);
static void ngx_http_vd_close_connection(ngx_connection_t *c);


ngx_http_upstream_srv_conf_t *
ngx_http_vd_wrap_upstream(ngx_conf_t *cf, ngx_http_upstream_srv_conf_t *uscf)
{
    ngx_http_upstream_srv_conf_t  *wrapper;

    wrapper = ngx_palloc(cf->pool, sizeof(ngx_http_upstream_srv_conf_t));
    if (wrapper == NULL) {
        return NULL;
    }

    *wrapper = *uscf;
    wrapper->peer.init = ngx_http_vd_init_peer;

    return wrapper;
}


static ngx_int_t
ngx_http_vd_init_peer(ngx_http_request_t *r, ngx_http_upstream_srv_conf_t *us)
{
    ngx_http_vd_ctx_t             *ctx;
    ngx_http_upstream_t           *u;
    ngx_http_upstream_srv_conf_t  *origin;

    ctx = ngx_http_get_module_ctx(r, ngx_http_vd_module);
    origin = ctx->conf->origin;

    if (origin->peer.init(r, origin) != NGX_OK) {
        return NGX_ERROR;
    }

    u = r->upstream;

    ctx->peer_data = u->peer.data;
    ctx->get_peer = u->peer.get;
    ctx->free_peer = u->peer.free;

    u->peer.data = ctx;
    u->peer.get = ngx_http_vd_get_peer;
    u->peer.free = ngx_http_vd_free_peer;
    u->peer.set_session = ngx_http_vd_set_session;
    u->peer.save_session = ngx_http_vd_save_session;

    if (u->peer.notify) {
        ctx->notify_peer = u->peer.notify;
        u->peer.notify = ngx_http_vd_notify_peer;
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_vd_get_peer(ngx_peer_connection_t *pc, void *data)
{
    ngx_http_vd_ctx_t *ctx = data;

    ngx_int_t             rc;
    ngx_http_upstream_t  *u;
    ngx_http_request_t   *r;

    r = ctx->clone;
    u = r->upstream;

    /* see ngx_http_vd_free_peer() */
    r->method = NGX_HTTP_POST;
    u->conf = &ctx->conf->upstream;

    ngx_http_vd_show_client_error(ctx);

    ngx_http_vd_start_response(ctx);

    if (ctx->sockaddr) {
        pc->sockaddr = ctx->sockaddr;
        pc->connection = NULL;
        pc->cached = 0;

        ctx->sockaddr = NULL;

        return NGX_OK;
    }

    rc = ctx->get_peer(pc, ctx->peer_data);

    if (rc == NGX_BUSY) {
        ctx->unresolved = ngx_http_vd_unresolved(ctx->conf->origin);
    }

    if (rc == NGX_DONE
        && (ctx->fresh
            || !ngx_http_vd_own_connection(ctx, pc->connection)
            || ngx_http_vd_peek(ctx, pc->connection) != NGX_OK))
    {
        ngx_log_debug1(NGX_LOG_DEBUG_HTTP, pc->log, 0,
                       "vd close kept connection: %d", pc->connection->fd);

        ngx_http_vd_close_connection(pc->connection);

        pc->connection = NULL;
        pc->cached = 0;

        rc = NGX_OK;
    }

    return rc;
}


/*
 * Connections of an upstream{} are kept by address alone.  One that was opened
 * by a location with another idea of TLS, or with none, is not ours.
 */

static ngx_uint_t
ngx_http_vd_own_connection(ngx_http_vd_ctx_t *ctx, ngx_connection_t *c)
{
    if (!ctx->conf->ssl || c->ssl == NULL) {
        return !ctx->conf->ssl && c->ssl == NULL;
    }

    return SSL_get_SSL_CTX(c->ssl->connection) == ctx->conf->upstream.ssl->ctx;
}


/*
 * TLS has something to read that is no reply, as session tickets; it is taken
 * in on the way, for which the connection has to have its request.
 */

ngx_int_t
ngx_http_vd_peek(ngx_http_vd_ctx_t *ctx, ngx_connection_t *c)
{
    ssize_t  n;
    u_char   ch;

    if (c->ssl) {
        c->data = ctx->clone;
        return ngx_http_vd_ssl_peek(c, ctx->clone->upstream->peer.cached
                                       ? NGX_LOG_INFO : NGX_LOG_ERR);
    }

    n = recv(c->fd, &ch, 1, MSG_PEEK);

    if (n > 0) {
        return NGX_DECLINED;
    }

    return (n == -1 && ngx_socket_errno == NGX_EAGAIN) ? NGX_OK : NGX_ERROR;
}


static void
ngx_http_vd_free_peer(ngx_peer_connection_t *pc, void *data, ngx_uint_t state)
{
    ngx_http_vd_ctx_t *ctx = data;

    ngx_http_upstream_t  *u;
    ngx_http_request_t   *r;

    r = ctx->clone;
    u = r->upstream;

    if (state & (NGX_PEER_FAILED|NGX_PEER_NEXT)) {
        /* another server may be tried */
        ngx_http_vd_hide_client_error(ctx);
    }

    if ((state & NGX_PEER_FAILED) && ngx_http_vd_stale(ctx, u)) {

        /*
         * The receiver closed an idle connection while we took it up, and has
         * seen nothing of the request.  nginx would try again only what may
         * be repeated, so for the one decision that comes next this is no
         * POST, and "error" is among the reasons to go on.
         *
         * For the balancer nothing has happened: the server has not failed,
         * and it is the same one that is tried afresh.
         */

        ngx_log_error(NGX_LOG_INFO, pc->log, 0,
                      "kept connection was closed by the receiver, "
                      "trying a fresh one");

        ctx->fresh = 1;
        r->method = NGX_HTTP_UNKNOWN;
        u->conf = &ctx->conf->fresh;

        ctx->sockaddr = pc->sockaddr;

        if (pc->tries) {
            pc->tries--;
        }

        return;
    }

    ctx->free_peer(pc, ctx->peer_data, state);
}


void
ngx_http_vd_release_peer(ngx_http_vd_ctx_t *ctx)
{
    if (ctx->sockaddr) {
        ctx->sockaddr = NULL;
        ctx->free_peer(&ctx->clone->upstream->peer, ctx->peer_data, 0);
    }
}


static ngx_uint_t
ngx_http_vd_stale(ngx_http_vd_ctx_t *ctx, ngx_http_upstream_t *u)
{
    ngx_connection_t  *c;

    c = u->peer.connection;

    return !ctx->fresh
           && u->peer.cached
           && c != NULL
           && u->request_sent
           && u->state->bytes_received == 0
           && !c->read->timedout
           && !c->write->timedout;
}


static void
ngx_http_vd_notify_peer(ngx_peer_connection_t *pc, void *data, ngx_uint_t type)
{
    ngx_http_vd_ctx_t *ctx = data;

    ctx->notify_peer(pc, ctx->peer_data, type);
}


static void
ngx_http_vd_close_connection(ngx_connection_t *c)
{
    if (c->ssl) {
        c->ssl->no_wait_shutdown = 1;
        c->ssl->no_send_shutdown = 1;

        (void) ngx_ssl_shutdown(c);
    }

    ngx_destroy_pool(c->pool);
    ngx_close_connection(c);
}
