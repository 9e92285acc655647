
/*
 * Copyright (C) The ngx_vd_module authors
 */


#include "vd_record.h"

#include <string.h>
#include <time.h>

#include <openssl/evp.h>
#include <zlib.h>

#include "vd_bytes.h"
#include "vd_id.h"


/* All of a record but its strings, with its numbers as long as can be. */

#define VD_RECORD_FRAME       512

/* What a byte of a string may become: \u00XX. */

#define VD_RECORD_ESCAPE_MAX  6

#define vd_key(name)          ",\"" name "\":"

#define VD_RECORD_REPLACED    "\xef\xbf\xbd"    /* U+FFFD */

/* 9999-12-31T23:59:59.999Z, the last time that RFC 3339 can tell */

#define VD_RECORD_TIME_MAX    253402300799999

/* Bytes that are encoded at once: whole groups of three, and an int's worth. */

#define VD_RECORD_BASE64      (3 << 20)


typedef struct {
    unsigned char  len;
    char           text[7];
} vd_escape_t;


static size_t vd_record_body_size(vd_record_t *record);
static vd_text_t vd_record_word(const char *word);
static vd_text_t vd_record_response(const vd_record_t *record);
static unsigned char *vd_write_body(unsigned char *out,
    const vd_record_t *record);
static unsigned char *vd_write_base64(unsigned char *out, vd_text_t text);
static unsigned char *vd_write_known(unsigned char *out, const char *key,
    vd_text_t text);
static unsigned char *vd_write_text(unsigned char *out, const char *key,
    vd_text_t text);
static unsigned char *vd_write_escaped(unsigned char *out,
    const unsigned char *p, const unsigned char *end);
static unsigned char *vd_write_number(unsigned char *out, const char *key,
    uint64_t number);
static unsigned char *vd_write_null(unsigned char *out, const char *key);
static unsigned char *vd_write_time(unsigned char *out, uint64_t msec);
static unsigned char *vd_write_digits(unsigned char *out, unsigned number,
    unsigned width);
static unsigned char *vd_write_crc(unsigned char *out, uint32_t crc);
static unsigned char *vd_write_uuid(unsigned char *out,
    const unsigned char *uuid);
static unsigned char *vd_write(unsigned char *out, const char *text);
static const unsigned char *vd_utf8_end(const unsigned char *p,
    const unsigned char *end, size_t *size);
static size_t vd_utf8_char(const unsigned char *p, size_t len,
    unsigned *valid);


/* What a string cannot hold as it is. */

#define U(hex)  { 6, "\\u00" hex }

static const vd_escape_t  vd_escapes[256] = {
    U("00"), U("01"), U("02"), U("03"), U("04"), U("05"), U("06"), U("07"),
    { 2, "\\b" }, { 2, "\\t" }, { 2, "\\n" }, U("0b"),
    { 2, "\\f" }, { 2, "\\r" }, U("0e"), U("0f"),
    U("10"), U("11"), U("12"), U("13"), U("14"), U("15"), U("16"), U("17"),
    U("18"), U("19"), U("1a"), U("1b"), U("1c"), U("1d"), U("1e"), U("1f"),
    ['"'] = { 2, "\\\"" },
    ['\\'] = { 2, "\\\\" }
};


size_t
vd_record_size(vd_record_t *record)
{
    size_t  len;

    len = record->id.len + record->output.len + record->label.len
          + record->case_id.len + record->uri.len + record->upstream.len
          + record->ticket_id.len + record->content_type.len
          + record->host.len + record->kept.len + record->digest.len
          + vd_record_word(record->outcome).len
          + vd_record_word(record->reason).len
          + vd_record_word(record->ticket_error).len
          + vd_record_response(record).len;

    return VD_RECORD_FRAME + VD_RECORD_ESCAPE_MAX * len
           + vd_record_body_size(record);
}


static size_t
vd_record_body_size(vd_record_t *record)
{
    size_t                size;
    const unsigned char  *end;

    if (record->body.data == NULL) {
        return 0;
    }

    size = 0;
    end = record->body.data + record->body.len;

    record->base64 = (vd_utf8_end(record->body.data, end, &size) != end);

    return record->base64 ? (record->body.len + 2) / 3 * 4 : size;
}


size_t
vd_record_write(const vd_record_t *record, unsigned char *out)
{
    uint32_t        crc;
    unsigned char  *p;

    p = vd_write(out, "{\"v\":1,\"time\":");
    p = vd_write_time(p, record->time);

    p = vd_write_text(p, vd_key("id"), record->id);
    p = vd_write_text(p, vd_key("output"), record->output);
    p = vd_write_text(p, vd_key("label"), record->label);
    p = vd_write_text(p, vd_key("case"), record->case_id);
    p = vd_write_text(p, vd_key("uri"), record->uri);
    p = vd_write_number(p, vd_key("attempt"), record->attempt);
    p = vd_write_text(p, vd_key("outcome"), vd_record_word(record->outcome));
    p = vd_write_text(p, vd_key("reason"), vd_record_word(record->reason));

    p = (record->status != 0)
        ? vd_write_number(p, vd_key("status"), record->status)
        : vd_write_null(p, vd_key("status"));

    p = vd_write_text(p, vd_key("upstream"), record->upstream);

    p = (record->duration >= 0)
        ? vd_write_number(p, vd_key("duration_ms"), (uint64_t) record->duration)
        : vd_write_null(p, vd_key("duration_ms"));

    p = vd_write_text(p, vd_key("ticket_id"), record->ticket_id);
    p = vd_write_text(p, vd_key("ticket_error"),
                      vd_record_word(record->ticket_error));
    p = vd_write_text(p, vd_key("response"), vd_record_response(record));

    if (record->retry_after >= 0) {
        p = vd_write_number(p, vd_key("retry_after"),
                            (uint64_t) record->retry_after);
    }

    p = vd_write_text(p, vd_key("content_type"), record->content_type);
    p = vd_write_known(p, vd_key("host"), record->host);
    p = vd_write_known(p, vd_key("kept"), record->kept);
    p = vd_write_known(p, vd_key("digest"), record->digest);

    if (record->body.data != NULL) {
        p = vd_write_body(p, record);
    }

    crc = (uint32_t) crc32_z(0, out, (size_t) (p - out));

    p = vd_write_crc(p, crc);
    p = vd_write(p, "}\n");

    return (size_t) (p - out);
}


size_t
vd_record_write_header(unsigned char *out, const unsigned char *uuid, long pid,
    uint64_t time)
{
    unsigned char  *p;

    p = vd_write(out, "{\"v\":1,\"segment\":");
    p = vd_write_uuid(p, uuid);
    p = vd_write_number(p, vd_key("pid"), (uint64_t) pid);
    p = vd_write(p, vd_key("opened"));
    p = vd_write_time(p, time);
    p = vd_write(p, "}\n");

    return (size_t) (p - out);
}


size_t
vd_record_write_end(unsigned char *out, const unsigned char *uuid,
    uint64_t records)
{
    unsigned char  *p;

    p = vd_write(out, "{\"v\":1,\"end\":");
    p = vd_write_uuid(p, uuid);
    p = vd_write_number(p, vd_key("records"), records);
    p = vd_write(p, "}\n");

    return (size_t) (p - out);
}


static vd_text_t
vd_record_word(const char *word)
{
    vd_text_t  text = { NULL, 0 };

    if (word != NULL && word[0] != '\0') {
        text.data = (const unsigned char *) word;
        text.len = strlen(word);
    }

    return text;
}


/* What is written of the response: not a part of a character at its end. */

static vd_text_t
vd_record_response(const vd_record_t *record)
{
    size_t     at;
    unsigned   valid;
    vd_text_t  text;

    text = record->response;

    if (text.len <= VD_RECORD_RESPONSE_MAX) {
        return text;
    }

    /* a character of four bytes that begins before has one behind */

    at = VD_RECORD_RESPONSE_MAX;

    while (at > VD_RECORD_RESPONSE_MAX - 3 && (text.data[at] & 0xc0) == 0x80) {
        at--;
    }

    if (at + vd_utf8_char(text.data + at, text.len - at, &valid)
        > VD_RECORD_RESPONSE_MAX
        && valid)
    {
        text.len = at;

    } else {
        text.len = VD_RECORD_RESPONSE_MAX;
    }

    return text;
}


static unsigned char *
vd_write_body(unsigned char *out, const vd_record_t *record)
{
    vd_text_t  body;

    body = record->body;

    if (record->base64) {
        out = vd_write(out, vd_key("body_b64"));
        *out++ = '"';
        out = vd_write_base64(out, body);

    } else {
        out = vd_write(out, vd_key("body"));
        *out++ = '"';
        out = vd_write_escaped(out, body.data, body.data + body.len);
    }

    *out++ = '"';

    return out;
}


/* OpenSSL takes an int's worth at once, and writes a NUL behind it. */

static unsigned char *
vd_write_base64(unsigned char *out, vd_text_t text)
{
    size_t  n;

    while (text.len > 0) {
        n = (text.len < VD_RECORD_BASE64) ? text.len : VD_RECORD_BASE64;

        out += EVP_EncodeBlock(out, text.data, (int) n);

        text.data += n;
        text.len -= n;
    }

    return out;
}


static unsigned char *
vd_write_known(unsigned char *out, const char *key, vd_text_t text)
{
    return (text.data != NULL) ? vd_write_text(out, key, text) : out;
}


static unsigned char *
vd_write_text(unsigned char *out, const char *key, vd_text_t text)
{
    size_t                size;
    unsigned              valid;
    const unsigned char  *p, *end, *last;

    if (text.data == NULL) {
        return vd_write_null(out, key);
    }

    out = vd_write(out, key);
    *out++ = '"';

    p = text.data;
    last = text.data + text.len;
    size = 0;   /* of no use here */

    for ( ;; ) {
        end = vd_utf8_end(p, last, &size);
        out = vd_write_escaped(out, p, end);

        if (end == last) {
            break;
        }

        out = vd_write(out, VD_RECORD_REPLACED);
        p = end + vd_utf8_char(end, (size_t) (last - end), &valid);
    }

    *out++ = '"';

    return out;
}


/*
 * Writes UTF-8.  Eight bytes are copied before it is known how many of them
 * may stay: there is room for them, since none becomes shorter.  So there is
 * for all of an escape's text, since a key or the checksum follows.
 */

static unsigned char *
vd_write_escaped(unsigned char *out, const unsigned char *p,
    const unsigned char *end)
{
    uint64_t            bytes, escaped;
    const vd_escape_t  *escape;

    while (end - p >= 8) {
        bytes = vd_bytes_load(p);
        escaped = vd_bytes_escaped(bytes);

        vd_bytes_store(out, bytes);

        if (escaped == 0) {
            p += 8;
            out += 8;
            continue;
        }

        p += vd_bytes_before(escaped);
        out += vd_bytes_before(escaped);

        escape = &vd_escapes[*p++];

        memcpy(out, escape->text, VD_RECORD_ESCAPE_MAX);
        out += escape->len;
    }

    while (p != end) {

        if (vd_escapes[*p].len != 0) {
            out = vd_write(out, vd_escapes[*p++].text);

        } else {
            *out++ = *p++;
        }
    }

    return out;
}


static unsigned char *
vd_write_number(unsigned char *out, const char *key, uint64_t number)
{
    unsigned char  *p, digits[sizeof("18446744073709551615") - 1];

    out = vd_write(out, key);

    p = digits + sizeof(digits);

    do {
        *--p = (unsigned char) ('0' + number % 10);
        number /= 10;
    } while (number != 0);

    memcpy(out, p, (size_t) (digits + sizeof(digits) - p));

    return out + (digits + sizeof(digits) - p);
}


static unsigned char *
vd_write_null(unsigned char *out, const char *key)
{
    return vd_write(vd_write(out, key), "null");
}


static unsigned char *
vd_write_time(unsigned char *out, uint64_t msec)
{
    time_t     sec;
    struct tm  tm;

    if (msec > VD_RECORD_TIME_MAX) {
        msec = VD_RECORD_TIME_MAX;
    }

    sec = (time_t) (msec / 1000);
    (void) gmtime_r(&sec, &tm);

    *out++ = '"';
    out = vd_write_digits(out, (unsigned) tm.tm_year + 1900, 4);
    *out++ = '-';
    out = vd_write_digits(out, (unsigned) tm.tm_mon + 1, 2);
    *out++ = '-';
    out = vd_write_digits(out, (unsigned) tm.tm_mday, 2);
    *out++ = 'T';
    out = vd_write_digits(out, (unsigned) tm.tm_hour, 2);
    *out++ = ':';
    out = vd_write_digits(out, (unsigned) tm.tm_min, 2);
    *out++ = ':';
    out = vd_write_digits(out, (unsigned) tm.tm_sec, 2);
    *out++ = '.';
    out = vd_write_digits(out, (unsigned) (msec % 1000), 3);

    return vd_write(out, "Z\"");
}


static unsigned char *
vd_write_digits(unsigned char *out, unsigned number, unsigned width)
{
    unsigned  i;

    for (i = width; i-- > 0; /* void */ ) {
        out[i] = (unsigned char) ('0' + number % 10);
        number /= 10;
    }

    return out + width;
}


static unsigned char *
vd_write_crc(unsigned char *out, uint32_t crc)
{
    static const char  hex[] = "0123456789abcdef";

    int  shift;

    out = vd_write(out, vd_key("crc"));
    *out++ = '"';

    for (shift = 28; shift >= 0; shift -= 4) {
        *out++ = (unsigned char) hex[crc >> shift & 0x0f];
    }

    *out++ = '"';

    return out;
}


static unsigned char *
vd_write_uuid(unsigned char *out, const unsigned char *uuid)
{
    *out++ = '"';
    memcpy(out, uuid, VD_UUID_LEN);
    out += VD_UUID_LEN;
    *out++ = '"';

    return out;
}


static unsigned char *
vd_write(unsigned char *out, const char *text)
{
    size_t  len;

    len = strlen(text);
    memcpy(out, text, len);

    return out + len;
}


/* As far as it is UTF-8; adds to size what that takes in a JSON string. */

static const unsigned char *
vd_utf8_end(const unsigned char *p, const unsigned char *end, size_t *size)
{
    size_t    n;
    uint64_t  bytes;
    unsigned  valid;

    while (p != end) {

        if (end - p >= 8) {
            bytes = vd_bytes_load(p);

            if ((vd_bytes_wide(bytes) | vd_bytes_control(bytes)) == 0) {
                *size += 8 + vd_bytes_count(vd_bytes_escaped(bytes));
                p += 8;
                continue;
            }
        }

        n = vd_utf8_char(p, (size_t) (end - p), &valid);

        if (!valid) {
            break;
        }

        *size += (vd_escapes[*p].len != 0) ? vd_escapes[*p].len : n;
        p += n;
    }

    return p;
}


/*
 * The length of the character at p and whether it is one; if not, how many
 * bytes there begin one: those are replaced together (Unicode, 3.9, "maximal
 * subpart").
 */

static size_t
vd_utf8_char(const unsigned char *p, size_t len, unsigned *valid)
{
    size_t         i, n;
    unsigned char  first, last;

    *valid = 1;

    if (p[0] < 0x80) {
        return 1;
    }

    *valid = 0;

    if (p[0] < 0xc2 || p[0] > 0xf4) {
        return 1;
    }

    n = (p[0] < 0xe0) ? 2 : (p[0] < 0xf0) ? 3 : 4;

    /* RFC 3629, 4: no longer than need be, no surrogates, at most U+10FFFF */

    first = (p[0] == 0xe0) ? 0xa0 : (p[0] == 0xf0) ? 0x90 : 0x80;
    last = (p[0] == 0xed) ? 0x9f : (p[0] == 0xf4) ? 0x8f : 0xbf;

    for (i = 1; i < n; i++) {

        if (i == len || p[i] < first || p[i] > last) {
            return i;
        }

        first = 0x80;
        last = 0xbf;
    }

    *valid = 1;

    return n;
}
