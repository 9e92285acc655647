
/*
 * Copyright (C) The ngx_vd_module authors
 *
 * The JSON scanner against itself, whole and in pieces, and against Jansson.
 * The first byte of the input says how long the pieces are.
 */


#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "vd_json.h"


int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);


static void
require(int condition)
{
    if (!condition) {
        abort();
    }
}


/* Each piece is a copy of its exact size, so that reading past it is seen. */

static vd_json_t
scan(const uint8_t *text, size_t len, size_t piece)
{
    size_t      n;
    uint8_t    *copy;
    vd_json_t   json;

    vd_json_start(&json);

    while (len > 0) {
        n = (piece < len) ? piece : len;

        copy = malloc(n);
        require(copy != NULL);
        memcpy(copy, text, n);

        require(vd_json_feed(&json, copy, n) == ((json.error != NULL) ? -1
                                                                      : 0));
        free(copy);

        text += n;
        len -= n;
    }

    require(vd_json_finish(&json) == ((json.error != NULL) ? -1 : 0));

    return json;
}


static void
compare(const vd_json_t *json, const uint8_t *text, size_t len)
{
    json_t        *tree;
    json_error_t   error;

    tree = json_loadb((const char *) text, len,
                      JSON_DECODE_ANY|JSON_DECODE_INT_AS_REAL|JSON_ALLOW_NUL,
                      &error);

    if (tree != NULL) {
        json_decref(tree);

        /* Jansson nests deeper, and passes over some NUL bytes */

        require(json->error == NULL
                || strcmp(json->error, "nested too deeply") == 0
                || memchr(text, '\0', len) != NULL);
        return;
    }

    /* it refuses some that are JSON: big numbers, NUL keys, lone surrogates */

    require(json->error != NULL
            || json_error_code(&error) == json_error_numeric_overflow
            || json_error_code(&error) == json_error_null_byte_in_key
            || strstr(error.text, "invalid Unicode '\\u") != NULL);
}


int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    vd_json_t  whole, pieces;

    if (size == 0) {
        return 0;
    }

    whole = scan(data + 1, size - 1, size);
    pieces = scan(data + 1, size - 1, 1 + data[0] % 16);

    require(whole.error == pieces.error);
    require(whole.offset == pieces.offset);
    require(whole.offset <= size - 1);
    require(whole.error != NULL || whole.offset == size - 1);

    compare(&whole, data + 1, size - 1);

    return 0;
}
