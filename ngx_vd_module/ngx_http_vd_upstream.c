
/*
 * Copyright (C) The ngx_vd_module authors
 *
 * One attempt: nginx's upstream machinery in a cloned subrequest, whose
 * output nobody sees, and the outcome that it comes to.
 */


#include "ngx_http_vd_module.h"


static ngx_int_t ngx_http_vd_send(void *data, ngx_chain_t *in);
static ngx_int_t ngx_http_vd_reinit_request(ngx_http_request_t *r);
static void ngx_http_vd_abort_request(ngx_http_request_t *r);
static void ngx_http_vd_finalize_request(ngx_http_request_t *r, ngx_int_t rc);
static void ngx_http_vd_timeout_handler(ngx_event_t *ev);
static vd_stage_e ngx_http_vd_stage(ngx_http_vd_ctx_t *ctx,
    ngx_http_upstream_t *u);
static void ngx_http_vd_find_ticket(ngx_http_vd_ctx_t *ctx);
static void ngx_http_vd_log_attempt(ngx_http_vd_ctx_t *ctx);
static void ngx_http_vd_count_attempt(ngx_http_vd_ctx_t *ctx);


ngx_int_t
ngx_http_vd_upstream_handler(ngx_http_request_t *r)
{
    ngx_http_vd_ctx_t       *ctx;
    ngx_http_upstream_t     *u;
    ngx_http_vd_loc_conf_t  *vlcf;

    ctx = ngx_http_get_module_ctx(r, ngx_http_vd_module);
    vlcf = ctx->conf;

    if (ngx_http_upstream_create(r) != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    u = r->upstream;

    u->schema = vlcf->schema;
    u->uri = vlcf->uri;
    u->ssl = vlcf->ssl;
    u->conf = &vlcf->upstream;
    u->output.tag = (ngx_buf_tag_t) &ngx_http_vd_module;
    u->output.output_filter = ngx_http_vd_send;
    u->output.filter_ctx = ctx;

    u->create_request = ngx_http_vd_create_request;
    u->reinit_request = ngx_http_vd_reinit_request;
    u->process_header = ngx_http_vd_process_header;
    u->abort_request = ngx_http_vd_abort_request;
    u->finalize_request = ngx_http_vd_finalize_request;

    u->input_filter_init = ngx_http_vd_filter_init;
    u->input_filter = ngx_http_vd_filter;
    u->input_filter_ctx = ctx;

    ctx->timer.handler = ngx_http_vd_timeout_handler;
    ctx->timer.data = ctx;
    ctx->timer.log = r->connection->log;

    ngx_add_timer(&ctx->timer, vlcf->timeout);

    ngx_http_vd_count_start(vlcf->output->counters);
    ctx->in_flight = 1;

    r->main->count++;

    ngx_http_upstream_init(r);

    return NGX_DONE;
}


/*
 * Sends what there is of the request.  What a receiver says before it was asked
 * is no reply.  One that has replied to a part of the request may take no more
 * of it: then the reply is what counts, not that sending failed.
 */

static ngx_int_t
ngx_http_vd_send(void *data, ngx_chain_t *in)
{
    ngx_http_vd_ctx_t *ctx = data;

    ngx_int_t             rc;
    ngx_connection_t     *c;
    ngx_http_upstream_t  *u;

    u = ctx->clone->upstream;
    c = u->peer.connection;

    if (ctx->unsendable) {
        return NGX_AGAIN;
    }

    if (c->sent == 0 && !u->peer.cached
        && ngx_http_vd_peek(ctx, c) == NGX_DECLINED)
    {
        (void) ngx_http_vd_too_early(ctx);
        return NGX_ERROR;
    }

    rc = ngx_chain_writer(&u->writer, in);

    if (rc == NGX_ERROR && c->sent && ngx_http_vd_peek(ctx, c) == NGX_DECLINED)
    {
        ctx->unsendable = 1;
        return NGX_AGAIN;
    }

    return rc;
}


/*
 * The state of the response is begun anew in ngx_http_vd_start_response().
 * A body in a file is sent through one buffer; if the last connection broke
 * off with the buffer in use, nginx would wait for it for ever, so that it is
 * made to take a new one.
 */

static ngx_int_t
ngx_http_vd_reinit_request(ngx_http_request_t *r)
{
    ngx_output_chain_ctx_t  *output;

    output = &r->upstream->output;

    output->buf = NULL;
    output->free = NULL;
    output->allocated = 0;

    return NGX_OK;
}


static void
ngx_http_vd_abort_request(ngx_http_request_t *r)
{
    ngx_log_debug0(NGX_LOG_DEBUG_HTTP, r->connection->log, 0,
                   "abort vd request");
}


static void
ngx_http_vd_finalize_request(ngx_http_request_t *r, ngx_int_t rc)
{
    vd_exchange_t        *exchange;
    ngx_connection_t     *c;
    ngx_http_vd_ctx_t    *ctx;
    ngx_http_upstream_t  *u;

    ngx_log_debug1(NGX_LOG_DEBUG_HTTP, r->connection->log, 0,
                   "finalize vd request: %i", rc);

    ctx = ngx_http_get_module_ctx(r, ngx_http_vd_module);
    u = r->upstream;
    c = u->peer.connection;
    exchange = &ctx->exchange;

    exchange->stage = ngx_http_vd_stage(ctx, u);
    exchange->timed_out = c && (c->read->timedout || c->write->timedout);

    if (rc == NGX_OK && exchange->status && !exchange->complete
        && vd_http_end(&ctx->http) == VD_HTTP_DONE)
    {

        /*
         * The end of the connection is that of the response, but anybody can
         * end one: with TLS the receiver has to say so (RFC 9112, 9.8).
         */

        exchange->complete = (c->ssl == NULL || ngx_http_vd_ssl_ended(c));
    }

    if (rc == NGX_DONE
        || (rc == NGX_HTTP_INTERNAL_SERVER_ERROR && exchange->status == 0))
    {
        exchange->internal = 1;
    }

    if (u->state && u->state->peer) {
        ctx->upstream = *u->state->peer;
    }

    ngx_http_vd_release_peer(ctx);

    ngx_http_vd_end_attempt(ctx);
}


static vd_stage_e
ngx_http_vd_stage(ngx_http_vd_ctx_t *ctx, ngx_http_upstream_t *u)
{
    ngx_connection_t  *c;

    c = u->peer.connection;

    if (c == NULL) {
        return ctx->unresolved ? VD_STAGE_RESOLVE : VD_STAGE_CONNECT;
    }

    if (c->ssl && (!u->request_sent
                   || (ngx_http_vd_ssl_alerted(c)
                       && u->state->bytes_received == 0)))
    {
        return VD_STAGE_TLS;
    }

    return u->request_sent ? VD_STAGE_EXCHANGE : VD_STAGE_CONNECT;
}


/*
 * The attempt as a whole has taken too long.  The connection's own timers are
 * made to have expired, so that nginx ends it as it ends any other that timed
 * out, whatever it is waiting for; no other server is tried.
 */

static void
ngx_http_vd_timeout_handler(ngx_event_t *ev)
{
    ngx_http_vd_ctx_t *ctx = ev->data;

    ngx_connection_t     *c;
    ngx_http_upstream_t  *u;

    u = ctx->clone->upstream;
    c = u->peer.connection;

    ngx_log_debug1(NGX_LOG_DEBUG_HTTP, ev->log, 0,
                   "vd attempt timed out: %p", c);

    if (c == NULL) {
        return;
    }

    u->peer.tries = 0;

    c->write->timedout = 1;
    c->read->timedout = 1;

    c->read->handler(c->read);
}


void
ngx_http_vd_end_attempt(ngx_http_vd_ctx_t *ctx)
{
    if (ctx->result.outcome != VD_OUTCOME_NONE) {
        return;
    }

    if (ctx->timer.timer_set) {
        ngx_del_timer(&ctx->timer);
    }

    ctx->duration = ngx_current_msec - ctx->start;
    ctx->result = vd_outcome(&ctx->exchange);

    /* $upstream_* of the app's request are those of the attempt */
    ctx->request->upstream_states = ctx->clone->upstream_states;

    if (ctx->result.outcome == VD_DELIVERED) {
        ngx_http_vd_find_ticket(ctx);
    }

    ngx_http_vd_log_attempt(ctx);
    ngx_http_vd_count_attempt(ctx);

    ngx_http_vd_record(ctx);
}


static void
ngx_http_vd_count_attempt(ngx_http_vd_ctx_t *ctx)
{
    ngx_uint_t                    class;
    ngx_http_vd_counters_t       *counters;
    ngx_http_vd_ticket_result_e   ticket;

    counters = ctx->conf->output->counters;

    if (counters == NULL) {
        return;
    }

    if (ctx->in_flight) {
        ctx->in_flight = 0;
        ngx_http_vd_count_end(counters);
    }

    class = ctx->exchange.status / 100;

    if (class >= 2 && class < 2 + NGX_HTTP_VD_CLASSES) {
        (void) ngx_atomic_fetch_add(&counters->responses[class - 2], 1);
    }

    (void) ngx_atomic_fetch_add(&counters->request_bytes, ctx->body_length);

    ngx_http_vd_histogram_add(&counters->durations,
                              (uint64_t) ctx->duration * 1000);

    if (ctx->result.outcome == VD_FAILED) {
        (void) ngx_atomic_fetch_add(&counters->failed[ctx->result.reason], 1);
        return;
    }

    ticket = (ctx->ticket_error == VD_TICKET_FOUND)
             ? NGX_HTTP_VD_TICKET_FOUND
             : (ctx->ticket_error == VD_TICKET_MISSING)
               ? NGX_HTTP_VD_TICKET_NONE : NGX_HTTP_VD_TICKET_REJECTED;

    (void) ngx_atomic_fetch_add(&counters->tickets[ticket], 1);
    (void) ngx_atomic_fetch_add(&counters->delivered, 1);

    counters->last_delivered = ngx_time();
}


static void
ngx_http_vd_find_ticket(ngx_http_vd_ctx_t *ctx)
{
    u_char  *p;

    if (ctx->too_large) {
        ctx->ticket_error = VD_TICKET_TOO_LARGE;
        return;
    }

    p = ngx_pnalloc(ctx->request->pool, ctx->conf->ticket_max);
    if (p == NULL) {
        ctx->ticket_error = VD_TICKET_MISSING;
        return;
    }

    ctx->ticket_error = vd_ticket_find(ctx->conf->ticket, ctx->reply.data,
                                       ctx->reply.len, p,
                                       &ctx->ticket_id.len);

    if (ctx->ticket_error == VD_TICKET_FOUND) {
        ctx->ticket_id.data = p;

    } else {
        ctx->ticket_id.len = 0;
    }
}


static void
ngx_http_vd_log_attempt(ngx_http_vd_ctx_t *ctx)
{
    u_char      status[NGX_INT_T_LEN + 1];
    ngx_log_t  *log;

    log = ctx->request->connection->log;

    if (ctx->result.outcome == VD_DELIVERED) {
        ngx_log_debug5(NGX_LOG_DEBUG_HTTP, log, 0,
                       "vd delivered \"%V\" to \"%V\": attempt %ui, "
                       "status %ui, ticket \"%V\"",
                       &ctx->id, &ctx->conf->output->id, ctx->attempt,
                       ctx->exchange.status, &ctx->ticket_id);
        return;
    }

    if (ctx->exchange.status) {
        log->action = "reading upstream";
        ngx_sprintf(status, "%ui%Z", ctx->exchange.status);

    } else {
        ngx_sprintf(status, "-%Z");
    }

    ngx_log_error(NGX_LOG_ERR, log, 0,
                  "delivery \"%V\" to output \"%V\" failed: attempt %ui, "
                  "reason %s, status %s, peer \"%V\"",
                  &ctx->id, &ctx->conf->output->id, ctx->attempt,
                  vd_reason_name(ctx->result.reason), status,
                  &ctx->upstream);
}
