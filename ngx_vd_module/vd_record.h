
/*
 * Copyright (C) The ngx_vd_module authors
 *
 * The journal's lines: a segment's first and last one, and a record for each
 * attempt.  JSON, one object a line, the keys always in the same order.
 */


#ifndef VD_RECORD_H_INCLUDED_
#define VD_RECORD_H_INCLUDED_


#include <stddef.h>
#include <stdint.h>


#define VD_RECORD_RESPONSE_MAX  1024

/* enough for vd_record_write_header() and vd_record_write_end() */
#define VD_RECORD_EDGE_MAX      192


typedef struct {
    const unsigned char  *data;     /* NULL: unknown, written as null */
    size_t                len;
} vd_text_t;


/*
 * Strings may hold any bytes: what is not UTF-8 becomes U+FFFD, only a body is
 * kept as it is (as "body_b64").  Nothing is owned.
 */

typedef struct {
    uint64_t      time;             /* Unix milliseconds */
    vd_text_t     id;
    vd_text_t     output;
    vd_text_t     label;
    vd_text_t     case_id;
    vd_text_t     uri;
    unsigned      attempt;
    const char   *outcome;          /* "delivered", "failed", "accepted" */
    const char   *reason;           /* "": null, as with ticket_error */
    unsigned      status;           /* 0: null */
    vd_text_t     upstream;
    int64_t       duration;         /* milliseconds, -1: null */
    vd_text_t     ticket_id;
    const char   *ticket_error;
    vd_text_t     response;         /* the first VD_RECORD_RESPONSE_MAX bytes
                                       of it are written */
    int64_t       retry_after;      /* seconds, -1: the key is left out */
    vd_text_t     content_type;

    /* data NULL: the key is left out */
    vd_text_t     host;
    vd_text_t     kept;
    vd_text_t     digest;
    vd_text_t     body;

    unsigned      base64:1;         /* set by vd_record_size(): how the body
                                       is written */
} vd_record_t;


/*
 * The most bytes that vd_record_write() writes: exact for the body, generous
 * for the rest.  To be called first, since it looks whether the body is UTF-8.
 */
size_t vd_record_size(vd_record_t *record);

/*
 * Writes the record's line, "crc" (CRC-32, that of zlib and gzip, of the line
 * before `,"crc":`, as eight hex digits) and line feed included; returns its
 * length.
 */
size_t vd_record_write(const vd_record_t *record, unsigned char *out);

/* A segment's first and last line, with their line feeds; their length. */
size_t vd_record_write_header(unsigned char *out, const unsigned char *uuid,
    long pid, uint64_t time);
size_t vd_record_write_end(unsigned char *out, const unsigned char *uuid,
    uint64_t records);


#endif /* VD_RECORD_H_INCLUDED_ */
