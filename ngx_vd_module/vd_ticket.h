
/*
 * Copyright (C) The ngx_vd_module authors
 *
 * The receiver's reference for a case, found in its JSON reply.
 */


#ifndef VD_TICKET_H_INCLUDED_
#define VD_TICKET_H_INCLUDED_


#include <stddef.h>


typedef enum {
    VD_TICKET_FOUND = 0,
    VD_TICKET_MISSING,          /* no path leads to a value */
    VD_TICKET_NOT_JSON,         /* or its key is there twice */
    VD_TICKET_WRONG_TYPE,       /* neither a string nor an integer */
    VD_TICKET_EMPTY,            /* nothing but white space */
    VD_TICKET_TOO_LONG,
    VD_TICKET_BAD_CHARACTERS,   /* C0, DEL, C1 */
    VD_TICKET_NO_MATCH,         /* of the pattern, or its match limit */
    VD_TICKET_TOO_LARGE,        /* the reply; set by who reads it */
    VD_TICKET_LAST
} vd_ticket_e;


/* What is looked for: paths, limit, pattern. */
typedef struct vd_ticket_s  vd_ticket_t;

/* max: of a value's bytes.  NULL if out of memory. */
vd_ticket_t *vd_ticket_create(size_t max);
void vd_ticket_free(vd_ticket_t *ticket);

/*
 * Adds a dotted path: "data.ticket_id"; a number is a key of an object or an
 * index into an array, as the reply has it.  NULL, or what is wrong with it
 * (static).
 */
const char *vd_ticket_add_path(vd_ticket_t *ticket, const unsigned char *path,
    size_t len);

/*
 * Sets the PCRE2 pattern that the whole value must match.  Returns 0, or -1
 * with a message in error (at most size bytes, NUL included).
 */
int vd_ticket_set_pattern(vd_ticket_t *ticket, const unsigned char *pattern,
    size_t len, char *error, size_t size);

/*
 * Looks into a reply.  The first path with a usable value wins: VD_TICKET_FOUND
 * and out (of at least max bytes, UTF-8, no NUL added) and *out_len set.  Else
 * the error of the first path that led to a value, or VD_TICKET_MISSING.
 */
vd_ticket_e vd_ticket_find(const vd_ticket_t *ticket,
    const unsigned char *reply, size_t len, unsigned char *out,
    size_t *out_len);

/* Static names, as in answers and journal; "" for VD_TICKET_FOUND. */
const char *vd_ticket_error_name(vd_ticket_e error);


#endif /* VD_TICKET_H_INCLUDED_ */
