/* The same by c-ares: all arguments at once, both families of each, and one line for each. */
#include <ares.h>
#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
#include <sys/select.h>

static void told(void *name, int status, int timeouts, struct ares_addrinfo *all) {
    (void)timeouts;
    printf("%s:", (char *)name);
    if (status != ARES_SUCCESS) printf(" error %s", ares_strerror(status));
    for (struct ares_addrinfo_node *one = all ? all->nodes : 0; one; one = one->ai_next) {
        char text[NI_MAXHOST] = "?";
        getnameinfo(one->ai_addr, one->ai_addrlen, text, sizeof text, 0, 0, NI_NUMERICHOST);
        printf(" %s", text);
    }
    printf("\n");
    if (all) ares_freeaddrinfo(all);
}

int main(int argc, char **argv) {
    ares_channel channel;
    struct ares_addrinfo_hints hints = {.ai_family = AF_UNSPEC, .ai_flags = ARES_AI_NOSORT};
    if (ares_library_init(ARES_LIB_INIT_ALL) || ares_init(&channel)) return 1;
    for (int i = 1; i < argc; i++) ares_getaddrinfo(channel, argv[i], 0, &hints, told, argv[i]);
    for (;;) {
        fd_set readers, writers;
        struct timeval time;
        FD_ZERO(&readers);
        FD_ZERO(&writers);
        int count = ares_fds(channel, &readers, &writers);
        if (!count) break;
        select(count, &readers, &writers, 0, ares_timeout(channel, 0, &time));
        ares_process(channel, &readers, &writers);
    }
    ares_destroy(channel);
    return 0;
}
