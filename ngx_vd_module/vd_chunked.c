
/*
 * Copyright (C) The ngx_vd_module authors
 */


#include "vd_chunked.h"


/* What may come next. */

typedef enum {
    VD_CHUNKED_FIRST_DIGIT = 0,
    VD_CHUNKED_SIZE,
    VD_CHUNKED_BLANK,           /* before an extension */
    VD_CHUNKED_EXTENSION,
    VD_CHUNKED_SIZE_LF,
    VD_CHUNKED_BYTES,
    VD_CHUNKED_BYTES_CR,
    VD_CHUNKED_BYTES_LF,
    VD_CHUNKED_LINE,            /* a trailer, or the empty line */
    VD_CHUNKED_TRAILER,
    VD_CHUNKED_TRAILER_LF,
    VD_CHUNKED_LAST_LF,
    VD_CHUNKED_END,
    VD_CHUNKED_ERROR
} vd_chunked_state_e;


static unsigned vd_chunked_next(vd_chunked_t *chunked, unsigned char ch);
static unsigned vd_chunked_digit(vd_chunked_t *chunked, unsigned char ch);
static unsigned vd_chunked_text(unsigned state, unsigned char ch);


vd_chunked_e
vd_chunked_read(vd_chunked_t *chunked, const unsigned char **p,
    const unsigned char *end, const unsigned char **data, size_t *len)
{
    unsigned  state;

    while (chunked->state != VD_CHUNKED_END) {

        if (*p == end) {
            return VD_CHUNKED_AGAIN;
        }

        if (chunked->state == VD_CHUNKED_BYTES) {
            *data = *p;
            *len = (size_t) (end - *p);

            if (*len >= chunked->size) {
                *len = (size_t) chunked->size;
                chunked->state = VD_CHUNKED_BYTES_CR;
            }

            chunked->size -= *len;
            *p += *len;

            return VD_CHUNKED_DATA;
        }

        state = vd_chunked_next(chunked, **p);

        if (state == VD_CHUNKED_ERROR) {
            return VD_CHUNKED_INVALID;
        }

        chunked->state = state;
        (*p)++;
    }

    return VD_CHUNKED_DONE;
}


static unsigned
vd_chunked_next(vd_chunked_t *chunked, unsigned char ch)
{
    switch (chunked->state) {

    case VD_CHUNKED_SIZE:
        if (ch == '\r') {
            return VD_CHUNKED_SIZE_LF;
        }

        if (ch == ';') {
            return VD_CHUNKED_EXTENSION;
        }

        if (ch == ' ' || ch == '\t') {
            return VD_CHUNKED_BLANK;
        }

        /* fall through */

    case VD_CHUNKED_FIRST_DIGIT:
        return vd_chunked_digit(chunked, ch);

    case VD_CHUNKED_BLANK:
        if (ch == ';') {
            return VD_CHUNKED_EXTENSION;
        }

        return (ch == ' ' || ch == '\t') ? VD_CHUNKED_BLANK : VD_CHUNKED_ERROR;

    case VD_CHUNKED_EXTENSION:
        return (ch == '\r') ? VD_CHUNKED_SIZE_LF
                            : vd_chunked_text(VD_CHUNKED_EXTENSION, ch);

    case VD_CHUNKED_SIZE_LF:
        if (ch != '\n') {
            return VD_CHUNKED_ERROR;
        }

        return chunked->size ? VD_CHUNKED_BYTES : VD_CHUNKED_LINE;

    case VD_CHUNKED_BYTES_CR:
        return (ch == '\r') ? VD_CHUNKED_BYTES_LF : VD_CHUNKED_ERROR;

    case VD_CHUNKED_BYTES_LF:
        return (ch == '\n') ? VD_CHUNKED_FIRST_DIGIT : VD_CHUNKED_ERROR;

    case VD_CHUNKED_LINE:
        return (ch == '\r') ? VD_CHUNKED_LAST_LF
                            : vd_chunked_text(VD_CHUNKED_TRAILER, ch);

    case VD_CHUNKED_TRAILER:
        return (ch == '\r') ? VD_CHUNKED_TRAILER_LF
                            : vd_chunked_text(VD_CHUNKED_TRAILER, ch);

    case VD_CHUNKED_TRAILER_LF:
        return (ch == '\n') ? VD_CHUNKED_LINE : VD_CHUNKED_ERROR;

    default: /* VD_CHUNKED_LAST_LF */
        return (ch == '\n') ? VD_CHUNKED_END : VD_CHUNKED_ERROR;
    }
}


/* Sizes are those of a file's offsets: 63 bits. */

static unsigned
vd_chunked_digit(vd_chunked_t *chunked, unsigned char ch)
{
    unsigned  digit;

    if (ch >= '0' && ch <= '9') {
        digit = ch - '0';

    } else if ((ch | 0x20) >= 'a' && (ch | 0x20) <= 'f') {
        digit = (ch | 0x20) - 'a' + 10;

    } else {
        return VD_CHUNKED_ERROR;
    }

    if (chunked->size > INT64_MAX / 16) {
        return VD_CHUNKED_ERROR;
    }

    chunked->size = chunked->size * 16 + digit;

    return VD_CHUNKED_SIZE;
}


static unsigned
vd_chunked_text(unsigned state, unsigned char ch)
{
    return (ch == '\t' || (ch >= 0x20 && ch != 0x7f)) ? state
                                                      : VD_CHUNKED_ERROR;
}
