
/*
 * Copyright (C) The ngx_vd_module authors
 */


#include "vd_outcome.h"

#include <stddef.h>


static vd_reason_e vd_outcome_reason(const vd_exchange_t *exchange);


static const char *const  vd_outcome_names[] = {
    [VD_OUTCOME_NONE] = "",
    [VD_DELIVERED] = "delivered",
    [VD_FAILED] = "failed"
};


static const char *const  vd_reason_names[VD_REASON_LAST] = {
    [VD_REASON_NONE] = "",
    [VD_REASON_CONNECT] = "connect",
    [VD_REASON_RESOLVE] = "resolve",
    [VD_REASON_TLS] = "tls",
    [VD_REASON_TIMEOUT] = "timeout",
    [VD_REASON_CLOSED] = "closed",
    [VD_REASON_PROTOCOL] = "protocol",
    [VD_REASON_STATUS] = "status",
    [VD_REASON_INTERNAL] = "internal"
};


vd_result_t
vd_outcome(const vd_exchange_t *exchange)
{
    vd_result_t  result;

    result.reason = vd_outcome_reason(exchange);
    result.outcome = (result.reason == VD_REASON_NONE) ? VD_DELIVERED
                                                       : VD_FAILED;

    return result;
}


static vd_reason_e
vd_outcome_reason(const vd_exchange_t *exchange)
{
    if (exchange->complete && exchange->status != 0) {
        return (exchange->status >= 200 && exchange->status <= 299)
               ? VD_REASON_NONE : VD_REASON_STATUS;
    }

    if (exchange->internal) {
        return VD_REASON_INTERNAL;
    }

    if (exchange->timed_out) {
        return VD_REASON_TIMEOUT;
    }

    if (exchange->malformed) {
        return VD_REASON_PROTOCOL;
    }

    switch (exchange->stage) {

    case VD_STAGE_RESOLVE:
        return VD_REASON_RESOLVE;

    case VD_STAGE_CONNECT:
        return VD_REASON_CONNECT;

    case VD_STAGE_TLS:
        return VD_REASON_TLS;

    case VD_STAGE_EXCHANGE:
        return VD_REASON_CLOSED;

    default: /* VD_STAGE_START */
        return VD_REASON_INTERNAL;
    }
}


const char *
vd_outcome_name(vd_outcome_e outcome)
{
    return vd_outcome_names[outcome];
}


const char *
vd_reason_name(vd_reason_e reason)
{
    return vd_reason_names[reason];
}
