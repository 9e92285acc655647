
/*
 * Copyright (C) The ngx_vd_module authors
 */


#ifndef _NGX_HTTP_VD_MODULE_H_INCLUDED_
#define _NGX_HTTP_VD_MODULE_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include "ngx_http_vd_compat.h"
#include "ngx_http_vd_journal.h"
#include "ngx_http_vd_zone.h"
#include "vd_digest.h"
#include "vd_http.h"
#include "vd_id.h"
#include "vd_json.h"
#include "vd_kept.h"
#include "vd_outcome.h"
#include "vd_sign.h"
#include "vd_ticket.h"


#define NGX_HTTP_VD_VERSION     "0.1.0"

#define NGX_HTTP_VD_TICKET_MAX  128

/* RFC 6585, 5 */
#define NGX_HTTP_VD_HEADERS_TOO_LARGE  431

/* vd_ack */
#define NGX_HTTP_VD_ACK_DELIVERY  0
#define NGX_HTTP_VD_ACK_JOURNAL   1


typedef struct {
    ngx_str_t                       id;
    ngx_str_t                       label;
    ngx_http_vd_node_t             *node;      /* NULL without vd_zone */
    ngx_http_vd_counters_t         *counters;
    u_char                         *file;
    ngx_uint_t                      line;
} ngx_http_vd_output_t;


typedef struct {
    ngx_array_t                     outputs;   /* ngx_http_vd_output_t * */
    ngx_array_t                     journals;  /* ngx_http_vd_journal_t * */
    ngx_array_t                     locations; /* ngx_http_vd_loc_conf_t * */
    ngx_shm_zone_t                 *zone;
    ngx_http_vd_shared_t           *shared;    /* in the zone */

    /* of the first vd_status */
    u_char                         *status_file;
    ngx_uint_t                      status_line;
} ngx_http_vd_main_conf_t;


/*
 * A secret is read, made into keys and forgotten.  The scheme "standard" has
 * a key of its own where the secret begins with "whsec_" (NULL if what follows
 * is not base64); else both are the same.
 */

typedef struct {
    vd_key_t                       *plain;
    vd_key_t                       *standard;
    ngx_str_t                       file;
} ngx_http_vd_secret_t;


typedef struct {
    const vd_scheme_t              *scheme;
    vd_signer_t                    *signer;  /* made where there is vd_pass */
    ngx_str_t                       header;
} ngx_http_vd_signature_t;


/* VD_KEPT_NUMBER stands in the value wherever it has $vd_attempt. */

typedef struct {
    ngx_str_t                       name;
    ngx_http_complex_value_t        value;
    ngx_uint_t                      numbers;  /* how many of them it has */
} ngx_http_vd_header_t;


/* A header's value in one attempt. */

typedef struct {
    ngx_str_t                       text;
    ngx_str_t                       sent;      /* empty: not sent */
    unsigned                        numbered:1;
    unsigned                        varies:1;  /* by attempt, as a map of
                                                  $vd_attempt does */
} ngx_http_vd_value_t;


typedef struct {
    ngx_sockaddr_t                  sockaddr;
    socklen_t                       socklen;
    ngx_ssl_session_t              *session;
} ngx_http_vd_session_t;


typedef struct ngx_http_vd_loc_conf_s  ngx_http_vd_loc_conf_t;

struct ngx_http_vd_loc_conf_s {
    ngx_http_upstream_conf_t        upstream;

    /* the same, but goes on to a fresh connection after a stale one */
    ngx_http_upstream_conf_t        fresh;

    /* the upstream{} itself; upstream.upstream wraps it */
    ngx_http_upstream_srv_conf_t   *origin;

    ngx_str_t                       server_name;  /* of server{}, a host's */

    /* vd_pass */
    ngx_str_t                       schema;
    ngx_str_t                       host;
    ngx_str_t                       uri;
    ngx_str_t                       head;  /* the fixed part of a request */
    u_char                         *file;
    ngx_uint_t                      line;

    ngx_http_vd_output_t           *output;
    ngx_http_complex_value_t       *case_value;
    ngx_array_t                    *secrets;     /* ngx_http_vd_secret_t */
    ngx_array_t                    *signatures;  /* ngx_http_vd_signature_t */
    ngx_array_t                    *headers;     /* ngx_http_vd_header_t */
    vd_ticket_t                    *ticket;
    size_t                          ticket_max;
    ngx_flag_t                      validate;
    ngx_http_vd_journal_t          *journal;     /* NULL: off */
    ngx_uint_t                      ack;
    ngx_msec_t                      timeout;
    size_t                          max_response_size;

    /* TLS */
    ngx_uint_t                      ssl;  /* unsigned  ssl:1 */
    ngx_uint_t                      ssl_protocols;
    ngx_str_t                       ssl_ciphers;
    ngx_uint_t                      ssl_verify_depth;
    ngx_str_t                       ssl_trusted_certificate;
    ngx_str_t                       ssl_crl;
    ngx_array_t                    *ssl_conf_commands;
    ngx_array_t                    *ssl_sessions;  /* ngx_http_vd_session_t */

    ngx_http_vd_loc_conf_t         *prev;         /* of the level above */
    void                          **loc_conf;     /* of all modules, here */
    void                          **answer_conf;  /* r->loc_conf of answers */
};


/* A delivery's attempt; shared by the app's request and its clone. */

typedef struct {
    ngx_http_request_t             *request;  /* the app's */
    ngx_http_request_t             *clone;
    ngx_http_vd_loc_conf_t         *conf;

    ngx_str_t                       id;
    ngx_str_t                       case_id;
    ngx_uint_t                      attempt;
    ngx_chain_t                    *body;
    off_t                           body_length;
    u_char                         *digest;    /* VD_DIGEST_LEN; or NULL */

    ngx_http_vd_value_t            *values;    /* of vd_set_header */
    ngx_str_t                       kept_text; /* VD-Kept, as it came */
    ngx_str_t                       kept;      /* and decoded */
    ngx_str_t                       kept_type; /* of it, the Content-Type */
    vd_kept_t                      *keep;      /* what is kept for retries */
    ngx_uint_t                      nkeep;

    /* the exchange with the receiver, that of the last connection */
    ngx_event_t                     timer;
    vd_http_t                       http;
    ngx_str_t                       reply;
    size_t                          reply_size;
    ngx_str_t                       retry_after;  /* the header, as it came */
    vd_exchange_t                   exchange;

    /* the peer's own callbacks, see ngx_http_vd_peer.c */
    void                           *peer_data;
    ngx_event_get_peer_pt           get_peer;
    ngx_event_free_peer_pt          free_peer;
    ngx_event_notify_peer_pt        notify_peer;
    struct sockaddr                *sockaddr;  /* to be tried afresh */

    /* what came of it */
    ngx_msec_t                      start;
    ngx_msec_t                      duration;
    vd_result_t                     result;
    ngx_str_t                       ticket_id;
    vd_ticket_e                     ticket_error;
    ngx_str_t                       upstream;  /* address, of the last try */
    ngx_http_vd_waiter_t            waiter;    /* for its record */

    ngx_http_log_handler_pt         log_handler;

    unsigned                        done:1;
    unsigned                        in_flight:1;
    unsigned                        accepted:1;   /* by vd_ack journal */
    unsigned                        journaled:1;
    unsigned                        retry:1;      /* VD-Attempt was given */
    unsigned                        case_known:1;
    unsigned                        case_varies:1;
    unsigned                        varies:1;     /* $vd_attempt was used */
    unsigned                        too_large:1;
    unsigned                        unsendable:1; /* but has been replied to */
    unsigned                        fresh:1;      /* no cached connection */
    unsigned                        unresolved:1;
    unsigned                        client_error:1;
} ngx_http_vd_ctx_t;


/* Is called with each piece of a body, in order. */
typedef ngx_int_t (*ngx_http_vd_body_pt)(void *data, u_char *p, size_t len);


/* ngx_http_vd_config.c */

void *ngx_http_vd_create_main_conf(ngx_conf_t *cf);
char *ngx_http_vd_init_main_conf(ngx_conf_t *cf, void *conf);
void *ngx_http_vd_create_loc_conf(ngx_conf_t *cf);
char *ngx_http_vd_merge_loc_conf(ngx_conf_t *cf, void *parent, void *child);

/* NULL if out of memory; freed with the configuration. */
vd_ticket_t *ngx_http_vd_create_ticket(ngx_conf_t *cf, size_t max);

/* ngx_http_vd_directives.c */

char *ngx_http_vd_pass(ngx_conf_t *cf, ngx_command_t *cmd, void *conf);
char *ngx_http_vd_output(ngx_conf_t *cf, ngx_command_t *cmd, void *conf);
char *ngx_http_vd_ticket_id(ngx_conf_t *cf, ngx_command_t *cmd, void *conf);

/* ngx_http_vd_filters.c */

/* When all is merged: makes conf->answer_conf of each location. */
ngx_int_t ngx_http_vd_init_filters(ngx_conf_t *cf);

/* ngx_http_vd_headers.c */

char *ngx_http_vd_signature(ngx_conf_t *cf, ngx_command_t *cmd, void *conf);
char *ngx_http_vd_set_header(ngx_conf_t *cf, ngx_command_t *cmd, void *conf);

/*
 * NGX_ERROR if a header's value holds a control character: it must not begin
 * another line.
 */
ngx_int_t ngx_http_vd_header_value(ngx_str_t *value);

/* ngx_http_vd_secret.c */

char *ngx_http_vd_secret_file(ngx_conf_t *cf, ngx_command_t *cmd, void *conf);
ngx_int_t ngx_http_vd_init_signers(ngx_conf_t *cf,
    ngx_http_vd_loc_conf_t *conf);

/* ngx_http_vd_ssl.c */

char *ngx_http_vd_ssl_value(ngx_conf_t *cf, ngx_command_t *cmd, void *conf);
char *ngx_http_vd_ssl_password_file(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
ngx_int_t ngx_http_vd_merge_ssl(ngx_conf_t *cf, ngx_http_vd_loc_conf_t *prev,
    ngx_http_vd_loc_conf_t *conf);

/*
 * TLS sessions are kept by location and address, so that none is resumed
 * under another location's certificates or rules.
 */
ngx_int_t ngx_http_vd_set_session(ngx_peer_connection_t *pc, void *data);
void ngx_http_vd_save_session(ngx_peer_connection_t *pc, void *data);

/* The same as ngx_http_vd_peek(), of TLS; logs what TLS fails with. */
ngx_int_t ngx_http_vd_ssl_peek(ngx_connection_t *c, ngx_uint_t level);

/* How the receiver has ended a connection: in good order, or by an alert. */
ngx_uint_t ngx_http_vd_ssl_ended(ngx_connection_t *c);
ngx_uint_t ngx_http_vd_ssl_alerted(ngx_connection_t *c);

/* ngx_http_vd_handler.c */

ngx_int_t ngx_http_vd_handler(ngx_http_request_t *r);

/* How many there are of that name; the value is that of the last. */
ngx_uint_t ngx_http_vd_get_header(ngx_http_request_t *r, const char *name,
    ngx_str_t *value);

/*
 * Hands the pieces of the request body to a function, those in a temporary
 * file too.  NGX_OK; NGX_ERROR if reading failed (which is logged) or the
 * function returned anything but NGX_OK.
 */
ngx_int_t ngx_http_vd_walk_body(ngx_http_vd_ctx_t *ctx,
    ngx_http_vd_body_pt handler, void *data);

/*
 * Goes on with the app's request, if what it waits for has come: the end of
 * the attempt, and that of its record.
 */
void ngx_http_vd_answer(ngx_http_request_t *r);

/* That the client is gone does not matter to the attempt, but to the answer. */
void ngx_http_vd_hide_client_error(ngx_http_vd_ctx_t *ctx);
void ngx_http_vd_show_client_error(ngx_http_vd_ctx_t *ctx);

/* ngx_http_vd_kept.c */

/*
 * VD-Output and VD-Kept: NGX_DECLINED if they are refused, with why, and with
 * which status unless that is 400.
 */
ngx_int_t ngx_http_vd_take_output(ngx_http_request_t *r,
    ngx_http_vd_ctx_t *ctx, ngx_uint_t *status, const char **error);
ngx_int_t ngx_http_vd_take_kept(ngx_http_request_t *r, ngx_http_vd_ctx_t *ctx,
    const char **error);

/* Sets ctx->case_id, once; not before the body is there. */
ngx_int_t ngx_http_vd_eval_case(ngx_http_vd_ctx_t *ctx);

/*
 * Sets ctx->case_id and ctx->values, and what is kept of them; NGX_DECLINED if
 * that would be more than a retry can bring.
 */
ngx_int_t ngx_http_vd_eval_values(ngx_http_vd_ctx_t *ctx);

/* The record's "kept", allocated; empty if nothing is. */
ngx_int_t ngx_http_vd_kept_text(ngx_http_vd_ctx_t *ctx, ngx_str_t *text);

/* ngx_http_vd_record.c */

/*
 * Hands the journal, if there is one, a record of what is known by now; sets
 * ctx->journaled and calls ngx_http_vd_answer() when it is on disk.
 */
void ngx_http_vd_record(ngx_http_vd_ctx_t *ctx);

/*
 * Sets the name by which requests that named no host find the same server{}
 * again: the first of its names that is one; none if there is none.
 */
void ngx_http_vd_init_server_name(ngx_conf_t *cf,
    ngx_http_vd_loc_conf_t *conf);

/* Whether a retry could not bring the URI that is recorded. */
ngx_uint_t ngx_http_vd_long_uri(ngx_http_request_t *r);

/* ngx_http_vd_answer.c */

/*
 * What came of the delivery; or why the request is refused, in plain ASCII.
 * What they return is for ngx_http_finalize_request().
 */
ngx_int_t ngx_http_vd_send_outcome(ngx_http_request_t *r,
    ngx_http_vd_ctx_t *ctx);
ngx_int_t ngx_http_vd_send_error(ngx_http_request_t *r, ngx_uint_t status,
    const char *error);

/* ngx_http_vd_upstream.c */

/* The clone's content handler: one attempt. */
ngx_int_t ngx_http_vd_upstream_handler(ngx_http_request_t *r);

/*
 * Ends the attempt, once: decides its outcome, looks for the ticket id, logs.
 */
void ngx_http_vd_end_attempt(ngx_http_vd_ctx_t *ctx);

/* ngx_http_vd_request.c */

/* Makes u->request_bufs: the request's head, signed, and its body. */
ngx_int_t ngx_http_vd_create_request(ngx_http_request_t *r);

/* NGX_DECLINED if it would be sent and cannot be. */
ngx_int_t ngx_http_vd_check_type(ngx_http_vd_ctx_t *ctx, const char **error);

/*
 * The app's own, or that of a case; what is sent may be that of vd_set_header.
 * An odd one is the app's, and does not come through JSON as it is.
 */
ngx_str_t *ngx_http_vd_content_type(ngx_http_vd_ctx_t *ctx);
ngx_str_t *ngx_http_vd_sent_type(ngx_http_vd_ctx_t *ctx);
ngx_uint_t ngx_http_vd_odd_type(ngx_http_vd_ctx_t *ctx);

/* Whether a header is made here and cannot be set by vd_set_header. */
ngx_uint_t ngx_http_vd_own_header(ngx_http_vd_loc_conf_t *conf,
    ngx_str_t *name);

/* The part of a request's head that is the same for each, allocated. */
ngx_int_t ngx_http_vd_init_head(ngx_conf_t *cf, ngx_http_vd_loc_conf_t *conf);

/* ngx_http_vd_response.c */

/* A new response is to come: forgets what another connection brought. */
void ngx_http_vd_start_response(ngx_http_vd_ctx_t *ctx);

/* The receiver spoke before it was asked: for process_header(). */
ngx_int_t ngx_http_vd_too_early(ngx_http_vd_ctx_t *ctx);

/* Upstream callbacks: response header, and body. */
ngx_int_t ngx_http_vd_process_header(ngx_http_request_t *r);
ngx_int_t ngx_http_vd_filter_init(void *data);
ngx_int_t ngx_http_vd_filter(void *data, ssize_t bytes);

/* ngx_http_vd_peer.c */

/*
 * Wraps an upstream{} for the use of one location: its peers are asked as
 * ever, but a kept connection is taken only if it is this location's own, and
 * one that proves stale is replaced by a fresh one, once.
 */
ngx_http_upstream_srv_conf_t *ngx_http_vd_wrap_upstream(ngx_conf_t *cf,
    ngx_http_upstream_srv_conf_t *uscf);

/*
 * Whether a connection can be read from: NGX_OK if not, NGX_DECLINED if there
 * is something of a reply, NGX_ERROR if it is closed or broken.
 */
ngx_int_t ngx_http_vd_peek(ngx_http_vd_ctx_t *ctx, ngx_connection_t *c);

/* Gives back the server that was to be tried afresh, if it was not. */
void ngx_http_vd_release_peer(ngx_http_vd_ctx_t *ctx);

/* Adds "Allow" to the answer; NGX_ERROR if out of memory. */
ngx_int_t ngx_http_vd_allow(ngx_http_request_t *r, const char *methods);

/* ngx_http_vd_zone.c */

/* What this configuration does not count is free for others. */
void ngx_http_vd_zone_commit(ngx_http_vd_main_conf_t *vmcf);

/* ngx_http_vd_status.c */

char *ngx_http_vd_status(ngx_conf_t *cf, ngx_command_t *cmd, void *conf);

/* The least space of all journals; NGX_DECLINED if there is none to ask. */
ngx_int_t ngx_http_vd_free_bytes(ngx_http_vd_main_conf_t *vmcf,
    uint64_t *bytes);

extern const char  *ngx_http_vd_ticket_results[NGX_HTTP_VD_TICKETS];

/* ngx_http_vd_status_json.c */

/* The whole page; NULL if out of memory. */
ngx_buf_t *ngx_http_vd_status_json(ngx_http_request_t *r,
    ngx_http_vd_main_conf_t *vmcf);

/* ngx_http_vd_variables.c */

ngx_int_t ngx_http_vd_add_variables(ngx_conf_t *cf);

/* A delivery's: "delivered", "pending" or "failed". */
ngx_str_t *ngx_http_vd_state(ngx_http_vd_ctx_t *ctx);


extern ngx_module_t  ngx_http_vd_module;


#endif /* _NGX_HTTP_VD_MODULE_H_INCLUDED_ */
