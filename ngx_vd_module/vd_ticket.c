
/*
 * Copyright (C) The ngx_vd_module authors
 */


#define PCRE2_CODE_UNIT_WIDTH  8

#include "vd_ticket.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>
#include <pcre2.h>


/*
 * What a match may cost, in steps of the matcher and in KiB: an honest pattern
 * takes some steps for each byte, a catastrophic one ends within a
 * millisecond.
 */

#define VD_TICKET_MATCH_LIMIT  25000
#define VD_TICKET_HEAP_LIMIT   1024

#define VD_TICKET_JSON_FLAGS                                                  \
    (JSON_REJECT_DUPLICATES | JSON_DECODE_ANY | JSON_ALLOW_NUL)

/*
 * Whole-value, whatever alternatives and "$" the pattern has.  Jansson has
 * seen to it that values are UTF-8, and \C cannot take a character apart.
 */

#define VD_TICKET_COMPILE_OPTIONS                                             \
    (PCRE2_UTF | PCRE2_ANCHORED | PCRE2_ENDANCHORED | PCRE2_NEVER_BACKSLASH_C)

#define VD_TICKET_MATCH_OPTIONS  PCRE2_NO_UTF_CHECK

/* more digits are no index into a reply */

#define VD_TICKET_INDEX_LEN    9


typedef struct {
    size_t  len;
    char   *text;
} vd_ticket_path_t;


struct vd_ticket_s {
    size_t                max;
    size_t                npaths;
    vd_ticket_path_t     *paths;

    pcre2_code           *pattern;      /* NULL: any value matches */
    pcre2_match_data     *match_data;
    pcre2_match_context  *match_context;
};


static int vd_ticket_empty_segment(const unsigned char *path, size_t len);
static json_t *vd_ticket_parse(const unsigned char *reply, size_t len);
static json_t *vd_ticket_walk(json_t *json, const vd_ticket_path_t *path);
static json_t *vd_ticket_item(json_t *array, const char *key, size_t len);
static vd_ticket_e vd_ticket_value(const vd_ticket_t *ticket, json_t *value,
    unsigned char *out, size_t *out_len);
static vd_ticket_e vd_ticket_text(const vd_ticket_t *ticket, const char *text,
    size_t len, unsigned char *out, size_t *out_len);
static int vd_ticket_is_space(char ch);
static int vd_ticket_has_control(const char *text, size_t len);
static int vd_ticket_matches(const vd_ticket_t *ticket, const char *text,
    size_t len);


static const char *const  vd_ticket_error_names[VD_TICKET_LAST] = {
    [VD_TICKET_FOUND] = "",
    [VD_TICKET_MISSING] = "missing",
    [VD_TICKET_NOT_JSON] = "not_json",
    [VD_TICKET_WRONG_TYPE] = "wrong_type",
    [VD_TICKET_EMPTY] = "empty",
    [VD_TICKET_TOO_LONG] = "too_long",
    [VD_TICKET_BAD_CHARACTERS] = "bad_characters",
    [VD_TICKET_NO_MATCH] = "no_match",
    [VD_TICKET_TOO_LARGE] = "too_large"
};


vd_ticket_t *
vd_ticket_create(size_t max)
{
    vd_ticket_t  *ticket;

    ticket = calloc(1, sizeof(vd_ticket_t));
    if (ticket == NULL) {
        return NULL;
    }

    ticket->max = max;

    /* one pair of offsets: nothing that the pattern captures is of use */

    ticket->match_data = pcre2_match_data_create(1, NULL);
    ticket->match_context = pcre2_match_context_create(NULL);

    if (ticket->match_data == NULL || ticket->match_context == NULL) {
        vd_ticket_free(ticket);
        return NULL;
    }

    (void) pcre2_set_match_limit(ticket->match_context,
                                 VD_TICKET_MATCH_LIMIT);
    (void) pcre2_set_heap_limit(ticket->match_context, VD_TICKET_HEAP_LIMIT);

    return ticket;
}


void
vd_ticket_free(vd_ticket_t *ticket)
{
    size_t  i;

    if (ticket == NULL) {
        return;
    }

    for (i = 0; i < ticket->npaths; i++) {
        free(ticket->paths[i].text);
    }

    free(ticket->paths);

    pcre2_code_free(ticket->pattern);
    pcre2_match_data_free(ticket->match_data);
    pcre2_match_context_free(ticket->match_context);

    free(ticket);
}


const char *
vd_ticket_add_path(vd_ticket_t *ticket, const unsigned char *path, size_t len)
{
    vd_ticket_path_t  *paths, *added;

    if (len == 0) {
        return "empty path";
    }

    if (vd_ticket_empty_segment(path, len)) {
        return "empty segment";
    }

    paths = realloc(ticket->paths,
                    (ticket->npaths + 1) * sizeof(vd_ticket_path_t));
    if (paths == NULL) {
        return "out of memory";
    }

    ticket->paths = paths;
    added = &paths[ticket->npaths];

    added->len = len;
    added->text = malloc(len);

    if (added->text == NULL) {
        return "out of memory";
    }

    memcpy(added->text, path, len);
    ticket->npaths++;

    return NULL;
}


static int
vd_ticket_empty_segment(const unsigned char *path, size_t len)
{
    size_t  i;

    for (i = 0; i < len; i++) {

        if (path[i] == '.'
            && (i == 0 || i == len - 1 || path[i + 1] == '.'))
        {
            return 1;
        }
    }

    return 0;
}


int
vd_ticket_set_pattern(vd_ticket_t *ticket, const unsigned char *pattern,
    size_t len, char *error, size_t size)
{
    int            code;
    size_t         offset;
    pcre2_code    *compiled;
    unsigned char  message[128];

    compiled = pcre2_compile(pattern, len, VD_TICKET_COMPILE_OPTIONS, &code,
                             &offset, NULL);
    if (compiled == NULL) {
        (void) pcre2_get_error_message(code, message, sizeof(message));
        (void) snprintf(error, size, "%s at offset %zu", message, offset);
        return -1;
    }

    /* where there is no JIT, the interpreter does it */

    (void) pcre2_jit_compile(compiled, PCRE2_JIT_COMPLETE);

    pcre2_code_free(ticket->pattern);
    ticket->pattern = compiled;

    return 0;
}


vd_ticket_e
vd_ticket_find(const vd_ticket_t *ticket, const unsigned char *reply,
    size_t len, unsigned char *out, size_t *out_len)
{
    size_t       i;
    json_t      *json, *value;
    vd_ticket_e  rc, error;

    json = vd_ticket_parse(reply, len);
    if (json == NULL) {
        return VD_TICKET_NOT_JSON;
    }

    error = VD_TICKET_MISSING;

    for (i = 0; i < ticket->npaths; i++) {

        value = vd_ticket_walk(json, &ticket->paths[i]);
        if (value == NULL) {
            continue;
        }

        rc = vd_ticket_value(ticket, value, out, out_len);

        if (rc == VD_TICKET_FOUND) {
            error = rc;
            break;
        }

        if (error == VD_TICKET_MISSING) {
            error = rc;
        }
    }

    json_decref(json);

    return error;
}


/*
 * Jansson passes over some NUL bytes, which are not JSON; and it refuses a
 * text for one integer that does not fit, which is.  That is read again with
 * all integers as reals: a ticket id that is a string is then still found.
 */

static json_t *
vd_ticket_parse(const unsigned char *reply, size_t len)
{
    json_t        *json;
    json_error_t   error;

    if (len == 0 || memchr(reply, '\0', len) != NULL) {
        return NULL;
    }

    json = json_loadb((const char *) reply, len, VD_TICKET_JSON_FLAGS, &error);

    if (json == NULL
        && json_error_code(&error) == json_error_numeric_overflow)
    {
        json = json_loadb((const char *) reply, len,
                          VD_TICKET_JSON_FLAGS | JSON_DECODE_INT_AS_REAL,
                          NULL);
    }

    return json;
}


/* The value that a path leads to, or NULL. */

static json_t *
vd_ticket_walk(json_t *json, const vd_ticket_path_t *path)
{
    size_t       len;
    const char  *key, *dot, *end;

    key = path->text;
    end = path->text + path->len;

    for ( ;; ) {
        dot = memchr(key, '.', (size_t) (end - key));
        len = (size_t) ((dot == NULL ? end : dot) - key);

        if (json_is_array(json)) {
            json = vd_ticket_item(json, key, len);

        } else {
            json = json_object_getn(json, key, len);
        }

        if (json == NULL || dot == NULL) {
            return json;
        }

        key = dot + 1;
    }
}


static json_t *
vd_ticket_item(json_t *array, const char *key, size_t len)
{
    size_t  i, index;

    if (len > VD_TICKET_INDEX_LEN || (key[0] == '0' && len > 1)) {
        return NULL;
    }

    index = 0;

    for (i = 0; i < len; i++) {

        if (key[i] < '0' || key[i] > '9') {
            return NULL;
        }

        index = index * 10 + (size_t) (key[i] - '0');
    }

    return json_array_get(array, index);
}


static vd_ticket_e
vd_ticket_value(const vd_ticket_t *ticket, json_t *value, unsigned char *out,
    size_t *out_len)
{
    int   len;
    char  digits[sizeof("-9223372036854775808")];

    switch (json_typeof(value)) {

    case JSON_STRING:
        return vd_ticket_text(ticket, json_string_value(value),
                              json_string_length(value), out, out_len);

    case JSON_INTEGER:
        len = snprintf(digits, sizeof(digits), "%" JSON_INTEGER_FORMAT,
                       json_integer_value(value));

        return vd_ticket_text(ticket, digits, (size_t) len, out, out_len);

    default:
        return VD_TICKET_WRONG_TYPE;
    }
}


static vd_ticket_e
vd_ticket_text(const vd_ticket_t *ticket, const char *text, size_t len,
    unsigned char *out, size_t *out_len)
{
    while (len > 0 && vd_ticket_is_space(text[0])) {
        text++;
        len--;
    }

    while (len > 0 && vd_ticket_is_space(text[len - 1])) {
        len--;
    }

    if (len == 0) {
        return VD_TICKET_EMPTY;
    }

    if (len > ticket->max) {
        return VD_TICKET_TOO_LONG;
    }

    if (vd_ticket_has_control(text, len)) {
        return VD_TICKET_BAD_CHARACTERS;
    }

    if (!vd_ticket_matches(ticket, text, len)) {
        return VD_TICKET_NO_MATCH;
    }

    memcpy(out, text, len);
    *out_len = len;

    return VD_TICKET_FOUND;
}


static int
vd_ticket_is_space(char ch)
{
    return ch == ' ' || (ch >= '\t' && ch <= '\r');
}


/* C0 and DEL are bytes of their own in UTF-8, C1 are C2 80 to C2 9F. */

static int
vd_ticket_has_control(const char *text, size_t len)
{
    size_t         i;
    unsigned char  ch, last;

    last = 0;

    for (i = 0; i < len; i++) {
        ch = (unsigned char) text[i];

        if (ch < 0x20 || ch == 0x7f || (last == 0xc2 && ch < 0xa0)) {
            return 1;
        }

        last = ch;
    }

    return 0;
}


/* An error, such as that of a limit, is no match either. */

static int
vd_ticket_matches(const vd_ticket_t *ticket, const char *text, size_t len)
{
    if (ticket->pattern == NULL) {
        return 1;
    }

    return pcre2_match(ticket->pattern, (PCRE2_SPTR) text, len, 0,
                       VD_TICKET_MATCH_OPTIONS, ticket->match_data,
                       ticket->match_context) >= 0;
}


const char *
vd_ticket_error_name(vd_ticket_e error)
{
    return vd_ticket_error_names[error];
}
