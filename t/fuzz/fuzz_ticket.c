
/*
 * Copyright (C) The ngx_vd_module authors
 *
 * Ticket ids out of any reply.  The first two bytes of the input choose paths
 * and limit, and the pattern; the rest is the reply.
 */


#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "vd_json.h"
#include "vd_ticket.h"


#define countof(array)  (sizeof(array) / sizeof((array)[0]))


typedef struct {
    const char  *paths[3];
    size_t       max;
} search_t;


int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);


static const search_t  searches[] = {
    { { "ticket_id" }, 128 },
    { { "ticket_id", "data.ticket_id", "0.ticket_id" }, 128 },
    { { "a" }, 1 },
    { { "0" }, 8 },
    { { "a.b", "a", "0" }, 16 },
    { { "a.0", "a.1", "0.0" }, 4 },
    { { "ticket_id", "a", "0" }, 4096 },
    { { "0.0.0.0", "a.a.a" }, 32 }
};


static const char *const  patterns[] = {
    NULL,
    "VD-[0-9]+",
    "a|ab",
    "(a+)+$",
    "(*NO_JIT)(a+)+$",
    "\\p{L}+\\d*",
    "(.)(.)\\2\\1",
    "(?s).*"
};


static void
require(int condition)
{
    if (!condition) {
        abort();
    }
}


static vd_ticket_t *
ticket_create(const search_t *search, const char *pattern)
{
    char          error[64];
    size_t        i;
    vd_ticket_t  *ticket;

    ticket = vd_ticket_create(search->max);
    require(ticket != NULL);

    for (i = 0; i < countof(search->paths) && search->paths[i] != NULL; i++) {
        require(vd_ticket_add_path(ticket,
                                   (const unsigned char *) search->paths[i],
                                   strlen(search->paths[i]))
                == NULL);
    }

    if (pattern != NULL) {
        require(vd_ticket_set_pattern(ticket, (const unsigned char *) pattern,
                                      strlen(pattern), error, sizeof(error))
                == 0);
    }

    return ticket;
}


/* UTF-8, as the JSON scanner knows it, without control characters. */

static void
require_clean(const unsigned char *value, size_t len)
{
    size_t     i;
    vd_json_t  json;

    vd_json_start(&json);
    require(vd_json_feed(&json, (const unsigned char *) "\"", 1) == 0);

    for (i = 0; i < len; i++) {
        require(value[i] >= 0x20 && value[i] != 0x7f);
        require(i == 0 || value[i - 1] != 0xc2 || value[i] >= 0xa0);

        if (value[i] == '"' || value[i] == '\\') {
            require(vd_json_feed(&json, (const unsigned char *) "\\", 1) == 0);
        }

        require(vd_json_feed(&json, &value[i], 1) == 0);
    }

    require(vd_json_feed(&json, (const unsigned char *) "\"", 1) == 0);
    require(vd_json_finish(&json) == 0);
}


static void
require_value(const unsigned char *value, size_t len, size_t max,
    const char *pattern)
{
    require(len >= 1 && len <= max);
    require(value[0] != ' ' && value[len - 1] != ' ');

    require_clean(value, len);

    if (pattern != NULL && strcmp(pattern, "VD-[0-9]+") == 0) {
        require(len >= 4 && memcmp(value, "VD-", 3) == 0);

        while (len > 3) {
            len--;
            require(value[len] >= '0' && value[len] <= '9');
        }
    }

    if (pattern != NULL && strcmp(pattern, "a|ab") == 0) {
        require((len == 1 && value[0] == 'a')
                || (len == 2 && memcmp(value, "ab", 2) == 0));
    }
}


/* What the scanner refuses is not JSON for the ticket id either. */

static int
is_json(const uint8_t *reply, size_t len)
{
    vd_json_t  json;

    vd_json_start(&json);
    json.max_depth = VD_JSON_FULL_DEPTH;

    if (len >= 3 && memcmp(reply, "\xef\xbb\xbf", 3) == 0) {
        reply += 3;
        len -= 3;
    }

    return vd_json_feed(&json, reply, len) == 0 && vd_json_finish(&json) == 0;
}


/*
 * What a strict parser takes, and writes down anew in its own way, leads to
 * the same result.
 */

static void
require_same(const vd_ticket_t *ticket, const uint8_t *reply, size_t size,
    vd_ticket_e error, const unsigned char *value, size_t len, size_t max)
{
    char           *text;
    json_t         *json;
    size_t          other_len;
    unsigned char  *other;

    json = json_loadb((const char *) reply, size,
                      JSON_REJECT_DUPLICATES | JSON_DECODE_ANY
                      | JSON_ALLOW_NUL, NULL);
    if (json == NULL || !is_json(reply, size)) {
        json_decref(json);
        return;
    }

    text = json_dumps(json, JSON_ENCODE_ANY | JSON_ENSURE_ASCII | JSON_INDENT(1)
                            | JSON_SORT_KEYS);
    json_decref(json);

    if (text == NULL) {
        return;
    }

    other = malloc(max);
    require(other != NULL);

    require(vd_ticket_find(ticket, (const unsigned char *) text, strlen(text),
                           other, &other_len)
            == error);

    if (error == VD_TICKET_FOUND) {
        require(other_len == len && memcmp(other, value, len) == 0);
    }

    free(other);
    free(text);
}


int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    size_t           len;
    const char      *pattern;
    vd_ticket_e      error;
    vd_ticket_t     *ticket;
    unsigned char   *value;
    const search_t  *search;

    if (size < 2) {
        return 0;
    }

    search = &searches[data[0] % countof(searches)];
    pattern = patterns[data[1] % countof(patterns)];

    ticket = ticket_create(search, pattern);

    value = malloc(search->max);
    require(value != NULL);

    len = 0;
    error = vd_ticket_find(ticket, data + 2, size - 2, value, &len);

    if (error == VD_TICKET_FOUND) {
        require_value(value, len, search->max, pattern);

    } else {
        require(error < VD_TICKET_TOO_LARGE);
        require(error != VD_TICKET_NO_MATCH || pattern != NULL);
    }

    require(is_json(data + 2, size - 2) || error == VD_TICKET_NOT_JSON);
    require_same(ticket, data + 2, size - 2, error, value, len, search->max);

    free(value);
    vd_ticket_free(ticket);

    return 0;
}
