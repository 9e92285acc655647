
/*
 * Copyright (C) The ngx_vd_module authors
 *
 * What the journal is told of a delivery, and what follows when it is on disk.
 */


#include "ngx_http_vd_module.h"


typedef struct {
    u_char                   *start;
    u_char                   *last;
} ngx_http_vd_gather_t;


static time_t ngx_http_vd_retry_seconds(ngx_http_vd_ctx_t *ctx, time_t now);
static time_t ngx_http_vd_date(ngx_str_t *text);
static ngx_int_t ngx_http_vd_record_uri(ngx_http_request_t *r,
    ngx_str_t *uri);
static void ngx_http_vd_record_host(ngx_http_request_t *r, ngx_str_t *host);
static ngx_uint_t ngx_http_vd_is_host(ngx_str_t *name);
static ngx_int_t ngx_http_vd_record_body(ngx_http_vd_ctx_t *ctx,
    vd_record_t *record, u_char **copy);
static ngx_int_t ngx_http_vd_gather_piece(void *data, u_char *p, size_t len);
static vd_text_t ngx_http_vd_text(ngx_str_t *s);
static void ngx_http_vd_recorded(void *data, ngx_uint_t written);


void
ngx_http_vd_record(ngx_http_vd_ctx_t *ctx)
{
    u_char                    *copy;
    ngx_str_t                  uri;
    vd_record_t                record;
    ngx_time_t                *tp;
    ngx_http_request_t        *r;
    ngx_http_vd_loc_conf_t    *conf;

    conf = ctx->conf;

    if (conf->journal == NULL) {
        return;
    }

    r = ctx->request;
    tp = ngx_timeofday();

    copy = NULL;

    ngx_memzero(&record, sizeof(vd_record_t));

    if (ngx_http_vd_record_uri(r, &uri) != NGX_OK
        || ngx_http_vd_record_body(ctx, &record, &copy) != NGX_OK)
    {
        ngx_http_vd_journal_refuse();
        return;
    }

    record.time = (uint64_t) tp->sec * 1000 + tp->msec;
    record.id = ngx_http_vd_text(&ctx->id);
    record.output = ngx_http_vd_text(&conf->output->id);
    record.label.data = conf->output->label.data
                        ? conf->output->label.data : (u_char *) "";
    record.label.len = conf->output->label.len;
    record.case_id = ngx_http_vd_text(&ctx->case_id);
    record.uri = ngx_http_vd_text(&uri);
    record.attempt = ctx->attempt;

    if (ctx->accepted) {
        record.outcome = "accepted";
        record.duration = -1;

    } else {
        record.outcome = vd_outcome_name(ctx->result.outcome);
        record.duration = ctx->duration;
    }

    record.reason = vd_reason_name(ctx->result.reason);
    record.status = ctx->exchange.status;
    record.upstream = ngx_http_vd_text(&ctx->upstream);
    record.ticket_id = ngx_http_vd_text(&ctx->ticket_id);
    record.ticket_error = vd_ticket_error_name(ctx->ticket_error);

    if (ctx->exchange.status) {
        record.response.data = ctx->reply.data ? ctx->reply.data
                                               : (u_char *) "";
        record.response.len = ctx->reply.len;
    }

    record.retry_after = ngx_http_vd_retry_seconds(ctx, tp->sec);
    record.content_type = ngx_http_vd_text(ngx_http_vd_sent_type(ctx));

    if (ctx->digest) {
        record.digest.data = ctx->digest;
        record.digest.len = VD_DIGEST_LEN;
    }

    ctx->waiter.handler = ngx_http_vd_recorded;
    ctx->waiter.data = ctx;

    (void) ngx_http_vd_journal_append(conf->journal, &record, &ctx->waiter,
                                      r->connection->log);

    if (copy) {
        ngx_free(copy);
    }
}


/*
 * What leads to the same location again: with a path, also where the app sent
 * a host without one, and in ASCII, as JSON cannot hold what is not UTF-8.
 */

static ngx_int_t
ngx_http_vd_record_uri(ngx_http_request_t *r, ngx_str_t *uri)
{
    size_t   i, n;
    u_char  *p, ch;

    *uri = r->unparsed_uri;

    n = 0;

    for (i = 0; i < uri->len; i++) {
        n += (uri->data[i] >= 0x80);
    }

    if (n == 0 && uri->len && uri->data[0] == '/') {
        return NGX_OK;
    }

    p = ngx_pnalloc(r->pool, 1 + uri->len + 2 * n);
    if (p == NULL) {
        return NGX_ERROR;
    }

    uri->data = p;

    if (r->unparsed_uri.len == 0 || r->unparsed_uri.data[0] != '/') {
        *p++ = '/';
    }

    for (i = 0; i < r->unparsed_uri.len; i++) {
        ch = r->unparsed_uri.data[i];

        if (ch >= 0x80) {
            p = ngx_sprintf(p, "%%%02Xi", (ngx_uint_t) ch);

        } else {
            *p++ = ch;
        }
    }

    uri->len = p - uri->data;

    return NGX_OK;
}


/*
 * Whether the request line of a retry would be too long for nginx, although
 * that of the first attempt was not: it was in fewer bytes, or of HTTP/2.
 */

ngx_uint_t
ngx_http_vd_long_uri(ngx_http_request_t *r)
{
    size_t                     i, len;
    ngx_http_core_srv_conf_t  *cscf;

    len = sizeof("POST / HTTP/1.1" CRLF) - 1 + r->unparsed_uri.len;

    if (r->unparsed_uri.len && r->unparsed_uri.data[0] == '/') {
        len--;
    }

    for (i = 0; i < r->unparsed_uri.len; i++) {
        len += (r->unparsed_uri.data[i] >= 0x80) ? 2 : 0;
    }

    cscf = ngx_http_get_module_srv_conf(r, ngx_http_core_module);

    return len > cscf->large_client_header_buffers.size
           && (len > r->request_line.len + 2
               || r->http_version >= NGX_HTTP_VERSION_20);
}


/*
 * By what the same server{} is found again: the host of the request line, or
 * the Host header, with its port if it has one; the server's own name if the
 * app named none.
 */

static void
ngx_http_vd_record_host(ngx_http_request_t *r, ngx_str_t *host)
{
    ngx_str_t               *server;
    ngx_table_elt_t         *h;
    ngx_http_vd_loc_conf_t  *conf;

    h = r->headers_in.host;
    server = &r->headers_in.server;

    if (!ngx_http_vd_is_host(server)) {
        conf = ngx_http_get_module_loc_conf(r, ngx_http_vd_module);
        *host = conf->server_name;
        return;
    }

    *host = *server;

    if (h && h->value.len > server->len
        && ngx_strncasecmp(h->value.data, server->data, server->len) == 0
        && h->value.data[server->len] == ':')
    {
        *host = h->value;
    }
}


void
ngx_http_vd_init_server_name(ngx_conf_t *cf, ngx_http_vd_loc_conf_t *conf)
{
    ngx_uint_t                  i;
    ngx_http_server_name_t     *name;
    ngx_http_core_srv_conf_t   *cscf;

    cscf = ngx_http_conf_get_module_srv_conf(cf, ngx_http_core_module);
    name = cscf->server_names.elts;

    for (i = 0; i < cscf->server_names.nelts; i++) {
        if (!ngx_http_vd_is_pattern(name[i])
            && ngx_http_vd_is_host(&name[i].name))
        {
            conf->server_name = name[i].name;
            return;
        }
    }
}


/* Neither none, nor a pattern, nor what JSON could not hold. */

static ngx_uint_t
ngx_http_vd_is_host(ngx_str_t *name)
{
    size_t  i;

    if (name->len && name->data[0] == '.') {
        return 0;
    }

    for (i = 0; i < name->len; i++) {
        if (name->data[i] <= 0x20 || name->data[i] >= 0x7f
            || name->data[i] == '*' || name->data[i] == '~')
        {
            return 0;
        }
    }

    return name->len > 0;
}


/* From now on, in seconds: NGX_ERROR if the receiver did not say. */

static time_t
ngx_http_vd_retry_seconds(ngx_http_vd_ctx_t *ctx, time_t now)
{
    time_t  seconds, date;

    if (ctx->result.reason != VD_REASON_STATUS) {
        return NGX_ERROR;
    }

    seconds = vd_retry_after_parse(ctx->retry_after.data,
                                   ctx->retry_after.len);
    if (seconds >= 0) {
        return seconds;
    }

    date = ngx_http_vd_date(&ctx->retry_after);

    if (date == NGX_ERROR) {
        return NGX_ERROR;
    }

    return (date <= now) ? 0 : ngx_min(date - now, VD_RETRY_AFTER_MAX);
}


/*
 * An HTTP-date (RFC 9110, 5.6.7).  nginx does not look at what follows the
 * time of day: another zone, or a second date.
 */

static time_t
ngx_http_vd_date(ngx_str_t *text)
{
    static const char  asctime[] = "Sun Nov  6 08:49:37 1994";
    static const char  longest[] = "Wednesday, 09-Nov-94 08:49:37 GMT";

    if (text->len == sizeof(asctime) - 1
        || (text->len > sizeof(asctime) - 1
            && text->len <= sizeof(longest) - 1
            && ngx_strncmp(text->data + text->len - 4, " GMT", 4) == 0))
    {
        return ngx_parse_http_time(text->data, text->len);
    }

    return NGX_ERROR;
}


/*
 * The body goes with the first attempt that leaves the delivery open: it is
 * what the case is retried from.
 */

static ngx_int_t
ngx_http_vd_record_body(ngx_http_vd_ctx_t *ctx, vd_record_t *record,
    u_char **copy)
{
    ngx_buf_t             *b;
    ngx_str_t              host, kept;
    ngx_http_vd_gather_t   gather;

    if (!ctx->conf->journal->bodies
        && (ctx->attempt != 1 || ctx->result.outcome == VD_DELIVERED))
    {
        return NGX_OK;
    }

    if (ngx_http_vd_kept_text(ctx, &kept) != NGX_OK) {
        return NGX_ERROR;
    }

    ngx_http_vd_record_host(ctx->request, &host);

    record->kept = ngx_http_vd_text(&kept);
    record->host = ngx_http_vd_text(&host);

    b = ctx->body->buf;

    if (ctx->body->next == NULL && ngx_buf_in_memory(b)) {
        record->body.data = b->pos;
        record->body.len = b->last - b->pos;
        return NGX_OK;
    }

    *copy = ngx_alloc(ctx->body_length, ctx->request->connection->log);
    if (*copy == NULL) {
        return NGX_ERROR;
    }

    gather.start = *copy;
    gather.last = *copy;

    if (ngx_http_vd_walk_body(ctx, ngx_http_vd_gather_piece, &gather)
        != NGX_OK)
    {
        ngx_free(*copy);
        return NGX_ERROR;
    }

    record->body.data = gather.start;
    record->body.len = gather.last - gather.start;

    return NGX_OK;
}


static ngx_int_t
ngx_http_vd_gather_piece(void *data, u_char *p, size_t len)
{
    ngx_http_vd_gather_t *gather = data;

    gather->last = ngx_cpymem(gather->last, p, len);

    return NGX_OK;
}


/* an empty one is unknown */

static vd_text_t
ngx_http_vd_text(ngx_str_t *s)
{
    vd_text_t  text;

    text.data = s->len ? s->data : NULL;
    text.len = s->len;

    return text;
}


static void
ngx_http_vd_recorded(void *data, ngx_uint_t written)
{
    ngx_http_vd_ctx_t *ctx = data;

    ngx_connection_t    *c;
    ngx_http_request_t  *r;

    ctx->journaled = written;

    r = ctx->request;
    c = r->connection;

    ngx_http_set_log_request(c->log, r);

    ngx_http_vd_answer(r);

    ngx_http_run_posted_requests(c);
}
