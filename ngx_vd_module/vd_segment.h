
/*
 * Copyright (C) The ngx_vd_module authors
 *
 * A journal segment: a file that one process appends to.  Nothing here knows
 * of event loops: the calls block, and may run in a thread, one at a time.
 */


#ifndef VD_SEGMENT_H_INCLUDED_
#define VD_SEGMENT_H_INCLUDED_


#include <limits.h>
#include <stddef.h>
#include <stdint.h>

#include "vd_id.h"


typedef struct {
    const char    *dir;         /* without a slash at its end */
    size_t         dir_len;
    uint64_t       limit;       /* bytes, after which a segment is closed */
    unsigned       sync:1;      /* all is on disk when a call returns */
} vd_segment_conf_t;


typedef struct {
    int            fd;          /* -1: none is open */
    char           path[PATH_MAX];
    unsigned char  uuid[VD_UUID_LEN];
    uint64_t       size;
    uint64_t       records;

    const char    *failed;      /* the system call that failed, and its errno */
    int            error;
} vd_segment_t;


void vd_segment_init(vd_segment_t *segment);

/*
 * Appends whole lines, all or none of them.  Opens a segment if none is open,
 * and closes it once it has reached its limit.
 *
 * A new segment is made under a hidden name and gets its own once its writer
 * holds the lock (flock) and its first line is written.  With conf->sync the
 * lines, and a new segment's directory entry, are on disk at return.
 *
 * Returns 0; or -1 with failed and error set: the segment has been cut back to
 * what it held before and abandoned, the next call begins another one.  To
 * find that somebody has deleted the file, or put another directory in place
 * of its own, is a failure as well.
 */
int vd_segment_append(vd_segment_t *segment, const vd_segment_conf_t *conf,
    const unsigned char *data, size_t len, unsigned records);

/*
 * Ends the segment in order, with its last line, if one is open.  Returns 0 or
 * -1 as above; the segment is closed in any case.
 */
int vd_segment_close(vd_segment_t *segment, const vd_segment_conf_t *conf);


#endif /* VD_SEGMENT_H_INCLUDED_ */
