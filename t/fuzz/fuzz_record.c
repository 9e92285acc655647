
/*
 * Copyright (C) The ngx_vd_module authors
 *
 * Records of any bytes, written and read back by Jansson.  The input begins
 * with a byte for the length of each string (of the response, in eights; FF:
 * there is none) and with the bytes of the numbers; the strings follow, and
 * what is left is the body.
 */


#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>
#include <openssl/evp.h>
#include <zlib.h>

#include "../unit/utf8.h"
#include "vd_record.h"


#define countof(array)  (sizeof(array) / sizeof((array)[0]))

#define CRC_LEN         (sizeof(",\"crc\":\"01234567\"}\n") - 1)
#define RESPONSE        7
#define KNOWN           9   /* from here on they are left out, not null */

/* of every record */
#define KEYS            18


typedef struct {
    const uint8_t  *data;
    size_t          len;
} input_t;


typedef struct {
    const char  *name;
    size_t       offset;
} field_t;


int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);


static const field_t  texts[] = {
    { "id", offsetof(vd_record_t, id) },
    { "output", offsetof(vd_record_t, output) },
    { "label", offsetof(vd_record_t, label) },
    { "case", offsetof(vd_record_t, case_id) },
    { "uri", offsetof(vd_record_t, uri) },
    { "upstream", offsetof(vd_record_t, upstream) },
    { "ticket_id", offsetof(vd_record_t, ticket_id) },
    [RESPONSE] = { "response", offsetof(vd_record_t, response) },
    { "content_type", offsetof(vd_record_t, content_type) },
    [KNOWN] = { "host", offsetof(vd_record_t, host) },
    { "kept", offsetof(vd_record_t, kept) },
    { "digest", offsetof(vd_record_t, digest) }
};


static const char *const  words[] = { NULL, "", "failed", "bad_characters" };


static void
require(int condition)
{
    if (!condition) {
        abort();
    }
}


static const vd_text_t *
field(const vd_record_t *record, const field_t *field)
{
    return (const vd_text_t *) ((const char *) record + field->offset);
}


static vd_text_t
take(input_t *input, size_t len)
{
    vd_text_t  text;

    text.data = input->data;
    text.len = (len < input->len) ? len : input->len;

    input->data += text.len;
    input->len -= text.len;

    return text;
}


static uint64_t
take_number(input_t *input, size_t len)
{
    uint64_t   number;
    vd_text_t  bytes;

    number = 0;

    for (bytes = take(input, len); bytes.len > 0; bytes.len--) {
        number = number << 8 | *bytes.data++;
    }

    return number;
}


/* Each string is a copy of its exact size, so that reading past it is seen. */

static vd_text_t
copy(vd_text_t text)
{
    unsigned char  *data;

    data = malloc(text.len);
    require(data != NULL);

    if (text.len > 0) {
        memcpy(data, text.data, text.len);
    }

    text.data = data;

    return text;
}


static void
fill(vd_record_t *record, input_t *input)
{
    size_t     i, len[countof(texts)];
    vd_text_t  text;

    memset(record, 0, sizeof(vd_record_t));

    for (i = 0; i < countof(texts); i++) {
        len[i] = (size_t) take_number(input, 1);
    }

    record->time = take_number(input, 8);
    record->attempt = (unsigned) take_number(input, 4);
    record->status = (unsigned) take_number(input, 2);
    record->duration = (int64_t) take_number(input, 8);
    record->retry_after = (int64_t) take_number(input, 8);
    record->outcome = words[take_number(input, 1) % countof(words)];
    record->reason = words[take_number(input, 1) % countof(words)];
    record->ticket_error = words[take_number(input, 1) % countof(words)];

    for (i = 0; i < countof(texts); i++) {

        if (len[i] != 0xff) {
            text = copy(take(input, (i == RESPONSE) ? 8 * len[i] : len[i]));
            memcpy((char *) record + texts[i].offset, &text, sizeof(text));
        }
    }

    if (input->len > 0) {
        record->body = copy(take(input, input->len));
    }
}


static void
clear(vd_record_t *record)
{
    size_t  i;

    for (i = 0; i < countof(texts); i++) {
        free((void *) (uintptr_t) field(record, &texts[i])->data);
    }

    free((void *) (uintptr_t) record->body.data);
}


/* What is to be kept of a response. */

static size_t
cut(vd_text_t text)
{
    int     valid;
    size_t  n, at;

    if (text.len <= VD_RECORD_RESPONSE_MAX) {
        return text.len;
    }

    at = 0;

    do {
        n = utf8_next(text.data + at, text.len - at, &valid);
        at += n;
    } while (at < VD_RECORD_RESPONSE_MAX);

    return (valid && at > VD_RECORD_RESPONSE_MAX) ? at - n
                                                  : VD_RECORD_RESPONSE_MAX;
}


static void
require_string(json_t *json, const void *data, size_t len)
{
    require(json_is_string(json));
    require(json_string_length(json) == len);
    require(memcmp(json_string_value(json), data, len) == 0);
}


static void
require_text(json_t *json, vd_text_t text)
{
    size_t          len;
    unsigned char  *read;

    if (text.data == NULL) {
        require(json_is_null(json));
        return;
    }

    read = malloc(3 * text.len + 1);
    require(read != NULL);

    len = utf8_repair(text.data, text.len, read);
    require_string(json, read, len);

    free(read);
}


static void
require_word(json_t *json, const char *word)
{
    if (word == NULL || word[0] == '\0') {
        require(json_is_null(json));

    } else {
        require_string(json, word, strlen(word));
    }
}


static void
require_number(json_t *json, int64_t number, int known)
{
    if (known) {
        require(json_is_integer(json) && json_integer_value(json) == number);

    } else {
        require(json_is_null(json));
    }
}


static void
require_retry_after(json_t *json, int64_t seconds)
{
    if (seconds >= 0) {
        require_number(json, seconds, 1);

    } else {
        require(json == NULL);
    }
}


static void
require_body(json_t *json, vd_text_t body)
{
    size_t          len;
    json_t         *string;
    const char     *text;
    unsigned char  *decoded;

    string = json_object_get(json, "body");

    if (string != NULL) {
        require(json_object_get(json, "body_b64") == NULL);
        require_string(string, body.data, body.len);
        return;
    }

    string = json_object_get(json, "body_b64");

    if (body.data == NULL) {
        require(string == NULL);
        return;
    }

    text = json_string_value(string);
    len = json_string_length(string);

    require(len == (body.len + 2) / 3 * 4);

    decoded = malloc(len + 1);
    require(decoded != NULL);

    require(EVP_DecodeBlock(decoded, (const unsigned char *) text, (int) len)
            >= (int) body.len);
    require(memcmp(decoded, body.data, body.len) == 0);

    /* only what is no text is encoded: repairing changes it */

    free(decoded);

    decoded = malloc(3 * body.len);
    require(decoded != NULL);

    require(utf8_repair(body.data, body.len, decoded) != body.len
            || memcmp(decoded, body.data, body.len) != 0);

    free(decoded);
}


static void
require_record(const vd_record_t *record, json_t *json)
{
    size_t     i;
    vd_text_t  text;

    for (i = 0; i < countof(texts); i++) {
        text = *field(record, &texts[i]);

        if (i == RESPONSE) {
            text.len = cut(text);
        }

        if (i >= KNOWN && text.data == NULL) {
            require(json_object_get(json, texts[i].name) == NULL);
            continue;
        }

        require_text(json_object_get(json, texts[i].name), text);
    }

    require_word(json_object_get(json, "outcome"), record->outcome);
    require_word(json_object_get(json, "reason"), record->reason);
    require_word(json_object_get(json, "ticket_error"), record->ticket_error);

    require_number(json_object_get(json, "v"), 1, 1);
    require_number(json_object_get(json, "attempt"), record->attempt, 1);
    require_number(json_object_get(json, "status"), record->status,
                   record->status != 0);
    require_number(json_object_get(json, "duration_ms"), record->duration,
                   record->duration >= 0);

    require_retry_after(json_object_get(json, "retry_after"),
                        record->retry_after);
    require_body(json, record->body);
}


/* Nothing but the line feed at its end, and the checksum of what is before. */

static void
require_line(const char *line, size_t len)
{
    char    crc[CRC_LEN + 1];
    size_t  i;

    require(len > CRC_LEN);

    for (i = 0; i < len - 1; i++) {
        require((unsigned char) line[i] >= 0x20);
    }

    len -= CRC_LEN;

    (void) snprintf(crc, sizeof(crc), ",\"crc\":\"%08lx\"}\n",
                    crc32(0, (const unsigned char *) line, (uInt) len));

    require(memcmp(line + len, crc, CRC_LEN) == 0);
}


/* In memory of the size that was promised. */

static char *
encode(vd_record_t *record, size_t *size, size_t *len)
{
    char  *line;

    *size = vd_record_size(record);

    line = malloc(*size);
    require(line != NULL);

    *len = vd_record_write(record, (unsigned char *) line);
    require(*len <= *size);

    require_line(line, *len);

    return line;
}


/* The size grows by exactly what the body adds, but for its key. */

static void
require_body_size(const vd_record_t *record, size_t size, size_t len)
{
    size_t       key, size_without, len_without;
    vd_record_t  without = *record;

    without.body.data = NULL;

    free(encode(&without, &size_without, &len_without));

    key = record->base64 ? sizeof(",\"body_b64\":\"\"") - 1
                         : sizeof(",\"body\":\"\"") - 1;

    require(len - len_without == key + size - size_without);
}


int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char         *line;
    size_t        i, len, room, keys;
    json_t       *json;
    input_t       input = { data, size };
    vd_record_t   record;

    fill(&record, &input);

    line = encode(&record, &room, &len);

    if (record.body.data != NULL) {
        require_body_size(&record, room, len);
    }

    json = json_loadb(line, len, JSON_REJECT_DUPLICATES|JSON_ALLOW_NUL, NULL);
    require(json != NULL);

    require_record(&record, json);

    keys = KEYS + (record.retry_after >= 0) + (record.body.data != NULL);

    for (i = KNOWN; i < countof(texts); i++) {
        keys += (field(&record, &texts[i])->data != NULL);
    }

    require(json_object_size(json) == keys);

    json_decref(json);
    free(line);
    clear(&record);

    return 0;
}
