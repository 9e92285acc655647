
/*
 * Copyright (C) The ngx_vd_module authors
 *
 * The reader of responses.  A head is read line by line, each line when it is
 * whole; a body byte by byte where it is framed by chunks.
 */


#include <string.h>
#include <strings.h>

#include "vd_http.h"


/* "HTTP/1.1 200" */
#define VD_HTTP_STATUS_LEN  12


typedef enum {
    VD_HTTP_STATUS_LINE = 0,
    VD_HTTP_FIELDS,

    VD_HTTP_LENGTH,             /* the body, by Content-Length */
    VD_HTTP_CLOSE,              /* up to the end of the connection */

    VD_HTTP_CHUNK_START,        /* the first digit of its size */
    VD_HTTP_CHUNK_SIZE,
    VD_HTTP_CHUNK_BLANK,        /* before the semicolon */
    VD_HTTP_CHUNK_EXTENSION,
    VD_HTTP_CHUNK_LF,
    VD_HTTP_CHUNK_DATA,
    VD_HTTP_CHUNK_END,          /* the CR after its data */
    VD_HTTP_CHUNK_END_LF,

    VD_HTTP_TRAILER_START,
    VD_HTTP_TRAILER_NAME,
    VD_HTTP_TRAILER_VALUE,
    VD_HTTP_TRAILER_LF,
    VD_HTTP_LAST_LF,            /* of the empty line */

    VD_HTTP_FINISHED,
    VD_HTTP_FAILED
} vd_http_state_e;


typedef struct {
    const unsigned char  *data;
    size_t                len;
} vd_http_text_t;


static vd_http_e vd_http_fail(vd_http_t *http, const char *error);
static int vd_http_begins_status_line(const unsigned char *data, size_t len);
static vd_http_e vd_http_status_line(vd_http_t *http,
    const unsigned char *line, size_t len);
static vd_http_e vd_http_field(vd_http_t *http, size_t offset,
    const unsigned char *line, size_t len);
static vd_http_e vd_http_length(vd_http_t *http, const vd_http_text_t *value);
static vd_http_e vd_http_transfer_encoding(vd_http_t *http,
    const vd_http_text_t *value);
static int vd_http_lists(const vd_http_text_t *value, const char *word);
static vd_http_e vd_http_end_head(vd_http_t *http);
static vd_http_e vd_http_read_length(vd_http_t *http, const unsigned char **p,
    const unsigned char *last, const unsigned char **piece, size_t *len);
static vd_http_e vd_http_read_chunked(vd_http_t *http,
    const unsigned char **p, const unsigned char *last,
    const unsigned char **piece, size_t *len);
static int vd_http_chunk_state(vd_http_t *http, unsigned char ch);
static int vd_http_trailer_state(vd_http_t *http, unsigned char ch);
static int vd_http_chunk_digit(vd_http_t *http, unsigned char ch);
static int vd_http_is(const vd_http_text_t *text, const char *word);
static vd_http_text_t vd_http_trim(const unsigned char *data,
    const unsigned char *last);
static int vd_http_is_token(unsigned char ch);
static int vd_http_is_text(unsigned char ch);


void
vd_http_start(vd_http_t *http, unsigned max_interim)
{
    memset(http, 0, sizeof(vd_http_t));

    http->max_interim = max_interim;
    http->length = -1;
}


vd_http_e
vd_http_read_head(vd_http_t *http, const unsigned char *data, size_t len)
{
    size_t                n;
    vd_http_e             rc;
    const unsigned char  *line, *lf;

    if (http->state == VD_HTTP_STATUS_LINE) {
        http->size = 0;

        if (!vd_http_begins_status_line(data, len)) {
            return vd_http_fail(http, "no valid HTTP/1.x status line");
        }
    }

    while (http->state <= VD_HTTP_FIELDS) {

        lf = (len > http->scanned)
             ? memchr(data + http->scanned, '\n', len - http->scanned) : NULL;

        if (lf == NULL) {
            http->scanned = len;
            return VD_HTTP_AGAIN;
        }

        line = data + http->size;
        n = lf - line;

        if (n > 0 && line[n - 1] == '\r') {
            n--;
        }

        if (http->state == VD_HTTP_STATUS_LINE) {
            rc = vd_http_status_line(http, line, n);

        } else if (n > 0) {
            rc = vd_http_field(http, http->size, line, n);

        } else {
            http->size = lf + 1 - data;
            return vd_http_end_head(http);
        }

        if (rc == VD_HTTP_ERROR) {
            return rc;
        }

        http->size = lf + 1 - data;
        http->scanned = http->size;
    }

    return VD_HTTP_ERROR;
}


static vd_http_e
vd_http_fail(vd_http_t *http, const char *error)
{
    http->state = VD_HTTP_FAILED;
    http->error = error;

    return VD_HTTP_ERROR;
}


/* Whether the bytes that are there can be the first ones of a status line. */

static int
vd_http_begins_status_line(const unsigned char *data, size_t len)
{
    size_t         i;
    unsigned char  ch;

    static const unsigned char  pattern[] = "HTTP/1.# ###";

    for (i = 0; i < len && i < VD_HTTP_STATUS_LEN; i++) {
        ch = data[i];

        if (pattern[i] == '#' ? (ch < '0' || ch > '9') : ch != pattern[i]) {
            return 0;
        }
    }

    if (len <= VD_HTTP_STATUS_LEN) {
        return 1;
    }

    ch = data[VD_HTTP_STATUS_LEN];

    return ch == ' ' || ch == '\r' || ch == '\n';
}


/*
 * The blank before the reason phrase may be missing with it, as many servers
 * have it (RFC 9112, 4 asks them not to).
 */

static vd_http_e
vd_http_status_line(vd_http_t *http, const unsigned char *line, size_t len)
{
    size_t    i;
    unsigned  status;

    status = 0;

    for (i = VD_HTTP_STATUS_LEN - 3; i < VD_HTTP_STATUS_LEN; i++) {
        status = status * 10 + line[i] - '0';
    }

    for (i = VD_HTTP_STATUS_LEN; i < len && vd_http_is_text(line[i]); i++) {
        /* void */
    }

    if (i < len || status < 100 || status > 599) {
        return vd_http_fail(http, "no valid HTTP/1.x status line");
    }

    /* RFC 9110, 2.5: a later minor version is read as the latest known one */

    http->version = (line[7] == '0') ? 10 : 11;
    http->close = (http->version == 10);
    http->status = status;
    http->state = VD_HTTP_FIELDS;

    return VD_HTTP_AGAIN;
}


/* A field's line, without its end (RFC 9112, 5); folding is refused. */

static vd_http_e
vd_http_field(vd_http_t *http, size_t offset, const unsigned char *line,
    size_t len)
{
    size_t                i;
    vd_http_text_t        name, value;
    const unsigned char  *p;

    for (i = 0; i < len && vd_http_is_token(line[i]); i++) {
        /* void */
    }

    if (i == 0 || i == len || line[i] != ':') {
        return vd_http_fail(http, "invalid header");
    }

    name.data = line;
    name.len = i;

    for (p = line + i + 1; p < line + len; p++) {
        if (!vd_http_is_text(*p)) {
            return vd_http_fail(http, "invalid header");
        }
    }

    value = vd_http_trim(line + i + 1, line + len);

    if (vd_http_is(&name, "Content-Length")) {
        return vd_http_length(http, &value);
    }

    if (vd_http_is(&name, "Transfer-Encoding")) {
        return vd_http_transfer_encoding(http, &value);
    }

    if (vd_http_is(&name, "Connection") && vd_http_lists(&value, "close")) {
        http->close = 1;
    }

    if (vd_http_is(&name, "Retry-After")) {
        http->retry_after = offset + (value.data - line);
        http->retry_after_len = http->has_retry_after ? 0 : value.len;
        http->has_retry_after = 1;
    }

    return VD_HTTP_AGAIN;
}


static vd_http_e
vd_http_length(vd_http_t *http, const vd_http_text_t *value)
{
    size_t   i;
    int64_t  n;

    if (http->has_length) {
        return vd_http_fail(http, "duplicate \"Content-Length\"");
    }

    n = 0;

    for (i = 0; i < value->len; i++) {

        if (value->data[i] < '0' || value->data[i] > '9'
            || n > (INT64_MAX - (value->data[i] - '0')) / 10)
        {
            break;
        }

        n = n * 10 + (value->data[i] - '0');
    }

    if (i == 0 || i < value->len) {
        return vd_http_fail(http, "invalid \"Content-Length\"");
    }

    http->has_length = 1;
    http->length = n;

    return VD_HTTP_AGAIN;
}


static vd_http_e
vd_http_transfer_encoding(vd_http_t *http, const vd_http_text_t *value)
{
    if (http->chunked || !vd_http_is(value, "chunked")) {
        return vd_http_fail(http, "a \"Transfer-Encoding\" "
                                  "other than \"chunked\"");
    }

    http->chunked = 1;

    return VD_HTTP_AGAIN;
}


/* Whether a list, with commas between its elements, has that one. */

static int
vd_http_lists(const vd_http_text_t *value, const char *word)
{
    vd_http_text_t        element;
    const unsigned char  *p, *comma, *last;

    last = value->data + value->len;

    for (p = value->data; p < last; p = comma + 1) {

        comma = memchr(p, ',', last - p);

        if (comma == NULL) {
            comma = last;
        }

        element = vd_http_trim(p, comma);

        if (vd_http_is(&element, word)) {
            return 1;
        }
    }

    return 0;
}


/* What frames the body: RFC 9112, 6.3 */

static vd_http_e
vd_http_end_head(vd_http_t *http)
{
    if (http->status < 200) {

        if (http->status == 101 || ++http->interim > http->max_interim) {
            return vd_http_fail(http, "unexpected interim response");
        }

        http->state = VD_HTTP_STATUS_LINE;
        http->scanned = 0;
        http->length = -1;
        http->chunked = 0;
        http->close = 0;
        http->has_length = 0;
        http->has_retry_after = 0;
        http->retry_after_len = 0;

        return VD_HTTP_INTERIM;
    }

    if (http->chunked && http->has_length) {
        return vd_http_fail(http, "\"Content-Length\" together "
                                  "with \"Transfer-Encoding\"");
    }

    if (http->chunked && http->version < 11) {
        return vd_http_fail(http, "\"Transfer-Encoding\" in HTTP/1.0");
    }

    if (http->status == 204 || http->status == 304) {
        http->chunked = 0;
        http->length = 0;
    }

    http->rest = http->length;

    if (http->chunked) {
        http->state = VD_HTTP_CHUNK_START;

    } else if (http->length < 0) {
        http->state = VD_HTTP_CLOSE;
        http->close = 1;

    } else {
        http->state = http->length ? VD_HTTP_LENGTH : VD_HTTP_FINISHED;
    }

    return VD_HTTP_HEAD;
}


vd_http_e
vd_http_read_body(vd_http_t *http, const unsigned char **p,
    const unsigned char *last, const unsigned char **piece, size_t *len)
{
    switch (http->state) {

    case VD_HTTP_FINISHED:
        return VD_HTTP_DONE;

    case VD_HTTP_FAILED:
        return VD_HTTP_ERROR;

    case VD_HTTP_LENGTH:
        return vd_http_read_length(http, p, last, piece, len);

    case VD_HTTP_CLOSE:

        if (*p == last) {
            return VD_HTTP_AGAIN;
        }

        *piece = *p;
        *len = last - *p;
        *p = last;

        return VD_HTTP_PIECE;

    default:
        return vd_http_read_chunked(http, p, last, piece, len);
    }
}


/* So much of the rest as is there. */

static vd_http_e
vd_http_read_length(vd_http_t *http, const unsigned char **p,
    const unsigned char *last, const unsigned char **piece, size_t *len)
{
    if (*p == last) {
        return VD_HTTP_AGAIN;
    }

    *piece = *p;
    *len = last - *p;

    if ((int64_t) *len > http->rest) {
        *len = http->rest;
    }

    *p += *len;
    http->rest -= *len;

    if (http->rest == 0) {
        http->state = (http->state == VD_HTTP_LENGTH) ? VD_HTTP_FINISHED
                                                      : VD_HTTP_CHUNK_END;
    }

    return VD_HTTP_PIECE;
}


static vd_http_e
vd_http_read_chunked(vd_http_t *http, const unsigned char **p,
    const unsigned char *last, const unsigned char **piece, size_t *len)
{
    int  state;

    while (http->state != VD_HTTP_FINISHED) {

        if (http->state == VD_HTTP_CHUNK_DATA) {
            return vd_http_read_length(http, p, last, piece, len);
        }

        if (*p == last) {
            return VD_HTTP_AGAIN;
        }

        state = (http->state < VD_HTTP_TRAILER_START)
                ? vd_http_chunk_state(http, **p)
                : vd_http_trailer_state(http, **p);

        if (state == VD_HTTP_FAILED) {
            return vd_http_fail(http, "invalid chunked response");
        }

        http->state = state;
        (*p)++;
    }

    return VD_HTTP_DONE;
}


/* What a byte around a chunk's data leads to (RFC 9112, 7.1). */

static int
vd_http_chunk_state(vd_http_t *http, unsigned char ch)
{
    switch (http->state) {

    case VD_HTTP_CHUNK_START:
        http->rest = 0;
        return vd_http_chunk_digit(http, ch);

    case VD_HTTP_CHUNK_SIZE:

        switch (ch) {
        case '\r':
            return VD_HTTP_CHUNK_LF;
        case ';':
            return VD_HTTP_CHUNK_EXTENSION;
        case ' ':
        case '\t':
            return VD_HTTP_CHUNK_BLANK;
        default:
            return vd_http_chunk_digit(http, ch);
        }

    case VD_HTTP_CHUNK_BLANK:

        switch (ch) {
        case ';':
            return VD_HTTP_CHUNK_EXTENSION;
        case ' ':
        case '\t':
            return VD_HTTP_CHUNK_BLANK;
        default:
            return VD_HTTP_FAILED;
        }

    case VD_HTTP_CHUNK_EXTENSION:

        if (ch == '\r') {
            return VD_HTTP_CHUNK_LF;
        }

        return vd_http_is_text(ch) ? VD_HTTP_CHUNK_EXTENSION : VD_HTTP_FAILED;

    case VD_HTTP_CHUNK_LF:

        if (ch != '\n') {
            return VD_HTTP_FAILED;
        }

        return http->rest ? VD_HTTP_CHUNK_DATA : VD_HTTP_TRAILER_START;

    case VD_HTTP_CHUNK_END:
        return (ch == '\r') ? VD_HTTP_CHUNK_END_LF : VD_HTTP_FAILED;

    default: /* VD_HTTP_CHUNK_END_LF */
        return (ch == '\n') ? VD_HTTP_CHUNK_START : VD_HTTP_FAILED;
    }
}


static int
vd_http_chunk_digit(vd_http_t *http, unsigned char ch)
{
    int  digit;

    if (ch >= '0' && ch <= '9') {
        digit = ch - '0';

    } else if ((ch | 0x20) >= 'a' && (ch | 0x20) <= 'f') {
        digit = (ch | 0x20) - 'a' + 10;

    } else {
        return VD_HTTP_FAILED;
    }

    if (http->rest > INT64_MAX >> 4) {
        return VD_HTTP_FAILED;
    }

    http->rest = http->rest << 4 | digit;

    return VD_HTTP_CHUNK_SIZE;
}


/* Trailer fields are passed over, but must be fields. */

static int
vd_http_trailer_state(vd_http_t *http, unsigned char ch)
{
    switch (http->state) {

    case VD_HTTP_TRAILER_START:

        if (ch == '\r') {
            return VD_HTTP_LAST_LF;
        }

        return vd_http_is_token(ch) ? VD_HTTP_TRAILER_NAME : VD_HTTP_FAILED;

    case VD_HTTP_TRAILER_NAME:

        if (ch == ':') {
            return VD_HTTP_TRAILER_VALUE;
        }

        return vd_http_is_token(ch) ? VD_HTTP_TRAILER_NAME : VD_HTTP_FAILED;

    case VD_HTTP_TRAILER_VALUE:

        if (ch == '\r') {
            return VD_HTTP_TRAILER_LF;
        }

        return vd_http_is_text(ch) ? VD_HTTP_TRAILER_VALUE : VD_HTTP_FAILED;

    case VD_HTTP_TRAILER_LF:
        return (ch == '\n') ? VD_HTTP_TRAILER_START : VD_HTTP_FAILED;

    default: /* VD_HTTP_LAST_LF */
        return (ch == '\n') ? VD_HTTP_FINISHED : VD_HTTP_FAILED;
    }
}


vd_http_e
vd_http_end(const vd_http_t *http)
{
    return (http->state == VD_HTTP_CLOSE || http->state == VD_HTTP_FINISHED)
           ? VD_HTTP_DONE : VD_HTTP_AGAIN;
}


static int
vd_http_is(const vd_http_text_t *text, const char *word)
{
    return text->len == strlen(word)
           && strncasecmp((const char *) text->data, word, text->len) == 0;
}


static vd_http_text_t
vd_http_trim(const unsigned char *data, const unsigned char *last)
{
    vd_http_text_t  text;

    while (data < last && (*data == ' ' || *data == '\t')) {
        data++;
    }

    while (data < last && (last[-1] == ' ' || last[-1] == '\t')) {
        last--;
    }

    text.data = data;
    text.len = last - data;

    return text;
}


/* tchar of RFC 9110, 5.6.2 */

static int
vd_http_is_token(unsigned char ch)
{
    static const uint32_t  tokens[] = {
        0x00000000,     /* controls */
        0x03ff6cfa,     /* ! # $ % & ' * + - . 0-9 */
        0xc7fffffe,     /* A-Z ^ _ */
        0x57ffffff      /* ` a-z | ~ */
    };

    return ch < 0x80 && (tokens[ch >> 5] >> (ch & 0x1f) & 1);
}


/* field-vchar, SP and HTAB of RFC 9110, 5.5 */

static int
vd_http_is_text(unsigned char ch)
{
    return ch == '\t' || (ch >= 0x20 && ch != 0x7f);
}
