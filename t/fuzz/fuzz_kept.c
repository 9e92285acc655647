
/*
 * Copyright (C) The ngx_vd_module authors
 *
 * Texts that come as VD-Kept: what is not refused is what its values are
 * written as, to the character; and any bytes as values, which come back.
 */


#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "vd_kept.h"


#define FRAME  5


int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);


static void
require(int condition)
{
    if (!condition) {
        abort();
    }
}


/* In memory of their sizes, so that reading and writing past them is seen. */

static unsigned char *
write_text(const vd_kept_t *values, size_t n, size_t *len)
{
    unsigned char  *text;

    *len = vd_kept_size(values, n);

    text = malloc(*len);
    require(text != NULL);

    vd_kept_write(values, n, text);

    return text;
}


static unsigned char *
read_text(const unsigned char *text, size_t text_len, size_t *len)
{
    unsigned char  *data;

    data = malloc(VD_KEPT_BYTES);
    require(data != NULL);

    *len = vd_kept_read(text, text_len, data);

    return data;
}


static size_t
length_at(const unsigned char *p)
{
    return (size_t) p[0] << 8 | p[1];
}


/* All values, by a second reader; each is found unless one before hides it. */

static size_t
list(const unsigned char *data, size_t len, vd_kept_t *values)
{
    size_t                n;
    vd_kept_t             found;
    const unsigned char  *p, *end;

    n = 0;
    end = data + len;

    for (p = data + 1; p < end; p = values[n].value + values[n].value_len, n++)
    {
        values[n].kind = (vd_kept_kind_e) p[0];
        values[n].name = p + FRAME;
        values[n].name_len = length_at(p + 1);
        values[n].value = values[n].name + values[n].name_len;
        values[n].value_len = length_at(p + 3);

        require(vd_kept_find(data, len, values[n].kind, values[n].name,
                             values[n].name_len, &found));
        require(found.value <= values[n].value);
        require(found.value + found.value_len <= end);
    }

    require(p == end);

    return n;
}


static void
fuzz_text(const uint8_t *text, size_t size)
{
    size_t          n, len, again_len;
    vd_kept_t      *values, found;
    unsigned char  *data, *again;

    data = read_text(text, size, &len);

    if (len > 0) {
        require(size <= VD_KEPT_MAX);

        values = malloc(VD_KEPT_BYTES / FRAME * sizeof(vd_kept_t));
        require(values != NULL);

        n = list(data, len, values);

        again = write_text(values, n, &again_len);
        require(again_len == size && memcmp(again, text, size) == 0);

        (void) vd_kept_find(data, len, VD_KEPT_HEADER,
                            (const unsigned char *) "x-a", 3, &found);

        free(again);
        free(values);
    }

    free(data);
}


static void
fuzz_values(const uint8_t *bytes, size_t size)
{
    size_t          name_len, text_len, len;
    vd_kept_t       value, found;
    unsigned char  *text, *data;

    if (size == 0) {
        return;
    }

    name_len = bytes[0] % size;

    value.kind = (name_len > 0) ? VD_KEPT_HEADER : VD_KEPT_CASE;
    value.name = bytes + 1;
    value.name_len = name_len;
    value.value = bytes + 1 + name_len;
    value.value_len = size - 1 - name_len;

    text = write_text(&value, 1, &text_len);
    data = read_text(text, text_len, &len);

    require((len > 0) == (text_len <= VD_KEPT_MAX));

    if (len > 0) {
        require(vd_kept_find(data, len, value.kind, value.name, value.name_len,
                             &found));
        require(found.value_len == value.value_len);
        require(memcmp(found.value, value.value, value.value_len) == 0);
    }

    free(data);
    free(text);
}


int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_text(data, size);
    fuzz_values(data, size);

    return 0;
}
