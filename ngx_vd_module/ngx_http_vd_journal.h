
/*
 * Copyright (C) The ngx_vd_module authors
 *
 * The journal of a worker: records are appended in memory, and written in
 * groups, each with one write and one sync, in a thread.
 */


#ifndef _NGX_HTTP_VD_JOURNAL_H_INCLUDED_
#define _NGX_HTTP_VD_JOURNAL_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>

#include "vd_record.h"
#include "vd_segment.h"


typedef struct ngx_http_vd_writer_s  ngx_http_vd_writer_t;


typedef struct {
    ngx_str_t                 dir;
    size_t                    segment;       /* bytes of each */
    ngx_flag_t                sync;
    ngx_flag_t                bodies;        /* of all records */
    ngx_thread_pool_t        *thread_pool;   /* with sync */
    ngx_uint_t                threads;       /* it has some */
    u_char                   *file;
    ngx_uint_t                line;

    ngx_http_vd_writer_t     *writer;        /* this process's, if any */
} ngx_http_vd_journal_t;


/*
 * Whoever waits for a record; lies in memory of its own and unlinks itself
 * (ngx_http_vd_journal_forget()) when that goes away first.
 */

typedef struct {
    ngx_queue_t               queue;
    void                    (*handler)(void *data, ngx_uint_t written);
    void                     *data;
    unsigned                  waiting:1;
} ngx_http_vd_waiter_t;


char *ngx_http_vd_journal(ngx_conf_t *cf, ngx_command_t *cmd, void *conf);

/* For each process that may deliver, once its threads have been started. */
void ngx_http_vd_journal_init_process(ngx_array_t *journals);

/*
 * Appends a record, of which nothing is referred to afterwards.  NGX_OK: the
 * waiter's handler will be called, from the event loop and not before this
 * returns, once the record is written (with sync: on disk) or has failed to
 * be.  NGX_ERROR: it was not taken, since memory is short or the disk is so
 * slow that too much waits already.
 */
ngx_int_t ngx_http_vd_journal_append(ngx_http_vd_journal_t *journal,
    vd_record_t *record, ngx_http_vd_waiter_t *waiter, ngx_log_t *log);

/* A record could not be made: it counts, as one that is not taken does. */
void ngx_http_vd_journal_refuse(void);

void ngx_http_vd_journal_forget(ngx_http_vd_waiter_t *waiter);


#endif /* _NGX_HTTP_VD_JOURNAL_H_INCLUDED_ */
