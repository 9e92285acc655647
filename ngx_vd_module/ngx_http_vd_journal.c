
/*
 * Copyright (C) The ngx_vd_module authors
 *
 * Group commit, as databases do it: while one batch of records is on its way
 * to the disk, the next one fills; no record waits for company.
 */


#include "ngx_http_vd_module.h"


/* what may wait in memory for a slow disk, in bytes */
#define NGX_HTTP_VD_BATCH_MAX   (32 * 1024 * 1024)

/* what is kept of a batch's memory when it is done */
#define NGX_HTTP_VD_BATCH_KEEP  (1024 * 1024)

/* seconds between two complaints */
#define NGX_HTTP_VD_COMPLAIN    60

/* milliseconds; any timer that has not expired will do */
#define NGX_HTTP_VD_ALIVE       60000


typedef struct {
    u_char                   *data;
    size_t                    len;
    size_t                    size;
    ngx_uint_t                records;
    ngx_queue_t               waiters;
} ngx_http_vd_batch_t;


/*
 * A worker's, on the heap: a batch may be on its way while the configuration
 * that it was begun with goes.
 */

struct ngx_http_vd_writer_s {
    ngx_http_vd_batch_t       batches[2];
    ngx_http_vd_batch_t      *filling;
    ngx_http_vd_batch_t      *writing;   /* NULL: none is on its way */

    /* the thread's while a batch is on its way */
    vd_segment_t              segment;
    vd_segment_conf_t         conf;
    int                       rc;
    uint64_t                  duration;  /* microseconds */

    ngx_thread_pool_t        *thread_pool;
    ngx_thread_task_t         task;
    ngx_event_t               turn;      /* at the end of the loop's turn */
    ngx_event_t               alive;     /* keeps a worker that is to exit */
    time_t                    complained;
    unsigned                  orphan:1;  /* its configuration is gone */

    char                      dir[];
};


static ngx_http_vd_writer_t *ngx_http_vd_create_writer(
    ngx_http_vd_journal_t *journal, ngx_log_t *log);
static void ngx_http_vd_close_writer(void *data);
static void ngx_http_vd_destroy_writer(ngx_http_vd_writer_t *writer);
static void ngx_http_vd_empty_batch(ngx_http_vd_batch_t *batch);
static ngx_int_t ngx_http_vd_reserve(ngx_http_vd_batch_t *batch, size_t size,
    ngx_log_t *log);
static void ngx_http_vd_turn_handler(ngx_event_t *ev);
static void ngx_http_vd_start_batch(ngx_http_vd_writer_t *writer);
static void ngx_http_vd_write_batch(void *data, ngx_log_t *log);
static uint64_t ngx_http_vd_microseconds(void);
static void ngx_http_vd_written_handler(ngx_event_t *ev);
static void ngx_http_vd_finish_batch(ngx_http_vd_writer_t *writer);
static void ngx_http_vd_count_batch(ngx_http_vd_writer_t *writer,
    ngx_http_vd_batch_t *batch);
static ngx_http_vd_journal_counters_t *ngx_http_vd_writer_counters(void);
static void ngx_http_vd_complain(ngx_http_vd_writer_t *writer,
    const char *what, ngx_err_t err);
static void ngx_http_vd_alive_handler(ngx_event_t *ev);


ngx_int_t
ngx_http_vd_journal_append(ngx_http_vd_journal_t *journal,
    vd_record_t *record, ngx_http_vd_waiter_t *waiter, ngx_log_t *log)
{
    size_t                 size;
    ngx_http_vd_batch_t   *batch;
    ngx_http_vd_writer_t  *writer;

    if (journal->sync && !journal->threads) {
        ngx_log_error(NGX_LOG_CRIT, log, 0,
                      "journal \"%V\": a single process cannot reload with "
                      "sync=on, records are refused until it is restarted",
                      &journal->dir);
        ngx_http_vd_journal_refuse();
        return NGX_ERROR;
    }

    if (journal->writer == NULL) {
        journal->writer = ngx_http_vd_create_writer(journal, log);

        if (journal->writer == NULL) {
            ngx_http_vd_journal_refuse();
            return NGX_ERROR;
        }
    }

    writer = journal->writer;
    batch = writer->filling;
    size = vd_record_size(record);

    /* a single record may be larger, as large as client_max_body_size */

    if (batch->len && batch->len + size > NGX_HTTP_VD_BATCH_MAX) {
        ngx_http_vd_complain(writer, "keeping up with deliveries", 0);
        return NGX_ERROR;
    }

    if (ngx_http_vd_reserve(batch, batch->len + size, log) != NGX_OK) {
        ngx_http_vd_complain(writer, "allocating memory", 0);
        return NGX_ERROR;
    }

    batch->len += vd_record_write(record, batch->data + batch->len);
    batch->records++;

    ngx_queue_insert_tail(&batch->waiters, &waiter->queue);
    waiter->waiting = 1;

    if (writer->writing == NULL && !writer->turn.posted) {
        ngx_post_event(&writer->turn, &ngx_posted_events);
    }

    return NGX_OK;
}


/*
 * Workers, and a single process, have just started their threads.  A single
 * process that reloads does not start those of its new configuration.
 */

void
ngx_http_vd_journal_init_process(ngx_array_t *journals)
{
    ngx_uint_t                i;
    ngx_http_vd_journal_t   **journal;

    journal = journals->elts;

    for (i = 0; i < journals->nelts; i++) {
        journal[i]->threads = 1;
    }
}


void
ngx_http_vd_journal_refuse(void)
{
    ngx_http_vd_journal_counters_t  *counters;

    counters = ngx_http_vd_writer_counters();

    if (counters) {
        (void) ngx_atomic_fetch_add(&counters->errors, 1);
    }
}


void
ngx_http_vd_journal_forget(ngx_http_vd_waiter_t *waiter)
{
    if (waiter->waiting) {
        ngx_queue_remove(&waiter->queue);
        waiter->waiting = 0;
    }
}


static ngx_int_t
ngx_http_vd_reserve(ngx_http_vd_batch_t *batch, size_t size, ngx_log_t *log)
{
    u_char  *data;

    if (size <= batch->size) {
        return NGX_OK;
    }

    size = ngx_max(size, 2 * batch->size);

    data = ngx_alloc(size, log);
    if (data == NULL) {
        return NGX_ERROR;
    }

    if (batch->data) {
        ngx_memcpy(data, batch->data, batch->len);
        ngx_free(batch->data);
    }

    batch->data = data;
    batch->size = size;

    return NGX_OK;
}


/*
 * Made by the first record: processes that deliver nothing, such as the cache
 * manager, have no writer.
 */

static ngx_http_vd_writer_t *
ngx_http_vd_create_writer(ngx_http_vd_journal_t *journal, ngx_log_t *log)
{
    ngx_uint_t             i;
    ngx_pool_cleanup_t    *cln;
    ngx_http_vd_writer_t  *writer;

    cln = ngx_pool_cleanup_add(ngx_cycle->pool, 0);
    if (cln == NULL) {
        return NULL;
    }

    writer = ngx_calloc(sizeof(ngx_http_vd_writer_t) + journal->dir.len + 1,
                        log);
    if (writer == NULL) {
        return NULL;
    }

    ngx_memcpy(writer->dir, journal->dir.data, journal->dir.len);

    writer->conf.dir = writer->dir;
    writer->conf.dir_len = journal->dir.len;
    writer->conf.limit = journal->segment;
    writer->conf.sync = journal->sync;

    writer->thread_pool = journal->thread_pool;

    for (i = 0; i < 2; i++) {
        ngx_queue_init(&writer->batches[i].waiters);
    }

    writer->filling = &writer->batches[0];

    vd_segment_init(&writer->segment);

    writer->turn.handler = ngx_http_vd_turn_handler;
    writer->turn.data = writer;
    writer->turn.log = ngx_cycle->log;

    writer->alive.handler = ngx_http_vd_alive_handler;
    writer->alive.data = writer;
    writer->alive.log = ngx_cycle->log;

    writer->task.ctx = writer;
    writer->task.handler = ngx_http_vd_write_batch;
    writer->task.event.handler = ngx_http_vd_written_handler;
    writer->task.event.data = writer;
    writer->task.event.log = ngx_cycle->log;

    cln->handler = ngx_http_vd_close_writer;
    cln->data = writer;

    return writer;
}


/*
 * The worker exits, and its threads have been waited for; or, in a single
 * process, the configuration was replaced while one may be at work.
 */

static void
ngx_http_vd_close_writer(void *data)
{
    ngx_http_vd_writer_t *writer = data;

    if (writer->writing && !ngx_terminate && !ngx_exiting && !ngx_quit) {
        writer->orphan = 1;
        return;
    }

    ngx_http_vd_destroy_writer(writer);
}


static void
ngx_http_vd_destroy_writer(ngx_http_vd_writer_t *writer)
{
    ngx_uint_t  i;

    if (writer->turn.posted) {
        ngx_delete_posted_event(&writer->turn);
    }

    if (writer->alive.timer_set) {
        ngx_del_timer(&writer->alive);
    }

    if (vd_segment_close(&writer->segment, &writer->conf) != 0) {
        ngx_http_vd_complain(writer, writer->segment.failed,
                             writer->segment.error);
    }

    for (i = 0; i < 2; i++) {
        if (writer->batches[i].data) {
            ngx_free(writer->batches[i].data);
        }
    }

    ngx_free(writer);
}


static void
ngx_http_vd_turn_handler(ngx_event_t *ev)
{
    ngx_http_vd_writer_t *writer = ev->data;

    if (writer->writing == NULL && writer->filling->records) {
        ngx_http_vd_start_batch(writer);
    }
}


static void
ngx_http_vd_start_batch(ngx_http_vd_writer_t *writer)
{
    writer->writing = writer->filling;
    writer->filling = (writer->writing == &writer->batches[0])
                      ? &writer->batches[1] : &writer->batches[0];

    if (!writer->conf.sync) {
        ngx_http_vd_write_batch(writer, ngx_cycle->log);
        ngx_http_vd_finish_batch(writer);
        return;
    }

    /* an event method without notifications would never tell of the end */

    if (ngx_event_actions.notify == NULL
        || ngx_thread_task_post(writer->thread_pool, &writer->task)
           != NGX_OK)
    {
        writer->rc = NGX_ERROR;
        writer->segment.failed = "handing it to a thread";
        writer->segment.error = 0;

        ngx_http_vd_finish_batch(writer);
        return;
    }

    ngx_add_timer(&writer->alive, NGX_HTTP_VD_ALIVE);
}


/* In a thread, with sync: touches the writer's segment and batch only. */

static void
ngx_http_vd_write_batch(void *data, ngx_log_t *log)
{
    ngx_http_vd_writer_t *writer = data;

    uint64_t              start;
    ngx_http_vd_batch_t  *batch;

    batch = writer->writing;
    start = ngx_http_vd_microseconds();

    writer->rc = vd_segment_append(&writer->segment, &writer->conf,
                                   batch->data, batch->len, batch->records);

    writer->duration = ngx_http_vd_microseconds() - start;
}


static uint64_t
ngx_http_vd_microseconds(void)
{
    struct timespec  ts;

    (void) clock_gettime(CLOCK_MONOTONIC, &ts);

    return (uint64_t) ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}


static void
ngx_http_vd_written_handler(ngx_event_t *ev)
{
    ngx_http_vd_writer_t *writer = ev->data;

    ngx_del_timer(&writer->alive);

    ngx_http_vd_finish_batch(writer);
}


/*
 * The next batch is begun before the waiters of this one are called: the disk
 * is not to wait for them.
 */

static void
ngx_http_vd_finish_batch(ngx_http_vd_writer_t *writer)
{
    ngx_uint_t             written;
    ngx_queue_t           *q, waiters;
    ngx_http_vd_batch_t   *batch;
    ngx_http_vd_waiter_t  *waiter;

    batch = writer->writing;
    written = (writer->rc == 0);

    if (written) {
        ngx_http_vd_count_batch(writer, batch);

    } else {
        ngx_http_vd_complain(writer, writer->segment.failed,
                             writer->segment.error);
    }

    ngx_queue_init(&waiters);

    if (!ngx_queue_empty(&batch->waiters)) {
        ngx_queue_add(&waiters, &batch->waiters);
        ngx_queue_init(&batch->waiters);
    }

    ngx_http_vd_empty_batch(batch);
    writer->writing = NULL;

    if (writer->filling->records && !writer->turn.posted) {
        ngx_post_event(&writer->turn, &ngx_posted_events);
    }

    while (!ngx_queue_empty(&waiters)) {
        q = ngx_queue_head(&waiters);
        waiter = ngx_queue_data(q, ngx_http_vd_waiter_t, queue);

        ngx_http_vd_journal_forget(waiter);

        waiter->handler(waiter->data, written);
    }

    if (writer->orphan && writer->writing == NULL) {
        ngx_http_vd_destroy_writer(writer);
    }
}


static void
ngx_http_vd_count_batch(ngx_http_vd_writer_t *writer,
    ngx_http_vd_batch_t *batch)
{
    ngx_http_vd_journal_counters_t  *counters;

    counters = ngx_http_vd_writer_counters();

    if (counters == NULL) {
        return;
    }

    (void) ngx_atomic_fetch_add(&counters->records, batch->records);
    (void) ngx_atomic_fetch_add(&counters->bytes, batch->len);

    if (writer->conf.sync) {
        (void) ngx_atomic_fetch_add(&counters->syncs, 1);
        ngx_http_vd_histogram_add(&counters->sync_durations,
                                  writer->duration);
    }
}


/* NULL: there is no zone, or no configuration any more in a worker's exit. */

static ngx_http_vd_journal_counters_t *
ngx_http_vd_writer_counters(void)
{
    ngx_http_vd_main_conf_t  *vmcf;

    if (ngx_cycle->conf_ctx == NULL) {
        return NULL;
    }

    vmcf = ngx_http_cycle_get_module_main_conf(ngx_cycle, ngx_http_vd_module);

    return (vmcf && vmcf->shared) ? ngx_http_vd_journal_counters(vmcf->shared)
                                  : NULL;
}


/* A rare large batch does not keep its memory. */

static void
ngx_http_vd_empty_batch(ngx_http_vd_batch_t *batch)
{
    if (batch->size > NGX_HTTP_VD_BATCH_KEEP) {
        ngx_free(batch->data);

        batch->data = NULL;
        batch->size = 0;
    }

    batch->len = 0;
    batch->records = 0;
}


static void
ngx_http_vd_complain(ngx_http_vd_writer_t *writer, const char *what,
    ngx_err_t err)
{
    ngx_http_vd_journal_refuse();

    if (writer->complained
        && ngx_time() - writer->complained < NGX_HTTP_VD_COMPLAIN)
    {
        return;
    }

    writer->complained = ngx_time();

    ngx_log_error(NGX_LOG_CRIT, ngx_cycle->log, err,
                  "journal \"%s\": %s failed, records are refused",
                  writer->dir, what);
}


static void
ngx_http_vd_alive_handler(ngx_event_t *ev)
{
    ngx_add_timer(ev, NGX_HTTP_VD_ALIVE);
}
