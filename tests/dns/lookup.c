/* Looks every argument up as most programs do: both families at once. One line for each. */
#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
#include <sys/socket.h>

int main(int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM}, *all = 0, *one;
        int error = getaddrinfo(argv[i], 0, &hints, &all);
        printf("%s:", argv[i]);
        if (error) printf(" error %s", error == EAI_NONAME ? "EAI_NONAME" : gai_strerror(error));
        for (one = all; !error && one; one = one->ai_next) {
            char text[NI_MAXHOST] = "?";
            getnameinfo(one->ai_addr, one->ai_addrlen, text, sizeof text, 0, 0, NI_NUMERICHOST);
            printf(" %s", text);
        }
        printf("\n");
        if (!error) freeaddrinfo(all);
    }
    return 0;
}
