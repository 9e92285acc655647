
/*
 * Copyright (C) The ngx_vd_module authors
 *
 * Linked into the nginx that is built with sanitizers.  A process that ends
 * on SIGQUIT frees what it has, and what is left then is a leak.  One that
 * ends otherwise (nginx -t, an invalid configuration, SIGTERM) leaves it to
 * the system.
 */


#include <signal.h>
#include <stddef.h>


/* weak, as the programs that configure tries are linked with this too */

extern sig_atomic_t  ngx_quit __attribute__((weak));


int __lsan_is_turned_off(void);
const char *__lsan_default_suppressions(void);


int
__lsan_is_turned_off(void)
{
    return &ngx_quit == NULL || !ngx_quit;
}


/*
 * What nginx leaves: the connections and events of a process, what its regex
 * code gave PCRE2 for the pool of a cycle, what "random" keeps of servers in a
 * zone, and the TLS sessions that it keeps to resume with upstream peers.
 */

const char *
__lsan_default_suppressions(void)
{
    return "leak:ngx_event_process_init\n"
           "leak:ngx_http_upstream_update_random\n"
           "leak:ngx_regex_compile\n"
           "leak:ngx_regex_malloc\n"
           "leak:SSL_SESSION_new\n";
}
