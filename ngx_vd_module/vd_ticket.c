
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

#include "vd_json.h"


/*
 * What a match may cost, in steps of the matcher and in KiB: an honest pattern
 * takes some steps for each byte, a catastrophic one ends within a
 * millisecond.
 */

#define VD_TICKET_MATCH_LIMIT  25000
#define VD_TICKET_HEAP_LIMIT   1024

/* JIT code has a stack instead, of 32 KiB where nobody gives it one. */

#define VD_TICKET_STACK_MIN    (32 * 1024)
#define VD_TICKET_STACK_MAX    (VD_TICKET_HEAP_LIMIT * 1024)

#define VD_TICKET_BOM          "\xef\xbb\xbf"

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
    pcre2_jit_stack      *jit_stack;
};


/* A value in a text that is known to be JSON, from its first byte on. */

typedef struct {
    const unsigned char  *start;
    const unsigned char  *end;
} vd_ticket_json_t;


static int vd_ticket_empty_segment(const unsigned char *path, size_t len);
static int vd_ticket_is_json(const vd_ticket_json_t *json);
static vd_ticket_e vd_ticket_walk(vd_ticket_json_t *json,
    const vd_ticket_path_t *path);
static vd_ticket_e vd_ticket_member(vd_ticket_json_t *json, const char *key,
    size_t len);
static int vd_ticket_is_key(const vd_ticket_json_t *name, const char *key,
    size_t len);
static vd_ticket_e vd_ticket_item(vd_ticket_json_t *json, const char *key,
    size_t len);
static const unsigned char *vd_ticket_take(vd_ticket_json_t *value,
    const unsigned char *p, const unsigned char *end);
static const unsigned char *vd_ticket_skip(const unsigned char *p,
    const unsigned char *end);
static const unsigned char *vd_ticket_skip_string(const unsigned char *p);
static const unsigned char *vd_ticket_skip_blanks(const unsigned char *p,
    const unsigned char *end);
static json_t *vd_ticket_decode(const vd_ticket_json_t *value);
static vd_ticket_e vd_ticket_value(const vd_ticket_t *ticket,
    const vd_ticket_json_t *json, unsigned char *out, size_t *out_len);
static vd_ticket_e vd_ticket_scalar(const vd_ticket_t *ticket, json_t *value,
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
    pcre2_jit_stack_free(ticket->jit_stack);

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

    if (ticket->jit_stack == NULL) {
        ticket->jit_stack = pcre2_jit_stack_create(VD_TICKET_STACK_MIN,
                                                   VD_TICKET_STACK_MAX, NULL);
    }

    pcre2_jit_stack_assign(ticket->match_context, NULL, ticket->jit_stack);

    return 0;
}


vd_ticket_e
vd_ticket_find(const vd_ticket_t *ticket, const unsigned char *reply,
    size_t len, unsigned char *out, size_t *out_len)
{
    size_t            i;
    vd_ticket_e       rc, error;
    vd_ticket_json_t  json, value;

    if (len == 0) {
        return VD_TICKET_NOT_JSON;
    }

    json.start = reply;
    json.end = reply + len;

    if (len >= sizeof(VD_TICKET_BOM) - 1
        && memcmp(reply, VD_TICKET_BOM, sizeof(VD_TICKET_BOM) - 1) == 0)
    {
        /* RFC 8259, 8.1: a parser may pass over it */
        json.start += sizeof(VD_TICKET_BOM) - 1;
    }

    if (!vd_ticket_is_json(&json)) {
        return VD_TICKET_NOT_JSON;
    }

    json.start = vd_ticket_skip_blanks(json.start, json.end);

    error = VD_TICKET_MISSING;

    for (i = 0; i < ticket->npaths; i++) {

        value = json;
        rc = vd_ticket_walk(&value, &ticket->paths[i]);

        if (rc == VD_TICKET_FOUND) {
            rc = vd_ticket_value(ticket, &value, out, out_len);
        }

        if (rc == VD_TICKET_FOUND) {
            return rc;
        }

        if (error == VD_TICKET_MISSING) {
            error = rc;
        }
    }

    return error;
}


/*
 * The grammar alone: what a reply holds besides the ticket id may be a number
 * that no parser can take, half a surrogate pair or a key that comes twice.
 */

static int
vd_ticket_is_json(const vd_ticket_json_t *json)
{
    vd_json_t  scanner;

    vd_json_start(&scanner);

    scanner.max_depth = VD_JSON_FULL_DEPTH;

    return vd_json_feed(&scanner, json->start,
                        (size_t) (json->end - json->start))
           == 0
           && vd_json_finish(&scanner) == 0;
}


/* VD_TICKET_FOUND: json is what the path leads to. */

static vd_ticket_e
vd_ticket_walk(vd_ticket_json_t *json, const vd_ticket_path_t *path)
{
    size_t        len;
    const char   *key, *dot, *end;
    vd_ticket_e   rc;

    key = path->text;
    end = path->text + path->len;

    for ( ;; ) {
        dot = memchr(key, '.', (size_t) (end - key));
        len = (size_t) ((dot == NULL ? end : dot) - key);

        if (*json->start == '{') {
            rc = vd_ticket_member(json, key, len);

        } else if (*json->start == '[') {
            rc = vd_ticket_item(json, key, len);

        } else {
            rc = VD_TICKET_MISSING;
        }

        if (rc != VD_TICKET_FOUND || dot == NULL) {
            return rc;
        }

        key = dot + 1;
    }
}


/* Which of two that are called the same is meant nobody can say. */

static vd_ticket_e
vd_ticket_member(vd_ticket_json_t *json, const char *key, size_t len)
{
    const unsigned char  *p;
    vd_ticket_json_t      name, value, found;

    found.start = NULL;

    p = vd_ticket_skip_blanks(json->start + 1, json->end);

    while (*p != '}') {
        p = vd_ticket_take(&name, p, json->end);
        p = vd_ticket_take(&value, p, json->end);

        if (vd_ticket_is_key(&name, key, len)) {

            if (found.start != NULL) {
                return VD_TICKET_NOT_JSON;
            }

            found = value;
        }
    }

    if (found.start == NULL) {
        return VD_TICKET_MISSING;
    }

    *json = found;

    return VD_TICKET_FOUND;
}


/* An escape is at least twice, and at most six times as long as its byte. */

static int
vd_ticket_is_key(const vd_ticket_json_t *name, const char *key, size_t len)
{
    int                   same;
    size_t                size;
    json_t               *string;
    const unsigned char  *text;

    text = name->start + 1;
    size = (size_t) (name->end - name->start) - 2;

    if (memchr(text, '\\', size) == NULL) {
        return size == len && memcmp(text, key, len) == 0;
    }

    if (size <= len || size / 6 > len) {
        return 0;
    }

    string = vd_ticket_decode(name);

    same = (json_string_length(string) == len
            && memcmp(json_string_value(string), key, len) == 0);

    json_decref(string);

    return same;
}


static vd_ticket_e
vd_ticket_item(vd_ticket_json_t *json, const char *key, size_t len)
{
    size_t                i, index;
    vd_ticket_json_t      value;
    const unsigned char  *p;

    if (len > VD_TICKET_INDEX_LEN || (key[0] == '0' && len > 1)) {
        return VD_TICKET_MISSING;
    }

    index = 0;

    for (i = 0; i < len; i++) {

        if (key[i] < '0' || key[i] > '9') {
            return VD_TICKET_MISSING;
        }

        index = index * 10 + (size_t) (key[i] - '0');
    }

    p = vd_ticket_skip_blanks(json->start + 1, json->end);

    for (i = 0; *p != ']'; i++) {
        p = vd_ticket_take(&value, p, json->end);

        if (i == index) {
            *json = value;
            return VD_TICKET_FOUND;
        }
    }

    return VD_TICKET_MISSING;
}


/* The value at p, in an array or object; returns what follows its separator. */

static const unsigned char *
vd_ticket_take(vd_ticket_json_t *value, const unsigned char *p,
    const unsigned char *end)
{
    value->start = p;
    value->end = vd_ticket_skip(p, end);

    p = vd_ticket_skip_blanks(value->end, end);

    if (*p == ',' || *p == ':') {
        p = vd_ticket_skip_blanks(p + 1, end);
    }

    return p;
}


/* Behind the value at p, in a text that is JSON. */

static const unsigned char *
vd_ticket_skip(const unsigned char *p, const unsigned char *end)
{
    size_t  depth;

    depth = 0;

    do {
        switch (*p) {

        case '"':
            p = vd_ticket_skip_string(p);
            break;

        case '{':
        case '[':
            depth++;
            p++;
            break;

        case '}':
        case ']':
            depth--;
            p++;
            break;

        case ',':
        case ':':
        case ' ':
        case '\t':
        case '\r':
        case '\n':
            p++;
            break;

        default: /* a number or a literal */

            while (p < end && strchr(",]} \t\r\n", *p) == NULL) {
                p++;
            }
        }

    } while (depth > 0);

    return p;
}


static const unsigned char *
vd_ticket_skip_string(const unsigned char *p)
{
    for (p++; *p != '"'; p++) {
        if (*p == '\\') {
            p++;
        }
    }

    return p + 1;
}


static const unsigned char *
vd_ticket_skip_blanks(const unsigned char *p, const unsigned char *end)
{
    while (p < end && (*p == ' ' || *p == '\t' || *p == '\r' || *p == '\n')) {
        p++;
    }

    return p;
}


/* A string or a number; NULL where it cannot be represented. */

static json_t *
vd_ticket_decode(const vd_ticket_json_t *value)
{
    return json_loadb((const char *) value->start,
                      (size_t) (value->end - value->start),
                      JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
}


static vd_ticket_e
vd_ticket_value(const vd_ticket_t *ticket, const vd_ticket_json_t *json,
    unsigned char *out, size_t *out_len)
{
    json_t       *value;
    vd_ticket_e   rc;

    if (*json->start == '{' || *json->start == '[') {
        return VD_TICKET_WRONG_TYPE;
    }

    value = vd_ticket_decode(json);

    if (value == NULL) {
        return (*json->start == '"') ? VD_TICKET_NOT_JSON
                                     : VD_TICKET_WRONG_TYPE;
    }

    rc = vd_ticket_scalar(ticket, value, out, out_len);

    json_decref(value);

    return rc;
}


static vd_ticket_e
vd_ticket_scalar(const vd_ticket_t *ticket, json_t *value, unsigned char *out,
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
