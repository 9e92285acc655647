
/*
 * Copyright (C) The ngx_vd_module authors
 */


#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>
#include <jansson.h>
#include <openssl/evp.h>

#include "utf8.h"
#include "vd_id.h"
#include "vd_record.h"


#define countof(array)  (sizeof(array) / sizeof((array)[0]))
#define S(literal)      literal, sizeof(literal) - 1
#define T(literal)      { (const unsigned char *) literal,                    \
                          sizeof(literal) - 1 }

#define MEGABYTE        (1024 * 1024)
#define RANDOM_TIMES    10000
#define RANDOM_TEXTS    20000

#define UUID            "017f22e2-79b0-7cc3-98c4-dc0c0c07398f"
#define CRC_LEN         (sizeof(",\"crc\":\"01234567\"}\n") - 1)
#define X8              "xxxxxxxx"
#define FFFD            "\xef\xbf\xbd"


typedef struct {
    const char  *name;
    size_t       offset;
} field_t;


typedef struct {
    const char  *text;
    size_t       len;
    const char  *read;
} repair_t;


typedef struct {
    uint64_t     msec;
    const char  *text;
} moment_t;


static const vd_record_t  example = {
    .time = 1795341600123,
    .id = T("018f2b7c-0000-7000-8000-000000000001"),
    .output = T("28"),
    .label = T("Security Incident - Critical Alert"),
    .case_id = T("CASE-4711"),
    .uri = T("/outputs/28"),
    .attempt = 1,
    .outcome = "failed",
    .reason = "status",
    .status = 503,
    .upstream = T("127.0.0.1:443"),
    .duration = 12,
    .ticket_error = "not_json",
    .response = T("try \"later\"\r\n"),
    .retry_after = -1,
    .content_type = T("application/json"),
    .body = T("{\"a\":1}\n")
};


/* its line */

#define BEGIN                                                                 \
    "{\"v\":1,\"time\":\"2026-11-22T10:00:00.123Z\","                         \
    "\"id\":\"018f2b7c-0000-7000-8000-000000000001\",\"output\":\"28\","      \
    "\"label\":\"Security Incident - Critical Alert\","                       \
    "\"case\":\"CASE-4711\",\"uri\":\"/outputs/28\",\"attempt\":1,"           \
    "\"outcome\":\"failed\",\"reason\":\"status\",\"status\":503,"            \
    "\"upstream\":\"127.0.0.1:443\",\"duration_ms\":12,"                      \
    "\"ticket_id\":null,\"ticket_error\":\"not_json\","                       \
    "\"response\":\"try \\\"later\\\"\\r\\n\""

#define TYPE  ",\"content_type\":\"application/json\""
#define BODY  ",\"body\":\"{\\\"a\\\":1}\\n\""
#define END   TYPE BODY


static const field_t  texts[] = {
    { "id", offsetof(vd_record_t, id) },
    { "output", offsetof(vd_record_t, output) },
    { "label", offsetof(vd_record_t, label) },
    { "case", offsetof(vd_record_t, case_id) },
    { "uri", offsetof(vd_record_t, uri) },
    { "upstream", offsetof(vd_record_t, upstream) },
    { "ticket_id", offsetof(vd_record_t, ticket_id) },
    { "response", offsetof(vd_record_t, response) },
    { "content_type", offsetof(vd_record_t, content_type) }
};


/* these are left out, not null */

static const field_t  known[] = {
    { "host", offsetof(vd_record_t, host) },
    { "kept", offsetof(vd_record_t, kept) },
    { "digest", offsetof(vd_record_t, digest) }
};


static const field_t  words[] = {
    { "outcome", offsetof(vd_record_t, outcome) },
    { "reason", offsetof(vd_record_t, reason) },
    { "ticket_error", offsetof(vd_record_t, ticket_error) }
};


static const char *const  keys[] = {
    "v", "time", "id", "output", "label", "case", "uri", "attempt", "outcome",
    "reason", "status", "upstream", "duration_ms", "ticket_id",
    "ticket_error", "response", "retry_after", "content_type", "host", "kept",
    "digest", "body", "crc"
};


/* The first four: Unicode 15, tables 3-8 to 3-11. */

static const repair_t  repairs[] = {

    { S("\xc0\xaf\xe0\x80\xbf\xf0\x81\x82" "A"),
      FFFD FFFD FFFD FFFD FFFD FFFD FFFD FFFD "A" },
    { S("\xed\xa0\x80\xed\xbf\xbf\xed\xaf" "A"),
      FFFD FFFD FFFD FFFD FFFD FFFD FFFD FFFD "A" },
    { S("\xf4\x91\x92\x93\xff" "A\x80\xbf" "B"),
      FFFD FFFD FFFD FFFD FFFD "A" FFFD FFFD "B" },
    { S("\xe1\x80\xe2\xf0\x91\x92\xf1\xbf" "A"), FFFD FFFD FFFD FFFD "A" },

    { S("\x80"), FFFD },
    { S("\xc3"), FFFD },
    { S("\xe2\x82"), FFFD },
    { S("\xf0\x9f\x8e"), FFFD },
    { S("\xf0\x9f\x8e\xf0\x9f\x8e\xab"), FFFD "\xf0\x9f\x8e\xab" },
    { S("\xf5\x80\x80\x80"), FFFD FFFD FFFD FFFD },
    { S("\xe0\x9f\xbf"), FFFD FFFD FFFD },
    { S("\xf0\x8f\xbf\xbf"), FFFD FFFD FFFD FFFD },
    { S("caf\xe9 au lait"), "caf" FFFD " au lait" },
    { S(X8 "\xff" X8 "\xff" X8), X8 FFFD X8 FFFD X8 },
    { S("\xff\"\xff\\\xff\n\xff"), FFFD "\"" FFFD "\\" FFFD "\n" FFFD }
};


static const moment_t  moments[] = {
    { 0, "1970-01-01T00:00:00.000Z" },
    { 1, "1970-01-01T00:00:00.001Z" },
    { 951827696789, "2000-02-29T12:34:56.789Z" },
    { 1795341600123, "2026-11-22T10:00:00.123Z" },
    { 2147483648000, "2038-01-19T03:14:08.000Z" },
    { 4107542400000, "2100-03-01T00:00:00.000Z" },
    { 253402300799999, "9999-12-31T23:59:59.999Z" },
    { 253402300800000, "9999-12-31T23:59:59.999Z" },
    { UINT64_MAX, "9999-12-31T23:59:59.999Z" }
};


static uint32_t
random_below(uint32_t limit)
{
    static uint64_t  seed = 1;

    seed = seed * 6364136223846793005 + 1442695040888963407;

    return (uint32_t) ((seed >> 33) % limit);
}


static vd_text_t
text(const void *data, size_t len)
{
    vd_text_t  made;

    made.data = data;
    made.len = len;

    return made;
}


static vd_text_t *
field(const vd_record_t *record, const field_t *of)
{
    return (vd_text_t *) (uintptr_t) ((const char *) record + of->offset);
}


/* CRC-32 (ISO-HDLC), a bit at a time. */

static uint32_t
slow_crc(const unsigned char *p, size_t len)
{
    int       bit;
    uint32_t  crc;

    crc = 0xffffffff;

    while (len-- > 0) {
        crc ^= *p++;

        for (bit = 0; bit < 8; bit++) {
            crc = (crc & 1) ? crc >> 1 ^ 0xedb88320 : crc >> 1;
        }
    }

    return ~crc;
}


static json_t *
parse(const char *line, size_t len)
{
    json_t        *json;
    json_error_t   error;

    json = json_loadb(line, len, JSON_REJECT_DUPLICATES|JSON_ALLOW_NUL,
                      &error);
    if (json == NULL) {
        fail_msg("%s in %.*s", error.text, (int) len, line);
    }

    return json;
}


static void
check_line(const char *line, size_t len)
{
    char                  crc[CRC_LEN + 1];
    size_t                i;
    const unsigned char  *p;

    p = (const unsigned char *) line;

    for (i = 0; i < len - 1; i++) {
        if (p[i] < 0x20) {
            fail_msg("byte %02x at %zu", p[i], i);
        }
    }

    (void) snprintf(crc, sizeof(crc), ",\"crc\":\"%08x\"}\n",
                    slow_crc(p, len - CRC_LEN));

    assert_memory_equal(line + len - CRC_LEN, crc, CRC_LEN);
}


/* The line, in memory of the size that was promised; to be freed. */

static char *
encode(vd_record_t *record, size_t *len)
{
    char    *line;
    size_t   size;

    size = vd_record_size(record);

    line = malloc(size);
    assert_non_null(line);

    *len = vd_record_write(record, (unsigned char *) line);

    assert_true(*len <= size);
    check_line(line, *len);

    return line;
}


static json_t *
encode_and_parse(vd_record_t *record)
{
    char    *line;
    size_t   len;
    json_t  *json;

    line = encode(record, &len);
    json = parse(line, len);
    free(line);

    return json;
}


static void
check_string(json_t *json, const char *key, const void *data, size_t len)
{
    json_t  *string;

    string = json_object_get(json, key);

    if (data == NULL) {
        assert_true(json_is_null(string));
        return;
    }

    assert_true(json_is_string(string));
    assert_int_equal(json_string_length(string), len);
    assert_memory_equal(json_string_value(string), data, len);
}


static void
check_base64(json_t *json, const unsigned char *data, size_t len)
{
    size_t          text_len;
    json_t         *string;
    unsigned char  *decoded;

    string = json_object_get(json, "body_b64");

    assert_true(json_is_string(string));

    text_len = json_string_length(string);
    assert_int_equal(text_len, (len + 2) / 3 * 4);

    decoded = malloc(text_len);
    assert_non_null(decoded);

    assert_int_equal(EVP_DecodeBlock(decoded,
                                     (unsigned char *)
                                     json_string_value(string),
                                     (int) text_len),
                     text_len / 4 * 3);
    assert_memory_equal(decoded, data, len);

    free(decoded);
}


/* The size grows by exactly what a body adds to a line, but for its key. */

static void
check_body_size(vd_record_t *record, size_t len, const char *key)
{
    size_t       size, without_len;
    vd_record_t  without = *record;

    without.body = text(NULL, 0);

    size = vd_record_size(record) - vd_record_size(&without);

    free(encode(&without, &without_len));

    assert_int_equal(len, without_len + strlen(key) + size);
}


static void
check_body(const void *data, size_t len, int is_text)
{
    char         *line;
    size_t        line_len;
    json_t       *json;
    vd_record_t   record = example;

    record.body = text(data, len);

    line = encode(&record, &line_len);
    json = parse(line, line_len);

    if (is_text) {
        check_string(json, "body", data, len);
        assert_null(json_object_get(json, "body_b64"));
        check_body_size(&record, line_len, ",\"body\":\"\"");

    } else {
        check_base64(json, data, len);
        assert_null(json_object_get(json, "body"));
        check_body_size(&record, line_len, ",\"body_b64\":\"\"");
    }

    json_decref(json);
    free(line);
}


static void
check_text(vd_record_t *record, const char *expected)
{
    char    *line;
    size_t   len;

    line = encode(record, &len);

    assert_int_equal(len, strlen(expected) + CRC_LEN);
    assert_memory_equal(line, expected, strlen(expected));

    free(line);
}


static void
a_line_is_as_documented(void **state)
{
    vd_record_t  record = example;

    static const char  expected[] = BEGIN END;
    static const char  with_retry_after[] = BEGIN ",\"retry_after\":120" END;
    static const char  with_all[] = BEGIN ",\"retry_after\":120" TYPE
                                    ",\"host\":\"localhost:8088\""
                                    ",\"kept\":\"AUMAAAADQy0x\""
                                    ",\"digest\":\"0123abcd\"" BODY;

    (void) state;

    check_text(&record, expected);

    record.retry_after = 120;
    check_text(&record, with_retry_after);

    record.host = text(S("localhost:8088"));
    record.kept = text(S("AUMAAAADQy0x"));
    record.digest = text(S("0123abcd"));
    check_text(&record, with_all);
}


static int
has_key(const vd_record_t *record, const char *key)
{
    size_t  i;

    for (i = 0; i < countof(known); i++) {
        if (strcmp(key, known[i].name) == 0) {
            return field(record, &known[i])->data != NULL;
        }
    }

    return strcmp(key, "body") == 0 ? record->body.data != NULL
           : strcmp(key, "retry_after") == 0 ? record->retry_after >= 0 : 1;
}


static void
check_keys(vd_record_t *record, const char *body)
{
    size_t       i;
    json_t      *json, *value;
    const char  *key, *expected;

    json = encode_and_parse(record);

    i = 0;

    json_object_foreach(json, key, value) {
        while (!has_key(record, keys[i])) {
            i++;
        }

        expected = keys[i++];

        if (strcmp(expected, "body") == 0) {
            expected = body;
        }

        assert_string_equal(key, expected);
    }

    assert_int_equal(i, countof(keys));

    json_decref(json);
}


static void
keys_are_in_order(void **state)
{
    size_t       i;
    vd_record_t  record = example;
    vd_record_t  nothing = { .duration = -1, .retry_after = -1 };

    (void) state;

    check_keys(&record, "body");

    record.body = text(S("\xff"));
    check_keys(&record, "body_b64");

    record.body = text(NULL, 0);
    check_keys(&record, NULL);

    check_keys(&nothing, NULL);

    record.retry_after = 0;
    check_keys(&record, NULL);

    record.body = text(S("{}"));
    check_keys(&record, "body");

    nothing.retry_after = 604800;
    check_keys(&nothing, NULL);

    for (i = 0; i < countof(known); i++) {
        *field(&nothing, &known[i]) = text(S(""));
        check_keys(&nothing, NULL);

        *field(&record, &known[countof(known) - 1 - i]) = text(S("x"));
        check_keys(&record, "body");
    }
}


static void
the_checksum_is_that_of_zip(void **state)
{
    (void) state;

    /* its check value, of the model that all lines here are held to */

    assert_int_equal(slow_crc((const unsigned char *) S("123456789")),
                     0xcbf43926);
}


static void
what_is_unknown_is_null(void **state)
{
    size_t       i;
    json_t      *json;
    vd_record_t  record = { .outcome = "", .reason = NULL, .duration = -1,
                            .retry_after = -1 };

    (void) state;

    json = encode_and_parse(&record);

    for (i = 0; i < countof(texts); i++) {
        check_string(json, texts[i].name, NULL, 0);
    }

    for (i = 0; i < countof(words); i++) {
        check_string(json, words[i].name, NULL, 0);
    }

    for (i = 0; i < countof(known); i++) {
        assert_null(json_object_get(json, known[i].name));
    }

    assert_true(json_is_null(json_object_get(json, "status")));
    assert_true(json_is_null(json_object_get(json, "duration_ms")));
    assert_null(json_object_get(json, "retry_after"));
    assert_null(json_object_get(json, "body"));
    assert_null(json_object_get(json, "body_b64"));

    json_decref(json);
}


static void
check_field(const field_t *of)
{
    char         value[32];
    size_t       len;
    json_t      *json;
    vd_record_t  record;

    memset(&record, 0, sizeof(record));

    len = (size_t) snprintf(value, sizeof(value), "of %s", of->name);
    *field(&record, of) = text(value, len);

    json = encode_and_parse(&record);
    check_string(json, of->name, value, len);
    json_decref(json);
}


static void
each_field_has_its_key(void **state)
{
    size_t       i;
    json_t      *json;
    vd_record_t  record;

    (void) state;

    for (i = 0; i < countof(texts); i++) {
        check_field(&texts[i]);
    }

    for (i = 0; i < countof(known); i++) {
        check_field(&known[i]);
    }

    for (i = 0; i < countof(words); i++) {
        memset(&record, 0, sizeof(record));

        *(const char **) ((char *) &record + words[i].offset) = words[i].name;

        json = encode_and_parse(&record);
        check_string(json, words[i].name, words[i].name,
                     strlen(words[i].name));
        json_decref(json);
    }
}


static void
empty_strings_are_not_null(void **state)
{
    size_t       i;
    json_t      *json;
    vd_record_t  record = { .duration = 0 };

    (void) state;

    for (i = 0; i < countof(texts); i++) {
        *(vd_text_t *) ((char *) &record + texts[i].offset) = text(S(""));
    }

    for (i = 0; i < countof(known); i++) {
        *field(&record, &known[i]) = text(S(""));
    }

    record.body = text(S(""));

    json = encode_and_parse(&record);

    for (i = 0; i < countof(texts); i++) {
        check_string(json, texts[i].name, S(""));
    }

    for (i = 0; i < countof(known); i++) {
        check_string(json, known[i].name, S(""));
    }

    check_string(json, "body", S(""));

    json_decref(json);
}


static void
check_number(json_t *json, const char *key, int64_t number)
{
    json_t  *integer;

    integer = json_object_get(json, key);

    assert_true(json_is_integer(integer));
    assert_int_equal(json_integer_value(integer), number);
}


static void
check_numbers(vd_record_t *record)
{
    json_t  *json;

    json = encode_and_parse(record);

    check_number(json, "v", 1);
    check_number(json, "attempt", record->attempt);
    check_number(json, "status", record->status);
    check_number(json, "duration_ms", record->duration);
    check_number(json, "retry_after", record->retry_after);

    json_decref(json);
}


/* With nothing else to be generous about: the frame must be wide enough. */

static void
numbers_of_any_size_fit(void **state)
{
    vd_record_t  record = { .duration = 0 };

    (void) state;

    record.attempt = 1000;
    record.status = 599;
    record.duration = 30000;
    record.retry_after = 604800;
    check_numbers(&record);

    record.duration = 0;
    record.retry_after = 0;
    check_numbers(&record);

    record.attempt = UINT32_MAX;
    record.status = UINT32_MAX;
    record.duration = INT64_MAX;
    record.retry_after = INT64_MAX;
    record.time = UINT64_MAX;
    record.host = text(S(""));
    record.kept = text(S(""));
    record.digest = text(S(""));
    record.body = text(S("\xff"));
    check_numbers(&record);
}


static void
times_are_rfc_3339(void **state)
{
    char         now[32];
    size_t       i;
    time_t       sec;
    json_t      *json;
    struct tm    tm;
    vd_record_t  record = example;

    (void) state;

    for (i = 0; i < countof(moments); i++) {
        record.time = moments[i].msec;

        json = encode_and_parse(&record);
        check_string(json, "time", moments[i].text, strlen(moments[i].text));
        json_decref(json);
    }

    for (i = 0; i < RANDOM_TIMES; i++) {
        record.time = (uint64_t) random_below(UINT32_MAX) * 50000
                      + random_below(50000);

        sec = (time_t) (record.time / 1000);
        assert_non_null(gmtime_r(&sec, &tm));
        assert_int_equal(strftime(now, sizeof(now), "%Y-%m-%dT%H:%M:%S", &tm),
                         19);
        (void) snprintf(now + 19, sizeof(now) - 19, ".%03uZ",
                        (unsigned) (record.time % 1000));

        json = encode_and_parse(&record);
        check_string(json, "time", now, 24);
        json_decref(json);
    }
}


/* Each at each place of the eight that are looked at together. */

static void
all_bytes_are_read_back(void **state)
{
    int            ch;
    size_t         at;
    json_t        *json;
    vd_record_t    record = example;
    unsigned char  bytes[30];

    (void) state;

    for (ch = 0; ch < 256; ch++) {

        for (at = 0; at < sizeof(bytes); at++) {
            memset(bytes, 'x', sizeof(bytes));
            bytes[at] = (unsigned char) ch;

            check_body(bytes, sizeof(bytes), ch < 0x80);
        }

        if (ch < 0x80) {
            memset(bytes, ch, sizeof(bytes));
            record.label = text(bytes, sizeof(bytes));
            record.response = record.label;

            json = encode_and_parse(&record);
            check_string(json, "label", bytes, sizeof(bytes));
            check_string(json, "response", bytes, sizeof(bytes));
            json_decref(json);

            check_body(bytes, sizeof(bytes), 1);
        }
    }
}


/* Two of what needs an escape, or a byte like it but for its high bit. */

static void
no_two_bytes_are_taken_together(void **state)
{
    size_t             i, j, at;
    unsigned char      bytes[8];
    static const char  some[] = "\"\\\n\x01\x1f !#[]\x7f";

    (void) state;

    for (i = 0; i < sizeof(some); i++) {
        for (j = 0; j < sizeof(some); j++) {
            for (at = 0; at < sizeof(bytes) - 1; at++) {
                memset(bytes, 'x', sizeof(bytes));

                bytes[at] = (unsigned char) some[i];
                bytes[at + 1] = (unsigned char) some[j];
                check_body(bytes, sizeof(bytes), 1);
            }
        }
    }

    check_body(S(X8 "\xc2\xa2\xc3\x9c\xc2\x80\xc2\x9f" X8), 1);
}


static void
text_of_all_scripts_is_kept(void **state)
{
    char                      bytes[64];
    size_t                    i, at;
    json_t                   *json;
    vd_record_t               record = example;
    static const char *const  some[] = {
        "gr\xc3\xbcn", "\xd1\x82\xd0\xb8\xd0\xba\xd0\xb5\xd1\x82",
        "\xe6\x83\x85\xe5\xa0\xb1", "\xf0\x9f\x8e\xab", "\xc2\x80", "\xdf\xbf",
        "\xe0\xa0\x80", "\xed\x9f\xbf", "\xee\x80\x80", "\xef\xbf\xbf",
        "\xe2\x80\xa8", "\xe2\x80\xa9", "\xef\xbb\xbf", "\xf0\x90\x80\x80",
        "\xf4\x8f\xbf\xbf", FFFD,
        "\xf0\x9f\x91\xa9\xe2\x80\x8d\xf0\x9f\x92\xbb\"\\\xc3\xa9\n"
    };

    (void) state;

    for (i = 0; i < countof(some); i++) {
        for (at = 0; at < 17; at++) {
            memset(bytes, 'x', sizeof(bytes));
            memcpy(bytes + at, some[i], strlen(some[i]));

            check_body(bytes, sizeof(bytes), 1);
            check_body(bytes, at + strlen(some[i]), 1);

            record.case_id = text(bytes, at + strlen(some[i]));

            json = encode_and_parse(&record);
            check_string(json, "case", bytes, at + strlen(some[i]));
            json_decref(json);
        }
    }
}


static void
check_repair(const void *data, size_t len, const void *read, size_t read_len)
{
    json_t       *json;
    vd_record_t   record = example;

    record.label = text(data, len);
    record.response = text(data, len);

    json = encode_and_parse(&record);

    check_string(json, "label", read, read_len);
    check_string(json, "response", read, read_len);

    json_decref(json);

    check_body(data, len, len == read_len && memcmp(data, read, len) == 0);
}


static void
what_is_not_utf8_is_replaced(void **state)
{
    size_t  i;

    (void) state;

    for (i = 0; i < countof(repairs); i++) {
        check_repair(repairs[i].text, repairs[i].len, repairs[i].read,
                     strlen(repairs[i].read));
    }
}


static void
random_bytes_are_repaired_as_unicode_says(void **state)
{
    size_t             i, n, len;
    unsigned char      bytes[48], read[3 * sizeof(bytes)];
    static const char  some[] =
        "\x00\x41\"\x7f\x80\x8f\x90\x9f\xa0\xbf\xc0\xc1\xc2\xdf\xe0\xe1\xec"
        "\xed\xee\xef\xf0\xf1\xf3\xf4\xf5\xff";

    (void) state;

    for (n = 0; n < RANDOM_TEXTS; n++) {
        len = random_below(sizeof(bytes)) + 1;

        for (i = 0; i < len; i++) {
            bytes[i] = (unsigned char) (random_below(4) == 0 ? 'x'
                                        : some[random_below(sizeof(some) - 1)]);
        }

        check_repair(bytes, len, read, utf8_repair(bytes, len, read));
    }
}


/* From memory of its size, so that reading past it is seen. */

static void
check_response(const unsigned char *data, size_t len, size_t kept)
{
    json_t         *json;
    vd_record_t     record = example;
    unsigned char  *copy, read[3 * VD_RECORD_RESPONSE_MAX];

    copy = malloc(len);
    assert_non_null(copy);
    memcpy(copy, data, len);

    record.response = text(copy, len);

    json = encode_and_parse(&record);
    check_string(json, "response", read, utf8_repair(data, kept, read));

    json_decref(json);
    free(copy);
}


static void
a_response_is_cut_between_characters(void **state)
{
    size_t                    i, at, n, end, kept, len;
    unsigned char             bytes[VD_RECORD_RESPONSE_MAX + 16];
    static const char *const  some[] = {
        "\xc3\xa9", "\xe2\x82\xac", "\xf0\x9f\x8e\xab"
    };

    (void) state;

    for (i = 0; i < countof(some); i++) {
        n = strlen(some[i]);

        for (at = VD_RECORD_RESPONSE_MAX - 8;
             at <= VD_RECORD_RESPONSE_MAX + 4;
             at++)
        {
            memset(bytes, 'x', sizeof(bytes));
            memcpy(bytes + at, some[i], n);

            end = at + n;
            kept = (at < VD_RECORD_RESPONSE_MAX
                    && end > VD_RECORD_RESPONSE_MAX) ? at
                                                     : VD_RECORD_RESPONSE_MAX;

            for (len = VD_RECORD_RESPONSE_MAX + 4;
                 len <= sizeof(bytes);
                 len++)
            {
                check_response(bytes, len, (at < len && end > len)
                                           ? VD_RECORD_RESPONSE_MAX : kept);
            }
        }

        /* characters from end to end */

        for (at = 0; at < n; at++) {
            memset(bytes, 'x', sizeof(bytes));

            for (end = at; end + n <= sizeof(bytes); end += n) {
                memcpy(bytes + end, some[i], n);
            }

            kept = VD_RECORD_RESPONSE_MAX - (VD_RECORD_RESPONSE_MAX - at) % n;
            check_response(bytes, sizeof(bytes), kept);
        }
    }
}


static void
a_response_is_cut_where_it_is_no_text(void **state)
{
    unsigned char  bytes[VD_RECORD_RESPONSE_MAX + 16];

    (void) state;

    memset(bytes, 0xbf, sizeof(bytes));
    check_response(bytes, sizeof(bytes), VD_RECORD_RESPONSE_MAX);

    memset(bytes, 0xf0, sizeof(bytes));
    check_response(bytes, sizeof(bytes), VD_RECORD_RESPONSE_MAX);

    memset(bytes, 'x', sizeof(bytes));
    memcpy(bytes + VD_RECORD_RESPONSE_MAX - 2, "\xf0\x9f\x8e", 3);
    check_response(bytes, sizeof(bytes), VD_RECORD_RESPONSE_MAX);

    memcpy(bytes + VD_RECORD_RESPONSE_MAX - 2, "\xed\xa0\x80", 3);
    check_response(bytes, sizeof(bytes), VD_RECORD_RESPONSE_MAX);

    memset(bytes, 'x', sizeof(bytes));
    memcpy(bytes + VD_RECORD_RESPONSE_MAX - 2, "\xc3\xa9\xa9", 3);
    check_response(bytes, sizeof(bytes), VD_RECORD_RESPONSE_MAX);

    /* what ends at the limit is as it is */

    memset(bytes, 'x', sizeof(bytes));
    memcpy(bytes + VD_RECORD_RESPONSE_MAX - 3, "\xe2\x82\xac", 3);
    check_response(bytes, VD_RECORD_RESPONSE_MAX, VD_RECORD_RESPONSE_MAX);
    check_response(bytes, VD_RECORD_RESPONSE_MAX - 1,
                   VD_RECORD_RESPONSE_MAX - 1);
}


static void
big_bodies_are_read_back(void **state)
{
    size_t          i, len;
    unsigned char  *body;

    (void) state;

    len = 4 * MEGABYTE + 1;     /* base64 of it takes more than one go */

    body = malloc(len);
    assert_non_null(body);

    memset(body, 'x', len);
    check_body(body, len, 1);

    memset(body, '"', MEGABYTE);
    check_body(body, MEGABYTE, 1);

    memset(body, 0x01, MEGABYTE);
    check_body(body, MEGABYTE, 1);

    for (i = 0; i < MEGABYTE; i += 4) {
        memcpy(body + i, "\xf0\x9f\x8e\xab", 4);
    }

    check_body(body, MEGABYTE, 1);
    check_body(body, MEGABYTE - 1, 0);

    for (i = 0; i < len; i++) {
        body[i] = (unsigned char) random_below(256);
    }

    for (i = 0; i < 3; i++) {
        check_body(body, len - i, 0);
    }

    free(body);
}


static void
a_segment_begins_and_ends(void **state)
{
    size_t         len;
    json_t        *json;
    unsigned char  line[VD_RECORD_EDGE_MAX];

    static const char  header[] =
        "{\"v\":1,\"segment\":\"" UUID "\",\"pid\":123,"
        "\"opened\":\"2026-11-22T10:00:00.123Z\"}\n";

    static const char  end[] =
        "{\"v\":1,\"end\":\"" UUID "\",\"records\":42}\n";

    (void) state;

    len = vd_record_write_header(line, (const unsigned char *) UUID, 123,
                                 1795341600123);

    assert_int_equal(len, sizeof(header) - 1);
    assert_memory_equal(line, header, len);
    json_decref(parse((char *) line, len));

    len = vd_record_write_end(line, (const unsigned char *) UUID, 42);

    assert_int_equal(len, sizeof(end) - 1);
    assert_memory_equal(line, end, len);
    json_decref(parse((char *) line, len));

    /* at their longest */

    assert_true(vd_record_write_header(line, (const unsigned char *) UUID,
                                       INT64_MAX, UINT64_MAX)
                <= sizeof(line));

    len = vd_record_write_end(line, (const unsigned char *) UUID, INT64_MAX);
    assert_true(len <= sizeof(line));

    json = parse((char *) line, len);
    check_number(json, "records", INT64_MAX);
    json_decref(json);
}


int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(a_line_is_as_documented),
        cmocka_unit_test(keys_are_in_order),
        cmocka_unit_test(the_checksum_is_that_of_zip),
        cmocka_unit_test(what_is_unknown_is_null),
        cmocka_unit_test(each_field_has_its_key),
        cmocka_unit_test(empty_strings_are_not_null),
        cmocka_unit_test(numbers_of_any_size_fit),
        cmocka_unit_test(times_are_rfc_3339),
        cmocka_unit_test(all_bytes_are_read_back),
        cmocka_unit_test(no_two_bytes_are_taken_together),
        cmocka_unit_test(text_of_all_scripts_is_kept),
        cmocka_unit_test(what_is_not_utf8_is_replaced),
        cmocka_unit_test(random_bytes_are_repaired_as_unicode_says),
        cmocka_unit_test(a_response_is_cut_between_characters),
        cmocka_unit_test(a_response_is_cut_where_it_is_no_text),
        cmocka_unit_test(big_bodies_are_read_back),
        cmocka_unit_test(a_segment_begins_and_ends)
    };

    return cmocka_run_group_tests_name("vd_record", tests, NULL, NULL);
}
