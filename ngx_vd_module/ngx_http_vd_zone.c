
/*
 * Copyright (C) The ngx_vd_module authors
 */


#include "ngx_http_vd_module.h"


/*
 * An output's place.  It is taken by a configuration that may yet fail, while
 * the old one goes on counting, and used by one that is in force.
 */
#define NGX_HTTP_VD_NODE_FREE   0
#define NGX_HTTP_VD_NODE_TAKEN  1
#define NGX_HTTP_VD_NODE_USED   2

/* in place of a pid: a worker's share that is being freed */
#define NGX_HTTP_VD_FREEING     ((ngx_atomic_uint_t) -1)


/* All of one size, so that any can be used again. */

struct ngx_http_vd_node_s {
    ngx_http_vd_node_t              *next;
    ngx_uint_t                       state;
    size_t                           len;
    u_char                           id[VD_OUTPUT_ID_MAX];
    ngx_http_vd_counters_t           counters;
};


struct ngx_http_vd_shared_s {
    ngx_http_vd_node_t              *nodes;
    ngx_atomic_t                     workers[NGX_HTTP_VD_WORKERS];  /* pids */
    ngx_http_vd_journal_counters_t   journal;
};


static ngx_int_t ngx_http_vd_init_zone(ngx_shm_zone_t *zone, void *data);
static ngx_http_vd_shared_t *ngx_http_vd_zone_shared(ngx_shm_zone_t *zone,
    ngx_http_vd_main_conf_t *old);
static ngx_http_vd_node_t *ngx_http_vd_zone_find(
    ngx_http_vd_shared_t *shared, ngx_str_t *id);
static ngx_http_vd_node_t *ngx_http_vd_zone_add(ngx_slab_pool_t *pool,
    ngx_http_vd_shared_t *shared, ngx_str_t *id);
static void ngx_http_vd_zone_take(ngx_http_vd_node_t *node);
static size_t ngx_http_vd_zone_enough(ngx_uint_t outputs);
static ngx_uint_t ngx_http_vd_alive(ngx_uint_t share, ngx_atomic_uint_t pid);


const ngx_http_vd_bucket_t  ngx_http_vd_buckets[NGX_HTTP_VD_BUCKETS] = {
    { 5, "0.005" }, { 10, "0.01" }, { 25, "0.025" }, { 50, "0.05" },
    { 100, "0.1" }, { 250, "0.25" }, { 500, "0.5" }, { 1000, "1" },
    { 2500, "2.5" }, { 5000, "5" }, { 10000, "10" }, { 30000, "30" },
    { 60000, "60" }
};


/* this worker's share; none before the worker is initialized */
static ngx_int_t  ngx_http_vd_share = NGX_ERROR;


char *
ngx_http_vd_zone(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_vd_main_conf_t *vmcf = conf;

    ssize_t     size;
    ngx_str_t  *value;

    if (vmcf->zone) {
        return "is duplicate";
    }

    value = cf->args->elts;

    if (value[1].len == 0) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid name \"\" in \"vd_zone\" directive");
        return NGX_CONF_ERROR;
    }

    size = ngx_parse_size(&value[2]);

    if (size == NGX_ERROR) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid size \"%V\" in \"vd_zone\" directive",
                           &value[2]);
        return NGX_CONF_ERROR;
    }

    if (size < (ssize_t) (8 * ngx_pagesize)) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "zone \"%V\" is too small in \"vd_zone\" directive, "
                           "%uz is enough for one output", &value[1],
                           ngx_http_vd_zone_enough(1));
        return NGX_CONF_ERROR;
    }

    vmcf->zone = ngx_shared_memory_add(cf, &value[1], size,
                                       &ngx_http_vd_module);
    if (vmcf->zone == NULL) {
        return NGX_CONF_ERROR;
    }

    if (vmcf->zone->data) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "duplicate zone \"%V\"",
                           &value[1]);
        return NGX_CONF_ERROR;
    }

    vmcf->zone->init = ngx_http_vd_init_zone;
    vmcf->zone->data = vmcf;

    return NGX_CONF_OK;
}


/*
 * Outputs that were there before keep their counters.  The places of those
 * that are gone stay, since workers of the old configuration still count in
 * them, and are used again when there is no other.
 */

static ngx_int_t
ngx_http_vd_init_zone(ngx_shm_zone_t *zone, void *data)
{
    ngx_uint_t                i;
    ngx_slab_pool_t          *pool;
    ngx_http_vd_node_t       *node;
    ngx_http_vd_shared_t     *shared;
    ngx_http_vd_output_t    **outputs;
    ngx_http_vd_main_conf_t  *vmcf;

    vmcf = zone->data;
    pool = (ngx_slab_pool_t *) zone->shm.addr;
    outputs = vmcf->outputs.elts;

    shared = ngx_http_vd_zone_shared(zone, data);
    if (shared == NULL) {
        goto failed;
    }

    for (node = shared->nodes; node; node = node->next) {
        if (node->state == NGX_HTTP_VD_NODE_TAKEN) {
            node->state = NGX_HTTP_VD_NODE_FREE;
        }
    }

    for (i = 0; i < vmcf->outputs.nelts; i++) {
        outputs[i]->node = ngx_http_vd_zone_find(shared, &outputs[i]->id);
    }

    for (i = 0; i < vmcf->outputs.nelts; i++) {

        if (outputs[i]->node == NULL) {
            outputs[i]->node = ngx_http_vd_zone_add(pool, shared,
                                                    &outputs[i]->id);
        }

        if (outputs[i]->node == NULL) {
            goto failed;
        }

        outputs[i]->counters = &outputs[i]->node->counters;
    }

    vmcf->shared = shared;

    return NGX_OK;

failed:

    ngx_log_error(NGX_LOG_EMERG, zone->shm.log, 0,
                  "zone \"%V\" is too small in \"vd_zone\" directive, "
                  "%uz is enough for %ui outputs", &zone->shm.name,
                  ngx_http_vd_zone_enough(vmcf->outputs.nelts),
                  vmcf->outputs.nelts);
    return NGX_ERROR;
}


/* The configuration is in force: what it does not use is free. */

void
ngx_http_vd_zone_commit(ngx_http_vd_main_conf_t *vmcf)
{
    ngx_uint_t              i;
    ngx_http_vd_node_t     *node;
    ngx_http_vd_output_t  **outputs;

    if (vmcf->shared == NULL) {
        return;
    }

    for (node = vmcf->shared->nodes; node; node = node->next) {
        node->state = NGX_HTTP_VD_NODE_FREE;
    }

    outputs = vmcf->outputs.elts;

    for (i = 0; i < vmcf->outputs.nelts; i++) {
        outputs[i]->node->state = NGX_HTTP_VD_NODE_USED;
    }
}


/* The zone's contents: those of the old configuration, or new ones. */

static ngx_http_vd_shared_t *
ngx_http_vd_zone_shared(ngx_shm_zone_t *zone, ngx_http_vd_main_conf_t *old)
{
    ngx_slab_pool_t       *pool;
    ngx_http_vd_shared_t  *shared;

    if (old) {
        return old->shared;
    }

    pool = (ngx_slab_pool_t *) zone->shm.addr;

    if (zone->shm.exists) {
        return pool->data;
    }

    pool->log_nomem = 0;

    shared = ngx_slab_calloc(pool, sizeof(ngx_http_vd_shared_t));
    pool->data = shared;

    return shared;
}


/* An output that was gone for a while begins anew. */

static ngx_http_vd_node_t *
ngx_http_vd_zone_find(ngx_http_vd_shared_t *shared, ngx_str_t *id)
{
    ngx_http_vd_node_t  *node;

    for (node = shared->nodes; node; node = node->next) {

        if (node->len == id->len
            && ngx_memcmp(node->id, id->data, id->len) == 0)
        {
            if (node->state == NGX_HTTP_VD_NODE_FREE) {
                ngx_http_vd_zone_take(node);
            }

            return node;
        }
    }

    return NULL;
}


static ngx_http_vd_node_t *
ngx_http_vd_zone_add(ngx_slab_pool_t *pool, ngx_http_vd_shared_t *shared,
    ngx_str_t *id)
{
    ngx_http_vd_node_t  *node;

    node = ngx_slab_calloc(pool, sizeof(ngx_http_vd_node_t));

    if (node) {
        node->next = shared->nodes;
        shared->nodes = node;

    } else {

        for (node = shared->nodes; node; node = node->next) {
            if (node->state == NGX_HTTP_VD_NODE_FREE) {
                break;
            }
        }
    }

    if (node) {
        ngx_http_vd_zone_take(node);

        node->len = id->len;
        ngx_memcpy(node->id, id->data, id->len);
    }

    return node;
}


/* What is in flight is each worker's own business, also that of an old one. */

static void
ngx_http_vd_zone_take(ngx_http_vd_node_t *node)
{
    ngx_memzero(&node->counters, offsetof(ngx_http_vd_counters_t, in_flight));

    node->state = NGX_HTTP_VD_NODE_TAKEN;
}


/* A size in which all surely have place: each takes whole pages. */

static size_t
ngx_http_vd_zone_enough(ngx_uint_t outputs)
{
    size_t  node, shared;

    node = ngx_align(sizeof(ngx_http_vd_node_t), ngx_pagesize);
    shared = ngx_align(sizeof(ngx_http_vd_shared_t), ngx_pagesize);

    return ngx_align(8 * ngx_pagesize + shared + outputs * node
                     + outputs * sizeof(ngx_slab_page_t),
                     ngx_pagesize);
}


void
ngx_http_vd_zone_init_process(ngx_http_vd_shared_t *shared, ngx_log_t *log)
{
    ngx_uint_t  i;

    if (shared == NULL) {
        return;
    }

    ngx_http_vd_zone_free_dead(shared);

    for (i = 0; i < NGX_HTTP_VD_WORKERS; i++) {
        if (ngx_atomic_cmp_set(&shared->workers[i], 0, ngx_pid)) {
            ngx_http_vd_share = i;
            return;
        }
    }

    ngx_log_error(NGX_LOG_WARN, log, 0,
                  "more than %d workers, vd_in_flight leaves this one out",
                  NGX_HTTP_VD_WORKERS);
}


void
ngx_http_vd_zone_free_dead(ngx_http_vd_shared_t *shared)
{
    ngx_uint_t           i;
    ngx_atomic_uint_t    pid;
    ngx_http_vd_node_t  *node;

    for (i = 0; i < NGX_HTTP_VD_WORKERS; i++) {
        pid = shared->workers[i];

        if (pid == 0
            || pid == NGX_HTTP_VD_FREEING
            || ngx_http_vd_alive(i, pid)
            || !ngx_atomic_cmp_set(&shared->workers[i], pid,
                                   NGX_HTTP_VD_FREEING))
        {
            continue;
        }

        for (node = shared->nodes; node; node = node->next) {
            node->counters.in_flight[i] = 0;
        }

        shared->workers[i] = 0;
    }
}


static ngx_uint_t
ngx_http_vd_alive(ngx_uint_t share, ngx_atomic_uint_t pid)
{
    if (pid == (ngx_atomic_uint_t) ngx_pid) {
        /* it may also be one of the dead that had the same */
        return (ngx_int_t) share == ngx_http_vd_share;
    }

    return kill((pid_t) pid, 0) == 0 || ngx_errno != NGX_ESRCH;
}


void
ngx_http_vd_count_start(ngx_http_vd_counters_t *counters)
{
    if (counters && ngx_http_vd_share != NGX_ERROR) {
        (void) ngx_atomic_fetch_add(&counters->in_flight[ngx_http_vd_share],
                                    1);
    }
}


void
ngx_http_vd_count_end(ngx_http_vd_counters_t *counters)
{
    if (counters && ngx_http_vd_share != NGX_ERROR) {
        (void) ngx_atomic_fetch_add(&counters->in_flight[ngx_http_vd_share],
                                    -1);
    }
}


ngx_uint_t
ngx_http_vd_in_flight(ngx_http_vd_counters_t *counters)
{
    ngx_uint_t  i, n;

    n = 0;

    for (i = 0; i < NGX_HTTP_VD_WORKERS; i++) {
        n += counters->in_flight[i];
    }

    return n;
}


ngx_http_vd_journal_counters_t *
ngx_http_vd_journal_counters(ngx_http_vd_shared_t *shared)
{
    return &shared->journal;
}


void
ngx_http_vd_histogram_add(ngx_http_vd_histogram_t *histogram,
    uint64_t microseconds)
{
    ngx_uint_t  i;

    for (i = 0; i < NGX_HTTP_VD_BUCKETS; i++) {
        if (microseconds <= ngx_http_vd_buckets[i].msec * 1000) {
            break;
        }
    }

    (void) ngx_atomic_fetch_add(&histogram->buckets[i], 1);
    (void) ngx_atomic_fetch_add(&histogram->sum, microseconds);
}
