
/*
 * Copyright (C) The ngx_vd_module authors
 *
 * Is a text one JSON document (RFC 8259) in UTF-8 (RFC 3629)?  A scanner that
 * takes the text in pieces, allocates nothing and looks at each byte once.  A
 * parser would build a tree of the case only to throw it away, at several
 * times the cost of all the rest of a delivery.
 */


#ifndef VD_JSON_H_INCLUDED_
#define VD_JSON_H_INCLUDED_


#include <stddef.h>
#include <stdint.h>


#define VD_JSON_MAX_DEPTH   512
#define VD_JSON_FULL_DEPTH  2048


typedef struct {
    size_t       offset;    /* bytes that were accepted so far */
    const char  *error;     /* NULL, or what is wrong at offset */
    unsigned     max_depth;

    /* the rest is the scanner's own */

    unsigned     state;
    unsigned     depth;
    uint32_t     word;
    uint8_t      stack[VD_JSON_FULL_DEPTH / 8];
} vd_json_t;


/* max_depth is VD_JSON_MAX_DEPTH; VD_JSON_FULL_DEPTH may be set instead. */
void vd_json_start(vd_json_t *json);

/*
 * Takes the next piece; pieces may end anywhere, inside a character too.
 * Returns 0, or -1 with error and offset set (the offset of the first byte
 * that cannot be part of a JSON document).  After an error all calls return
 * -1.
 */
int vd_json_feed(vd_json_t *json, const unsigned char *text, size_t len);

/* The text has ended: 0 if it was one whole document, else -1 as above. */
int vd_json_finish(vd_json_t *json);


#endif /* VD_JSON_H_INCLUDED_ */
