
/*
 * Copyright (C) The ngx_vd_module authors
 *
 * "vd_status" as JSON.
 */


#include "ngx_http_vd_module.h"

#include <jansson.h>


static json_t *ngx_http_vd_output_json(ngx_http_vd_output_t *output);
static json_t *ngx_http_vd_journal_json(ngx_http_vd_main_conf_t *vmcf);
static json_t *ngx_http_vd_histogram_json(ngx_http_vd_histogram_t *histogram);


ngx_buf_t *
ngx_http_vd_status_json(ngx_http_request_t *r, ngx_http_vd_main_conf_t *vmcf)
{
    char                   *text;
    size_t                  len;
    json_t                 *page, *list;
    ngx_buf_t              *b;
    ngx_uint_t              i;
    ngx_http_vd_output_t  **outputs;

    list = json_array();
    outputs = vmcf->outputs.elts;

    for (i = 0; i < vmcf->outputs.nelts; i++) {
        (void) json_array_append_new(list,
                                     ngx_http_vd_output_json(outputs[i]));
    }

    page = json_pack("{ss ss so so}", "version", NGX_HTTP_VD_VERSION,
                     "nginx", NGINX_VERSION, "outputs", list,
                     "journal", ngx_http_vd_journal_json(vmcf));

    text = json_dumps(page, JSON_COMPACT);

    json_decref(page);

    if (text == NULL) {
        return NULL;
    }

    len = ngx_strlen(text);

    b = ngx_create_temp_buf(r->pool, len + 1);

    if (b) {
        b->last = ngx_cpymem(b->last, text, len);
        *b->last++ = LF;
    }

    free(text);

    return b;
}


static json_t *
ngx_http_vd_output_json(ngx_http_vd_output_t *output)
{
    u_char                   class[sizeof("2xx")];
    json_t                  *failed, *responses, *tickets;
    ngx_uint_t               i;
    ngx_http_vd_counters_t  *counters;

    counters = output->counters;

    failed = json_object();

    for (i = VD_REASON_NONE + 1; i < VD_REASON_LAST; i++) {
        (void) json_object_set_new(failed, vd_reason_name(i),
                                   json_integer(counters->failed[i]));
    }

    responses = json_object();

    for (i = 0; i < NGX_HTTP_VD_CLASSES; i++) {
        ngx_sprintf(class, "%uixx%Z", i + 2);
        (void) json_object_set_new(responses, (char *) class,
                                   json_integer(counters->responses[i]));
    }

    tickets = json_object();

    for (i = 0; i < NGX_HTTP_VD_TICKETS; i++) {
        (void) json_object_set_new(tickets, ngx_http_vd_ticket_results[i],
                                   json_integer(counters->tickets[i]));
    }

    return json_pack("{ss# ss# s{sI so} so so sI so sI sI}",
                     "output", output->id.data, (int) output->id.len,
                     "label", output->label.data, (int) output->label.len,
                     "attempts",
                     "delivered", (json_int_t) counters->delivered,
                     "failed", failed,
                     "responses", responses,
                     "ticket_ids", tickets,
                     "in_flight",
                     (json_int_t) ngx_http_vd_in_flight(counters),
                     "attempt_duration_seconds",
                     ngx_http_vd_histogram_json(&counters->durations),
                     "request_bytes", (json_int_t) counters->request_bytes,
                     "last_delivered_timestamp_seconds",
                     (json_int_t) counters->last_delivered);
}


static json_t *
ngx_http_vd_journal_json(ngx_http_vd_main_conf_t *vmcf)
{
    json_t                          *free_bytes;
    uint64_t                         bytes;
    ngx_http_vd_journal_counters_t  *counters;

    counters = ngx_http_vd_journal_counters(vmcf->shared);

    free_bytes = (ngx_http_vd_free_bytes(vmcf, &bytes) == NGX_OK)
                 ? json_integer((json_int_t) bytes) : json_null();

    return json_pack("{sI sI sI sI so so}",
                     "records", (json_int_t) counters->records,
                     "bytes", (json_int_t) counters->bytes,
                     "syncs", (json_int_t) counters->syncs,
                     "errors", (json_int_t) counters->errors,
                     "sync_duration_seconds",
                     ngx_http_vd_histogram_json(&counters->sync_durations),
                     "free_bytes", free_bytes);
}


static json_t *
ngx_http_vd_histogram_json(ngx_http_vd_histogram_t *histogram)
{
    json_int_t  n;
    ngx_uint_t  i;

    n = 0;

    for (i = 0; i <= NGX_HTTP_VD_BUCKETS; i++) {
        n += (json_int_t) histogram->buckets[i];
    }

    return json_pack("{sI sf}", "count", n,
                     "sum", (double) histogram->sum / 1000000);
}
