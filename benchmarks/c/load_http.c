/* HTTP/1.1 requests on connections that stay, one at a time on each. A reply is right if its status is 200 and its body is
 * what every server of this benchmark answers; its header is the server's own. */
#include "load.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char request[] = "GET / HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n";
static const char body[] = "Hello, world!";

struct client {
    int fd, alive, waiting;
    size_t got;
    uint64_t sent_at;
    char reply[4096];
};

static void ask(struct client *c) {
    c->got = 0, c->waiting = 1, c->sent_at = now();
    /* A request always finds room: nothing else is in the socket's buffer. */
    if (send(c->fd, request, sizeof request - 1, MSG_NOSIGNAL) != sizeof request - 1) fail("send");
}

/* 1: complete and right. 0: incomplete. -1: wrong. */
static int check(struct client *c) {
    c->reply[c->got] = 0;
    char *end = strstr(c->reply, "\r\n\r\n");
    if (!end) return c->got == sizeof c->reply - 1 ? -1 : 0;
    char *length = strcasestr(c->reply, "\r\ncontent-length:");
    if (strncmp(c->reply, "HTTP/1.1 200 ", 13) || !length || length > end) return -1;
    size_t got = c->got - (end + 4 - c->reply), due = strtoul(length + 17, NULL, 10);
    if (due != sizeof body - 1 || got > due || memcmp(end + 4, body, got)) return -1;
    return got == due;
}

static void step(struct client *c) {
    ssize_t n = recv(c->fd, c->reply + c->got, sizeof c->reply - 1 - c->got, 0);
    if (n < 0 && errno == EAGAIN) return;
    int state = -1;
    if (n > 0) {
        c->got += n;
        state = check(c);
    }
    if (state > 0) {
        c->waiting = 0;
        if (phase == OPEN) {
            counts.messages++;
            counts.bytes += c->got;
            histogram_add(&latencies, now() - c->sent_at);
        }
        if (phase != CLOSED) ask(c);
    } else if (state < 0) {
        if (n > 0) counts.mismatched++;
        else counts.broken++;
        c->alive = 0;
        close(c->fd);
    }
}

void run_http(void) {
    int epoll = epoll_create1(EPOLL_CLOEXEC), left = 1;
    struct client *clients = calloc(options.connections, sizeof *clients);
    if (!clients) fail("calloc");
    for (int i = 0; i < options.connections; i++) {
        clients[i].fd = open_socket(SOCK_STREAM);
        clients[i].alive = 1;
        make_nonblocking(clients[i].fd);
        watch(epoll, clients[i].fd, EPOLL_CTL_ADD, EPOLLIN, &clients[i]);
    }
    window_plan(now());
    for (int i = 0; i < options.connections; i++) ask(&clients[i]);
    while (left && (phase != CLOSED || now() < window_closes + DRAIN_LIMIT)) {
        struct epoll_event events[256];
        int n = wait_for(epoll, events, 256, now() + SECOND / 50);
        for (int i = 0; i < n; i++) step(events[i].data.ptr);
        window_tick(now());
        left = phase != CLOSED;
        for (int i = 0; phase == CLOSED && i < options.connections; i++) left += clients[i].alive && clients[i].waiting;
    }
    counts.lost = left;
}
