
/*
 * Copyright (C) The ngx_vd_module authors
 *
 * What became of an attempt: decided in one place, from what was seen.
 */


#ifndef VD_OUTCOME_H_INCLUDED_
#define VD_OUTCOME_H_INCLUDED_


typedef enum {
    VD_OUTCOME_NONE = 0,    /* not known yet */
    VD_DELIVERED,
    VD_FAILED
} vd_outcome_e;


typedef enum {
    VD_REASON_NONE = 0,
    VD_REASON_CONNECT,      /* refused, unreachable, reset while connecting */
    VD_REASON_RESOLVE,      /* no address is known for the receiver */
    VD_REASON_TLS,          /* handshake or certificate */
    VD_REASON_TIMEOUT,
    VD_REASON_CLOSED,       /* closed before a complete response */
    VD_REASON_PROTOCOL,     /* not a valid HTTP/1.x response */
    VD_REASON_STATUS,       /* a complete response other than 2xx */
    VD_REASON_INTERNAL,     /* no fault of the receiver's */
    VD_REASON_LAST
} vd_reason_e;


/* How far an exchange came. */

typedef enum {
    VD_STAGE_START = 0,     /* no connection was tried */
    VD_STAGE_RESOLVE,       /* there was no address to connect to */
    VD_STAGE_CONNECT,
    VD_STAGE_TLS,
    VD_STAGE_EXCHANGE       /* the request was being sent, or had been */
} vd_stage_e;


typedef struct {
    vd_stage_e   stage;
    unsigned     status;        /* of the final status line, 0: none came */

    unsigned     complete:1;    /* the response was read to its end */
    unsigned     timed_out:1;
    unsigned     malformed:1;   /* what came is not HTTP/1.x */
    unsigned     internal:1;    /* out of memory, or ended by the server */
} vd_exchange_t;


typedef struct {
    vd_outcome_e  outcome;
    vd_reason_e   reason;       /* VD_REASON_NONE if delivered */
} vd_result_t;


/*
 * A complete response with a status of 200 to 299 is delivered, everything
 * else failed.  A pure function of its argument; the flags may come in any
 * combination: a complete response with a status wins, then internal,
 * timed_out, malformed, and the stage.
 */
vd_result_t vd_outcome(const vd_exchange_t *exchange);

/* Static names, as in answers, journal and counters; "" for NONE. */
const char *vd_outcome_name(vd_outcome_e outcome);
const char *vd_reason_name(vd_reason_e reason);


#endif /* VD_OUTCOME_H_INCLUDED_ */
