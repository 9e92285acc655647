
/*
 * Copyright (C) The ngx_vd_module authors
 *
 * Counters in shared memory: updated with atomic additions, never locked, and
 * kept over reloads and the deaths of workers.
 */


#ifndef _NGX_HTTP_VD_ZONE_H_INCLUDED_
#define _NGX_HTTP_VD_ZONE_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>

#include "vd_outcome.h"


/* of a histogram, and one more for all above */
#define NGX_HTTP_VD_BUCKETS   13

/* 2xx to 5xx */
#define NGX_HTTP_VD_CLASSES   4

/* workers at a time, those of former configurations included */
#define NGX_HTTP_VD_WORKERS   128


/* All that is in the zone, and an output's place in it. */
typedef struct ngx_http_vd_shared_s  ngx_http_vd_shared_t;
typedef struct ngx_http_vd_node_s  ngx_http_vd_node_t;


typedef struct {
    ngx_atomic_t              buckets[NGX_HTTP_VD_BUCKETS + 1];
    ngx_atomic_t              sum;  /* microseconds */
} ngx_http_vd_histogram_t;


typedef enum {
    NGX_HTTP_VD_TICKET_FOUND = 0,
    NGX_HTTP_VD_TICKET_NONE,
    NGX_HTTP_VD_TICKET_REJECTED,
    NGX_HTTP_VD_TICKETS
} ngx_http_vd_ticket_result_e;


typedef struct {
    ngx_atomic_t              delivered;
    ngx_atomic_t              failed[VD_REASON_LAST];
    ngx_atomic_t              responses[NGX_HTTP_VD_CLASSES];
    ngx_atomic_t              tickets[NGX_HTTP_VD_TICKETS];
    ngx_atomic_t              request_bytes;
    ngx_atomic_t              last_delivered;  /* Unix seconds, 0: never */
    ngx_http_vd_histogram_t   durations;

    /* the last: each worker's share is its own, and dies with it */
    ngx_atomic_t              in_flight[NGX_HTTP_VD_WORKERS];
} ngx_http_vd_counters_t;


typedef struct {
    ngx_atomic_t              records;
    ngx_atomic_t              bytes;
    ngx_atomic_t              syncs;
    ngx_atomic_t              errors;
    ngx_http_vd_histogram_t   sync_durations;
} ngx_http_vd_journal_counters_t;


/* A bucket's upper bound, and the same in seconds. */

typedef struct {
    ngx_msec_t                msec;
    const char               *le;
} ngx_http_vd_bucket_t;


extern const ngx_http_vd_bucket_t  ngx_http_vd_buckets[NGX_HTTP_VD_BUCKETS];


char *ngx_http_vd_zone(ngx_conf_t *cf, ngx_command_t *cmd, void *conf);

/* Takes a share of vd_in_flight for this process, freeing those of the dead. */
void ngx_http_vd_zone_init_process(ngx_http_vd_shared_t *shared,
    ngx_log_t *log);

void ngx_http_vd_histogram_add(ngx_http_vd_histogram_t *histogram,
    uint64_t microseconds);

/* counters may be NULL: then there is no zone */
void ngx_http_vd_count_start(ngx_http_vd_counters_t *counters);
void ngx_http_vd_count_end(ngx_http_vd_counters_t *counters);
ngx_uint_t ngx_http_vd_in_flight(ngx_http_vd_counters_t *counters);

/* What was in flight in a worker that is gone is so no more. */
void ngx_http_vd_zone_free_dead(ngx_http_vd_shared_t *shared);

ngx_http_vd_journal_counters_t *ngx_http_vd_journal_counters(
    ngx_http_vd_shared_t *shared);


#endif /* _NGX_HTTP_VD_ZONE_H_INCLUDED_ */
