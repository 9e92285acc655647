
/*
 * Copyright (C) The ngx_vd_module authors
 *
 * What the plain C parts cost: prints a line of JSON with the nanoseconds of
 * CPU time that each takes for the case in the file named as the argument.
 */


#define _POSIX_C_SOURCE  200809L

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "vd_id.h"
#include "vd_json.h"
#include "vd_sign.h"
#include "vd_ticket.h"


#define BENCH_ROUNDS  15
#define BENCH_CALLS   2000


typedef struct {
    unsigned char   body[65536];
    size_t          len;
    vd_key_t       *key;
    vd_signer_t    *signer;
    vd_ticket_t    *ticket;
} bench_t;


typedef int (*bench_pt)(bench_t *bench);


static int bench_init(bench_t *bench, const char *path);
static int bench_json(bench_t *bench);
static int bench_sign(bench_t *bench);
static int bench_ticket(bench_t *bench);
static int bench_uuid(bench_t *bench);
static double bench_run(bench_t *bench, bench_pt part);
static double bench_now(void);
static int bench_compare(const void *one, const void *two);


static const unsigned char  bench_random[VD_UUID_RANDOM] = { 1, 2, 3 };
static const unsigned char  bench_key[32] = { 4, 5, 6 };

static const unsigned char  bench_reply[] =
    "{\"success\": true, \"ticket_id\": \"VD-12345\"}";


int
main(int argc, char **argv)
{
    static bench_t  bench;

    if (argc != 2 || bench_init(&bench, argv[1]) != 0) {
        fprintf(stderr, "usage: parts FILE\n");
        return 2;
    }

    printf("{\"bytes\": %zu, \"json_ns\": %.1f, \"sign_ns\": %.1f, "
           "\"ticket_ns\": %.1f, \"uuid_ns\": %.1f}\n",
           bench.len,
           bench_run(&bench, bench_json), bench_run(&bench, bench_sign),
           bench_run(&bench, bench_ticket), bench_run(&bench, bench_uuid));

    vd_signer_free(bench.signer);
    vd_key_free(bench.key);
    vd_ticket_free(bench.ticket);

    return 0;
}


static int
bench_init(bench_t *bench, const char *path)
{
    FILE               *file;
    const vd_scheme_t  *scheme;

    file = fopen(path, "rb");
    if (file == NULL) {
        return -1;
    }

    bench->len = fread(bench->body, 1, sizeof(bench->body), file);
    fclose(file);

    scheme = &vd_schemes[VD_SCHEME_STANDARD];
    bench->key = vd_key_create(bench_key, sizeof(bench_key));

    if (bench->key == NULL) {
        return -1;
    }

    bench->signer = vd_signer_create(scheme, &bench->key, 1);
    bench->ticket = vd_ticket_create(128);

    if (bench->signer == NULL || bench->ticket == NULL) {
        return -1;
    }

    return (vd_ticket_add_path(bench->ticket,
                               (const unsigned char *) "ticket_id", 9)
            == NULL) ? 0 : -1;
}


static int
bench_json(bench_t *bench)
{
    vd_json_t  json;

    vd_json_start(&json);
    (void) vd_json_feed(&json, bench->body, bench->len);

    return vd_json_finish(&json);
}


static int
bench_sign(bench_t *bench)
{
    unsigned char  out[256];

    if (vd_sign_start(bench->signer, bench_reply, VD_UUID_LEN, 1700000000)
        != 0
        || vd_sign_update(bench->signer, bench->body, bench->len) != 0)
    {
        return -1;
    }

    return (vd_sign_finish(bench->signer, out) > 0) ? 0 : -1;
}


static int
bench_ticket(bench_t *bench)
{
    size_t         len;
    unsigned char  out[128];

    return (vd_ticket_find(bench->ticket, bench_reply, sizeof(bench_reply) - 1,
                           out, &len)
            == VD_TICKET_FOUND) ? 0 : -1;
}


static int
bench_uuid(bench_t *bench)
{
    unsigned char  out[VD_UUID_LEN];

    (void) bench;

    vd_uuid7(out, 1700000000000, bench_random);

    return vd_id_valid(out, VD_UUID_LEN) ? 0 : -1;
}


/* The median of some rounds: others may be using the machine. */

static double
bench_run(bench_t *bench, bench_pt part)
{
    double    start, rounds[BENCH_ROUNDS];
    unsigned  i, n;

    for (i = 0; i < BENCH_ROUNDS; i++) {
        start = bench_now();

        for (n = 0; n < BENCH_CALLS; n++) {

            if (part(bench) != 0) {
                fprintf(stderr, "a part failed\n");
                exit(1);
            }
        }

        rounds[i] = (bench_now() - start) / BENCH_CALLS;
    }

    qsort(rounds, BENCH_ROUNDS, sizeof(double), bench_compare);

    return rounds[BENCH_ROUNDS / 2];
}


/* CPU time of this process, in nanoseconds */

static double
bench_now(void)
{
    struct timespec  ts;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);

    return (double) ts.tv_sec * 1e9 + (double) ts.tv_nsec;
}


static int
bench_compare(const void *one, const void *two)
{
    double  a, b;

    a = *(const double *) one;
    b = *(const double *) two;

    return (a > b) - (a < b);
}
