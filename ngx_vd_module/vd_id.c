
/*
 * Copyright (C) The ngx_vd_module authors
 */


#include "vd_id.h"

#include <string.h>


static int vd_token_valid(const unsigned char *text, size_t len, size_t max,
    const char *marks);


void
vd_uuid7(unsigned char *out, uint64_t msec, const unsigned char *random)
{
    static const char  hex[] = "0123456789abcdef";

    size_t         i;
    unsigned char  uuid[16];

    for (i = 0; i < 6; i++) {
        uuid[i] = (unsigned char) (msec >> (40 - 8 * i));
    }

    memcpy(uuid + 6, random, VD_UUID_RANDOM);

    uuid[6] = (unsigned char) ((uuid[6] & 0x0f) | 0x70);    /* version 7 */
    uuid[8] = (unsigned char) ((uuid[8] & 0x3f) | 0x80);    /* variant 10 */

    for (i = 0; i < sizeof(uuid); i++) {

        if (i == 4 || i == 6 || i == 8 || i == 10) {
            *out++ = '-';
        }

        *out++ = (unsigned char) hex[uuid[i] >> 4];
        *out++ = (unsigned char) hex[uuid[i] & 0x0f];
    }
}


int
vd_id_valid(const unsigned char *id, size_t len)
{
    return vd_token_valid(id, len, VD_ID_MAX, "-_");
}


int
vd_output_id_valid(const unsigned char *id, size_t len)
{
    return vd_token_valid(id, len, VD_OUTPUT_ID_MAX, "-_.");
}


/* 1 to max letters, digits and marks, whatever the locale. */

static int
vd_token_valid(const unsigned char *text, size_t len, size_t max,
    const char *marks)
{
    size_t         i;
    unsigned char  ch;

    if (len == 0 || len > max) {
        return 0;
    }

    for (i = 0; i < len; i++) {
        ch = text[i];

        if ((ch >= '0' && ch <= '9')
            || (ch >= 'A' && ch <= 'Z')
            || (ch >= 'a' && ch <= 'z'))
        {
            continue;
        }

        if (ch == '\0' || strchr(marks, ch) == NULL) {
            return 0;
        }
    }

    return 1;
}


int
vd_attempt_parse(const unsigned char *text, size_t len)
{
    int     attempt;
    size_t  i;

    attempt = 0;

    for (i = 0; i < len; i++) {

        if (text[i] < '0' || text[i] > '9') {
            return -1;
        }

        attempt = attempt * 10 + (text[i] - '0');

        if (attempt > VD_ATTEMPT_MAX) {
            return -1;
        }
    }

    return attempt > 0 ? attempt : -1;
}


int
vd_retry_after_parse(const unsigned char *text, size_t len)
{
    int     seconds;
    size_t  i;

    if (len == 0) {
        return -1;
    }

    seconds = 0;

    for (i = 0; i < len; i++) {

        if (text[i] < '0' || text[i] > '9') {
            return -1;
        }

        seconds = seconds * 10 + (text[i] - '0');

        if (seconds > VD_RETRY_AFTER_MAX) {
            seconds = VD_RETRY_AFTER_MAX;
        }
    }

    return seconds;
}
