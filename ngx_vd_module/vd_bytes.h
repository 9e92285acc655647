
/*
 * Copyright (C) The ngx_vd_module authors
 *
 * The bytes of a JSON string, eight at a time.  Results about single bytes are
 * masks: the high bit of each byte that it is so for.
 */


#ifndef VD_BYTES_H_INCLUDED_
#define VD_BYTES_H_INCLUDED_


#include <endian.h>
#include <stdint.h>
#include <string.h>


/* Eight times the same byte. */

#define vd_bytes_all(ch)  ((uint64_t) (ch) * 0x0101010101010101)

#define VD_BYTES_HIGH     vd_bytes_all(0x80)


/* The first byte is the lowest. */

static inline uint64_t
vd_bytes_load(const unsigned char *p)
{
    uint64_t  bytes;

    memcpy(&bytes, p, sizeof(bytes));

    return le64toh(bytes);
}


static inline void
vd_bytes_store(unsigned char *p, uint64_t bytes)
{
    bytes = htole64(bytes);

    memcpy(p, &bytes, sizeof(bytes));
}


/* Those that are not ASCII. */

static inline uint64_t
vd_bytes_wide(uint64_t bytes)
{
    return bytes & VD_BYTES_HIGH;
}


/* Those below 0x20.  No sum, here and below, is carried to the next byte. */

static inline uint64_t
vd_bytes_control(uint64_t bytes)
{
    uint64_t  low;

    low = bytes & ~VD_BYTES_HIGH;

    return ~((low + vd_bytes_all(0x80 - 0x20)) | bytes) & VD_BYTES_HIGH;
}


/* Those that a JSON string cannot hold as they are: controls, '"' and '\'. */

static inline uint64_t
vd_bytes_escaped(uint64_t bytes)
{
    uint64_t  low, plain;

    low = bytes & ~VD_BYTES_HIGH;

    plain = (low + vd_bytes_all(0x80 - 0x20))
            & ((low ^ vd_bytes_all('"')) + vd_bytes_all(0x7f))
            & ((low ^ vd_bytes_all('\\')) + vd_bytes_all(0x7f));

    return ~(plain | bytes) & VD_BYTES_HIGH;
}


/* How many bytes are in a mask. */

static inline unsigned
vd_bytes_count(uint64_t mask)
{
    return (unsigned) ((mask >> 7) * vd_bytes_all(1) >> 56);
}


/* How many bytes come before the first in a mask; not for an empty one. */

static inline unsigned
vd_bytes_before(uint64_t mask)
{
    return (unsigned) __builtin_ctzll(mask) / 8;
}


#endif /* VD_BYTES_H_INCLUDED_ */
