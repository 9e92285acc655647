
/*
 * Copyright (C) The ngx_vd_module authors
 */


#include "vd_json.h"

#include <string.h>

#include "vd_bytes.h"


/*
 * What may come next.  The order matters: the states of a kind stand
 * together, and each kind has a function that takes as many of its bytes as
 * there are.
 */

typedef enum {

    /* between tokens, where white space may come */

    VD_JSON_VALUE = 0,
    VD_JSON_FIRST_ITEM,         /* or the array's end */
    VD_JSON_FIRST_KEY,          /* or the object's end */
    VD_JSON_KEY,
    VD_JSON_COLON,
    VD_JSON_AFTER_ITEM,
    VD_JSON_AFTER_MEMBER,
    VD_JSON_DONE,

    /* in a string; word is the state behind it */

    VD_JSON_STRING,
    VD_JSON_ESCAPE,
    VD_JSON_HEX1,               /* that many hex digits to come */
    VD_JSON_HEX2,
    VD_JSON_HEX3,
    VD_JSON_HEX4,
    VD_JSON_TAIL1,              /* that many bytes of a character to come */
    VD_JSON_TAIL2,
    VD_JSON_TAIL3,
    VD_JSON_TAIL_E0,            /* all of a character behind that byte */
    VD_JSON_TAIL_ED,
    VD_JSON_TAIL_F0,
    VD_JSON_TAIL_F4,

    /* in a number, behind what the name says */

    VD_JSON_MINUS,
    VD_JSON_ZERO,
    VD_JSON_INTEGER,
    VD_JSON_POINT,
    VD_JSON_FRACTION,
    VD_JSON_E,
    VD_JSON_SIGN,
    VD_JSON_EXPONENT,

    /* in true, false or null; word is what is left of it */

    VD_JSON_LITERAL,

    /* the end of a string, of a number: at once replaced */

    VD_JSON_STRING_END,
    VD_JSON_NUMBER_END,

    VD_JSON_UNEXPECTED,         /* this and all that follow are errors */
    VD_JSON_TRAILING,
    VD_JSON_TOO_DEEP,
    VD_JSON_CONTROL,
    VD_JSON_NOT_UTF8,
    VD_JSON_NO_ESCAPE
} vd_json_state_e;


typedef struct {
    uint8_t  first;
    uint8_t  last;
    uint8_t  next;
} vd_json_tail_t;


/* What is left of a literal, its next byte lowest. */

#define vd_json_rest(a, b, c, d)                                              \
    ((uint32_t) (a) | (uint32_t) (b) << 8 | (uint32_t) (c) << 16              \
     | (uint32_t) (d) << 24)

#define VD_JSON_REST_TRUE   vd_json_rest('r', 'u', 'e', 0)
#define VD_JSON_REST_FALSE  vd_json_rest('a', 'l', 's', 'e')
#define VD_JSON_REST_NULL   vd_json_rest('u', 'l', 'l', 0)

#define vd_json_digit(ch)   ((ch) >= '0' && (ch) <= '9')


static const unsigned char *vd_json_tokens(vd_json_t *json,
    const unsigned char *p, const unsigned char *end);
static unsigned vd_json_token(vd_json_t *json, unsigned state,
    unsigned char ch);
static unsigned vd_json_value(vd_json_t *json, unsigned char ch);
static unsigned vd_json_begin(vd_json_t *json, unsigned state, uint32_t word);
static unsigned vd_json_open(vd_json_t *json, unsigned object);
static unsigned vd_json_close(vd_json_t *json);
static unsigned vd_json_behind_value(const vd_json_t *json);
static const unsigned char *vd_json_string(vd_json_t *json,
    const unsigned char *p, const unsigned char *end);
static const unsigned char *vd_json_plain(const unsigned char *p,
    const unsigned char *end);
static unsigned vd_json_string_next(unsigned state, unsigned char ch);
static unsigned vd_json_escape_next(unsigned state, unsigned char ch);
static const unsigned char *vd_json_number(vd_json_t *json,
    const unsigned char *p, const unsigned char *end);
static unsigned vd_json_number_next(unsigned state, unsigned char ch);
static const unsigned char *vd_json_literal(vd_json_t *json,
    const unsigned char *p, const unsigned char *end);


static const char *const  vd_json_errors[] = {
    [VD_JSON_UNEXPECTED - VD_JSON_UNEXPECTED] = "unexpected character",
    [VD_JSON_TRAILING - VD_JSON_UNEXPECTED] = "trailing data",
    [VD_JSON_TOO_DEEP - VD_JSON_UNEXPECTED] = "nested too deeply",
    [VD_JSON_CONTROL - VD_JSON_UNEXPECTED] = "control character in string",
    [VD_JSON_NOT_UTF8 - VD_JSON_UNEXPECTED] = "invalid UTF-8",
    [VD_JSON_NO_ESCAPE - VD_JSON_UNEXPECTED] = "invalid escape"
};


/* A string's bytes: the state behind each (RFC 3629, 4). */

#define OK  VD_JSON_STRING
#define QU  VD_JSON_STRING_END
#define ES  VD_JSON_ESCAPE
#define CC  VD_JSON_CONTROL
#define XX  VD_JSON_NOT_UTF8
#define T1  VD_JSON_TAIL1
#define T2  VD_JSON_TAIL2
#define T3  VD_JSON_TAIL3
#define E0  VD_JSON_TAIL_E0
#define ED  VD_JSON_TAIL_ED
#define F0  VD_JSON_TAIL_F0
#define F4  VD_JSON_TAIL_F4

static const uint8_t  vd_json_bytes[256] = {
    CC, CC, CC, CC, CC, CC, CC, CC, CC, CC, CC, CC, CC, CC, CC, CC,  /* 00 */
    CC, CC, CC, CC, CC, CC, CC, CC, CC, CC, CC, CC, CC, CC, CC, CC,  /* 10 */
    OK, OK, QU, OK, OK, OK, OK, OK, OK, OK, OK, OK, OK, OK, OK, OK,  /* 20 */
    OK, OK, OK, OK, OK, OK, OK, OK, OK, OK, OK, OK, OK, OK, OK, OK,  /* 30 */
    OK, OK, OK, OK, OK, OK, OK, OK, OK, OK, OK, OK, OK, OK, OK, OK,  /* 40 */
    OK, OK, OK, OK, OK, OK, OK, OK, OK, OK, OK, OK, ES, OK, OK, OK,  /* 50 */
    OK, OK, OK, OK, OK, OK, OK, OK, OK, OK, OK, OK, OK, OK, OK, OK,  /* 60 */
    OK, OK, OK, OK, OK, OK, OK, OK, OK, OK, OK, OK, OK, OK, OK, OK,  /* 70 */
    XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX,  /* 80 */
    XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX,  /* 90 */
    XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX,  /* a0 */
    XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX,  /* b0 */
    XX, XX, T1, T1, T1, T1, T1, T1, T1, T1, T1, T1, T1, T1, T1, T1,  /* c0 */
    T1, T1, T1, T1, T1, T1, T1, T1, T1, T1, T1, T1, T1, T1, T1, T1,  /* d0 */
    E0, T2, T2, T2, T2, T2, T2, T2, T2, T2, T2, T2, T2, ED, T2, T2,  /* e0 */
    F0, T3, T3, T3, F4, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX   /* f0 */
};

static const vd_json_tail_t  vd_json_tails[] = {
    [VD_JSON_TAIL1 - VD_JSON_TAIL1] = { 0x80, 0xbf, VD_JSON_STRING },
    [VD_JSON_TAIL2 - VD_JSON_TAIL1] = { 0x80, 0xbf, VD_JSON_TAIL1 },
    [VD_JSON_TAIL3 - VD_JSON_TAIL1] = { 0x80, 0xbf, VD_JSON_TAIL2 },
    [VD_JSON_TAIL_E0 - VD_JSON_TAIL1] = { 0xa0, 0xbf, VD_JSON_TAIL1 },
    [VD_JSON_TAIL_ED - VD_JSON_TAIL1] = { 0x80, 0x9f, VD_JSON_TAIL1 },
    [VD_JSON_TAIL_F0 - VD_JSON_TAIL1] = { 0x90, 0xbf, VD_JSON_TAIL2 },
    [VD_JSON_TAIL_F4 - VD_JSON_TAIL1] = { 0x80, 0x8f, VD_JSON_TAIL2 }
};


void
vd_json_start(vd_json_t *json)
{
    memset(json, 0, sizeof(vd_json_t));

    json->max_depth = VD_JSON_MAX_DEPTH;
}


int
vd_json_feed(vd_json_t *json, const unsigned char *text, size_t len)
{
    const unsigned char  *p, *end;

    if (json->error != NULL) {
        return -1;
    }

    if (len == 0) {
        return 0;
    }

    p = text;
    end = text + len;

    do {
        if (json->state <= VD_JSON_DONE) {
            p = vd_json_tokens(json, p, end);

        } else if (json->state < VD_JSON_MINUS) {
            p = vd_json_string(json, p, end);

        } else if (json->state < VD_JSON_LITERAL) {
            p = vd_json_number(json, p, end);

        } else {
            p = vd_json_literal(json, p, end);
        }

    } while (p != end && json->state < VD_JSON_UNEXPECTED);

    json->offset += (size_t) (p - text);

    if (json->state >= VD_JSON_UNEXPECTED) {
        json->error = vd_json_errors[json->state - VD_JSON_UNEXPECTED];
        return -1;
    }

    return 0;
}


int
vd_json_finish(vd_json_t *json)
{
    if (json->error != NULL) {
        return -1;
    }

    switch (json->state) {

    case VD_JSON_DONE:
        return 0;

    case VD_JSON_ZERO:
    case VD_JSON_INTEGER:
    case VD_JSON_FRACTION:
    case VD_JSON_EXPONENT:
        if (json->depth == 0) {
            return 0;
        }

        break;

    default:
        break;
    }

    json->error = "unexpected end";
    return -1;
}


static const unsigned char *
vd_json_tokens(vd_json_t *json, const unsigned char *p,
    const unsigned char *end)
{
    unsigned  state;

    state = json->state;

    do {
        if (*p == ' ' || *p == '\n' || *p == '\r' || *p == '\t') {
            continue;
        }

        state = vd_json_token(json, state, *p);

        if (state >= VD_JSON_UNEXPECTED) {
            break;
        }

    } while (++p != end && state <= VD_JSON_DONE);

    json->state = state;

    return p;
}


/* A token, or the first byte of a longer one. */

static unsigned
vd_json_token(vd_json_t *json, unsigned state, unsigned char ch)
{
    switch (state) {

    case VD_JSON_FIRST_ITEM:
        if (ch == ']') {
            return vd_json_close(json);
        }

        /* fall through */

    case VD_JSON_VALUE:
        return vd_json_value(json, ch);

    case VD_JSON_FIRST_KEY:
        if (ch == '}') {
            return vd_json_close(json);
        }

        /* fall through */

    case VD_JSON_KEY:
        return (ch == '"')
               ? vd_json_begin(json, VD_JSON_STRING, VD_JSON_COLON)
               : VD_JSON_UNEXPECTED;

    case VD_JSON_COLON:
        return (ch == ':') ? VD_JSON_VALUE : VD_JSON_UNEXPECTED;

    case VD_JSON_AFTER_ITEM:
        return (ch == ',') ? VD_JSON_VALUE
               : (ch == ']') ? vd_json_close(json) : VD_JSON_UNEXPECTED;

    case VD_JSON_AFTER_MEMBER:
        return (ch == ',') ? VD_JSON_KEY
               : (ch == '}') ? vd_json_close(json) : VD_JSON_UNEXPECTED;

    default: /* VD_JSON_DONE */
        return VD_JSON_TRAILING;
    }
}


static unsigned
vd_json_value(vd_json_t *json, unsigned char ch)
{
    switch (ch) {

    case '"':
        return vd_json_begin(json, VD_JSON_STRING,
                             vd_json_behind_value(json));

    case '{':
        return vd_json_open(json, 1);

    case '[':
        return vd_json_open(json, 0);

    case 't':
        return vd_json_begin(json, VD_JSON_LITERAL, VD_JSON_REST_TRUE);

    case 'f':
        return vd_json_begin(json, VD_JSON_LITERAL, VD_JSON_REST_FALSE);

    case 'n':
        return vd_json_begin(json, VD_JSON_LITERAL, VD_JSON_REST_NULL);

    case '-':
        return VD_JSON_MINUS;

    default:
        return vd_json_number_next(VD_JSON_MINUS, ch);
    }
}


static unsigned
vd_json_begin(vd_json_t *json, unsigned state, uint32_t word)
{
    json->word = word;

    return state;
}


static unsigned
vd_json_open(vd_json_t *json, unsigned object)
{
    uint8_t  *byte, bit;

    if (json->depth == json->max_depth) {
        return VD_JSON_TOO_DEEP;
    }

    byte = &json->stack[json->depth / 8];
    bit = (uint8_t) (1 << json->depth % 8);

    *byte = (uint8_t) (object ? *byte | bit : *byte & ~bit);

    json->depth++;

    return object ? VD_JSON_FIRST_KEY : VD_JSON_FIRST_ITEM;
}


static unsigned
vd_json_close(vd_json_t *json)
{
    json->depth--;

    return vd_json_behind_value(json);
}


static unsigned
vd_json_behind_value(const vd_json_t *json)
{
    unsigned  level;

    if (json->depth == 0) {
        return VD_JSON_DONE;
    }

    level = json->depth - 1;

    return (json->stack[level / 8] >> level % 8 & 1) ? VD_JSON_AFTER_MEMBER
                                                     : VD_JSON_AFTER_ITEM;
}


static const unsigned char *
vd_json_string(vd_json_t *json, const unsigned char *p,
    const unsigned char *end)
{
    unsigned  state;

    state = json->state;

    for ( ;; ) {

        if (state == VD_JSON_STRING) {
            p = vd_json_plain(p, end);
        }

        if (p == end) {
            break;
        }

        state = vd_json_string_next(state, *p);

        if (state == VD_JSON_STRING_END) {
            state = json->word;
            p++;
            break;
        }

        if (state >= VD_JSON_UNEXPECTED) {
            break;
        }

        p++;
    }

    json->state = state;

    return p;
}


/* Passes over bytes that mean nothing but themselves, eight at a time. */

static const unsigned char *
vd_json_plain(const unsigned char *p, const unsigned char *end)
{
    uint64_t  bytes, special;

    while (end - p >= 8) {
        bytes = vd_bytes_load(p);
        special = vd_bytes_wide(bytes) | vd_bytes_escaped(bytes);

        if (special) {
            return p + vd_bytes_before(special);
        }

        p += 8;
    }

    while (p != end && vd_json_bytes[*p] == VD_JSON_STRING) {
        p++;
    }

    return p;
}


static unsigned
vd_json_string_next(unsigned state, unsigned char ch)
{
    const vd_json_tail_t  *tail;

    if (state == VD_JSON_STRING) {
        return vd_json_bytes[ch];
    }

    if (state < VD_JSON_TAIL1) {
        return vd_json_escape_next(state, ch);
    }

    tail = &vd_json_tails[state - VD_JSON_TAIL1];

    return (ch >= tail->first && ch <= tail->last) ? tail->next
                                                   : VD_JSON_NOT_UTF8;
}


static unsigned
vd_json_escape_next(unsigned state, unsigned char ch)
{
    if (state != VD_JSON_ESCAPE) {

        if (vd_json_digit(ch) || ((ch | 0x20) >= 'a' && (ch | 0x20) <= 'f')) {
            return (state == VD_JSON_HEX1) ? VD_JSON_STRING : state - 1;
        }

        return VD_JSON_NO_ESCAPE;
    }

    switch (ch) {

    case '"': case '\\': case '/':
    case 'b': case 'f': case 'n': case 'r': case 't':
        return VD_JSON_STRING;

    case 'u':
        return VD_JSON_HEX4;

    default:
        return VD_JSON_NO_ESCAPE;
    }
}


static const unsigned char *
vd_json_number(vd_json_t *json, const unsigned char *p,
    const unsigned char *end)
{
    unsigned  state;

    state = json->state;

    do {
        state = vd_json_number_next(state, *p);

        if (state >= VD_JSON_NUMBER_END) {
            break;
        }

        p++;

        if (state == VD_JSON_INTEGER || state == VD_JSON_FRACTION) {

            while (p != end && vd_json_digit(*p)) {
                p++;
            }
        }

    } while (p != end);

    json->state = (state == VD_JSON_NUMBER_END) ? vd_json_behind_value(json)
                                                : state;
    return p;
}


static unsigned
vd_json_number_next(unsigned state, unsigned char ch)
{
    switch (state) {

    case VD_JSON_MINUS:
        return (ch == '0') ? VD_JSON_ZERO
               : vd_json_digit(ch) ? VD_JSON_INTEGER : VD_JSON_UNEXPECTED;

    case VD_JSON_INTEGER:
        if (vd_json_digit(ch)) {
            return VD_JSON_INTEGER;
        }

        /* fall through */

    case VD_JSON_ZERO:
        if (ch == '.') {
            return VD_JSON_POINT;
        }

        return (ch == 'e' || ch == 'E') ? VD_JSON_E : VD_JSON_NUMBER_END;

    case VD_JSON_POINT:
        return vd_json_digit(ch) ? VD_JSON_FRACTION : VD_JSON_UNEXPECTED;

    case VD_JSON_FRACTION:
        if (vd_json_digit(ch)) {
            return VD_JSON_FRACTION;
        }

        return (ch == 'e' || ch == 'E') ? VD_JSON_E : VD_JSON_NUMBER_END;

    case VD_JSON_E:
        if (ch == '+' || ch == '-') {
            return VD_JSON_SIGN;
        }

        /* fall through */

    case VD_JSON_SIGN:
        return vd_json_digit(ch) ? VD_JSON_EXPONENT : VD_JSON_UNEXPECTED;

    default: /* VD_JSON_EXPONENT */
        return vd_json_digit(ch) ? VD_JSON_EXPONENT : VD_JSON_NUMBER_END;
    }
}


static const unsigned char *
vd_json_literal(vd_json_t *json, const unsigned char *p,
    const unsigned char *end)
{
    do {
        if (*p != (json->word & 0xff)) {
            json->state = VD_JSON_UNEXPECTED;
            return p;
        }

        p++;
        json->word >>= 8;

    } while (json->word != 0 && p != end);

    if (json->word == 0) {
        json->state = vd_json_behind_value(json);
    }

    return p;
}
