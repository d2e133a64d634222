/* Connections that were used once, and then do nothing. */
#include "load.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void run_idle(void) {
    int *fds = calloc(options.connections, sizeof *fds);
    if (!fds) fail("calloc");
    for (int i = 0; i < options.connections; i++) {
        fds[i] = open_socket(SOCK_STREAM);
        const char *sent = pattern + i % PATTERN_PERIOD;
        if (send(fds[i], sent, options.size, MSG_NOSIGNAL) != (ssize_t)options.size) fail("send");
        if (recv(fds[i], read_buffer, options.size, MSG_WAITALL) != (ssize_t)options.size) fail("recv");
        if (memcmp(read_buffer, sent, options.size)) {
            errno = EBADMSG;
            fail("reply");
        }
    }
    puts("ready");
    fflush(stdout);
    while (read(STDIN_FILENO, read_buffer, READ_SIZE) > 0) {}
}
