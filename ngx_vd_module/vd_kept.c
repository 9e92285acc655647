
/*
 * Copyright (C) The ngx_vd_module authors
 */


#include "vd_kept.h"

#include <stdint.h>
#include <string.h>
#include <strings.h>


#define VD_KEPT_VERSION     1
#define VD_KEPT_FRAME       5       /* of a value: its kind, two lengths */


static size_t vd_kept_bytes(const vd_kept_t *values, size_t n);
static unsigned char *vd_kept_put(unsigned char *out, const vd_kept_t *value);
static unsigned char *vd_kept_put_length(unsigned char *out, size_t len);
static size_t vd_kept_take_length(const unsigned char *p);
static const unsigned char *vd_kept_next(const unsigned char *p,
    const unsigned char *end, vd_kept_t *value);
static size_t vd_kept_decode(const unsigned char *text, size_t len,
    unsigned char *out);
static int vd_kept_digit(unsigned char ch);


size_t
vd_kept_size(const vd_kept_t *values, size_t n)
{
    return (vd_kept_bytes(values, n) * 4 + 2) / 3;
}


static size_t
vd_kept_bytes(const vd_kept_t *values, size_t n)
{
    size_t  i, len;

    len = 1;

    for (i = 0; i < n; i++) {
        len += VD_KEPT_FRAME + values[i].name_len + values[i].value_len;
    }

    return len;
}


/*
 * The bytes are put at the end of the room, and encoded from its beginning on:
 * what is written never comes past what is yet to be read.
 */

void
vd_kept_write(const vd_kept_t *values, size_t n, unsigned char *out)
{
    static const char  digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                  "abcdefghijklmnopqrstuvwxyz"
                                  "0123456789-_";

    size_t          i, size;
    uint32_t        bits;
    unsigned        nbits;
    unsigned char  *p, *end;

    size = vd_kept_size(values, n);

    p = out + size - vd_kept_bytes(values, n);
    end = p;

    *end++ = VD_KEPT_VERSION;

    for (i = 0; i < n; i++) {
        end = vd_kept_put(end, &values[i]);
    }

    bits = 0;
    nbits = 0;

    while (p < end) {
        bits = bits << 8 | *p++;
        nbits += 8;

        while (nbits >= 6) {
            nbits -= 6;
            *out++ = (unsigned char) digits[bits >> nbits & 0x3f];
        }
    }

    if (nbits > 0) {
        *out = (unsigned char) digits[bits << (6 - nbits) & 0x3f];
    }
}


static unsigned char *
vd_kept_put(unsigned char *out, const vd_kept_t *value)
{
    *out++ = (unsigned char) value->kind;

    out = vd_kept_put_length(out, value->name_len);
    out = vd_kept_put_length(out, value->value_len);

    if (value->name_len > 0) {
        memcpy(out, value->name, value->name_len);
        out += value->name_len;
    }

    if (value->value_len > 0) {
        memcpy(out, value->value, value->value_len);
        out += value->value_len;
    }

    return out;
}


static unsigned char *
vd_kept_put_length(unsigned char *out, size_t len)
{
    *out++ = (unsigned char) (len >> 8);
    *out++ = (unsigned char) len;

    return out;
}


size_t
vd_kept_read(const unsigned char *text, size_t len, unsigned char *out)
{
    vd_kept_t             value;
    const unsigned char  *p, *end;

    if (len > VD_KEPT_MAX) {
        return 0;
    }

    len = vd_kept_decode(text, len, out);

    if (len == 0 || out[0] != VD_KEPT_VERSION) {
        return 0;
    }

    p = out + 1;
    end = out + len;

    while (p < end) {
        p = vd_kept_next(p, end, &value);

        if (p == NULL) {
            return 0;
        }
    }

    return len;
}


int
vd_kept_find(const unsigned char *data, size_t len, vd_kept_kind_e kind,
    const unsigned char *name, size_t name_len, vd_kept_t *found)
{
    const unsigned char  *p, *end;

    if (len == 0) {
        return 0;
    }

    p = data + 1;
    end = data + len;

    while (p != NULL && p < end) {
        p = vd_kept_next(p, end, found);

        if (p != NULL
            && (found->kind == kind
                || (found->kind == VD_KEPT_NUMBERED && kind == VD_KEPT_HEADER))
            && found->name_len == name_len
            && (name_len == 0
                || strncasecmp((const char *) found->name, (const char *) name,
                               name_len)
                   == 0))
        {
            return 1;
        }
    }

    return 0;
}


/* What follows the value at p; NULL if it is none. */

static const unsigned char *
vd_kept_next(const unsigned char *p, const unsigned char *end,
    vd_kept_t *value)
{
    int  named;

    if (end - p < VD_KEPT_FRAME) {
        return NULL;
    }

    switch (p[0]) {

    case VD_KEPT_CASE:
    case VD_KEPT_TYPE:
        named = 0;
        break;

    case VD_KEPT_HEADER:
    case VD_KEPT_NUMBERED:
        named = 1;
        break;

    default:
        return NULL;
    }

    value->kind = (vd_kept_kind_e) p[0];
    value->name_len = vd_kept_take_length(p + 1);
    value->value_len = vd_kept_take_length(p + 3);

    p += VD_KEPT_FRAME;

    if ((size_t) (end - p) < value->name_len + value->value_len
        || (value->name_len > 0) != named)
    {
        return NULL;
    }

    value->name = p;
    value->value = p + value->name_len;

    return value->value + value->value_len;
}


static size_t
vd_kept_take_length(const unsigned char *p)
{
    return (size_t) p[0] << 8 | p[1];
}


/* There is one text for each bytes: no padding, no bits that are left over. */

static size_t
vd_kept_decode(const unsigned char *text, size_t len, unsigned char *out)
{
    int             digit;
    size_t          i;
    uint32_t        bits;
    unsigned        nbits;
    unsigned char  *p;

    p = out;
    bits = 0;
    nbits = 0;

    for (i = 0; i < len; i++) {

        digit = vd_kept_digit(text[i]);
        if (digit == -1) {
            return 0;
        }

        bits = bits << 6 | (uint32_t) digit;
        nbits += 6;

        if (nbits >= 8) {
            nbits -= 8;
            *p++ = (unsigned char) (bits >> nbits);
        }
    }

    if (nbits == 6 || (bits & ((1u << nbits) - 1)) != 0) {
        return 0;
    }

    return (size_t) (p - out);
}


static int
vd_kept_digit(unsigned char ch)
{
    if (ch >= 'A' && ch <= 'Z') {
        return ch - 'A';
    }

    if (ch >= 'a' && ch <= 'z') {
        return ch - 'a' + 26;
    }

    if (ch >= '0' && ch <= '9') {
        return ch - '0' + 52;
    }

    return (ch == '-') ? 62 : (ch == '_') ? 63 : -1;
}
