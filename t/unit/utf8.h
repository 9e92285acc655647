
/*
 * Copyright (C) The ngx_vd_module authors
 *
 * UTF-8 by arithmetic, to hold against code that goes by the bytes.
 */


#ifndef VD_TEST_UTF8_H_INCLUDED_
#define VD_TEST_UTF8_H_INCLUDED_


#include <stddef.h>
#include <stdint.h>
#include <string.h>


/*
 * May these bytes begin a character: is there a code point that has them in
 * front, and for which no fewer would do?  Of how many bytes it is.
 */

static inline int
utf8_begins(const unsigned char *p, size_t len, size_t *whole)
{
    size_t                 i, n;
    uint32_t               first, last;
    static const uint32_t  least[] = { 0, 0, 0x80, 0x800, 0x10000, 0x110000 };

    n = (p[0] < 0x80) ? 1 : (p[0] < 0xc0) ? 0 : (p[0] < 0xe0) ? 2
        : (p[0] < 0xf0) ? 3 : (p[0] < 0xf8) ? 4 : 0;

    *whole = n;

    if (n <= 1 || len > n) {
        return n == 1 && len == 1;
    }

    first = p[0] & (0x7f >> n);

    for (i = 1; i < len; i++) {

        if ((p[i] & 0xc0) != 0x80) {
            return 0;
        }

        first = first << 6 | (p[i] & 0x3f);
    }

    last = ((first + 1) << 6 * (n - len)) - 1;
    first <<= 6 * (n - len);

    return last >= least[n] && first < least[n + 1]
           && !(first >= 0xd800 && last <= 0xdfff);
}


/* The bytes of a character, or those for which there is one U+FFFD. */

static inline size_t
utf8_next(const unsigned char *p, size_t len, int *valid)
{
    size_t  n, whole;

    n = 1;

    while (n < len && utf8_begins(p, n + 1, &whole)) {
        n++;
    }

    *valid = utf8_begins(p, n, &whole) && n == whole;

    return n;
}


/* Writes at most three times as much, and returns how much. */

static inline size_t
utf8_repair(const unsigned char *p, size_t len, unsigned char *out)
{
    int             valid;
    size_t          n;
    unsigned char  *start;

    start = out;

    while (len > 0) {
        n = utf8_next(p, len, &valid);

        if (valid) {
            memcpy(out, p, n);
            out += n;

        } else {
            memcpy(out, "\xef\xbf\xbd", 3);
            out += 3;
        }

        p += n;
        len -= n;
    }

    return (size_t) (out - start);
}


#endif /* VD_TEST_UTF8_H_INCLUDED_ */
