
/*
 * Copyright (C) The ngx_vd_module authors
 *
 * The system calls that a segment is written with are defined here: they do
 * what they are for, are noted down, and fail when told to.
 */


#define _GNU_SOURCE
#define _FILE_OFFSET_BITS  64

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "vd_segment.h"


#define countof(array)  (sizeof(array) / sizeof((array)[0]))

#define NOBODY          65534
#define RECORDS_MAX     256
#define LOG_MAX         1024
#define FAILURES        100

#define FOREVER         UINT_MAX

/* what a segment's name adds to its directory's */
#define NAME_LEN        (sizeof("/.jsonl") - 1 + VD_UUID_LEN)


/* Calls of that name fail, from one on and that often. */

typedef struct {
    const char  *call;
    unsigned     from;
    unsigned     times;
    int          error;
    size_t       part;          /* that many bytes are written before */
    const char  *also;          /* and these always fail */
} fault_t;


/* All that a reader finds in the directory. */

typedef struct {
    unsigned     files;
    unsigned     hidden;
    unsigned     ended;
    unsigned     torn;          /* segments that end in a part of a line */
    unsigned     records[RECORDS_MAX];
} journal_t;


static struct {
    fault_t      fault;
    unsigned     seen;
    unsigned     watched;       /* the directory is looked at in each call */
    char         log[LOG_MAX];
} calls;


static char               dir[PATH_MAX];
static vd_segment_t       segment;
static vd_segment_conf_t  conf;


static void read_journal(journal_t *journal);


static int
called(const char *name)
{
    size_t     len;
    journal_t  journal;

    if (calls.watched) {
        calls.watched = 0;
        read_journal(&journal);
        calls.watched = 1;

        len = strlen(calls.log);
        (void) snprintf(calls.log + len, LOG_MAX - len, "%s ", name);
    }

    if (calls.fault.also != NULL && strcmp(calls.fault.also, name) == 0) {
        errno = EIO;
        return -1;
    }

    if (calls.fault.call == NULL || strcmp(calls.fault.call, name) != 0) {
        return 0;
    }

    calls.seen++;

    if (calls.seen < calls.fault.from
        || calls.seen - calls.fault.from >= calls.fault.times)
    {
        return 0;
    }

    if (calls.fault.error != 0) {
        errno = calls.fault.error;
    }

    return -1;
}


int
open(const char *path, int flags, ...)
{
    mode_t   mode;
    va_list  args;

    va_start(args, flags);
    mode = (flags & O_CREAT) ? va_arg(args, mode_t) : 0;
    va_end(args);

    return called("open") ? -1 : (int) syscall(SYS_openat, AT_FDCWD, path,
                                               flags, mode);
}


int
fchmod(int fd, mode_t mode)
{
    return called("fchmod") ? -1 : (int) syscall(SYS_fchmod, fd, mode);
}


int
flock(int fd, int operation)
{
    return called("flock") ? -1 : (int) syscall(SYS_flock, fd, operation);
}


ssize_t
pwrite(int fd, const void *data, size_t len, off_t offset)
{
    if (called("pwrite")) {
        return (calls.fault.error != 0) ? -1 : 0;
    }

    if (calls.fault.part != 0 && calls.seen == calls.fault.from - 1
        && calls.fault.part < len)
    {
        len = calls.fault.part;
    }

    return syscall(SYS_pwrite64, fd, data, len, offset);
}


int
fdatasync(int fd)
{
    return called("fdatasync") ? -1 : (int) syscall(SYS_fdatasync, fd);
}


int
fsync(int fd)
{
    return called("fsync") ? -1 : (int) syscall(SYS_fsync, fd);
}


int
rename(const char *old, const char *new)
{
    return called("rename") ? -1 : (int) syscall(SYS_renameat2, AT_FDCWD, old,
                                                 AT_FDCWD, new, 0);
}


int
fstat(int fd, struct stat *st)
{
    return called("fstat") ? -1 : fstatat(fd, "", st, AT_EMPTY_PATH);
}


int
ftruncate(int fd, off_t len)
{
    return called("ftruncate") ? -1 : (int) syscall(SYS_ftruncate, fd, len);
}


int
unlink(const char *path)
{
    return called("unlink") ? -1 : unlinkat(AT_FDCWD, path, 0);
}


static void
inject(const char *call, unsigned from, unsigned times, int error)
{
    memset(&calls, 0, sizeof(calls));

    calls.fault.call = call;
    calls.fault.from = from;
    calls.fault.times = times;
    calls.fault.error = error;
}


static void
watch(void)
{
    inject(NULL, 0, 0, 0);
    calls.watched = 1;
}


static int
set_up(void **state)
{
    (void) state;

    inject(NULL, 0, 0, 0);

    (void) snprintf(dir, sizeof(dir), "%s/vd.XXXXXX",
                    getenv("TMPDIR") != NULL ? getenv("TMPDIR") : "/tmp");

    if (mkdtemp(dir) == NULL) {
        return -1;
    }

    conf.dir = dir;
    conf.dir_len = strlen(dir);
    conf.limit = 1024 * 1024;
    conf.sync = 1;

    vd_segment_init(&segment);

    return 0;
}


static int
tear_down(void **state)
{
    DIR            *d;
    struct dirent  *entry;

    (void) state;

    inject(NULL, 0, 0, 0);

    if (segment.fd != -1) {
        (void) close(segment.fd);
    }

    d = opendir(dir);

    if (d != NULL) {
        while ((entry = readdir(d)) != NULL) {
            (void) unlinkat(dirfd(d), entry->d_name, 0);
        }

        (void) closedir(d);
    }

    (void) rmdir(dir);

    return 0;
}


static unsigned
open_files(void)
{
    DIR       *d;
    unsigned   n;

    d = opendir("/proc/self/fd");
    assert_non_null(d);

    for (n = 0; readdir(d) != NULL; n++) { /* void */ }

    (void) closedir(d);

    return n;
}


/* Is nobody's lock on it? */

static int
unlocked(const char *path)
{
    int  fd, rc;

    fd = open(path, O_RDONLY);
    assert_true(fd != -1);

    rc = (int) syscall(SYS_flock, fd, LOCK_SH|LOCK_NB);

    (void) close(fd);

    return rc == 0;
}


static void
read_header(const char *line, const char *name)
{
    char         file[NAME_MAX + 1];
    json_int_t   v, pid;
    json_t      *json;
    const char  *uuid, *opened;

    json = json_loads(line, 0, NULL);
    assert_non_null(json);

    assert_int_equal(json_unpack(json, "{s:I,s:s,s:I,s:s !}", "v", &v,
                                 "segment", &uuid, "pid", &pid,
                                 "opened", &opened),
                     0);
    assert_int_equal(v, 1);
    assert_int_equal(pid, getpid());
    assert_int_equal(strlen(opened), sizeof("2026-11-22T10:00:00.123Z") - 1);

    (void) snprintf(file, sizeof(file), "%s.jsonl", uuid);
    assert_string_equal(file, name);

    json_decref(json);
}


/* A record is {"n":NUMBER}; each line is one, or the end. */

static void
read_line(journal_t *journal, const char *line, const char *name,
    unsigned records)
{
    json_t      *json;
    json_int_t   v, n;
    const char  *uuid;

    json = json_loads(line, 0, NULL);
    assert_non_null(json);

    if (json_unpack(json, "{s:I !}", "n", &n) == 0) {
        assert_in_range(n, 0, RECORDS_MAX - 1);
        journal->records[n]++;

    } else {
        assert_int_equal(json_unpack(json, "{s:I,s:s,s:I !}", "v", &v,
                                     "end", &uuid, "records", &n),
                         0);
        assert_int_equal(v, 1);
        assert_memory_equal(uuid, name, VD_UUID_LEN);
        assert_int_equal(n, records);
        journal->ended++;
    }

    json_decref(json);
}


/* A visible segment has its first line whole, always. */

static void
read_segment(journal_t *journal, const char *name)
{
    int        ended;
    char      *line, path[PATH_MAX + NAME_MAX + 2];
    FILE      *file;
    size_t     room;
    ssize_t    len;
    unsigned   lines;

    (void) snprintf(path, sizeof(path), "%s/%s", dir, name);

    file = fopen(path, "r");
    assert_non_null(file);

    line = NULL;
    room = 0;
    lines = 0;
    ended = 0;

    while ((len = getline(&line, &room, file)) > 0) {

        if (line[len - 1] != '\n') {
            assert_true(lines > 0);
            journal->torn++;
            break;
        }

        assert_int_equal(strlen(line), len);
        assert_false(ended);

        if (lines == 0) {
            read_header(line, name);

        } else {
            read_line(journal, line, name, lines - 1);
            ended = strstr(line, "\"end\"") != NULL;
        }

        lines++;
    }

    assert_true(lines > 0);

    free(line);
    (void) fclose(file);
}


static void
read_journal(journal_t *journal)
{
    DIR            *d;
    const char     *name, *suffix;
    struct dirent  *entry;

    memset(journal, 0, sizeof(journal_t));

    d = opendir(dir);
    assert_non_null(d);

    while ((entry = readdir(d)) != NULL) {
        name = entry->d_name;

        if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0) {
            continue;
        }

        suffix = strrchr(name, '.');

        if (suffix != NULL && strcmp(suffix, ".jsonl") == 0) {
            read_segment(journal, name);
            journal->files++;

        } else {
            assert_int_equal(name[0], '.');
            journal->hidden++;
        }
    }

    (void) closedir(d);
}


/* Records 0 to below records are there, once each, but for one. */

static journal_t
check_journal(unsigned records, unsigned missing)
{
    unsigned   i;
    journal_t  journal;

    read_journal(&journal);

    for (i = 0; i < RECORDS_MAX; i++) {

        if (journal.records[i] != (i < records && i != missing)) {
            fail_msg("record %u is there %u times", i, journal.records[i]);
        }
    }

    assert_int_equal(journal.hidden, 0);
    assert_int_equal(journal.torn, 0);

    return journal;
}

#define NONE  UINT_MAX


/* A batch of records, from first on. */

static int
append(unsigned first, unsigned records)
{
    int       rc;
    char     *lines;
    size_t    len;
    unsigned  i;

    lines = malloc(records * sizeof("{\"n\":4294967295}\n"));
    assert_non_null(lines);

    len = 0;

    for (i = 0; i < records; i++) {
        len += (size_t) sprintf(lines + len, "{\"n\":%u}\n", first + i);
    }

    rc = vd_segment_append(&segment, &conf, (unsigned char *) lines, len,
                           records);
    free(lines);

    return rc;
}


static void
check_failed(int rc, const char *call, int error)
{
    assert_int_equal(rc, -1);
    assert_int_equal(segment.fd, -1);
    assert_string_equal(segment.failed, call);
    assert_int_equal(segment.error, error);
}


static void
records_are_found_again(void **state)
{
    unsigned   before;
    journal_t  journal;

    (void) state;

    before = open_files();

    assert_int_equal(append(0, 1), 0);
    (void) check_journal(1, NONE);

    assert_int_equal(append(1, 9), 0);
    assert_int_equal(append(10, 1), 0);

    journal = check_journal(11, NONE);
    assert_int_equal(journal.files, 1);
    assert_int_equal(journal.ended, 0);
    assert_int_equal(open_files(), before + 1);

    assert_int_equal(vd_segment_close(&segment, &conf), 0);

    journal = check_journal(11, NONE);
    assert_int_equal(journal.ended, 1);
    assert_int_equal(open_files(), before);

    /* nothing is open, and then a new one */

    assert_int_equal(vd_segment_close(&segment, &conf), 0);
    assert_int_equal(append(11, 1), 0);

    journal = check_journal(12, NONE);
    assert_int_equal(journal.files, 2);
    assert_int_equal(journal.ended, 1);
}


static void
a_segment_ends_at_its_limit(void **state)
{
    unsigned   i;
    journal_t  journal;

    (void) state;

    /* a header has more than a hundred bytes, a record here eight or nine */

    conf.limit = 200;

    for (i = 0; i < 100; i++) {
        assert_int_equal(append(i, 1), 0);
        (void) check_journal(i + 1, NONE);

        assert_true(segment.fd == -1 || segment.size < conf.limit);
    }

    journal = check_journal(100, NONE);
    assert_in_range(journal.files, 8, 12);
    assert_in_range(journal.ended, journal.files - 1, journal.files);

    /* reached is enough */

    assert_int_equal(vd_segment_close(&segment, &conf), 0);
    assert_int_equal(append(100, 1), 0);

    conf.limit = segment.size + sizeof("{\"n\":101}\n") - 1;
    assert_int_equal(append(101, 1), 0);
    assert_int_equal(segment.fd, -1);

    /* a batch is never taken apart */

    conf.limit = 1;
    assert_int_equal(append(102, 100), 0);
    assert_int_equal(segment.fd, -1);

    journal = check_journal(202, NONE);
    assert_int_equal(journal.ended, journal.files);
}


static void
its_writer_holds_a_lock(void **state)
{
    (void) state;

    assert_int_equal(append(0, 1), 0);
    assert_false(unlocked(segment.path));

    assert_int_equal(vd_segment_close(&segment, &conf), 0);
    assert_true(unlocked(segment.path));

    assert_int_equal(append(1, 1), 0);
    assert_false(unlocked(segment.path));

    /* not a program, too, that it becomes or starts */

    assert_int_equal(fcntl(segment.fd, F_GETFD), FD_CLOEXEC);

    inject("fdatasync", 1, 1, EIO);
    check_failed(append(2, 1), "fdatasync()", EIO);
    assert_true(unlocked(segment.path));

    (void) check_journal(2, NONE);
}


static void
a_group_can_read_it(void **state)
{
    mode_t       mask;
    unsigned     i;
    struct stat  st;

    (void) state;

    for (i = 0; i < 2; i++) {
        mask = umask(i ? 077 : 0);
        assert_int_equal(append(i, 1), 0);
        (void) umask(mask);

        assert_int_equal(stat(segment.path, &st), 0);
        assert_int_equal(st.st_mode, S_IFREG|0640);

        assert_int_equal(vd_segment_close(&segment, &conf), 0);
    }
}


/* The directory is read in each of the calls as well. */

static void
all_is_on_disk_with_sync(void **state)
{
    (void) state;

    watch();

    assert_int_equal(append(0, 1), 0);
    assert_string_equal(calls.log, "open fchmod flock pwrite fdatasync rename "
                                   "open fsync pwrite fdatasync fstat ");

    watch();

    assert_int_equal(append(1, 5), 0);
    assert_string_equal(calls.log, "pwrite fdatasync fstat ");

    watch();

    assert_int_equal(vd_segment_close(&segment, &conf), 0);
    assert_string_equal(calls.log, "pwrite fdatasync ");

    inject(NULL, 0, 0, 0);
    (void) check_journal(6, NONE);
}


static void
nothing_waits_for_the_disk_without_sync(void **state)
{
    (void) state;

    conf.sync = 0;
    watch();

    assert_int_equal(append(0, 1), 0);
    assert_string_equal(calls.log,
                        "open fchmod flock pwrite rename pwrite fstat ");

    watch();

    assert_int_equal(append(1, 5), 0);
    assert_string_equal(calls.log, "pwrite fstat ");

    watch();

    assert_int_equal(vd_segment_close(&segment, &conf), 0);
    assert_string_equal(calls.log, "pwrite ");

    inject(NULL, 0, 0, 0);
    (void) check_journal(6, NONE);
}


/* What fails in the append that makes a segment, and in a later one. */

static const fault_t  first_faults[] = {
    { "open", 1, 1, EMFILE, 0, NULL },
    { "fchmod", 1, 1, EPERM, 0, NULL },
    { "flock", 1, 1, ENOLCK, 0, NULL },
    { "pwrite", 1, 1, ENOSPC, 0, NULL },
    { "pwrite", 2, 1, ENOSPC, 20, NULL },
    { "fdatasync", 1, 1, EIO, 0, NULL },
    { "rename", 1, 1, EROFS, 0, NULL },
    { "open", 2, 1, EMFILE, 0, NULL },
    { "fsync", 1, 1, EIO, 0, NULL },
    { "pwrite", 2, 1, EIO, 0, NULL },
    { "fdatasync", 2, 1, EIO, 0, NULL },
    { "fstat", 1, 1, EIO, 0, NULL }
};


static const fault_t  later_faults[] = {
    { "pwrite", 1, 1, EIO, 0, NULL },
    { "pwrite", 1, 1, ENOSPC, 0, NULL },
    { "pwrite", 1, 1, EDQUOT, 0, NULL },
    { "pwrite", 2, 1, ENOSPC, 1, NULL },
    { "pwrite", 2, 1, ENOSPC, 7, NULL },
    { "pwrite", 2, 1, EIO, 4, NULL },
    { "fdatasync", 1, 1, EIO, 0, NULL },
    { "fdatasync", 1, 1, ENOSPC, 0, NULL },
    { "fstat", 1, 1, EIO, 0, NULL }
};


/* With so many records before, and the one that is not to be found. */

static void
check_fault(const fault_t *fault, unsigned before)
{
    char       call[32];
    unsigned   open_before;
    journal_t  journal;

    open_before = open_files() - (segment.fd != -1);

    inject(fault->call, fault->from, fault->times, fault->error);
    calls.fault.part = fault->part;

    (void) snprintf(call, sizeof(call), "%s()", fault->call);

    check_failed(append(before, 1), call, fault->error);
    assert_int_equal(calls.seen, fault->from);

    assert_int_equal(open_files(), open_before);

    journal = check_journal(before, NONE);
    assert_int_equal(journal.files, before > 0);

    /* the next one is of no concern to it */

    inject(NULL, 0, 0, 0);

    assert_int_equal(append(before + 1, 1), 0);
    assert_int_equal(append(before + 2, 1), 0);
    assert_int_equal(vd_segment_close(&segment, &conf), 0);

    journal = check_journal(before + 3, before);
    assert_int_equal(journal.files, 1 + (before > 0));
    assert_int_equal(journal.ended, 1);

    assert_int_equal(open_files(), open_before);
}


static void
a_fault_in_the_first_append_leaves_nothing(void **state)
{
    size_t  i;

    (void) tear_down(state);

    for (i = 0; i < countof(first_faults); i++) {
        assert_int_equal(set_up(state), 0);

        check_fault(&first_faults[i], 0);

        (void) tear_down(state);
    }
}


static void
a_fault_later_leaves_what_was_before(void **state)
{
    size_t  i;

    (void) tear_down(state);

    for (i = 0; i < countof(later_faults); i++) {
        assert_int_equal(set_up(state), 0);

        assert_int_equal(append(0, 1), 0);
        assert_int_equal(append(1, 2), 0);

        check_fault(&later_faults[i], 3);

        (void) tear_down(state);
    }
}


/* More than one record in a batch: those before the fault go as well. */

static void
a_batch_is_written_whole_or_not(void **state)
{
    unsigned  part;

    (void) tear_down(state);

    for (part = 0; part < 5 * sizeof("{\"n\":1}\n") - 1; part++) {
        assert_int_equal(set_up(state), 0);

        assert_int_equal(append(0, 1), 0);

        inject("pwrite", 1 + (part > 0), 1, ENOSPC);
        calls.fault.part = part;

        assert_int_equal(append(1, 5), (part >= 40) ? 0 : -1);

        inject(NULL, 0, 0, 0);
        (void) check_journal((part >= 40) ? 6 : 1, NONE);

        (void) tear_down(state);
    }
}


static void
interrupted_writes_go_on(void **state)
{
    journal_t  journal;

    (void) state;

    inject("pwrite", 1, 3, EINTR);
    assert_int_equal(append(0, 1), 0);
    assert_int_equal(calls.seen, 5);

    inject("pwrite", 2, 2, EINTR);
    calls.fault.part = 5;
    assert_int_equal(append(1, 3), 0);
    assert_int_equal(calls.seen, 4);

    journal = check_journal(4, NONE);
    assert_int_equal(journal.files, 1);
}


static void
a_write_of_nothing_is_not_tried_for_ever(void **state)
{
    (void) state;

    assert_int_equal(append(0, 1), 0);

    inject("pwrite", 1, FOREVER, 0);
    check_failed(append(1, 1), "pwrite()", EIO);

    (void) check_journal(1, NONE);
}


/* What could not be synced may be lost, whatever a second sync says. */

static void
nothing_is_synced_again(void **state)
{
    (void) state;

    assert_int_equal(append(0, 1), 0);

    inject("fdatasync", 1, 1, EIO);
    calls.watched = 1;

    check_failed(append(1, 1), "fdatasync()", EIO);
    assert_string_equal(calls.log, "pwrite fdatasync ftruncate ");
}


static void
what_cannot_be_cut_back_is_left_behind(void **state)
{
    journal_t  journal;

    (void) state;

    assert_int_equal(append(0, 1), 0);

    /* a part of a line, to which no other is glued */

    inject("pwrite", 2, 1, EIO);
    calls.fault.part = 5;
    calls.fault.also = "ftruncate";
    check_failed(append(1, 1), "pwrite()", EIO);

    inject(NULL, 0, 0, 0);
    assert_int_equal(append(1, 1), 0);

    read_journal(&journal);
    assert_int_equal(journal.files, 2);
    assert_int_equal(journal.torn, 1);
    assert_int_equal(journal.records[0], 1);
    assert_int_equal(journal.records[1], 1);

    /* a line that may be on disk or not, and is sent again */

    inject("fdatasync", 1, 1, EIO);
    calls.fault.also = "ftruncate";
    check_failed(append(2, 1), "fdatasync()", EIO);

    inject(NULL, 0, 0, 0);
    assert_int_equal(append(2, 1), 0);

    read_journal(&journal);
    assert_int_equal(journal.files, 3);
    assert_int_equal(journal.records[2], 2);
    assert_int_equal(vd_segment_close(&segment, &conf), 0);

    /* a segment without a record */

    inject("fdatasync", 2, 1, EIO);
    calls.fault.also = "unlink";
    check_failed(append(3, 1), "fdatasync()", EIO);

    inject(NULL, 0, 0, 0);

    read_journal(&journal);
    assert_int_equal(journal.files, 4);
    assert_int_equal(journal.records[3], 0);
}


static void
a_full_disk_leaves_no_heap_of_files(void **state)
{
    size_t    i;
    unsigned  n, before;

    (void) state;

    before = open_files();

    for (i = 0; i < countof(first_faults); i++) {

        /* the directory's fsync and open, and the batch, as well */

        inject(first_faults[i].call, first_faults[i].from, FOREVER,
               first_faults[i].error);

        for (n = 0; n < FAILURES; n++) {
            calls.seen = 0;
            assert_int_equal(append(0, 1), -1);
        }

        inject(NULL, 0, 0, 0);

        assert_int_equal(check_journal(0, NONE).files, 0);
        assert_int_equal(open_files(), before);
    }

    assert_int_equal(append(0, 1), 0);
    assert_int_equal(check_journal(1, NONE).files, 1);
}


/* No pretence: the kernel writes a part, and refuses the rest. */

static void
a_file_that_must_not_grow_is_cut_back(void **state)
{
    struct rlimit  limit, small;

    (void) state;

    assert_int_equal(append(0, 1), 0);

    assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
    assert_true(signal(SIGXFSZ, SIG_IGN) != SIG_ERR);

    small = limit;
    small.rlim_cur = segment.size + 12;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);

    check_failed(append(1, 5), "pwrite()", EFBIG);

    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    assert_true(signal(SIGXFSZ, SIG_DFL) != SIG_ERR);

    (void) check_journal(1, NONE);

    assert_int_equal(append(1, 5), 0);
    (void) check_journal(6, NONE);
}


static void
an_end_that_fails_costs_no_record(void **state)
{
    unsigned   before;
    journal_t  journal;

    (void) state;

    before = open_files();

    assert_int_equal(append(0, 1), 0);

    inject("pwrite", 2, 1, ENOSPC);
    calls.fault.part = 15;
    check_failed(vd_segment_close(&segment, &conf), "pwrite()", ENOSPC);

    assert_int_equal(append(1, 1), 0);

    inject("fdatasync", 1, 1, EIO);
    check_failed(vd_segment_close(&segment, &conf), "fdatasync()", EIO);

    /* when it was due as the limit was reached */

    assert_int_equal(append(2, 1), 0);

    conf.limit = 1;
    inject("fdatasync", 2, 1, EIO);
    assert_int_equal(append(3, 1), 0);
    assert_int_equal(calls.seen, 2);
    assert_int_equal(segment.fd, -1);

    inject(NULL, 0, 0, 0);

    journal = check_journal(4, NONE);
    assert_int_equal(journal.files, 3);
    assert_int_equal(journal.ended, 0);
    assert_int_equal(open_files(), before);
}


static void
a_deleted_segment_is_noticed(void **state)
{
    (void) state;

    assert_int_equal(append(0, 1), 0);
    assert_int_equal(unlink(segment.path), 0);

    check_failed(append(1, 1), "stat()", ENOENT);

    assert_int_equal(append(0, 1), 0);
    assert_int_equal(check_journal(1, NONE).files, 1);

    /* with its directory */

    assert_int_equal(unlink(segment.path), 0);
    assert_int_equal(rmdir(dir), 0);

    check_failed(append(1, 1), "stat()", ENOENT);
    check_failed(append(1, 1), "open()", ENOENT);

    assert_int_equal(mkdir(dir, 0700), 0);

    assert_int_equal(append(0, 1), 0);
    (void) check_journal(1, NONE);

    /* a copy in its place */

    assert_int_equal(unlink(segment.path), 0);
    assert_int_equal(close(open(segment.path, O_WRONLY|O_CREAT, 0600)), 0);

    check_failed(append(1, 1), "stat()", ENOENT);
}


static void
a_directory_must_be_writable(void **state)
{
    int       root;
    unsigned  before;

    (void) state;

    before = open_files();
    root = (geteuid() == 0);

    assert_int_equal(chmod(dir, 0500), 0);

    if (root) {
        assert_int_equal(chown(dir, NOBODY, NOBODY), 0);
        assert_int_equal(seteuid(NOBODY), 0);
    }

    check_failed(append(0, 1), "open()", EACCES);
    check_failed(append(0, 1), "open()", EACCES);

    assert_int_equal(chmod(dir, 0700), 0);
    assert_int_equal(append(0, 1), 0);

    if (root) {
        assert_int_equal(seteuid(0), 0);
    }

    (void) check_journal(1, NONE);
    assert_int_equal(open_files(), before + 1);
}


static void
a_name_has_its_limit(void **state)
{
    char    path[PATH_MAX];
    size_t  len;

    (void) state;

    /* as many slashes as there is room for */

    len = strlen(dir);
    memset(path, '/', sizeof(path));
    memcpy(path, dir, len);

    conf.dir = path;
    conf.dir_len = PATH_MAX - 1 - NAME_LEN;

    assert_int_equal(append(0, 1), 0);
    assert_int_equal(vd_segment_close(&segment, &conf), 0);

    conf.dir_len++;
    check_failed(append(1, 1), "open()", ENAMETOOLONG);

    conf.dir_len = PATH_MAX;
    check_failed(append(1, 1), "open()", ENAMETOOLONG);

    assert_int_equal(check_journal(1, NONE).files, 1);
}


#define test(name)  cmocka_unit_test_setup_teardown(name, set_up, tear_down)


int
main(void)
{
    const struct CMUnitTest  tests[] = {
        test(records_are_found_again),
        test(a_segment_ends_at_its_limit),
        test(its_writer_holds_a_lock),
        test(a_group_can_read_it),
        test(all_is_on_disk_with_sync),
        test(nothing_waits_for_the_disk_without_sync),
        test(a_fault_in_the_first_append_leaves_nothing),
        test(a_fault_later_leaves_what_was_before),
        test(a_batch_is_written_whole_or_not),
        test(interrupted_writes_go_on),
        test(a_write_of_nothing_is_not_tried_for_ever),
        test(nothing_is_synced_again),
        test(what_cannot_be_cut_back_is_left_behind),
        test(a_full_disk_leaves_no_heap_of_files),
        test(a_file_that_must_not_grow_is_cut_back),
        test(an_end_that_fails_costs_no_record),
        test(a_deleted_segment_is_noticed),
        test(a_directory_must_be_writable),
        test(a_name_has_its_limit)
    };

    return cmocka_run_group_tests_name("vd_segment", tests, NULL, NULL);
}
