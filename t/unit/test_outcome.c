
/*
 * Copyright (C) The ngx_vd_module authors
 */


#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "vd_outcome.h"


#define countof(array)  (sizeof(array) / sizeof((array)[0]))


typedef struct {
    vd_exchange_t  exchange;
    const char    *outcome;
    const char    *reason;
} case_t;


/* What receivers and networks do, as the interface describes it. */

static const case_t  cases[] = {

    { { .stage = VD_STAGE_EXCHANGE, .status = 200, .complete = 1 },
      "delivered", "" },
    { { .stage = VD_STAGE_EXCHANGE, .status = 204, .complete = 1 },
      "delivered", "" },
    { { .stage = VD_STAGE_EXCHANGE, .status = 299, .complete = 1 },
      "delivered", "" },

    { { .stage = VD_STAGE_EXCHANGE, .status = 199, .complete = 1 },
      "failed", "status" },
    { { .stage = VD_STAGE_EXCHANGE, .status = 300, .complete = 1 },
      "failed", "status" },
    { { .stage = VD_STAGE_EXCHANGE, .status = 302, .complete = 1 },
      "failed", "status" },
    { { .stage = VD_STAGE_EXCHANGE, .status = 410, .complete = 1 },
      "failed", "status" },
    { { .stage = VD_STAGE_EXCHANGE, .status = 429, .complete = 1 },
      "failed", "status" },
    { { .stage = VD_STAGE_EXCHANGE, .status = 503, .complete = 1 },
      "failed", "status" },

    /* a 200 that was cut off is not a 200 */

    { { .stage = VD_STAGE_EXCHANGE, .status = 200 }, "failed", "closed" },
    { { .stage = VD_STAGE_EXCHANGE, .status = 200, .timed_out = 1 },
      "failed", "timeout" },
    { { .stage = VD_STAGE_EXCHANGE, .status = 200, .malformed = 1 },
      "failed", "protocol" },

    /* an end without a status line is no response */

    { { .stage = VD_STAGE_EXCHANGE, .complete = 1 }, "failed", "closed" },

    { { .stage = VD_STAGE_START }, "failed", "internal" },
    { { .stage = VD_STAGE_RESOLVE }, "failed", "resolve" },
    { { .stage = VD_STAGE_CONNECT }, "failed", "connect" },
    { { .stage = VD_STAGE_CONNECT, .timed_out = 1 }, "failed", "timeout" },
    { { .stage = VD_STAGE_TLS }, "failed", "tls" },
    { { .stage = VD_STAGE_TLS, .timed_out = 1 }, "failed", "timeout" },
    { { .stage = VD_STAGE_EXCHANGE }, "failed", "closed" },
    { { .stage = VD_STAGE_EXCHANGE, .malformed = 1 }, "failed", "protocol" },
    { { .stage = VD_STAGE_EXCHANGE, .internal = 1, .timed_out = 1 },
      "failed", "internal" }
};


static void
exchanges_have_their_outcome(void **state)
{
    size_t         i;
    vd_result_t    result;

    (void) state;

    for (i = 0; i < countof(cases); i++) {
        result = vd_outcome(&cases[i].exchange);

        assert_string_equal(vd_outcome_name(result.outcome),
                            cases[i].outcome);
        assert_string_equal(vd_reason_name(result.reason), cases[i].reason);
    }
}


/*
 * The rule once more, the other way round: from the weakest cause to the
 * strongest, each replacing what was before.
 */

static const char *
expected_reason(const vd_exchange_t *exchange)
{
    const char               *reason;
    static const char *const  by_stage[] = {
        "internal", "resolve", "connect", "tls", "closed"
    };

    reason = by_stage[exchange->stage];

    if (exchange->malformed) {
        reason = "protocol";
    }

    if (exchange->timed_out) {
        reason = "timeout";
    }

    if (exchange->internal) {
        reason = "internal";
    }

    if (exchange->complete && exchange->status > 0) {
        reason = "status";
    }

    if (exchange->complete && exchange->status / 100 == 2) {
        reason = "";
    }

    return reason;
}


static void
every_combination_follows_the_rule(void **state)
{
    unsigned       flags, status;
    vd_stage_e     stage;
    vd_result_t    result;
    vd_exchange_t  exchange;

    (void) state;

    for (stage = VD_STAGE_START; stage <= VD_STAGE_EXCHANGE; stage++) {
        for (flags = 0; flags < 16; flags++) {
            for (status = 0; status < 1000; status++) {

                exchange.stage = stage;
                exchange.status = status;
                exchange.complete = flags & 1;
                exchange.timed_out = flags >> 1 & 1;
                exchange.malformed = flags >> 2 & 1;
                exchange.internal = flags >> 3 & 1;

                result = vd_outcome(&exchange);

                assert_string_equal(vd_reason_name(result.reason),
                                    expected_reason(&exchange));
                assert_int_equal(result.outcome == VD_DELIVERED,
                                 result.reason == VD_REASON_NONE);
                assert_int_not_equal(result.outcome, VD_OUTCOME_NONE);
            }
        }
    }
}


static void
names_are_those_of_the_interface(void **state)
{
    size_t                    i;
    static const char *const  reasons[] = {
        "", "connect", "resolve", "tls", "timeout", "closed", "protocol",
        "status", "internal"
    };

    (void) state;

    assert_int_equal(countof(reasons), VD_REASON_LAST);

    for (i = 0; i < countof(reasons); i++) {
        assert_string_equal(vd_reason_name((vd_reason_e) i), reasons[i]);
    }

    assert_string_equal(vd_outcome_name(VD_OUTCOME_NONE), "");
    assert_string_equal(vd_outcome_name(VD_DELIVERED), "delivered");
    assert_string_equal(vd_outcome_name(VD_FAILED), "failed");
}


int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(exchanges_have_their_outcome),
        cmocka_unit_test(every_combination_follows_the_rule),
        cmocka_unit_test(names_are_those_of_the_interface)
    };

    return cmocka_run_group_tests_name("vd_outcome", tests, NULL, NULL);
}
