
/*
 * Copyright (C) The ngx_vd_module authors
 *
 * "vd_status": the counters, for Prometheus or as JSON.
 */


#include "ngx_http_vd_module.h"

#include <sys/statvfs.h>


/* the lines of one output, each without its labels' values */
#define NGX_HTTP_VD_LINES        40
#define NGX_HTTP_VD_LINE         192
#define NGX_HTTP_VD_GLOBAL_SIZE  8192


typedef struct {
    u_char                    *last;
    u_char                    *end;
    ngx_http_vd_main_conf_t   *conf;
} ngx_http_vd_page_t;


/* Writes the lines of one metric that are about one output. */
typedef void (*ngx_http_vd_lines_pt)(ngx_http_vd_page_t *page,
    ngx_http_vd_output_t *output);


typedef struct {
    const char                *name;
    const char                *type;
    const char                *help;
    ngx_http_vd_lines_pt       lines;
} ngx_http_vd_metric_t;


static ngx_int_t ngx_http_vd_status_handler(ngx_http_request_t *r);
static ngx_uint_t ngx_http_vd_wants_json(ngx_http_request_t *r);
static ngx_buf_t *ngx_http_vd_status_text(ngx_http_request_t *r,
    ngx_http_vd_main_conf_t *vmcf);
static size_t ngx_http_vd_status_size(ngx_http_vd_main_conf_t *vmcf);
static void ngx_http_vd_metric(ngx_http_vd_page_t *page,
    const ngx_http_vd_metric_t *metric);
static void ngx_http_vd_attempts(ngx_http_vd_page_t *page,
    ngx_http_vd_output_t *output);
static void ngx_http_vd_attempts_line(ngx_http_vd_page_t *page,
    ngx_http_vd_output_t *output, const char *outcome, const char *reason,
    ngx_atomic_uint_t n);
static void ngx_http_vd_responses(ngx_http_vd_page_t *page,
    ngx_http_vd_output_t *output);
static void ngx_http_vd_tickets(ngx_http_vd_page_t *page,
    ngx_http_vd_output_t *output);
static void ngx_http_vd_flights(ngx_http_vd_page_t *page,
    ngx_http_vd_output_t *output);
static void ngx_http_vd_durations(ngx_http_vd_page_t *page,
    ngx_http_vd_output_t *output);
static void ngx_http_vd_bytes(ngx_http_vd_page_t *page,
    ngx_http_vd_output_t *output);
static void ngx_http_vd_last_delivered(ngx_http_vd_page_t *page,
    ngx_http_vd_output_t *output);
static void ngx_http_vd_journal_metrics(ngx_http_vd_page_t *page);
static void ngx_http_vd_histogram(ngx_http_vd_page_t *page, const char *name,
    ngx_str_t *output, ngx_http_vd_histogram_t *histogram);
static void ngx_http_vd_print(ngx_http_vd_page_t *page, const char *fmt, ...);
static void ngx_http_vd_print_label(ngx_http_vd_page_t *page,
    ngx_str_t *value);


const char  *ngx_http_vd_ticket_results[NGX_HTTP_VD_TICKETS] = {
    "found", "none", "rejected"
};


static const ngx_http_vd_metric_t  ngx_http_vd_metrics[] = {

    { "vd_attempts_total", "counter",
      "Attempts by outcome and reason.", ngx_http_vd_attempts },

    { "vd_responses_total", "counter",
      "Responses of the receiver by class of status.",
      ngx_http_vd_responses },

    { "vd_ticket_ids_total", "counter",
      "Delivered attempts by what their reply held.", ngx_http_vd_tickets },

    { "vd_in_flight", "gauge",
      "Attempts under way.", ngx_http_vd_flights },

    { "vd_attempt_duration_seconds", "histogram",
      "Time from the start of an attempt to its outcome.",
      ngx_http_vd_durations },

    { "vd_request_bytes_total", "counter",
      "Bytes of the bodies that were attempted.", ngx_http_vd_bytes },

    { "vd_last_delivered_timestamp_seconds", "gauge",
      "Unix time of the last delivery, 0 if there was none.",
      ngx_http_vd_last_delivered },

    { NULL, NULL, NULL, NULL }
};


char *
ngx_http_vd_status(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_core_loc_conf_t  *clcf;
    ngx_http_vd_main_conf_t   *vmcf;

    clcf = ngx_http_conf_get_module_loc_conf(cf, ngx_http_core_module);

    if (clcf->handler == ngx_http_vd_status_handler) {
        return "is duplicate";
    }

    clcf->handler = ngx_http_vd_status_handler;

    vmcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_vd_module);

    if (vmcf->status_file == NULL) {
        vmcf->status_file = cf->conf_file->file.name.data;
        vmcf->status_line = cf->conf_file->line;
    }

    return NGX_CONF_OK;
}


static ngx_int_t
ngx_http_vd_status_handler(ngx_http_request_t *r)
{
    ngx_int_t                 rc;
    ngx_buf_t                *b;
    ngx_uint_t                json;
    ngx_chain_t               out;
    ngx_http_vd_main_conf_t  *vmcf;

    if (!(r->method & (NGX_HTTP_GET|NGX_HTTP_HEAD))) {
        return (ngx_http_vd_allow(r, "GET, HEAD") == NGX_OK)
               ? NGX_HTTP_NOT_ALLOWED : NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    rc = ngx_http_discard_request_body(r);

    if (rc != NGX_OK) {
        return rc;
    }

    vmcf = ngx_http_get_module_main_conf(r, ngx_http_vd_module);
    json = ngx_http_vd_wants_json(r);

    ngx_http_vd_zone_free_dead(vmcf->shared);

    b = json ? ngx_http_vd_status_json(r, vmcf)
             : ngx_http_vd_status_text(r, vmcf);

    if (b == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    if (json) {
        ngx_str_set(&r->headers_out.content_type, "application/json");
        r->headers_out.content_type_len = sizeof("application/json") - 1;

    } else {
        ngx_str_set(&r->headers_out.content_type,
                    "text/plain; version=0.0.4; charset=utf-8");
        r->headers_out.content_type_len = sizeof("text/plain") - 1;
    }

    r->headers_out.status = NGX_HTTP_OK;
    r->headers_out.content_length_n = b->last - b->pos;

    rc = ngx_http_send_header(r);

    if (rc == NGX_ERROR || rc > NGX_OK || r->header_only) {
        return rc;
    }

    b->last_buf = (r == r->main) ? 1 : 0;
    b->last_in_chain = 1;

    out.buf = b;
    out.next = NULL;

    return ngx_http_output_filter(r, &out);
}


static ngx_uint_t
ngx_http_vd_wants_json(ngx_http_request_t *r)
{
    ngx_str_t         value;
    ngx_uint_t        i;
    ngx_list_part_t  *part;
    ngx_table_elt_t  *header;

    if (ngx_http_arg(r, (u_char *) "format", 6, &value) == NGX_OK) {
        return value.len == 4 && ngx_strncmp(value.data, "json", 4) == 0;
    }

    for (part = &r->headers_in.headers.part; part; part = part->next) {
        header = part->elts;

        for (i = 0; i < part->nelts; i++) {

            if (header[i].key.len == sizeof("Accept") - 1
                && ngx_strncasecmp(header[i].key.data, (u_char *) "Accept", 6)
                   == 0)
            {
                return ngx_strlcasestrn(header[i].value.data,
                                        header[i].value.data
                                        + header[i].value.len,
                                        (u_char *) "application/json",
                                        sizeof("application/json") - 2)
                       != NULL;
            }
        }
    }

    return 0;
}


static ngx_buf_t *
ngx_http_vd_status_text(ngx_http_request_t *r, ngx_http_vd_main_conf_t *vmcf)
{
    size_t                       size;
    ngx_buf_t                   *b;
    ngx_http_vd_page_t           page;
    const ngx_http_vd_metric_t  *metric;

    size = ngx_http_vd_status_size(vmcf);

    b = ngx_create_temp_buf(r->pool, size);
    if (b == NULL) {
        return NULL;
    }

    page.last = b->last;
    page.end = b->end;
    page.conf = vmcf;

    for (metric = ngx_http_vd_metrics; metric->name; metric++) {
        ngx_http_vd_metric(&page, metric);
    }

    ngx_http_vd_journal_metrics(&page);

    ngx_http_vd_print(&page,
                      "# HELP vd_build_info What was built for what.\n"
                      "# TYPE vd_build_info gauge\n"
                      "vd_build_info{version=\"%s\",nginx=\"%s\"} 1\n",
                      NGX_HTTP_VD_VERSION, NGINX_VERSION);

    b->last = page.last;

    return b;
}


static size_t
ngx_http_vd_status_size(ngx_http_vd_main_conf_t *vmcf)
{
    size_t                  size;
    ngx_uint_t              i;
    ngx_http_vd_output_t  **outputs;

    size = NGX_HTTP_VD_GLOBAL_SIZE;
    outputs = vmcf->outputs.elts;

    for (i = 0; i < vmcf->outputs.nelts; i++) {
        size += NGX_HTTP_VD_LINES * (NGX_HTTP_VD_LINE + outputs[i]->id.len)
                + VD_REASON_LAST * 2 * outputs[i]->label.len;
    }

    return size;
}


static void
ngx_http_vd_metric(ngx_http_vd_page_t *page,
    const ngx_http_vd_metric_t *metric)
{
    ngx_uint_t              i;
    ngx_http_vd_output_t  **outputs;

    ngx_http_vd_print(page, "# HELP %s %s\n# TYPE %s %s\n", metric->name,
                      metric->help, metric->name, metric->type);

    outputs = page->conf->outputs.elts;

    for (i = 0; i < page->conf->outputs.nelts; i++) {
        metric->lines(page, outputs[i]);
    }
}


static void
ngx_http_vd_attempts(ngx_http_vd_page_t *page, ngx_http_vd_output_t *output)
{
    ngx_uint_t  i;

    ngx_http_vd_attempts_line(page, output, "delivered", "",
                              output->counters->delivered);

    for (i = VD_REASON_NONE + 1; i < VD_REASON_LAST; i++) {
        ngx_http_vd_attempts_line(page, output, "failed", vd_reason_name(i),
                                  output->counters->failed[i]);
    }
}


static void
ngx_http_vd_attempts_line(ngx_http_vd_page_t *page,
    ngx_http_vd_output_t *output, const char *outcome, const char *reason,
    ngx_atomic_uint_t n)
{
    ngx_http_vd_print(page, "vd_attempts_total{output=\"%V\",label=\"",
                      &output->id);
    ngx_http_vd_print_label(page, &output->label);
    ngx_http_vd_print(page, "\",outcome=\"%s\",reason=\"%s\"} %uA\n",
                      outcome, reason, n);
}


static void
ngx_http_vd_responses(ngx_http_vd_page_t *page, ngx_http_vd_output_t *output)
{
    ngx_uint_t  i;

    for (i = 0; i < NGX_HTTP_VD_CLASSES; i++) {
        ngx_http_vd_print(page, "vd_responses_total{output=\"%V\","
                                "class=\"%uixx\"} %uA\n",
                          &output->id, i + 2, output->counters->responses[i]);
    }
}


static void
ngx_http_vd_tickets(ngx_http_vd_page_t *page, ngx_http_vd_output_t *output)
{
    ngx_uint_t  i;

    for (i = 0; i < NGX_HTTP_VD_TICKETS; i++) {
        ngx_http_vd_print(page, "vd_ticket_ids_total{output=\"%V\","
                                "result=\"%s\"} %uA\n",
                          &output->id, ngx_http_vd_ticket_results[i],
                          output->counters->tickets[i]);
    }
}


static void
ngx_http_vd_flights(ngx_http_vd_page_t *page, ngx_http_vd_output_t *output)
{
    ngx_http_vd_print(page, "vd_in_flight{output=\"%V\"} %ui\n",
                      &output->id,
                      ngx_http_vd_in_flight(output->counters));
}


static void
ngx_http_vd_durations(ngx_http_vd_page_t *page, ngx_http_vd_output_t *output)
{
    ngx_http_vd_histogram(page, "vd_attempt_duration_seconds", &output->id,
                          &output->counters->durations);
}


static void
ngx_http_vd_bytes(ngx_http_vd_page_t *page, ngx_http_vd_output_t *output)
{
    ngx_http_vd_print(page, "vd_request_bytes_total{output=\"%V\"} %uA\n",
                      &output->id, output->counters->request_bytes);
}


static void
ngx_http_vd_last_delivered(ngx_http_vd_page_t *page,
    ngx_http_vd_output_t *output)
{
    ngx_http_vd_print(page, "vd_last_delivered_timestamp_seconds"
                            "{output=\"%V\"} %uA\n",
                      &output->id, output->counters->last_delivered);
}


static void
ngx_http_vd_journal_metrics(ngx_http_vd_page_t *page)
{
    uint64_t                         bytes;
    ngx_http_vd_journal_counters_t  *counters;

    counters = ngx_http_vd_journal_counters(page->conf->shared);

    ngx_http_vd_print(page,
        "# HELP vd_journal_records_total Records written.\n"
        "# TYPE vd_journal_records_total counter\n"
        "vd_journal_records_total %uA\n"
        "# HELP vd_journal_bytes_total Bytes of the records written.\n"
        "# TYPE vd_journal_bytes_total counter\n"
        "vd_journal_bytes_total %uA\n"
        "# HELP vd_journal_syncs_total Groups of records synced to disk.\n"
        "# TYPE vd_journal_syncs_total counter\n"
        "vd_journal_syncs_total %uA\n"
        "# HELP vd_journal_errors_total "
        "Failures to write a group of records, or to take one.\n"
        "# TYPE vd_journal_errors_total counter\n"
        "vd_journal_errors_total %uA\n"
        "# HELP vd_journal_sync_duration_seconds "
        "Time to write a group of records and sync it.\n"
        "# TYPE vd_journal_sync_duration_seconds histogram\n",
        counters->records, counters->bytes, counters->syncs,
        counters->errors);

    ngx_http_vd_histogram(page, "vd_journal_sync_duration_seconds", NULL,
                          &counters->sync_durations);

    if (ngx_http_vd_free_bytes(page->conf, &bytes) == NGX_OK) {
        ngx_http_vd_print(page,
            "# HELP vd_journal_free_bytes "
            "Space left for the journal, of several the least.\n"
            "# TYPE vd_journal_free_bytes gauge\n"
            "vd_journal_free_bytes %uL\n", bytes);
    }
}


static void
ngx_http_vd_histogram(ngx_http_vd_page_t *page, const char *name,
    ngx_str_t *output, ngx_http_vd_histogram_t *histogram)
{
    ngx_str_t           label, none;
    ngx_uint_t          i;
    ngx_atomic_uint_t   n, sum;
    u_char              buf[VD_OUTPUT_ID_MAX + sizeof("output=\"\",")];

    ngx_str_set(&none, "");

    label.data = buf;
    label.len = output ? ngx_sprintf(buf, "output=\"%V\",", output) - buf : 0;

    n = 0;

    for (i = 0; i < NGX_HTTP_VD_BUCKETS; i++) {
        n += histogram->buckets[i];

        ngx_http_vd_print(page, "%s_bucket{%Vle=\"%s\"} %uA\n",
                          name, &label, ngx_http_vd_buckets[i].le, n);
    }

    n += histogram->buckets[i];
    sum = histogram->sum;

    ngx_http_vd_print(page, "%s_bucket{%Vle=\"+Inf\"} %uA\n",
                      name, &label, n);

    if (output) {
        /* the braces, and no comma before the closing one */
        label.len = ngx_sprintf(buf, "{output=\"%V\"}", output) - buf;

    } else {
        label = none;
    }

    ngx_http_vd_print(page, "%s_sum%V %uA.%06uA\n%s_count%V %uA\n",
                      name, &label, sum / 1000000, sum % 1000000,
                      name, &label, n);
}


static void
ngx_http_vd_print(ngx_http_vd_page_t *page, const char *fmt, ...)
{
    va_list  args;

    va_start(args, fmt);
    page->last = ngx_vslprintf(page->last, page->end, fmt, args);
    va_end(args);
}


/* as the text format has it; an output's label is printable */

static void
ngx_http_vd_print_label(ngx_http_vd_page_t *page, ngx_str_t *value)
{
    size_t  i;

    for (i = 0; i < value->len && page->end - page->last >= 2; i++) {

        if (value->data[i] == '"' || value->data[i] == '\\') {
            *page->last++ = '\\';
        }

        *page->last++ = value->data[i];
    }
}


ngx_int_t
ngx_http_vd_free_bytes(ngx_http_vd_main_conf_t *vmcf, uint64_t *bytes)
{
    uint64_t                 n;
    ngx_int_t                rc;
    ngx_uint_t               i;
    struct statvfs           fs;
    ngx_http_vd_journal_t  **journals;

    rc = NGX_DECLINED;
    journals = vmcf->journals.elts;

    for (i = 0; i < vmcf->journals.nelts; i++) {

        if (statvfs((char *) journals[i]->dir.data, &fs) != 0) {
            continue;
        }

        n = (uint64_t) fs.f_bavail * fs.f_frsize;

        if (rc == NGX_DECLINED || n < *bytes) {
            *bytes = n;
        }

        rc = NGX_OK;
    }

    return rc;
}
