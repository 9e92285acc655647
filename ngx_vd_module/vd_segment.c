
/*
 * Copyright (C) The ngx_vd_module authors
 */


#define _GNU_SOURCE
#define _FILE_OFFSET_BITS  64

#include "vd_segment.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "vd_record.h"


#define VD_SEGMENT_MODE    0640

#define VD_SEGMENT_SUFFIX  ".jsonl"


static int vd_segment_open(vd_segment_t *segment,
    const vd_segment_conf_t *conf);
static int vd_segment_name(vd_segment_t *segment,
    const vd_segment_conf_t *conf, uint64_t now, char *hidden);
static int vd_segment_begin(vd_segment_t *segment,
    const vd_segment_conf_t *conf, uint64_t now, const char *hidden);
static int vd_segment_sync_dir(vd_segment_t *segment,
    const vd_segment_conf_t *conf);
static int vd_segment_write(vd_segment_t *segment,
    const vd_segment_conf_t *conf, const unsigned char *data, size_t len);
static int vd_segment_linked(vd_segment_t *segment);
static void vd_segment_abandon(vd_segment_t *segment);
static int vd_segment_fail(vd_segment_t *segment, const char *call);
static uint64_t vd_segment_now(void);


void
vd_segment_init(vd_segment_t *segment)
{
    memset(segment, 0, sizeof(vd_segment_t));

    segment->fd = -1;
}


int
vd_segment_append(vd_segment_t *segment, const vd_segment_conf_t *conf,
    const unsigned char *data, size_t len, unsigned records)
{
    if (segment->fd == -1 && vd_segment_open(segment, conf) != 0) {
        return -1;
    }

    if (vd_segment_write(segment, conf, data, len) != 0
        || vd_segment_linked(segment) != 0)
    {
        vd_segment_abandon(segment);
        return -1;
    }

    segment->size += len;
    segment->records += records;

    if (segment->size >= conf->limit) {
        /* the records are safe, whatever becomes of the last line */
        (void) vd_segment_close(segment, conf);
    }

    return 0;
}


int
vd_segment_close(vd_segment_t *segment, const vd_segment_conf_t *conf)
{
    size_t         len;
    unsigned char  line[VD_RECORD_EDGE_MAX];

    if (segment->fd == -1) {
        return 0;
    }

    len = vd_record_write_end(line, segment->uuid, segment->records);

    if (vd_segment_write(segment, conf, line, len) != 0) {
        vd_segment_abandon(segment);
        return -1;
    }

    (void) close(segment->fd);
    segment->fd = -1;

    return 0;
}


static int
vd_segment_open(vd_segment_t *segment, const vd_segment_conf_t *conf)
{
    char      hidden[PATH_MAX];
    uint64_t  now;

    now = vd_segment_now();

    if (vd_segment_name(segment, conf, now, hidden) != 0) {
        return -1;
    }

    segment->size = 0;
    segment->records = 0;

    segment->fd = open(hidden, O_WRONLY|O_CREAT|O_EXCL|O_CLOEXEC,
                       VD_SEGMENT_MODE);
    if (segment->fd == -1) {
        return vd_segment_fail(segment, "open()");
    }

    if (vd_segment_begin(segment, conf, now, hidden) != 0) {
        (void) unlink(hidden);
        (void) close(segment->fd);
        segment->fd = -1;
        return -1;
    }

    return 0;
}


static int
vd_segment_name(vd_segment_t *segment, const vd_segment_conf_t *conf,
    uint64_t now, char *hidden)
{
    int            n;
    unsigned char  random[VD_UUID_RANDOM];

    if (getentropy(random, sizeof(random)) != 0) {
        return vd_segment_fail(segment, "getentropy()");
    }

    vd_uuid7(segment->uuid, now, random);

    (void) snprintf(hidden, PATH_MAX, "%.*s/.%.*s",
                    (int) conf->dir_len, conf->dir,
                    VD_UUID_LEN, segment->uuid);

    n = snprintf(segment->path, PATH_MAX, "%.*s/%.*s%s",
                 (int) conf->dir_len, conf->dir,
                 VD_UUID_LEN, segment->uuid, VD_SEGMENT_SUFFIX);

    if (n >= PATH_MAX) {
        errno = ENAMETOOLONG;
        return vd_segment_fail(segment, "open()");
    }

    return 0;
}


static int
vd_segment_begin(vd_segment_t *segment, const vd_segment_conf_t *conf,
    uint64_t now, const char *hidden)
{
    size_t         len;
    unsigned char  line[VD_RECORD_EDGE_MAX];

    /* a umask must not keep the reader's group out */

    if (fchmod(segment->fd, VD_SEGMENT_MODE) != 0) {
        return vd_segment_fail(segment, "fchmod()");
    }

    if (flock(segment->fd, LOCK_EX|LOCK_NB) != 0) {
        return vd_segment_fail(segment, "flock()");
    }

    len = vd_record_write_header(line, segment->uuid, (long) getpid(), now);

    if (vd_segment_write(segment, conf, line, len) != 0) {
        return -1;
    }

    segment->size = len;

    if (rename(hidden, segment->path) != 0) {
        return vd_segment_fail(segment, "rename()");
    }

    if (conf->sync && vd_segment_sync_dir(segment, conf) != 0) {
        (void) unlink(segment->path);
        return -1;
    }

    return 0;
}


static int
vd_segment_sync_dir(vd_segment_t *segment, const vd_segment_conf_t *conf)
{
    int   fd, rc;
    char  dir[PATH_MAX];

    (void) snprintf(dir, sizeof(dir), "%.*s", (int) conf->dir_len, conf->dir);

    fd = open(dir, O_RDONLY|O_DIRECTORY|O_CLOEXEC);
    if (fd == -1) {
        return vd_segment_fail(segment, "open()");
    }

    rc = fsync(fd);

    if (rc != 0) {
        rc = vd_segment_fail(segment, "fsync()");
    }

    (void) close(fd);

    return rc;
}


/* Writes behind what counts of the segment; its size is left as it is. */

static int
vd_segment_write(vd_segment_t *segment, const vd_segment_conf_t *conf,
    const unsigned char *data, size_t len)
{
    off_t    offset;
    ssize_t  n;

    offset = (off_t) segment->size;

    while (len > 0) {
        errno = EIO;    /* for a write of nothing */

        n = pwrite(segment->fd, data, len, offset);

        if (n > 0) {
            data += n;
            len -= (size_t) n;
            offset += n;

        } else if (errno != EINTR) {
            return vd_segment_fail(segment, "pwrite()");
        }
    }

    if (conf->sync && fdatasync(segment->fd) != 0) {
        return vd_segment_fail(segment, "fdatasync()");
    }

    return 0;
}


/*
 * A file that was deleted, alone or with its directory, takes all that is
 * written and nobody will read it.  So does one that is not where readers look
 * any more: its directory was renamed, or another is mounted over it.
 */

static int
vd_segment_linked(vd_segment_t *segment)
{
    struct stat  st, found;

    if (fstat(segment->fd, &st) != 0) {
        return vd_segment_fail(segment, "fstat()");
    }

    if (stat(segment->path, &found) != 0) {
        return vd_segment_fail(segment, "stat()");
    }

    if (found.st_ino != st.st_ino || found.st_dev != st.st_dev) {
        errno = ENOENT;
        return vd_segment_fail(segment, "stat()");
    }

    return 0;
}


/*
 * Whoever waits for what was just written hears that it was not: it must not
 * be found.  What was there before stays, and a reader sees by the free lock
 * that nobody goes on with it.  If not even cutting back works, whole lines
 * may stay that a reader takes and their sender repeats, with the same id.
 */

static void
vd_segment_abandon(vd_segment_t *segment)
{
    int  rc;

    rc = ftruncate(segment->fd, (off_t) segment->size);

    if (segment->records == 0) {
        rc = unlink(segment->path);
    }

    (void) rc;
    (void) close(segment->fd);
    segment->fd = -1;
}


static int
vd_segment_fail(vd_segment_t *segment, const char *call)
{
    segment->failed = call;
    segment->error = errno;

    return -1;
}


static uint64_t
vd_segment_now(void)
{
    struct timespec  ts;

    (void) clock_gettime(CLOCK_REALTIME, &ts);

    return (uint64_t) ts.tv_sec * 1000 + (uint64_t) ts.tv_nsec / 1000000;
}
